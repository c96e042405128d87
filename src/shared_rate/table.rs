//! The leases of a limit: one, or one per key, the least recently used of which goes.

use std::sync::OnceLock;

use super::lease::Lease;
use crate::policy::Stamp;

/// How many leases a set has.
const WAYS: usize = 8;

/// The leases of one limit. Only the thread assigns them, so that no two of them are ever one key's.
#[derive(Debug)]
pub(super) enum Leases {
    /// For all requests.
    One(Lease),
    /// By key. Sets are made when they are first used.
    Many(Box<[OnceLock<Box<[Lease; WAYS]>>]>),
}

impl Leases {
    /// The tag of a limit without keys.
    pub(super) const ALL: u64 = 1;

    pub(super) fn new(max_keys: Option<u32>) -> Self {
        let Some(keys) = max_keys else {
            let one = Lease::default();
            one.assign(Self::ALL, Stamp::FIRST);
            return Self::One(one);
        };
        // A quarter more than is asked for: sets do not fill evenly.
        let sets = (keys as usize + keys as usize / 4).div_ceil(WAYS).max(1);
        Self::Many((0..sets).map(|_| OnceLock::new()).collect())
    }

    /// What stands for a key; never 0.
    pub(super) fn tag(&self, hash: u64) -> u64 {
        if matches!(self, Self::One(_)) { Self::ALL } else { hash.max(1) }
    }

    /// The lease of a tag.
    pub(super) fn find(&self, tag: u64) -> Option<&Lease> {
        match self {
            Self::One(lease) => Some(lease),
            Self::Many(sets) => {
                sets.get(place(tag, sets.len()))?.get()?.iter().find(|lease| lease.tag() == tag)
            }
        }
    }

    /// The lease of a tag, which may have been another one's: the least recently used of those that `free` says may go.
    /// The second is the tag that had it. Only the thread may.
    pub(super) fn assign(&self, tag: u64, now: Stamp, free: impl Fn(u64) -> bool) -> Option<(&Lease, u64)> {
        if let Some(found) = self.find(tag) {
            return Some((found, 0));
        }
        let Self::Many(sets) = self else { return None };
        let set = sets.get(place(tag, sets.len()))?.get_or_init(Box::default);
        let candidates = set.iter().filter(|lease| lease.tag() == 0 || free(lease.tag()));
        let lease = candidates.max_by_key(|lease| (lease.tag() == 0, lease.idle(now)))?;
        let before = lease.tag();
        lease.assign(tag, now);
        Some((lease, before))
    }

    /// All leases that somebody has.
    pub(super) fn all(&self) -> impl Iterator<Item = &Lease> {
        let (one, many) = match self {
            Self::One(lease) => (Some(lease), None),
            Self::Many(sets) => {
                (None, Some(sets.iter().filter_map(OnceLock::get).flat_map(|set| set.iter())))
            }
        };
        one.into_iter().chain(many.into_iter().flatten()).filter(|lease| lease.tag() != 0)
    }
}

/// Which set a tag belongs to: as good as a remainder, without a division.
#[expect(clippy::cast_possible_truncation, reason = "below `sets`")]
fn place(tag: u64, sets: usize) -> usize {
    (((tag >> 32) * sets as u64) >> 32) as usize
}
