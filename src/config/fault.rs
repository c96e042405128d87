//! What is wrong with a file, and what would be right.

use super::{codes::Code, node::Origin};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is taken, but probably does not do what its writer wants.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of fault it is.
    pub code: Code,
    /// The field, for instance `policy.routes.in.timeout`; empty for the file as a whole.
    pub path: String,
    /// Where it is written.
    pub origin: Origin,
    /// What is wrong.
    pub message: String,
    /// What would be right, where that can be said.
    pub help: Option<String>,
}

/// What a parser of one scalar has against it: a [`Fault`] that does not know its place yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What kind of fault it is.
    pub code: Code,
    /// What is wrong.
    pub message: String,
    /// What would be right, where that can be said.
    pub help: Option<String>,
}

impl Problem {
    /// A problem without advice.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: None }
    }

    /// Adds what would be right.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// All faults of one load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    list: Vec<Fault>,
    errors: usize,
    warnings: usize,
}

impl Faults {
    /// The most faults of each severity that are kept; a file with more has one cause, and the rest is noise.
    pub const MOST: usize = 200;

    /// Adds one, unless there are too many of its severity already.
    pub fn push(&mut self, fault: Fault) {
        let count = match fault.severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        *count = count.saturating_add(1);
        if *count <= Self::MOST {
            self.list.push(fault);
        } else if *count == Self::MOST + 1 {
            let message =
                format!("more than {} {}s; the rest is not shown", Self::MOST, fault.severity.as_str());
            self.list.push(Fault {
                code: Code::TooManyFaults,
                path: String::new(),
                message,
                help: None,
                ..fault
            });
        }
    }

    /// Whether further errors will not be shown, so that their details need no effort.
    pub(super) fn is_full(&self) -> bool {
        self.errors > Self::MOST
    }

    /// Whether the file must be refused.
    pub fn any_error(&self) -> bool {
        self.errors > 0
    }

    /// How many there are of this severity, with those that are not kept.
    pub fn count(&self, severity: Severity) -> usize {
        match severity {
            Severity::Error => self.errors,
            Severity::Warning => self.warnings,
        }
    }

    /// Whether there are none, not even warnings.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Fault> {
        self.list.iter()
    }

    /// Puts them into the order of the text.
    pub(super) fn sort(&mut self) {
        self.list.sort_by_key(|fault| {
            let late = fault.code == Code::TooManyFaults;
            (late, fault.origin.source, fault.origin.line, fault.origin.column, fault.code)
        });
    }
}

impl<'a> IntoIterator for &'a Faults {
    type Item = &'a Fault;
    type IntoIter = std::slice::Iter<'a, Fault>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The one of `known` that `written` was probably meant to be.
pub(crate) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_ascii_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&written, &candidate.to_ascii_lowercase()), candidate))
        // A third of the letters wrong is a typo; more is another word.
        .filter(|(distance, candidate)| *distance <= (candidate.len().max(written.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `a`, `b` and `c`, each in back ticks.
pub(crate) fn listed<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| format!("`{item}`")).collect();
    match items.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

/// `written` as it may stand in a message: short, without control characters.
pub(super) fn shown(written: &str) -> String {
    const MOST: usize = 60;
    let mut text: String = written.chars().take(MOST).flat_map(char::escape_debug).collect();
    if written.chars().nth(MOST).is_some() {
        text.push('…');
    }
    text.replace("\\\"", "\"").replace("\\'", "'")
}

/// A field's path as it may stand in a message: keys are free text.
pub(crate) fn shown_path(path: &str) -> String {
    path.chars().flat_map(|c| if c.is_control() { c.escape_debug().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_a_typo_away_or_none() {
        let known = ["timeout", "idle_timeout", "upstream", "split"];
        assert_eq!(nearest("timout", known), Some("timeout"));
        assert_eq!(nearest("Upstreem", known), Some("upstream"));
        assert_eq!(nearest("spilt", known), Some("split"));
        assert_eq!(nearest("weight", known), None);
    }

    #[test]
    fn faults_are_bounded() {
        let mut faults = Faults::default();
        for n in 0..1000 {
            faults.push(Fault {
                severity: Severity::Error,
                code: Code::BadValue,
                path: n.to_string(),
                origin: Origin::default(),
                message: String::new(),
                help: None,
            });
        }
        assert_eq!(faults.iter().count(), Faults::MOST + 1);
        assert_eq!(faults.iter().last().unwrap().code, Code::TooManyFaults);
        assert_eq!(faults.count(Severity::Error), 1000);
    }

    #[test]
    fn no_number_of_warnings_is_an_error() {
        let mut faults = Faults::default();
        for _ in 0..1000 {
            faults.push(Fault {
                severity: Severity::Warning,
                code: Code::Unused,
                path: String::new(),
                origin: Origin::default(),
                message: String::new(),
                help: None,
            });
        }
        assert!(!faults.any_error());
    }

    #[test]
    fn what_is_shown_is_short_and_printable() {
        assert_eq!(shown("a\u{1b}[31m"), "a\\u{1b}[31m");
        assert_eq!(shown(&"x".repeat(100)).chars().count(), 61);
    }
}
