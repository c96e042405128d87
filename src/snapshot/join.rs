//! The endpoints that DNS knows, joined to those of the policy.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
};

use crate::{
    config::{
        Policy,
        policy::{Endpoint, EndpointAddress, EndpointSource, Upstream},
    },
    discovery::Target,
};

/// What was looked up last, by what it was looked up for.
pub(super) type Discovered = HashMap<Target, Arc<[SocketAddr]>>;

/// The policy with what was discovered: itself, where nothing was.
pub(super) fn join(policy: &Arc<Policy>, discovered: &Discovered) -> Arc<Policy> {
    let joined: Vec<_> =
        policy.upstreams.values().filter_map(|upstream| with_discovered(upstream, discovered)).collect();
    if joined.is_empty() {
        return policy.clone();
    }
    let mut policy = Policy::clone(policy);
    for upstream in joined {
        policy.upstreams.insert(upstream.name.clone(), Arc::new(upstream));
    }
    Arc::new(policy)
}

/// `upstream` with what was discovered for it, after what it names itself; `None` when that is nothing new. An address
/// that it names itself keeps the weight, zone and tier that it has there.
fn with_discovered(upstream: &Upstream, discovered: &Discovered) -> Option<Upstream> {
    let found = discovered.get(&Target::of(upstream.discover.as_ref()?))?;
    let named = |endpoint: &Endpoint| match endpoint.address {
        EndpointAddress::Socket(address) => Some(address),
        _ => None,
    };
    let named: HashSet<SocketAddr> = upstream.endpoints.iter().filter_map(named).collect();
    let mut more = found.iter().filter(|address| !named.contains(*address)).peekable();
    more.peek()?;
    let mut upstream = upstream.clone();
    upstream.endpoints.extend(more.map(|address| Endpoint {
        address: EndpointAddress::Socket(*address),
        weight: 1,
        zone: None,
        tier: 0,
        source: EndpointSource::Dns,
    }));
    Some(upstream)
}
