//! What a limit says of itself in answers: `RateLimit-Policy` and `RateLimit`.
//!
//! Both are lists of strings with parameters (RFC 9651): the name of the limit, with its quota `q` and window `w` in
//! seconds in the one, and what is left `r` and the seconds `t` until there is more in the other
//! (draft-ietf-httpapi-ratelimit-headers). Several limits on one answer stand in several lines, which is the same as one
//! list (RFC 9110 §5.3).

use std::time::Duration;

use ::http::{HeaderName, HeaderValue};

use crate::config::{Name, units::Rate};

/// What a limit grants.
pub const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// What is left of it.
pub const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The largest integer of a structured field (RFC 9651 §3.3.1).
const LARGEST: u64 = 999_999_999_999_999;

/// `"checkout";q=500;w=1`: so many in so many seconds.
pub fn policy(limit: &Name, rate: Rate) -> HeaderValue {
    let (quota, window) = (rate.count.min(LARGEST), rate.per.as_secs().clamp(1, LARGEST));
    value(format!("\"{limit}\";q={quota};w={window}"))
}

/// `"checkout";r=12;t=3`: so much is left, and after so many seconds (rounded up) there is as much as there can be.
pub fn state(limit: &Name, remaining: u32, reset: Duration) -> HeaderValue {
    let seconds = reset.as_secs().saturating_add(u64::from(reset.subsec_nanos() > 0)).min(LARGEST);
    value(format!("\"{limit}\";r={remaining};t={seconds}"))
}

fn value(text: String) -> HeaderValue {
    // A name has only letters, digits, dots, dashes and underscores: nothing that a string had to escape.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sfv::{BareItem, List, ListEntry, Parser};

    use super::*;

    /// The one member of a list: its name and its parameters, as a parser of structured fields sees them.
    fn parsed(value: &HeaderValue) -> (String, Vec<(String, i64)>) {
        let list = Parser::new(value.as_bytes()).parse::<List>().unwrap();
        let [ListEntry::Item(item)] = list.as_slice() else { panic!("{list:?}") };
        let BareItem::String(name) = &item.bare_item else { panic!("{item:?}") };
        let number = |value: &BareItem| match value {
            BareItem::Integer(number) => i64::from(*number),
            other => panic!("{other:?}"),
        };
        let parameters = item.params.iter().map(|(key, value)| (key.to_string(), number(value)));
        (name.to_string(), parameters.collect())
    }

    fn named(pairs: &[(&str, i64)]) -> Vec<(String, i64)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn as_the_draft_writes_them() {
        let name = Name::new("checkout").unwrap();
        let rate = Rate { count: 30, per: Duration::from_mins(1) };
        assert_eq!(policy(&name, rate), "\"checkout\";q=30;w=60");
        assert_eq!(state(&name, 7, Duration::from_millis(1001)), "\"checkout\";r=7;t=2");
        assert_eq!(state(&name, 0, Duration::ZERO), "\"checkout\";r=0;t=0");
    }

    proptest! {
        #[test]
        fn another_parser_reads_what_was_meant(
            name in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,40}",
            count in 1..=u64::MAX,
            unit in prop::sample::select(vec![1_u64, 60, 3600]),
            remaining in any::<u32>(),
            reset in any::<u64>(),
        ) {
            let limit = Name::new(&name).unwrap();
            let rate = Rate { count, per: Duration::from_secs(unit) };
            let (read, parameters) = parsed(&policy(&limit, rate));
            let quota = i64::try_from(count.min(LARGEST)).unwrap();
            prop_assert_eq!(&read, &name);
            prop_assert_eq!(parameters, named(&[("q", quota), ("w", i64::try_from(unit).unwrap())]));
            let (read, parameters) = parsed(&state(&limit, remaining, Duration::from_nanos(reset)));
            let seconds = i64::try_from(reset.div_ceil(1_000_000_000)).unwrap();
            prop_assert_eq!(&read, &name);
            prop_assert_eq!(parameters, named(&[("r", i64::from(remaining)), ("t", seconds)]));
        }
    }
}
