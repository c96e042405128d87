//! Tokens that were taken ahead: one atomic word.

use std::{
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    time::Duration,
};

use crate::policy::Stamp;

const LEFT_BITS: u32 = 22;
const UNTIL_BITS: u32 = 26;
/// The most that a lease holds.
pub(super) const MOST: u32 = (1 << LEFT_BITS) - 1;
const UNTIL_MASK: u64 = (1 << UNTIL_BITS) - 1;

const COST_BITS: u32 = 30;
const COST_MASK: u64 = (1 << COST_BITS) - 1;

/// Moments in words are in units of 1024 µs.
const UNIT_SHIFT: u32 = 10;

/// Tokens left, until when they may be used, and whose they are: 22, 26 and 16 bits.
///
/// The moment wraps every 19 hours; whatever is older than its moment is taken out long before that. The last 16 bits
/// change when the lease is given to another key, so that a worker that has read the word of the one before cannot
/// take from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Word(u64);

impl Word {
    const fn new(left: u32, until: u64, owner: u16) -> Self {
        Self(
            (left as u64)
                | ((until & UNTIL_MASK) << LEFT_BITS)
                | ((owner as u64) << (LEFT_BITS + UNTIL_BITS)),
        )
    }

    #[expect(clippy::cast_possible_truncation, reason = "22 bits")]
    const fn left(self) -> u32 {
        (self.0 & MOST as u64) as u32
    }

    const fn until(self) -> u64 {
        (self.0 >> LEFT_BITS) & UNTIL_MASK
    }

    const fn owner(self) -> u16 {
        (self.0 >> (LEFT_BITS + UNTIL_BITS)) as u16
    }

    /// Whether its tokens may be used.
    const fn holds(self, now: Stamp) -> bool {
        let ahead = self.until().wrapping_sub(now.as_micros() >> UNIT_SHIFT) & UNTIL_MASK;
        ahead != 0 && ahead < UNTIL_MASK / 2
    }
}

/// What a lease says to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// It goes. `more` says that the lease should be filled up; it says so once.
    Granted { left: u32, more: bool },
    /// It was refused a moment ago, for so much longer.
    Refused(Duration),
    /// Nothing is known: ask.
    Nothing,
}

/// A lease. Workers take from it and give back; only the thread fills it.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// Whose it is; 0 = nobody's.
    tag: AtomicU64,
    word: AtomicU64,
    /// The cheapest that was refused (30 bits), and until when (34 bits).
    refused: AtomicU64,
    /// What Redis had left when it was last asked.
    beyond: AtomicU32,
    /// Below this more is asked for; 0 when that was done.
    low: AtomicU32,
    /// What was refused here since the thread last looked.
    missed: AtomicU32,
    /// When it was last used, in units of 1024 µs.
    used: AtomicU32,
}

impl Lease {
    /// Takes `cost`, for the owner of `tag`.
    pub(super) fn take(&self, tag: u64, cost: u32, now: Stamp) -> Held {
        let used = units(now);
        if self.used.load(Relaxed) != used {
            self.used.store(used, Relaxed);
        }
        let mut word = Word(self.word.load(Acquire));
        loop {
            if self.tag.load(Acquire) != tag {
                return Held::Nothing;
            }
            if cost > word.left() || !word.holds(now) {
                return self.remembered(tag, cost, now);
            }
            let taken = word.0 - u64::from(cost);
            match self.word.compare_exchange_weak(word.0, taken, Acquire, Acquire) {
                Ok(_) => {
                    let left = Word(taken).left();
                    let more = left < self.low.load(Relaxed) && self.wants_more(now);
                    return Held::Granted { left, more };
                }
                Err(found) => word = Word(found),
            }
        }
    }

    fn remembered(&self, tag: u64, cost: u32, now: Stamp) -> Held {
        let refused = self.refused.load(Acquire);
        let until = Stamp::from_micros((refused >> COST_BITS) << UNIT_SHIFT);
        if refused == 0
            || u64::from(cost) < refused & COST_MASK
            || until <= now
            || self.tag.load(Acquire) != tag
        {
            return Held::Nothing;
        }
        self.missed.fetch_add(cost, Relaxed);
        Held::Refused(until.since(now))
    }

    /// Whether this one is to ask for more; not while there was nothing a moment ago.
    fn wants_more(&self, now: Stamp) -> bool {
        let refused = self.refused.load(Relaxed);
        let until = (refused >> COST_BITS) << UNIT_SHIFT;
        until <= now.as_micros() && self.low.swap(0, Relaxed) != 0
    }

    /// What Redis had left when it was last asked.
    pub(super) fn beyond(&self) -> u32 {
        self.beyond.load(Relaxed)
    }

    /// Puts back what a request took. Whether those tokens may still be used is as it was before.
    pub(super) fn give_back(&self, tag: u64, cost: u32) {
        let mut word = Word(self.word.load(Acquire));
        while self.tag.load(Acquire) == tag && cost <= MOST - word.left() {
            match self.word.compare_exchange_weak(word.0, word.0 + u64::from(cost), Release, Acquire) {
                Ok(_) => return,
                Err(found) => word = Word(found),
            }
        }
    }

    pub(super) fn tag(&self) -> u64 {
        self.tag.load(Acquire)
    }

    /// When it was last used, for comparing.
    pub(super) fn last_used(&self) -> u32 {
        self.used.load(Relaxed)
    }

    /// How long nobody has used it.
    pub(super) fn idle(&self, now: Stamp) -> Duration {
        let units = units(now).wrapping_sub(self.last_used());
        Duration::from_micros(if units > u32::MAX / 2 { 0 } else { u64::from(units) << UNIT_SHIFT })
    }

    /// Gives it to another owner (0 = nobody); nothing of the one before stays. Only the thread may.
    pub(super) fn assign(&self, tag: u64, now: Stamp) {
        self.tag.store(0, Release);
        let owner = Word(self.word.load(Relaxed)).owner().wrapping_add(1);
        self.word.swap(Word::new(0, now.as_micros() >> UNIT_SHIFT, owner).0, AcqRel);
        for word in [&self.beyond, &self.low, &self.missed] {
            word.store(0, Relaxed);
        }
        self.refused.store(0, Relaxed);
        self.used.store(units(now), Relaxed);
        self.tag.store(tag, Release);
    }

    /// Tokens left, whether or not they may be used.
    pub(super) fn left(&self) -> u32 {
        Word(self.word.load(Relaxed)).left()
    }

    /// Whether its tokens may be used.
    pub(super) fn holds(&self, now: Stamp) -> bool {
        Word(self.word.load(Relaxed)).holds(now)
    }

    /// Takes out all that is left. Only the thread may.
    pub(super) fn empty(&self) -> u32 {
        let mut word = Word(self.word.load(Relaxed));
        while word.left() > 0 {
            let empty = Word::new(0, word.until(), word.owner());
            match self.word.compare_exchange_weak(word.0, empty.0, Acquire, Relaxed) {
                Ok(_) => break,
                Err(found) => word = Word(found),
            }
        }
        word.left()
    }

    /// Puts tokens in, which may be used until then, together with those that are there. Returns what did not fit.
    /// Only the thread may.
    pub(super) fn fill(&self, tokens: u32, until: Stamp) -> u32 {
        // Rounded down: not a moment longer than they may.
        let until = until.as_micros() >> UNIT_SHIFT;
        let mut word = Word(self.word.load(Relaxed));
        loop {
            let fits = tokens.min(MOST - word.left());
            let full = Word::new(word.left() + fits, until, word.owner());
            match self.word.compare_exchange_weak(word.0, full.0, Release, Relaxed) {
                Ok(_) => return tokens - fits,
                Err(found) => word = Word(found),
            }
        }
    }

    /// Says what Redis has left, and that more is to be asked for when less than `low` is here.
    pub(super) fn mark(&self, beyond: u32, low: u32) {
        self.beyond.store(beyond, Relaxed);
        self.low.store(low, Relaxed);
    }

    /// Remembers that `cost` was refused until then; costs above the most that fits are remembered as that.
    pub(super) fn refuse(&self, cost: u32, until: Stamp) {
        // Rounded up: it may go then.
        let units = until.as_micros().div_ceil(1 << UNIT_SHIFT);
        let cost = u64::from(cost).min(COST_MASK);
        self.refused.store((units << COST_BITS) | cost, Release);
    }

    /// Forgets that something was refused.
    pub(super) fn forget(&self) {
        self.refused.store(0, Release);
    }

    /// What was refused here since this was last asked.
    pub(super) fn missed(&self) -> u32 {
        self.missed.swap(0, Relaxed)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "it is compared by difference: 50 days")]
const fn units(now: Stamp) -> u32 {
    (now.as_micros() >> UNIT_SHIFT) as u32
}

#[cfg(test)]
mod tests;
