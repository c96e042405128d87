//! What has been told, and how it compares with what the store says that it holds.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    timing::Settings,
    words::{Audit, Entry, Page, PageRequest, Seen},
};
use crate::store::{Change, Item, ReadCause, key::Scope};

/// A longer value is cut to one byte more than this: enough to be refused for its length by whoever reads it, and a
/// bound for memory. Policy's own bound.
pub const MAX_VALUE_BYTES: usize = 256 << 10;

/// The keys of one scope, each with the revision of its last write.
type Keys = BTreeMap<Bytes, i64>;

/// What was told: keys and revisions, without the values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub cluster: u64,
    /// Everything up to here has been told.
    pub proven: i64,
    keys: [Keys; 3],
}

impl Known {
    /// Takes over what was just told.
    pub(super) fn apply(&mut self, changes: &[Entry]) {
        for change in changes {
            let keys = of_mut(&mut self.keys, change.scope);
            match change.value {
                Some(_) => keys.insert(change.key.clone(), change.revision),
                None => keys.remove(&change.key),
            };
        }
    }

    /// How many keys there are.
    pub(super) fn count(&self) -> usize {
        self.keys.iter().map(Keys::len).sum()
    }

    /// How many keys the largest scope has.
    pub(super) fn largest(&self) -> usize {
        self.keys.iter().map(Keys::len).max().unwrap_or(0)
    }

    /// Whether what was told, with `pending` on top, is all that the audit knows of.
    pub(super) fn complete(&self, pending: &[Vec<Entry>; 3], audit: &Audit) -> bool {
        Scope::ALL.iter().all(|&scope| {
            let pending: &Vec<Entry> = of(pending, scope);
            self.outlook(scope, pending, audit) == *of(&audit.ranges, scope)
        })
    }

    /// Whether a write that was told is not in the store any more, which a deletion explains or a store that was
    /// restored.
    pub(super) fn is_ahead_of(&self, audit: &Audit) -> bool {
        Scope::ALL.iter().any(|&scope| {
            let (ours, theirs) = (self.outlook(scope, &[], audit), of(&audit.ranges, scope));
            ours.newest > theirs.newest || ours.kept > theirs.kept
        })
    }

    /// What an audit would see in a scope, when `pending` has been told up to its revision.
    fn outlook(&self, scope: Scope, pending: &[Entry], audit: &Audit) -> Seen {
        let mut over: BTreeMap<&Bytes, Option<i64>> = BTreeMap::new();
        let new = |change: &&Entry| change.revision > self.proven && change.revision <= audit.head.revision;
        for change in pending.iter().filter(new) {
            over.insert(&change.key, change.value.as_ref().map(|_| change.revision));
        }
        let kept = of(&self.keys, scope).iter().filter(|(key, _)| !over.contains_key(key));
        let mut seen = Seen::default();
        for revision in over.values().flatten().chain(kept.map(|(_, revision)| revision)).copied() {
            seen.count += 1;
            seen.newest = seen.newest.max(revision);
            if audit.since.is_some_and(|since| revision <= since) {
                seen.kept = seen.kept.max(revision);
            }
        }
        seen
    }
}

/// The part of three that is a scope's.
pub(super) fn of<T>(three: &[T; 3], scope: Scope) -> &T {
    let [fleet, service, instance] = three;
    match scope {
        Scope::Fleet => fleet,
        Scope::Service => service,
        Scope::Instance => instance,
    }
}

/// The part of three that is a scope's.
pub(super) fn of_mut<T>(three: &mut [T; 3], scope: Scope) -> &mut T {
    let [fleet, service, instance] = three;
    match scope {
        Scope::Fleet => fleet,
        Scope::Service => service,
        Scope::Instance => instance,
    }
}

/// A full read under way: page after page, all at one revision.
#[derive(Debug)]
pub(super) struct Reading {
    pub cause: ReadCause,
    pub cluster: u64,
    pub revision: i64,
    scope: Scope,
    from: Option<Bytes>,
    limit: i64,
    keys_only: bool,
    items: Vec<Entry>,
    bytes: usize,
    keys: [Keys; 3],
}

/// What becomes of a read after a page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Another page is to be read.
    Page,
    /// It is done.
    Done,
    /// A scope has more keys than may be.
    TooMany(Scope),
}

impl Reading {
    pub(super) fn new(cause: ReadCause, cluster: u64, revision: i64, settings: &Settings) -> Self {
        Self {
            cause,
            cluster,
            revision,
            scope: Scope::Fleet,
            from: None,
            limit: settings.page_keys,
            keys_only: false,
            items: Vec::new(),
            bytes: 0,
            keys: [Keys::new(), Keys::new(), Keys::new()],
        }
    }

    /// The page to ask for.
    pub(super) fn request(&self) -> PageRequest {
        PageRequest {
            scope: self.scope,
            from: self.from.clone(),
            revision: self.revision,
            limit: self.limit,
            keys_only: self.keys_only,
        }
    }

    /// The page was larger than is read: asks for a smaller one, at last for one key without its value. False when
    /// there is no smaller one.
    pub(super) fn shrink(&mut self) -> bool {
        if self.limit > 1 {
            self.limit = (self.limit / 8).max(1);
            return true;
        }
        !std::mem::replace(&mut self.keys_only, true)
    }

    pub(super) fn take(&mut self, page: Page, settings: &Settings) -> Next {
        let last = page.items.last().map(|item| item.key.clone());
        let keys = of_mut(&mut self.keys, self.scope);
        for mut item in page.items {
            keys.insert(item.key.clone(), item.revision);
            if self.keys_only {
                item.value = Some(too_long());
            }
            bound(&mut item);
            self.bytes = self.bytes.saturating_add(weight(&item));
            if self.bytes > settings.max_bytes {
                item.value = Some(Bytes::new());
            }
            self.items.push(item);
        }
        if keys.len() > settings.max_keys {
            return Next::TooMany(self.scope);
        }
        self.keys_only = false;
        self.limit = self.limit.saturating_mul(2).min(settings.page_keys);
        match (page.more, last) {
            (true, Some(last)) => self.from = Some(after(&last)),
            _ => match self.scope {
                Scope::Fleet => self.begin(Scope::Service),
                Scope::Service => self.begin(Scope::Instance),
                Scope::Instance => return Next::Done,
            },
        }
        Next::Page
    }

    fn begin(&mut self, scope: Scope) {
        self.scope = scope;
        self.from = None;
    }

    /// What is known now, and the items to tell, in order of key.
    pub(super) fn finish(self) -> (Known, Vec<Item>) {
        let mut items: Vec<Item> = self.items.into_iter().map(item).collect();
        items.sort_by(|a, b| a.key.cmp(&b.key));
        (Known { cluster: self.cluster, proven: self.revision, keys: self.keys }, items)
    }
}

/// The key that follows another one directly.
fn after(key: &Bytes) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

fn too_long() -> Bytes {
    Bytes::from(vec![b' '; MAX_VALUE_BYTES + 1])
}

/// Cuts a value that is too long.
pub(super) fn bound(entry: &mut Entry) {
    if let Some(value) = &mut entry.value
        && value.len() > MAX_VALUE_BYTES + 1
    {
        // A copy, so that the rest is not kept.
        *value = Bytes::copy_from_slice(value.get(..=MAX_VALUE_BYTES).unwrap_or_default());
    }
}

/// What an entry takes of the bound for memory.
pub(super) fn weight(entry: &Entry) -> usize {
    entry.key.len() + entry.value.as_ref().map_or(0, Bytes::len) + 64
}

fn item(entry: Entry) -> Item {
    Item { key: text(&entry.key), value: entry.value.unwrap_or_default(), revision: entry.revision }
}

pub(super) fn change(entry: Entry) -> Change {
    Change { key: text(&entry.key), value: entry.value, revision: entry.revision }
}

fn text(key: &[u8]) -> Arc<str> {
    String::from_utf8_lossy(key).into()
}

/// The pending changes of one lane: those that came, and are not known to be complete yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub scopes: [Vec<Entry>; 3],
    fragments: BTreeMap<i64, Vec<Entry>>,
    bytes: usize,
    count: usize,
}

impl Pending {
    /// Takes the changes of one message. Parts of a revision wait for the last part.
    pub(super) fn take(&mut self, watch: i64, fragment: bool, changes: Vec<Entry>) {
        let mut whole = self.fragments.remove(&watch).unwrap_or_default();
        for mut change in changes {
            bound(&mut change);
            self.bytes = self.bytes.saturating_add(weight(&change));
            self.count += 1;
            whole.push(change);
        }
        if fragment {
            self.fragments.insert(watch, whole);
            return;
        }
        for change in whole {
            of_mut(&mut self.scopes, change.scope).push(change);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Up to which revision all three ranges have shown changes themselves, so that all before is complete.
    pub(super) fn shown(&self) -> i64 {
        let last = |entries: &Vec<Entry>| entries.last().map_or(0, |last| last.revision);
        self.scopes.iter().map(last).min().unwrap_or(0)
    }

    /// More than is held: 64 MiB, or 200,000 changes.
    pub(super) fn is_too_much(&self) -> bool {
        self.bytes > 64 << 20 || self.count > 200_000
    }

    /// Takes out what is not newer than `revision`, in order of revision; what is not newer than `told` is dropped.
    pub(super) fn split(&mut self, told: i64, revision: i64) -> Vec<Entry> {
        let mut out = Vec::new();
        for entries in &mut self.scopes {
            let cut = entries.partition_point(|entry| entry.revision <= revision);
            out.extend(entries.drain(..cut).filter(|entry| entry.revision > told));
        }
        out.sort_by_key(|entry| entry.revision);
        let rest = self.scopes.iter().flatten().chain(self.fragments.values().flatten());
        (self.bytes, self.count) = rest.fold((0, 0), |(bytes, count), e| (bytes + weight(e), count + 1));
        out
    }
}
