//! When a name is looked up again.

use std::time::Duration;

use crate::config::policy::Discover;

/// A failure is not followed by another look-up sooner than this, however short the interval.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// How much of the wait is left to chance, so that instances that were started together do not stay together.
const JITTER: f64 = 0.1;

/// The bounds between which a name is looked up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    interval: Duration,
    max_interval: Duration,
}

impl Pace {
    /// As `config` says.
    pub fn of(config: &Discover) -> Self {
        Self { interval: config.interval, max_interval: config.max_interval.max(config.interval) }
    }

    /// The pace of two who want the same name: as often as either.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            interval: self.interval.min(other.interval),
            max_interval: self.max_interval.min(other.max_interval),
        }
    }

    /// How long an answer holds whose records live for `ttl`: that long, but never shorter than `interval` nor longer
    /// than `max_interval`, and up to a tenth more or less within these.
    pub fn after_answer(self, ttl: Duration, rng: &mut fastrand::Rng) -> Duration {
        let (low, high) = (self.interval, self.max_interval.max(self.interval));
        let middle = ttl.clamp(low, high);
        let from = middle.mul_f64(1.0 - JITTER).max(low);
        let to = middle.mul_f64(1.0 + JITTER).min(high);
        between(from, to, rng)
    }

    /// How long to wait after so many failures in a row, the last one included: a second, then twice as long each time,
    /// up to `interval`. The upper half of that is left to chance.
    pub fn after_failure(self, failures: u32, rng: &mut fastrand::Rng) -> Duration {
        let longest = self.interval.max(FIRST_RETRY);
        let doubled = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(20));
        let most = doubled.min(longest);
        between((most / 2).max(FIRST_RETRY), most, rng)
    }
}

fn between(from: Duration, to: Duration, rng: &mut fastrand::Rng) -> Duration {
    from + to.saturating_sub(from).mul_f64(rng.f64())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pace(interval: u64, max_interval: u64) -> Pace {
        Pace { interval: Duration::from_millis(interval), max_interval: Duration::from_millis(max_interval) }
    }

    proptest! {
        #[test]
        fn an_answer_holds_for_its_ttl_between_floor_and_ceiling(
            interval in 1_u64..60_000, more in 0_u64..600_000, ttl in 0_u64..=u64::from(u32::MAX), seed: u64,
        ) {
            let pace = pace(interval, interval + more);
            let ttl = Duration::from_secs(ttl);
            let wait = pace.after_answer(ttl, &mut fastrand::Rng::with_seed(seed));
            prop_assert!(wait >= pace.interval && wait <= pace.max_interval);
            let wanted = ttl.clamp(pace.interval, pace.max_interval);
            prop_assert!(wait >= wanted.mul_f64(0.89) && wait <= wanted.mul_f64(1.11));
        }

        #[test]
        fn failures_wait_longer_and_longer_but_not_longer_than_the_interval(
            interval in 1_u64..60_000, failures in 1_u32..2000, seed: u64,
        ) {
            let wait = pace(interval, interval).after_failure(failures, &mut fastrand::Rng::with_seed(seed));
            prop_assert!(wait >= FIRST_RETRY);
            prop_assert!(wait <= Duration::from_millis(interval).max(FIRST_RETRY));
            prop_assert!(failures > 1 || wait == FIRST_RETRY);
        }
    }

    #[test]
    fn retries_double() {
        let (pace, mut rng) = (pace(60_000, 60_000), fastrand::Rng::with_seed(1));
        for (failures, from, to) in [(1, 1, 1), (2, 1, 2), (3, 2, 4), (4, 4, 8), (7, 30, 60), (70, 30, 60)] {
            let waits: Vec<_> =
                (0..200).map(|_| pace.after_failure(failures, &mut rng).as_secs_f64()).collect();
            assert!(waits.iter().all(|wait| (f64::from(from)..=f64::from(to)).contains(wait)), "{failures}");
            let spread =
                waits.iter().copied().fold(0.0, f64::max) - waits.iter().copied().fold(f64::MAX, f64::min);
            assert!(from == to || spread > f64::from(to - from) / 2.0, "{failures}: jittered");
        }
    }

    #[test]
    fn two_who_want_the_same_name_are_both_served() {
        assert_eq!(pace(5, 100).or(pace(7, 50)), pace(5, 50));
    }
}
