//! Where the buckets of a limit are: one for all, or one for each key.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::{Decision, Stamp, Taken, law::Law, table::Table};

/// The buckets of a limit.
#[derive(Debug)]
pub(super) enum Store<const N: usize> {
    /// One for all requests.
    One([AtomicU64; N]),
    /// One for each key.
    Keyed(Table<N>),
}

fn words<const N: usize>(words: [u64; N]) -> [AtomicU64; N] {
    words.map(AtomicU64::new)
}

impl<const N: usize> Store<N> {
    pub(super) fn new<L: Law<N>>(law: &L, max_keys: Option<u32>, now: Stamp) -> Self {
        match max_keys {
            None => Self::One(words(law.fresh(now))),
            Some(max_keys) => Self::Keyed(Table::new(max_keys)),
        }
    }

    /// The buckets that another store had, each as `convert` makes it.
    pub(super) fn converted<const M: usize>(
        old: &Store<M>,
        max_keys: Option<u32>,
        now: Stamp,
        fresh: [u64; N],
        convert: impl Fn([u64; M]) -> [u64; N],
    ) -> Self {
        match (old, max_keys) {
            (Store::One(old), None) => {
                Self::One(words(convert(old.each_ref().map(|word| word.load(SeqCst)))))
            }
            (Store::Keyed(old), Some(max_keys)) => {
                let mut table = Table::new(max_keys);
                for entry in old.entries() {
                    table.put(&entry.with(&convert), now);
                }
                Self::Keyed(table)
            }
            // What one bucket for all has says nothing of a key, and the other way round.
            (_, None) => Self::One(words(fresh)),
            (_, Some(max_keys)) => Self::Keyed(Table::new(max_keys)),
        }
    }

    pub(super) fn decide<L: Law<N>>(&self, law: &L, key: u64, cost: u32, now: Stamp, take: bool) -> Decision {
        let found = match self {
            Self::One(words) => Some(words),
            // What can never be granted needs no bucket.
            Self::Keyed(table) if take && cost <= law.most() => table.find_or_insert(key, law, now),
            Self::Keyed(table) => table.find(key, now),
        };
        match found {
            Some(words) => law.decide(words, cost, now, take),
            None => law.decide(&words(law.fresh(now)), cost, now, take),
        }
    }

    pub(super) fn give_back<L: Law<N>>(&self, law: &L, key: u64, taken: &Taken, now: Stamp) {
        let found = match self {
            Self::One(words) => Some(words),
            Self::Keyed(table) => table.find(key, now),
        };
        if let Some(words) = found {
            law.give_back(words, taken, now);
        }
    }

    pub(super) fn sweep<L: Law<N>>(&self, law: &L, now: Stamp) {
        match self {
            Self::One(words) => law.bring_near(words, now),
            Self::Keyed(table) => table.sweep(law, now),
        }
    }

    pub(super) fn keys(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Keyed(table) => table.keys(),
        }
    }

    pub(super) fn evictions(&self) -> u64 {
        match self {
            Self::One(_) => 0,
            Self::Keyed(table) => table.evictions(),
        }
    }
}
