//! The handles that the request path holds: a counter, a level, a gauge, a histogram.
//!
//! An update is one or two relaxed atomic additions to memory that only the updating worker writes: every
//! handle has a cell for each worker, on its own cache line, and a reader adds them up. Two workers that
//! write to one shared cell pass its cache line back and forth, which was measured to cost ten times what
//! the addition does.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// The most buckets that a histogram can have, the one for everything above its last bound included.
pub const MAX_BUCKETS: usize = 17;

thread_local! {
    /// Which cell this thread writes: 0 for every thread that is not a worker.
    static SHARD: Cell<usize> = const { Cell::new(0) };
}

/// Tells telemetry that the calling thread is worker number `index`, counted from 0.
///
/// Call it once, first thing on each worker's thread. A thread that does not, or whose index is above the
/// number of workers that the metrics were made for, shares the cells of the control thread: correct, slower.
pub fn set_worker(index: usize) {
    SHARD.set(index + 1);
}

#[repr(align(64))]
#[derive(Debug)]
struct Line<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Line<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// `N` numbers, once for each worker and once for all other threads.
#[derive(Debug)]
pub(super) struct Sharded<const N: usize> {
    control: Line<N>,
    workers: Box<[Line<N>]>,
}

impl<const N: usize> Sharded<N> {
    fn new(workers: usize) -> Self {
        Self { control: Line::default(), workers: (0..workers).map(|_| Line::default()).collect() }
    }

    fn local(&self) -> &[AtomicU64; N] {
        // The control thread's index wraps to the largest number, which no worker has.
        let worker = SHARD.get().wrapping_sub(1);
        &self.workers.get(worker).unwrap_or(&self.control).0
    }

    fn totals(&self) -> [u64; N] {
        let mut sums = [0_u64; N];
        for line in std::iter::once(&self.control).chain(&self.workers) {
            for (sum, cell) in sums.iter_mut().zip(&line.0) {
                *sum = sum.wrapping_add(cell.load(Relaxed));
            }
        }
        sums
    }
}

/// What every kind of handle can be made from, so that the registry resolves them by type.
pub trait Handle: Sized {
    /// A new series at zero, for metrics with this many workers.
    fn fresh(workers: usize, bounds: &'static [Duration]) -> (Self, Cells);
    /// A handle on a series that exists; `None` when it is of another kind.
    fn on(cells: &Cells) -> Option<Self>;
}

/// The numbers of one series, as the registry keeps them.
#[derive(Debug, Clone)]
pub enum Cells {
    /// Of a [`Counter`].
    Counter(Counter),
    /// Of an [`UpDown`].
    UpDown(UpDown),
    /// Of a [`Gauge`].
    Gauge(Gauge),
    /// Of a [`Histogram`].
    Histogram(Histogram),
}

impl Cells {
    /// How many handles there are, this one included.
    pub(super) fn handles(&self) -> usize {
        match self {
            Self::Counter(Counter(cells)) | Self::UpDown(UpDown(cells)) => Arc::strong_count(cells),
            Self::Gauge(Gauge(cell)) => Arc::strong_count(cell),
            Self::Histogram(histogram) => Arc::strong_count(&histogram.cells),
        }
    }
}

macro_rules! handle {
    ($kind:ident, |$workers:ident, $bounds:ident| $new:expr) => {
        impl Handle for $kind {
            fn fresh($workers: usize, $bounds: &'static [Duration]) -> (Self, Cells) {
                let handle: Self = $new;
                (handle.clone(), Cells::$kind(handle))
            }

            fn on(cells: &Cells) -> Option<Self> {
                match cells {
                    Cells::$kind(handle) => Some(handle.clone()),
                    _ => None,
                }
            }
        }
    };
}

handle!(Counter, |workers, _bounds| Counter(Arc::new(Sharded::new(workers))));
handle!(UpDown, |workers, _bounds| UpDown(Arc::new(Sharded::new(workers))));
handle!(Gauge, |_workers, _bounds| Gauge(Arc::new(AtomicU64::new(0))));
handle!(Histogram, |workers, bounds| Histogram { cells: Arc::new(Sharded::new(workers)), bounds });

/// A number that only grows. Wait-free; cloning makes another handle on the same series.
#[derive(Debug, Clone)]
pub struct Counter(Arc<Sharded<1>>);

impl Counter {
    /// Adds `by`.
    pub fn increment(&self, by: u64) {
        let [cell] = self.0.local();
        cell.fetch_add(by, Relaxed);
    }

    /// What was counted so far, by all threads.
    pub fn value(&self) -> u64 {
        let [sum] = self.0.totals();
        sum
    }
}

/// A number of things that exist at present. Wait-free.
#[derive(Debug, Clone)]
pub struct UpDown(Arc<Sharded<1>>);

impl UpDown {
    /// One more.
    pub fn increment(&self) {
        let [cell] = self.0.local();
        cell.fetch_add(1, Relaxed);
    }

    /// One fewer. It need not be the thread that counted it up.
    pub fn decrement(&self) {
        let [cell] = self.0.local();
        cell.fetch_sub(1, Relaxed);
    }

    /// As many more as `by`, or fewer where it is negative.
    pub fn add(&self, by: i64) {
        let [cell] = self.0.local();
        cell.fetch_add(by.cast_unsigned(), Relaxed);
    }

    /// One more until the guard is dropped.
    ///
    /// This counts up a reference that all workers share. On the request path, rather let a guard that
    /// already holds the handles call [`Self::increment`] and [`Self::decrement`].
    #[must_use = "the count goes down when the guard is dropped"]
    pub fn hold(&self) -> Held {
        self.increment();
        Held(self.clone())
    }

    /// How many there are.
    pub fn value(&self) -> i64 {
        let [sum] = self.0.totals();
        sum.cast_signed()
    }
}

/// Counts for one in an [`UpDown`] for as long as it lives.
#[derive(Debug)]
pub struct Held(UpDown);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.decrement();
    }
}

/// One owner's part of an [`UpDown`] that it knows in total: `set` replaces what this owner had said before
/// and leaves alone what others said, so that several resources can share the series `_other`.
#[derive(Debug)]
pub struct Share {
    level: UpDown,
    said: AtomicI64,
}

impl Share {
    /// A share of nothing.
    pub fn new(level: UpDown) -> Self {
        Self { level, said: AtomicI64::new(0) }
    }

    /// From now on this owner has `count`.
    pub fn set(&self, count: i64) {
        self.level.add(count.wrapping_sub(self.said.swap(count, Relaxed)));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// A number that is set from time to time; not for the request path.
#[derive(Debug, Clone)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }

    /// What it was last set to; 0 at first.
    pub fn value(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }
}

/// Counts durations in fixed buckets. Wait-free: two additions.
#[derive(Debug, Clone)]
pub struct Histogram {
    /// A count for each bucket, then at the end the sum in nanoseconds.
    cells: Arc<Sharded<{ MAX_BUCKETS + 1 }>>,
    bounds: &'static [Duration],
}

impl Histogram {
    /// Counts one duration. A sum over 584 years of them wraps.
    pub fn record(&self, value: Duration) {
        let [buckets @ .., sum] = self.cells.local();
        // Most of what is measured is short, and falls into one of the first.
        let bucket = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        if let Some(cell) = buckets.get(bucket) {
            cell.fetch_add(1, Relaxed);
        }
        sum.fetch_add(u64::try_from(value.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// What was counted so far, by all threads.
    pub fn value(&self) -> Distribution {
        let [buckets @ .., sum] = self.cells.totals();
        let mut count = 0;
        let cumulative = buckets.iter().take(self.bounds.len() + 1).map(|in_bucket| {
            count += in_bucket;
            count
        });
        Distribution { cumulative: cumulative.collect(), sum: Duration::from_nanos(sum) }
    }

    /// The upper bounds of its buckets, the last one (no bound) left out.
    pub fn bounds(&self) -> &'static [Duration] {
        self.bounds
    }
}

/// What a [`Histogram`] holds at one moment.
///
/// Each bucket is read once, so the counts are cumulative by construction even while workers write; the
/// sum may be a few observations ahead of them or behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// For each bound, and last for no bound, how many observations were at most that long.
    pub cumulative: Vec<u64>,
    /// The sum of all observations.
    pub sum: Duration,
}

impl Distribution {
    /// The number of observations.
    pub fn count(&self) -> u64 {
        self.cumulative.last().copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::names::{DURATION_BUCKETS, OVERHEAD_BUCKETS};

    #[test]
    fn nothing_is_lost_between_threads() {
        let (counter, _) = Counter::fresh(2, &[]);
        let (level, _) = UpDown::fresh(2, &[]);
        let (histogram, _) = Histogram::fresh(2, DURATION_BUCKETS);
        // Two workers, one thread beyond their number and one that never said what it is.
        std::thread::scope(|scope| {
            for worker in [Some(0), Some(1), Some(7), None] {
                let (counter, level, histogram) = (&counter, &level, &histogram);
                scope.spawn(move || {
                    if let Some(worker) = worker {
                        set_worker(worker);
                    }
                    for round in 0..10_000 {
                        counter.increment(2);
                        level.increment();
                        histogram.record(Duration::from_micros(round));
                        if round % 2 == 0 {
                            level.decrement();
                        }
                    }
                });
            }
        });
        assert_eq!(counter.value(), 80_000);
        assert_eq!(level.value(), 20_000);
        assert_eq!(histogram.value().count(), 40_000);
        assert_eq!(histogram.value().sum, 4 * Duration::from_millis(49_995));
    }

    #[test]
    fn a_level_may_go_down_on_another_thread() {
        let (level, _) = UpDown::fresh(1, &[]);
        let held = level.hold();
        assert_eq!(level.value(), 1);
        std::thread::spawn(move || {
            set_worker(0);
            drop(held);
        })
        .join()
        .unwrap();
        assert_eq!(level.value(), 0);
    }

    #[test]
    fn bounds_are_inclusive_and_the_last_bucket_takes_the_rest() {
        for bounds in [DURATION_BUCKETS, OVERHEAD_BUCKETS] {
            assert!(bounds.len() < MAX_BUCKETS);
            for (index, bound) in bounds.iter().enumerate() {
                let (histogram, _) = Histogram::fresh(1, bounds);
                histogram.record(*bound);
                histogram.record(*bound + Duration::from_nanos(1));
                let value = histogram.value();
                assert_eq!(value.cumulative[index], 1);
                assert_eq!(value.cumulative[index + 1], 2);
                assert_eq!(value.cumulative.len(), bounds.len() + 1);
                assert_eq!(value.count(), 2);
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn a_distribution_is_cumulative_and_complete(micros in proptest::collection::vec(0_u64..20_000_000, 0..200)) {
            let (histogram, _) = Histogram::fresh(1, DURATION_BUCKETS);
            for value in &micros {
                histogram.record(Duration::from_micros(*value));
            }
            let value = histogram.value();
            proptest::prop_assert!(value.cumulative.is_sorted());
            proptest::prop_assert_eq!(value.count(), micros.len() as u64);
            proptest::prop_assert_eq!(value.sum, Duration::from_micros(micros.iter().sum()));
            for (bound, count) in DURATION_BUCKETS.iter().zip(&value.cumulative) {
                let expected = micros.iter().filter(|v| Duration::from_micros(**v) <= *bound).count();
                proptest::prop_assert_eq!(*count, expected as u64);
            }
        }
    }
}
