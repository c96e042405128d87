//! The sliding window.

use std::{
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::Duration,
};

use super::{
    Decision, Refusal, Settings, Stamp, Taken,
    clock::{micros, units},
    law::{Law, Level},
};

/// So many slots of time are looked at: the one that is now, and 15 that together are at least as long as the unit.
pub(super) const SLOTS: usize = 16;
const PAST: u64 = SLOTS as u64 - 1;

/// A word: 33 bits of the slot's number (at one a second they come round after 18 years), a bit that says that the slot is
/// sealed, and 30 bits of what was granted in it.
const USED_BITS: u32 = 30;
const MOST_USED: u64 = (1 << USED_BITS) - 1;
const SEALED: u64 = 1 << USED_BITS;
const NUMBER: u32 = USED_BITS + 1;
const NUMBERS: u64 = (1 << (64 - NUMBER)) - 1;

/// At most the rate's count in any window that is as long as the rate's unit: what was granted is forgotten between 1 and
/// 1 + 1/15 units later.
///
/// The newest slot is the only one that grows. Who opens a newer one first *seals* all that are older, makes them the
/// slots that come right before its own, reads them, and only then opens its own; whoever would add to a sealed slot fails
/// and moves on to the newer one. So nothing is granted that the one who opened has not seen. Everything is `SeqCst`: the
/// argument is about one order of all words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sliding {
    most: u32,
    /// In microseconds.
    unit: u64,
    /// Of a slot, in microseconds: the unit's 15th part, rounded up.
    width: u64,
}

/// What was read of one slot.
#[derive(Clone, Copy)]
struct Slot(u64);

impl Slot {
    const fn new(number: u64, sealed: bool, used: u64) -> Self {
        let used = if used > MOST_USED { MOST_USED } else { used };
        Self((number << NUMBER) | if sealed { SEALED } else { 0 } | used)
    }

    const fn number(self) -> u64 {
        self.0 >> NUMBER
    }

    const fn is_sealed(self) -> bool {
        self.0 & SEALED != 0
    }

    const fn used(self) -> u64 {
        self.0 & MOST_USED
    }

    /// How many slots before `number` this one is, round the circle; `None` when it is after it.
    const fn age(self, number: u64) -> Option<u64> {
        let age = number.wrapping_sub(self.number()) & NUMBERS;
        if age <= NUMBERS / 2 { Some(age) } else { None }
    }
}

/// What the slots come to.
struct Sum {
    /// In all of them.
    used: u64,
    /// In the newest one.
    own: u64,
    /// The newest slot there is.
    newest: u64,
}

impl Sliding {
    pub(super) fn new(settings: &Settings) -> Self {
        let unit = micros(settings.rate.per).max(1);
        Self { most: settings.most(), unit, width: unit.div_ceil(PAST) }
    }

    pub(super) fn unit(&self) -> Duration {
        Duration::from_micros(self.unit)
    }

    fn number(&self, now: Stamp) -> u64 {
        (now.as_micros() / self.width) & NUMBERS
    }

    /// How long until what was granted in this slot is forgotten.
    fn forgotten(&self, number: u64, now: Stamp) -> Duration {
        // The stamp's own number is not folded; the slot is at most a few away from it.
        let now_in = now.as_micros() / self.width;
        let ahead = number.wrapping_sub(now_in) & NUMBERS;
        let ahead = if ahead <= NUMBERS / 2 { ahead } else { 0_u64.wrapping_sub(NUMBERS + 1 - ahead) };
        let end = now_in.wrapping_add(ahead).wrapping_add(SLOTS as u64).saturating_mul(self.width);
        Duration::from_micros(end.saturating_sub(now.as_micros()))
    }

    /// What was granted in the slot of this number and the 15 before it; newer ones count too, for a late reader.
    fn sum(words: &[AtomicU64; SLOTS], number: u64) -> Sum {
        let mut sum = Sum { used: 0, own: 0, newest: number };
        let slots = words.each_ref().map(|word| Slot(word.load(SeqCst)));
        for slot in slots {
            if slot.age(sum.newest).is_none() {
                sum.newest = slot.number();
            }
        }
        for slot in slots {
            if slot.age(sum.newest).is_some_and(|age| age <= PAST) {
                sum.used += slot.used();
            }
            if slot.number() == sum.newest {
                sum.own = slot.used();
            }
        }
        sum
    }

    /// The word of the slot.
    fn word(words: &[AtomicU64; SLOTS], number: u64) -> Option<&AtomicU64> {
        usize::try_from(number % SLOTS as u64).ok().and_then(|index| words.get(index))
    }

    /// Makes the words those of the 15 slots before this one, sealed. `Err` is a newer slot that is there already.
    fn seal(words: &[AtomicU64; SLOTS], number: u64) -> Result<(), u64> {
        for age in 1..=PAST {
            let of = number.wrapping_sub(age) & NUMBERS;
            let Some(word) = Self::word(words, of) else { continue };
            let mut seen = Slot(word.load(SeqCst));
            loop {
                let sealed = match seen.age(of) {
                    None => return Err(seen.number()),
                    Some(0) if seen.is_sealed() => break,
                    Some(0) => Slot::new(of, true, seen.used()),
                    Some(_) => Slot::new(of, true, 0),
                };
                match word.compare_exchange(seen.0, sealed.0, SeqCst, SeqCst) {
                    Ok(_) => break,
                    Err(found) => seen = Slot(found),
                }
            }
        }
        Ok(())
    }

    /// Takes in that slot; `Err` is the slot to try next.
    fn take_in(&self, words: &[AtomicU64; SLOTS], number: u64, cost: u32) -> Result<Option<u64>, u64> {
        let Some(word) = Self::word(words, number) else { return Ok(None) };
        let seen = Slot(word.load(SeqCst));
        let own = match seen.age(number) {
            None => return Err(seen.number()),
            Some(0) if seen.is_sealed() => return Err(number.wrapping_add(1) & NUMBERS),
            Some(0) => seen.used(),
            Some(_) => {
                Self::seal(words, number)?;
                0
            }
        };
        let sum = Self::sum(words, number);
        if sum.newest != number {
            return Err(sum.newest);
        }
        // Its own word was read twice, and may have changed and changed back in between: the first is what is swapped.
        let used = sum.used - sum.own + own + u64::from(cost);
        if used > u64::from(self.most) {
            return Ok(None);
        }
        let next = Slot::new(number, false, own + u64::from(cost));
        match word.compare_exchange(seen.0, next.0, SeqCst, SeqCst) {
            Ok(_) => Ok(Some(used)),
            Err(_) => Err(number),
        }
    }

    /// How long until enough is forgotten for this cost, and until all is.
    fn refused(&self, words: &[AtomicU64; SLOTS], cost: u32, now: Stamp) -> Refusal {
        let sum = Self::sum(words, self.number(now));
        let mut left = sum.used;
        let mut refusal =
            Refusal { retry_after: None, remaining: self.remaining(left), reset: Duration::ZERO };
        for age in (0..=PAST).rev() {
            let number = sum.newest.wrapping_sub(age) & NUMBERS;
            let slot = Self::word(words, number).map_or(Slot(0), |word| Slot(word.load(SeqCst)));
            if slot.number() != number || slot.used() == 0 {
                continue;
            }
            left = left.saturating_sub(slot.used());
            refusal.reset = self.forgotten(number, now);
            if refusal.retry_after.is_none() && left + u64::from(cost) <= u64::from(self.most) {
                refusal.retry_after = Some(refusal.reset);
            }
        }
        // What was taken may have been given back in the meantime.
        refusal.retry_after = refusal.retry_after.or((cost <= self.most).then_some(refusal.reset));
        refusal
    }

    fn remaining(&self, used: u64) -> u32 {
        self.most.saturating_sub(u32::try_from(used).unwrap_or(u32::MAX))
    }
}

impl Law<SLOTS> for Sliding {
    fn most(&self) -> u32 {
        self.most
    }

    fn fresh(&self, now: Stamp) -> [u64; SLOTS] {
        self.filled(Level { used: 0, most: self.most }, now)
    }

    fn decide(&self, words: &[AtomicU64; SLOTS], cost: u32, now: Stamp, take: bool) -> Decision {
        let mut number = self.number(now);
        let granted = if take {
            loop {
                match self.take_in(words, number, cost) {
                    Ok(granted) => break granted,
                    Err(newer) => number = newer,
                }
            }
        } else {
            let sum = Self::sum(words, number);
            number = sum.newest;
            Some(sum.used + u64::from(cost)).filter(|used| *used <= u64::from(self.most))
        };
        match granted {
            Some(used) => Decision::Granted(Taken::at_once(cost, self.remaining(used), number)),
            None => Decision::Refused(self.refused(words, cost, now)),
        }
    }

    /// A slot that is forgotten gets nothing back. A sealed one does: whoever has read it saw more than there is.
    fn give_back(&self, words: &[AtomicU64; SLOTS], taken: &Taken, _: Stamp) {
        let given = |word: u64| {
            let slot = Slot(word);
            let used = slot.used().saturating_sub(u64::from(taken.cost));
            (slot.number() == taken.after).then_some(Slot::new(slot.number(), slot.is_sealed(), used).0)
        };
        if let Some(word) = Self::word(words, taken.after) {
            // It is forgotten.
            let _ = word.fetch_update(SeqCst, SeqCst, given);
        }
    }

    fn reset(&self, taken: &Taken, now: Stamp) -> Duration {
        self.forgotten(taken.after, now)
    }

    fn is_full(&self, words: &[AtomicU64; SLOTS], now: Stamp) -> bool {
        Self::sum(words, self.number(now)).used == 0
    }

    /// Numbers of slots come round after years only.
    fn bring_near(&self, _: &[AtomicU64; SLOTS], _: Stamp) {}

    fn level(&self, words: &[AtomicU64; SLOTS], now: Stamp) -> Level {
        Level { used: Self::sum(words, self.number(now)).used * units(1), most: self.most }
    }

    /// What is used is taken to have been granted now.
    fn filled(&self, level: Level, now: Stamp) -> [u64; SLOTS] {
        let number = self.number(now);
        let mut words = [0; SLOTS];
        for age in 0..=PAST {
            let of = number.wrapping_sub(age) & NUMBERS;
            let slot = if age == 0 { Slot::new(of, false, level.tokens()) } else { Slot::new(of, true, 0) };
            if let Some(word) = usize::try_from(of % SLOTS as u64).ok().and_then(|index| words.get_mut(index))
            {
                *word = slot.0;
            }
        }
        words
    }
}
