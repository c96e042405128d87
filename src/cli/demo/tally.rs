//! Counting what callers saw.

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use super::scrape::Buckets;

/// How one call ended, as its caller sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// An instance of the shop answered; `bad` is a status from 400.
    FromShop {
        /// Which one.
        instance: String,
        /// Whether its answer was an error.
        bad: bool,
    },
    /// Weir answered by itself.
    FromWeir {
        /// Whether its answer was an error.
        bad: bool,
    },
    /// No answer: not connected, cut off, or not in time.
    Silent,
}

/// Everything callers saw since the start. Subtracting an earlier tally gives what happened since.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    /// By instance of the shop.
    pub(super) instances: BTreeMap<String, Instance>,
    /// Answers by Weir that were no errors.
    pub(super) made_good: u64,
    /// Errors by Weir.
    pub(super) made_bad: u64,
    /// No answer.
    pub(super) silent: u64,
    /// Of all answers, to their last byte.
    pub(super) latency: Latency,
}

/// What callers saw of one instance.
#[derive(Debug, Clone, Default)]
pub(super) struct Instance {
    /// Answers that were no errors.
    pub(super) good: u64,
    /// Errors.
    pub(super) bad: u64,
    /// To the last byte.
    pub(super) latency: Latency,
}

impl Tally {
    /// Counts one call.
    pub(super) fn record(&mut self, outcome: &Outcome, took: Duration) {
        match outcome {
            Outcome::FromShop { instance, bad } => {
                let seen = self.instances.entry(instance.clone()).or_default();
                *(if *bad { &mut seen.bad } else { &mut seen.good }) += 1;
                seen.latency.record(took);
            }
            Outcome::FromWeir { bad } => *(if *bad { &mut self.made_bad } else { &mut self.made_good }) += 1,
            Outcome::Silent => {
                self.silent += 1;
                return;
            }
        }
        self.latency.record(took);
    }

    /// Good answers of the shop.
    pub(super) fn shop_good(&self) -> u64 {
        self.instances.values().map(|instance| instance.good).sum()
    }

    /// Errors of the shop.
    pub(super) fn shop_bad(&self) -> u64 {
        self.instances.values().map(|instance| instance.bad).sum()
    }

    /// Calls that went well.
    pub(super) fn good(&self) -> u64 {
        self.shop_good() + self.made_good
    }

    /// All calls.
    pub(super) fn total(&self) -> u64 {
        self.good() + self.shop_bad() + self.made_bad + self.silent
    }

    /// What happened after an earlier tally of the same callers.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let instances = self.instances.iter().map(|(name, now)| {
            let before = earlier.instances.get(name);
            let since = before.map_or_else(|| now.clone(), |before| now.since(before));
            (name.clone(), since)
        });
        Self {
            instances: instances.collect(),
            made_good: self.made_good.saturating_sub(earlier.made_good),
            made_bad: self.made_bad.saturating_sub(earlier.made_bad),
            silent: self.silent.saturating_sub(earlier.silent),
            latency: self.latency.since(&earlier.latency),
        }
    }
}

impl Instance {
    /// All its answers.
    pub(super) fn total(&self) -> u64 {
        self.good + self.bad
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            good: self.good.saturating_sub(earlier.good),
            bad: self.bad.saturating_sub(earlier.bad),
            latency: self.latency.since(&earlier.latency),
        }
    }
}

/// A histogram of durations between 0.1 ms and 100 s; a quantile is off by at most 9 %.
#[derive(Debug, Clone, Default)]
pub(super) struct Latency {
    /// Observations by bucket; empty until the first.
    counts: Vec<u64>,
}

/// Upper bounds in seconds, eight to each doubling.
static BOUNDS: LazyLock<Vec<f64>> = LazyLock::new(|| {
    let step = 2f64.powf(0.125);
    std::iter::successors(Some(1e-4), |bound| Some(bound * step)).take_while(|bound| *bound < 100.0).collect()
});

impl Latency {
    fn record(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        if self.counts.is_empty() {
            self.counts = vec![0; BOUNDS.len() + 1];
        }
        if let Some(count) = self.counts.get_mut(BOUNDS.partition_point(|bound| *bound < seconds)) {
            *count += 1;
        }
    }

    /// An estimate of a quantile (0–1) in seconds; `None` without observations.
    pub(super) fn quantile(&self, q: f64) -> Option<f64> {
        let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
        let cumulative = bounds.zip(&self.counts).scan(0, |sum, (bound, count)| {
            *sum += count;
            Some((bound, as_f64(*sum)))
        });
        Buckets::from_cumulative(cumulative.collect()).quantile(q)
    }

    fn since(&self, earlier: &Self) -> Self {
        if earlier.counts.is_empty() {
            return self.clone();
        }
        Self {
            counts: self
                .counts
                .iter()
                .zip(&earlier.counts)
                .map(|(now, before)| now.saturating_sub(*before))
                .collect(),
        }
    }
}

/// A count as a figure.
#[expect(clippy::cast_precision_loss, reason = "no demo counts to 2^53")]
pub(super) fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn from(instance: &str, bad: bool) -> Outcome {
        Outcome::FromShop { instance: instance.to_owned(), bad }
    }

    #[test]
    fn every_outcome_is_counted_once() {
        let mut tally = Tally::default();
        let ms = Duration::from_millis;
        for (outcome, took) in [
            (from("a", false), 3),
            (from("a", true), 4),
            (from("b", false), 60),
            (Outcome::FromWeir { bad: true }, 1),
            (Outcome::FromWeir { bad: false }, 1),
            (Outcome::Silent, 2000),
        ] {
            tally.record(&outcome, ms(took));
        }
        assert_eq!((tally.total(), tally.good(), tally.shop_bad()), (6, 3, 1));
        assert_eq!(tally.instances["a"].total(), 2);
        assert!(tally.latency.quantile(1.0).unwrap() < 0.07, "a call without an answer has no latency");
    }

    #[test]
    fn a_window_holds_only_what_came_after_its_start() {
        let mut tally = Tally::default();
        tally.record(&from("a", false), Duration::from_millis(500));
        let before = tally.clone();
        tally.record(&from("a", false), Duration::from_millis(5));
        tally.record(&from("b", true), Duration::from_millis(5));
        let window = tally.since(&before);
        assert_eq!((window.total(), window.instances["a"].good, window.instances["b"].bad), (2, 1, 1));
        assert!(window.latency.quantile(1.0).unwrap() < 0.01);
    }

    /// The true quantile of sorted values.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a few hundred small values"
    )]
    fn truth(sorted: &[u64], q: f64) -> f64 {
        let rank = (q * sorted.len() as f64).ceil() as usize;
        sorted[rank.clamp(1, sorted.len()) - 1] as f64 / 1e6
    }

    proptest! {
        #[test]
        fn a_quantile_is_near_the_truth(mut micros in prop::collection::vec(200u64..50_000_000, 1..200), q in 0.01..=1.0f64) {
            let mut latency = Latency::default();
            for us in &micros {
                latency.record(Duration::from_micros(*us));
            }
            micros.sort_unstable();
            let truth = truth(&micros, q);
            let estimate = latency.quantile(q).unwrap();
            prop_assert!(estimate >= truth / 1.1 && estimate <= truth * 1.1, "{} for {}", estimate, truth);
        }
    }
}
