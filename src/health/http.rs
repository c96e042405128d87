//! Checks that are requests over HTTP.

use std::{error::Error, ops::RangeInclusive};

use ::http::{HeaderValue, Method, Request, Uri, header, uri};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Response,
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use memchr::memmem;
use tokio::task::AbortHandle;

use super::check::{Fault, LONGEST};
use crate::{config::policy::EndpointAddress, net::Stream};

pub(super) const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("weir-health/", env!("CARGO_PKG_VERSION")));

/// What is asked for, and what is expected.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    /// With its query.
    pub(super) path: &'a str,
    pub(super) host: HeaderValue,
    pub(super) secure: bool,
    pub(super) expect: &'a [RangeInclusive<u16>],
    pub(super) contains: Option<&'a str>,
}

/// Asks on `stream`. Redirects are not followed: they are answers like others.
pub(super) async fn ask(stream: Stream, http2: bool, asked: &Asked<'_>) -> Result<(), Fault> {
    let request = asked.request(http2)?;
    let (response, _connection) = send(stream, http2, request).await?;
    let status = response.status().as_u16();
    if !asked.expect.iter().any(|range| range.contains(&status)) {
        return Err(Fault::answer(format!("status {status}")));
    }
    match asked.contains {
        None => Ok(()),
        Some(wanted) => contains(response.into_body(), wanted.as_bytes()).await,
    }
}

/// The host that is asked for: `host`, else the endpoint itself.
pub(super) fn host(host: Option<&HeaderValue>, endpoint: &EndpointAddress) -> HeaderValue {
    let own = || match endpoint {
        EndpointAddress::Unix(_) => None,
        address => HeaderValue::from_str(&address.to_string()).ok(),
    };
    host.cloned().or_else(own).unwrap_or(HeaderValue::from_static("localhost"))
}

impl Asked<'_> {
    fn request(&self, http2: bool) -> Result<Request<Full<Bytes>>, Fault> {
        let builder = Request::builder().method(self.method).header(header::USER_AGENT, USER_AGENT);
        let builder = if http2 {
            builder.uri(absolute(&self.host, self.secure, self.path)?)
        } else {
            // In the path alone, as origins expect it (RFC 9112 §3.2.1).
            builder.uri(self.path).header(header::HOST, &self.host).header(header::CONNECTION, "close")
        };
        builder.body(Full::default()).map_err(|e| Fault::answer(format!("cannot be asked: {e}")))
    }
}

/// The target of an HTTP/2 request.
pub(super) fn absolute(host: &HeaderValue, secure: bool, path: &str) -> Result<Uri, Fault> {
    let scheme = if secure { uri::Scheme::HTTPS } else { uri::Scheme::HTTP };
    Uri::builder()
        .scheme(scheme)
        .authority(host.as_bytes())
        .path_and_query(path)
        .build()
        .map_err(|e| Fault::answer(format!("cannot be asked: {e}")))
}

/// A connection that is carried on until this is dropped.
#[derive(Debug)]
pub(super) struct Carried(AbortHandle);

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends a request, and waits for the head of its answer. The body comes for as long as the connection is kept.
pub(super) async fn send(
    stream: Stream,
    http2: bool,
    request: Request<Full<Bytes>>,
) -> Result<(Response<Incoming>, Carried), Fault> {
    let io = TokioIo::new(stream);
    if http2 {
        let begun = http2::handshake(TokioExecutor::new(), io).await;
        let (mut sender, connection) = begun.map_err(|e| broken(&e))?;
        let carried = Carried(tokio::spawn(connection).abort_handle());
        let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
        Ok((response, carried))
    } else {
        let (mut sender, connection) = http1::handshake(io).await.map_err(|e| broken(&e))?;
        let carried = Carried(tokio::spawn(connection).abort_handle());
        let response = sender.send_request(request).await.map_err(|e| broken(&e))?;
        Ok((response, carried))
    }
}

/// What hyper says, with what is behind it.
pub(super) fn broken(error: &hyper::Error) -> Fault {
    let cause = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    Fault::answer(format!("broken off: {error}{cause}"))
}

async fn contains(mut body: Incoming, wanted: &[u8]) -> Result<(), Fault> {
    let finder = memmem::Finder::new(wanted);
    let mut seen = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|e| broken(&e))?.into_data() else { continue };
        let looked_at = seen.len().saturating_sub(wanted.len());
        seen.extend_from_slice(data.get(..LONGEST.saturating_sub(seen.len())).unwrap_or(&data));
        if finder.find(seen.get(looked_at..).unwrap_or_default()).is_some() {
            return Ok(());
        }
        if seen.len() >= LONGEST {
            return Err(Fault::answer("the first 64 KiB of the body do not contain what they should"));
        }
    }
    Err(Fault::answer("the body does not contain what it should"))
}
