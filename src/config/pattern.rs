//! Regular expressions that compare by their source.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use regex::{Regex, RegexBuilder};

/// A compiled regular expression that must match the whole text. Two are equal when their sources are.
#[derive(Clone)]
pub struct Pattern {
    source: String,
    regex: Regex,
}

impl Pattern {
    /// The most memory, in bytes, that a compiled expression may take.
    pub const SIZE_LIMIT: usize = 256 * 1024;

    /// Compiles `source`, anchored at both ends.
    pub fn new(source: &str) -> Result<Self, regex::Error> {
        // Compiled by itself first: `a)(?:b` is an error, however it would read between our own brackets.
        RegexBuilder::new(source).size_limit(Self::SIZE_LIMIT).build()?;
        let regex = RegexBuilder::new(&format!("^(?:{source})$")).size_limit(Self::SIZE_LIMIT).build()?;
        Ok(Self { source: source.to_owned(), regex })
    }

    /// Whether all of `text` matches.
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// What was written.
    pub fn source(&self) -> &str {
        &self.source
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.source.hash(state);
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "~{}", self.source)
    }
}
