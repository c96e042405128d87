//! What an instance says of itself in `<root>/pods/<service>/<instance>`. Pure.
//!
//! The key lives under a lease, so that it goes with its instance. Who reads it may be older or newer than who wrote
//! it: what is unknown is passed over, what is missing has a default, and nothing that can be written there does harm.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::config::Name;

/// The longest report that is read, in bytes.
pub const MAX_BYTES: usize = 64 << 10;

/// The most refused keys that a report names; [`Report::refused_count`] counts the others too.
pub const MAX_REFUSED: usize = 50;

/// The longest reason of a refusal, in characters.
const MAX_REASON: usize = 300;

/// What all keys of a service's reports begin with, below the root: `/pods/orders/`.
pub fn prefix(service: &Name) -> String {
    format!("/pods/{service}/")
}

/// The key of one instance's report, below the root.
pub fn key(service: &Name, instance: &Name) -> String {
    format!("/pods/{service}/{instance}")
}

/// What an instance has of live policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The version of Weir.
    pub version: String,
    /// Whose policy it follows.
    pub service: Name,
    /// Which instance it is.
    pub instance: Name,
    /// The id of the store's cluster; 0 before it is known.
    pub cluster: u64,
    /// The newest revision that is in force; 0 for none.
    pub applied: i64,
    /// The newest revision at which the store proved that nothing else had changed; 0 for none.
    pub proven: i64,
    /// The hash of the effective policy: equal for equal policies.
    pub hash: String,
    /// Where the policy in force came from.
    pub source: Source,
    /// The keys that are refused, at most [`MAX_REFUSED`] of them.
    pub refused: Vec<Refusal>,
    /// How many keys are refused.
    pub refused_count: usize,
    /// How many changes the guard holds.
    pub held: usize,
    /// Since when all this is so; `None` when it is not said.
    pub since: Option<Timestamp>,
}

/// A key that an instance refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The key below `<root>/policy/`.
    pub key: String,
    /// The revision that is refused.
    pub revision: i64,
    /// Why.
    pub reason: String,
}

/// Where the policy in force came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Source {
    /// The store.
    Store,
    /// The cache of what the store said last.
    Cache,
    /// The file alone.
    #[default]
    Baseline,
}

impl Source {
    /// Every source.
    pub const ALL: [Self; 3] = [Self::Store, Self::Cache, Self::Baseline];

    /// Its name in reports, `/status` and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Cache => "cache",
            Self::Baseline => "baseline",
        }
    }

    /// The source that has this name.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.as_str() == word)
    }
}

impl Report {
    /// The report as JSON. It never has more than [`MAX_BYTES`] bytes: it names as many refusals as fit.
    pub fn encode(&self) -> Vec<u8> {
        let mut most = self.refused.len().min(MAX_REFUSED);
        loop {
            let bytes = self.to_json(most).to_string().into_bytes();
            if bytes.len() <= MAX_BYTES || most == 0 {
                return bytes;
            }
            most /= 2;
        }
    }

    fn to_json(&self, most: usize) -> Value {
        let refused = self.refused.iter().take(most).map(|refusal| {
            let reason: String = refusal.reason.chars().take(MAX_REASON).collect();
            json!({ "key": refusal.key, "revision": refusal.revision, "reason": reason })
        });
        json!({
            "version": self.version,
            "service": self.service.as_str(),
            "instance": self.instance.as_str(),
            "cluster": self.cluster,
            "applied": self.applied,
            "proven": self.proven,
            "hash": self.hash,
            "source": self.source.as_str(),
            "refused": refused.collect::<Vec<_>>(),
            "refused_count": self.refused_count.max(self.refused.len()),
            "held": self.held,
            "since": self.since.map(|since| since.to_string()),
        })
    }

    /// Reads the report of `instance` of `service`, as its key names them. What is missing or not as it should be counts
    /// as not said; an instance that does not say what it has applied has applied nothing. The error says why it is no
    /// report at all.
    pub fn decode(service: &Name, instance: &Name, bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > MAX_BYTES {
            return Err(format!("it has {} bytes; a report has at most {MAX_BYTES}", bytes.len()));
        }
        let value: Value =
            serde_json::from_slice(bytes).map_err(|error| format!("it is not JSON: {error}"))?;
        let Value::Object(fields) = value else { return Err("it is no JSON object".to_owned()) };
        let refused: Vec<_> = list(&fields, "refused").iter().filter_map(refusal).collect();
        let listed = list(&fields, "refused").len();
        Ok(Self {
            version: text(&fields, "version"),
            service: service.clone(),
            instance: instance.clone(),
            cluster: cluster(fields.get("cluster")),
            applied: number(&fields, "applied"),
            proven: number(&fields, "proven"),
            hash: text(&fields, "hash"),
            source: Source::of(&text(&fields, "source")).unwrap_or_default(),
            refused_count: count(&fields, "refused_count").max(listed),
            refused: refused.into_iter().take(MAX_REFUSED).collect(),
            held: count(&fields, "held"),
            since: text(&fields, "since").parse().ok(),
        })
    }
}

fn refusal(value: &Value) -> Option<Refusal> {
    let fields = value.as_object()?;
    let reason = text(fields, "reason").chars().take(MAX_REASON).collect();
    Some(Refusal { key: text(fields, "key"), revision: number(fields, "revision"), reason })
}

fn list<'v>(fields: &'v Map<String, Value>, name: &str) -> &'v [Value] {
    fields.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text(fields: &Map<String, Value>, name: &str) -> String {
    fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn number(fields: &Map<String, Value>, name: &str) -> i64 {
    fields.get(name).and_then(Value::as_i64).unwrap_or_default().max(0)
}

fn count(fields: &Map<String, Value>, name: &str) -> usize {
    fields.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()).unwrap_or_default()
}

/// A cluster id: a number, or its digits, since programs in other languages round large numbers.
fn cluster(value: Option<&Value>) -> u64 {
    let digits = value.and_then(Value::as_str).and_then(|digits| digits.parse().ok());
    value.and_then(Value::as_u64).or(digits).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn report() -> Report {
        Report {
            version: "0.1.0".to_owned(),
            service: name("orders"),
            instance: name("pod-1"),
            cluster: u64::MAX - 1,
            applied: 41,
            proven: 99,
            hash: "0123456789abcdef".to_owned(),
            source: Source::Store,
            refused: vec![Refusal {
                key: "orders/limits/checkout".to_owned(),
                revision: 40,
                reason: "`7/d` is not a rate (line 1, column 1)".to_owned(),
            }],
            refused_count: 1,
            held: 3,
            since: Some("2026-11-21T10:00:00Z".parse().unwrap()),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Report, String> {
        Report::decode(&name("orders"), &name("pod-1"), bytes)
    }

    #[test]
    fn reads_what_it_writes() {
        assert_eq!(decode(&report().encode()), Ok(report()));
        assert_eq!(key(&name("orders"), &name("pod-1")), "/pods/orders/pod-1");
        assert!(key(&name("orders"), &name("pod-1")).starts_with(&prefix(&name("orders"))));
    }

    #[test]
    fn forgives_what_is_missing_unknown_or_wrong() {
        let nothing = decode(b"{}").unwrap();
        assert_eq!((nothing.applied, nothing.source, nothing.since), (0, Source::Baseline, None));
        let odd = decode(
            br#"{"applied": 7, "proven": "x", "source": "moon", "refused": [1, {"key": "k"}], "held": -1,
                "cluster": "18446744073709551614", "new": {"a": []}}"#,
        )
        .unwrap();
        assert_eq!((odd.applied, odd.proven, odd.held, odd.cluster), (7, 0, 0, u64::MAX - 1));
        // One that cannot be read still counts.
        assert_eq!((odd.refused.len(), odd.refused_count, odd.refused[0].key.as_str()), (1, 2, "k"));
        assert!(decode(b"[]").unwrap_err().contains("no JSON object"));
        assert!(decode(b"\xff").unwrap_err().contains("not JSON"));
        assert!(decode(&vec![b' '; MAX_BYTES + 1]).unwrap_err().contains("at most"));
    }

    #[test]
    fn is_never_longer_than_what_is_read() {
        let mut large = report();
        let one = Refusal { key: "k".repeat(400), revision: 1, reason: "\u{1}".repeat(5000) };
        large.refused = vec![one; 500];
        let bytes = large.encode();
        assert!(bytes.len() <= MAX_BYTES, "{}", bytes.len());
        let read = decode(&bytes).unwrap();
        assert_eq!(read.refused_count, 500);
        assert!(!read.refused.is_empty() && read.refused.len() <= MAX_REFUSED);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }
    }
}
