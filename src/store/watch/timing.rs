//! When to try again, and how often everything may be read.

use std::time::{Duration, Instant};

/// The times and bounds of a watch.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The first attempt comes after a random part of this, so that pods that start together do not read together.
    pub first_jitter: Duration,
    /// The first pause after a failure is a random part of this; each further one of twice as much.
    pub pause: Duration,
    /// No pause is longer.
    pub max_pause: Duration,
    /// How long a connection may take, TLS included.
    pub connect_timeout: Duration,
    /// How long each call may take that opens or renews something.
    pub call_timeout: Duration,
    /// How long one page of a read may take.
    pub page_timeout: Duration,
    /// How often the store has to prove that nothing has changed.
    pub proof_interval: Duration,
    /// How long a proof may be owed before another member is asked.
    pub proof_timeout: Duration,
    /// For each key, how much later than that an audit may be owed, which takes the store work for every key. Audits that
    /// nothing but time asks for are spread over a multiple of it, so that they do not come all at once.
    pub per_key: Duration,
    /// How long the changes of a burst are gathered at most.
    pub gather: Duration,
    /// Between two authentications of one connection there is at least this.
    pub auth_interval: Duration,
    /// How many keys a page of a read has at most.
    pub page_keys: i64,
    /// How many keys one scope may have; far more than policy takes, a bound for memory.
    pub max_keys: usize,
    /// How many bytes of values are held at most; later values are told as empty ones, which are refused by key.
    pub max_bytes: usize,
    /// How many full reads may follow each other.
    pub reads: u32,
    /// How long it takes until one more is allowed.
    pub read_interval: Duration,
    /// Takes the progress of a stream for a proof whatever the server's version says. Only for a server that is known to
    /// have the corrections of etcd's issues 15220 and 17507.
    pub trust_progress: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            first_jitter: Duration::from_millis(300),
            pause: Duration::from_millis(250),
            max_pause: Duration::from_secs(4),
            connect_timeout: Duration::from_secs(2),
            call_timeout: Duration::from_secs(2),
            page_timeout: Duration::from_secs(10),
            proof_interval: Duration::from_secs(4),
            proof_timeout: Duration::from_millis(1500),
            per_key: Duration::from_millis(1),
            gather: Duration::from_millis(20),
            auth_interval: Duration::from_secs(1),
            page_keys: 500,
            max_keys: 50_000,
            max_bytes: 128 << 20,
            reads: 3,
            read_interval: Duration::from_secs(20),
            trust_progress: false,
        }
    }
}

/// Full jitter: each pause is a random part of a bound that doubles.
///
/// See "Exponential Backoff And Jitter", M. Brooker, 2015.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause before the next attempt.
    pub(super) fn next(&mut self, settings: &Settings, rng: &mut fastrand::Rng) -> Duration {
        let bound = settings.pause.saturating_mul(1 << self.failures.min(16)).min(settings.max_pause);
        self.failures = self.failures.saturating_add(1);
        part(bound, rng)
    }
}

/// A random part of `bound`.
pub(super) fn part(bound: Duration, rng: &mut fastrand::Rng) -> Duration {
    bound.mul_f64(rng.f64())
}

/// A bucket of full reads, so that a store that is unwell is not read over and over.
#[derive(Debug)]
pub(super) struct Budget {
    left: u32,
    since: Option<Instant>,
}

impl Budget {
    pub(super) fn new(settings: &Settings) -> Self {
        Self { left: settings.reads.max(1), since: None }
    }

    /// Takes one read, or says when there will be one.
    pub(super) fn take(&mut self, settings: &Settings, now: Instant) -> Result<(), Instant> {
        let mut since = self.since.unwrap_or(now);
        while self.left < settings.reads && now.saturating_duration_since(since) >= settings.read_interval {
            self.left += 1;
            since += settings.read_interval;
        }
        if self.left >= settings.reads {
            since = now;
        }
        self.since = Some(since);
        if self.left == 0 {
            return Err(since + settings.read_interval);
        }
        self.left -= 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_random_parts_of_bounds_that_double_up_to_the_longest() {
        let settings = Settings::default();
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut sum, mut count) = (0.0, 0.0);
        for _ in 0..200 {
            let mut backoff = Backoff::default();
            for (nth, bound) in [250, 500, 1000, 2000, 4000, 4000, 4000].into_iter().enumerate() {
                let pause = backoff.next(&settings, &mut rng);
                assert!(pause <= Duration::from_millis(bound), "{nth}: {pause:?}");
                sum += pause.as_secs_f64() / Duration::from_millis(bound).as_secs_f64();
                count += 1.0;
            }
        }
        let mean = sum / count;
        assert!((0.4..0.6).contains(&mean), "spread over the whole bound, not half of it: {mean}");
    }

    #[test]
    fn reads_are_given_back_one_by_one() {
        let settings = Settings { reads: 2, read_interval: Duration::from_secs(10), ..Settings::default() };
        let (mut budget, start) = (Budget::new(&settings), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(budget.take(&settings, at(0)), Ok(()));
        assert_eq!(budget.take(&settings, at(0)), Ok(()));
        assert_eq!(budget.take(&settings, at(1)), Err(at(10)));
        assert_eq!(budget.take(&settings, at(10)), Ok(()));
        assert_eq!(budget.take(&settings, at(11)), Err(at(20)));
        assert_eq!(budget.take(&settings, at(1000)), Ok(()));
        assert_eq!(budget.take(&settings, at(1000)), Ok(()));
        assert_eq!(budget.take(&settings, at(1000)), Err(at(1010)));
    }
}
