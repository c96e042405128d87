//! From a socket to a connection whose protocol is known.

use std::io;

use bytes::Bytes;
use tokio::io::AsyncReadExt as _;
use tokio_rustls::TlsAcceptor;

use super::{
    Connection,
    detect::{Detected, detect},
    io::ServerIo,
    proxy_header::{self, MAX_LENGTH, Parsed},
};
use crate::{
    config::bootstrap::{ListenerProtocol, ProxyProtocol},
    net::{Socket, Stream},
    telemetry::{ConnectionRefusal, labels::Label as _},
};

impl Connection {
    /// The header of the PROXY protocol and TLS, where there are any, and the protocol. `None` when the client closed
    /// before it had said anything.
    pub(super) async fn open(&self, mut socket: Socket) -> Result<Option<(Detected, ServerIo)>, Refused> {
        let early = match self.listener.config.proxy_protocol {
            ProxyProtocol::Off => Bytes::new(),
            asked => match self.take_proxy_header(&mut socket, asked).await? {
                Some(early) => early,
                None => return Ok(None),
            },
        };
        let speaks = self.listener.config.protocol;
        let (detected, replay, stream) = match &self.listener.tls {
            None if speaks == ListenerProtocol::Http1 => (Detected::Http1, early, Stream::from(socket)),
            None => match detect(&mut socket, &early).await? {
                Some((detected, replay)) => (detected, replay, Stream::from(socket)),
                None => return Ok(None),
            },
            // Nothing that TLS begins with begins a header too.
            Some(_) if !early.is_empty() => return Err(Refused::because(ConnectionRefusal::Tls)),
            Some(tls) => {
                self.secure.set(true);
                let accepted = TlsAcceptor::from(tls.config()).accept(socket).await;
                let mut stream = accepted.map_err(|e| Refused::by(ConnectionRefusal::Tls, e))?;
                let alpn = match stream.get_ref().1.alpn_protocol() {
                    Some(b"h2") => Some(Detected::Http2),
                    Some(_) => Some(Detected::Http1),
                    None => None,
                };
                let found = match (alpn, speaks) {
                    (None, ListenerProtocol::Auto | ListenerProtocol::Http2) => {
                        detect(&mut stream, &[]).await?
                    }
                    (known, _) => Some((known.unwrap_or(Detected::Http1), Bytes::new())),
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

    /// Takes the header of the PROXY protocol off the connection, and makes the client that it names the peer. Gives what
    /// was read and is no header; `None` when the client closed before it had said anything.
    async fn take_proxy_header(
        &self,
        socket: &mut Socket,
        asked: ProxyProtocol,
    ) -> Result<Option<Bytes>, Refused> {
        let refused =
            |why: &'static str| Refused::by(ConnectionRefusal::ProxyProtocol, io::Error::other(why));
        if !self.listener.proxy_protocol_from.covers(self.remote().ip()) {
            // What such a peer says of others is not even looked at: as HTTP it will make no sense.
            return match asked {
                ProxyProtocol::Required => Err(refused("the peer may not send a header")),
                ProxyProtocol::Off | ProxyProtocol::Optional => Ok(Some(Bytes::new())),
            };
        }
        match proxy_header(socket).await? {
            Early::Header(source) => {
                if let Some(source) = source {
                    self.speaks_for(source);
                }
                Ok(Some(Bytes::new()))
            }
            Early::Nothing => Ok(None),
            Early::Other(bytes) if asked == ProxyProtocol::Optional => Ok(Some(bytes)),
            Early::Other(_) => Err(refused("there is no header")),
            Early::Malformed(why) => Err(refused(why)),
        }
    }

    pub(super) fn refuse(&self, refused: &Refused) {
        self.listener.metrics.refused.of(refused.why).increment(1);
        tracing::debug!(
            listener = %self.listener.config.name, peer = %self.remote(), reason = refused.why.text(),
            error = refused.error.as_ref().map(tracing::field::display),
            "a connection ended before its first request"
        );
    }
}

/// What a connection begins with.
enum Early {
    /// A header, which may name a client.
    Header(Option<std::net::SocketAddr>),
    /// Its end.
    Nothing,
    /// Something else; of that, these bytes were read.
    Other(Bytes),
    /// Something that is half a header.
    Malformed(&'static str),
}

/// Reads a header of the PROXY protocol and not one byte more, in however many pieces it comes: what is behind it may
/// be TLS, and is for whoever reads that.
async fn proxy_header(socket: &mut Socket) -> io::Result<Early> {
    let mut seen = Vec::new();
    let mut next = [0; 512];
    loop {
        let peeked = socket.peek(&mut next).await?;
        let taken = seen.len();
        seen.extend_from_slice(next.get(..peeked).unwrap_or_default());
        let wanted = match proxy_header::parse(&seen) {
            Err(why) => return Ok(Early::Malformed(why.0)),
            Ok(Parsed::Incomplete) if peeked == 0 && taken == 0 => return Ok(Early::Nothing),
            Ok(Parsed::Incomplete) if peeked > 0 && seen.len() <= MAX_LENGTH => seen.len(),
            Ok(Parsed::Incomplete | Parsed::Absent) => {
                seen.truncate(taken);
                return Ok(Early::Other(seen.into()));
            }
            Ok(Parsed::Header { length, .. }) => length,
        };
        let mine = seen.get_mut(taken..wanted).unwrap_or_default();
        socket.read_exact(mine).await?;
        if let Ok(Parsed::Header { source, .. }) = proxy_header::parse(&seen) {
            return Ok(Early::Header(source));
        }
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
