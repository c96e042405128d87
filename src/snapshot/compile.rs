//! From validated policy to a snapshot.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use foldhash::fast::RandomState;

use super::{Candidate, Fallback, Registry, Route, RouteBreaker, Snapshot, Target, Upstream};
use crate::{
    balance::{Ring, Terms, Zone},
    config::{
        Name, Policy,
        bootstrap::Direction,
        policy::{self, BalancerPolicy, BreakerMode},
    },
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
    let index: HashMap<&Name, usize, RandomState> =
        policy.upstreams.keys().enumerate().map(|(i, name)| (name, i)).collect();
    let modes = Modes::of(policy, listeners);
    let mut upstreams = Vec::with_capacity(policy.upstreams.len());
    let mut known = Known::new(&before.upstreams, |upstream| upstream.name());
    for config in policy.upstreams.values() {
        let mode = modes.of_upstream(config);
        let fallback = config.fallback.as_ref().map(|fallback| fallback_of(fallback, &index));
        upstreams.push(match known.find(&config.name) {
            Some(known)
                if same(&known.config, config) && known.mode == mode && known.fallback == fallback =>
            {
                known.clone()
            }
            _ => Arc::new(upstream(config, mode, fallback, registry, metrics)?),
        });
    }
    let mut known = Known::new(&before.routes, |route| &route.config.name);
    let routes: Vec<_> = policy
        .routes
        .values()
        .map(|config| match known.find(&config.name) {
            Some(known)
                if same(&known.config, config)
                    && known.target.leads_to(config, &index)
                    && known.falls_back_to(&index)
                    && known.breakers_hold(&upstreams) =>
            {
                known.clone()
            }
            _ => Arc::new(route(config, &index, &upstreams, listeners, registry, metrics)),
        })
        .collect();
    let tables = tables(policy, &routes, before, listeners);
    let mut endpoints = HashMap::default();
    for (i, upstream) in upstreams.iter().enumerate() {
        endpoints.extend(upstream.candidates.iter().map(|candidate| (candidate.endpoint.id(), i)));
    }
    Ok(Snapshot { generation, tables, routes, upstreams, bypass: policy.bypass, endpoints })
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

/// Which mode a breaker has that names none.
struct Modes<'a> {
    /// The upstreams that something else than inbound listeners uses.
    outbound: HashSet<&'a Name, RandomState>,
    /// Those that anything uses.
    used: HashSet<&'a Name, RandomState>,
}

impl<'a> Modes<'a> {
    fn of(policy: &'a Policy, listeners: &[Arc<Listener>]) -> Self {
        let mut modes = Self { outbound: HashSet::default(), used: HashSet::default() };
        for route in policy.routes.values() {
            let wanted = route.matches.listener.as_ref();
            let outbound = listeners.iter().any(|listener| {
                listener.config.direction == Direction::Outbound
                    && wanted.is_none_or(|wanted| *wanted == listener.config.name)
            });
            let own = match &route.target {
                policy::Target::Upstream(name) => std::slice::from_ref(name).iter().collect::<Vec<_>>(),
                policy::Target::Split { parts, .. } => parts.iter().map(|(name, _)| name).collect(),
            };
            let fallback = match &route.fallback {
                Some(policy::Fallback::Upstream(name)) => Some(name),
                _ => None,
            };
            for name in own.into_iter().chain(fallback) {
                modes.uses(policy, name, outbound);
            }
        }
        modes
    }

    /// An upstream is used, and so are those that it falls back to.
    fn uses(&mut self, policy: &'a Policy, name: &'a Name, outbound: bool) {
        let mut next = Some(name);
        while let Some(name) = next {
            let news = self.used.insert(name) | (outbound && self.outbound.insert(name));
            let upstream = policy.upstreams.get(name).filter(|_| news);
            next = match upstream.and_then(|upstream| upstream.fallback.as_ref()) {
                Some(policy::Fallback::Upstream(name)) => Some(name),
                _ => None,
            };
        }
    }

    /// One bad path must not close the pod: what only inbound listeners use is observed.
    fn of_upstream(&self, config: &policy::Upstream) -> BreakerMode {
        let inbound = self.used.contains(&config.name) && !self.outbound.contains(&config.name);
        let default = if inbound { BreakerMode::Observe } else { BreakerMode::Auto };
        config.breaker.mode.unwrap_or(default)
    }
}

fn fallback_of(fallback: &policy::Fallback, upstreams: &HashMap<&Name, usize, RandomState>) -> Fallback {
    match fallback {
        policy::Fallback::Respond(respond) => Fallback::Respond(respond.clone()),
        // Validation has made sure that it is there.
        policy::Fallback::Upstream(name) => {
            Fallback::Upstream(upstreams.get(name).copied().unwrap_or(usize::MAX))
        }
    }
}

fn upstream(
    config: &Arc<policy::Upstream>,
    mode: BreakerMode,
    fallback: Option<Fallback>,
    registry: &mut Registry,
    metrics: &Metrics,
) -> Result<Upstream, CompileError> {
    let connector =
        registry.connector(config).map_err(|error| CompileError::Tls(config.name.clone(), error))?;
    let vitals = registry.vitals(config, mode);
    let own_zone = registry.zone().cloned();
    let candidate = |endpoint: &policy::Endpoint| Candidate {
        endpoint: registry.endpoint(config, &endpoint.address, &vitals),
        config: endpoint.clone(),
        zone: match (&own_zone, &endpoint.zone) {
            (Some(own), Some(zone)) if own == zone => Zone::Same,
            (Some(_), Some(_)) => Zone::Other,
            _ => Zone::Unknown,
        },
    };
    let candidates: Vec<_> = config.endpoints.iter().map(candidate).collect();
    let ring = (config.balancer.policy == BalancerPolicy::RingHash).then(|| {
        let names: Vec<_> =
            config.endpoints.iter().map(|one| (one.address.to_string(), one.weight)).collect();
        Arc::new(Ring::build(names.iter().map(|(name, weight)| (name.as_str(), *weight))))
    });
    let metrics = metrics.upstream(&config.name);
    Ok(Upstream {
        pool: metrics.pool.map(|gauge| Share::new(gauge.clone())),
        config: config.clone(),
        connector,
        in_rotation: in_rotation(&candidates),
        candidates,
        vitals,
        terms: Terms::of(&config.balancer),
        mode,
        key: Key::compile(&config.balancer.key),
        ring,
        fallback,
        metrics,
    })
}

fn in_rotation(candidates: &[Candidate]) -> u32 {
    let weighty = candidates.iter().filter(|candidate| candidate.config.weight > 0).count();
    u32::try_from(weighty).unwrap_or(u32::MAX)
}

fn route(
    config: &Arc<policy::Route>,
    upstreams: &HashMap<&Name, usize, RandomState>,
    compiled: &[Arc<Upstream>],
    listeners: &[Arc<Listener>],
    registry: &mut Registry,
    metrics: &Metrics,
) -> Route {
    let breakers = own_breakers(config, upstreams, compiled, registry, metrics);
    let fallback = config.fallback.as_ref().map(|fallback| fallback_of(fallback, upstreams));
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
    Route { config: config.clone(), target, rewriter: Rewriter::compile(config), metrics, breakers, fallback }
}

/// The breakers that a route has for itself: one for each upstream that it uses.
fn own_breakers(
    config: &policy::Route,
    upstreams: &HashMap<&Name, usize, RandomState>,
    compiled: &[Arc<Upstream>],
    registry: &mut Registry,
    metrics: &Metrics,
) -> Vec<RouteBreaker> {
    let Some(own) = &config.breaker else { return Vec::new() };
    let used: BTreeSet<&Name> = match &config.target {
        policy::Target::Upstream(name) => [name].into(),
        policy::Target::Split { parts, .. } => parts.iter().map(|(name, _)| name).collect(),
    };
    let found = used.into_iter().filter_map(|name| compiled.get(*upstreams.get(name)?));
    found
        .map(|upstream| {
            let settings = own.over(&upstream.config.breaker);
            let mode = settings.mode.unwrap_or(upstream.mode);
            RouteBreaker {
                upstream: upstream.name().clone(),
                breaker: registry.route_breaker(&config.name, upstream.name(), &settings, mode),
                settings: (settings, mode),
                metrics: metrics.breaker(upstream.name(), &config.name),
            }
        })
        .collect()
}

impl Route {
    /// Whether its fallback is where the upstreams are at these positions.
    fn falls_back_to(&self, upstreams: &HashMap<&Name, usize, RandomState>) -> bool {
        match (&self.config.fallback, &self.fallback) {
            (Some(policy::Fallback::Upstream(name)), Some(Fallback::Upstream(index))) => {
                upstreams.get(name) == Some(index)
            }
            _ => true,
        }
    }

    /// Whether its own breakers are what comes of its settings over those of these upstreams.
    fn breakers_hold(&self, upstreams: &[Arc<Upstream>]) -> bool {
        let Some(own) = &self.config.breaker else { return true };
        self.breakers.iter().all(|breaker| {
            let found = upstreams.binary_search_by(|upstream| upstream.name().cmp(&breaker.upstream));
            let upstream = found.ok().and_then(|index| upstreams.get(index));
            upstream.is_some_and(|upstream| {
                let settings = own.over(&upstream.config.breaker);
                let mode = settings.mode.unwrap_or(upstream.mode);
                breaker.settings == (settings, mode)
            })
        })
    }
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
