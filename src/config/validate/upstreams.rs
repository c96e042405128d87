//! Upstreams.

use std::{collections::HashSet, path::Path, sync::Arc};

use super::{
    Facts,
    circles::{circle_problem, circles, falls_back_to},
    health, probe, resilience,
};
use crate::config::{
    Name, Policy,
    codes::Code,
    fault::Problem,
    load::PemKind,
    policy::{ClientTls, Endpoint, EndpointAddress, EndpointSource, Fallback, Pool, Upstream},
    wire::{
        Cx, Spanned,
        file::{OrOff, PolicyWire},
        upstreams::{ClientTlsWire, EndpointWire, PoolWire, UpstreamWire},
    },
};

/// An upstream. Live policy, and a file with a store, may leave it without endpoints.
pub(in crate::config) fn upstream(
    name: &Name,
    wire: &UpstreamWire,
    facts: &Facts<'_>,
    cx: &mut Cx<'_>,
) -> Option<Upstream> {
    let may_be_empty = cx.is_live() || facts.store;
    let endpoints = match &wire.endpoints {
        Some(list) => cx.at("endpoints", list.origin, |cx| endpoints(&list.value.0, cx)),
        None if may_be_empty || wire.discover.is_some() => Vec::new(),
        None => {
            let here = cx.here();
            let problem = Problem::new(Code::Missing, "`endpoints` is missing")
                .help("an upstream needs `endpoints` or `discover`");
            cx.problem(problem, here);
            return None;
        }
    };
    let discover = optional(wire.discover.as_ref(), "discover", cx, resilience::discover);
    let tls =
        wire.tls.as_ref().map(|tls| cx.at("tls", tls.origin, |cx| client_tls(&tls.value, facts.probe, cx)));
    let discovered_name = discover.as_ref().map(|discover| Arc::clone(&discover.host));
    let tls = tls.map(|tls| ClientTls { discovered_name, ..tls });
    unix_name(wire, cx);
    let health = match &wire.health {
        Some(Spanned { value: OrOff::On(health), origin }) => {
            cx.at("health", *origin, |cx| health::health(health, wire.tls.is_some(), cx))
        }
        _ => None,
    };
    Some(Upstream {
        name: name.clone(),
        endpoints,
        protocol: wire.protocol.value,
        tls,
        discover,
        balancer: cx
            .at("balancer", wire.balancer.origin, |cx| resilience::balancing(&wire.balancer.value, cx)),
        slow_start: resilience::slow_start(&wire.slow_start.value.0),
        min_healthy: wire.min_healthy.value.0,
        health,
        ejection: cx
            .at("ejection", wire.ejection.origin, |cx| resilience::ejection(&wire.ejection.value.0, cx)),
        breaker: cx.at("breaker", wire.breaker.origin, |cx| resilience::breaker(&wire.breaker.value.0, cx)),
        fallback: fallback(name, wire, cx),
        pool: cx.at("pool", wire.pool.origin, |cx| pool(&wire.pool.value, cx)),
        connect_timeout: wire.connect_timeout.value.0,
        max_header_bytes: usize::try_from(wire.max_header_bytes.value.0).unwrap_or(usize::MAX),
        max_headers: usize::try_from(wire.max_headers.value.0).unwrap_or(usize::MAX),
    })
}

/// A block that may be left out.
fn optional<W, T>(
    wire: Option<&Spanned<W>>,
    field: &str,
    cx: &mut Cx<'_>,
    make: impl FnOnce(&W, &mut Cx<'_>) -> Option<T>,
) -> Option<T> {
    let given = wire?;
    cx.at(field, given.origin, |cx| make(&given.value, cx))
}

/// What the requests get that the upstream cannot answer; what it refers to is noted in `cx`.
fn fallback(name: &Name, wire: &UpstreamWire, cx: &mut Cx<'_>) -> Option<Fallback> {
    optional(wire.fallback.as_ref(), "fallback", cx, |given, cx| {
        resilience::fallback_to_itself(given, name, circle_problem(std::slice::from_ref(name)), cx);
        resilience::fallback(given, cx)
    })
}

/// Reports circles of fallbacks, each once, at the member that is written last. Those of a single upstream are seen
/// where that is.
pub(super) fn fallbacks(wire: &PolicyWire, policy: &Policy, cx: &mut Cx<'_>) {
    let next = |name: &Name| policy.upstreams.get(name).and_then(|it| falls_back_to(it)).cloned();
    for circle in circles(policy.upstreams.keys(), next).iter().filter(|circle| circle.len() > 1) {
        let mut upstreams = wire.upstreams.value.0.iter().rev();
        let last = upstreams.find_map(|(name, upstream)| {
            let fallback = upstream.as_ref()?.value.fallback.as_ref()?.value.upstream.as_ref()?;
            circle.contains(&name.value).then_some((name, fallback.origin))
        });
        let Some((name, origin)) = last else { continue };
        cx.at("upstreams", wire.upstreams.origin, |cx| {
            cx.at(name.value.as_str(), name.origin, |cx| {
                cx.at("fallback", origin, |cx| {
                    cx.at("upstream", origin, |cx| cx.problem(circle_problem(circle), origin));
                });
            });
        });
    }
}

/// Under TLS a unix socket has no name that a certificate could carry.
fn unix_name(wire: &UpstreamWire, cx: &mut Cx<'_>) {
    let unnamed = wire.tls.as_ref().filter(|tls| tls.value.server_name.is_none());
    let unix = |entry: &&Spanned<EndpointWire>| {
        let address = entry.value.0.address.as_ref().map(|address| &address.value);
        matches!(address, Some(EndpointAddress::Unix(_)))
    };
    let first = wire.endpoints.iter().flat_map(|list| &list.value.0).find(unix);
    if let (Some(tls), Some(_)) = (unnamed, first) {
        let problem = Problem::new(Code::Incomplete, "`tls` to a unix socket without `server_name`")
            .help("say which name its certificate carries: `tls: { server_name: app.internal }`");
        cx.at("tls", tls.origin, |cx| cx.problem(problem, tls.origin));
    }
}

fn endpoints(list: &[Spanned<EndpointWire>], cx: &mut Cx<'_>) -> Vec<Endpoint> {
    let mut seen = HashSet::new();
    let mut out = Vec::with_capacity(list.len());
    for (index, entry) in list.iter().enumerate() {
        let full = &entry.value.0;
        let Some(address) = &full.address else { continue };
        if !seen.insert(&address.value) {
            let problem =
                Problem::new(Code::Duplicate, format!("the endpoint {} stands here twice", address.value))
                    .help("to send it more, give it a `weight`");
            cx.at(&index.to_string(), entry.origin, |cx| cx.problem(problem, address.origin));
            continue;
        }
        out.extend(endpoint(&entry.value));
    }
    out
}

/// One endpoint; `None` when it has no address, which is reported already.
pub(in crate::config) fn endpoint(wire: &EndpointWire) -> Option<Endpoint> {
    let full = &wire.0;
    Some(Endpoint {
        address: full.address.as_ref()?.value.clone(),
        weight: full.weight.value.0,
        zone: full.zone.as_ref().map(|zone| zone.value.clone()),
        tier: u8::try_from(full.tier.value.0).unwrap_or(u8::MAX),
        source: EndpointSource::List,
    })
}

/// TLS as a client.
pub(super) fn client_tls(
    wire: &ClientTlsWire,
    check: &dyn Fn(&Path, PemKind) -> Result<(), String>,
    cx: &mut Cx<'_>,
) -> ClientTls {
    let files = [
        ("ca", &wire.ca, PemKind::Certificates),
        ("cert", &wire.cert, PemKind::Certificates),
        ("key", &wire.key, PemKind::Key),
    ];
    for (name, file, kind) in files {
        if let Some(file) = file {
            probe(name, file, kind, check, cx);
        }
    }
    let alone = match (&wire.cert, &wire.key) {
        (Some(cert), None) => Some((cert.origin, "`cert` without its `key`")),
        (None, Some(key)) => Some((key.origin, "`key` without its `cert`")),
        _ => None,
    };
    if let Some((origin, message)) = alone {
        cx.problem(Problem::new(Code::Incomplete, message).help("a client certificate needs both"), origin);
    }
    let identity = wire.cert.as_ref().zip(wire.key.as_ref());
    ClientTls {
        ca: wire.ca.as_ref().map(|file| file.value.0.clone()),
        identity: identity.map(|(cert, key)| (cert.value.0.clone(), key.value.0.clone())),
        server_name: wire.server_name.as_ref().map(|name| Arc::clone(&name.value.0)),
        discovered_name: None,
    }
}

fn pool(wire: &PoolWire, cx: &mut Cx<'_>) -> Pool {
    if wire.min_idle.value.0 > wire.max_connections.value.0 {
        let message = format!(
            "`min_idle` ({}) is more than `max_connections` ({})",
            wire.min_idle.value.0, wire.max_connections.value.0
        );
        cx.problem(Problem::new(Code::Inconsistent, message), wire.min_idle.origin);
    }
    Pool {
        max_connections: wire.max_connections.value.0,
        min_idle: wire.min_idle.value.0,
        max_pending: wire.max_pending.value.0,
        pending_timeout: wire.pending_timeout.value.0,
        idle_timeout: wire.idle_timeout.value.0,
        max_age: wire.max_age.value.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{node::Origin, wire::Defaults};

    #[test]
    fn the_defaults_of_the_pool_are_those_of_its_type() {
        let mut faults = crate::config::Faults::default();
        let wire = PoolWire::defaults(Origin::default());
        assert_eq!(pool(&wire, &mut Cx::new(&mut faults, Origin::default())), Pool::default());
    }
}
