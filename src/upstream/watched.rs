//! What automatic switches want to know of an upstream's results.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use crate::policy::{Verdict, automatic::Tally};

/// How many threads can count without meeting one another. There are rarely more workers than two; with more than this
/// some of them share a line, which is slower, and as exact.
const LINES: usize = 4;

/// Counts the results of an upstream at which some automatic switch looks: all of them, those that are failures, and for
/// each threshold of a 99th percentile those that took longer. Others have none, and cost nothing.
///
/// Two additions a result at most, and one for each threshold that it was over, on lines of memory that other
/// workers do not write. The numbers only grow; whoever reads them looks at what has come in a time.
#[derive(Debug)]
pub struct Watched {
    results: Arc<Lines>,
    /// In order of the thresholds.
    slow: Box<[(Duration, Arc<Lines>)]>,
}

/// What an automatic switch looks at, of all that is counted. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Count {
    hits: Arc<Lines>,
    of: Arc<Lines>,
}

/// For each line how many results it has counted, and how many hits.
#[derive(Debug, Default)]
struct Lines([Line; LINES]);

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line {
    all: AtomicU64,
    hits: AtomicU64,
}

impl Watched {
    /// Counts for these thresholds. Given what was counted `before` for the same upstream, it goes on from there: an edit
    /// of one switch does not make another one forget what it saw, and results that still go to `before` are not lost.
    pub fn new(thresholds: &[Duration], before: Option<&Self>) -> Self {
        let mut thresholds = thresholds.to_vec();
        thresholds.sort_unstable();
        thresholds.dedup();
        let known = |threshold: &Duration| before?.lines_of(*threshold).cloned();
        Self {
            results: before.map(|before| before.results.clone()).unwrap_or_default(),
            slow: thresholds.into_iter().map(|one| (one, known(&one).unwrap_or_default())).collect(),
        }
    }

    /// Counts a result, `took` to its first byte; one that is neither success nor failure is none. Called by the worker
    /// that has the request.
    pub fn record(&self, verdict: Verdict, took: Duration) {
        let line = line();
        let Some(results) = self.results.0.get(line) else { return };
        if verdict == Verdict::Neither {
            return;
        }
        // Before the hits, which are released, so that whoever sees a hit sees its result.
        results.all.fetch_add(1, Relaxed);
        if verdict == Verdict::Failure {
            results.hits.fetch_add(1, Release);
        }
        for (_, lines) in self.slow.iter().take_while(|(threshold, _)| took > *threshold) {
            if let Some(line) = lines.0.get(line) {
                line.hits.fetch_add(1, Release);
            }
        }
    }

    /// Failures among all results.
    pub fn failures(&self) -> Count {
        Count { hits: self.results.clone(), of: self.results.clone() }
    }

    /// Results that took longer than `threshold` among all; `None` = that is not counted.
    pub fn slower_than(&self, threshold: Duration) -> Option<Count> {
        Some(Count { hits: self.lines_of(threshold)?.clone(), of: self.results.clone() })
    }

    /// Whether it counts for just these thresholds, which are in order: there is then no need of another one.
    pub fn is_for(&self, thresholds: &[Duration]) -> bool {
        self.slow.iter().map(|(threshold, _)| threshold).eq(thresholds)
    }

    fn lines_of(&self, threshold: Duration) -> Option<&Arc<Lines>> {
        let at = self.slow.binary_search_by_key(&threshold, |(one, _)| *one).ok()?;
        self.slow.get(at).map(|(_, lines)| lines)
    }
}

impl Count {
    /// What was counted so far. Hits are read first: a result that comes meanwhile is not a hit without being one of all.
    pub fn total(&self) -> Tally {
        let hits = self.hits.0.iter().map(|line| line.hits.load(Acquire)).sum();
        let of = self.of.0.iter().map(|line| line.all.load(Relaxed)).sum();
        Tally { hits, of }
    }

    /// Whether this is the same count as `other`.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.hits, &other.hits) && Arc::ptr_eq(&self.of, &other.of)
    }
}

/// Which line this thread writes.
fn line() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        /// The greatest number until the first use.
        static LINE: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    LINE.with(|line| {
        if line.get() == usize::MAX {
            line.set(NEXT.fetch_add(1, Relaxed) % LINES);
        }
        line.get()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::rounds;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn tally(hits: u64, of: u64) -> Tally {
        Tally { hits, of }
    }

    #[test]
    fn failures_and_slow_results_are_counted_and_what_says_nothing_is_not() {
        let watched = Watched::new(&[ms(500), ms(100), ms(500)], None);
        assert!(watched.is_for(&[ms(100), ms(500)]));
        watched.record(Verdict::Success, ms(100));
        watched.record(Verdict::Success, ms(101));
        watched.record(Verdict::Failure, ms(900));
        watched.record(Verdict::Failure, ms(1));
        watched.record(Verdict::Neither, ms(9000));
        assert_eq!(watched.failures().total(), tally(2, 4));
        assert_eq!(
            watched.slower_than(ms(100)).unwrap().total(),
            tally(2, 4),
            "as long as the threshold is not longer"
        );
        assert_eq!(watched.slower_than(ms(500)).unwrap().total(), tally(1, 4));
        assert!(watched.slower_than(ms(200)).is_none());
    }

    #[test]
    fn what_follows_goes_on_from_what_was_before() {
        let before = Watched::new(&[ms(100), ms(500)], None);
        before.record(Verdict::Failure, ms(600));
        let (failures, slow) = (before.failures(), before.slower_than(ms(500)).unwrap());
        let after = Watched::new(&[ms(200), ms(500)], Some(&before));
        after.record(Verdict::Success, ms(300));
        // A request of the snapshot before.
        before.record(Verdict::Failure, ms(150));
        assert_eq!(after.failures().total(), tally(2, 3));
        assert!(after.failures().is(&failures));
        assert!(after.slower_than(ms(500)).unwrap().is(&slow));
        assert_eq!(after.slower_than(ms(500)).unwrap().total(), tally(1, 3));
        assert_eq!(after.slower_than(ms(200)).unwrap().total().hits, 1);
        assert!(after.slower_than(ms(100)).is_none());
        assert!(!Watched::new(&[], None).failures().is(&failures), "another upstream's");
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        let watched = Watched::new(&[ms(100)], None);
        let each = rounds(20_000);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for n in 0..each {
                        let verdict = if n % 2 == 0 { Verdict::Failure } else { Verdict::Success };
                        watched.record(verdict, ms(if n % 5 == 0 { 101 } else { 99 }));
                    }
                });
            }
            // Whoever looks meanwhile never sees more hits than results.
            scope.spawn(|| {
                let mut last = Tally::default();
                while last.of < each {
                    let now = watched.failures().total();
                    assert!(now.hits <= now.of && now.of >= last.of, "{now:?} after {last:?}");
                    last = now;
                }
            });
        });
        assert_eq!(watched.failures().total(), tally(6 * each.div_ceil(2), 6 * each));
        assert_eq!(watched.slower_than(ms(100)).unwrap().total().hits, 6 * each.div_ceil(5));
    }
}
