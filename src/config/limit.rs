//! Validated rate limits.

use std::time::Duration;

use http::HeaderName;

use super::{
    Name,
    policy::{KeyPart, Match},
    units::Rate,
};

/// A rate limit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Limit {
    /// Its name.
    pub name: Name,
    /// Which requests it counts; empty = all.
    pub matches: Match,
    /// How many it grants in how much time; at most [`Limit::MAX_COUNT`].
    pub rate: Rate,
    /// How it counts.
    pub algorithm: Algorithm,
    /// What a bucket is for; empty = one bucket for all requests.
    pub key: Vec<KeyPart>,
    /// Most buckets; the least recently used goes. Default 10,000.
    pub max_keys: u32,
    /// Whether the rate is each instance's own, or all instances' of the service together. Default instance.
    pub scope: LimitScope,
    /// How instances share the rate when the scope is the service. Default even.
    pub share: LimitShare,
    /// How much of the rate one request takes. Default 1.
    pub cost: Cost,
    /// Whether it acts. Default on.
    pub state: LimitState,
    /// Which answers carry `RateLimit` and `RateLimit-Policy`. Default those that it refused.
    pub headers: LimitHeaders,
}

impl Limit {
    /// The largest number in a rate or a burst.
    pub const MAX_COUNT: u32 = 1_000_000_000;
}

/// How a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// A bucket of `burst` tokens that fills at the rate.
    TokenBucket {
        /// Most tokens. Default: one second's worth, at least 1.
        burst: u32,
    },
    /// Requests leave at the rate.
    LeakyBucket {
        /// How many may be ahead of the rate. Default: one second's worth, at least 1.
        burst: u32,
        /// How long a request may wait for its turn; 0 = it is refused. Default 0.
        max_wait: Duration,
    },
    /// At most the rate's count in any window that is as long as the rate's unit.
    SlidingWindow,
    /// At most the rate's count in each window that is as long as the rate's unit.
    FixedWindow,
}

/// Whose rate it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LimitScope {
    /// Each instance has all of it.
    #[default]
    Instance,
    /// All live instances of the service have it together.
    Service,
}

/// How instances share a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LimitShare {
    /// Each has the same part.
    #[default]
    Even,
    /// Exactly, by counting in Redis; even parts while it is away.
    Redis,
}

/// How much of the rate one request takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Cost {
    /// This much.
    Fixed(u32),
    /// What this header of the request says; 1 without it.
    Header(HeaderName),
}

/// Whether a limit acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LimitState {
    /// It refuses what is above the rate.
    #[default]
    On,
    /// It does nothing.
    Off,
    /// It counts what it would refuse, and grants it.
    Observe,
}

/// Which answers say what is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LimitHeaders {
    /// Those that were refused.
    #[default]
    OnRefusal,
    /// All.
    Always,
}
