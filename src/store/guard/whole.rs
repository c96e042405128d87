//! Whole reads: the store against what is in force, key by key.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use jiff::Timestamp;

use super::{Growing, Guard, Held, Note, Outcome, Seen, Why, confirm, report};
use crate::store::{Content, ReadCause};

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

impl Guard {
    /// Decides about a whole read.
    pub(super) fn read(
        &mut self,
        content: &Content,
        cause: ReadCause,
        at: Instant,
        now: Timestamp,
    ) -> Outcome {
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
        let known = self.memory.held.get(key);
        let same = known.filter(|known| value(known.target.as_ref()) == value(target.as_ref()));
        let hold = match (read.doubt, same) {
            // From here on the revisions of this read count, whatever held it before.
            (Some(why), _) => read.reach.is_none().then_some((read.revision, why)),
            (None, Some(same)) => {
                let reached = read.reach.is_some_and(|reach| same.revision <= reach);
                (!reached).then_some((same.revision, same.why))
            }
            // It was held with a value, and that is deleted now.
            (None, None) if target.is_none() => known.map(|known| (read.revision, known.why)),
            (None, None) => None,
        };
        let since = same.map_or(read.now, |same| same.since);
        if let Some((revision, why)) = hold {
            self.memory.held.insert(Arc::clone(key), Held { target, revision, since, why });
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
}
