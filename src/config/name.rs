//! Names of things: services, listeners, routes, upstreams.

use std::{borrow::Borrow, fmt, sync::Arc};

/// The name of a resource: 1 to 128 characters of `a-z A-Z 0-9 . _ -`, beginning with a letter or digit.
///
/// Names become label values, log fields and key segments, so they hold nothing that would need quoting
/// there, and no `/` or `@`, which the keys of live policy use as separators.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The longest name that is taken, in bytes.
    pub const MAX_LEN: usize = 128;

    /// Checks `text` and makes a name of it; `None` when it breaks the rule above.
    pub fn new(text: &str) -> Option<Self> {
        let first = text.bytes().next()?;
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let fits = text.len() <= Self::MAX_LEN && first.is_ascii_alphanumeric() && text.bytes().all(legal);
        fits.then(|| Self(Arc::from(text)))
    }

    /// A name that Weir itself gives. It begins with an underscore, so that nobody else can have it.
    pub(crate) fn reserved(text: &'static str) -> Self {
        debug_assert!(text.starts_with('_'), "a name that anybody could have");
        Self(Arc::from(text))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_labels_and_keys_can_hold() {
        for good in ["a", "orders", "orders-v2.eu_west", "9lives"] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a/b", "a@b", "a b", "ä", "a\n", &"x".repeat(129)] {
            assert!(Name::new(bad).is_none(), "{bad:?} was taken");
        }
    }
}
