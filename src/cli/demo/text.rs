//! Words for figures, and lines with a little colour.

use std::time::Duration;

/// What a piece of text wants to say; its colour follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it is.
    Plain,
    /// A heading.
    Strong,
    /// Less important.
    Dim,
    /// A value to look at.
    Calm,
    /// All is well.
    Good,
    /// Worth a look.
    Warn,
    /// Something is wrong.
    Bad,
}

impl Tone {
    /// SGR parameters (ECMA-48 §8.3.117); the sixteen basic colours, so that the terminal's theme decides.
    const fn sgr(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Strong => Some("1"),
            Self::Dim => Some("2"),
            Self::Calm => Some("36"),
            Self::Good => Some("32"),
            Self::Warn => Some("33"),
            Self::Bad => Some("31"),
        }
    }
}

/// One line of the screen.
#[derive(Debug, Clone, Default)]
pub(super) struct Line {
    parts: Vec<(Tone, String)>,
}

impl Line {
    /// Adds a piece.
    #[must_use]
    pub(super) fn then(mut self, tone: Tone, text: impl Into<String>) -> Self {
        self.parts.push((tone, text.into()));
        self
    }

    /// Adds another line's pieces.
    pub(super) fn extend(&mut self, other: Self) {
        self.parts.extend(other.parts);
    }

    /// Its width in characters; everything shown here is one column wide.
    pub(super) fn width(&self) -> usize {
        self.parts.iter().map(|(_, text)| text.chars().count()).sum()
    }

    /// Cuts it to a width, with `…` for what is gone.
    pub(super) fn cut(&mut self, columns: usize) {
        if self.width() <= columns {
            return;
        }
        let mut left = columns.saturating_sub(1);
        for (_, text) in &mut self.parts {
            *text = text.chars().take(left).collect();
            left -= text.chars().count();
        }
        if columns > 0 {
            self.parts.push((Tone::Dim, "…".to_owned()));
        }
    }

    /// As text, with escape sequences for colours when they are wanted.
    pub(super) fn render(&self, colour: bool) -> String {
        let mut line = String::new();
        for (tone, text) in &self.parts {
            match tone.sgr().filter(|_| colour && !text.is_empty()) {
                Some(sgr) => line.extend(["\x1b[", sgr, "m", text, "\x1b[0m"]),
                None => line.push_str(text),
            }
        }
        line
    }
}

/// A duration for people: `0.12 ms`, `4.2 ms`, `81 ms`, `1.20 s`.
pub(super) fn ms(seconds: Option<f64>) -> String {
    match seconds.map(|seconds| seconds * 1000.0) {
        None => "–".to_owned(),
        Some(ms) if ms < 0.995 => format!("{ms:.2} ms"),
        Some(ms) if ms < 9.95 => format!("{ms:.1} ms"),
        Some(ms) if ms < 999.5 => format!("{ms:.0} ms"),
        Some(ms) => format!("{:.2} s", ms / 1000.0),
    }
}

/// A time since the start: `12s`, `3m 05s`, `2h 03m`.
pub(super) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// A rate: whole numbers from ten, one digit below.
pub(super) fn per_second(rate: f64) -> String {
    if rate > 0.0 && rate < 9.95 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

/// A share (0–1) in percent.
pub(super) fn percent(share: f64, digits: usize) -> String {
    format!("{:.digits$} %", share * 100.0)
}

/// A size in MiB.
pub(super) fn bytes(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / (1024.0 * 1024.0))
}

/// A share (0–1) as a bar of a fixed width, in eighths of a character.
pub(super) fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = scaled(share, width * 8);
    let bar = "█".repeat(eighths / 8) + EIGHTHS.get(eighths % 8).copied().unwrap_or("");
    format!("{bar:<width$}")
}

/// The newest values as a line of small columns, the largest (or `top`) at full height.
pub(super) fn sparkline(values: &[f64], width: usize, top: Option<f64>) -> String {
    const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let newest = values.get(values.len().saturating_sub(width)..).unwrap_or(values);
    let top = top.unwrap_or_else(|| newest.iter().copied().fold(0.0, f64::max));
    newest
        .iter()
        .map(|value| match value / top {
            share if share > 0.0 => HEIGHTS.get(scaled(share, 7).max(1)).copied().unwrap_or('█'),
            _ => HEIGHTS.first().copied().unwrap_or(' '),
        })
        .collect()
}

/// A share (0–1) of `full`, rounded.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the share is clamped to 0–1, and nothing on a screen is wider than 2^52"
)]
fn scaled(share: f64, full: usize) -> usize {
    (share.clamp(0.0, 1.0) * full as f64).round() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        let texts = [0.000_123, 0.0042, 0.081, 0.9996, 1.2].map(|seconds| ms(Some(seconds)));
        assert_eq!(texts, ["0.12 ms", "4.2 ms", "81 ms", "1.00 s", "1.20 s"]);
        assert_eq!(ms(None), "–");
        assert_eq!([5, 65, 7380].map(|s| clock(Duration::from_secs(s))), ["5s", "1m 05s", "2h 03m"]);
        assert_eq!([0.0, 0.5, 198.4].map(per_second), ["0", "0.5", "198"]);
        assert_eq!((percent(0.991, 1), bytes(12_582_912.0)), ("99.1 %".into(), "12.0 MiB".into()));
    }

    #[test]
    fn bars_and_sparklines_keep_their_width() {
        assert_eq!([0.0, 0.5, 1.0].map(|share| bar(share, 4)), ["    ", "██  ", "████"]);
        assert_eq!(bar(0.45, 10), "████▌     ");
        assert_eq!(sparkline(&[0.0, 1.0, 2.0, 4.0], 3, None), "▃▅█");
        assert_eq!(sparkline(&[0.0, 0.001, 1.0], 9, Some(1.0)), "▁▂█", "a few errors must be seen");
        assert_eq!(sparkline(&[0.0, 0.0], 9, None), "▁▁");
    }

    #[test]
    fn colour_only_where_it_is_wanted() {
        let line = Line::default().then(Tone::Plain, "a ").then(Tone::Bad, "b");
        assert_eq!((line.render(false), line.render(true)), ("a b".into(), "a \x1b[31mb\x1b[0m".into()));
        let mut line = Line::default().then(Tone::Plain, "abc").then(Tone::Good, "def");
        line.cut(5);
        assert_eq!(line.render(false), "abcd…");
        line.cut(0);
        assert_eq!(line.render(false), "");
    }
}
