//! Durations, sizes, percentages and rates: from text and back. Pure.

use std::time::Duration;

use super::{
    codes::Code,
    fault::{Problem, shown},
};

/// The longest duration that is taken anywhere: 24 h.
pub const LONGEST: Duration = Duration::from_hours(24);

const DURATION_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
const SIZE_UNITS: [(&str, u64); 7] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1000),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];
const RATE_UNITS: [(&str, u64); 3] = [("s", 1), ("m", 60), ("h", 3600)];

/// So many of something in so much time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many; at least 1.
    pub count: u64,
    /// In which time: a second, a minute or an hour.
    pub per: Duration,
}

impl Rate {
    /// How many in a second.
    pub fn per_second(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "rates have nine digits at most")]
        let count = self.count as f64;
        count / self.per.as_secs_f64()
    }
}

/// A duration: a whole number and `ms`, `s`, `m` or `h`; `0` needs no unit. At most [`LONGEST`].
pub fn duration(text: &str) -> Result<Duration, Problem> {
    let (number, unit) = split(text, "a duration", "250ms, 2s, 1m or 1h")?;
    if number == 0 && unit.is_empty() {
        return Ok(Duration::ZERO);
    }
    let scale = scale(unit, &DURATION_UNITS, "a duration", text, "s")?;
    let found = number.checked_mul(scale).map(Duration::from_millis).filter(|found| *found <= LONGEST);
    found.ok_or_else(|| Problem::new(Code::OutOfBounds, format!("`{}` is longer than 24h", shown(text))))
}

/// A duration as it would be written, in the largest unit that holds it exactly.
pub fn show_duration(value: Duration) -> String {
    let ms = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    let largest = DURATION_UNITS.iter().rev().find(|(_, scale)| ms.is_multiple_of(*scale));
    match largest {
        _ if ms == 0 => "0".to_owned(),
        Some((unit, scale)) => format!("{}{unit}", ms / scale),
        None => format!("{ms}ms"),
    }
}

/// A size in bytes: a whole number, alone or with `KiB`, `MiB`, `GiB`, `kB`, `MB` or `GB`.
pub fn size(text: &str) -> Result<u64, Problem> {
    let (number, unit) = split(text, "a size", "65536, 64KiB or 1MB")?;
    if unit.is_empty() {
        return Ok(number);
    }
    let scale = scale(unit, &SIZE_UNITS, "a size", text, "KiB")?;
    number
        .checked_mul(scale)
        .ok_or_else(|| Problem::new(Code::OutOfBounds, format!("`{}` is too large", shown(text))))
}

/// A size as it would be written.
pub fn show_size(value: u64) -> String {
    let largest = SIZE_UNITS.iter().take(3).rev().find(|(_, scale)| value.is_multiple_of(*scale));
    match largest {
        Some((unit, scale)) if value > 0 => format!("{}{unit}", value / scale),
        _ => value.to_string(),
    }
}

/// A percentage from `0%` to `100%` with at most two decimals, in basis points (1 % = 100).
pub fn percent(text: &str) -> Result<u16, Problem> {
    let wrong = || {
        Problem::new(Code::BadValue, format!("`{}` is not a percentage", shown(text)))
            .help("write for instance `20%` or `0.5%`")
    };
    let Some(number) = text.strip_suffix('%') else {
        return Err(Problem::new(
            Code::BadUnit,
            format!("`{}` is a percentage without its `%`", shown(text)),
        )
        .help("write for instance `20%`"));
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str, most: usize| {
        !part.is_empty() && part.len() <= most && part.bytes().all(|b| b.is_ascii_digit())
    };
    if !digits(whole, 9) || !digits(fraction, 2) {
        return Err(wrong());
    }
    let whole: u32 = whole.parse().map_err(|_| wrong())?;
    let hundredths: u32 = format!("{fraction:0<2}").parse().map_err(|_| wrong())?;
    let points = whole.saturating_mul(100).saturating_add(hundredths);
    u16::try_from(points)
        .ok()
        .filter(|points| *points <= 10_000)
        .ok_or_else(|| Problem::new(Code::OutOfBounds, format!("`{}` is more than 100%", shown(text))))
}

/// A percentage as it would be written.
pub fn show_percent(points: u16) -> String {
    match (points / 100, points % 100) {
        (whole, 0) => format!("{whole}%"),
        (whole, part) if part % 10 == 0 => format!("{whole}.{}%", part / 10),
        (whole, part) => format!("{whole}.{part:02}%"),
    }
}

/// A rate: a whole number of at least 1, a slash, and `s`, `m` or `h`.
pub fn rate(text: &str) -> Result<Rate, Problem> {
    let wrong = |code| {
        Problem::new(code, format!("`{}` is not a rate", shown(text)))
            .help("write for instance `500/s`, `30/m` or `10/h`")
    };
    let (number, unit) = text.split_once('/').ok_or_else(|| wrong(Code::BadUnit))?;
    let seconds = RATE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| wrong(Code::BadUnit))?.1;
    let plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let count = number.parse::<u64>().ok().filter(|_| plain).ok_or_else(|| wrong(Code::BadValue))?;
    if count == 0 {
        return Err(Problem::new(Code::OutOfBounds, "a rate is at least 1")
            .help("to refuse everything, use a switch"));
    }
    Ok(Rate { count, per: Duration::from_secs(seconds) })
}

/// A rate as it would be written.
pub fn show_rate(rate: Rate) -> String {
    let unit =
        RATE_UNITS.iter().find(|(_, seconds)| *seconds == rate.per.as_secs()).map_or("s", |(unit, _)| unit);
    format!("{}/{unit}", rate.count)
}

/// The number and the unit behind it.
fn split<'t>(text: &'t str, what: &str, examples: &str) -> Result<(u64, &'t str), Problem> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).unwrap_or((text, ""));
    let wrong = |code| {
        Problem::new(code, format!("`{}` is not {what}", shown(text)))
            .help(format!("write for instance {examples}"))
    };
    if unit.starts_with('.') {
        return Err(wrong(Code::BadValue).help(format!("use whole numbers, for instance {examples}")));
    }
    if number.is_empty() {
        return Err(wrong(Code::BadValue));
    }
    let number = number.parse().map_err(|_| wrong(Code::OutOfBounds))?;
    Ok((number, unit))
}

fn scale(unit: &str, units: &[(&str, u64)], what: &str, text: &str, example: &str) -> Result<u64, Problem> {
    if let Some((_, scale)) = units.iter().find(|(name, _)| *name == unit) {
        return Ok(*scale);
    }
    let known = super::fault::listed(units.iter().map(|(name, _)| *name));
    let number = text.strip_suffix(unit).unwrap_or_default();
    let message = if unit.is_empty() {
        format!("{what} needs a unit: `{}` of what?", shown(text))
    } else {
        format!("`{}` is not a unit of {what}", shown(unit))
    };
    let help = format!("the units are {known}: for instance `{}{example}`", number.trim_end());
    Err(Problem::new(Code::BadUnit, message).help(help))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_sizes_percentages_rates() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1h"), Ok(Duration::from_hours(1)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(size("64KiB"), Ok(65536));
        assert_eq!(size("1MB"), Ok(1_000_000));
        assert_eq!(size("17"), Ok(17));
        assert_eq!(percent("0.5%"), Ok(50));
        assert_eq!(percent("12.34%"), Ok(1234));
        assert_eq!(percent("100%"), Ok(10_000));
        assert_eq!(rate("30/m"), Ok(Rate { count: 30, per: Duration::from_mins(1) }));
    }

    #[test]
    fn what_they_are_not() {
        for (text, code) in [
            ("5", Code::BadUnit),
            ("5 s", Code::BadUnit),
            ("5sec", Code::BadUnit),
            ("1.5s", Code::BadValue),
            ("-5s", Code::BadValue),
            ("", Code::BadValue),
            ("25h", Code::OutOfBounds),
            ("99999999999999999999s", Code::OutOfBounds),
        ] {
            assert_eq!(duration(text).unwrap_err().code, code, "{text}");
        }
        assert_eq!(size("1TB").unwrap_err().code, Code::BadUnit);
        assert_eq!(size("99999999999GB").unwrap_err().code, Code::OutOfBounds);
        for (text, code) in [
            ("20", Code::BadUnit),
            ("101%", Code::OutOfBounds),
            ("0.001%", Code::BadValue),
            ("+1%", Code::BadValue),
        ] {
            assert_eq!(percent(text).unwrap_err().code, code, "{text}");
        }
        for (text, code) in [
            ("5", Code::BadUnit),
            ("5/d", Code::BadUnit),
            ("0/s", Code::OutOfBounds),
            ("+5/s", Code::BadValue),
        ] {
            assert_eq!(rate(text).unwrap_err().code, code, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(ms in 0..=86_400_000u64, bytes: u64, points in 0..=10_000u16, count in 1u64.., unit in 0..3usize) {
            let value = Duration::from_millis(ms);
            prop_assert_eq!(duration(&show_duration(value)), Ok(value));
            prop_assert_eq!(size(&show_size(bytes)), Ok(bytes));
            prop_assert_eq!(percent(&show_percent(points)), Ok(points));
            let value = Rate { count, per: Duration::from_secs(RATE_UNITS[unit].1) };
            prop_assert_eq!(rate(&show_rate(value)), Ok(value));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = (duration(&text), size(&text), percent(&text), rate(&text));
        }
    }
}
