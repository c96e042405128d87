//! A connection to one member of etcd: TCP, TLS, HTTP/2, and the client crate on top.
//!
//! The crate's own channels balance over members, reconnect by themselves and read certificates once. A connection
//! here is to one member, ends when it breaks, and takes the certificates as they are on disk when it is made.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use http::{Uri, uri::Authority};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::AbortHandle,
};
use tokio_rustls::TlsConnector;
use tower::util::BoxCloneSyncService;

use super::failure;
use crate::{
    store::{
        Lost,
        watch::{Failure, FailureKind},
    },
    tls::{self, TlsError},
};

/// Pings on a connection where nothing else comes; servers refuse more than one in 5 s.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long a ping's answer may take.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest message that is read, in bytes. etcd itself takes values of 1.5 MiB.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;

/// How to reach an etcd.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The members, at least one: `http://host:port`, `https://host:port` or `host:port`, which is with TLS where
    /// `tls` is set. The port is 2379 unless it is given.
    pub endpoints: Vec<String>,
    /// What all keys begin with: `/weir`. Without a slash at its end.
    pub root: String,
    /// Whom to authenticate as.
    pub user: Option<String>,
    /// The file that holds the password; read at each authentication. White space at its end does not count.
    pub password_file: Option<PathBuf>,
    /// TLS, and the certificates.
    pub tls: Option<Tls>,
}

/// The files of TLS. They are read for each connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authorities that may have signed the server's certificate (PEM). Default: the system's.
    pub ca: Option<PathBuf>,
    /// Our certificate (PEM), for servers that want one.
    pub cert: Option<PathBuf>,
    /// Its key (PEM).
    pub key: Option<PathBuf>,
    /// The name that the server's certificate has. Default: the endpoint's host.
    pub server_name: Option<String>,
}

/// A configuration that cannot be used; the text says what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub String);

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// One member.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// As configured.
    pub(crate) endpoint: String,
    host: String,
    port: u16,
    tls: bool,
    authority: Authority,
}

impl Config {
    /// The members, in the order of the file.
    pub(crate) fn members(&self) -> Result<Vec<Member>, ConfigError> {
        if self.endpoints.is_empty() {
            return Err(ConfigError(
                "`endpoints` is empty: name at least one, like http://127.0.0.1:2379".into(),
            ));
        }
        if let Some(Tls { cert, key, .. }) = &self.tls
            && cert.is_some() != key.is_some()
        {
            return Err(ConfigError("`cert` and `key` of `tls` belong together: set both or none".into()));
        }
        if self.user.is_some() != self.password_file.is_some() {
            return Err(ConfigError("`user` and `password_file` belong together: set both or none".into()));
        }
        self.endpoints.iter().map(|endpoint| self.member(endpoint)).collect()
    }

    fn member(&self, endpoint: &str) -> Result<Member, ConfigError> {
        let wrong = || {
            ConfigError(format!(
                "`{endpoint}` is no endpoint: it is like http://127.0.0.1:2379 or https://etcd-0:2379"
            ))
        };
        let (tls, rest) = match endpoint.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            Some(_) => return Err(wrong()),
            None => (self.tls.is_some(), endpoint),
        };
        let authority: Authority = rest.trim_end_matches('/').parse().map_err(|_| wrong())?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(wrong());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(2379);
        Ok(Member { endpoint: endpoint.to_owned(), host, port, tls, authority })
    }

    /// The user and the password, as the file holds it now.
    pub(crate) fn credentials(&self) -> Result<Option<(String, String)>, String> {
        let (Some(user), Some(file)) = (&self.user, &self.password_file) else { return Ok(None) };
        match std::fs::read_to_string(file) {
            Ok(password) => Ok(Some((user.clone(), password.trim_end().to_owned()))),
            Err(error) => Err(format!("{}: {error}", file.display())),
        }
    }
}

impl Tls {
    /// Reads the files.
    fn build(&self) -> Result<ClientConfig, TlsError> {
        let roots = match &self.ca {
            Some(ca) => tls::roots(ca, &tls::read(ca)?)?,
            None => tls::system_roots()?,
        };
        let builder = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Pair(error.to_string()))?
            .with_root_certificates(roots);
        let mut config = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let chain = tls::certificates(cert, &tls::read(cert)?)?;
                let private = tls::private_key(key, &tls::read(key)?)?;
                builder.with_client_auth_cert(chain, private).map_err(|error| {
                    TlsError::Pair(format!("{} and {}: {error}", cert.display(), key.display()))
                })?
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

/// A connection and the client on it. The connection ends with the last clone of the client, and when this is dropped.
pub(crate) struct Connection {
    pub(crate) client: etcd_client::Client,
    task: AbortHandle,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects to a member. Takes as long as it takes: time-outs are the caller's. Must run on a tokio runtime.
pub(crate) async fn connect(config: &Config, member: &Member) -> Result<Connection, Failure> {
    let tcp = TcpStream::connect((member.host.as_str(), member.port))
        .await
        .map_err(|error| member.failure(Lost::Connect, &format!("no connection: {error}")))?;
    let _ = tcp.set_nodelay(true);
    if !member.tls {
        return member.http2(tcp).await;
    }
    let files = config.tls.clone().unwrap_or_default();
    let tls = files.build().map_err(|error| member.failure(Lost::Tls, &error.to_string()))?;
    let name = files.server_name.unwrap_or_else(|| member.host.clone());
    let server = ServerName::try_from(name.clone()).map_err(|_| {
        member.failure(Lost::Tls, &format!("`{name}` is no name of a server: set `server_name`"))
    })?;
    let stream = TlsConnector::from(Arc::new(tls))
        .connect(server, tcp)
        .await
        .map_err(|error| member.failure(Lost::Tls, &tls_fault(&error, &name)))?;
    member.http2(stream).await
}

fn tls_fault(error: &io::Error, name: &str) -> String {
    format!("TLS failed: {error} (`ca` says who may sign, `server_name` what it is called: {name})")
}

impl Member {
    pub(crate) fn failure(&self, lost: Lost, text: &str) -> Failure {
        Failure { kind: FailureKind::Lost(lost), text: format!("{}: {text}", self.endpoint) }
    }

    async fn http2<T>(&self, stream: T) -> Result<Connection, Failure>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broken =
            |error: &dyn std::fmt::Display| self.failure(Lost::Connect, &format!("no HTTP/2: {error}"));
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .handshake::<_, tonic::body::Body>(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        let task = tokio::spawn(async move {
            // Its end is seen by every call.
            let _ = connection.await;
        })
        .abort_handle();
        let (scheme, authority) = (if self.tls { "https" } else { "http" }, self.authority.clone());
        let service = tower::service_fn(move |mut request: http::Request<tonic::body::Body>| {
            let mut sender = sender.clone();
            let path = request.uri().path_and_query().cloned();
            let uri = Uri::builder().scheme(scheme).authority(authority.clone());
            let uri = path.into_iter().fold(uri, http::uri::Builder::path_and_query).build();
            async move {
                *request.uri_mut() = uri?;
                sender.ready().await?;
                let response = sender.send_request(request).await?;
                Ok::<_, tower::BoxError>(response.map(tonic::body::Body::new))
            }
        });
        let channel = etcd_client::Channel::Custom(BoxCloneSyncService::new(service));
        let options = etcd_client::ConnectOptions::new().with_require_leader(true);
        let client = etcd_client::Client::from_channel(channel, Some(options)).await;
        match client {
            Ok(client) => Ok(Connection { client, task }),
            Err(error) => Err(failure::of(&self.endpoint, &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(endpoint: &str) -> Config {
        Config { endpoints: vec![endpoint.into()], ..Config::default() }
    }

    #[test]
    fn endpoints_are_read_as_people_write_them() {
        for (text, host, port, tls) in [
            ("http://127.0.0.1:2379", "127.0.0.1", 2379, false),
            ("https://etcd-0.etcd:2380/", "etcd-0.etcd", 2380, true),
            ("https://[::1]:1", "::1", 1, true),
            ("etcd", "etcd", 2379, false),
        ] {
            let members = config(text).members().unwrap();
            let member = &members[0];
            assert_eq!((member.host.as_str(), member.port, member.tls), (host, port, tls), "{text}");
        }
        let with_tls = Config { tls: Some(Tls::default()), ..config("etcd:1") };
        assert!(with_tls.members().unwrap()[0].tls);
    }

    #[test]
    fn what_is_no_endpoint_is_said() {
        for text in ["", "ftp://x:1", "http://", "http://user@host:1", "http://a b:1"] {
            let error = config(text).members().unwrap_err();
            assert!(error.to_string().contains("is no endpoint"), "{text}: {error}");
        }
        assert!(Config::default().members().is_err());
        let half = Config { user: Some("u".into()), ..config("a:1") };
        assert!(half.members().unwrap_err().to_string().contains("password_file"));
    }
}
