//! What bounds a lane, and when its floor is filled.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// One worker's share of an upstream's pool settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) max_connections: u32,
    pub(super) min_idle: u32,
    pub(super) max_pending: usize,
    pub(super) pending_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) max_age: Duration,
    /// How often an HTTP/2 connection with requests on it is asked for a sign of life, and how long that may take.
    pub(super) keep_alive: Duration,
}

impl Limits {
    /// How many idle connections are to stay.
    pub(super) fn floor(&self) -> usize {
        usize::try_from(self.min_idle).unwrap_or(usize::MAX)
    }
}

/// When connections for the floor may be begun: nobody waits for them, so that an endpoint that refuses or drops
/// them is left in peace for longer and longer.
#[derive(Debug, Default)]
pub(super) struct Floor {
    not_before: Cell<Option<Instant>>,
    failures: Cell<u32>,
}

impl Floor {
    const SHORTEST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(30);

    /// Whether it may be filled now; if so, not again for a while.
    pub(super) fn may_fill(&self, now: Instant) -> bool {
        if self.not_before.get().is_some_and(|at| now < at) {
            return false;
        }
        let pause = Self::SHORTEST * 2_u32.saturating_pow(self.failures.get().min(5));
        self.not_before.set(Some(now + pause.min(Self::LONGEST)));
        true
    }

    pub(super) fn opened(&self) {
        self.failures.set(0);
    }

    pub(super) fn failed(&self) {
        self.failures.set(self.failures.get().saturating_add(1));
    }
}
