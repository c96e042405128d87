//! The guard: what of a store's events is applied, and what is held. Pure.
//!
//! Between a store and the layers stands somebody who asks whether this can be meant. Held, not applied, are:
//!
//! - the deletions of one revision that takes more than half of a scope's overlays away, and at least four (`etcdctl
//!   del --prefix` on the wrong prefix); `endpoints/` come and go with their leases and do not count;
//! - whatever differs in a store that comes back empty, at an older revision, or as another cluster (a wiped or
//!   restored etcd). Where nothing differs, there is nothing to hold: a cluster that was rebuilt from a good backup
//!   needs no confirmation.
//!
//! Everything else of the same event passes. A put to a held key releases that key; a store that again says what is in
//! force releases it too; the key `confirm` releases everything up to it.
//!
//! Each revision is judged by itself, as the promise says: deletions one by one, each a revision of its own, pass
//! however fast they come. Each of them is a decision that somebody wrote, a window in time would hold back an operator
//! who cleans up after an incident, and it would tell the difference by how fast the machine is. A *whole read* is
//! judged as one revision, since it does not say how many it stands for.
//!
//! # Handing over
//!
//! [`Guard::take`] turns an [`Event`] into the [`Batch`] to apply: all of it at once, one change per key, in order of
//! key. What it passed on and what it holds are together always exactly what the store holds. `confirm` keys are for
//! the guard alone and never in a batch.
//!
//! # Confirming
//!
//! The value of `confirm` is `{cluster: ID, revision: R}`. It holds for the cluster that it names and for what was held
//! up to R, and never for what happens after it was written. The fleet's releases all scopes, a service's the service's
//! and the instance's. An instance that was away sees a confirmation together with what it confirms, in one whole read;
//! one that it had not seen before covers what that read would hold.

mod confirm;
mod report;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use jiff::Timestamp;

pub use report::{Holding, Note};

use super::{Change, Content, Event, Item, ReadCause, key::Identity, key::Scope};
use crate::config::Kind;

/// The fewest deletions in one revision that can be held.
pub const FEWEST: usize = 4;

/// What is to be applied at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The revision that the store had reached with it.
    pub revision: i64,
    /// One change per key, in order of key. A released one has the revision at which it was made.
    pub changes: Vec<Change>,
    /// When the store said it.
    pub at: Instant,
}

/// What came of an event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// What is to be applied; `None` = nothing changes.
    pub batch: Option<Batch>,
    /// What is worth saying.
    pub notes: Vec<Note>,
}

/// Why something is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// More than half of the scope's overlays were deleted in one revision.
    MassDelete,
    /// The store came back empty.
    Empty,
    /// The store came back at an older revision.
    Older,
    /// The store came back as another cluster.
    OtherCluster,
}

impl Why {
    /// A word for `/status`, logs and the cache.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MassDelete => "mass_delete",
            Self::Empty => "empty_store",
            Self::Older => "older_store",
            Self::OtherCluster => "other_cluster",
        }
    }

    /// The one that this word stands for.
    pub fn of(word: &str) -> Option<Self> {
        [Self::MassDelete, Self::Empty, Self::Older, Self::OtherCluster]
            .into_iter()
            .find(|why| why.as_str() == word)
    }
}

/// What is held of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The store's value and the revision of its last write; `None` = the key is deleted there.
    pub target: Option<(Bytes, i64)>,
    /// The revision at which it was held; a confirmation must reach it.
    pub revision: i64,
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub why: Why,
}

/// A `confirm` key as it was seen last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The revision of its last write.
    pub revision: i64,
    /// Its value.
    pub value: Bytes,
}

/// What the cache keeps of the guard, so that a restart does not apply what was held.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// Which store it was; `None` = none was seen yet.
    pub cluster: Option<u64>,
    /// The newest revision that was told.
    pub revision: i64,
    /// What is held, by key.
    pub held: BTreeMap<Arc<str>, Held>,
    /// The `confirm` keys that were seen, by scope.
    pub confirms: [Option<Seen>; 3],
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Guard {
    segments: [String; 3],
    /// What was passed on.
    passed: BTreeMap<Arc<str>, (Bytes, i64)>,
    memory: Memory,
}

/// A batch while it grows.
#[derive(Default)]
struct Growing {
    changes: BTreeMap<Arc<str>, Change>,
    notes: Vec<Note>,
}

impl Growing {
    fn finish(self, revision: i64, at: Instant) -> Outcome {
        let changes: Vec<_> = self.changes.into_values().collect();
        let batch = (!changes.is_empty()).then_some(Batch { revision, changes, at });
        Outcome { batch, notes: self.notes }
    }
}

impl Guard {
    /// Begins with nothing: the first read passes whole.
    pub fn new(identity: &Identity) -> Self {
        Self::restore(identity, [], Memory::default())
    }

    /// Begins with what a cache kept: the overlays in force, and what was held.
    pub fn restore(identity: &Identity, in_force: impl IntoIterator<Item = Item>, memory: Memory) -> Self {
        let passed = in_force.into_iter().map(|item| (item.key, (item.value, item.revision))).collect();
        Self { segments: Scope::ALL.map(|scope| identity.segment(scope)), passed, memory }
    }

    /// What the cache must keep beside the overlays in force.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// How many keys are held.
    pub fn held_count(&self) -> usize {
        self.memory.held.len()
    }

    /// What is held, by scope, cause and revision.
    pub fn holdings(&self) -> Vec<Holding> {
        report::holdings(&self.memory.held, |key| self.locate(key).map(|(scope, _)| scope))
    }

    /// Decides about an event; `now` is the time of day, for "since when".
    pub fn take(&mut self, event: &Event, now: Timestamp) -> Outcome {
        match event {
            Event::Read { content, cause, at } => self.read(content, *cause, *at, now),
            Event::Changed { revision, changes, at } => self.changed(*revision, changes, *at, now),
            Event::Proven { revision, .. } => {
                self.memory.revision = self.memory.revision.max(*revision);
                Outcome::default()
            }
            Event::Connected { .. } | Event::Disconnected { .. } | Event::Faults { .. } => Outcome::default(),
        }
    }

    fn changed(&mut self, revision: i64, changes: &[Change], at: Instant, now: Timestamp) -> Outcome {
        let mut out = Growing::default();
        for group in changes.chunk_by(|a, b| a.revision == b.revision) {
            self.one_revision(group, now, &mut out);
        }
        self.memory.revision = self.memory.revision.max(revision);
        out.finish(self.memory.revision, at)
    }

    /// All changes of one revision.
    fn one_revision(&mut self, group: &[Change], now: Timestamp, out: &mut Growing) {
        let deleted = group.iter().filter(|change| change.value.is_none()).map(|change| &change.key);
        let mass = self.mass_deletions(deleted);
        for (scope, keys) in &mass {
            let revision = group.first().map_or(0, |change| change.revision);
            out.notes.push(Note::Held { scope: *scope, keys: keys.len(), revision, why: Why::MassDelete });
        }
        let mut confirms = Vec::new();
        for change in group {
            if let Some((scope, "confirm")) = self.locate(&change.key) {
                confirms.push((scope, change));
                continue;
            }
            match &change.value {
                Some(value) => self.put(&change.key, value, change.revision, out),
                None => {
                    let held = mass.values().any(|keys| keys.contains(&change.key));
                    self.delete(&change.key, change.revision, held.then_some(now), out);
                }
            }
        }
        for (scope, change) in confirms {
            self.confirmed(scope, change, out);
        }
    }

    fn put(&mut self, key: &Arc<str>, value: &Bytes, revision: i64, out: &mut Growing) {
        if self.memory.held.remove(key).is_some() {
            out.notes.push(Note::Released { key: Arc::clone(key) });
        }
        self.pass(key, Some((value.clone(), revision)), revision, out);
    }

    /// A deletion; with a time it is held.
    fn delete(&mut self, key: &Arc<str>, revision: i64, hold: Option<Timestamp>, out: &mut Growing) {
        if let Some(held) = self.memory.held.get_mut(key) {
            if self.passed.contains_key(key) {
                held.target = None;
                held.revision = revision;
            } else {
                self.memory.held.remove(key);
            }
        } else if !self.passed.contains_key(key) {
            // Nobody was told of it.
        } else if let Some(since) = hold {
            let held = Held { target: None, revision, since, why: Why::MassDelete };
            self.memory.held.insert(Arc::clone(key), held);
        } else {
            self.pass(key, None, revision, out);
        }
    }

    /// Passes the state of a key on.
    fn pass(&mut self, key: &Arc<str>, state: Option<(Bytes, i64)>, revision: i64, out: &mut Growing) {
        let value = state.as_ref().map(|(value, _)| value.clone());
        match state {
            Some(state) => self.passed.insert(Arc::clone(key), state),
            None => self.passed.remove(key),
        };
        out.changes.insert(Arc::clone(key), Change { key: Arc::clone(key), value, revision });
    }

    /// A `confirm` key that was written or deleted while we watched.
    fn confirmed(&mut self, scope: Scope, change: &Change, out: &mut Growing) {
        let seen =
            change.value.as_ref().map(|value| Seen { revision: change.revision, value: value.clone() });
        if let Some(slot) = self.memory.confirms.get_mut(scope as usize) {
            slot.clone_from(&seen);
        }
        let Some(seen) = seen else { return };
        match confirm::reach(&seen, self.memory.cluster) {
            Err(why) => out.notes.push(Note::ConfirmIgnored { scope, why }),
            Ok(reach) => {
                let keys = self.release(scope, reach, out);
                out.notes.push(Note::Confirmed { scope, revision: reach, keys });
            }
        }
    }

    /// Releases what `scope` covers and was held up to `reach`; says how many keys that were.
    fn release(&mut self, scope: Scope, reach: i64, out: &mut Growing) -> usize {
        let covered = |key: &str| self.locate(key).is_some_and(|(of, _)| of >= scope);
        let due = self.memory.held.iter().filter(|(key, held)| held.revision <= reach && covered(key));
        let due: Vec<_> = due.map(|(key, _)| Arc::clone(key)).collect();
        for key in &due {
            let Some(held) = self.memory.held.remove(key) else { continue };
            let revision = held.target.as_ref().map_or(held.revision, |(_, revision)| *revision);
            self.pass(key, held.target, revision, out);
        }
        due.len()
    }

    fn read(&mut self, content: &Content, cause: ReadCause, at: Instant, now: Timestamp) -> Outcome {
        let mut out = Growing::default();
        let is_confirm = |key: &str| matches!(self.locate(key), Some((_, "confirm")));
        let items: BTreeMap<&Arc<str>, (&Bytes, i64)> = content
            .items
            .iter()
            .filter(|item| !is_confirm(&item.key))
            .map(|item| (&item.key, (&item.value, item.revision)))
            .collect();
        let suspicion = self.suspicion(content, cause, items.is_empty());
        let covered = self.unseen_confirms(content, &mut out);
        let keys: BTreeSet<Arc<str>> =
            items.keys().map(|key| Arc::clone(key)).chain(self.passed.keys().cloned()).collect();
        // Held keys that neither the store nor we have any more.
        self.memory.held.retain(|key, _| keys.contains(key));
        let gone = keys.iter().filter(|key| !items.contains_key(key));
        let mass = if suspicion.is_some() { BTreeMap::new() } else { self.mass_deletions(gone) };
        let before = self.memory.held.clone();
        for key in &keys {
            let target = items.get(key).map(|(value, revision)| ((*value).clone(), *revision));
            let reach =
                self.locate(key).and_then(|(scope, _)| covered.get(scope as usize).copied().flatten());
            let doubt =
                suspicion.or_else(|| mass.values().any(|keys| keys.contains(key)).then_some(Why::MassDelete));
            self.compare(key, target, Compared { doubt, reach, revision: content.revision, now }, &mut out);
        }
        self.memory.cluster = Some(content.cluster);
        self.memory.revision = content.revision;
        report::newly_held(&before, &self.memory.held, |key| self.locate(key), &mut out.notes);
        out.finish(content.revision, at)
    }

    /// What a whole read says of one key, against what is in force.
    fn compare(&mut self, key: &Arc<str>, target: Option<(Bytes, i64)>, read: Compared, out: &mut Growing) {
        let value = |state: Option<&(Bytes, i64)>| state.map(|(value, _)| value.clone());
        let current = self.passed.get(key);
        if value(current) == value(target.as_ref()) {
            self.memory.held.remove(key);
            if let Some((_, revision)) = target.as_ref().filter(|_| current != target.as_ref()) {
                let revision = *revision;
                self.pass(key, target, revision, out);
            }
            return;
        }
        let held = self.memory.held.get(key);
        let same = held.filter(|held| value(held.target.as_ref()) == value(target.as_ref()));
        let (since, old) = (same.map(|held| held.since), same.map(|held| (held.revision, held.why)));
        let hold = match (read.doubt, old) {
            // A store that is doubted as a whole: from here on its revisions count.
            (Some(why), _) if read.reach.is_none() => Some((read.revision, why)),
            (Some(_), _) => None,
            (None, Some((revision, why))) => {
                read.reach.is_none_or(|reach| revision > reach).then_some((revision, why))
            }
            // It was held with a value, and that is deleted now.
            (None, None) if target.is_none() => held.map(|held| (read.revision, held.why)),
            (None, None) => None,
        };
        if let Some((revision, why)) = hold {
            let held = Held { target, revision, since: since.unwrap_or(read.now), why };
            self.memory.held.insert(Arc::clone(key), held);
        } else {
            self.memory.held.remove(key);
            let revision = target.as_ref().map_or(read.revision, |(_, revision)| *revision);
            self.pass(key, target, revision, out);
        }
    }

    /// Why a store is doubted as a whole.
    fn suspicion(&self, content: &Content, cause: ReadCause, empty: bool) -> Option<Why> {
        let cluster = self.memory.cluster?;
        if cluster != content.cluster {
            Some(Why::OtherCluster)
        } else if content.revision < self.memory.revision || cause == ReadCause::Regression {
            Some(Why::Older)
        } else if empty && !self.passed.is_empty() {
            Some(Why::Empty)
        } else {
            None
        }
    }

    /// How far the confirmations in a whole read reach that were not seen before, by scope; the seen are remembered.
    fn unseen_confirms(&mut self, content: &Content, out: &mut Growing) -> [Option<i64>; 3] {
        let mut covered = [None; 3];
        let before = std::mem::take(&mut self.memory.confirms);
        for item in &content.items {
            let Some((scope, "confirm")) = self.locate(&item.key) else { continue };
            let seen = Seen { revision: item.revision, value: item.value.clone() };
            let known = before.get(scope as usize).is_some_and(|known| known.as_ref() == Some(&seen));
            let reach = confirm::reach(&seen, Some(content.cluster));
            if let Some(slot) = self.memory.confirms.get_mut(scope as usize) {
                *slot = Some(seen);
            }
            match reach {
                Ok(reach) if !known => {
                    for slot in covered.iter_mut().skip(scope as usize) {
                        *slot = (*slot).max(Some(reach));
                    }
                }
                // Old ones lie about for good; what is wrong with them was said when they came.
                Err(why) if !known => out.notes.push(Note::ConfirmIgnored { scope, why }),
                _ => {}
            }
        }
        covered
    }

    /// The overlays among `deleted` that are too many for their scope.
    fn mass_deletions<'k>(
        &self,
        deleted: impl Iterator<Item = &'k Arc<str>>,
    ) -> BTreeMap<Scope, BTreeSet<Arc<str>>> {
        let mut by_scope: BTreeMap<Scope, BTreeSet<Arc<str>>> = BTreeMap::new();
        for key in deleted {
            let there = self.passed.contains_key(key) && !self.memory.held.contains_key(key);
            if let Some(scope) = self.overlay(key).filter(|_| there) {
                by_scope.entry(scope).or_default().insert(Arc::clone(key));
            }
        }
        by_scope.retain(|_, keys| keys.len() >= FEWEST);
        if !by_scope.is_empty() {
            // Those whose deletion is held already are gone from the store: they make no scope larger.
            let gone = |key: &Arc<str>| self.memory.held.get(key).is_some_and(|held| held.target.is_none());
            let mut sizes = BTreeMap::new();
            for scope in self.passed.keys().filter(|key| !gone(key)).filter_map(|key| self.overlay(key)) {
                *sizes.entry(scope).or_insert(0_usize) += 1;
            }
            by_scope.retain(|scope, keys| 2 * keys.len() > sizes.get(scope).copied().unwrap_or(0));
        }
        by_scope
    }

    /// The scope of an overlay; `None` for other keys.
    fn overlay(&self, key: &str) -> Option<Scope> {
        let (scope, rest) = self.locate(key)?;
        let (kind, _) = rest.split_once('/')?;
        Kind::of(kind).map(|_| scope)
    }

    /// The scope of a key, and what follows it.
    fn locate<'k>(&self, key: &'k str) -> Option<(Scope, &'k str)> {
        let (segment, rest) = key.split_once('/')?;
        let scope = Scope::ALL.into_iter().zip(&self.segments).find(|(_, own)| *own == segment)?.0;
        Some((scope, rest))
    }
}

/// What a whole read says beside a key's value.
#[derive(Clone, Copy)]
struct Compared {
    /// Why a difference is doubted.
    doubt: Option<Why>,
    /// How far a new confirmation reaches.
    reach: Option<i64>,
    /// The revision of the read.
    revision: i64,
    /// The time of day.
    now: Timestamp,
}

#[cfg(test)]
mod tests;
