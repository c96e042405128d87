//! What the endpoints of an upstream have in common.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use super::{Settings, Tally, Totals};
use crate::policy::window::Moment;

/// More failures than this, in percent of all results of the upstream, and the fault is not one endpoint's.
const TOGETHER: u64 = 60;

/// As long as the others fail at no more than this, in percent, it is this endpoint's all the same: it only has most of
/// the traffic, as one that fails fast has with a balancer that goes by load.
const OTHERS: u64 = 30;

/// Fewer results than these say nothing about what fails together: of all, and of the others.
const MIN_RESULTS: u64 = 8;
const MIN_OF_OTHERS: u64 = 3;

/// The endpoints of an upstream, as far as ejection goes: what all of them have answered within 10 s, and how many are out.
#[derive(Debug, Default)]
pub struct Group {
    results: Tally,
    out: AtomicU32,
}

impl Group {
    /// One of which nothing is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// So many are out of rotation.
    pub fn out(&self) -> u32 {
        self.out.load(SeqCst)
    }

    pub(super) fn record(&self, failure: bool, moment: Moment) {
        self.results.add(moment, failure);
    }

    /// Whether so much fails, and not only at the endpoint that has `own`, that nobody is to be ejected.
    pub(super) fn fails_together(&self, own: Totals, moment: Moment) -> bool {
        let all = self.results.of(moment);
        let others = Totals {
            requests: all.requests.saturating_sub(own.requests),
            failures: all.failures.saturating_sub(own.failures),
        };
        all.requests >= MIN_RESULTS
            && others.requests >= MIN_OF_OTHERS
            && all.failures * 100 > all.requests * TOGETHER
            && others.failures * 100 > others.requests * OTHERS
    }

    /// Takes a place among those that are out, if one more of `endpoints` may be.
    pub(super) fn reserve(&self, settings: &Settings, endpoints: u32) -> bool {
        let limit = limit(settings, endpoints);
        self.out.fetch_update(SeqCst, SeqCst, |out| (out < limit).then_some(out + 1)).is_ok()
    }

    /// Whether more are out than may be.
    pub(super) fn exceeds(&self, settings: &Settings, endpoints: u32) -> bool {
        self.out() > limit(settings, endpoints)
    }

    /// Gives one back.
    pub(super) fn release(&self) {
        // Never below nothing: whoever gives back has taken.
        let _ = self.out.fetch_update(SeqCst, SeqCst, |out| out.checked_sub(1));
    }
}

/// So many of so many may be out: the share, rounded down, at least one, and never the last.
pub(super) fn limit(settings: &Settings, endpoints: u32) -> u32 {
    let share = u64::from(endpoints) * u64::from(settings.max_share.points()) / 10_000;
    u32::try_from(share).unwrap_or(u32::MAX).max(1).min(endpoints.saturating_sub(1))
}
