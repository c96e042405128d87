//! Counts of what happened lately: exact, lock-free, of bounded size.
//!
//! An *epoch* is what a window belongs to: a window starts anew when the epoch moves on, without anybody clearing it.
//! Every cell says of which epoch it is, so that a late writer of an old epoch can neither add to a new one nor wipe it.
//!
//! Everything that a rate is made of is read and written with `SeqCst`. The last of several results that arrive at
//! once then sees all the others, so a threshold that they reach together is never missed. On x86 that costs no
//! instruction, since an atomic change is a full barrier there anyway.

mod calls;
mod slots;
#[cfg(test)]
mod tests;

pub(super) use calls::Calls;
pub(super) use slots::{Column, Moment, SLOTS};

use std::time::Duration;

use super::Stamp;

/// How many results there were, and what they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals {
    /// All of them.
    pub(super) requests: u64,
    /// Those that failed.
    pub(super) failures: u64,
    /// Those that were slow, failed or not.
    pub(super) slow: u64,
}

/// What one result was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Outcome {
    /// It failed.
    pub(super) failure: bool,
    /// It took too long.
    pub(super) slow: bool,
}

impl Outcome {
    const fn is_bad(self) -> bool {
        self.failure || self.slow
    }
}

/// The results of one breaker, by time or by number.
#[derive(Debug)]
pub(super) enum Window {
    /// Those of the last so long.
    Time(Box<Time>),
    /// The last so many.
    Calls(Calls),
}

impl Window {
    /// The results of the last `span`.
    pub(super) fn time(span: Duration) -> Self {
        Self::Time(Box::new(Time::new(span)))
    }

    /// The last `size` results.
    pub(super) fn calls(size: u32) -> Self {
        Self::Calls(Calls::new(size))
    }

    /// Adds one result.
    pub(super) fn record(&self, epoch: u16, outcome: Outcome, now: Stamp) {
        match self {
            Self::Time(time) => time.record(epoch, outcome, now),
            Self::Calls(calls) => calls.record(epoch, outcome),
        }
    }

    /// Whether nothing in it is bad, as far as that is cheap to know.
    pub(super) fn is_quiet(&self, epoch: u16, now: Stamp) -> bool {
        match self {
            Self::Time(time) => time.is_quiet(now),
            Self::Calls(calls) => calls.is_quiet(epoch),
        }
    }

    /// What it has seen.
    pub(super) fn totals(&self, epoch: u16, now: Stamp) -> Totals {
        match self {
            Self::Time(time) => time.totals(epoch, now),
            Self::Calls(calls) => calls.totals(epoch),
        }
    }

    /// Takes over what another window, of another shape, had seen. It counts as seen now; a window of calls that is too
    /// small for all of it takes the same share of failures.
    pub(super) fn seed(&self, epoch: u16, seen: Totals, now: Stamp) {
        match self {
            Self::Time(time) => time.seed(epoch, seen, now),
            Self::Calls(calls) => calls.seed(epoch, seen),
        }
    }
}

/// Three columns of slots.
#[derive(Debug)]
pub(super) struct Time {
    /// One slot, in microseconds; never 0.
    width: u64,
    /// The slot of the latest result that was bad, plus one; 0 = none. While it is long ago, a good result needs no sum.
    bad: std::sync::atomic::AtomicU64,
    requests: Column,
    failures: Column,
    slow: Column,
}

impl Time {
    fn new(span: Duration) -> Self {
        Self {
            width: slots::width(span),
            bad: std::sync::atomic::AtomicU64::new(0),
            requests: Column::default(),
            failures: Column::default(),
            slow: Column::default(),
        }
    }

    fn record(&self, epoch: u16, outcome: Outcome, now: Stamp) {
        let at = Moment::new(epoch, now, self.width);
        if outcome.is_bad() {
            self.mark_bad(at);
        }
        // The total first: nobody ever sees more failures than results.
        self.requests.add(at, 1);
        if outcome.failure {
            self.failures.add(at, 1);
        }
        if outcome.slow {
            self.slow.add(at, 1);
        }
    }

    fn mark_bad(&self, at: Moment) {
        use std::sync::atomic::Ordering::SeqCst;
        if self.bad.load(SeqCst) != at.slot() + 1 {
            self.bad.fetch_max(at.slot() + 1, SeqCst);
        }
    }

    fn is_quiet(&self, now: Stamp) -> bool {
        let bad = self.bad.load(std::sync::atomic::Ordering::SeqCst);
        bad == 0 || (now.as_micros() / self.width + 1).saturating_sub(bad) >= SLOTS as u64
    }

    fn totals(&self, epoch: u16, now: Stamp) -> Totals {
        let at = Moment::new(epoch, now, self.width);
        // Against the order of writing, for the same reason.
        let (slow, failures) = (self.slow.sum(at), self.failures.sum(at));
        Totals { requests: self.requests.sum(at), failures, slow }
    }

    fn seed(&self, epoch: u16, seen: Totals, now: Stamp) {
        let at = Moment::new(epoch, now, self.width);
        if seen.failures + seen.slow > 0 {
            self.mark_bad(at);
        }
        self.requests.add(at, seen.requests);
        self.failures.add(at, seen.failures);
        self.slow.add(at, seen.slow);
    }
}
