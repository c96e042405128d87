//! Scalars with bounds: shares, durations, windows.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::{Shown, Takes, Text, short::Scalar};
use crate::config::{
    codes::Code,
    fault::{Problem, shown},
    policy::{BreakerWindow, Percent},
    units,
};

/// What the schema says of a percentage.
const PERCENT: &str = r"^(100(\.0{1,2})?|[0-9]{1,2}(\.[0-9]{1,2})?)%$";

/// A share of at least `MIN` basis points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share<const MIN: u16>(pub(crate) Percent);

impl<const MIN: u16> Text for Share<MIN> {
    const WHAT: &'static str = "a percentage such as `20%`";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Integer;

    fn parse(text: &str) -> Result<Self, Problem> {
        let points = units::percent(text)?;
        if points < MIN {
            let help = format!("it takes {} to 100%", units::show_percent(MIN));
            return Err(
                Problem::new(Code::OutOfBounds, format!("`{}` is out of bounds", shown(text))).help(help)
            );
        }
        Ok(Self(Percent::new(points)))
    }

    fn describe() -> Json {
        let description = format!("A percentage, {} to 100%.", units::show_percent(MIN));
        json!({ "description": description, "type": "string", "pattern": PERCENT })
    }
}

impl<const MIN: u16> Shown for Share<MIN> {
    fn show(&self) -> Json {
        units::show_percent(self.0.points()).into()
    }
}

/// A share that something may reach; `off` and 0 % = it does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShareOrOff(pub(crate) Option<Percent>);

impl Text for ShareOrOff {
    const WHAT: &'static str = "a percentage such as `50%`, or `off`";
    const DEF: &'static str = "percentage-or-off";
    const TAKES: Takes = Takes::Any;

    fn parse(text: &str) -> Result<Self, Problem> {
        if Scalar::of(text) == "off" {
            return Ok(Self(None));
        }
        let points = units::percent(text).map_err(|problem| match problem.code {
            Code::OutOfBounds => problem,
            _ => problem.help("write for instance `50%`, or `off`"),
        })?;
        Ok(Self((points > 0).then_some(Percent::new(points))))
    }

    fn describe() -> Json {
        json!({
            "description": "A percentage; off or 0% = it does not count.",
            "anyOf": [{ "type": "string", "pattern": PERCENT }, { "enum": ["off", false] }],
        })
    }
}

impl Shown for ShareOrOff {
    fn show(&self) -> Json {
        self.0.map_or_else(|| "off".into(), |share| units::show_percent(share.points()).into())
    }
}

/// A duration of `MIN` to `MAX` milliseconds. Where `MIN` is 0, `off` is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Within<const MIN: u64, const MAX: u64>(pub(crate) Duration);

impl<const MIN: u64, const MAX: u64> Within<MIN, MAX> {
    /// So many milliseconds.
    pub(crate) const fn millis(n: u64) -> Self {
        Self(Duration::from_millis(n))
    }

    /// So many seconds.
    pub(crate) const fn secs(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }

    fn bounds() -> String {
        let [min, max] = [MIN, MAX].map(|ms| units::show_duration(Duration::from_millis(ms)));
        format!("{min} to {max}")
    }
}

impl<const MIN: u64, const MAX: u64> Text for Within<MIN, MAX> {
    const WHAT: &'static str = "a duration such as `250ms`, `2s`, `1m` or `1h`";
    const DEF: &'static str = "";
    const TAKES: Takes = if MIN == 0 { Takes::Any } else { Takes::Integer };

    fn parse(text: &str) -> Result<Self, Problem> {
        if MIN == 0 && Scalar::of(text) == "off" {
            return Ok(Self(Duration::ZERO));
        }
        let found = units::duration(text)?;
        if (Duration::from_millis(MIN)..=Duration::from_millis(MAX)).contains(&found) {
            return Ok(Self(found));
        }
        let message = format!("`{}` is out of bounds", shown(text));
        Err(Problem::new(Code::OutOfBounds, message).help(format!("it takes {}", Self::bounds())))
    }

    fn describe() -> Json {
        let bounds = Self::bounds();
        if MIN == 0 {
            return json!({
                "description": format!("A duration, {bounds}: a whole number and ms, s, m or h; 0 or off = none."),
                "anyOf": [{ "type": "string", "pattern": "^([0-9]+(ms|s|m|h)|0+)$" }, { "enum": [0, "off", false] }],
            });
        }
        json!({
            "description": format!("A duration, {bounds}: a whole number and ms, s, m or h."),
            "type": "string",
            "pattern": "^0*[1-9][0-9]*(ms|s|m|h)$",
        })
    }
}

impl<const MIN: u64, const MAX: u64> Shown for Within<MIN, MAX> {
    fn show(&self) -> Json {
        if self.0.is_zero() { 0.into() } else { units::show_duration(self.0).into() }
    }
}

/// The window's bounds: a time of 1 s to 10 m, or 10 to 100,000 calls.
impl Text for BreakerWindow {
    const WHAT: &'static str = "a window: a duration such as `10s`, or a number of calls such as `100`";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Integer;

    fn parse(text: &str) -> Result<Self, Problem> {
        const HELP: &str = "it takes a duration, 1s to 10m, or a number of calls, 10 to 100000";
        let out =
            || Problem::new(Code::OutOfBounds, format!("`{}` is out of bounds", shown(text))).help(HELP);
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            let calls = text.parse().ok().filter(|calls| (10..=100_000).contains(calls));
            return calls.map(Self::Calls).ok_or_else(out);
        }
        let time = units::duration(text).map_err(|problem| match problem.code {
            Code::OutOfBounds => out(),
            _ => problem.help(HELP),
        })?;
        let fits = (Duration::from_secs(1)..=Duration::from_mins(10)).contains(&time);
        if fits { Ok(Self::Time(time)) } else { Err(out()) }
    }

    fn describe() -> Json {
        json!({
            "description": "A duration, 1s to 10m, or a number of calls, 10 to 100000.",
            "anyOf": [
                { "type": "integer", "minimum": 10, "maximum": 100_000 },
                { "type": "string", "pattern": "^0*[1-9][0-9]*(ms|s|m)?$" },
            ],
        })
    }
}

impl Shown for BreakerWindow {
    fn show(&self) -> Json {
        match self {
            Self::Time(time) => units::show_duration(*time).into(),
            Self::Calls(calls) => (*calls).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        assert_eq!(Share::<100>::parse("1%"), Ok(Share(Percent::whole(1))));
        assert_eq!(Share::<0>::parse("0%"), Ok(Share(Percent::whole(0))));
        assert_eq!(Share::<100>::parse("0.99%").unwrap_err().code, Code::OutOfBounds);
        assert_eq!(Share::<0>::parse("50").unwrap_err().code, Code::BadUnit);
        for text in ["off", "false", "0%", "0.00%"] {
            assert_eq!(ShareOrOff::parse(text), Ok(ShareOrOff(None)), "{text}");
        }
        assert_eq!(ShareOrOff::parse("0.01%"), Ok(ShareOrOff(Some(Percent::new(1)))));
        assert_eq!(ShareOrOff::parse("100.01%").unwrap_err().code, Code::OutOfBounds);
        assert_eq!(ShareOrOff::parse("on").unwrap_err().code, Code::BadUnit);
    }

    #[test]
    fn durations_within_bounds() {
        type Open = Within<100, 3_600_000>;
        assert_eq!(Open::parse("100ms"), Ok(Open::millis(100)));
        assert_eq!(Open::parse("1h"), Ok(Open::secs(3600)));
        for text in ["99ms", "0", "3601s", "25h"] {
            assert_eq!(Open::parse(text).unwrap_err().code, Code::OutOfBounds, "{text}");
        }
        assert_eq!(Open::parse("off").unwrap_err().code, Code::BadValue);
        for text in ["0", "off", "false", "0s"] {
            assert_eq!(Within::<0, 1000>::parse(text), Ok(Within(Duration::ZERO)), "{text}");
        }
        assert_eq!(Within::<0, 1000>::parse("1001ms").unwrap_err().code, Code::OutOfBounds);
    }

    #[test]
    fn windows() {
        assert_eq!(BreakerWindow::parse("1s"), Ok(BreakerWindow::Time(Duration::from_secs(1))));
        assert_eq!(BreakerWindow::parse("10m"), Ok(BreakerWindow::Time(Duration::from_mins(10))));
        assert_eq!(BreakerWindow::parse("10"), Ok(BreakerWindow::Calls(10)));
        assert_eq!(BreakerWindow::parse("100000"), Ok(BreakerWindow::Calls(100_000)));
        for text in ["9", "100001", "99999999999999999999", "999ms", "601s", "25h", "0"] {
            assert_eq!(BreakerWindow::parse(text).unwrap_err().code, Code::OutOfBounds, "{text}");
        }
        assert_eq!(BreakerWindow::parse("10sec").unwrap_err().code, Code::BadUnit);
    }
}
