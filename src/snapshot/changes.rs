//! What is told when a breaker or an endpoint changes its state: each change once, by whoever caused it.

use super::{RouteBreaker, Upstream};
use crate::{
    balance,
    config::Name,
    health,
    policy::{
        Stamp,
        breaker::{State, Transition},
        ejection::{self, Change},
    },
    telemetry::{
        EndpointState,
        labels::{EjectionCause, Label},
    },
    upstream::Endpoint,
};

impl Upstream {
    /// Its breaker, or that of a route for its use of it, has changed its state.
    pub(crate) fn breaker_changed(&self, own: Option<(&Name, &RouteBreaker)>, transition: Transition) {
        let metrics = own.map_or(&self.metrics.breaker, |(_, own)| &own.metrics);
        metrics.transitions.of(transition.to.into()).increment(1);
        let (upstream, route) = (self.name().as_str(), own.map_or("", |(route, _)| route.as_str()));
        let (from, to, cause) = (transition.from.as_str(), transition.to.as_str(), transition.cause.as_str());
        if transition.to == State::Open {
            tracing::warn!(upstream, route, from, to, cause, "a circuit breaker has opened");
        } else {
            tracing::info!(upstream, route, from, to, cause, "a circuit breaker has changed");
        }
    }

    /// One of its endpoints has gone out of rotation because of its own results, or has come back.
    pub(crate) fn endpoint_changed(&self, index: usize, change: Change, now: Stamp) {
        let Some(candidate) = self.candidates.get(index) else { return };
        let (upstream, endpoint) = (self.name().as_str(), candidate.endpoint.address());
        let ejections = &self.metrics.ejections;
        match change {
            Change::Ejected { cause, until } => {
                ejections.of(cause.into()).increment(1);
                self.vitals.probe_at(until);
                let (cause, for_ms) = (cause.as_str(), until.since(now).as_millis());
                tracing::warn!(upstream, %endpoint, cause, for_ms = %for_ms, "an endpoint is ejected");
            }
            Change::Observed(cause) => {
                ejections.of(EjectionCause::Observed).increment(1);
                let cause = cause.as_str();
                tracing::info!(upstream, %endpoint, cause, "an endpoint would be ejected");
                return;
            }
            Change::Returned => {
                // What is known of it is of before: it is taken to be like the others.
                let peers = self.candidates.iter().enumerate().filter(|(other, _)| *other != index);
                let peers = peers.map(|(_, candidate)| candidate.endpoint.latency());
                let usual = balance::median(peers, now, &self.terms);
                candidate.endpoint.latency().set(usual.unwrap_or(self.config.balancer.first_estimate), now);
                candidate.endpoint.starts_slowly(now);
                tracing::info!(upstream, %endpoint, "an endpoint is back: its probe was good");
            }
            Change::Readmitted => {
                candidate.endpoint.starts_slowly(now);
                tracing::info!(upstream, %endpoint, "an endpoint is back: it must not be out any more");
            }
        }
        self.vitals.changed();
        self.show_endpoints(now);
    }

    /// Shows in the metrics how many of its endpoints are in which state.
    pub(crate) fn show_endpoints(&self, now: Stamp) {
        let mut states = [0_i64; EndpointState::ALL.len()];
        for candidate in &self.candidates {
            if let Some(count) = states.get_mut(state_of(&candidate.endpoint, now).index()) {
                *count += 1;
            }
        }
        for state in EndpointState::ALL {
            self.metrics.endpoints.of(*state).set(states.get(state.index()).copied().unwrap_or(0));
        }
    }
}

/// The one state that an endpoint counts for: what its checks say, unless its own results have taken it out.
fn state_of(endpoint: &Endpoint, now: Stamp) -> EndpointState {
    match (endpoint.health().standing(), endpoint.outlier().standing(now)) {
        (health::Standing::Unhealthy, _) => EndpointState::Unhealthy,
        (_, standing) if standing != ejection::Standing::In => EndpointState::Ejected,
        (health::Standing::Healthy, _) => EndpointState::Healthy,
        (health::Standing::Unknown, _) => EndpointState::Unknown,
    }
}
