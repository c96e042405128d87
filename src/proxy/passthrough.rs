//! Requests of an outbound listener that no route matches, passed through to the host that they name.
//!
//! An application with `http_proxy` set sends everything here. What a route names goes by its route and by nothing
//! else: a request to such a host that matches none of its routes gets 404, and a `CONNECT` to it 403, for a tunnel
//! would go past everything that the policy says of the host. All else goes where it says, in clear by HTTP or as a
//! raw tunnel, but never to Weir itself nor to the networks that are denied ([`Guard`]).

use std::{
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use ::http::{HeaderMap, StatusCode, Version, uri::Scheme};
use hyper::upgrade::OnUpgrade;

use super::{
    Instead, attempt,
    exchange::Exchange,
    gate::{self, Entered},
    limits::TimeLimits,
    tunnel,
};
use crate::{
    config::{
        Name,
        bootstrap::Passthrough as Config,
        policy::{
            self, Balancing, Breaker, BreakerMode, Ejection, EjectionState, EndpointAddress, Percent, Pool,
            SlowStart, UpstreamProtocol,
        },
    },
    error::{ProxyError, Reason},
    http::{
        census::{self, Census},
        uri::Host,
    },
    net::Socket,
    policy::Stamp,
    route::Rewriter,
    snapshot::{LocalUpstream, Route, Target, Upstream},
    telemetry::{Metrics, RouteMetrics, UpstreamMetrics},
    upstream::{CheckoutError, Connector, Guard, InFlight},
};

/// The route and the upstream of what passes through, as metrics and access records call them.
const NAME: &str = "_passthrough";
/// As for a route that says nothing.
const TIMEOUT: Duration = Duration::from_secs(15);
/// As for a route that says nothing.
const IDLE_TIMEOUT: Duration = Duration::from_mins(5);

/// As for an upstream that says nothing.
const MAX_HEADER_BYTES: usize = 65_536;
/// As for an upstream that says nothing.
const MAX_HEADERS: usize = 100;

/// What a listener passes through, and how.
#[derive(Debug)]
pub(crate) struct Passthrough {
    config: Config,
    /// Stands for the route that there is not.
    route: Route,
    route_metrics: Arc<RouteMetrics>,
    /// What all destinations have in common.
    upstream: Arc<policy::Upstream>,
    connector: Arc<Connector>,
    metrics: Arc<UpstreamMetrics>,
    tunnels: AtomicU32,
}

impl Passthrough {
    /// For `listener`, beside what listens on `own_ports`.
    pub(crate) fn new(config: &Config, listener: &Name, own_ports: &[u16], metrics: &Metrics) -> Self {
        let name = Name::reserved(NAME);
        let guard = Guard::new(&config.deny, own_ports);
        Self {
            route_metrics: metrics.route(listener, &name),
            metrics: metrics.upstream(&name),
            connector: Arc::new(Connector::guarded(
                config.connect_timeout,
                MAX_HEADER_BYTES,
                MAX_HEADERS,
                guard,
            )),
            upstream: Arc::new(upstream(name.clone(), config.connect_timeout)),
            route: route(name),
            config: config.clone(),
            tunnels: AtomicU32::new(0),
        }
    }

    pub(super) fn route(&self) -> &Route {
        &self.route
    }

    pub(super) fn route_metrics(&self) -> &Arc<RouteMetrics> {
        &self.route_metrics
    }

    /// The upstream at `address`: the one that this worker knows, or a new one.
    fn destination(&self, exchange: &Exchange, address: EndpointAddress) -> LocalUpstream {
        let connection = exchange.connection();
        let now = Stamp::of(Instant::now());
        let make = |address| Upstream::unnamed(&self.upstream, &self.connector, &self.metrics, address, now);
        let most = self.config.max_destinations;
        connection.worker.pools.destination(connection.listener.index, address, most, make)
    }

    /// A place under `max_tunnels`.
    fn begin_tunnel(self: &Arc<Self>) -> Result<Place, ProxyError> {
        let limit = self.config.max_tunnels;
        let taken = self
            .tunnels
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < limit).then_some(open + 1));
        match taken {
            Ok(_) => Ok(Place(self.clone())),
            Err(_) => Err(ProxyError::new(Reason::PoolFull).because("max_tunnels")),
        }
    }
}

fn route(name: Name) -> Route {
    let config = Arc::new(policy::Route {
        matches: policy::Match::default(),
        target: policy::Target::Upstream(name.clone()),
        name,
        timeout: Some(TIMEOUT),
        idle_timeout: Some(IDLE_TIMEOUT),
        priority: policy::Priority::default(),
        rewrite: policy::Rewrite::default(),
        request_headers: policy::HeaderEdits::default(),
        response_headers: policy::HeaderEdits::default(),
        max_body: None,
        breaker: None,
        fallback: None,
    });
    // There is but one upstream for each request, so that the target means nothing.
    let rewriter = Rewriter::compile(&config);
    Route {
        config,
        target: Target::Upstream(usize::MAX),
        rewriter,
        metrics: Vec::new(),
        breakers: Vec::new(),
        fallback: None,
    }
}

fn upstream(name: Name, connect_timeout: Duration) -> policy::Upstream {
    policy::Upstream {
        name,
        endpoints: Vec::new(),
        protocol: UpstreamProtocol::Auto,
        tls: None,
        discover: None,
        balancer: Balancing::default(),
        slow_start: SlowStart::default(),
        min_healthy: Percent::new(0),
        health: None,
        ejection: Ejection { state: EjectionState::Off, ..Ejection::default() },
        breaker: Breaker { mode: Some(BreakerMode::Off), ..Breaker::default() },
        fallback: None,
        pool: Pool::default(),
        connect_timeout,
        max_header_bytes: MAX_HEADER_BYTES,
        max_headers: MAX_HEADERS,
    }
}

/// A tunnel's place under `max_tunnels`, given back when dropped.
#[derive(Debug)]
struct Place(Arc<Passthrough>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.tunnels.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where a request goes that no route matched; `unmatched` when it goes nowhere.
pub(super) fn resolve(exchange: &mut Exchange, unmatched: ProxyError) -> Result<LocalUpstream, ProxyError> {
    let passthrough = exchange.connection().listener.passthrough.get().cloned();
    let Some(passthrough) = passthrough.filter(|_| unmatched.reason == Reason::NoRoute) else {
        return Err(unmatched);
    };
    let Some(host) = exchange.host.clone().filter(|host| !host.name.is_empty() && !is_named(exchange, host))
    else {
        return Err(unmatched);
    };
    exchange.passes(&passthrough);
    let secure = match exchange.parts.uri.scheme() {
        Some(scheme) => *scheme != Scheme::HTTP,
        None => exchange.connection().secure.get(),
    };
    if secure {
        // The client counts on TLS up to the host, which only a tunnel gives.
        return Err(ProxyError::new(Reason::Forbidden).because("https passes through by CONNECT alone"));
    }
    let address = address(&host, host.port.unwrap_or(80))?;
    let upstream = passthrough.destination(exchange, address);
    exchange.know_upstream(&upstream);
    Ok(upstream)
}

/// Whether a route of the listener names `host`.
fn is_named(exchange: &Exchange, host: &Host) -> bool {
    let index = exchange.connection().listener.index;
    exchange.view().snapshot().tables.get(index).is_some_and(|table| table.names(&host.name))
}

fn address(host: &Host, port: u16) -> Result<EndpointAddress, ProxyError> {
    if port == 0 {
        return Err(ProxyError::new(Reason::Malformed).because("port 0"));
    }
    let name = &*host.name;
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    Ok(match bare.parse::<IpAddr>() {
        Ok(ip) => EndpointAddress::Socket(SocketAddr::new(ip, port)),
        Err(_) => EndpointAddress::Host(Arc::from(name), port),
    })
}

/// A tunnel that is there, but for its client.
#[derive(Debug)]
pub(super) struct Established {
    client: OnUpgrade,
    socket: Socket,
    held: (Place, InFlight),
}

impl Established {
    /// Carries bytes both ways until one side ends or nothing moves.
    pub(super) fn carry(self, exchange: Box<Exchange>) {
        tunnel::carry(self.client, std::future::ready(Ok(self.socket)), exchange, self.held);
    }
}

/// Opens the tunnel that `CONNECT` asks for (RFC 9110 §9.3.6). Nothing of the request goes through it.
pub(super) async fn connect(exchange: &mut Exchange) -> Result<Box<Established>, Instead> {
    let passthrough = exchange.connection().listener.passthrough.get().cloned();
    let client = exchange.parts.extensions.remove::<OnUpgrade>();
    let (Some(passthrough), Some(client), Some(host)) = (passthrough, client, exchange.host.clone()) else {
        return Err(ProxyError::new(Reason::NoRoute).because("CONNECT").into());
    };
    exchange.passes(&passthrough);
    if exchange.had.any(census::CONTENT_LENGTH | census::TRANSFER_ENCODING)
        && exchange.version() != Version::HTTP_2
    {
        // Is it a body, or the tunnel's first bytes? Two readings are one too many.
        return Err(ProxyError::new(Reason::Malformed).because("CONNECT with a body").into());
    }
    if is_named(exchange, &host) {
        return Err(ProxyError::new(Reason::Forbidden).because("a route names this host").into());
    }
    let address = address(&host, host.port.unwrap_or(0))?;
    let place = passthrough.begin_tunnel()?;
    let upstream = passthrough.destination(exchange, address);
    exchange.know_upstream(&upstream);
    let upstream = match gate::enter(exchange, upstream)? {
        Entered::Through(upstream) => upstream,
        Entered::Waiting(waiting) => waiting.pass(exchange).await?,
    };
    exchange.limits = TimeLimits::begin(exchange, &passthrough.route.config);
    let Some(candidate) = upstream.candidates.first() else {
        return Err(ProxyError::new(Reason::Internal).because("a destination without endpoint").into());
    };
    let endpoint = &candidate.endpoint;
    let begun = Instant::now();
    exchange.attempt_begins(&upstream, 0, None, (begun, Stamp::of(begun)));
    let (limits, flow) = (exchange.limits, exchange.flow().clone());
    let deadlines = exchange.connection().worker.deadlines.clone();
    let connecting = pin!(upstream.connector.socket(endpoint.address()));
    let socket = match limits.bound(&deadlines, &flow, connecting).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => {
            return Err(attempt::not_connected(exchange, &upstream, &CheckoutError::Connect(error)).into());
        }
        Err(reason) => return Err(exchange.timed_out(reason, &upstream).into()),
    };
    exchange.answered(StatusCode::OK, Census::default(), &HeaderMap::new());
    Ok(Box::new(Established { client, socket, held: (place, endpoint.begin()) }))
}
