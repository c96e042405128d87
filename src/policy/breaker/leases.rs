//! Who has leave to probe, and until when.

use std::sync::{
    OnceLock,
    atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use super::Stamp;

const CHUNK: usize = 32;
const CHUNKS: usize = 32;

/// At most so many probes at a time.
pub(super) const MOST: u32 = 1024;

/// 46 bits of deadline in milliseconds, 16 of generation, 2 of what it is.
const DEADLINE: u32 = 18;
const GENERATION: u32 = 2;
const FREE: u64 = 0;
const OUT: u64 = 1;
const GOOD: u64 = 2;

/// One place for each probe. What is said of another generation says nothing: its place is free, so that nobody has to
/// clear up.
///
/// Everything is `SeqCst`: of two probes that end at once each changes a place of its own and then counts all, and one of
/// them has to see both.
#[derive(Debug, Default)]
pub(super) struct Leases {
    chunks: [OnceLock<Box<[AtomicU64; CHUNK]>>; CHUNKS],
    /// So many places have ever been in use.
    size: AtomicU32,
}

/// What was found in the places of one generation.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Count {
    /// Ended well.
    pub(super) good: u32,
    /// On their way, in time.
    pub(super) out: u32,
    /// Not ended in time.
    pub(super) lost: u32,
    /// The first moment at which one was not.
    pub(super) lost_at: Option<Stamp>,
    /// The first place that can be had.
    free: Option<(u16, u64)>,
}

/// A place that was taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lease {
    place: u16,
    word: u64,
}

impl Lease {
    /// When it is too late.
    pub(super) fn deadline(&self) -> Stamp {
        deadline(self.word)
    }
}

impl Leases {
    /// Makes room for so many; there is never less than there was.
    pub(super) fn grow(&self, size: u32) {
        let size = size.min(MOST);
        let chunks = usize::try_from(size).unwrap_or(0).div_ceil(CHUNK);
        for chunk in self.chunks.iter().take(chunks) {
            chunk.get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU64::new(0))));
        }
        self.size.fetch_max(size, SeqCst);
    }

    fn places(&self) -> impl Iterator<Item = &AtomicU64> {
        let size = usize::try_from(self.size.load(SeqCst)).unwrap_or(0);
        self.chunks.iter().map_while(OnceLock::get).flat_map(|chunk| chunk.iter()).take(size)
    }

    /// Counts, and looks for a free place among the first `size`.
    pub(super) fn count(&self, generation: u16, size: u32, now: Stamp) -> Count {
        let mut count = Count::default();
        for (place, cell) in (0_u16..).zip(self.places()) {
            let word = cell.load(SeqCst);
            let state = if of(word) == generation { word & 3 } else { FREE };
            match state {
                GOOD => count.good += 1,
                OUT if deadline(word) <= now => {
                    count.lost += 1;
                    count.lost_at = Some(count.lost_at.map_or(deadline(word), |at| at.min(deadline(word))));
                }
                OUT => count.out += 1,
                _ if count.free.is_none() && u32::from(place) < size => count.free = Some((place, word)),
                _ => {}
            }
        }
        count
    }

    /// Takes the place that was found free; `None` when somebody else has.
    pub(super) fn take(&self, count: Count, generation: u16, until: Stamp) -> Option<Lease> {
        let (place, seen) = count.free?;
        // Rounded up: a lease is never shorter than was said.
        let millis = until.as_micros().div_ceil(1000).min((1 << (64 - DEADLINE)) - 1);
        let word = (millis << DEADLINE) | (u64::from(generation) << GENERATION) | OUT;
        self.swap(place, seen, word).then_some(Lease { place, word })
    }

    /// Gives a place back as if it had never been taken.
    pub(super) fn release(&self, lease: &Lease) {
        self.swap(lease.place, lease.word, (lease.word & !3) | FREE);
    }

    /// Says that the probe was good; `false` when the place is no longer its own.
    pub(super) fn pass(&self, lease: &Lease) -> bool {
        self.swap(lease.place, lease.word, (lease.word & !3) | GOOD)
    }

    fn swap(&self, place: u16, seen: u64, next: u64) -> bool {
        let place = usize::from(place);
        let cell = self.chunks.get(place / CHUNK).and_then(OnceLock::get).and_then(|c| c.get(place % CHUNK));
        cell.is_some_and(|cell| cell.compare_exchange(seen, next, SeqCst, Relaxed).is_ok())
    }
}

const fn of(word: u64) -> u16 {
    let [low, high, ..] = (word >> GENERATION).to_le_bytes();
    u16::from_le_bytes([low, high])
}

fn deadline(word: u64) -> Stamp {
    Stamp::from_micros((word >> DEADLINE).saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Stamp {
        Stamp::from_micros(millis * 1000)
    }

    #[test]
    fn there_are_as_many_places_as_was_said() {
        for size in [1, 3, 31, 32, 33, 1000, MOST] {
            let leases = Leases::default();
            leases.grow(size);
            let taken: Vec<Lease> =
                std::iter::from_fn(|| leases.take(leases.count(7, size, at(1)), 7, at(9)))
                    .take(2000)
                    .collect();
            assert_eq!(taken.len(), size as usize);
            assert_eq!(leases.count(7, size, at(8)).out, size);
            assert_eq!(leases.count(7, size, at(9)).lost, size, "the deadline itself is too late");
            leases.release(taken.last().unwrap());
            assert_eq!(leases.count(7, size, at(8)).out, size - 1);
            assert!(leases.take(leases.count(7, size, at(1)), 7, at(9)).is_some());
        }
    }

    #[test]
    fn what_is_of_another_generation_is_free_and_has_no_say() {
        let leases = Leases::default();
        leases.grow(1);
        let old = leases.take(leases.count(7, 1, at(1)), 7, at(9)).unwrap();
        assert!(leases.take(leases.count(7, 1, at(1)), 7, at(9)).is_none());
        let new = leases.take(leases.count(8, 1, at(1)), 8, at(9)).unwrap();
        assert!(!leases.pass(&old));
        leases.release(&old);
        assert_eq!(leases.count(8, 1, at(1)).out, 1);
        assert!(leases.pass(&new) && !leases.pass(&new));
        assert_eq!(leases.count(8, 1, at(99)).good, 1, "what was good does not run out");
    }

    #[test]
    fn two_who_saw_the_same_place_do_not_both_get_it() {
        let leases = Leases::default();
        leases.grow(2);
        let (one, other) = (leases.count(7, 2, at(1)), leases.count(7, 2, at(1)));
        assert!(leases.take(one, 7, at(9)).is_some());
        assert!(leases.take(other, 7, at(9)).is_none());
        assert!(leases.take(leases.count(7, 1, at(1)), 7, at(9)).is_none(), "not beyond what is allowed now");
        assert!(leases.take(leases.count(7, 2, at(1)), 7, at(9)).is_some());
    }
}
