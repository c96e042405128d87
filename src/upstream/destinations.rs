//! The upstreams of one worker that no policy names: hosts that requests named. Bounded; the least recently used goes.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    sync::Arc,
};

use crate::{
    config::policy::{EndpointAddress, Pool},
    snapshot::{LocalUpstream, Upstream},
    telemetry::PoolState,
};

/// What tells two destinations apart: listeners may have different rules.
type Key = (usize, EndpointAddress);

/// The destinations that one worker knows.
#[derive(Debug, Default)]
pub(super) struct Destinations {
    known: RefCell<HashMap<Key, Known>>,
    /// By endpoint: which destination it belongs to.
    endpoints: RefCell<HashMap<u64, LocalUpstream>>,
    /// Counts uses.
    clock: Cell<u64>,
}

#[derive(Debug)]
struct Known {
    upstream: LocalUpstream,
    used: u64,
}

impl Destinations {
    /// The upstream at `address`, and the one that had to be forgotten for it.
    pub(super) fn get_or_make(
        &self,
        listener: usize,
        address: EndpointAddress,
        most: usize,
        make: impl FnOnce(EndpointAddress) -> Upstream,
    ) -> (LocalUpstream, Option<LocalUpstream>) {
        let used = self.clock.get() + 1;
        self.clock.set(used);
        let mut known = self.known.borrow_mut();
        let key = (listener, address);
        if let Some(known) = known.get_mut(&key) {
            known.used = used;
            return (known.upstream.clone(), None);
        }
        let mine = known.keys().filter(|(whose, _)| *whose == listener).count();
        // A walk over all of them, once for each new destination of a full table.
        let oldest = (mine >= most)
            .then(|| {
                known.iter().filter(|((whose, _), _)| *whose == listener).min_by_key(|(_, known)| known.used)
            })
            .flatten()
            .map(|(key, _)| key.clone());
        let forgotten = oldest.and_then(|key| known.remove(&key)).map(|known| known.upstream);
        let upstream = LocalUpstream::unnamed(Arc::new(make(key.1.clone())));
        let mut endpoints = self.endpoints.borrow_mut();
        for candidate in forgotten.iter().flat_map(|upstream| &upstream.candidates) {
            endpoints.remove(&candidate.endpoint.id());
        }
        for candidate in &upstream.candidates {
            endpoints.insert(candidate.endpoint.id(), upstream.clone());
        }
        known.insert(key, Known { upstream: upstream.clone(), used });
        (upstream, forgotten)
    }

    pub(super) fn has_endpoint(&self, id: u64) -> bool {
        self.endpoints.borrow().contains_key(&id)
    }

    /// The pool settings of the destination that an endpoint belongs to, for as long as it is known.
    pub(super) fn pool_of(&self, id: u64) -> Option<Pool> {
        self.endpoints.borrow().get(&id).map(|upstream| upstream.config.pool.clone())
    }

    /// Brings the gauges of the connections up to date.
    pub(super) fn show(&self) {
        for upstream in self.endpoints.borrow().values() {
            for endpoint in upstream.candidates.iter().map(|candidate| &candidate.endpoint) {
                let (open, idle) = (endpoint.connections(), endpoint.idle());
                upstream.pool.of(PoolState::Idle).set(i64::from(idle));
                upstream.pool.of(PoolState::Connecting).set(i64::from(endpoint.connecting()));
                upstream.pool.of(PoolState::Active).set(i64::from(open.saturating_sub(idle)));
            }
        }
    }
}
