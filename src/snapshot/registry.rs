//! State that outlives snapshots, by identity.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use crate::{
    config::{
        Name,
        policy::{ClientTls, EndpointAddress, Upstream, UpstreamProtocol},
    },
    tls::TlsError,
    upstream::{Connector, Endpoint},
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
    endpoints: HashMap<Identity, Weak<Endpoint>>,
    connectors: HashMap<(Name, Transport), Weak<Connector>>,
}

impl Registry {
    /// The endpoint at `address` of `upstream`: the one that is known, or a new one.
    pub fn endpoint(&mut self, upstream: &Upstream, address: &EndpointAddress) -> Arc<Endpoint> {
        let identity = Identity {
            upstream: upstream.name.clone(),
            address: address.clone(),
            transport: Transport::of(upstream),
        };
        if let Some(known) = self.endpoints.get(&identity).and_then(Weak::upgrade) {
            return known;
        }
        let endpoint = Arc::new(Endpoint::new(address.clone()));
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
        let first = registry.endpoint(&light, address);
        assert_eq!(first.id(), registry.endpoint(&heavy, address).id());
        assert_ne!(first.id(), registry.endpoint(&slow, address).id());
    }

    #[test]
    fn what_nobody_holds_is_forgotten() {
        let mut registry = Registry::default();
        let config = upstream(1, 1);
        let id = registry.endpoint(&config, &config.endpoints[0].address).id();
        registry.sweep();
        assert!(registry.endpoints.is_empty());
        assert_ne!(registry.endpoint(&config, &config.endpoints[0].address).id(), id);
    }
}
