//! From an endpoint's address to a connection that HTTP can be spoken on.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::Guard;
use crate::{
    config::policy::{ClientTls, EndpointAddress},
    net::{Socket, Stream},
    tls::{TlsError, certificates, private_key, provider, read, roots, system_roots},
};

/// Why there is no connection.
#[derive(Debug, Clone)]
pub enum ConnectError {
    /// The name does not resolve.
    Dns(String),
    /// The look-up took longer than `connect_timeout`.
    DnsTimeout,
    /// Refused, or no way to it.
    Refused(String),
    /// It leads where it must not; why.
    Forbidden(&'static str),
    /// TCP took longer than `connect_timeout`.
    Timeout,
    /// TLS failed.
    Tls(String),
    /// HTTP could not be begun.
    Handshake(String),
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dns(error) => write!(f, "look-up: {error}"),
            Self::DnsTimeout => f.write_str("look-up timed out"),
            Self::Refused(error) => write!(f, "connect: {error}"),
            Self::Forbidden(why) => write!(f, "forbidden: {why}"),
            Self::Timeout => f.write_str("connect timed out"),
            Self::Tls(what) => write!(f, "TLS: {what}"),
            Self::Handshake(error) => write!(f, "handshake: {error}"),
        }
    }
}

impl std::error::Error for ConnectError {}

/// What ALPN may offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Alpn {
    Http1,
    Http2,
    Both,
    /// Not even that there is such a thing.
    Nothing,
}

/// Connects to the endpoints of one upstream.
#[derive(Debug)]
pub struct Connector {
    connect_timeout: Duration,
    max_header_bytes: usize,
    max_headers: usize,
    tls: Option<ReloadingTls>,
    /// What must not be connected to, where clients name the hosts.
    guard: Option<Guard>,
}

/// An upstream's TLS configuration, exchanged whole when its files change.
#[derive(Debug)]
struct ReloadingTls {
    files: ClientTls,
    /// What was last taken: compared whole, so that no change is missed.
    taken: Mutex<Pems>,
    current: ArcSwap<Tls>,
}

/// What the files of an upstream's `tls` hold.
#[derive(Debug, PartialEq, Eq)]
struct Pems {
    ca: Option<Vec<u8>>,
    cert: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Tls {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    both: Arc<ClientConfig>,
    nothing: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    /// For endpoints that are addresses.
    discovered_name: Option<ServerName<'static>>,
}

impl Connector {
    /// Reads what TLS needs; fails when a file cannot be used.
    pub fn new(
        connect_timeout: Duration,
        max_header_bytes: usize,
        max_headers: usize,
        tls: Option<&ClientTls>,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            connect_timeout,
            max_header_bytes,
            max_headers,
            tls: tls.map(ReloadingTls::load).transpose()?,
            guard: None,
        })
    }

    /// Connects in clear to hosts that clients name, but for what `guard` forbids.
    pub fn guarded(
        connect_timeout: Duration,
        max_header_bytes: usize,
        max_headers: usize,
        guard: Guard,
    ) -> Self {
        Self { connect_timeout, max_header_bytes, max_headers, tls: None, guard: Some(guard) }
    }

    /// Reads the files of `tls` again; takes them when they changed and are whole, for the connections that are opened
    /// from now on. Says whether they had changed.
    pub fn refresh(&self) -> Result<bool, TlsError> {
        self.tls.as_ref().map_or(Ok(false), ReloadingTls::refresh)
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// Most bytes of an answer's head.
    pub(crate) fn max_header_bytes(&self) -> usize {
        self.max_header_bytes
    }

    /// Most header fields of an answer.
    pub(crate) fn max_headers(&self) -> usize {
        self.max_headers
    }

    /// Whether connections are under TLS.
    pub(crate) fn secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Connects, and says whether HTTP/2 was agreed on.
    pub(crate) async fn connect(
        &self,
        to: &EndpointAddress,
        alpn: Alpn,
    ) -> Result<(Stream, bool), ConnectError> {
        let socket = self.socket(to).await?;
        let Some(tls) = &self.tls else {
            return Ok((Stream::from(socket), alpn == Alpn::Http2));
        };
        let tls = tls.current.load_full();
        let config = match alpn {
            Alpn::Http1 => &tls.http1,
            Alpn::Http2 => &tls.http2,
            Alpn::Both => &tls.both,
            Alpn::Nothing => &tls.nothing,
        };
        let name = tls.name_for(to)?;
        let handshake = TlsConnector::from(config.clone()).connect(name, socket);
        let stream = timeout(self.connect_timeout, handshake)
            .await
            .map_err(|_| ConnectError::Tls("handshake timed out".to_owned()))?
            .map_err(|e| ConnectError::Tls(e.to_string()))?;
        let agreed = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if alpn == Alpn::Http2 && !agreed {
            return Err(ConnectError::Tls("the endpoint does not speak HTTP/2".to_owned()));
        }
        Ok((Stream::Tls(Box::new(stream.into())), agreed))
    }

    /// A connection without TLS, nothing spoken yet.
    pub(crate) async fn socket(&self, to: &EndpointAddress) -> Result<Socket, ConnectError> {
        let refused = |error: io::Error| ConnectError::Refused(error.to_string());
        let connect = async {
            match to {
                EndpointAddress::Unix(path) => {
                    UnixStream::connect(path).await.map(Socket::Unix).map_err(refused)
                }
                EndpointAddress::Socket(address) => self.tcp([*address]).await,
                EndpointAddress::Host(..) => self.tcp(self.look_up(to).await?).await,
            }
        };
        let socket = connect.await?;
        // What the kernel would hold back, hyper has already gathered.
        socket.set_nodelay().map_err(refused)?;
        Ok(socket)
    }

    async fn look_up(&self, to: &EndpointAddress) -> Result<Vec<SocketAddr>, ConnectError> {
        let EndpointAddress::Host(host, port) = to else { return Ok(Vec::new()) };
        let found = timeout(self.connect_timeout, tokio::net::lookup_host((&**host, *port)))
            .await
            .map_err(|_| ConnectError::DnsTimeout)?
            .map_err(|e| ConnectError::Dns(e.to_string()))?;
        Ok(found.collect())
    }

    /// Connects to the first of `addresses` that can be connected to.
    async fn tcp(&self, addresses: impl IntoIterator<Item = SocketAddr>) -> Result<Socket, ConnectError> {
        let connect = async {
            let mut last = ConnectError::Refused("the name has no address".to_owned());
            for address in addresses {
                if let Some(why) = self.guard.as_ref().and_then(|guard| guard.forbids(address)) {
                    last = ConnectError::Forbidden(why);
                    continue;
                }
                match TcpStream::connect(address).await {
                    Ok(stream) => return Ok(Socket::Tcp(stream)),
                    Err(error) => last = ConnectError::Refused(error.to_string()),
                }
            }
            Err(last)
        };
        timeout(self.connect_timeout, connect).await.map_err(|_| ConnectError::Timeout)?
    }
}

impl Pems {
    fn read(files: &ClientTls) -> Result<Self, TlsError> {
        let content = |path: Option<&PathBuf>| path.map(|path| read(path)).transpose();
        let identity = files.identity.as_ref();
        Ok(Self {
            ca: content(files.ca.as_ref())?,
            cert: content(identity.map(|(cert, _)| cert))?,
            key: content(identity.map(|(_, key)| key))?,
        })
    }
}

impl ReloadingTls {
    fn load(files: &ClientTls) -> Result<Self, TlsError> {
        let pems = Pems::read(files)?;
        let current = ArcSwap::from_pointee(Tls::build(files, &pems)?);
        Ok(Self { files: files.clone(), taken: Mutex::new(pems), current })
    }

    fn refresh(&self) -> Result<bool, TlsError> {
        let pems = Pems::read(&self.files)?;
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if *taken == pems {
            return Ok(false);
        }
        self.current.store(Arc::new(Tls::build(&self.files, &pems)?));
        *taken = pems;
        Ok(true)
    }
}

impl Tls {
    fn build(files: &ClientTls, pems: &Pems) -> Result<Self, TlsError> {
        let authorities = match (&files.ca, &pems.ca) {
            (Some(path), Some(pem)) => roots(path, pem)?,
            _ => system_roots()?,
        };
        let builder = || {
            ClientConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .map(|versions| versions.with_root_certificates(authorities.clone()))
                .map_err(|e| TlsError::Authorities(e.to_string()))
        };
        let mut config = match (&files.identity, &pems.cert, &pems.key) {
            (Some((cert, key)), Some(cert_pem), Some(key_pem)) => {
                let chain = certificates(cert, cert_pem)?;
                let key = private_key(key, key_pem)?;
                builder()?.with_client_auth_cert(chain, key).map_err(|e| TlsError::Pair(e.to_string()))?
            }
            _ => builder()?.with_no_client_auth(),
        };
        let mut offering = |protocols: &[&[u8]]| {
            config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
            Arc::new(config.clone())
        };
        let (http1, http2) = (offering(&[b"http/1.1"]), offering(&[b"h2"]));
        let both = offering(&[b"h2", b"http/1.1"]);
        let nothing = offering(&[]);
        let name = |name: &Option<Arc<str>>| match name {
            None => Ok(None),
            Some(name) => ServerName::try_from(name.to_string())
                .map(Some)
                .map_err(|e| TlsError::Pair(format!("server_name {name}: {e}"))),
        };
        let (server_name, discovered_name) = (name(&files.server_name)?, name(&files.discovered_name)?);
        Ok(Self { http1, http2, both, nothing, server_name, discovered_name })
    }

    fn name_for(&self, to: &EndpointAddress) -> Result<ServerName<'static>, ConnectError> {
        if let Some(name) = &self.server_name {
            return Ok(name.clone());
        }
        match to {
            EndpointAddress::Socket(address) => {
                Ok(self.discovered_name.clone().unwrap_or_else(|| ServerName::from(address.ip())))
            }
            EndpointAddress::Host(host, _) => {
                ServerName::try_from(host.to_string()).map_err(|e| ConnectError::Tls(e.to_string()))
            }
            // Validation asks for a name.
            EndpointAddress::Unix(_) => Err(ConnectError::Tls("a unix socket has no name".to_owned())),
        }
    }
}
