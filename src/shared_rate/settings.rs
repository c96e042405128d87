//! What a shared limit counts by.

use std::{num::NonZeroU32, time::Duration};

use super::BATCH;
use crate::config::{
    policy::{Algorithm, Limit},
    units::Rate,
};

/// How many slots of a sliding window make its unit.
pub(super) const SLOTS: u32 = 15;

/// What a shared limit counts by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Settings {
    /// The rate of all instances together.
    pub rate: Rate,
    /// How it counts.
    pub algorithm: Algorithm,
    /// Most leases of single keys; `None` = one for all requests.
    pub max_keys: Option<u32>,
    /// How many instances are alive: together they lease at most a quarter of the burst ahead. Nothing else depends on it.
    pub instances: NonZeroU32,
}

impl Settings {
    /// Those of a limit.
    pub fn of(limit: &Limit, instances: NonZeroU32) -> Self {
        let max_keys = if limit.key.is_empty() { None } else { Some(limit.max_keys) };
        Self { rate: limit.rate, algorithm: limit.algorithm, max_keys, instances }
    }

    /// Whether what was counted by `other` goes on.
    pub(super) fn continues(&self, other: &Self) -> bool {
        self.max_keys == other.max_keys && self.space() == other.space()
    }

    /// What tells counts apart that cannot be each other's: the algorithm, and the unit of a window.
    pub(super) fn space(&self) -> String {
        match self.algorithm {
            Algorithm::TokenBucket { .. } => "t".to_owned(),
            Algorithm::LeakyBucket { .. } => "l".to_owned(),
            Algorithm::SlidingWindow => format!("s{}", self.per()),
            Algorithm::FixedWindow => format!("f{}", self.per()),
        }
    }

    /// The rate's number; at most [`Limit::MAX_COUNT`].
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.rate.count).unwrap_or(u32::MAX).clamp(1, Limit::MAX_COUNT)
    }

    /// The rate's unit in seconds.
    pub(super) fn per(&self) -> u64 {
        self.rate.per.as_secs().max(1)
    }

    /// The most that one request can get: the burst, or a window's count.
    pub fn most(&self) -> u32 {
        match self.algorithm {
            Algorithm::TokenBucket { burst } | Algorithm::LeakyBucket { burst, .. } => {
                burst.clamp(1, Limit::MAX_COUNT)
            }
            Algorithm::SlidingWindow | Algorithm::FixedWindow => self.count(),
        }
    }

    /// Whether turns are given instead of tokens. A turn that nobody uses is lost, so none is leased ahead.
    pub(super) fn paced(&self) -> bool {
        matches!(self.algorithm, Algorithm::LeakyBucket { .. })
    }

    /// The most that one instance leases ahead.
    pub(super) fn most_ahead(&self) -> u32 {
        if self.paced() { 0 } else { self.most() / 4 / self.instances }
    }

    /// How much of its own use an instance leases ahead. Less where tokens are good for a slot only: what is left at its
    /// end has to go back first.
    pub(super) fn batch(&self) -> Duration {
        match self.algorithm {
            Algorithm::SlidingWindow => BATCH.min(self.rate.per / SLOTS / 4),
            _ => BATCH,
        }
    }

    /// How long a refusal is kept at least. Long enough that a limit whose rate is high does not cost a round trip per
    /// refused request; short enough that a bucket that fills meanwhile does not overflow.
    pub(super) fn least_pause(&self) -> Duration {
        const MOST: Duration = Duration::from_millis(10);
        match self.algorithm {
            Algorithm::TokenBucket { burst } => self.span(burst.max(1)).min(MOST * 4) / 4,
            Algorithm::LeakyBucket { .. } => Duration::ZERO,
            Algorithm::SlidingWindow | Algorithm::FixedWindow => Duration::from_millis(1),
        }
    }

    /// In how much time the rate makes so many, rounded up to microseconds.
    pub(super) fn span(&self, tokens: u32) -> Duration {
        // At most 10^9 · 3.6 · 10^9: below 2^64.
        let micros =
            u64::from(tokens).saturating_mul(self.per() * 1_000_000).div_ceil(u64::from(self.count()));
        Duration::from_micros(micros)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::shared_rate) fn settings(count: u64, algorithm: Algorithm) -> Settings {
        let rate = Rate { count, per: Duration::from_secs(1) };
        Settings { rate, algorithm, max_keys: None, instances: NonZeroU32::MIN }
    }

    #[test]
    fn instances_together_lease_a_quarter_ahead_and_small_limits_nothing() {
        let mut of = settings(1000, Algorithm::TokenBucket { burst: 1000 });
        assert_eq!(of.most_ahead(), 250);
        of.instances = NonZeroU32::new(12).unwrap();
        assert_eq!(of.most_ahead(), 20);
        assert_eq!(settings(1000, Algorithm::TokenBucket { burst: 3 }).most_ahead(), 0);
        let paced = Algorithm::LeakyBucket { burst: 1000, max_wait: Duration::ZERO };
        assert_eq!(settings(1000, paced).most_ahead(), 0, "a turn that nobody uses is lost");
    }

    #[test]
    fn what_goes_on_after_an_edit() {
        let of = settings(1000, Algorithm::TokenBucket { burst: 1000 });
        assert!(settings(7, Algorithm::TokenBucket { burst: 1 }).continues(&of));
        assert!(!settings(1000, Algorithm::FixedWindow).continues(&of));
        let minutes = |algorithm| Settings {
            rate: Rate { count: 5, per: Duration::from_mins(1) },
            ..settings(1, algorithm)
        };
        assert!(minutes(of.algorithm).continues(&of), "a bucket is a bucket");
        assert!(!minutes(Algorithm::FixedWindow).continues(&settings(5, Algorithm::FixedWindow)));
        assert!(!Settings { max_keys: Some(5), ..of.clone() }.continues(&of));
    }

    #[test]
    fn a_refusal_is_kept_for_no_longer_than_a_quarter_of_the_bucket_takes_to_fill() {
        let pause = |count, burst| settings(count, Algorithm::TokenBucket { burst }).least_pause();
        assert_eq!(pause(1000, 1000), Duration::from_millis(10));
        assert_eq!(pause(1000, 10), Duration::from_micros(2500));
        assert_eq!(pause(1, 1_000_000_000), Duration::from_millis(10));
        assert_eq!(settings(3, Algorithm::FixedWindow).span(1), Duration::from_micros(333_334));
    }
}
