//! The request as an endpoint gets it.

use std::{rc::Rc, sync::Arc, time::Instant};

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header, uri::PathAndQuery};
use hyper::{Request, body::Body as _, upgrade::OnUpgrade};
use tokio::sync::oneshot;

use super::{exchange::Exchange, limits::TimeLimits, receive::Received};
use crate::{
    config::policy,
    error::{ProxyError, Reason},
    http::{
        body::{RequestBody, Source},
        deadline, hygiene,
        upgrade::UpgradeProtocol,
    },
    route::rewrite,
    upstream::Want,
};

/// The number of the attempt, from 1.
const X_WEIR_ATTEMPT: HeaderName = HeaderName::from_static("x-weir-attempt");

/// A request ready to be sent, more than once if need be.
#[derive(Debug)]
pub(super) struct Outgoing {
    method: Method,
    target: PathAndQuery,
    host: HeaderValue,
    headers: HeaderMap,
    body: Option<Rc<Source>>,
    pub(super) upgrade: Option<(UpgradeProtocol, OnUpgrade)>,
    /// The client waits to be asked for the body.
    expects: bool,
    grpc: bool,
}

/// Makes the outgoing request: hop-by-hop fields go, Weir's own come, and the route's edits are made last.
pub(super) fn prepare(
    exchange: &Exchange,
    route: &Arc<policy::Route>,
    received: Received,
    limits: &TimeLimits,
) -> Result<Outgoing, ProxyError> {
    let Received { parts, body, authority, upgrade, .. } = received;
    let mut headers = parts.headers;
    if let Some(limit) = route.max_body
        && body.size_hint().lower() > limit
    {
        return Err(ProxyError::new(Reason::BodyTooLarge).by(&route.name));
    }
    let expects =
        parts.version == Version::HTTP_11 && !body.is_end_stream() && takes_expectation(&mut headers);
    if parts.version == Version::HTTP_10 {
        // Expectations are not for HTTP/1.0, whose clients know nothing of interim answers (RFC 9110 §10.1.1).
        headers.remove(header::EXPECT);
    }
    let body = (!body.is_end_stream()).then(|| {
        let keep = is_idempotent(&parts.method);
        Source::new(body, exchange.flow().clone(), route.max_body, keep)
    });
    let connection = exchange.connection();
    hygiene::remove_hop_by_hop(&mut headers);
    hygiene::keep_te_trailers(&mut headers);
    connection.listener.via.append(parts.version, &mut headers);
    deadline::write_remaining(&mut headers, limits.remaining(Instant::now()), exchange.is_grpc());
    rewrite::apply_edits(&route.request_headers, &mut headers);
    let rewriter = exchange.route().map(|route| &route.rewriter);
    let target = match rewriter.map(|rewriter| rewriter.path(parts.uri.path(), parts.uri.query())) {
        Some(Ok(Some(rewritten))) => rewritten,
        Some(Err(error)) => return Err(ProxyError::new(Reason::Malformed).because(error)),
        Some(Ok(None)) | None => match parts.uri.path_and_query() {
            Some(target) => target.clone(),
            None => PathAndQuery::from_static("/"),
        },
    };
    let host = rewriter.and_then(|rewriter| rewriter.host()).unwrap_or(&authority).clone();
    headers.remove(header::HOST);
    Ok(Outgoing {
        method: parts.method,
        target,
        host,
        headers,
        body,
        upgrade,
        expects,
        grpc: exchange.is_grpc(),
    })
}

/// Whether the client waits for `100 Continue`. Other expectations are passed on for the application to judge.
fn takes_expectation(headers: &mut HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// RFC 9110 §9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

impl Outgoing {
    /// What kind of connection it needs.
    pub(super) fn want(&self) -> Want {
        if self.upgrade.is_some() {
            Want::Upgrade
        } else if self.grpc {
            Want::Grpc
        } else {
            Want::Any
        }
    }

    /// Whether the endpoint is to be asked before the body is read.
    pub(super) fn expects(&self) -> bool {
        self.expects
    }

    /// Whether it may be sent again although an endpoint may have acted on it already.
    pub(super) fn repeatable(&self) -> bool {
        is_idempotent(&self.method)
            && self.upgrade.is_none()
            && self.body.as_ref().is_none_or(|body| body.replayable())
    }

    /// The request for one attempt. `keep` leaves everything in place for another one.
    pub(super) fn request(
        &mut self,
        attempt: usize,
        http2: bool,
        secure: bool,
        keep: bool,
        gate: Option<oneshot::Receiver<()>>,
    ) -> Result<Request<RequestBody>, ProxyError> {
        let body = self.body.as_ref().map_or(RequestBody::Empty, |source| source.body(gate));
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        let mut headers = if keep { self.headers.clone() } else { std::mem::take(&mut self.headers) };
        headers.insert(X_WEIR_ATTEMPT, HeaderValue::from(u64::try_from(attempt).unwrap_or(u64::MAX)));
        if http2 {
            let scheme = if secure { "https" } else { "http" };
            let uri = Uri::builder()
                .scheme(scheme)
                .authority(self.host.as_bytes())
                .path_and_query(self.target.clone())
                .build()
                .map_err(|error| ProxyError::new(Reason::Malformed).because(error))?;
            *request.uri_mut() = uri;
            *request.version_mut() = Version::HTTP_2;
            hygiene::for_http2(&mut headers);
        } else {
            *request.uri_mut() = Uri::from(self.target.clone());
            headers.insert(header::HOST, self.host.clone());
            hygiene::for_http1(&mut headers);
            if let Some((protocol, _)) = &self.upgrade {
                protocol.restore(&mut headers);
            }
        }
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// Takes back the headers of a request that was not sent.
    pub(super) fn take_back(&mut self, mut request: Request<RequestBody>) {
        if self.headers.is_empty() {
            self.headers = std::mem::take(request.headers_mut());
            // Each attempt writes these anew, as its protocol wants them.
            self.headers.remove(header::HOST);
            hygiene::remove_hop_by_hop(&mut self.headers);
            hygiene::keep_te_trailers(&mut self.headers);
        }
    }
}
