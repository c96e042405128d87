//! The compiled policy that requests read.
//!
//! A snapshot is immutable and complete: whatever can be worked out before a request comes (tables, handles,
//! connectors) is in it. A request takes the one that is current when it begins, and keeps it.

mod changes;
mod compile;
mod join;
mod local;
mod modes;
mod publisher;
mod registry;
mod rules;
mod settle;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc};

pub use compile::CompileError;
pub(crate) use local::{EndpointStake, LocalUpstream, Picked, View};
pub use publisher::{Outcome, Publisher, first};
pub use registry::Registry;
pub use rules::{Gate, Gates, Limit, Switch};

use crate::{
    balance::{Ring, Terms, Zone},
    config::{
        self, Name,
        policy::{BreakerMode, EndpointAddress, Pool},
    },
    policy::{Stamp, breaker::Breaker, ejection::Among},
    route::{Key, Rewriter, RouteTable, split::Split},
    telemetry::{
        BreakerMetrics, PlanMetrics, PoolState, RouteMetrics, Share, UpstreamMetrics, labels::PerLabel,
    },
    upstream::{Connector, Endpoint, Vitals, Watched},
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
    /// The switches, in order of name, also those that are off.
    pub switches: Vec<Arc<Switch>>,
    /// The limits, in order of name, also those that are off.
    pub limits: Vec<Arc<Limit>>,
    /// The plans, in order of name.
    pub plans: Vec<Arc<Plan>>,
    /// Which switches and limits a request meets; none with `bypass`.
    pub gates: Gates,
    /// Every protection is off: no switch, no limit, no breaker, no ejection, no fallback.
    pub bypass: bool,
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

/// A plan. What it changes is in the resources already; it is here for its metrics.
#[derive(Debug)]
pub struct Plan {
    /// As configured.
    pub config: Arc<config::policy::Plan>,
    /// Its metrics.
    pub metrics: Arc<PlanMetrics>,
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
    /// Where it has breakers of its own: one for each upstream that it uses.
    pub breakers: Vec<RouteBreaker>,
    /// What its requests get when the upstream cannot answer; `None` = what the upstream says.
    pub fallback: Option<Fallback>,
}

/// The breaker that a route has for its use of one upstream.
#[derive(Debug)]
pub struct RouteBreaker {
    /// The upstream.
    pub upstream: Name,
    /// What decides.
    pub breaker: Arc<Breaker>,
    /// Its settings, with the mode that holds.
    pub settings: (config::policy::Breaker, BreakerMode),
    /// Its metrics.
    pub metrics: Arc<BreakerMetrics>,
}

/// What a request gets when its upstream cannot answer it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fallback {
    /// This answer.
    Respond(config::policy::Respond),
    /// That of another upstream, by its index in the snapshot.
    Upstream(usize),
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
    /// How many of them have a weight.
    pub in_rotation: u32,
    /// What outlives the snapshot.
    pub vitals: Arc<Vitals>,
    /// What estimates of latency go by.
    pub terms: Terms,
    /// The mode of its breaker.
    pub mode: BreakerMode,
    /// What requests that belong together have in common; empty = nothing.
    pub key: Key,
    /// The ring of its endpoints, where it is balanced by one.
    pub ring: Option<Arc<Ring>>,
    /// What its callers get when it cannot answer.
    pub fallback: Option<Fallback>,
    /// Counts what automatic switches look at; `None` = none does.
    pub watched: Option<Arc<Watched>>,
    /// Its metrics.
    pub metrics: Arc<UpstreamMetrics>,
    /// Connections to its endpoints by state; set by the control side.
    pub pool: PerLabel<PoolState, Share>,
}

impl Upstream {
    /// One that no policy names, with one endpoint: what a listener passes through.
    pub(crate) fn unnamed(
        config: &Arc<config::policy::Upstream>,
        connector: &Arc<Connector>,
        metrics: &Arc<UpstreamMetrics>,
        address: EndpointAddress,
        now: Stamp,
    ) -> Self {
        let vitals = Arc::new(Vitals::new(&config.breaker, BreakerMode::Off, now));
        let endpoint = config::policy::Endpoint {
            address: address.clone(),
            weight: 1,
            zone: None,
            tier: 0,
            source: config::policy::EndpointSource::List,
        };
        let candidate = Candidate {
            endpoint: Arc::new(Endpoint::new(address, vitals.clone(), now)),
            config: endpoint,
            zone: Zone::Unknown,
        };
        Self {
            config: config.clone(),
            connector: connector.clone(),
            candidates: vec![candidate],
            in_rotation: 1,
            vitals,
            terms: Terms::of(&config.balancer),
            mode: BreakerMode::Off,
            key: Key::compile(&[]),
            ring: None,
            fallback: None,
            watched: None,
            metrics: metrics.clone(),
            pool: metrics.pool.map(|gauge| Share::new(gauge.clone())),
        }
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.config.name
    }

    /// What ejection of one of its endpoints goes by.
    pub(crate) fn among(&self) -> Among<'_> {
        Among { group: &self.vitals.group, settings: &self.config.ejection, endpoints: self.in_rotation }
    }

    /// Notes when those of its endpoints that are out want their probes. Whatever may have changed these moments without
    /// saying so is made good by it.
    pub(crate) fn note_probes(&self) {
        for candidate in self.candidates.iter().filter(|candidate| candidate.config.weight > 0) {
            if let Some(at) = candidate.endpoint.outlier().next_probe() {
                self.vitals.probe_at(at);
            }
        }
    }
}

/// One endpoint as a candidate for requests.
#[derive(Debug)]
pub struct Candidate {
    /// What outlives the snapshot.
    pub endpoint: Arc<Endpoint>,
    /// As configured.
    pub config: config::policy::Endpoint,
    /// Where it is, seen from here.
    pub zone: Zone,
}
