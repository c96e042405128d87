//! The validated policy: what the compiler of snapshots reads.
//!
//! Every type here is `Eq + Hash`, so that "did this change?" is one comparison: equal means reuse what is
//! running. A value of these types is correct by construction; all faults were found on the way to it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::{HeaderName, HeaderValue, Method, StatusCode};
use ipnet::IpNet;

use super::{Name, Pattern};
pub use super::{
    limit::{Algorithm, Cost, Limit, LimitHeaders, LimitScope, LimitShare, LimitState},
    plan::{Patch, Plan},
    resilience::{
        BalancerPolicy, Balancing, Breaker, BreakerMode, BreakerOverride, BreakerWindow, Discover, Ejection,
        EjectionState, EndpointSource, Fallback, Health, HealthCheck, Percent, SlowStart,
    },
    switch::{Action, Respond, Signal, Switch, SwitchState, When},
};

/// All policy of one layer stack, by name. The changes of plans that are on are in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The upstreams.
    pub upstreams: BTreeMap<Name, Arc<Upstream>>,
    /// The routes.
    pub routes: BTreeMap<Name, Arc<Route>>,
    /// The limits.
    pub limits: BTreeMap<Name, Arc<Limit>>,
    /// The switches.
    pub switches: BTreeMap<Name, Arc<Switch>>,
    /// The plans.
    pub plans: BTreeMap<Name, Arc<Plan>>,
    /// Every protection off: a plain proxy. Only live policy says so.
    pub bypass: bool,
}

/// A named group of endpoints of one service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// Its name.
    pub name: Name,
    /// Its endpoints, in the order of the document, then those of the store; addresses are unique. Only live policy
    /// may leave it without any.
    pub endpoints: Vec<Endpoint>,
    /// The protocol spoken to its endpoints.
    pub protocol: UpstreamProtocol,
    /// TLS towards its endpoints; `None` is clear text.
    pub tls: Option<ClientTls>,
    /// Where further endpoints are looked up; `None` = nowhere.
    pub discover: Option<Discover>,
    /// How an endpoint is chosen.
    pub balancer: Balancing,
    /// How an endpoint is brought up to its share.
    pub slow_start: SlowStart,
    /// The share of a tier's endpoints that have to be healthy: below it the next tier helps; below it in every tier
    /// there is panic. Default 50 %.
    pub min_healthy: Percent,
    /// Active health checks; `None` = none.
    pub health: Option<Health>,
    /// When an endpoint is taken out because of its own results.
    pub ejection: Ejection,
    /// When the upstream is given a rest.
    pub breaker: Breaker,
    /// What its callers get when it cannot answer; `None` = an error that explains itself.
    pub fallback: Option<Fallback>,
    /// Limits of the connection pool.
    pub pool: Pool,
    /// Bound on one TCP connect and, after it, on the TLS handshake. Default 1 s.
    pub connect_timeout: Duration,
    /// Most bytes of an answer's head, counted as RFC 9113 §6.5.2 does; a larger one is 502. Default 64 KiB.
    pub max_header_bytes: usize,
    /// Most header fields of an answer; more are 502. Default 100.
    pub max_headers: usize,
}

/// One address of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where to connect: `host:port` or `unix:PATH`.
    pub address: EndpointAddress,
    /// Its share of the traffic relative to its peers; 0 takes it out of rotation. Default 1, at most 65,535.
    pub weight: u32,
    /// The zone it runs in.
    pub zone: Option<Name>,
    /// 0 is used first; the next tier when too few of it are healthy. Default 0.
    pub tier: u8,
    /// Where it is known from.
    pub source: EndpointSource,
}

/// An endpoint's address: an IP and port, a host name that is looked up at every connect, or a unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointAddress {
    /// An address.
    Socket(SocketAddr),
    /// A DNS name and port.
    Host(Arc<str>, u16),
    /// The path of a unix socket.
    Unix(Arc<Path>),
}

impl std::fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The protocol spoken to the endpoints of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum UpstreamProtocol {
    /// ALPN under TLS; in clear HTTP/2 by prior knowledge for gRPC, else HTTP/1.1.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 (prior knowledge in clear).
    Http2,
}

/// TLS as a client.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ClientTls {
    /// PEM file of the authorities to trust; `None` is the system's.
    pub ca: Option<PathBuf>,
    /// PEM files of the client's own certificate chain and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that the certificate must carry and that is sent as SNI; default: the host of the endpoint.
    pub server_name: Option<Arc<str>>,
    /// The same for endpoints that are addresses: the name whose look-up has found them. Default: the address.
    pub discovered_name: Option<Arc<str>>,
}

/// Limits of an upstream's connection pool. Counts are per endpoint and process; each worker holds its share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pool {
    /// Most connections to one endpoint. Default 1024.
    pub max_connections: u32,
    /// Idle connections to keep open to each endpoint once it was used. Default 0.
    pub min_idle: u32,
    /// Most requests that wait for a connection to one endpoint. Default 100.
    pub max_pending: u32,
    /// How long a request waits for a connection. Default 1 s.
    pub pending_timeout: Duration,
    /// An idle connection is closed after this. Default 60 s.
    pub idle_timeout: Duration,
    /// A connection takes no new request after this, ± 20 %. Default 30 m.
    pub max_age: Duration,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            min_idle: 0,
            max_pending: 100,
            pending_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_mins(1),
            max_age: Duration::from_mins(30),
        }
    }
}

/// A rule for the requests that it matches.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route {
    /// Its name.
    pub name: Name,
    /// Which requests it is for.
    pub matches: Match,
    /// Where they go.
    pub target: Target,
    /// From the request's headers to the answer's, retries included; `None` = no bound. Default 15 s.
    pub timeout: Option<Duration>,
    /// No byte either way for this long ends the exchange; `None` = no bound. Default 5 m.
    pub idle_timeout: Option<Duration>,
    /// Its importance when load must be shed.
    pub priority: Priority,
    /// Changes to the request's target.
    pub rewrite: Rewrite,
    /// Changes to the request's headers.
    pub request_headers: HeaderEdits,
    /// Changes to the answer's headers.
    pub response_headers: HeaderEdits,
    /// The largest request body, in bytes; `None` = no bound.
    pub max_body: Option<u64>,
    /// What it says of the breaker of the upstream it uses; `None` = it uses that one.
    pub breaker: Option<BreakerOverride>,
    /// What its requests get when the upstream cannot answer; `None` = what the upstream says.
    pub fallback: Option<Fallback>,
}

/// Where a route sends its requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// All to one upstream.
    Upstream(Name),
    /// By weight to several; sticky when there is a key.
    Split {
        /// The parts of the sticky key; empty = a fresh draw for each request.
        key: Vec<KeyPart>,
        /// The upstreams and their weights; at least one weight is above 0.
        parts: Vec<(Name, u32)>,
    },
}

/// One part of a key that is read from a request (limits, splits, hashing).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyPart {
    /// The client's address.
    Client,
    /// A header's value.
    Header(HeaderName),
    /// A query parameter's value.
    Query(Arc<str>),
    /// A cookie's value.
    Cookie(Arc<str>),
    /// The name of the route.
    Route,
    /// The host.
    Host,
    /// The method.
    Method,
}

/// How important a request is; the least important is shed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Priority {
    /// Shed first.
    Background,
    /// Shed after background.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Shed last.
    Critical,
}

/// Changes to a request's target.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Rewrite {
    /// Replaces the prefix that the route matched (`/*` routes) or the whole path (exact routes).
    pub path_prefix: Option<Arc<str>>,
    /// Replaces the host.
    pub host: Option<HeaderValue>,
}

/// Changes to a message's headers: first `remove`, then `set`, then `add`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct HeaderEdits {
    /// Names to take out.
    pub remove: Vec<HeaderName>,
    /// Names to give exactly this value.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Values to append.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderEdits {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

/// Which requests a rule is for; all given parts must hold, an empty block matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Match {
    /// The listener the request came in by.
    pub listener: Option<Name>,
    /// The route it matched (not in routes themselves).
    pub route: Option<Name>,
    /// Any of these hosts; empty = all.
    pub host: Vec<HostPattern>,
    /// Any of these paths; empty = all.
    pub path: Vec<PathPattern>,
    /// Any of these methods; empty = all.
    pub methods: Vec<Method>,
    /// All of these headers.
    pub headers: Vec<(HeaderName, ValuePattern)>,
    /// All of these query parameters.
    pub query: Vec<(Arc<str>, ValuePattern)>,
    /// Any of these client networks; empty = all.
    pub client: Vec<IpNet>,
    /// A gRPC service, or one of its methods. Implies `POST` and a content type of `application/grpc`.
    pub grpc: Option<GrpcPattern>,
}

/// A host: exact, or a wildcard that stands for one or more labels. Lower case, without port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// `api.example.com`.
    Exact(Arc<str>),
    /// `*.example.com`, kept as `.example.com`.
    Suffix(Arc<str>),
}

/// A path, in normalised form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// `/exact`.
    Exact(Arc<str>),
    /// `/prefix/*`, kept as `/prefix`; `/*` is kept as the empty text. Matches `/prefix` and whatever is
    /// below `/prefix/`, never `/prefixes`.
    Prefix(Arc<str>),
    /// `~regex`, which must match the whole path.
    Regex(Pattern),
}

/// What a header or a query parameter must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ValuePattern {
    /// Exactly this.
    Exact(Arc<str>),
    /// `~regex`, which must match the whole value.
    Regex(Pattern),
    /// There, whatever its value.
    Present,
    /// Not there.
    Absent,
}

/// A gRPC service or method.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GrpcPattern {
    /// `package.Service`.
    pub service: Arc<str>,
    /// One of its methods; `None` = all.
    pub method: Option<Arc<str>>,
}

/// A status that Weir may be told to answer with.
pub type Status = StatusCode;
