//! `weir policy watch`: changes as they come.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;

use super::{Watch, place::Place, show};
use crate::{
    cli::{
        ExitStatus, Output,
        failure::{Failure, note},
        print,
        table::printable,
    },
    store::{Content, Event, Item},
};

/// How long the store may take to be there at first; later it may be away for as long as it likes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Watches until Ctrl-C.
pub(super) fn run(args: &Watch) -> Result<ExitStatus, Failure> {
    let place = Place::find(&args.common.store, args.common.scope.as_ref())?;
    let only = args.common.scope.as_ref().map(|scope| format!("{scope}/"));
    let mut seen = Seen { only, known: None, said: String::new() };
    place.runtime.block_on(async {
        let (_watching, mut events) = place.store.watch(&place.identity)?;
        tokio::select! {
            ended = follow(&mut events, &mut seen, args.common.output) => ended,
            _ = tokio::signal::ctrl_c() => Ok(ExitStatus::Fine),
        }
    })
}

async fn follow(
    events: &mut Receiver<Event>,
    seen: &mut Seen,
    output: Output,
) -> Result<ExitStatus, Failure> {
    let gone = || Failure::Unavailable("the store is not read any more".to_owned());
    let first = async {
        while seen.known.is_none() {
            seen.take(events.recv().await.ok_or_else(gone)?);
        }
        Ok(())
    };
    let Ok(done) = tokio::time::timeout(PATIENCE, first).await else {
        let why = if seen.said.is_empty() { "it does not answer" } else { &seen.said };
        return Err(Failure::Unavailable(format!("no store after {PATIENCE:?}: {why}")));
    };
    done?;
    loop {
        for line in seen.take(events.recv().await.ok_or_else(gone)?) {
            let text = match output {
                Output::Json => format!("{}\n", line.to_json()),
                Output::Text => line.text(),
            };
            if print(text.as_bytes()) != ExitStatus::Fine {
                return Ok(ExitStatus::Fine);
            }
        }
    }
}

/// What was seen so far.
struct Seen {
    /// What the keys begin with that are shown; `None` = all.
    only: Option<String>,
    /// `None` until the store was there.
    known: Option<BTreeMap<Arc<str>, Bytes>>,
    /// What was said last about a store that is away.
    said: String,
}

/// A change.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    key: Arc<str>,
    value: Option<Bytes>,
    revision: i64,
}

impl Seen {
    /// Takes an event, and says what has changed.
    fn take(&mut self, event: Event) -> Vec<Line> {
        let lines = match event {
            Event::Read { content, .. } => self.read(&content),
            Event::Changed { changes, .. } => {
                let known = self.known.get_or_insert_default();
                for change in &changes {
                    match &change.value {
                        Some(value) => drop(known.insert(Arc::clone(&change.key), value.clone())),
                        None => drop(known.remove(&change.key)),
                    }
                }
                let line = |change: crate::store::Change| Line {
                    key: change.key,
                    value: change.value,
                    revision: change.revision,
                };
                changes.into_iter().map(line).collect()
            }
            Event::Disconnected { error, .. } => {
                if error != self.said {
                    note(&error);
                }
                self.said = error;
                Vec::new()
            }
            Event::Connected { endpoint } => {
                if !std::mem::take(&mut self.said).is_empty() {
                    note(&format!("connected to {endpoint} again"));
                }
                Vec::new()
            }
            Event::Faults { faults } => {
                for (key, why) in &faults {
                    note(&format!("{key}: {why}"));
                }
                Vec::new()
            }
            Event::Proven { .. } => Vec::new(),
        };
        let own = |line: &Line| self.only.as_ref().is_none_or(|only| line.key.starts_with(only.as_str()));
        lines.into_iter().filter(own).collect()
    }

    /// Everything anew: what differs from what was known; nothing the first time.
    fn read(&mut self, content: &Content) -> Vec<Line> {
        let new: BTreeMap<_, _> =
            content.items.iter().map(|item| (Arc::clone(&item.key), item.value.clone())).collect();
        let Some(old) = self.known.replace(new) else {
            note(&format!("watching from revision {} on; Ctrl-C ends", content.revision));
            return Vec::new();
        };
        let changed = content.items.iter().filter(|item| old.get(&item.key) != Some(&item.value));
        let mut lines: Vec<_> = changed
            .map(|item| Line {
                key: Arc::clone(&item.key),
                value: Some(item.value.clone()),
                revision: item.revision,
            })
            .collect();
        let there: std::collections::BTreeSet<_> = content.items.iter().map(|item| &item.key).collect();
        let gone = old.keys().filter(|key| !there.contains(key));
        lines.extend(gone.map(|key| Line { key: Arc::clone(key), value: None, revision: content.revision }));
        lines
    }
}

impl Line {
    fn item(&self) -> Option<Item> {
        Some(Item { key: Arc::clone(&self.key), value: self.value.clone()?, revision: self.revision })
    }

    fn to_json(&self) -> Value {
        match self.item() {
            Some(item) => {
                let mut json = show::item(&item);
                if let Some(map) = json.as_object_mut() {
                    map.insert("action".to_owned(), "set".into());
                }
                json
            }
            None => json!({ "key": &*self.key, "revision": self.revision, "action": "unset" }),
        }
    }

    fn text(&self) -> String {
        let now = format!("{:.3}", Timestamp::now());
        let key = printable(&self.key);
        match self.item() {
            Some(item) => {
                let (value, envelope) = show::opened(&item);
                let signed = [
                    ("by", envelope.by),
                    ("why", envelope.why),
                    ("until", envelope.until.map(|u| u.to_string())),
                ];
                let signed: String = signed
                    .into_iter()
                    .filter_map(|(name, text)| Some(format!("  {name} {}", printable(&text?))))
                    .collect();
                format!(
                    "{now}  {}  set    {key}  {}{signed}\n",
                    self.revision,
                    printable(&show::short(&value))
                )
            }
            None => format!("{now}  {}  unset  {key}\n", self.revision),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::store::{Change, ReadCause};

    fn read(items: &[(&str, &str)], revision: i64) -> Event {
        let items = items.iter().map(|(key, value)| Item {
            key: (*key).into(),
            value: (*value).to_owned().into(),
            revision,
        });
        let content = Content { cluster: 1, revision, items: items.collect() };
        Event::Read { content, cause: ReadCause::Start, at: Instant::now() }
    }

    #[test]
    fn changes_are_told_also_when_all_is_read_anew() {
        let mut seen = Seen { only: None, known: None, said: String::new() };
        assert_eq!(seen.take(read(&[("o/limits/a", "1/s"), ("o/limits/b", "1/s")], 5)), []);
        let change = Change { key: "o/limits/a".into(), value: Some("2/s".into()), revision: 6 };
        let told = seen.take(Event::Changed { revision: 6, changes: vec![change], at: Instant::now() });
        assert_eq!(told.len(), 1);
        assert!(told[0].text().contains("set    o/limits/a  2/s"), "{}", told[0].text());
        let told = seen.take(read(&[("o/limits/a", "2/s"), ("o/limits/c", "on")], 9));
        let keys: Vec<_> = told.iter().map(|line| (&*line.key, line.value.is_some())).collect();
        assert_eq!(keys, [("o/limits/c", true), ("o/limits/b", false)]);
        assert_eq!(told[1].to_json()["action"], "unset");
    }

    #[test]
    fn one_scope_alone() {
        let mut seen = Seen { only: Some("_all/".to_owned()), known: None, said: String::new() };
        seen.take(read(&[], 1));
        let change = |key: &str| Change { key: key.into(), value: None, revision: 2 };
        let changes = vec![change("_all/bypass"), change("o/bypass")];
        let told = seen.take(Event::Changed { revision: 2, changes, at: Instant::now() });
        assert_eq!(told.len(), 1);
    }
}
