//! What all workers know of one upstream.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    balance::Memory,
    config::policy::{self, BreakerMode},
    policy::{Stamp, breaker::Breaker, ejection::Group},
};

/// The state of an upstream that outlives snapshots: its breaker, what its endpoints have in common, whose turn it is.
#[derive(Debug)]
pub struct Vitals {
    /// Its own breaker; routes may have others.
    pub breaker: Breaker,
    /// Its endpoints, as far as ejection goes.
    pub group: Group,
    /// What balancing remembers.
    pub memory: Memory,
    /// Counted up whenever an endpoint's standing changes, so that rotas are made anew.
    version: Arc<AtomicU64>,
    /// When an endpoint that was ejected wants its probe, the first of them, in microseconds; the greatest number =
    /// none does.
    probe_at: AtomicU64,
}

impl Vitals {
    /// Those of an upstream of which nothing is known.
    pub fn new(breaker: &policy::Breaker, mode: BreakerMode, now: Stamp) -> Self {
        Self {
            breaker: Breaker::new(breaker, mode, now),
            group: Group::new(),
            memory: Memory::default(),
            version: Arc::default(),
            probe_at: AtomicU64::new(u64::MAX),
        }
    }

    /// What is counted up whenever an endpoint's standing changes.
    pub(crate) fn changes(&self) -> &Arc<AtomicU64> {
        &self.version
    }

    /// How often the standing of endpoints has changed.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// An endpoint's standing has changed.
    pub(crate) fn changed(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Whether an endpoint may be due for its probe. One relaxed load.
    pub(crate) fn wants_probe(&self, now: Stamp) -> bool {
        self.probe_at.load(Ordering::Relaxed) <= now.as_micros()
    }

    /// An endpoint wants its probe at that moment.
    pub(crate) fn probe_at(&self, moment: Stamp) {
        self.probe_at.fetch_min(moment.as_micros(), Ordering::Relaxed);
    }

    /// Forgets when probes are wanted: whoever calls this looks at all endpoints then, and says it anew. What others say
    /// in between is kept. A request of the snapshot before may not know all of them: the control side looks, too.
    pub(crate) fn look_for_probes(&self) {
        self.probe_at.store(u64::MAX, Ordering::Relaxed);
    }
}
