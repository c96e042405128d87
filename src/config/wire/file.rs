//! The file, block by block. Doc comments here are the descriptions in the schema.

use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;
use serde_json::{Value as Json, json};

use super::{
    Cx, Defaults, Defs, List, Many, Shown, Spanned, Table, Text, Wire,
    health::HealthWire,
    hosts::NewHost,
    http2::Http2Wire,
    limits::LimitWire,
    patterns::NewPath,
    plans::PlanWire,
    redis::RedisWire,
    resilience::{FallbackWire, RouteBreakerWire},
    scalars::{Delay, FilePath, Int, Listen, Mode, Size, Span, SpanOrNone, Workers},
    short::{OrBrief, OrShort},
    store::StoreWire,
    switches::SwitchWire,
    upstreams::UpstreamWire,
    wire,
};
use crate::config::{
    Name,
    bootstrap::{AccessLog, Direction, ListenerProtocol, LogFormat, LogLevel, ProxyProtocol, Unmatched},
    node::{Node, Origin, Value},
    policy::{GrpcPattern, HostPattern, KeyPart, PathPattern, Priority, ValuePattern},
};

/// Resources by name.
pub(crate) type Named<V> = Table<Name, V>;

wire! {
    /// The file that starts a Weir.
    FileWire as "file" {
        /// Whose policy this instance follows.
        service: Name = required,
        /// Which instance this is. Default: the host name.
        instance: Name,
        /// The zone this instance runs in.
        zone: Name,
        /// Threads that carry traffic; auto = min(2, usable CPUs).
        workers: Workers = default(Workers::Auto),
        /// The admin interface: everything about this instance. `off` turns it off.
        admin: OrOff<AdminWire> = default(OrOff::On(AdminWire::defaults(Origin::default()))),
        /// Metrics and probes. `off` turns them off.
        telemetry: OrOff<TelemetryWire> = default(OrOff::On(TelemetryWire::defaults(Origin::default()))),
        /// Logs and access records.
        log: LogWire = empty,
        /// How the process leaves.
        drain: DrainWire = empty,
        /// Where live policy comes from; left out, the file is all there is.
        store: StoreWire,
        /// The addresses on which Weir accepts connections, by name; at least one.
        listeners: Named<ListenerWire> = required,
        /// The Redis that limits with `share: redis` count in.
        redis: RedisWire,
        /// The policy that holds when nothing live says otherwise.
        policy: PolicyWire = empty,
    }
}

/// A block, or `off`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum OrOff<T> {
    /// Turned off.
    Off,
    /// As the block says.
    On(T),
}

/// How a block looks in which only its most important field is written.
pub(crate) trait Hint {
    /// What stands before and behind that field's value.
    const HINT: (&'static str, &'static str) = ("{ listen: ", " }");
}

impl Hint for AdminWire {}
impl Hint for TelemetryWire {}
impl Hint for HealthWire {
    const HINT: (&'static str, &'static str) = ("{ http: ", " }");
}

impl<T: Wire + Hint> Wire for OrOff<T> {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        match &node.value {
            Value::Bool(false) => Some(Self::Off),
            Value::String(text) if text == "off" => Some(Self::Off),
            Value::String(_) | Value::Bool(_) => {
                cx.wrong_block(node, "a map or `off`", Some(T::HINT));
                None
            }
            _ => T::decode(node, cx).map(Self::On),
        }
    }

    fn schema(defs: &mut Defs) -> Json {
        json!({ "anyOf": [T::schema(defs), { "enum": ["off", false] }] })
    }
}

wire! {
    /// The admin interface.
    AdminWire as "admin" {
        /// Where it listens. Loopback, unless there is a good reason.
        listen: Listen = default(Listen::from(std::net::SocketAddr::from(([127, 0, 0, 1], 9901)))),
        /// The permissions of its unix socket, in octal. Default 0600.
        socket_mode: Mode,
    }
}

impl Shown for OrOff<AdminWire> {
    fn show(&self) -> Json {
        match self {
            Self::Off => "off".into(),
            Self::On(admin) => json!({ "listen": admin.listen.value.show() }),
        }
    }
}

wire! {
    /// Metrics and probes.
    TelemetryWire as "telemetry" {
        /// Where /metrics, /livez, /readyz and /startupz are served.
        listen: Listen = default(Listen::from(std::net::SocketAddr::from(([0, 0, 0, 0], 9902)))),
        /// The permissions of its unix socket, in octal. Default 0660.
        socket_mode: Mode,
    }
}

impl Shown for OrOff<TelemetryWire> {
    fn show(&self) -> Json {
        match self {
            Self::Off => "off".into(),
            Self::On(telemetry) => json!({ "listen": telemetry.listen.value.show() }),
        }
    }
}

wire! {
    /// Logs and access records.
    LogWire as "log" {
        /// The least important level that is written.
        level: LogLevel = default(LogLevel::Info),
        /// How lines look: json (one object a line) or text (for people).
        format: LogFormat = default(LogFormat::Json),
        /// Which requests get an access record: off, errors, all, or the errors and a share of the rest (1%).
        access: AccessLog = default(AccessLog::Errors),
    }
}

wire! {
    /// How the process leaves.
    DrainWire as "drain" {
        /// After SIGTERM connections are still accepted for this long.
        delay: Delay = default(Delay::secs(5)),
        /// What still runs this long after SIGTERM is cut.
        grace: Delay = default(Delay::secs(25)),
    }
}

wire! {
    /// An address on which Weir accepts connections.
    ListenerWire as "listener" {
        /// The address: 127.0.0.1:8080, [::]:8080, 8080 for all IPv4 addresses, or `unix:/run/weir/in.sock`. The
        /// clients of a unix socket count as 127.0.0.1.
        listen: Listen = required,
        /// The permissions of its unix socket, in octal. Default 0660.
        socket_mode: Mode,
        /// To the application (inbound), or from it (outbound). Default: by the name (inbound*, outbound*), else
        /// outbound on a loopback address or a unix socket, and inbound on others.
        direction: Direction,
        /// What is spoken: auto (HTTP/1.1 and HTTP/2), http1 or http2.
        protocol: ListenerProtocol = default(ListenerProtocol::Auto),
        /// TLS as a server. Default: clear text.
        tls: ServerTlsWire,
        /// Most connections open at once; more are closed as they are accepted.
        max_connections: Int<1, 10_000_000> = default(Int(10_000)),
        /// Bound on the TLS handshake and on each request's headers.
        header_timeout: Span = default(Span::secs(10)),
        /// A connection without a request is closed after this.
        keepalive_timeout: Span = default(Span::secs(300)),
        /// Most bytes of a request's head.
        max_header_bytes: Size<8192, 16_777_216> = default(Size(65_536)),
        /// Most header fields of a request.
        max_headers: Int<1, 10_000> = default(Int(100)),
        /// HTTP/2: most streams at once on a connection.
        max_streams: Int<1, 100_000> = default(Int(100)),
        /// HTTP/2: what else bounds a connection. What goes beyond ends it, and is counted.
        http2: Http2Wire = empty,
        /// Peers whose X-Forwarded-* and X-Request-Id are believed. Default: loopback and private ranges; an empty
        /// list trusts nobody.
        trust: List<IpNet, 0> = default(private_ranges()),
        /// Whether connections begin with a header of the PROXY protocol, version 1 or 2, before TLS: off; optional
        /// (those of the peers in `proxy_protocol_from` may); required (all must, others are closed). The address in the
        /// header takes the place of the peer's everywhere.
        proxy_protocol: ProxyProtocol = default(ProxyProtocol::Off),
        /// Peers whose header of the PROXY protocol is believed. Default: loopback and private ranges.
        proxy_protocol_from: List<IpNet, 1>,
        /// Requests that no route matches: refuse (404), or passthrough: to the host that they name, CONNECT included,
        /// unless a route names it. Only outbound listeners pass through.
        unmatched: Unmatched = default(Unmatched::Refuse),
        /// The bounds of what passes through; needs `unmatched: passthrough`.
        passthrough: PassthroughWire,
    }
    later { "upstream" }
}

wire! {
    /// The bounds of what an outbound listener passes through.
    PassthroughWire as "passthrough" {
        /// Networks that nothing is passed through to, whatever name leads there. Default: the metadata services of
        /// clouds. Weir's own ports are refused in any case.
        deny: List<IpNet, 0> = default(metadata_services()),
        /// Most destinations (host and port) whose connections are kept; the least recently used goes.
        max_destinations: Int<1, 100_000> = default(Int(256)),
        /// Most tunnels (CONNECT) at once; more get 503.
        max_tunnels: Int<1, 1_000_000> = default(Int(1024)),
        /// Bound on one TCP connect.
        connect_timeout: Span = default(Span::secs(5)),
    }
}

/// Where clouds tell a machine its credentials: AWS (also ECS and EKS), Google, Azure and others; Alibaba.
fn metadata_services() -> List<IpNet, 0> {
    nets(&[
        "169.254.169.254/32",
        "169.254.170.2/32",
        "169.254.170.23/32",
        "100.100.100.200/32",
        "fd00:ec2::254/128",
        "fd00:ec2::23/128",
        "fd20:ce::254/128",
    ])
}

/// Loopback and the private ranges (RFC 1918, RFC 4193).
pub(crate) fn private_ranges() -> List<IpNet, 0> {
    nets(&["127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7"])
}

fn nets(ranges: &[&str]) -> List<IpNet, 0> {
    let nets = ranges.iter().filter_map(|range| range.parse().ok());
    List(nets.map(|value| Spanned { value, origin: Origin::default() }).collect())
}

wire! {
    /// TLS as a server. The files are read again when they change.
    ServerTlsWire as "server-tls" {
        /// PEM file of the certificate chain.
        cert: FilePath = required,
        /// PEM file of its key.
        key: FilePath = required,
        /// PEM file of the authorities of client certificates; when set, a client must show one.
        client_ca: FilePath,
    }
}

wire! {
    /// The policy that holds when nothing live says otherwise.
    PolicyWire as "policy" {
        /// The groups of endpoints, by name.
        upstreams: Named<UpstreamWire> = empty,
        /// The rules for requests, by name.
        routes: Named<RouteWire> = empty,
        /// The rate limits, by name.
        limits: Named<OrShort<LimitWire>> = empty,
        /// The degradation switches, by name.
        switches: Named<OrShort<SwitchWire>> = empty,
        /// The plans, by name.
        plans: Named<OrShort<PlanWire>> = empty,
    }
}

wire! {
    /// A rule for the requests that it matches.
    RouteWire as "route" {
        /// The listener that its requests come in by; the same as in `match`. Default: all listeners.
        listener: Name,
        /// Which requests it is for; left out, all.
        matches("match"): MatchWire = empty,
        /// Where they go; this or `split`.
        upstream: Name,
        /// Where they go, by weight; this or `upstream`.
        split: List<PartWire, 1>,
        /// What makes a split sticky: requests with the same key go to the same upstream.
        key: Many<KeyPart>,
        /// From the request's headers to the answer's, retries included; 0 = none.
        timeout: SpanOrNone = default(SpanOrNone::secs(15)),
        /// No byte either way for this long ends the exchange; 0 = none.
        idle_timeout: SpanOrNone = default(SpanOrNone::secs(300)),
        /// Its importance when load must be shed: critical, normal, low or background.
        priority: Priority = default(Priority::Normal),
        /// Changes to the request's target.
        rewrite: RewriteWire = empty,
        /// Changes to the request's headers.
        request_headers: EditsWire = empty,
        /// Changes to the answer's headers.
        response_headers: EditsWire = empty,
        /// The largest request body; larger ones get 413. Default: no bound.
        max_body: Size<0, { u64::MAX }>,
        /// What it says of the breaker of its upstream, which gives it one of its own: a block, or its `mode`. Default: it uses
        /// that of the upstream.
        breaker: OrBrief<RouteBreakerWire>,
        /// What its requests get when the upstream cannot answer them. Default: what the upstream says.
        fallback: FallbackWire,
    }
    later { "retry", "hedge" }
}

wire! {
    /// One part of a split.
    PartWire as "split-part" {
        /// The upstream.
        upstream: Name = required,
        /// Its share relative to the other parts.
        weight: Int<0, 65_535> = default(Int(1)),
    }
}

wire! {
    /// Changes to the request's target.
    RewriteWire as "rewrite" {
        /// Replaces the prefix that the route matched (`/prefix/*`), or the whole path (`/exact`).
        path_prefix: NewPath,
        /// Replaces the host.
        host: NewHost,
    }
}

wire! {
    /// Changes to a message's headers: first `remove`, then `set`, then `add`.
    EditsWire as "header-edits" {
        /// Headers to give exactly this value.
        set: Table<HeaderName, HeaderValue> = empty,
        /// Values to append.
        add: Table<HeaderName, Many<HeaderValue>> = empty,
        /// Headers to take out.
        remove: Many<HeaderName>,
    }
}

wire! {
    /// Which requests a rule is for; all given parts must hold.
    MatchWire as "match" {
        /// The listener the request came in by.
        listener: Name,
        /// The route it matched (not in routes themselves).
        route: Name,
        /// Any of these hosts: exact, or `*.suffix`; without port.
        host: Many<HostPattern>,
        /// Any of these paths: `/exact`, `/prefix/*` or `~regex`.
        path: Many<PathPattern>,
        /// Any of these methods.
        methods: Many<Method>,
        /// All of these headers: a value, `~regex`, `present` or `absent`.
        headers: Table<HeaderName, ValuePattern> = empty,
        /// All of these query parameters: a value, `~regex`, `present` or `absent`.
        query: Table<QueryName, ValuePattern> = empty,
        /// Any of these client networks.
        client: Many<IpNet>,
        /// A gRPC method (`package.Service/Method`), or all of a service (`package.Service`).
        grpc: GrpcPattern,
    }
}

/// The name of a query parameter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct QueryName(pub(crate) std::sync::Arc<str>);

impl Text for QueryName {
    const WHAT: &'static str = "a query parameter's name";
    const DEF: &'static str = "";
    const TAKES: super::Takes = super::Takes::Any;

    fn parse(text: &str) -> Result<Self, crate::config::fault::Problem> {
        Ok(Self(std::sync::Arc::from(text)))
    }

    fn describe() -> Json {
        json!({ "type": "string" })
    }
}
