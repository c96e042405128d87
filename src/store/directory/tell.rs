//! From looks at the tree to events. Pure.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use bytes::Bytes;

use super::scan::Scan;
use crate::store::{Change, Content, Event, Item, Lost, ReadCause};

/// What was told so far.
#[derive(Debug)]
pub(super) struct Teller {
    endpoint: String,
    cluster: u64,
    /// The values, and the revisions of their last change; `None` before the first look.
    told: Option<BTreeMap<Arc<str>, (Bytes, i64)>>,
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
        let old = old.unwrap_or_default();
        let value = |key: &Arc<str>| {
            let found = scan.found.get(key)?;
            // What cannot be read stays as it was.
            let value = found.value.as_ref().ok().or_else(|| old.get(key).map(|(value, _)| value))?;
            Some((value.clone(), found.modified))
        };
        let same = |key: &Arc<str>, value: &Bytes| old.get(key).filter(|(old, _)| old == value);
        let new: BTreeMap<_, _> =
            scan.found.keys().filter_map(|key| value(key).map(|found| (Arc::clone(key), found))).collect();
        let gone = old.keys().filter(|key| !new.contains_key(*key));
        let changed = !first
            && (gone.clone().next().is_some()
                || new.iter().any(|(key, (value, _))| same(key, value).is_none()));
        // The same change has the same revision for all who read this directory, unless time was turned back.
        let next = if changed { self.revision.saturating_add(1) } else { self.revision };
        self.revision = scan.modified.max(next);
        let revision = self.revision;
        let mut changes: Vec<_> =
            gone.map(|key| Change { key: Arc::clone(key), value: None, revision }).collect();
        let mut told = BTreeMap::new();
        for (key, (value, modified)) in new {
            let since = match same(&key, &value) {
                Some((_, since)) => *since,
                None if first => modified.min(revision),
                None => {
                    changes.push(Change { key: Arc::clone(&key), value: Some(value.clone()), revision });
                    revision
                }
            };
            told.insert(key, (value, since));
        }
        events.push(if first || back {
            let item = |(key, (value, revision)): (&Arc<str>, &(Bytes, i64))| Item {
                key: Arc::clone(key),
                value: value.clone(),
                revision: *revision,
            };
            let content = Content { cluster: self.cluster, revision, items: told.iter().map(item).collect() };
            let cause = if first { ReadCause::Start } else { ReadCause::Poll };
            Event::Read { content, cause, at }
        } else if changes.is_empty() {
            Event::Proven { revision, at }
        } else {
            Event::Changed { revision, changes, at }
        });
        self.told = Some(told);
        let faults: Vec<_> = scan
            .found
            .iter()
            .filter_map(|(key, found)| Some((Arc::clone(key), found.value.as_ref().err()?.clone())))
            .collect();
        if faults != self.faults {
            self.faults.clone_from(&faults);
            events.push(Event::Faults { faults });
        }
        events
    }
}
