//! From a socket to a connection whose protocol is known.

use std::io;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::{
    Connection,
    detect::{Detected, detect},
    io::ServerIo,
};
use crate::{
    config::bootstrap::ListenerProtocol,
    net::Stream,
    telemetry::{ConnectionRefusal, labels::Label as _},
};

impl Connection {
    /// TLS, where there is any, and the protocol.
    pub(super) async fn open(&self, mut tcp: TcpStream) -> Result<Option<(Detected, ServerIo)>, Refused> {
        let speaks = self.listener.config.protocol;
        let (detected, replay, stream) = match &self.listener.tls {
            None if speaks == ListenerProtocol::Http1 => {
                (Detected::Http1, bytes::Bytes::new(), Stream::Plain(tcp))
            }
            None => match detect(&mut tcp).await? {
                Some((detected, replay)) => (detected, replay, Stream::Plain(tcp)),
                None => return Ok(None),
            },
            Some(tls) => {
                self.secure.set(true);
                let accepted = TlsAcceptor::from(tls.config()).accept(tcp).await;
                let mut stream = accepted.map_err(|e| Refused::by(ConnectionRefusal::Tls, e))?;
                let alpn = match stream.get_ref().1.alpn_protocol() {
                    Some(b"h2") => Some(Detected::Http2),
                    Some(_) => Some(Detected::Http1),
                    None => None,
                };
                let found = match (alpn, speaks) {
                    (None, ListenerProtocol::Auto | ListenerProtocol::Http2) => detect(&mut stream).await?,
                    (known, _) => Some((known.unwrap_or(Detected::Http1), bytes::Bytes::new())),
                };
                let Some((detected, replay)) = found else { return Ok(None) };
                (detected, replay, Stream::Tls(Box::new(stream.into())))
            }
        };
        if detected == Detected::Http1 && speaks == ListenerProtocol::Http2 {
            return Err(Refused::because(ConnectionRefusal::Protocol));
        }
        Ok(Some((detected, ServerIo::new(stream, replay, self.state.clone()))))
    }

    pub(super) fn refuse(&self, refused: &Refused) {
        self.listener.metrics.refused.of(refused.why).increment(1);
        tracing::debug!(
            listener = %self.listener.config.name, peer = %self.remote, reason = refused.why.text(),
            error = refused.error.as_ref().map(tracing::field::display),
            "a connection ended before its first request"
        );
    }
}

/// Why a connection ended before its first request.
#[derive(Debug)]
pub(super) struct Refused {
    why: ConnectionRefusal,
    error: Option<io::Error>,
}

impl Refused {
    pub(super) fn because(why: ConnectionRefusal) -> Self {
        Self { why, error: None }
    }

    fn by(why: ConnectionRefusal, error: io::Error) -> Self {
        Self { why, error: Some(error) }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::by(ConnectionRefusal::Protocol, error)
    }
}
