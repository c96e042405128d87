//! All upstream connections of one worker.

use std::{
    cell::RefCell,
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{connector::Alpn, destinations::Destinations, lane::Lane, limits::Limits};
use crate::{
    config::policy::{EndpointAddress, Pool, UpstreamProtocol},
    snapshot::{Candidate, LocalUpstream, Upstream, View},
};

/// How often an HTTP/2 connection with requests on it is asked for a sign of life, and how long that may take: a
/// dead endpoint is given up before the default `timeout` of a route is over.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What kind of connection a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Want {
    /// Whatever the upstream's protocol says.
    Any,
    /// HTTP/1.1 where there is a choice: the request is an upgrade, which every endpoint knows there.
    Upgrade,
    /// gRPC: HTTP/2 where there is a choice.
    Grpc,
}

impl Want {
    /// How many kinds there are; [`Want::index`] is below it.
    pub(crate) const KINDS: usize = 3;

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Any => 0,
            Self::Upgrade => 1,
            Self::Grpc => 2,
        }
    }

    fn alpn(self, protocol: UpstreamProtocol, secure: bool) -> Alpn {
        match (self, protocol) {
            (Self::Any | Self::Grpc, UpstreamProtocol::Auto) if secure => Alpn::Both,
            (_, UpstreamProtocol::Http2) | (Self::Grpc, UpstreamProtocol::Auto) => Alpn::Http2,
            (_, UpstreamProtocol::Http1) | (Self::Any | Self::Upgrade, UpstreamProtocol::Auto) => Alpn::Http1,
        }
    }
}

/// The lanes of one worker, by endpoint and kind.
#[derive(Debug)]
pub(crate) struct Pools {
    worker: usize,
    workers: usize,
    lanes: RefCell<HashMap<(u64, Alpn), Rc<Lane>, foldhash::fast::RandomState>>,
    /// The upstreams that no policy names.
    destinations: Destinations,
}

impl Pools {
    pub(crate) fn new(worker: usize, workers: usize) -> Self {
        Self { worker, workers, lanes: RefCell::default(), destinations: Destinations::default() }
    }

    /// The lane for requests that want `want` from `candidate`.
    pub(crate) fn lane(&self, upstream: &Upstream, candidate: &Candidate, want: Want) -> Rc<Lane> {
        let alpn = want.alpn(upstream.config.protocol, upstream.connector.secure());
        let mut lanes = self.lanes.borrow_mut();
        let lane = lanes.entry((candidate.endpoint.id(), alpn)).or_insert_with(|| {
            let limits = self.share(&upstream.config.pool);
            Lane::new(candidate.endpoint.clone(), Arc::clone(&upstream.connector), alpn, limits)
        });
        lane.clone()
    }

    /// Retires the lanes of endpoints that `view` no longer names.
    pub(crate) fn keep_only(&self, view: &View) {
        self.retire_those(|endpoint| {
            !view.snapshot().has_endpoint(endpoint) && !self.destinations.has_endpoint(endpoint)
        });
    }

    /// The upstream of a destination that no policy names, at `address`, as `listener` sees it; `make` makes it when it
    /// is not known. Beyond this worker's share of `most` the one that was used least recently is forgotten: its idle
    /// connections close, and what runs goes on.
    pub(crate) fn destination(
        &self,
        listener: usize,
        address: EndpointAddress,
        most: u32,
        make: impl FnOnce(EndpointAddress) -> Upstream,
    ) -> LocalUpstream {
        let most = self.share_of(most).max(1);
        let (upstream, forgotten) = self.destinations.get_or_make(listener, address, most, make);
        for endpoint in forgotten.iter().flat_map(|upstream| &upstream.candidates) {
            self.retire(endpoint.endpoint.id());
        }
        upstream
    }

    fn retire(&self, endpoint: u64) {
        self.retire_those(|id| id == endpoint);
    }

    fn retire_those(&self, gone: impl Fn(u64) -> bool) {
        let gone: Vec<_> = self.lanes.borrow_mut().extract_if(|(endpoint, _), _| gone(*endpoint)).collect();
        for (_, lane) in gone {
            lane.retire();
        }
    }

    /// Upkeep of all lanes; called by the worker a few times a second.
    pub(crate) fn maintain(&self, now: Instant, view: &View) {
        let lanes: Vec<_> = self.lanes.borrow().values().cloned().collect();
        for lane in lanes {
            let id = lane.endpoint().id();
            let unnamed = || self.destinations.pool_of(id);
            match view
                .snapshot()
                .pool_of(id)
                .map(|pool| self.share(pool))
                .or_else(|| Some(self.share(&unnamed()?)))
            {
                Some(limits) => lane.set_limits(&limits),
                // A request that began before its endpoint was removed has made it since.
                None => self.retire(id),
            }
            lane.maintain(now);
        }
        self.destinations.show();
    }

    fn share_of(&self, whole: u32) -> usize {
        let whole = usize::try_from(whole).unwrap_or(usize::MAX);
        whole / self.workers + usize::from(self.worker < whole % self.workers)
    }

    /// This worker's share of counts that hold for the process; at least one connection, and one that waits if any
    /// may.
    fn share(&self, pool: &Pool) -> Limits {
        let share = |whole: u32| self.share_of(whole);
        let count = |whole: u32| u32::try_from(share(whole)).unwrap_or(u32::MAX);
        Limits {
            max_connections: count(pool.max_connections).max(1),
            min_idle: count(pool.min_idle),
            max_pending: share(pool.max_pending).max(usize::from(pool.max_pending > 0)),
            pending_timeout: pool.pending_timeout,
            idle_timeout: pool.idle_timeout,
            max_age: pool.max_age,
            keep_alive: KEEP_ALIVE,
        }
    }
}
