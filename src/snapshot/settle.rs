//! What a new snapshot changes in what outlives snapshots.
//!
//! Compiling changes nothing that runs: it may fail. This is done once it has not.

use std::{collections::HashSet, sync::Arc};

use super::{Snapshot, Upstream};
use crate::policy::Stamp;

/// Brings breakers, ejection and slow start to what `after` says, which comes in the place of `before`.
pub(super) fn settle(before: &Snapshot, after: &Snapshot, now: Stamp) {
    let before_of = |upstream: &Upstream| {
        let found = before.upstreams.binary_search_by(|known| known.name().cmp(upstream.name()));
        found.ok().and_then(|index| before.upstreams.get(index))
    };
    // First: those who are gone are not among those who are out.
    leave(before, after);
    for upstream in &after.upstreams {
        let known = before_of(upstream);
        if known.is_some_and(|known| Arc::ptr_eq(known, upstream)) {
            continue;
        }
        join(known.map(|known| &**known), upstream, now);
        let transition = upstream.vitals.breaker.configure(&upstream.config.breaker, upstream.mode, now);
        if let Some(transition) = transition {
            upstream.breaker_changed(None, transition);
        }
        for candidate in &upstream.candidates {
            // What is to get nothing must not keep others in by being out, and is as new when it gets something again.
            match candidate.config.weight {
                0 => candidate.endpoint.outlier().leave(&upstream.vitals.group),
                _ => candidate.endpoint.outlier().join(now),
            }
        }
        let among = upstream.among();
        for (index, candidate) in upstream.candidates.iter().enumerate() {
            if let Some(change) = candidate.endpoint.outlier().review(&among, now) {
                upstream.endpoint_changed(index, change, now);
            }
        }
        upstream.note_probes();
        // Weights, tiers and what else a rota goes by.
        upstream.vitals.changed();
    }
    let mut known = before.routes.iter().peekable();
    for route in after.routes.iter().filter(|route| !route.breakers.is_empty()) {
        while known.next_if(|known| known.config.name < route.config.name).is_some() {}
        if known.peek().is_some_and(|known| Arc::ptr_eq(known, route)) {
            continue;
        }
        for own in &route.breakers {
            let (settings, mode) = &own.settings;
            let found = after.upstreams.binary_search_by(|upstream| upstream.name().cmp(&own.upstream));
            let upstream = found.ok().and_then(|index| after.upstreams.get(index));
            if let (Some(transition), Some(upstream)) =
                (own.breaker.configure(settings, *mode, now), upstream)
            {
                upstream.breaker_changed(Some((&route.config.name, own)), transition);
            }
        }
    }
}

/// Endpoints that are new among others are brought up slowly. Where no request has been to any of those, as when the start
/// of the process finds one endpoint after the other, all are equally new.
fn join(before: Option<&Upstream>, after: &Upstream, now: Stamp) {
    let known: HashSet<u64> = before
        .iter()
        .flat_map(|before| &before.candidates)
        .map(|candidate| candidate.endpoint.id())
        .collect();
    let others_run =
        before.is_some_and(|before| before.candidates.iter().any(|known| known.endpoint.requests() > 0));
    for candidate in &after.candidates {
        if others_run && !known.contains(&candidate.endpoint.id()) {
            candidate.endpoint.starts_slowly(now);
        }
    }
}

/// Endpoints that are gone are none of their upstream's any more.
fn leave(before: &Snapshot, after: &Snapshot) {
    for upstream in &before.upstreams {
        for candidate in &upstream.candidates {
            if !after.has_endpoint(candidate.endpoint.id()) {
                candidate.endpoint.outlier().leave(&upstream.vitals.group);
            }
        }
    }
}

#[cfg(test)]
mod tests;
