//! The last so many results.

use std::sync::atomic::{
    AtomicU16, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use super::{Outcome, Totals};

const FAILURE: u16 = 1;
const SLOW: u16 = 2;

/// A writer whose epoch is so far behind what it finds is late; one that is further behind has met a cell that nobody has
/// written since the numbers came round.
const LATEST: u16 = 64;

/// A ring of results: two bytes each, whatever happens, and a count of the bad ones beside it.
///
/// A writer takes the next place, puts its result there, and corrects the counts by the difference between what it
/// put and what it found. Whatever the order in which several do that, the counts are those of the ring.
#[derive(Debug)]
pub(crate) struct Calls {
    /// 14 bits of epoch, then whether slow, then whether failed.
    ring: Box<[AtomicU16]>,
    /// 16 bits of epoch, 48 bits of how many there have been in it.
    taken: AtomicU64,
    failures: Tally,
    slow: Tally,
}

impl Calls {
    pub(super) fn new(size: u32) -> Self {
        Self {
            ring: (0..size.max(1)).map(|_| AtomicU16::new(0)).collect(),
            taken: AtomicU64::new(0),
            failures: Tally::default(),
            slow: Tally::default(),
        }
    }

    pub(super) fn record(&self, epoch: u16, outcome: Outcome) {
        let Some(place) = self.take(epoch) else { return };
        let mine =
            (epoch << 2) | if outcome.failure { FAILURE } else { 0 } | if outcome.slow { SLOW } else { 0 };
        let Some(old) = self.put(place, mine) else { return };
        let old = if old >> 2 == mine >> 2 { old } else { 0 };
        self.failures.correct(epoch, mine & FAILURE, old & FAILURE);
        self.slow.correct(epoch, (mine & SLOW) / SLOW, (old & SLOW) / SLOW);
    }

    /// The next place of the ring; `None` for a writer that is late.
    fn take(&self, epoch: u16) -> Option<usize> {
        const BITS: u32 = 48;
        let mut seen = self.taken.load(SeqCst);
        loop {
            let (of, count) = (tag(seen, BITS), seen & ((1 << BITS) - 1));
            let count = if of == epoch {
                count
            } else if count > 0 && (1..=LATEST).contains(&of.wrapping_sub(epoch)) {
                return None;
            } else {
                0
            };
            let next = (u64::from(epoch) << BITS) | (count + 1);
            match self.taken.compare_exchange_weak(seen, next, SeqCst, SeqCst) {
                Ok(_) => return usize::try_from(count % self.ring.len() as u64).ok(),
                Err(now) => seen = now,
            }
        }
    }

    /// What was there before; `None` when something bad of a later epoch is, which stays.
    fn put(&self, place: usize, mine: u16) -> Option<u16> {
        let cell = self.ring.get(place)?;
        let mut seen = cell.load(Relaxed);
        loop {
            // A good one of later is not missed: it is in no count.
            let bad = seen & (FAILURE | SLOW) != 0;
            if bad && (1..=LATEST).contains(&((seen >> 2).wrapping_sub(mine >> 2) & 0x3fff)) {
                return None;
            }
            match cell.compare_exchange_weak(seen, mine, SeqCst, Relaxed) {
                Ok(old) => return Some(old),
                Err(now) => seen = now,
            }
        }
    }

    pub(super) fn is_quiet(&self, epoch: u16) -> bool {
        self.failures.of(epoch) == 0 && self.slow.of(epoch) == 0
    }

    pub(super) fn totals(&self, epoch: u16) -> Totals {
        let (failures, slow) = (self.failures.of(epoch), self.slow.of(epoch));
        let taken = self.taken.load(SeqCst);
        let requests = if tag(taken, 48) == epoch { taken & ((1 << 48) - 1) } else { 0 };
        let requests = requests.min(self.ring.len() as u64);
        Totals { requests, failures: failures.min(requests), slow: slow.min(requests) }
    }

    pub(super) fn seed(&self, epoch: u16, seen: Totals) {
        let size = seen.requests.min(self.ring.len() as u64);
        if size == 0 {
            return;
        }
        // Rounded up: what was enough to open stays enough.
        let scaled = |part: u64| (part.min(seen.requests) * size).div_ceil(seen.requests);
        let (failures, slow) = (scaled(seen.failures), scaled(seen.slow));
        // Spread evenly, so that they leave the window as evenly.
        let falls_on = |part: u64, index: u64| (index + 1) * part / size > index * part / size;
        for index in 0..size {
            let outcome = Outcome { failure: falls_on(failures, index), slow: falls_on(slow, index) };
            self.record(epoch, outcome);
        }
    }
}

/// A count that belongs to an epoch: 16 bits of epoch, 32 bits of a number with a sign. It is below zero for a moment when
/// the one who takes a failure out of the ring is faster than the one who put it there.
#[derive(Debug, Default)]
struct Tally(AtomicU64);

impl Tally {
    fn correct(&self, epoch: u16, plus: u16, minus: u16) {
        if plus == minus {
            return;
        }
        let mut seen = self.0.load(SeqCst);
        loop {
            let of = tag(seen, 32);
            let before = if of == epoch {
                low(seen)
            } else if low(seen) != 0 && (1..=LATEST).contains(&of.wrapping_sub(epoch)) {
                return;
            } else {
                0
            };
            let count = before.wrapping_add(u32::from(plus)).wrapping_sub(u32::from(minus));
            let next = (u64::from(epoch) << 32) | u64::from(count);
            match self.0.compare_exchange_weak(seen, next, SeqCst, SeqCst) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    fn of(&self, epoch: u16) -> u64 {
        let seen = self.0.load(SeqCst);
        if tag(seen, 32) == epoch { u64::try_from(low(seen).cast_signed()).unwrap_or(0) } else { 0 }
    }
}

/// The 16 bits from this one on.
fn tag(word: u64, bits: u32) -> u16 {
    u16::try_from((word >> bits) & 0xffff).unwrap_or(0)
}

/// The lowest 32 bits.
fn low(word: u64) -> u32 {
    u32::try_from(word & 0xffff_ffff).unwrap_or(0)
}
