//! The request as an endpoint gets it.

use std::{borrow::Cow, rc::Rc};

use ::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Version, header,
    uri::{PathAndQuery, Scheme},
};
use hyper::{Request, body::Body as _};
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::{Passthrough, exchange::Exchange, limits::TimeLimits, receive::Wish};
use crate::{
    error::{ProxyError, Reason},
    http::{
        body::{RequestBody, Source},
        census, deadline, http2, hygiene, upgrade, uri,
    },
    route::rewrite,
    upstream::{RequestHead, Want},
};

/// The number of the attempt, from 1.
const X_WEIR_ATTEMPT: HeaderName = HeaderName::from_static(ATTEMPT);
const ATTEMPT: &str = "x-weir-attempt";

/// What has to be sent beside the exchange's own head, more than once if need be.
#[derive(Debug)]
pub(super) struct Outgoing {
    target: PathAndQuery,
    host: HeaderValue,
    /// This hop, where it is not among the fields yet.
    via: Option<HeaderValue>,
    /// `Host` is among the fields, and says so already.
    says_host: bool,
    body: Option<Rc<Source>>,
    pub(super) upgrade: Option<Wish>,
    /// What a client sent for the handshake of a WebSocket, which extended `CONNECT` does without.
    pub(super) websocket_key: Option<HeaderValue>,
    /// The client waits to be asked for the body.
    expects: bool,
    /// Nothing in the fields looks different in HTTP/1.
    plain: bool,
    /// The route or a change of protocols has added fields: anything may be among them.
    edited: bool,
}

/// Prepares the outgoing request: hop-by-hop fields go, Weir's own come, and the route's edits are made last.
pub(super) fn prepare(exchange: &mut Exchange, upgrade: Option<Wish>) -> Result<Outgoing, ProxyError> {
    let view = exchange.view().clone();
    let passes = exchange.passes.clone();
    let matched = exchange.route.and_then(|route| view.snapshot().routes.get(route)).map(|route| &**route);
    let Some(route) = passes.as_deref().map(Passthrough::route).or(matched) else {
        return Err(ProxyError::new(Reason::Internal).because("no route"));
    };
    let (config, had) = (&route.config, exchange.had);
    exchange.limits = TimeLimits::begin(exchange, config);
    let body = exchange.body.take().filter(|body| !body.is_end_stream());
    if let (Some(limit), Some(body)) = (config.max_body, &body)
        && body.size_hint().lower() > limit
    {
        return Err(ProxyError::new(Reason::BodyTooLarge).by(&config.name));
    }
    let parts = &mut exchange.parts;
    let headers = &mut parts.headers;
    let expects = had.any(census::EXPECT)
        && parts.version == Version::HTTP_11
        && body.is_some()
        && takes_expectation(headers);
    if parts.version == Version::HTTP_10 {
        // Expectations are not for HTTP/1.0, whose clients know nothing of interim answers (RFC 9110 §10.1.1).
        headers.remove(header::EXPECT);
    }
    hygiene::remove_hop_by_hop_of(had, headers);
    let edited = upgrade.is_some() || exchange.annotated || !config.request_headers.is_empty();
    let via = exchange.connection.listener.via.hop(parts.version).clone();
    let via = if edited || had.any(census::VIA) {
        // It comes after the hops before it, and before what a route makes of it.
        headers.append(header::VIA, via);
        None
    } else {
        Some(via)
    };
    let remaining = exchange.limits.remaining();
    if remaining.is_some() || had.any(census::DEADLINE) {
        deadline::write_remaining(headers, remaining, exchange.is_grpc);
    }
    rewrite::apply_edits(&config.request_headers, headers);
    let (path, query) = (parts.uri.path(), parts.uri.query());
    let rewritten =
        route.rewriter.path(path, query).map_err(|e| ProxyError::new(Reason::Malformed).because(e))?;
    let target = rewritten.or_else(|| parts.uri.path_and_query().cloned());
    let host = match (route.rewriter.host(), &exchange.host) {
        (Some(host), _) => host.clone(),
        (None, Some(host)) => host.text.clone(),
        (None, None) => HeaderValue::from_static(""),
    };
    let body = body.map(|body| {
        let keep = is_idempotent(&parts.method);
        Source::new(body, exchange.flow.clone(), config.max_body, keep)
    });
    let websocket_key = upgrade.as_ref().and_then(|_| headers.get(header::SEC_WEBSOCKET_KEY).cloned());
    Ok(Outgoing {
        websocket_key,
        target: target.unwrap_or(PathAndQuery::from_static("/")),
        host,
        via,
        says_host: had.any(census::HOST)
            && parts.uri.authority().is_none()
            && route.rewriter.host().is_none()
            && config.request_headers.is_empty()
            && !exchange.annotated,
        body,
        expects,
        plain: !edited && !had.any(census::TE) && !had.repeats(census::COOKIE),
        edited,
        upgrade,
    })
}

/// Whether the client waits for `100 Continue`. Other expectations are passed on for the application to judge.
fn takes_expectation(headers: &HeaderMap) -> bool {
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
    pub(super) fn want(&self, exchange: &Exchange) -> Want {
        if self.upgrade.is_some() {
            Want::Upgrade
        } else if exchange.is_grpc() {
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
    pub(super) fn repeatable(&self, exchange: &Exchange) -> bool {
        is_idempotent(&exchange.parts.method)
            && self.upgrade.is_none()
            && self.body.as_ref().is_none_or(|body| body.replayable())
    }

    /// What is sent of the body in one attempt.
    pub(super) fn body(&self, gate: Option<oneshot::Receiver<()>>) -> RequestBody {
        self.body.as_ref().map_or(RequestBody::Empty, |source| source.body(gate))
    }

    /// The head for one attempt by HTTP/1. The exchange keeps its own, for another attempt.
    pub(super) fn head<'a>(&'a self, exchange: &'a mut Exchange) -> Head<'a> {
        let attempt = exchange.attempts();
        let own = &mut exchange.parts;
        if !self.says_host && (self.edited || exchange.had.any(census::HOST)) {
            own.headers.remove(header::HOST);
        }
        if attempt > 1 || exchange.had.any(census::X_WEIR_ATTEMPT) {
            // Its client said so, or an attempt by HTTP/2 has left it.
            own.headers.remove(X_WEIR_ATTEMPT);
            if self.via.is_some() {
                own.headers.remove(header::VIA);
            }
        }
        let headers = if self.plain {
            Cow::Borrowed(&own.headers)
        } else {
            let mut headers = own.headers.clone();
            hygiene::for_http1(&mut headers);
            if let Some((protocol, _)) = &self.upgrade {
                protocol.restore(&mut headers);
            }
            Cow::Owned(headers)
        };
        // An attempt by HTTP/2 has no use for the field, and may have taken it away.
        let says_host = self.says_host && (attempt == 1 || own.headers.contains_key(header::HOST));
        let host = (!says_host).then_some(&self.host);
        let (target, via) = (self.target.as_str(), self.via.as_ref());
        Head { method: &own.method, target, headers, host, via, attempt: number(attempt) }
    }

    /// The request for one attempt by HTTP/2, under TLS when `secure`. `keep` makes another attempt possible: nothing is
    /// left of a head that was sent, so that it gets a copy.
    pub(super) fn request(
        &self,
        exchange: &mut Exchange,
        secure: bool,
        keep: bool,
        gate: Option<oneshot::Receiver<()>>,
    ) -> Result<Request<RequestBody>, ProxyError> {
        let attempt = exchange.attempts();
        let own = &mut exchange.parts;
        let mut headers = if keep { own.headers.clone() } else { std::mem::take(&mut own.headers) };
        headers.insert(X_WEIR_ATTEMPT, number(attempt));
        if let Some(via) = &self.via {
            headers.insert(header::VIA, via.clone());
        }
        if self.edited {
            hygiene::remove_hop_by_hop(&mut headers);
        }
        if self.edited || exchange.had.any(census::HOST) {
            headers.remove(header::HOST);
        }
        http2::keep_from_tables(exchange.had, &mut headers);
        if self.upgrade.is_some() {
            upgrade::into_connect(&mut headers);
        }
        let scheme = if secure { Scheme::HTTPS } else { Scheme::HTTP };
        let uri = uri::http2_form(scheme, &self.host, own.uri.authority(), self.target.clone());
        let mut request = Request::new(self.body(gate));
        *request.method_mut() = own.method.clone();
        if let Some((protocol, _)) = &self.upgrade {
            let protocol = protocol.preferred().ok_or_else(|| ProxyError::new(Reason::Malformed))?;
            *request.method_mut() = Method::CONNECT;
            request.extensions_mut().insert(hyper::ext::Protocol::from(protocol));
        }
        *request.uri_mut() = uri.ok_or_else(|| ProxyError::new(Reason::Malformed).because("no authority"))?;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// Takes back the headers of a request that is sent again.
    pub(super) fn take_back(exchange: &mut Exchange, mut sent: HeaderMap) {
        // Each attempt writes these anew, as its protocol wants them.
        hygiene::remove_hop_by_hop(&mut sent);
        exchange.parts.headers = sent;
    }
}

/// A request's head as it goes out by HTTP/1.
#[derive(Debug)]
pub(super) struct Head<'a> {
    method: &'a Method,
    target: &'a str,
    headers: Cow<'a, HeaderMap>,
    host: Option<&'a HeaderValue>,
    via: Option<&'a HeaderValue>,
    attempt: HeaderValue,
}

impl Head<'_> {
    /// Writes it in the way that `write` does.
    pub(super) fn with<R>(&self, write: impl FnOnce(RequestHead<'_>) -> R) -> R {
        let mut extra = SmallVec::<[(&str, &[u8]); 3]>::new();
        extra.extend(self.host.map(|host| ("host", host.as_bytes())));
        extra.extend(self.via.map(|via| ("via", via.as_bytes())));
        extra.push((ATTEMPT, self.attempt.as_bytes()));
        write(RequestHead { method: self.method, target: self.target, headers: &self.headers, extra: &extra })
    }
}

/// The usual numbers without an allocation.
fn number(attempt: usize) -> HeaderValue {
    match attempt {
        1 => HeaderValue::from_static("1"),
        2 => HeaderValue::from_static("2"),
        more => HeaderValue::from(more),
    }
}
