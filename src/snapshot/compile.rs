//! From validated policy to a snapshot.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;

use super::{Candidate, Registry, Route, Snapshot, Target, Upstream};
use crate::{
    balance::{Balancer, first_tier},
    config::{Name, Policy, policy},
    listener::Listener,
    route::{Key, Rewriter, RouteTable, split::Split},
    telemetry::{Metrics, Share},
    tls::TlsError,
};

/// Why a policy could not become a snapshot although it is valid: something outside of it is not as it says.
#[derive(Debug)]
pub enum CompileError {
    /// TLS material of an upstream.
    Tls(Name, TlsError),
}

impl std::fmt::Display for CompileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tls(upstream, error) => write!(f, "policy.upstreams.{upstream}.tls: {error}"),
        }
    }
}

impl std::error::Error for CompileError {}

/// Compiles `policy` for `listeners`, with what `registry` keeps from before. What `before` says in the same way is
/// taken over as it is: the cost of a change is that of looking for it, and of what it touches.
pub(super) fn compile(
    generation: u64,
    policy: &Policy,
    before: &Snapshot,
    listeners: &[Arc<Listener>],
    registry: &mut Registry,
    metrics: &Metrics,
) -> Result<Snapshot, CompileError> {
    let mut upstreams = Vec::with_capacity(policy.upstreams.len());
    let mut known = Known::new(&before.upstreams, |upstream| upstream.name());
    for config in policy.upstreams.values() {
        upstreams.push(match known.find(&config.name) {
            Some(known) if same(&known.config, config) => known.clone(),
            _ => Arc::new(upstream(config, registry, metrics)?),
        });
    }
    let index: HashMap<&Name, usize, RandomState> =
        policy.upstreams.keys().enumerate().map(|(i, name)| (name, i)).collect();
    let mut known = Known::new(&before.routes, |route| &route.config.name);
    let routes: Vec<_> = policy
        .routes
        .values()
        .map(|config| match known.find(&config.name) {
            Some(known) if same(&known.config, config) && known.target.leads_to(config, &index) => {
                known.clone()
            }
            _ => Arc::new(route(config, &index, listeners, metrics)),
        })
        .collect();
    let tables = tables(policy, &routes, before, listeners);
    let mut endpoints = HashMap::default();
    for (i, upstream) in upstreams.iter().enumerate() {
        endpoints.extend(upstream.candidates.iter().map(|candidate| (candidate.endpoint.id(), i)));
    }
    Ok(Snapshot { generation, tables, routes, upstreams, endpoints })
}

/// What two documents say is the same, and nearly always they are one.
fn same<T: PartialEq>(a: &Arc<T>, b: &Arc<T>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

/// What was there before, in order of name, asked for in order of name.
struct Known<'a, T, N> {
    rest: std::iter::Peekable<std::slice::Iter<'a, Arc<T>>>,
    name: N,
}

impl<'a, T, N: Fn(&T) -> &Name> Known<'a, T, N> {
    fn new(all: &'a [Arc<T>], name: N) -> Self {
        Self { rest: all.iter().peekable(), name }
    }

    fn find(&mut self, name: &Name) -> Option<&'a Arc<T>> {
        while self.rest.next_if(|one| (self.name)(one) < name).is_some() {}
        self.rest.next_if(|one| (self.name)(one) == name)
    }
}

/// The tables of all listeners. Only what routes match, and their order, is in them: where that is as it was, so are
/// they.
fn tables(
    policy: &Policy,
    routes: &[Arc<Route>],
    before: &Snapshot,
    listeners: &[Arc<Listener>],
) -> Vec<Arc<RouteTable>> {
    let matches_as = |(a, b): (&Arc<Route>, &Arc<Route>)| {
        Arc::ptr_eq(a, b) || a.config.name == b.config.name && a.config.matches == b.config.matches
    };
    let unchanged = before.tables.len() == listeners.len()
        && before.routes.len() == routes.len()
        && before.routes.iter().zip(routes).all(matches_as);
    if unchanged {
        return before.tables.clone();
    }
    let configs: Vec<_> = policy.routes.values().cloned().collect();
    let compiled = |listener: &Arc<Listener>| Arc::new(RouteTable::compile(&configs, &listener.config.name));
    listeners.iter().map(compiled).collect()
}

fn upstream(
    config: &Arc<policy::Upstream>,
    registry: &mut Registry,
    metrics: &Metrics,
) -> Result<Upstream, CompileError> {
    let connector =
        registry.connector(config).map_err(|error| CompileError::Tls(config.name.clone(), error))?;
    let candidate = |endpoint: &policy::Endpoint| Candidate {
        endpoint: registry.endpoint(config, &endpoint.address),
        config: endpoint.clone(),
    };
    let candidates = config.endpoints.iter().map(candidate).collect();
    // Nothing is known to be unhealthy in this version, so later tiers stand by.
    let tiers: Vec<_> = config.endpoints.iter().map(|endpoint| (endpoint.tier, endpoint.weight)).collect();
    let metrics = metrics.upstream(&config.name);
    Ok(Upstream {
        pool: metrics.pool.map(|gauge| Share::new(gauge.clone())),
        config: config.clone(),
        connector,
        candidates,
        balancer: Balancer::new(config.balancer.policy, &first_tier(&tiers)),
        metrics,
    })
}

fn route(
    config: &Arc<policy::Route>,
    upstreams: &HashMap<&Name, usize, RandomState>,
    listeners: &[Arc<Listener>],
    metrics: &Metrics,
) -> Route {
    // Validation has made sure that every name is there and that some weight is above 0.
    let find = |name: &Name| upstreams.get(name).copied().unwrap_or(usize::MAX);
    let target = match &config.target {
        policy::Target::Upstream(name) => Target::Upstream(find(name)),
        policy::Target::Split { key, parts } => {
            let targets = parts.iter().map(|(name, _)| find(name)).collect();
            match Split::compile(parts) {
                Some(split) => Target::Split { split, key: Key::compile(key), targets },
                None => Target::Upstream(usize::MAX),
            }
        }
    };
    let metrics = listeners
        .iter()
        .map(|listener| {
            let listener = &listener.config.name;
            let applies = config.matches.listener.as_ref().is_none_or(|wanted| wanted == listener);
            applies.then(|| metrics.route(listener, &config.name))
        })
        .collect();
    Route { config: config.clone(), target, rewriter: Rewriter::compile(config), metrics }
}

impl Target {
    /// Whether it is what `config` says, where the upstreams are at these positions.
    fn leads_to(&self, config: &policy::Route, upstreams: &HashMap<&Name, usize, RandomState>) -> bool {
        match (self, &config.target) {
            (Self::Upstream(index), policy::Target::Upstream(name)) => upstreams.get(name) == Some(index),
            (Self::Split { targets, .. }, policy::Target::Split { parts, .. }) => {
                targets.iter().map(Some).eq(parts.iter().map(|(name, _)| upstreams.get(name)))
            }
            _ => false,
        }
    }
}
