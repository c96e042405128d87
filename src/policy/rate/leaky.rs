//! The leaky bucket, which paces.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::{
    Decision, Refusal, Settings, Stamp, Taken,
    clock::{Clock, ahead, is_after, tokens, units},
    law::{Law, Level},
};

/// A bucket is the moment of virtual time at which the last request that was granted has been paid for: the next one
/// leaves then, or at once when that is past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaky {
    pub(super) clock: Clock,
    most: u32,
    max_wait: Duration,
    /// As virtual time.
    longest: u64,
}

impl Leaky {
    pub(super) fn new(settings: &Settings, max_wait: Duration, now: Stamp) -> Self {
        Self::running(settings, max_wait, Clock::new(settings.rate, settings.share, now))
    }

    /// The queue stays; it moves on at the new rate.
    pub(super) fn edited(&self, settings: &Settings, max_wait: Duration, now: Stamp) -> Self {
        Self::running(settings, max_wait, self.clock.edited(settings.rate, settings.share, now))
    }

    fn running(settings: &Settings, max_wait: Duration, clock: Clock) -> Self {
        Self { longest: clock.distance(max_wait), clock, most: settings.most(), max_wait }
    }

    /// How long one that was granted waits from now on.
    pub(super) fn wait_of(&self, taken: &Taken, now: Stamp) -> Duration {
        let turn = taken.after.wrapping_sub(units(taken.cost));
        self.clock.until(turn, now).min(self.max_wait)
    }

    /// What may be ahead of a request of this price.
    fn slack(&self, price: u64) -> u64 {
        units(self.most).saturating_sub(price).min(self.longest)
    }

    /// How many requests of cost 1 would be granted now.
    fn remaining(&self, queued: u64) -> u32 {
        match self.slack(units(1)).checked_sub(queued) {
            Some(left) => tokens(left) + 1,
            None => 0,
        }
    }
}

impl Law<1> for Leaky {
    fn most(&self) -> u32 {
        self.most
    }

    fn fresh(&self, now: Stamp) -> [u64; 1] {
        [self.clock.read(now)]
    }

    fn decide(&self, [word]: &[AtomicU64; 1], cost: u32, now: Stamp, take: bool) -> Decision {
        let (price, at) = (units(cost), self.clock.read(now));
        let slack = self.slack(price);
        let mut seen = word.load(Relaxed);
        loop {
            let queued = ahead(seen, at);
            if cost > self.most || queued > slack {
                let granted = seen.wrapping_sub(slack);
                return Decision::Refused(Refusal {
                    retry_after: (cost <= self.most).then(|| self.clock.until(granted, now)),
                    remaining: self.remaining(queued),
                    reset: self.clock.until(seen, now),
                });
            }
            // Who finds nobody ahead leaves now.
            let turn = if queued > 0 { seen } else { at };
            let next = turn.wrapping_add(price);
            if take && let Err(found) = word.compare_exchange_weak(seen, next, Relaxed, Relaxed) {
                seen = found;
                continue;
            }
            let wait = if queued > 0 { self.clock.until(seen, now) } else { Duration::ZERO };
            let remaining = self.remaining(ahead(next, at));
            return Decision::Granted(Taken { cost, remaining, wait, after: next });
        }
    }

    /// Only when nobody came after it: their turns are promised.
    fn give_back(&self, [word]: &[AtomicU64; 1], taken: &Taken, _: Stamp) {
        let turn = taken.after.wrapping_sub(units(taken.cost));
        // Somebody did.
        let _ = word.compare_exchange(taken.after, turn, Relaxed, Relaxed);
    }

    fn reset(&self, taken: &Taken, now: Stamp) -> Duration {
        self.clock.until(taken.after, now)
    }

    fn is_full(&self, [word]: &[AtomicU64; 1], now: Stamp) -> bool {
        !is_after(word.load(Relaxed), self.clock.read(now))
    }

    fn bring_near(&self, [word]: &[AtomicU64; 1], now: Stamp) {
        let (seen, at) = (word.load(Relaxed), self.clock.read(now));
        if !is_after(seen, at) {
            // Whoever was faster has brought it nearer.
            let _ = word.compare_exchange(seen, at, Relaxed, Relaxed);
        }
    }

    fn level(&self, [word]: &[AtomicU64; 1], now: Stamp) -> Level {
        Level { used: ahead(word.load(Relaxed), self.clock.read(now)), most: self.most }
    }

    fn filled(&self, level: Level, now: Stamp) -> [u64; 1] {
        [self.clock.read(now).wrapping_add(level.used.min(units(self.most)))]
    }
}
