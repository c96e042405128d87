//! Results of the last ten seconds.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::Stamp;
use crate::policy::window::{Column, Moment, SLOTS};

/// One slot of the window, in microseconds.
const SLOT: u64 = 10_000_000 / SLOTS as u64;

/// Results and failures of one endpoint, or of all.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) requests: Column,
    pub(super) failures: Column,
    /// The slot of the latest failure, plus one; 0 = none.
    pub(super) bad: AtomicU64,
}

/// What a [`Tally`] has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals {
    pub(super) requests: u64,
    pub(super) failures: u64,
}

impl Tally {
    pub(super) fn add(&self, at: Moment, failure: bool) {
        if failure && self.bad.load(SeqCst) != at.slot() + 1 {
            self.bad.fetch_max(at.slot() + 1, SeqCst);
        }
        self.requests.add(at, 1);
        if failure {
            self.failures.add(at, 1);
        }
    }

    pub(super) fn is_quiet(&self, at: Moment) -> bool {
        let bad = self.bad.load(SeqCst);
        bad == 0 || (at.slot() + 1).saturating_sub(bad) >= SLOTS as u64
    }

    pub(super) fn of(&self, at: Moment) -> Totals {
        let failures = self.failures.sum(at);
        Totals { requests: self.requests.sum(at), failures }
    }
}

pub(super) fn at(epoch: u16, now: Stamp) -> Moment {
    Moment::new(epoch, now, SLOT)
}
