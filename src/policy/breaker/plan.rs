//! What is edited, and what is only shown.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{BreakerWindow, Cause, Percent, Settings, Stamp, Totals, Window, leases};

/// The share that passes when a ramp begins, in basis points.
const RAMP_FROM: u64 = 1000;

/// What is edited.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) settings: Settings,
    pub(super) window: Arc<Window>,
}

/// What is only shown.
#[derive(Debug)]
pub(super) struct Memo {
    pub(super) since: AtomicU64,
    pub(super) cause: AtomicU8,
    pub(super) requests: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) slow: AtomicU64,
}

impl Plan {
    pub(super) fn is_slow(&self, took: Duration) -> bool {
        self.settings.slow_rate.is_some() && self.settings.slow_after.is_some_and(|limit| took > limit)
    }

    pub(super) fn reason_to_open(&self, seen: Totals) -> Option<Cause> {
        if seen.requests < u64::from(self.settings.min_requests) {
            return None;
        }
        let reached = |rate: Option<Percent>, bad: u64| {
            bad > 0 && rate.is_some_and(|rate| rate.is_reached_by(bad, seen.requests))
        };
        if reached(self.settings.failure_rate, seen.failures) {
            Some(Cause::FailureRate)
        } else if reached(self.settings.slow_rate, seen.slow) {
            Some(Cause::SlowRate)
        } else {
            None
        }
    }
}

impl Memo {
    pub(super) fn see(&self, seen: Totals) {
        self.requests.store(seen.requests, Relaxed);
        self.failures.store(seen.failures, Relaxed);
        self.slow.store(seen.slow, Relaxed);
    }

    pub(super) fn seen(&self) -> Totals {
        Totals {
            requests: self.requests.load(Relaxed),
            failures: self.failures.load(Relaxed),
            slow: self.slow.load(Relaxed),
        }
    }
}

/// What passes at `now` of a ramp that began at `start`.
pub(super) fn share(start: Stamp, ramp: Duration, now: Stamp) -> Percent {
    let (done, all) = (now.since(start).as_micros(), ramp.as_micros());
    if done >= all {
        return Percent::ALL;
    }
    let all_points = u64::from(Percent::ALL.points());
    let more = u128::from(all_points - RAMP_FROM) * done / all;
    Percent::new(u16::try_from(RAMP_FROM + u64::try_from(more).unwrap_or(0)).unwrap_or(u16::MAX))
}

pub(super) fn window(kind: BreakerWindow) -> Window {
    match kind {
        BreakerWindow::Time(span) => Window::time(span),
        BreakerWindow::Calls(size) => Window::calls(size),
    }
}

/// How many probes there are.
pub(super) fn probes(settings: &Settings) -> u32 {
    settings.half_open.clamp(1, leases::MOST)
}
