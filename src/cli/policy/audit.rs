//! What is put down of a change: who made it, when, why, and what was there before. Pure.

use jiff::Timestamp;
use serde_json::{Value, json};

/// The longest value that an entry keeps whole, in bytes. An entry and its change share one transaction, whose size etcd
/// bounds.
const MOST: usize = 64 << 10;

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Whose policy it is: `_all`, or a service.
    pub(super) scope: String,
    /// The name of the entry, `<time>-<id>`: in order of time, and unique.
    pub(super) id: String,
    /// When.
    pub(super) when: Timestamp,
    /// Who.
    pub(super) who: String,
    /// Why; `None` when nobody said.
    pub(super) why: Option<String>,
    /// `set`, `unset` or `confirm`.
    pub(super) action: &'static str,
    /// The command, where its name says more than that: `switch on`.
    pub(super) command: Option<&'static str>,
    /// The key below `<root>/policy/`.
    pub(super) key: String,
    /// What was there, and its revision.
    pub(super) before: Option<(String, i64)>,
    /// What is there now.
    pub(super) after: Option<String>,
}

impl Record {
    /// The name of an entry of this time.
    pub(super) fn id(when: Timestamp, random: u64) -> String {
        format!("{}-{random:016x}", when.strftime("%Y%m%dT%H%M%S.%6fZ"))
    }

    /// What is written.
    pub(super) fn to_json(&self) -> Value {
        let before = self.before.as_ref().map(|(text, _)| bounded(text));
        json!({
            "who": self.who,
            "when": self.when.to_string(),
            "why": self.why,
            "action": self.action,
            "command": self.command,
            "key": self.key,
            "before": before,
            "before_revision": self.before.as_ref().map_or(0, |(_, revision)| *revision),
            "after": self.after.as_deref().map(bounded),
            "with": concat!("weir ", env!("CARGO_PKG_VERSION")),
        })
    }
}

/// A value, cut where it is too long to be kept twice.
fn bounded(text: &str) -> String {
    if text.len() <= MOST {
        return text.to_owned();
    }
    let cut = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= MOST).last().unwrap_or(0);
    format!("{}… ({} bytes)", text.get(..cut).unwrap_or_default(), text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_in_order_of_time_and_bounded() {
        let at = |text: &str| Record::id(text.parse().unwrap(), 1);
        assert_eq!(at("2026-11-21T10:00:00.000001Z"), "20261121T100000.000001Z-0000000000000001");
        assert!(at("2026-11-21T10:00:00.5Z") < at("2026-11-21T10:00:01Z"));
        let record = Record {
            scope: "orders".to_owned(),
            id: at("2026-11-21T10:00:00Z"),
            when: "2026-11-21T10:00:00Z".parse().unwrap(),
            who: "ann".to_owned(),
            why: None,
            action: "set",
            command: None,
            key: "orders/switches/x".to_owned(),
            before: Some(("ä".repeat(200_000), 7)),
            after: Some("on".to_owned()),
        };
        let json = record.to_json();
        assert!(json["before"].as_str().unwrap().len() < MOST + 50);
        assert_eq!((&json["before_revision"], &json["after"]), (&json!(7), &json!("on")));
    }
}
