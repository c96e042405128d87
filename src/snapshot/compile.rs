//! From validated policy to a snapshot.

use std::{collections::HashMap, sync::Arc};

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

/// Compiles `policy` for `listeners`, with what `registry` keeps from before.
pub(super) fn compile(
    generation: u64,
    policy: &Policy,
    listeners: &[Arc<Listener>],
    registry: &mut Registry,
    metrics: &Metrics,
) -> Result<Snapshot, CompileError> {
    let mut slots = 0;
    let mut upstreams = Vec::with_capacity(policy.upstreams.len());
    for config in policy.upstreams.values() {
        upstreams.push(Arc::new(upstream(config, registry, metrics, &mut slots)?));
    }
    let index: HashMap<&Name, usize> =
        policy.upstreams.keys().enumerate().map(|(i, name)| (name, i)).collect();
    let configs: Vec<_> = policy.routes.values().cloned().collect();
    let routes = configs.iter().map(|config| route(config, &index, listeners, metrics)).collect();
    let tables =
        listeners.iter().map(|listener| RouteTable::compile(&configs, &listener.config.name)).collect();
    let endpoints = upstreams
        .iter()
        .enumerate()
        .flat_map(|(i, upstream)| upstream.candidates.iter().map(move |c| (c.endpoint.id(), i)))
        .collect();
    Ok(Snapshot { generation, tables, routes, upstreams, endpoints, slots })
}

fn upstream(
    config: &Arc<policy::Upstream>,
    registry: &mut Registry,
    metrics: &Metrics,
    slots: &mut usize,
) -> Result<Upstream, CompileError> {
    let connector =
        registry.connector(config).map_err(|error| CompileError::Tls(config.name.clone(), error))?;
    let candidates = config
        .endpoints
        .iter()
        .map(|endpoint| {
            let slot = *slots;
            *slots += 1;
            Candidate {
                endpoint: registry.endpoint(config, &endpoint.address),
                config: endpoint.clone(),
                slot,
            }
        })
        .collect();
    // Nothing is known to be unhealthy in this version, so later tiers stand by.
    let tiers: Vec<_> = config.endpoints.iter().map(|endpoint| (endpoint.tier, endpoint.weight)).collect();
    let metrics = metrics.upstream(&config.name);
    Ok(Upstream {
        pool: metrics.pool.map(|gauge| Share::new(gauge.clone())),
        config: config.clone(),
        connector,
        candidates,
        balancer: Balancer::new(config.balancer, &first_tier(&tiers)),
        metrics,
    })
}

fn route(
    config: &Arc<policy::Route>,
    upstreams: &HashMap<&Name, usize>,
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
