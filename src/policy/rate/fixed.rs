//! The fixed window.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::{
    Decision, Refusal, Settings, Stamp, Taken,
    clock::{micros, units},
    law::{Law, Level},
};

/// A bucket: 34 bits of the window's number (at one a second until the year 2514), 30 bits of what is used in it.
const USED_BITS: u32 = 30;
const MOST_USED: u64 = (1 << USED_BITS) - 1;

/// Windows begin at whole multiples of the rate's unit since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fixed {
    most: u32,
    /// In microseconds.
    unit: u64,
    /// What a stamp lacks to the microseconds since 1970.
    epoch: u64,
}

/// A window and what is used in it.
#[derive(Clone, Copy)]
struct Window {
    number: u64,
    used: u64,
}

impl Window {
    const fn word(self) -> u64 {
        let used = if self.used > MOST_USED { MOST_USED } else { self.used };
        (self.number << USED_BITS) | used
    }
}

impl Fixed {
    pub(super) fn new(settings: &Settings, epoch: u64) -> Self {
        Self { most: settings.most(), unit: micros(settings.rate.per).max(1), epoch }
    }

    pub(super) fn unit(&self) -> Duration {
        Duration::from_micros(self.unit)
    }

    /// The window that this moment is in. One that others have seen the end of has ended, for a thread whose `now` is a
    /// little old too.
    fn window(&self, word: u64, now: Stamp) -> Window {
        let number = now.as_micros().wrapping_add(self.epoch) / self.unit;
        if word >> USED_BITS < number {
            Window { number, used: 0 }
        } else {
            Window { number: word >> USED_BITS, used: word & MOST_USED }
        }
    }

    /// How long until that window ends.
    fn left(&self, number: u64, now: Stamp) -> Duration {
        let end = number.saturating_add(1).saturating_mul(self.unit);
        Duration::from_micros(end.saturating_sub(now.as_micros().wrapping_add(self.epoch)))
    }

    fn remaining(&self, used: u64) -> u32 {
        self.most.saturating_sub(u32::try_from(used).unwrap_or(u32::MAX))
    }
}

impl Law<1> for Fixed {
    fn most(&self) -> u32 {
        self.most
    }

    fn fresh(&self, now: Stamp) -> [u64; 1] {
        [self.window(0, now).word()]
    }

    fn decide(&self, [word]: &[AtomicU64; 1], cost: u32, now: Stamp, take: bool) -> Decision {
        let mut seen = word.load(Relaxed);
        loop {
            let Window { number, used } = self.window(seen, now);
            let next = used + u64::from(cost);
            if next > u64::from(self.most) {
                let left = self.left(number, now);
                return Decision::Refused(Refusal {
                    retry_after: (cost <= self.most).then_some(left),
                    remaining: self.remaining(used),
                    reset: left,
                });
            }
            let word_then = Window { number, used: next }.word();
            if take && let Err(found) = word.compare_exchange_weak(seen, word_then, Relaxed, Relaxed) {
                seen = found;
                continue;
            }
            return Decision::Granted(Taken::at_once(cost, self.remaining(next), number));
        }
    }

    /// A window that has passed gets nothing back.
    fn give_back(&self, [word]: &[AtomicU64; 1], taken: &Taken, _: Stamp) {
        let given = |word: u64| {
            let (number, used) = (word >> USED_BITS, word & MOST_USED);
            let used = used.saturating_sub(u64::from(taken.cost));
            (number == taken.after).then_some(Window { number, used }.word())
        };
        // The window has passed.
        let _ = word.fetch_update(Relaxed, Relaxed, given);
    }

    fn reset(&self, taken: &Taken, now: Stamp) -> Duration {
        self.left(taken.after, now)
    }

    fn is_full(&self, [word]: &[AtomicU64; 1], now: Stamp) -> bool {
        self.window(word.load(Relaxed), now).used == 0
    }

    /// Numbers of windows do not come round.
    fn bring_near(&self, _: &[AtomicU64; 1], _: Stamp) {}

    fn level(&self, [word]: &[AtomicU64; 1], now: Stamp) -> Level {
        Level { used: self.window(word.load(Relaxed), now).used * units(1), most: self.most }
    }

    fn filled(&self, level: Level, now: Stamp) -> [u64; 1] {
        [Window { used: level.tokens(), ..self.window(0, now) }.word()]
    }
}
