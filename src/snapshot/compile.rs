//! From validated policy to a snapshot.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use foldhash::fast::RandomState;

use super::{
    Candidate, Fallback, Gates, Plan, Registry, Route, RouteBreaker, Snapshot, Target, Upstream,
    modes::Modes, rules,
};
use crate::{
    balance::{Ring, Terms, Zone},
    config::{
        Name, Policy,
        policy::{self, BalancerPolicy, BreakerMode},
    },
    listener::Listener,
    policy::{Stamp, automatic},
    route::{Key, Rewriter, RouteTable, split::Split},
    telemetry::{Metrics, Share},
    tls::TlsError,
    upstream::Watched,
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
    let now = now();
    let index: HashMap<&Name, usize, RandomState> =
        policy.upstreams.keys().enumerate().map(|(i, name)| (name, i)).collect();
    let modes = Modes::of(policy, listeners);
    let watched = automatic::watched(policy);
    let mut upstreams = Vec::with_capacity(policy.upstreams.len());
    let mut known = Known::new(&before.upstreams, |upstream| upstream.name());
    for config in policy.upstreams.values() {
        let mode = modes.of_upstream(config);
        let fallback = config.fallback.as_ref().map(|fallback| fallback_of(fallback, &index));
        let known = known.find(&config.name);
        let watched = watch(watched.get(&config.name), known);
        upstreams.push(match known {
            Some(known)
                if same(&known.config, config)
                    && known.mode == mode
                    && known.fallback == fallback
                    && known.watched.as_ref().map(Arc::as_ptr) == watched.as_ref().map(Arc::as_ptr) =>
            {
                known.clone()
            }
            _ => Arc::new(Upstream { watched, ..upstream(config, mode, fallback, registry, metrics)? }),
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
    let mut known = Known::new(&before.switches, |switch| switch.name());
    let switches: Vec<_> = policy
        .switches
        .values()
        .map(|config| {
            let upstream =
                rules::reroutes_to(config).map(|name| index.get(name).copied().unwrap_or(usize::MAX));
            rules::switch(config, known.find(&config.name), upstream, metrics)
        })
        .collect();
    let mut known = Known::new(&before.limits, |limit| limit.name());
    let limits: Vec<_> = policy
        .limits
        .values()
        .map(|config| rules::limit(config, known.find(&config.name), now, registry, metrics))
        .collect();
    let gates =
        if policy.bypass { Gates::default() } else { Gates::compile(&switches, &limits, &routes, listeners) };
    let plans = plans(policy, before, metrics);
    let mut endpoints = HashMap::default();
    for (i, upstream) in upstreams.iter().enumerate() {
        endpoints.extend(upstream.candidates.iter().map(|candidate| (candidate.endpoint.id(), i)));
    }
    let bypass = policy.bypass;
    Ok(Snapshot { generation, tables, routes, upstreams, switches, limits, plans, gates, bypass, endpoints })
}

/// This moment by both clocks.
fn now() -> (Stamp, Duration) {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (Stamp::of(Instant::now()), unix)
}

fn plans(policy: &Policy, before: &Snapshot, metrics: &Metrics) -> Vec<Arc<Plan>> {
    let mut known = Known::new(&before.plans, |plan| &plan.config.name);
    let plan = |config: &Arc<policy::Plan>| match known.find(&config.name) {
        Some(known) if same(&known.config, config) => known.clone(),
        _ => Arc::new(Plan { config: config.clone(), metrics: metrics.plan(&config.name) }),
    };
    policy.plans.values().map(plan).collect()
}

/// What counts the results of an upstream for these thresholds: what did so before, where that may go on.
fn watch(thresholds: Option<&Vec<Duration>>, known: Option<&Arc<Upstream>>) -> Option<Arc<Watched>> {
    let thresholds = thresholds?;
    let known = known.and_then(|known| known.watched.as_ref());
    match known {
        Some(known) if known.is_for(thresholds) => Some(known.clone()),
        _ => Some(Arc::new(Watched::new(thresholds, known.map(|known| &**known)))),
    }
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
        watched: None,
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
