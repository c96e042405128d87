//! The compiled policy that requests read.
//!
//! A snapshot is immutable and complete: whatever can be worked out before a request comes (tables, handles,
//! connectors) is in it. A request takes the one that is current when it begins, and keeps it.

mod compile;
mod join;
mod publisher;
mod registry;
#[cfg(test)]
mod tests;

use std::{cell::OnceCell, collections::HashMap, ops::Deref, rc::Rc, sync::Arc};

pub use compile::CompileError;
pub use publisher::{Outcome, Publisher, first};
pub use registry::Registry;

use crate::{
    balance::Balancer,
    config::{
        self, Name,
        policy::{EndpointAddress, Pool},
    },
    route::{Key, Rewriter, RouteTable, split::Split},
    telemetry::{PoolState, RouteMetrics, Share, UpstreamMetrics, labels::PerLabel},
    upstream::{Connector, Endpoint, Lane, Pools, Want},
};

/// The policy as it is now.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts the snapshots of this process, from 1.
    pub generation: u64,
    /// One table per listener, in the listeners' order.
    pub tables: Vec<Arc<RouteTable>>,
    /// The routes, in the order that the tables' indices mean.
    pub routes: Vec<Arc<Route>>,
    /// The upstreams, in order of name.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Which endpoint (by id) belongs to which upstream (by index).
    endpoints: HashMap<u64, usize, foldhash::fast::RandomState>,
}

impl Snapshot {
    pub(crate) fn has_endpoint(&self, id: u64) -> bool {
        self.endpoints.contains_key(&id)
    }

    pub(crate) fn pool_of(&self, endpoint: u64) -> Option<&Pool> {
        let upstream = self.upstreams.get(*self.endpoints.get(&endpoint)?)?;
        Some(&upstream.config.pool)
    }
}

/// A route, compiled.
#[derive(Debug)]
pub struct Route {
    /// As configured.
    pub config: Arc<config::policy::Route>,
    /// Where its requests go.
    pub target: Target,
    /// Changes to the target of its requests.
    pub rewriter: Rewriter,
    /// Its metrics, per listener; `None` where it does not apply.
    pub metrics: Vec<Option<Arc<RouteMetrics>>>,
}

/// Where a route's requests go, as indices into the snapshot's upstreams.
#[derive(Debug)]
pub enum Target {
    /// One upstream.
    Upstream(usize),
    /// Several, by weight.
    Split {
        /// Chooses a part.
        split: Split,
        /// What makes the choice sticky; empty = nothing does.
        key: Key,
        /// The upstreams of the parts.
        targets: Vec<usize>,
    },
}

/// An upstream, compiled.
#[derive(Debug)]
pub struct Upstream {
    /// As configured.
    pub config: Arc<config::policy::Upstream>,
    /// Connects to its endpoints.
    pub connector: Arc<Connector>,
    /// Its endpoints, in the order of the document.
    pub candidates: Vec<Candidate>,
    /// Chooses among them.
    pub balancer: Balancer,
    /// Its metrics.
    pub metrics: Arc<UpstreamMetrics>,
    /// Connections to its endpoints by state; set by the control side.
    pub pool: PerLabel<PoolState, Share>,
}

impl Upstream {
    /// An upstream of one endpoint that no policy names: a host that a request named. `config` says what holds for all
    /// of its kind.
    pub(crate) fn unnamed(
        config: &Arc<config::policy::Upstream>,
        connector: &Arc<Connector>,
        metrics: &Arc<UpstreamMetrics>,
        address: EndpointAddress,
    ) -> Self {
        let endpoint = config::policy::Endpoint {
            address: address.clone(),
            weight: 1,
            zone: None,
            tier: 0,
            source: config::policy::EndpointSource::List,
        };
        let candidate = Candidate { endpoint: Arc::new(Endpoint::new(address)), config: endpoint };
        Self {
            config: config.clone(),
            connector: connector.clone(),
            candidates: vec![candidate],
            balancer: Balancer::new(config.balancer.policy, &[1]),
            metrics: metrics.clone(),
            pool: metrics.pool.map(|gauge| Share::new(gauge.clone())),
        }
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.config.name
    }
}

/// An upstream in the hands of one worker. What all workers share is dear to count up and down, so that a request
/// counts here instead.
#[derive(Debug, Clone)]
pub(crate) struct LocalUpstream(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    upstream: Arc<Upstream>,
    /// The lanes of its candidates, looked up once; none where candidates come and go.
    lanes: Vec<[OnceCell<Rc<Lane>>; Want::KINDS]>,
}

impl LocalUpstream {
    /// One that a policy names.
    fn named(upstream: Arc<Upstream>) -> Self {
        let lanes = upstream.candidates.iter().map(|_| Default::default()).collect();
        Self(Rc::new(Shared { upstream, lanes }))
    }

    /// One that no policy names.
    pub(crate) fn unnamed(upstream: Arc<Upstream>) -> Self {
        Self(Rc::new(Shared { upstream, lanes: Vec::new() }))
    }

    /// The lane for requests that want `want` from the candidate at `index`; `None` when there is none.
    pub(crate) fn lane(&self, pools: &Pools, index: usize, want: Want) -> Option<Rc<Lane>> {
        let find = || Some(pools.lane(self, self.candidates.get(index)?, want));
        let Some(known) = self.0.lanes.get(index).and_then(|kinds| kinds.get(want.index())) else {
            return find();
        };
        if let Some(lane) = known.get() {
            return Some(lane.clone());
        }
        let lane = find()?;
        Some(known.get_or_init(|| lane).clone())
    }
}

impl Deref for LocalUpstream {
    type Target = Upstream;

    fn deref(&self) -> &Upstream {
        &self.0.upstream
    }
}

/// One endpoint as a candidate for requests.
#[derive(Debug)]
pub struct Candidate {
    /// What outlives the snapshot.
    pub endpoint: Arc<Endpoint>,
    /// As configured.
    pub config: config::policy::Endpoint,
}

/// A snapshot with what one worker keeps beside it.
#[derive(Debug)]
pub(crate) struct View {
    snapshot: Arc<Snapshot>,
    /// Made when a request wants them first.
    upstreams: Vec<OnceCell<LocalUpstream>>,
}

impl View {
    pub(crate) fn new(snapshot: Arc<Snapshot>) -> Self {
        let upstreams = snapshot.upstreams.iter().map(|_| OnceCell::new()).collect();
        Self { snapshot, upstreams }
    }

    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    pub(crate) fn upstream(&self, index: usize) -> Option<&LocalUpstream> {
        let upstream = self.snapshot.upstreams.get(index)?;
        Some(self.upstreams.get(index)?.get_or_init(|| LocalUpstream::named(upstream.clone())))
    }
}
