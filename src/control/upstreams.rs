//! `/upstreams`: every upstream with its breaker and its endpoints, and why each of them is as it is.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    balance::{Rota, Standing},
    config::{
        Name,
        policy::{Balancing, EndpointSource},
    },
    discovery::{Discoveries, Target},
    policy::{
        Stamp,
        breaker::{self, Breaker},
        ejection,
    },
    snapshot::{Candidate, Snapshot, Upstream},
};

/// All upstreams of a snapshot, by name.
pub(super) fn show(snapshot: &Snapshot, discoveries: &Discoveries, now: Stamp) -> Value {
    let upstreams = snapshot.upstreams.iter().map(|upstream| {
        let rota = upstream.rota(now, snapshot.bypass);
        let endpoints = upstream.candidates.iter().enumerate();
        let endpoints: Vec<_> =
            endpoints.map(|(index, candidate)| endpoint(upstream, candidate, &rota, index, now)).collect();
        let mut shown = json!({
            "standing": standing(&rota),
            "balancer": balancer(&upstream.config.balancer),
            "breaker": breaker(&upstream.vitals.breaker, now),
            "ejected": upstream.vitals.group.out(),
            "endpoints": endpoints,
        });
        let own: serde_json::Map<_, _> = snapshot
            .routes
            .iter()
            .flat_map(|route| route.breakers.iter().map(move |own| (&route.config.name, own)))
            .filter(|(_, own)| own.upstream == *upstream.name())
            .map(|(route, own)| (route.to_string(), breaker(&own.breaker, now)))
            .collect();
        if let Value::Object(shown) = &mut shown {
            if !own.is_empty() {
                shown.insert("route_breakers".to_owned(), Value::Object(own));
            }
            if let Some(target) = upstream.config.discover.as_ref().map(Target::of) {
                shown.insert("discover".to_owned(), discovery(&target, discoveries));
            }
        }
        (upstream.name().to_string(), shown)
    });
    Value::Object(upstreams.collect())
}

fn standing(rota: &Rota) -> Value {
    match rota.standing() {
        Standing::Serving { tier } => json!({ "state": "serving", "tier": tier }),
        Standing::Panic => json!({ "state": "panic" }),
        Standing::Empty => json!({ "state": "empty" }),
    }
}

fn balancer(balancing: &Balancing) -> &'static str {
    use crate::config::policy::BalancerPolicy as Policy;
    match balancing.policy {
        Policy::PeakEwma => "peak_ewma",
        Policy::LeastRequest => "least_request",
        Policy::RoundRobin => "round_robin",
        Policy::Random => "random",
        Policy::RingHash => "ring_hash",
    }
}

fn breaker(breaker: &Breaker, now: Stamp) -> Value {
    let shown = breaker.shown(now);
    json!({
        "state": shown.label(),
        "mode": mode(&shown),
        "cause": shown.cause.map(breaker::Cause::as_str),
        "for_s": seconds(now.since(shown.since)),
        "until_s": shown.until.map(|until| seconds(until.since(now))),
        "share": shown.share.part(),
        "openings": shown.openings,
        "probes": { "out": shown.probes_out, "good": shown.probes_good },
        "window": { "requests": shown.requests, "failures": shown.failures, "slow": shown.slow },
    })
}

fn mode(shown: &breaker::Shown) -> &'static str {
    use crate::config::policy::BreakerMode as Mode;
    match shown.mode {
        Mode::Auto => "auto",
        Mode::Open => "open",
        Mode::Closed => "closed",
        Mode::Off => "off",
        Mode::Observe => "observe",
    }
}

fn endpoint(upstream: &Upstream, candidate: &Candidate, rota: &Rota, index: usize, now: Stamp) -> Value {
    let endpoint = &candidate.endpoint;
    let (health, since) = endpoint.health().standing_since();
    let last = endpoint.health().last();
    let outlier = endpoint.outlier().shown(&upstream.config.ejection, now);
    let latency = endpoint.latency();
    let state = if !endpoint.health().serves() {
        "unhealthy"
    } else if outlier.standing != ejection::Standing::In {
        "ejected"
    } else {
        health.as_str()
    };
    json!({
        "address": endpoint.address().to_string(),
        "source": source(candidate.config.source),
        "weight": candidate.config.weight,
        "zone": candidate.config.zone.as_ref().map(Name::as_str),
        "tier": candidate.config.tier,
        "state": state,
        "share": rota.part(index),
        "health": {
            "state": health.as_str(),
            "for_s": since.map(|since| seconds(now.since(since))),
            "last": last.map(|last| json!({
                "ago_s": seconds(now.since(last.at)),
                "took_ms": millis(last.took),
                "fault": last.fault.as_deref(),
            })),
        },
        "ejection": {
            "state": ejected(outlier.standing),
            "cause": outlier.cause.map(ejection::Cause::as_str),
            "for_s": seconds(now.since(outlier.since)),
            "until_s": until(outlier.standing, now),
            "times": outlier.ejections,
            "consecutive": outlier.consecutive,
            "window": { "requests": outlier.requests, "failures": outlier.failures },
        },
        "slow_start": endpoint.back_since().map(|since| seconds(now.since(since)))
            .filter(|for_s| *for_s < upstream.config.slow_start.window.as_secs_f64()),
        "latency_ms": latency.is_measured().then(|| millis(latency.estimate(now, &upstream.terms))),
        "penalised": latency.is_penalised(),
        "in_flight": endpoint.in_flight(),
        "connections": endpoint.connections(),
        "idle": endpoint.idle(),
        "requests": endpoint.requests(),
        "failures": endpoint.failures(),
    })
}

fn source(source: EndpointSource) -> &'static str {
    match source {
        EndpointSource::List => "list",
        EndpointSource::Store => "store",
        EndpointSource::Dns => "dns",
    }
}

fn ejected(standing: ejection::Standing) -> &'static str {
    match standing {
        ejection::Standing::In => "in",
        ejection::Standing::Out { .. } => "out",
        ejection::Standing::ProbeDue => "probe_due",
        ejection::Standing::Probing => "probing",
    }
}

fn until(standing: ejection::Standing, now: Stamp) -> Option<f64> {
    match standing {
        ejection::Standing::Out { until } => Some(seconds(until.since(now))),
        _ => None,
    }
}

fn discovery(target: &Target, discoveries: &Discoveries) -> Value {
    let shown = discoveries.of(target).unwrap_or_default();
    json!({
        "name": target.to_string(),
        "addresses": shown.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "age_s": shown.answered.map(|at| seconds(at.elapsed())),
        "ttl_s": shown.ttl.map(seconds),
        "failures": shown.failures,
        "error": shown.error.as_deref(),
        "next_in_s": shown.next.map(|at| seconds(at.saturating_duration_since(std::time::Instant::now()))),
    })
}

/// To the millisecond.
fn seconds(span: Duration) -> f64 {
    (span.as_secs_f64() * 1000.0).round() / 1000.0
}

/// To the microsecond.
fn millis(span: Duration) -> f64 {
    (span.as_secs_f64() * 1_000_000.0).round() / 1000.0
}
