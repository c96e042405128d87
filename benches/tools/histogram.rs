//! Latencies of a run.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Three digits of each latency, 1 µs to 100 s, and what went wrong.
#[derive(Debug)]
pub(crate) struct Latencies {
    /// Microseconds would be too coarse for a proxy: nanoseconds.
    nanos: Histogram<u64>,
    pub(crate) errors: u64,
    /// Requests without an answer when the run was over; their latency so far counts.
    pub(crate) unfinished: u64,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        let nanos = Histogram::new_with_bounds(1_000, 100_000_000_000, 3).expect("bounds");
        Self { nanos, errors: 0, unfinished: 0 }
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        self.nanos.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Milliseconds by percentile, and the counts.
    pub(crate) fn json(&self) -> Value {
        let millis =
            |percentile| Duration::from_nanos(self.nanos.value_at_percentile(percentile)).as_secs_f64() * 1e3;
        json!({
            "requests": self.nanos.len(),
            "errors": self.errors,
            "unfinished": self.unfinished,
            "p50": millis(50.0),
            "p90": millis(90.0),
            "p99": millis(99.0),
            "p99.9": millis(99.9),
            "max": Duration::from_nanos(self.nanos.max()).as_secs_f64() * 1e3,
        })
    }
}
