//! `weir policy history`: who changed an overlay, when and why.
//!
//! Two sources: the audit entries of this command line, and the revisions that etcd still keeps, so that a change by
//! `etcdctl` shows too (up to the key's last deletion).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{History, place::Place, show, store::Audited};
use crate::{
    cli::{
        ExitStatus, Output,
        failure::Failure,
        print,
        table::{shortened, table},
    },
    store::Item,
};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    revision: i64,
    when: Option<String>,
    who: Option<String>,
    why: Option<String>,
    action: String,
    /// The value since then; `None` = it was deleted.
    value: Option<String>,
    /// It was made with this command line.
    audited: bool,
}

/// Shows the changes of one key.
pub(super) fn run(args: &History) -> Result<ExitStatus, Failure> {
    let mut place = Place::find(&args.common.store, args.common.scope.as_ref())?;
    let key = place.key(&args.subject);
    let enough =
        |found: &[Audited]| found.iter().filter_map(|one| Entry::of_audit(&key, one)).count() >= args.limit;
    let audits = place.runtime.block_on(place.store.audits(place.scope.audited_as(), enough))?;
    let kept = kept(&mut place, &key, args.limit)?;
    let entries = merged(&key, &audits, &kept, args.limit);
    let text = match args.common.output {
        Output::Json => format!("{:#}\n", entries.iter().map(Entry::to_json).collect::<Value>()),
        Output::Text if entries.is_empty() => {
            return Err(Failure::No(format!("nothing is known of {key}: it was never changed by `weir`")));
        }
        Output::Text => {
            let rows: Vec<_> = entries.iter().map(Entry::row).collect();
            table(&["REVISION", "WHEN", "WHO", "ACTION", "VALUE", "WHY"], &rows)
        }
    };
    Ok(print(text.as_bytes()))
}

/// The values of a key that the store still keeps, the newest first.
fn kept(place: &mut Place, key: &str, limit: usize) -> Result<Vec<Item>, Failure> {
    if place.store.is_directory() {
        let scope = key.split('/').next().unwrap_or_default();
        let contents = place.runtime.block_on(place.store.read(&[format!("{scope}/")]))?;
        return Ok(contents.get(key).cloned().into_iter().collect());
    }
    let mut out = Vec::new();
    let mut at = 0;
    while out.len() < limit {
        let Some((item, first)) = place.runtime.block_on(place.store.at(key, at))? else { break };
        at = item.revision - 1;
        out.push(item);
        if first || at <= 0 {
            break;
        }
    }
    Ok(out)
}

/// Both sources by revision, the newest first.
fn merged(key: &str, audits: &[Audited], kept: &[Item], limit: usize) -> Vec<Entry> {
    let mut entries: BTreeMap<i64, Entry> =
        kept.iter().map(|item| (item.revision, Entry::of_item(item))).collect();
    let own = audits.iter().filter_map(|audited| Entry::of_audit(key, audited));
    entries.extend(own.map(|entry| (entry.revision, entry)));
    entries.into_values().rev().take(limit).collect()
}

impl Entry {
    fn of_item(item: &Item) -> Self {
        let (_, envelope) = show::opened(item);
        Self {
            revision: item.revision,
            when: None,
            who: envelope.by,
            why: envelope.why,
            action: "set".to_owned(),
            value: Some(String::from_utf8_lossy(&item.value).into_owned()),
            audited: false,
        }
    }

    /// What an audit entry says, if it is about `key`.
    fn of_audit(key: &str, audited: &Audited) -> Option<Self> {
        let json: Value = serde_json::from_slice(&audited.text).ok()?;
        let text = |name: &str| json.get(name).and_then(Value::as_str).map(str::to_owned);
        (text("key").as_deref() == Some(key)).then(|| Self {
            revision: audited.revision,
            when: text("when"),
            who: text("who"),
            why: text("why"),
            action: text("command").or_else(|| text("action")).unwrap_or_default(),
            value: text("after"),
            audited: true,
        })
    }

    fn to_json(&self) -> Value {
        json!({
            "revision": self.revision,
            "when": self.when,
            "who": self.who,
            "why": self.why,
            "action": self.action,
            "value": self.value,
            "audited": self.audited,
        })
    }

    fn row(&self) -> Vec<String> {
        let value = self.value.as_ref().map(|text| {
            let item = Item { key: "".into(), value: text.clone().into(), revision: 0 };
            show::short(&show::opened(&item).0)
        });
        vec![
            self.revision.to_string(),
            self.when.clone().unwrap_or_default(),
            self.who.clone().unwrap_or_default(),
            self.action.clone(),
            value.unwrap_or_default(),
            shortened(&self.why.clone().unwrap_or_default(), 40),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sources_are_one_history() {
        let audit = |revision, key: &str, after: Option<&str>| {
            Audited {
            revision,
            text: json!({ "key": key, "who": "ann", "action": if after.is_some() { "set" } else { "unset" }, "after": after })
                .to_string()
                .into(),
        }
        };
        let item = |revision, value: &str| Item {
            key: "o/switches/x".into(),
            value: value.to_owned().into(),
            revision,
        };
        let audits = [
            audit(3, "o/switches/x", Some("on")),
            audit(4, "o/switches/y", Some("on")),
            audit(5, "o/switches/x", None),
            Audited { revision: 6, text: "garbage".into() },
        ];
        let kept = [item(9, "{state: off, by: bob}"), item(8, "on")];
        let all = merged("o/switches/x", &audits, &kept, 20);
        let seen: Vec<_> =
            all.iter().map(|e| (e.revision, &*e.action, e.who.as_deref(), e.audited)).collect();
        assert_eq!(
            seen,
            [
                (9, "set", Some("bob"), false),
                (8, "set", None, false),
                (5, "unset", Some("ann"), true),
                (3, "set", Some("ann"), true)
            ]
        );
        assert_eq!(merged("o/switches/x", &audits, &kept, 1).len(), 1);
        assert_eq!(all[0].row()[4], "off");
    }
}
