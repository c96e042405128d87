//! Rate limits: whether a request is within the rate, and if not, when it would be.
//!
//! A [`Limiter`] is a limit's buckets and what they mean. It is shared by all threads, changes nothing but atomic words, and
//! knows neither a clock nor requests: `now` and the hash of a key are passed in. Two of the algorithms are one word of
//! *virtual time* for each bucket (`clock`): the token bucket is GCRA (the generic cell rate algorithm of ITU-T I.371)
//! seen from the other side, and the leaky bucket is its schedule. The rate is not in the word, so that an edit
//! ([`Limiter::edited`]) changes no bucket, whether there is one or a million.
//!
//! What is granted in any span of time is never more than the limit's law allows, but for one rounding that does not add up:
//! a token may come up to its millionth part (2^-20) early. Windows are exact.
//!
//! Several limits on one request take nothing unless all grant: [`Limiter::peek`] at all, then [`Limiter::take`] from all,
//! and [`Limiter::give_back`] when one refuses after all because somebody else was faster.

mod clock;
mod edit;
mod fixed;
mod law;
mod leaky;
mod secret;
mod sliding;
mod store;
mod table;
mod token;

#[cfg(test)]
mod tests;

use std::{num::NonZeroU32, sync::Arc, time::Duration};

pub use self::secret::Secret;
use self::{
    fixed::Fixed,
    law::Law,
    leaky::Leaky,
    sliding::{SLOTS, Sliding},
    store::Store,
    token::Token,
};
use super::Stamp;
use crate::config::{
    policy::{Algorithm, Limit},
    units::Rate,
};

/// What a limiter is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How it counts.
    pub algorithm: Algorithm,
    /// How many it grants in how much time; 1 to [`Limit::MAX_COUNT`].
    pub rate: Rate,
    /// What every request costs, in tokens; 1 when each says that itself. A bucket never holds less.
    pub fixed_cost: u32,
    /// The rate is divided by this: so many instances have it together, each the same part.
    pub share: NonZeroU32,
}

impl Settings {
    /// The most that is granted at once by this instance: the burst's part, rounded up, or the count's part, rounded to the
    /// nearest; at least 1 and at least a request's fixed cost, because else nothing would ever be granted.
    fn most(&self) -> u32 {
        let share = u64::from(self.share.get());
        let part = match self.algorithm {
            Algorithm::TokenBucket { burst } | Algorithm::LeakyBucket { burst, .. } => {
                u64::from(burst.min(Limit::MAX_COUNT)).div_ceil(share)
            }
            Algorithm::SlidingWindow | Algorithm::FixedWindow => {
                (u64::from(clock::count(self.rate)) + share / 2) / share
            }
        };
        u32::try_from(part).unwrap_or(u32::MAX).max(1).max(self.fixed_cost.min(Limit::MAX_COUNT))
    }
}

/// What a limiter says to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It may go, perhaps after a while ([`Taken::wait`]).
    Granted(Taken),
    /// It may not.
    Refused(Refusal),
}

/// What a request was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// What it cost, in tokens.
    pub cost: u32,
    /// Whole tokens that are left after it.
    pub remaining: u32,
    /// How long it has to wait for its turn, exact to a microsecond; not 0 in leaky buckets only.
    pub wait: Duration,
    /// What the algorithm finds the grant by: the word after it, the number of the window or of the slot.
    after: u64,
}

impl Taken {
    const fn at_once(cost: u32, remaining: u32, after: u64) -> Self {
        Self { cost, remaining, wait: Duration::ZERO, after }
    }
}

/// Why a request was not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// After this time it is granted if nobody else comes, and not a microsecond before; `None` when it costs more than is
    /// ever granted at once.
    pub retry_after: Option<Duration>,
    /// Whole tokens that are left; less than it costs.
    pub remaining: u32,
    /// How long until nothing is used any more, or until the window ends.
    pub reset: Duration,
}

/// A rate limit at work. One that was made from another one by an edit shares its buckets where they are the same.
#[derive(Debug, Clone)]
pub struct Limiter {
    settings: Settings,
    /// `None` = one bucket for all.
    max_keys: Option<u32>,
    /// What a stamp lacks to the microseconds since 1970.
    epoch: u64,
    machine: Machine,
}

/// An algorithm and the buckets that it understands.
#[derive(Debug, Clone)]
enum Machine {
    Token(Token, Arc<Store<1>>),
    Leaky(Leaky, Arc<Store<1>>),
    Fixed(Fixed, Arc<Store<1>>),
    Sliding(Sliding, Arc<Store<SLOTS>>),
}

/// Does the same with each of the algorithms.
macro_rules! with {
    ($machine:expr, |$law:ident, $store:ident| $body:expr) => {
        match $machine {
            Machine::Token($law, $store) => $body,
            Machine::Leaky($law, $store) => $body,
            Machine::Fixed($law, $store) => $body,
            Machine::Sliding($law, $store) => $body,
        }
    };
}

impl Limiter {
    /// A limiter from whose buckets nothing was taken. `max_keys` is about how many buckets are kept (up to a quarter more);
    /// `None` is one bucket for all requests. `unix` is the time since 1970 at `now`, by which fixed windows begin.
    pub fn new(settings: Settings, max_keys: Option<u32>, now: Stamp, unix: Duration) -> Self {
        let epoch = clock::micros(unix).saturating_sub(now.as_micros());
        let machine = match settings.algorithm {
            Algorithm::TokenBucket { .. } => {
                let law = Token::new(&settings, now);
                let store = Store::new(&law, max_keys, now);
                Machine::Token(law, Arc::new(store))
            }
            Algorithm::LeakyBucket { max_wait, .. } => {
                let law = Leaky::new(&settings, max_wait, now);
                let store = Store::new(&law, max_keys, now);
                Machine::Leaky(law, Arc::new(store))
            }
            Algorithm::FixedWindow => {
                let law = Fixed::new(&settings, epoch);
                let store = Store::new(&law, max_keys, now);
                Machine::Fixed(law, Arc::new(store))
            }
            Algorithm::SlidingWindow => {
                let law = Sliding::new(&settings);
                let store = Store::new(&law, max_keys, now);
                Machine::Sliding(law, Arc::new(store))
            }
        };
        Self { settings, max_keys, epoch, machine }
    }

    /// What it was made from.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether a request of this cost would be granted now. It takes nothing; a key that is asked about has been seen, and
    /// is not the least recently used. `key` says nothing where there is one bucket for all.
    pub fn peek(&self, key: u64, cost: u32, now: Stamp) -> Decision {
        with!(&self.machine, |law, store| store.decide(law, key, cost, now, false))
    }

    /// Takes what a request costs if it is granted, and nothing else.
    pub fn take(&self, key: u64, cost: u32, now: Stamp) -> Decision {
        with!(&self.machine, |law, store| store.decide(law, key, cost, now, true))
    }

    /// Gives back what was taken for a request that is not made after all: exactly in a token bucket and in windows that
    /// have not passed, and in a leaky bucket if nobody has come since; else the turn is lost.
    pub fn give_back(&self, key: u64, taken: &Taken, now: Stamp) {
        with!(&self.machine, |law, store| store.give_back(law, key, taken, now));
    }

    /// How long one that was granted still waits for its turn, at the rate that this limiter has: to be asked of the newest
    /// one. Never longer than this limiter's `max_wait`.
    pub fn wait_of(&self, taken: &Taken, now: Stamp) -> Duration {
        match &self.machine {
            Machine::Leaky(law, _) => law.wait_of(taken, now),
            Machine::Token(..) | Machine::Fixed(..) | Machine::Sliding(..) => Duration::ZERO,
        }
    }

    /// How long until nothing is used any more if nobody comes after this grant, or until its window ends.
    pub fn reset_of(&self, taken: &Taken, now: Stamp) -> Duration {
        with!(&self.machine, |law, _store| law.reset(taken, now))
    }

    /// Tokens a second, this instance's part.
    pub fn rate_per_second(&self) -> f64 {
        match &self.machine {
            Machine::Token(law, _) => law.clock.per_second(),
            Machine::Leaky(law, _) => law.clock.per_second(),
            Machine::Fixed(..) | Machine::Sliding(..) => {
                f64::from(self.most()) / self.unit().as_secs_f64().max(1e-6)
            }
        }
    }

    /// The most that is granted at once, this instance's part: the burst, or the window's count.
    pub fn most(&self) -> u32 {
        with!(&self.machine, |law, _store| law.most())
    }

    /// How long the window is, or how long an empty bucket takes to fill.
    pub fn unit(&self) -> Duration {
        match &self.machine {
            Machine::Token(law, _) => law.clock.span(self.most()),
            Machine::Leaky(law, _) => law.clock.span(self.most()),
            Machine::Fixed(law, _) => law.unit(),
            Machine::Sliding(law, _) => law.unit(),
        }
    }

    /// To be called about once a minute: keeps buckets that are not used near enough to be told from those of the future
    /// (at the largest rate there has to be a call in each hour), and clears away full ones that were not used for a minute.
    pub fn sweep(&self, now: Stamp) {
        with!(&self.machine, |law, store| store.sweep(law, now));
    }

    /// Buckets that are there.
    pub fn keys(&self) -> usize {
        with!(&self.machine, |_law, store| store.keys())
    }

    /// Buckets that were forgotten before they were full, since this limit began or its `max_keys`, algorithm or window was
    /// changed.
    pub fn evictions(&self) -> u64 {
        with!(&self.machine, |_law, store| store.evictions())
    }
}
