//! State that outlives snapshots, by identity.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Weak},
    time::Instant,
};

use crate::{
    config::{
        Name,
        policy::{
            self, BreakerMode, ClientTls, EndpointAddress, LimitScope, LimitShare, Upstream, UpstreamProtocol,
        },
    },
    policy::{Stamp, breaker::Breaker, rate::Secret},
    shared_rate::{self, SharedLimit},
    tls::TlsError,
    upstream::{Connector, Endpoint, Vitals},
};

/// What makes two endpoints of two snapshots the same: where it is, and how it is spoken to. Its weight, zone and
/// tier are not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Identity {
    upstream: Name,
    address: EndpointAddress,
    transport: Transport,
}

/// How the endpoints of an upstream are connected to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Transport {
    tls: Option<ClientTls>,
    protocol: UpstreamProtocol,
    connect_timeout: std::time::Duration,
    max_header_bytes: usize,
    max_headers: usize,
}

impl Transport {
    fn of(upstream: &Upstream) -> Self {
        Self {
            tls: upstream.tls.clone(),
            protocol: upstream.protocol,
            connect_timeout: upstream.connect_timeout,
            max_header_bytes: upstream.max_header_bytes,
            max_headers: upstream.max_headers,
        }
    }
}

/// The state that compiling a snapshot takes over from the ones before. What no snapshot, connection or request
/// names any more is gone.
#[derive(Debug, Default)]
pub struct Registry {
    /// The zone that this instance is in.
    zone: Option<Name>,
    /// How many live instances the service has; `None` = not known.
    instances: Option<NonZeroU32>,
    /// What keys of limits are hashed with.
    secret: Secret,
    /// Where limits are counted for all instances together.
    redis: Option<Arc<shared_rate::Client>>,
    vitals: HashMap<Name, Weak<Vitals>>,
    /// Breakers of routes, by route and upstream.
    breakers: HashMap<(Name, Name), Weak<Breaker>>,
    endpoints: HashMap<Identity, Weak<Endpoint>>,
    connectors: HashMap<(Name, Transport), Weak<Connector>>,
}

impl Registry {
    /// One in which nothing is, of an instance in this zone, with the Redis that its limits may be counted in.
    pub fn new(zone: Option<Name>, redis: Option<Arc<shared_rate::Client>>) -> Self {
        Self { zone, redis, ..Self::default() }
    }

    /// The zone that this instance is in.
    pub fn zone(&self) -> Option<&Name> {
        self.zone.as_ref()
    }

    /// How many live instances the service has, as far as is known; at least this one.
    pub fn instances(&self) -> NonZeroU32 {
        self.instances.unwrap_or(NonZeroU32::MIN)
    }

    /// That number; `None` = it is not known.
    pub fn instances_known(&self) -> Option<u64> {
        self.instances.map(|instances| u64::from(instances.get()))
    }

    /// Notes how many live instances the service has; whether that is news.
    pub fn know_instances(&mut self, instances: NonZeroU32) -> bool {
        self.instances.replace(instances).unwrap_or(NonZeroU32::MIN) != instances
    }

    /// What counts a limit for all instances together, where it is to be counted so.
    pub fn shared(&self, limit: &policy::Limit) -> Option<Arc<SharedLimit>> {
        let counted = limit.share == LimitShare::Redis && limit.scope == LimitScope::Service;
        let redis = self.redis.as_ref().filter(|_| counted)?;
        Some(redis.limit(&limit.name, shared_rate::Settings::of(limit, self.instances())))
    }

    /// What keys of limits are hashed with.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// What outlives snapshots of `upstream`: what is known, or new. What is known is not changed.
    pub fn vitals(&mut self, upstream: &Upstream, mode: BreakerMode) -> Arc<Vitals> {
        if let Some(known) = self.vitals.get(&upstream.name).and_then(Weak::upgrade) {
            return known;
        }
        let vitals = Arc::new(Vitals::new(&upstream.breaker, mode, Stamp::of(Instant::now())));
        self.vitals.insert(upstream.name.clone(), Arc::downgrade(&vitals));
        vitals
    }

    /// The breaker of a route for its use of an upstream: the one that is known, as it is, or a new one.
    pub fn route_breaker(
        &mut self,
        route: &Name,
        upstream: &Name,
        settings: &policy::Breaker,
        mode: BreakerMode,
    ) -> Arc<Breaker> {
        let key = (route.clone(), upstream.clone());
        if let Some(known) = self.breakers.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let breaker = Arc::new(Breaker::new(settings, mode, Stamp::of(Instant::now())));
        self.breakers.insert(key, Arc::downgrade(&breaker));
        breaker
    }

    /// The endpoint at `address` of `upstream`: the one that is known, or a new one.
    pub fn endpoint(
        &mut self,
        upstream: &Upstream,
        address: &EndpointAddress,
        vitals: &Arc<Vitals>,
    ) -> Arc<Endpoint> {
        let identity = Identity {
            upstream: upstream.name.clone(),
            address: address.clone(),
            transport: Transport::of(upstream),
        };
        if let Some(known) = self.endpoints.get(&identity).and_then(Weak::upgrade) {
            return known;
        }
        let now = Stamp::of(Instant::now());
        let endpoint = Arc::new(Endpoint::new(address.clone(), vitals.clone(), now));
        self.endpoints.insert(identity, Arc::downgrade(&endpoint));
        endpoint
    }

    /// The connector of `upstream`: the one that is known, or a new one.
    pub fn connector(&mut self, upstream: &Upstream) -> Result<Arc<Connector>, TlsError> {
        let key = (upstream.name.clone(), Transport::of(upstream));
        if let Some(known) = self.connectors.get(&key).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let connector = Arc::new(Connector::new(
            upstream.connect_timeout,
            upstream.max_header_bytes,
            upstream.max_headers,
            upstream.tls.as_ref(),
        )?);
        self.connectors.insert(key, Arc::downgrade(&connector));
        Ok(connector)
    }

    /// Forgets what is gone.
    pub fn sweep(&mut self) {
        self.vitals.retain(|_, known| known.strong_count() > 0);
        self.breakers.retain(|_, known| known.strong_count() > 0);
        self.endpoints.retain(|_, known| known.strong_count() > 0);
        self.connectors.retain(|_, known| known.strong_count() > 0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::policy::{
        Balancing, Breaker, Ejection, Endpoint as EndpointConfig, EndpointSource, Percent, Pool, SlowStart,
    };

    fn upstream(weight: u32, connect_timeout: u64) -> Upstream {
        let address = EndpointAddress::Socket(([127, 0, 0, 1], 80).into());
        Upstream {
            name: Name::new("app").unwrap(),
            endpoints: vec![EndpointConfig {
                address,
                weight,
                zone: None,
                tier: 0,
                source: EndpointSource::List,
            }],
            protocol: UpstreamProtocol::Auto,
            tls: None,
            discover: None,
            balancer: Balancing::default(),
            slow_start: SlowStart::default(),
            min_healthy: Percent::whole(50),
            health: None,
            ejection: Ejection::default(),
            breaker: Breaker::default(),
            fallback: None,
            pool: Pool::default(),
            connect_timeout: Duration::from_secs(connect_timeout),
            max_header_bytes: 65_536,
            max_headers: 100,
        }
    }

    #[test]
    fn an_endpoint_outlives_a_change_of_its_weight_but_not_of_its_transport() {
        let mut registry = Registry::default();
        let (light, heavy, slow) = (upstream(1, 1), upstream(5, 1), upstream(1, 9));
        let address = &light.endpoints[0].address;
        let vitals = registry.vitals(&light, BreakerMode::Auto);
        let first = registry.endpoint(&light, address, &vitals);
        assert_eq!(first.id(), registry.endpoint(&heavy, address, &vitals).id());
        assert_ne!(first.id(), registry.endpoint(&slow, address, &vitals).id());
    }

    #[test]
    fn what_nobody_holds_is_forgotten() {
        let mut registry = Registry::default();
        let config = upstream(1, 1);
        let vitals = registry.vitals(&config, BreakerMode::Auto);
        let id = registry.endpoint(&config, &config.endpoints[0].address, &vitals).id();
        registry.sweep();
        assert!(registry.endpoints.is_empty());
        assert!(Arc::ptr_eq(&vitals, &registry.vitals(&config, BreakerMode::Auto)));
        assert_ne!(registry.endpoint(&config, &config.endpoints[0].address, &vitals).id(), id);
        drop(vitals);
        registry.sweep();
        assert!(registry.vitals.is_empty());
    }
}
