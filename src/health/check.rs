//! One check: a connection of its own, a question, and whether the answer is the expected one.
//!
//! Nothing of it touches the pool: what is judged is whether the endpoint takes a new caller. The connection is made as a
//! request's would be, by the same connector, and closed after it. An
//! endpoint that is a name is looked up as for a request too, by the C library, on a pool of threads that is the control
//! thread's alone.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use memchr::memmem;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{grpc, http};
use crate::{
    config::policy::{EndpointAddress, Health, HealthCheck, UpstreamProtocol},
    net::Stream,
    telemetry::labels::HealthResult,
    upstream::{ConnectError, Connector, connector::Alpn},
};

/// So much of an answer is looked at.
pub(super) const LONGEST: usize = 64 * 1024;

/// What is asked, of whom nothing is said yet.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) config: Health,
    pub(super) protocol: UpstreamProtocol,
    pub(super) connector: Arc<Connector>,
}

/// What is wrong with an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// As what it counts.
    pub(super) result: HealthResult,
    /// For people.
    pub(super) text: Cow<'static, str>,
}

impl Fault {
    /// It answers, but not as it should.
    pub(super) fn answer(text: impl Into<Cow<'static, str>>) -> Self {
        Self { result: HealthResult::Failure, text: text.into() }
    }

    fn timeout(after: Duration) -> Self {
        Self { result: HealthResult::Timeout, text: format!("no answer within {after:?}").into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<ConnectError> for Fault {
    fn from(error: ConnectError) -> Self {
        let result = match error {
            ConnectError::Timeout | ConnectError::DnsTimeout => HealthResult::Timeout,
            _ => HealthResult::ConnectError,
        };
        Self { result, text: error.to_string().into() }
    }
}

impl Question {
    /// Asks the endpoint at `address`. Takes no longer than the check's `timeout`; dropping it gives the check up.
    pub(super) async fn ask(&self, address: &EndpointAddress) -> Result<(), Fault> {
        let limit = self.config.timeout;
        let to = with_port(address, self.config.port);
        timeout(limit, self.ask_unbounded(address, &to)).await.unwrap_or_else(|_| Err(Fault::timeout(limit)))
    }

    async fn ask_unbounded(&self, endpoint: &EndpointAddress, to: &EndpointAddress) -> Result<(), Fault> {
        let connector = &self.connector;
        match &self.config.check {
            HealthCheck::Tcp => {
                connector.socket(to).await?;
                Ok(())
            }
            HealthCheck::Tls => {
                if !connector.secure() {
                    return Err(Fault::answer("the upstream has no `tls`"));
                }
                connector.connect(to, self.alpn()).await?;
                Ok(())
            }
            HealthCheck::Http { method, path, host, expect, contains } => {
                let (stream, http2) = connector.connect(to, self.alpn()).await?;
                let asked = http::Asked {
                    method,
                    path,
                    host: http::host(host.as_ref(), endpoint),
                    secure: connector.secure(),
                    expect,
                    contains: contains.as_deref(),
                };
                http::ask(stream, http2, &asked).await
            }
            HealthCheck::Grpc { service } => {
                let (stream, _) = connector.connect(to, Alpn::Http2).await?;
                let host = http::host(None, endpoint);
                grpc::ask(stream, &host, connector.secure(), service).await
            }
            HealthCheck::Exchange { send, expect } => {
                // Whatever is spoken, it is not HTTP.
                let stream = connector.connect(to, Alpn::Nothing).await?.0;
                exchange(stream, send, expect).await
            }
        }
    }

    /// What requests would offer.
    fn alpn(&self) -> Alpn {
        match self.protocol {
            UpstreamProtocol::Http2 => Alpn::Http2,
            UpstreamProtocol::Auto if self.connector.secure() => Alpn::Both,
            UpstreamProtocol::Http1 | UpstreamProtocol::Auto => Alpn::Http1,
        }
    }
}

/// The same host at another port. A unix socket has none.
fn with_port(address: &EndpointAddress, port: Option<u16>) -> EndpointAddress {
    let Some(port) = port else { return address.clone() };
    match address {
        EndpointAddress::Socket(address) => EndpointAddress::Socket((address.ip(), port).into()),
        EndpointAddress::Host(host, _) => EndpointAddress::Host(host.clone(), port),
        EndpointAddress::Unix(_) => address.clone(),
    }
}

async fn exchange(mut stream: Stream, send: &Bytes, expect: &Bytes) -> Result<(), Fault> {
    let broken = |error: std::io::Error| Fault::answer(format!("broken off: {error}"));
    if !send.is_empty() {
        stream.write_all(send).await.map_err(broken)?;
        stream.flush().await.map_err(broken)?;
    }
    let mut answer = Vec::with_capacity(1024);
    let finder = memmem::Finder::new(expect);
    loop {
        let looked_at = answer.len().saturating_sub(expect.len());
        let room = LONGEST.saturating_sub(answer.len());
        let read = (&mut stream).take(room as u64).read_buf(&mut answer).await.map_err(broken)?;
        if finder.find(answer.get(looked_at..).unwrap_or_default()).is_some() {
            // A polite end, where there is still somebody to hear it.
            let _ = stream.shutdown().await;
            return Ok(());
        }
        if read == 0 {
            return Err(Fault::answer(match answer.as_slice() {
                [] => Cow::from("closed without an answer"),
                some => format!("unexpected answer {}", excerpt(some)).into(),
            }));
        }
    }
}

/// The beginning of an answer, fit for a log line.
fn excerpt(answer: &[u8]) -> String {
    let begin = answer.get(..64).unwrap_or(answer);
    format!("\"{}\"", begin.escape_ascii())
}

#[cfg(test)]
mod tests;
