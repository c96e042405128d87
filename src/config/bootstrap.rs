//! What is fixed for the life of the process: identity, threads, addresses. Validated.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

use super::{
    Name,
    policy::{ClientTls, EndpointAddress},
};

/// Everything in the file that only a restart changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap {
    /// Whose policy this instance follows.
    pub service: Name,
    /// Which instance this is; default: the host name.
    pub instance: Name,
    /// Its zone.
    pub zone: Option<Name>,
    /// How many threads carry traffic; default min(2, usable CPUs).
    pub workers: NonZeroUsize,
    /// Where the admin interface listens; default 127.0.0.1:9901, `None` = off.
    pub admin: Option<Side>,
    /// Where metrics and probes listen; default 0.0.0.0:9902, `None` = off.
    pub telemetry: Option<Side>,
    /// Logs and access records.
    pub log: Log,
    /// How the process leaves.
    pub drain: Drain,
    /// Where live policy comes from; `None` = the file is all there is.
    pub store: Option<Store>,
    /// The listeners, by name; at least one.
    pub listeners: BTreeMap<Name, Listener>,
    /// What limits with `share: redis` count in.
    pub redis: Option<RedisUrl>,
}

/// Where a Redis is, and who Weir is there.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RedisUrl {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Its address; default port 6379.
    pub address: EndpointAddress,
    /// The user.
    pub user: Option<Arc<str>>,
    /// The user's password.
    pub password: Option<Arc<str>>,
    /// The database; default 0.
    pub database: u16,
}

/// Without the password.
impl std::fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "rediss" } else { "redis" };
        write!(f, "{scheme}://{}/{}", self.address, self.database)
    }
}

/// Where something listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// A TCP address; port 0 is any free one.
    Socket(SocketAddr),
    /// The path of a unix socket, at most [`ListenAddress::MAX_PATH`] bytes.
    Unix(Arc<Path>),
}

impl ListenAddress {
    /// The longest path of a unix socket, in bytes: the system takes 107, and the name that a socket has while it is
    /// made is longer by four.
    pub const MAX_PATH: usize = 103;

    /// The TCP address, where it is one.
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Socket(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where one of the interfaces for operators and machines listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// The address.
    pub listen: ListenAddress,
    /// The permissions of its unix socket. Default 0600 for admin, 0660 for telemetry.
    pub socket_mode: u32,
}

/// Logs and access records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The least important level that is written. Default info.
    pub level: LogLevel,
    /// How lines look. Default json.
    pub format: LogFormat,
    /// Which requests get an access record. Default errors.
    pub access: AccessLog,
}

/// The importance of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is odd.
    Warn,
    /// What an operator wants to know.
    Info,
    /// What a developer wants to know.
    Debug,
    /// Everything.
    Trace,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Which requests get an access record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccessLog {
    /// None.
    Off,
    /// Those that ended in an error or that Weir answered itself.
    Errors,
    /// All.
    All,
    /// The errors and this share of the rest, in hundredths of a percent (1 % = 100).
    Sample(u16),
}

/// How the process leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// After SIGTERM connections are still accepted for this long. Default 5 s.
    pub delay: Duration,
    /// What still runs this long after SIGTERM is cut. Default 25 s.
    pub grace: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { delay: Duration::from_secs(5), grace: Duration::from_secs(25) }
    }
}

/// Where live policy comes from, and what is done with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// The store.
    pub source: StoreSource,
    /// How long a start waits for it; then the cache holds, then the baseline. Default 3 s; 0 = not at all.
    pub boot_wait: Duration,
    /// The file that keeps the last good overlays; `None` = none. Default with etcd: `/var/lib/weir/policy.cache`; with
    /// a directory none: it is there when Weir starts, and two directories that are tried one after the other would
    /// look like one store that was exchanged.
    pub cache: Option<PathBuf>,
    /// The shortest time between two writes of `pods/<service>/<instance>`; `None` = nothing is written. Default with
    /// etcd 10 s, at least 1 s; none with a directory.
    pub presence: Option<Duration>,
}

/// The kinds of store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreSource {
    /// An etcd cluster.
    Etcd(Etcd),
    /// A directory.
    Directory(Directory),
}

/// An etcd cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Etcd {
    /// Its members, as written; at least one, each once, all with TLS or none.
    pub endpoints: Vec<EtcdEndpoint>,
    /// What all keys begin with: empty, or `/weir` (the default) and the like; never with a slash at its end.
    pub root: Arc<str>,
    /// The user; `None` = no authentication by name.
    pub credentials: Option<Credentials>,
    /// TLS; `None` exactly when the endpoints are `http://`.
    pub tls: Option<ClientTls>,
    /// Bound on one connect to a member, TLS included. Default 2 s.
    pub connect_timeout: Duration,
    /// Bound on one request. Default 5 s.
    pub request_timeout: Duration,
}

/// A member of an etcd cluster. Shown as it would be written: `https://10.0.0.1:2379`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EtcdEndpoint {
    /// Whether it is spoken to under TLS.
    pub tls: bool,
    /// Where it is: an address or a name, never a unix socket.
    pub address: EndpointAddress,
}

impl std::fmt::Display for EtcdEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }
}

/// Who to be for etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub user: Arc<str>,
    /// The file that holds the password; white space at its end does not count.
    pub password_file: PathBuf,
}

/// A directory that holds live policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Its path. It may be missing, and come later.
    pub path: PathBuf,
    /// How often it is read. Default 250 ms; 10 ms to 1 m.
    pub interval: Duration,
}

/// An address on which Weir accepts connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its name.
    pub name: Name,
    /// The address.
    pub listen: ListenAddress,
    /// The permissions of its unix socket. Default 0660.
    pub socket_mode: u32,
    /// To the application, or from it.
    pub direction: Direction,
    /// Which protocols are spoken.
    pub protocol: ListenerProtocol,
    /// TLS; `None` is clear text.
    pub tls: Option<ServerTls>,
    /// Most connections open at once; more are closed as they are accepted. Default 10,000.
    pub max_connections: usize,
    /// Bound on the TLS handshake and on each request's headers, from their first byte. Default 10 s.
    pub header_timeout: Duration,
    /// A connection without a request is closed after this. Default 5 m.
    pub keepalive_timeout: Duration,
    /// Most bytes of a request's head. Default 64 KiB.
    pub max_header_bytes: usize,
    /// Most header fields of a request. Default 100.
    pub max_headers: usize,
    /// HTTP/2: most streams at once on a connection. Default 100.
    pub max_streams: u32,
    /// HTTP/2: what else bounds a connection.
    pub http2: Http2,
    /// Peers whose X-Forwarded-*, X-Request-Id are believed. Default: loopback and private ranges.
    pub trust: Vec<IpNet>,
    /// Whether connections begin with a header of the PROXY protocol. Default off.
    pub proxy_protocol: ProxyProtocol,
    /// The peers whose header of the PROXY protocol is believed. Default: loopback and private ranges.
    pub proxy_protocol_from: Vec<IpNet>,
    /// What passes through although no route matches; `None` = such requests get 404. Outbound listeners only.
    pub passthrough: Option<Passthrough>,
}

/// Whether connections begin with a header of the PROXY protocol (versions 1 and 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ProxyProtocol {
    /// They do not; one that does is not HTTP.
    #[default]
    Off,
    /// Those of the peers that may send one may begin with one.
    Optional,
    /// All must; a connection without one, or of a peer that may not send one, is closed.
    Required,
}

/// What becomes of requests that no route matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Unmatched {
    /// They get 404.
    #[default]
    Refuse,
    /// They go to the host that they name, unless a route names it.
    Passthrough,
}

/// The bounds of what an outbound listener passes through.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Passthrough {
    /// Networks that nothing is passed through to, whatever name leads there. Default: the metadata services of
    /// clouds. Weir's own ports are refused in any case.
    pub deny: Vec<IpNet>,
    /// Most destinations (host and port) whose connections are kept; the least recently used goes. Default 256.
    pub max_destinations: u32,
    /// Most tunnels (CONNECT) at once. Default 1024.
    pub max_tunnels: u32,
    /// Bound on one TCP connect. Default 5 s.
    pub connect_timeout: Duration,
}

/// What bounds one HTTP/2 connection of a client in time and space, beside `max_streams` and the bounds that hold for
/// HTTP/1 too. What goes beyond ends the connection with GOAWAY (`ENHANCE_YOUR_CALM`, RFC 9113 §7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http2 {
    /// Most streams that the client resets within a second (CVE-2023-44487). Default 1,000.
    pub max_resets: u32,
    /// Most streams, over the connection's life, that errors of the client make Weir reset (CVE-2025-8671). Default
    /// 1,000.
    pub max_stream_errors: u32,
    /// Most frames within a second that carry nothing of a message: PING, SETTINGS, PRIORITY, `WINDOW_UPDATE`, GOAWAY,
    /// those of unknown types, and empty ones (CVE-2019-9512, -9513, -9515, -9518). Default 10,000.
    pub max_control_frames: u32,
    /// Most bytes of one request's body that wait for the endpoint (`SETTINGS_INITIAL_WINDOW_SIZE`). Default 256 KiB.
    pub window: u32,
    /// The same for all requests of the connection together. Default 1 MiB.
    pub connection_window: u32,
    /// Most bytes of one answer that wait for the client. Default 64 KiB.
    pub max_send_buffer: u32,
    /// A client that sent nothing for this long is asked for a sign of life (PING); `None` = never. Default 1 m.
    pub ping_interval: Option<Duration>,
    /// How long it has for that before its connection is closed. Default 20 s.
    pub ping_timeout: Duration,
}

/// Which way the traffic of a listener goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// To the application.
    Inbound,
    /// From the application.
    Outbound,
}

/// Which protocols a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ListenerProtocol {
    /// HTTP/1.1 and HTTP/2, told apart by ALPN or by the first bytes.
    #[default]
    Auto,
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only.
    Http2,
}

/// TLS as a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerTls {
    /// PEM file of the certificate chain.
    pub cert: PathBuf,
    /// PEM file of its key.
    pub key: PathBuf,
    /// PEM file of the authorities of client certificates; when set, a client must show one.
    pub client_ca: Option<PathBuf>,
}
