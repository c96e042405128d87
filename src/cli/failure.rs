//! Why a command did not do what it was asked for.

use std::{fmt, io::Write};

use super::ExitStatus;

/// What went wrong, in words, and with that how the command ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The answer is no: a conflict, something that is not there, a refusal by the store.
    No(String),
    /// The command line is wrong.
    Usage(String),
    /// A document is bad.
    Bad(String),
    /// Something that was needed is not there.
    Unavailable(String),
    /// All is said already.
    Told(ExitStatus),
}

impl Failure {
    /// Says it on standard error, and how the command ends.
    pub(super) fn end(self) -> ExitStatus {
        let (text, status) = match self {
            Self::No(text) => (text, ExitStatus::No),
            Self::Usage(text) => (text, ExitStatus::Usage),
            Self::Bad(text) => (text, ExitStatus::BadConfig),
            Self::Unavailable(text) => (text, ExitStatus::Unavailable),
            Self::Told(status) => return status,
        };
        note(&text);
        status
    }
}

/// How a command ended that may have failed.
pub(super) fn ended(result: Result<ExitStatus, Failure>) -> ExitStatus {
    result.unwrap_or_else(Failure::end)
}

/// A line on standard error, without what a terminal would obey: it may quote what somebody else wrote. When standard
/// error is closed there is nobody to tell.
pub(super) fn note(text: &(impl fmt::Display + ?Sized)) {
    let text = super::table::printable(&text.to_string());
    let _ = writeln!(std::io::stderr(), "weir: {text}");
}
