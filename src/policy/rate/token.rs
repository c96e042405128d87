//! The token bucket.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::{
    Decision, Refusal, Settings, Stamp, Taken,
    clock::{Clock, is_after, tokens, units},
    law::{Law, Level},
};

/// A bucket is the moment of virtual time at which it was last empty: what the clock has gone on since then is in it, up
/// to the burst.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) clock: Clock,
    most: u32,
    /// Where a bucket that was full under a smaller burst is taken to have been empty: more burst refills nothing.
    floor: u64,
    /// From this moment on, in microseconds, the burst alone says more.
    floor_until: u64,
}

/// What a bucket holds at a moment.
struct Held {
    /// When it was empty.
    empty: u64,
    /// Units in it.
    units: u64,
}

impl Token {
    pub(super) fn new(settings: &Settings, now: Stamp) -> Self {
        Self {
            clock: Clock::new(settings.rate, settings.share, now),
            most: settings.most(),
            floor: 0,
            floor_until: 0,
        }
    }

    /// Tokens stay, up to the new burst.
    pub(super) fn edited(&self, settings: &Settings, now: Stamp) -> Self {
        let clock = self.clock.edited(settings.rate, settings.share, now);
        let most = settings.most();
        let floor = self.low(clock.read(now), now);
        let left = clock.until(floor.wrapping_add(units(most)), now);
        Self { clock, most, floor, floor_until: now.after(left).as_micros() }
    }

    /// When a bucket that is as full as can be was empty.
    fn low(&self, at: u64, now: Stamp) -> u64 {
        let low = at.wrapping_sub(units(self.most));
        if now.as_micros() < self.floor_until && is_after(self.floor, low) { self.floor } else { low }
    }

    fn held(&self, word: u64, now: Stamp) -> Held {
        let at = self.clock.read(now);
        let low = self.low(at, now);
        // `word` may be a little after the clock: another thread's `now` was later.
        let empty = if is_after(word, low) { word } else { low };
        Held { empty, units: at.wrapping_sub(low).saturating_sub(empty.wrapping_sub(low)) }
    }
}

impl Law<1> for Token {
    fn most(&self) -> u32 {
        self.most
    }

    fn fresh(&self, now: Stamp) -> [u64; 1] {
        [self.low(self.clock.read(now), now)]
    }

    fn decide(&self, [word]: &[AtomicU64; 1], cost: u32, now: Stamp, take: bool) -> Decision {
        let price = units(cost);
        let mut seen = word.load(Relaxed);
        loop {
            let held = self.held(seen, now);
            if held.units < price {
                let never = cost > self.most;
                let until = |moment: u64| self.clock.until(moment, now);
                return Decision::Refused(Refusal {
                    retry_after: (!never).then(|| until(held.empty.wrapping_add(price))),
                    remaining: tokens(held.units),
                    reset: until(held.empty.wrapping_add(units(self.most))),
                });
            }
            let next = held.empty.wrapping_add(price);
            if take && let Err(found) = word.compare_exchange_weak(seen, next, Relaxed, Relaxed) {
                seen = found;
                continue;
            }
            return Decision::Granted(Taken::at_once(cost, tokens(held.units - price), next));
        }
    }

    fn give_back(&self, [word]: &[AtomicU64; 1], taken: &Taken, _: Stamp) {
        word.fetch_sub(units(taken.cost), Relaxed);
    }

    fn reset(&self, taken: &Taken, now: Stamp) -> Duration {
        self.clock.until(taken.after.wrapping_add(units(self.most)), now)
    }

    fn is_full(&self, [word]: &[AtomicU64; 1], now: Stamp) -> bool {
        !is_after(word.load(Relaxed), self.low(self.clock.read(now), now))
    }

    fn bring_near(&self, [word]: &[AtomicU64; 1], now: Stamp) {
        let (seen, low) = (word.load(Relaxed), self.low(self.clock.read(now), now));
        if !is_after(seen, low) {
            // Whoever was faster has brought it nearer.
            let _ = word.compare_exchange(seen, low, Relaxed, Relaxed);
        }
    }

    fn level(&self, [word]: &[AtomicU64; 1], now: Stamp) -> Level {
        let held = self.held(word.load(Relaxed), now);
        Level { used: units(self.most).saturating_sub(held.units), most: self.most }
    }

    fn filled(&self, level: Level, now: Stamp) -> [u64; 1] {
        let at = self.clock.read(now);
        let low = at.wrapping_sub(units(self.most));
        [low.wrapping_add(level.used.min(units(self.most)))]
    }
}
