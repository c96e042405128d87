//! From looks at the tree to events. Pure.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use bytes::Bytes;

use super::scan::Scan;
use crate::store::{Change, Content, Event, Item, Lost, ReadCause};

/// The values, and the revisions of their last change.
type Told = BTreeMap<Arc<str>, (Bytes, i64)>;

/// What was told so far.
#[derive(Debug)]
pub(super) struct Teller {
    endpoint: String,
    cluster: u64,
    /// `None` before the first look.
    told: Option<Told>,
    revision: i64,
    faults: Vec<(Arc<str>, String)>,
    /// Why the directory cannot be read; `None` = it can.
    lost: Option<String>,
    begun: bool,
}

impl Teller {
    /// Begins: nothing is told.
    pub(super) fn new(endpoint: String, cluster: u64) -> Self {
        Self { endpoint, cluster, told: None, revision: 0, faults: Vec::new(), lost: None, begun: false }
    }

    /// The directory could not be read. What was told stays; the same error is told once.
    pub(super) fn lost(&mut self, cause: Lost, error: String) -> Vec<Event> {
        self.begun = true;
        if self.lost.as_ref() == Some(&error) {
            return Vec::new();
        }
        self.lost = Some(error.clone());
        vec![Event::Disconnected { cause, error }]
    }

    /// Whether a look says nothing new, so that it needs no second one.
    pub(super) fn is_told(&self, scan: &Scan) -> bool {
        let Some(told) = self.told.as_ref().filter(|_| self.lost.is_none()) else { return false };
        let values = scan.found.iter().filter_map(|(key, found)| Some((key, found.value.as_ref().ok()?)));
        scan.found.len() == told.len() && values.eq(told.iter().map(|(key, (value, _))| (key, value)))
    }

    /// The directory holds this.
    pub(super) fn holds(&mut self, scan: &Scan, at: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        let back = self.lost.take().is_some();
        if back || !std::mem::replace(&mut self.begun, true) {
            events.push(Event::Connected { endpoint: self.endpoint.clone() });
        }
        let old = self.told.take();
        let first = old.is_none();
        let changes = self.compare(old.unwrap_or_default(), scan, first);
        let revision = self.revision;
        events.push(if first || back {
            let cause = if first { ReadCause::Start } else { ReadCause::Poll };
            Event::Read { content: self.content(), cause, at }
        } else if changes.is_empty() {
            Event::Proven { revision, at }
        } else {
            Event::Changed { revision, changes, at }
        });
        let unread = scan.found.iter().filter_map(|(key, found)| Some((key, found.value.as_ref().err()?)));
        let faults: Vec<_> = unread.map(|(key, why)| (Arc::clone(key), why.clone())).collect();
        if faults != self.faults {
            self.faults.clone_from(&faults);
            events.push(Event::Faults { faults });
        }
        events
    }

    /// Takes over what a look found; gives back what that changes.
    fn compare(&mut self, mut old: Told, scan: &Scan, first: bool) -> Vec<Change> {
        let mut told = Told::new();
        let mut news = Vec::new();
        for (key, found) in &scan.found {
            let before = old.remove(key);
            let same =
                before.as_ref().is_some_and(|(value, _)| found.value.as_ref().is_ok_and(|new| new == value));
            match (&found.value, before) {
                // What cannot be read stays as it was.
                (_, Some(before)) if same || found.value.is_err() => {
                    drop(told.insert(Arc::clone(key), before));
                }
                (Ok(value), _) => news.push((Arc::clone(key), value.clone(), found.modified)),
                (Err(_), _) => {}
            }
        }
        // The same change has the same revision for all who read this directory, unless time was turned back.
        let same = news.is_empty() && old.is_empty();
        let changed = !(first || same);
        self.revision = scan.modified.max(self.revision.saturating_add(i64::from(changed)));
        let revision = self.revision;
        let mut list: Vec<_> = old.into_keys().map(|key| Change { key, value: None, revision }).collect();
        for (key, value, modified) in news {
            let since = if first { modified.min(revision) } else { revision };
            list.push(Change { key: Arc::clone(&key), value: Some(value.clone()), revision });
            told.insert(key, (value, since));
        }
        self.told = Some(told);
        list
    }

    fn content(&self) -> Content {
        let item = |(key, (value, revision)): (&Arc<str>, &(Bytes, i64))| Item {
            key: Arc::clone(key),
            value: value.clone(),
            revision: *revision,
        };
        let items = self.told.iter().flatten().map(item).collect();
        Content { cluster: self.cluster, revision: self.revision, items }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;
    use crate::store::directory::scan::Found;

    /// What was found for eight keys (nothing, something unreadable, a value), and the newest time.
    type Look = (Vec<Option<Option<u8>>>, i64);

    /// Looks; `None` = the directory is away.
    fn looks() -> impl Strategy<Value = Vec<Option<Look>>> {
        let found = prop::option::weighted(0.7, prop::option::weighted(0.8, 0..3_u8));
        let look = (prop::collection::vec(found, 8), 1..20_i64);
        prop::collection::vec(prop::option::weighted(0.9, look), 1..30)
    }

    proptest! {
        #[test]
        fn what_is_told_is_what_is_there(looks in looks()) {
            let mut teller = Teller::new("live".into(), 7);
            let (mut state, mut revision) = (BTreeMap::<Arc<str>, Bytes>::new(), 0);
            for look in looks {
                let Some((found, modified)) = look else {
                    teller.lost(Lost::Connect, "gone".into());
                    continue;
                };
                let mut scan = Scan { modified, ..Scan::default() };
                for (n, found) in found.into_iter().enumerate() {
                    let Some(found) = found else { continue };
                    let value = found.map(|value| Bytes::from(vec![value])).ok_or_else(|| "unreadable".to_owned());
                    scan.found.insert(format!("orders/switches/s{n}").into(), Found { value, modified, path: PathBuf::new() });
                }
                let mut wanted = BTreeMap::new();
                for (key, found) in &scan.found {
                    let value = found.value.as_ref().ok().or_else(|| state.get(key));
                    wanted.extend(value.map(|value| (Arc::clone(key), value.clone())));
                }
                for event in teller.holds(&scan, Instant::now()) {
                    match event {
                        Event::Read { content, .. } => {
                            prop_assert!(content.revision >= revision && content.items.iter().all(|item| item.revision <= content.revision));
                            revision = content.revision;
                            state = content.items.into_iter().map(|item| (item.key, item.value)).collect();
                        }
                        Event::Changed { revision: next, changes, .. } => {
                            prop_assert!(next > revision && changes.iter().all(|change| change.revision == next));
                            revision = next;
                            for change in changes {
                                match change.value {
                                    Some(value) => prop_assert_ne!(state.insert(change.key, value.clone()), Some(value)),
                                    None => prop_assert!(state.remove(&change.key).is_some()),
                                }
                            }
                        }
                        Event::Proven { revision: proven, .. } => {
                            prop_assert!(proven >= revision);
                            revision = proven;
                        }
                        Event::Faults { faults } => {
                            prop_assert_eq!(faults.len(), scan.found.values().filter(|found| found.value.is_err()).count());
                        }
                        _ => {}
                    }
                }
                prop_assert_eq!(&state, &wanted);
            }
        }
    }
}
