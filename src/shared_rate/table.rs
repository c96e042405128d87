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
fn place(tag: u64, sets: usize) -> usize {
    (((tag >> 32) * sets as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Stamp {
        Stamp::from_micros(1_024_000 + ms * 1024)
    }

    #[test]
    fn one_for_all_has_one_whatever_the_key() {
        let leases = Leases::new(None);
        assert_eq!(leases.tag(17), leases.tag(0));
        assert!(leases.find(leases.tag(17)).is_some());
        assert_eq!(leases.all().count(), 1);
        assert!(leases.assign(Leases::ALL, at(0), |_| false).is_some());
    }

    #[test]
    fn the_least_recently_used_that_may_go_goes() {
        let leases = Leases::new(Some(6));
        for tag in 1..=8 {
            let (_, before) = leases.assign(leases.tag(tag), at(tag), |_| true).unwrap();
            assert_eq!(before, 0, "there was room");
        }
        assert_eq!(leases.all().count(), 8);
        // The first one is used again; the second has somebody who waits.
        leases.find(1).unwrap().take(1, 1, at(20));
        let (lease, before) = leases.assign(9, at(21), |tag| tag != 2).unwrap();
        assert_eq!((lease.tag(), before), (9, 3));
        assert!(leases.find(3).is_none() && leases.find(2).is_some() && leases.find(1).is_some());
        assert!(leases.assign(10, at(22), |_| false).is_none(), "nobody may go");
        assert_eq!(leases.all().count(), 8);
    }

    #[test]
    fn keys_spread_over_the_sets_and_a_flood_stays_within_bounds() {
        let leases = Leases::new(Some(1000));
        let mut rng = fastrand::Rng::with_seed(5);
        for key in 0..crate::policy::rounds(100_000) {
            let tag = leases.tag(rng.u64(..));
            leases.assign(tag, at(key / 100), |_| true).unwrap();
            assert!(leases.find(tag).is_some());
        }
        assert!(leases.all().count() <= 1256, "{}", leases.all().count());
        assert!(cfg!(miri) || leases.all().count() >= 1000);
    }
}
