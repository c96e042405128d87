//! The layers of policy: from what the file and a store say to one effective policy. Pure.
//!
//! The effective document of a resource is the file's, with the fleet's, the service's, the active plans' and the
//! instance's overlay merged over it in that order. What cannot be in force is refused **by key**: its last good value
//! stays, the rest of a change applies. The state is what the file says, what the store says and what was good last;
//! what comes out depends on nothing else, so that it does not matter in which pieces the changes came.
//!
//! - `document`: one value, read once;
//! - `slot`: one key, and which of its values is in force;
//! - `merge`: the layers of one resource over one another;
//! - `settle`: what depends on a change, until nothing is wrong any more;
//! - `blame`: which overlay is refused when several together are wrong;
//! - `clashes`: plans that want different things of one resource;
//! - `circles`: fallbacks that lead back to where they began;
//! - `report`: what came of it.

mod blame;
mod circles;
mod clashes;
mod document;
mod install;
mod merge;
mod places;
mod report;
mod settle;
mod slot;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use jiff::Timestamp;

use self::{
    document::Doc,
    install::Cell,
    places::Places,
    slot::{Choice, Slot},
};
use super::{
    Change, Content, Item,
    key::{Identity, KeyError, Scope, Subject},
};
use crate::config::{
    Documents, File, Kind, Name, PemKind, Policy,
    live::Facts,
    node::{Node, Origin},
};

pub use report::{Effective, Masked, Refused, Warning};

/// The most keys of one scope; what goes beyond is refused, the newest first.
pub const MAX_KEYS: usize = 10_000;

/// The kind and name of a resource.
type Id = (Kind, Name);

/// What a change is seen against: the time, and the files that policy names.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// The wall clock: `until` is obeyed by it. It may jump in either direction.
    pub now: Timestamp,
    /// Says what is wrong with a file that policy names; `Ok` when it is there and holds what it must.
    pub probe: &'a dyn Fn(&Path, PemKind) -> Result<(), String>,
}

/// What the file has a say in.
#[derive(Debug, Clone)]
pub struct Baseline {
    documents: Documents,
    listeners: Arc<BTreeSet<Name>>,
    redis: bool,
}

impl Baseline {
    /// Takes from a file without errors what the layers need of it.
    pub fn new(file: &File) -> Self {
        Self {
            documents: file.documents.clone(),
            listeners: Arc::new(file.bootstrap.listeners.keys().cloned().collect()),
            redis: file.bootstrap.redis.is_some(),
        }
    }
}

/// All layers of one instance, and what is in force of them.
#[derive(Debug)]
pub struct Layers {
    prefixes: [String; 3],
    baseline: Baseline,
    clock: Timestamp,
    revision: i64,
    /// Every key of the store, and those whose removal is held back.
    slots: BTreeMap<Arc<str>, Slot>,
    /// How many keys the store holds, by scope.
    counts: [usize; 3],
    /// Whether a scope has too many keys.
    crowded: [bool; 3],
    /// The keys of each resource's overlays, in the order of their layers.
    overlays: HashMap<Id, BTreeSet<(Scope, Arc<str>)>>,
    /// The keys of each upstream's endpoints, in the order of their layers.
    endpoints: HashMap<Name, BTreeSet<(Scope, Arc<str>)>>,
    expiries: BTreeSet<(Timestamp, Arc<str>)>,
    places: Places,
    /// What is in force.
    cells: BTreeMap<Id, Cell>,
    policy: Policy,
    nodes: BTreeMap<Id, Arc<Node>>,
    /// Who refers to what.
    referrers: HashMap<Id, BTreeSet<Id>>,
    /// What the plans that are on change.
    patches: HashMap<Id, BTreeMap<Name, Arc<Node>>>,
    /// Resources of which something is refused, and on what that depends.
    trouble: BTreeMap<Id, BTreeSet<Id>>,
    /// Resources of the file that could not stay.
    orphans: BTreeMap<Id, Refused>,
}

impl Layers {
    /// Begins with the file alone.
    pub fn new(identity: &Identity, baseline: Baseline, world: World<'_>) -> Self {
        let mut layers = Self {
            prefixes: Scope::ALL.map(|scope| identity.prefix(scope)),
            baseline: Baseline { documents: Documents::default(), ..baseline.clone() },
            clock: world.now,
            revision: 0,
            slots: BTreeMap::new(),
            counts: [0; 3],
            crowded: [false; 3],
            overlays: HashMap::new(),
            endpoints: HashMap::new(),
            expiries: BTreeSet::new(),
            places: Places::default(),
            cells: BTreeMap::new(),
            policy: Policy::default(),
            nodes: BTreeMap::new(),
            referrers: HashMap::new(),
            patches: HashMap::new(),
            trouble: BTreeMap::new(),
            orphans: BTreeMap::new(),
        };
        layers.rebase(baseline, world);
        layers
    }

    /// Puts another file beneath the live layers.
    pub fn rebase(&mut self, baseline: Baseline, world: World<'_>) {
        let mut dirty = self.passage(world.now);
        dirty.extend(self.baseline.documents.iter().map(|(kind, name, _)| (kind, name.clone())));
        self.baseline = baseline;
        dirty.extend(self.baseline.documents.iter().map(|(kind, name, _)| (kind, name.clone())));
        dirty.extend(self.overlays.keys().cloned());
        dirty.extend(self.endpoints.keys().map(|upstream| (Kind::Upstream, upstream.clone())));
        self.settle(dirty, world);
    }

    /// Takes everything that the store holds, in place of all that was known of it.
    pub fn read(&mut self, content: &Content, world: World<'_>) {
        let mut dirty = self.passage(world.now);
        let there: BTreeSet<&Arc<str>> = content.items.iter().map(|item| &item.key).collect();
        let gone = self.slots.iter().filter(|(key, slot)| slot.current.is_some() && !there.contains(key));
        let gone: Vec<_> = gone.map(|(key, _)| Arc::clone(key)).collect();
        for key in gone {
            self.put(&key, None, content.revision, &mut dirty);
        }
        for item in &content.items {
            self.put(&item.key, Some(&item.value), item.revision, &mut dirty);
        }
        self.revision = content.revision;
        self.admit(&mut dirty);
        self.settle(dirty, world);
    }

    /// Takes all changes up to `revision`; they come out as one.
    pub fn change(&mut self, revision: i64, changes: &[Change], world: World<'_>) {
        let mut dirty = self.passage(world.now);
        // Only what a key is in the end counts.
        let last: BTreeMap<&Arc<str>, &Change> = changes.iter().map(|change| (&change.key, change)).collect();
        for (key, change) in last {
            self.put(key, change.value.as_ref(), change.revision, &mut dirty);
        }
        self.revision = revision;
        self.admit(&mut dirty);
        self.settle(dirty, world);
    }

    /// Takes overlays that were good once (of a cache), before the store has said anything. What of them is refused now
    /// stays known as what was good last.
    pub fn restore(&mut self, items: &[Item], revision: i64, world: World<'_>) {
        let mut dirty = self.passage(world.now);
        for item in items {
            self.put(&item.key, Some(&item.value), item.revision, &mut dirty);
            if let Some(slot) = self.slots.get_mut(&item.key) {
                slot.good.clone_from(&slot.current);
            }
        }
        self.revision = revision;
        self.admit(&mut dirty);
        self.settle(dirty, world);
    }

    /// Sees what has expired, or not yet again, now that the clock shows another time.
    pub fn tick(&mut self, world: World<'_>) {
        let dirty = self.passage(world.now);
        if !dirty.is_empty() {
            self.settle(dirty, world);
        }
    }

    /// Tries again what is refused. What it depends on within policy is seen without this; files that policy names are
    /// not.
    pub fn retry(&mut self, world: World<'_>) {
        let mut dirty = self.passage(world.now);
        dirty.extend(self.trouble.keys().cloned());
        if !dirty.is_empty() {
            self.settle(dirty, world);
        }
    }

    /// Lets the clock show `now`, and says whose overlays that concerns.
    fn passage(&mut self, now: Timestamp) -> BTreeSet<Id> {
        let (from, to) = (self.clock.min(now), self.clock.max(now));
        self.clock = now;
        let passed = self.expiries.iter().skip_while(|(at, _)| *at <= from).take_while(|(at, _)| *at <= to);
        let keys: Vec<_> = passed.map(|(_, key)| Arc::clone(key)).collect();
        keys.iter().filter_map(|key| owner(self.slots.get(key)?.subject.as_ref().ok()?)).collect()
    }

    /// When the next overlay expires.
    fn next_expiry(&self) -> Option<Timestamp> {
        self.expiries.iter().map(|(at, _)| *at).find(|at| *at > self.clock)
    }

    /// Takes one key's value; `None` deletes it.
    fn put(&mut self, key: &Arc<str>, value: Option<&Bytes>, revision: i64, dirty: &mut BTreeSet<Id>) {
        let Some((scope, rest)) = self.scope_of(key) else { return };
        let subject = Subject::parse(rest);
        if subject == Ok(Subject::Confirm) || (value.is_none() && !self.slots.contains_key(key)) {
            return;
        }
        self.enlist(key, scope, subject.as_ref().ok());
        let slot = self.slots.entry(Arc::clone(key)).or_insert_with(|| Slot::new(scope, subject));
        let same = match (&slot.current, value) {
            (Some(doc), Some(value)) => doc.revision == revision && doc.value == *value,
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        let count = self.counts.get_mut(scope as usize);
        match (slot.current.is_some(), value.is_some(), count) {
            (false, true, Some(count)) => *count += 1,
            (true, false, Some(count)) => *count = count.saturating_sub(1),
            _ => {}
        }
        let old = slot.current.take();
        slot.deleted = revision;
        slot.surplus = false;
        let subject = slot.subject.clone();
        self.release(key, old);
        match (&subject, value) {
            (Ok(subject), value) => {
                let doc = value.map(|value| self.read_value(key, (scope, subject), value, revision));
                if let Some(slot) = self.slots.get_mut(key) {
                    slot.current = doc;
                }
                match owner(subject) {
                    Some(id) => drop(dirty.insert(id)),
                    None => self.settle_bypass(key),
                }
            }
            (Err(error), Some(value)) => self.refuse_key(key, value, revision, error),
            (Err(_), None) => drop(self.slots.remove(key)),
        }
    }

    fn read_value(
        &mut self,
        key: &Arc<str>,
        place: (Scope, &Subject),
        value: &Bytes,
        revision: i64,
    ) -> Arc<Doc> {
        let source = self.places.take();
        let (doc, place) = Doc::read(key, place, (value, revision), source);
        self.places.set(source, place);
        self.expiries.extend(doc.until.map(|until| (until, Arc::clone(key))));
        Arc::new(doc)
    }

    /// The scope of a key, and what follows; `None` for a key that is nobody's here.
    fn scope_of<'k>(&self, key: &'k str) -> Option<(Scope, &'k str)> {
        let mut scopes = Scope::ALL.iter().zip(&self.prefixes);
        scopes.find_map(|(scope, prefix)| Some((*scope, key.strip_prefix(prefix.as_str())?)))
    }

    /// Notes to what resource a key belongs.
    fn enlist(&mut self, key: &Arc<str>, scope: Scope, subject: Option<&Subject>) {
        let entry = (scope, Arc::clone(key));
        match subject {
            Some(Subject::Overlay(kind, name)) => {
                self.overlays.entry((*kind, name.clone())).or_default().insert(entry);
            }
            Some(Subject::Endpoint(upstream, _)) => {
                self.endpoints.entry(upstream.clone()).or_default().insert(entry);
            }
            _ => {}
        }
    }

    /// Forgets a key of which nothing is left.
    fn forget(&mut self, key: &Arc<str>) {
        let Some(slot) = self.slots.remove(key) else { return };
        let entry = (slot.scope, Arc::clone(key));
        match slot.subject {
            Ok(Subject::Overlay(kind, name)) => {
                let id = (kind, name);
                if self.overlays.get_mut(&id).is_some_and(|keys| keys.remove(&entry) && keys.is_empty()) {
                    self.overlays.remove(&id);
                }
            }
            Ok(Subject::Endpoint(upstream, _)) => {
                let keys = self.endpoints.get_mut(&upstream);
                if keys.is_some_and(|keys| keys.remove(&entry) && keys.is_empty()) {
                    self.endpoints.remove(&upstream);
                }
            }
            _ => {}
        }
    }

    /// Drops a value, unless it is still what the store holds or what was good last.
    fn release(&mut self, key: &Arc<str>, doc: Option<Arc<Doc>>) {
        let Some(doc) = doc else { return };
        let slot = self.slots.get(key);
        let left = || slot.into_iter().flat_map(|slot| [&slot.current, &slot.good]).flatten();
        if left().any(|other| Arc::ptr_eq(other, &doc)) {
            return;
        }
        if let Some(until) = doc.until
            && left().all(|other| other.until != Some(until))
        {
            self.expiries.remove(&(until, Arc::clone(key)));
        }
        self.places.give_back(doc.source);
    }

    /// A key that means nothing.
    fn refuse_key(&mut self, key: &Arc<str>, value: &Bytes, revision: i64, error: &KeyError) {
        let doc = Doc {
            value: value.clone(),
            revision,
            source: self.places.take(),
            body: document::Body::Bad,
            until: None,
            faults: Vec::new(),
        };
        let clock = self.clock;
        if let Some(slot) = self.slots.get_mut(key) {
            slot.current = Some(Arc::new(doc));
            slot.choice = Choice::Nothing;
            slot.before = slot.refusal.take();
            slot.refuse(&error.to_string(), clock);
        }
    }

    /// Refuses what a scope has too many of: keys that were never good, the newest first.
    fn admit(&mut self, dirty: &mut BTreeSet<Id>) {
        for scope in Scope::ALL {
            let over = self.count(scope) > MAX_KEYS;
            let Some(was_over) = self.crowded.get_mut(scope as usize) else { continue };
            if !std::mem::replace(was_over, over) && !over {
                continue;
            }
            let of_scope = self.slots.iter_mut().filter(|(_, slot)| slot.scope == scope);
            let mut there: Vec<_> = of_scope.filter(|(_, slot)| slot.current.is_some()).collect();
            there.sort_by_key(|(key, slot)| (slot.good.is_none(), slot.revision(), Arc::clone(key)));
            for (n, (_, slot)) in there.into_iter().enumerate() {
                let surplus = n >= MAX_KEYS;
                if surplus != slot.surplus {
                    slot.surplus = surplus;
                    dirty.extend(slot.subject.as_ref().ok().and_then(owner));
                }
            }
        }
    }

    /// Whether protections are bypassed, as the most specific scope says, and where.
    fn bypass(&self) -> Option<(bool, Origin)> {
        let scopes = self.prefixes.iter().rev();
        scopes.into_iter().find_map(|prefix| {
            let slot = self.slots.get(format!("{prefix}bypass").as_str())?;
            match slot.doc(slot.choice, self.clock)?.body {
                document::Body::Bypass(on, origin) => Some((on, origin)),
                _ => None,
            }
        })
    }

    fn settle_bypass(&mut self, key: &Arc<str>) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.before = slot.refusal.take();
        slot.choice = slot.first_choice(self.clock);
        self.refuse_bad(key);
        self.commit(key);
    }

    /// What a resource is checked against.
    fn facts<'f>(&self, listeners: &'f BTreeSet<Name>, world: World<'f>) -> Facts<'f> {
        Facts {
            listeners: Some(listeners.iter().collect()),
            redis: self.baseline.redis,
            store: true,
            probe: world.probe,
        }
    }
}

/// The resource that a key has a say in.
fn owner(subject: &Subject) -> Option<Id> {
    match subject {
        Subject::Overlay(kind, name) => Some((*kind, name.clone())),
        Subject::Endpoint(upstream, _) => Some((Kind::Upstream, upstream.clone())),
        Subject::Bypass | Subject::Confirm => None,
    }
}
