//! Upstreams and their endpoints, as they are written.

use serde_json::{Value as Json, json};

use super::{
    Cx, Defaults, Defs, List, Spanned, Wire,
    bounds::Share,
    file::OrOff,
    health::HealthWire,
    hosts::CertificateName,
    resilience::{BalancerWire, BreakerWire, DiscoverWire, EjectionWire, FallbackWire, SlowStartWire},
    scalars::{FilePath, Int, Size, Span},
    short::OrBrief,
    wire,
};
use crate::config::{
    Name,
    node::{Node, Value},
    policy::{EndpointAddress, Percent, UpstreamProtocol},
};

wire! {
    /// A named group of endpoints of one service.
    UpstreamWire as "upstream" {
        /// Its endpoints; at least one. With `discover` they may be left out.
        endpoints: List<EndpointWire, 1>,
        /// What is spoken to them: auto (ALPN under TLS; in clear HTTP/2 for gRPC, else HTTP/1.1), http1 or http2.
        protocol: UpstreamProtocol = default(UpstreamProtocol::Auto),
        /// TLS to the endpoints; `{}` is enough for public certificates. The files are read again when they change.
        /// Default: clear text.
        tls: ClientTlsWire,
        /// How an endpoint is chosen.
        balancer: BalancerWire = empty,
        /// Where further endpoints are looked up; they and `endpoints` add up. Default: nowhere.
        discover: DiscoverWire,
        /// How an endpoint that has come back, or is new among others, is brought up to its share: a block, or its `window`.
        slow_start: OrBrief<SlowStartWire> = empty,
        /// The share of a tier's endpoints that have to be healthy: below it the next tier helps; below it in every tier only
        /// probes pass.
        min_healthy: Share<0> = default(Share(Percent::whole(50))),
        /// Active health checks, or off. Default: off.
        health: OrOff<HealthWire>,
        /// When an endpoint is taken out of rotation because of its own results: a block, or its `state`.
        ejection: OrBrief<EjectionWire> = empty,
        /// When the upstream is given a rest: a block, or its `mode`.
        breaker: OrBrief<BreakerWire> = empty,
        /// What requests get when the upstream cannot answer them. Default: an error that explains itself.
        fallback: FallbackWire,
        /// Limits of the connection pool.
        pool: PoolWire = empty,
        /// Bound on one TCP connect and, after it, on the TLS handshake.
        connect_timeout: Span = default(Span::secs(1)),
        /// Most bytes of an answer's head, each field counted with 32 more; a larger one is 502.
        max_header_bytes: Size<8192, 16_777_216> = default(Size(65_536)),
        /// Most header fields of an answer; more are 502.
        max_headers: Int<1, 10_000> = default(Int(100)),
    }
    later { "retry", "hedge", "concurrency" }
}

/// An endpoint, in its short or its full form.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EndpointWire(pub(crate) EndpointFull);

wire! {
    /// An endpoint with what is special about it.
    EndpointFull as "endpoint" {
        /// Where to connect: host:port, or `unix:/run/app.sock`.
        address: EndpointAddress = required,
        /// Its share of the traffic relative to its peers; 0 takes it out of rotation.
        weight: Int<0, 65_535> = default(Int(1)),
        /// The zone it runs in.
        zone: Name,
        /// 0 is used first; the next tier when too few of it are healthy.
        tier: Int<0, 255> = default(Int(0)),
    }
}

impl Wire for EndpointWire {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        if matches!(node.value, Value::Map(_)) {
            return EndpointFull::decode(node, cx).map(Self);
        }
        let address = EndpointAddress::decode(node, cx)?;
        let mut full = EndpointFull::defaults(node.origin);
        full.address = Some(Spanned { value: address, origin: node.origin });
        Some(Self(full))
    }

    fn schema(defs: &mut Defs) -> Json {
        json!({ "anyOf": [<EndpointAddress as Wire>::schema(defs), EndpointFull::schema(defs)] })
    }
}

wire! {
    /// TLS as a client.
    ClientTlsWire as "client-tls" {
        /// PEM file of the authorities to trust. Default: the system's.
        ca: FilePath,
        /// PEM file of the client's own certificate chain; needs `key`.
        cert: FilePath,
        /// PEM file of its key; needs `cert`.
        key: FilePath,
        /// The name that the certificate must carry, also sent as SNI. Default: the host of the endpoint.
        server_name: CertificateName,
    }
}

wire! {
    /// Limits of the connection pool; counts are per endpoint.
    PoolWire as "pool" {
        /// Most connections to one endpoint.
        max_connections: Int<1, 1_000_000> = default(Int(1024)),
        /// Idle connections to keep open to each endpoint once it was used.
        min_idle: Int<0, 10_000> = default(Int(0)),
        /// Most requests that wait for a connection to one endpoint.
        max_pending: Int<0, 1_000_000> = default(Int(100)),
        /// How long a request waits for a connection.
        pending_timeout: Span = default(Span::secs(1)),
        /// An idle connection is closed after this.
        idle_timeout: Span = default(Span::secs(60)),
        /// A connection takes no new request after this, ± 20 %.
        max_age: Span = default(Span::secs(30 * 60)),
    }
}
