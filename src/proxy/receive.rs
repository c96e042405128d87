//! From what arrived to what is asked for: parsed strictly, and matched to its route.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use ::http::{HeaderValue, Method, Uri, Version, header, request::Parts, uri::PathAndQuery};
use hyper::{Request, body::Incoming, upgrade::OnUpgrade};

use super::exchange::Exchange;
use crate::{
    config::policy,
    error::{ProxyError, Reason},
    http::{
        framing::{self, Forwards},
        http2, trace,
        upgrade::{self, UpgradeProtocol},
        uri,
    },
    route::{self, RequestView},
    snapshot::{Target, Upstream},
};

/// A request that is HTTP as it must be.
#[derive(Debug)]
pub(super) struct Received {
    /// Its target's path is in normal form.
    pub(super) parts: Parts,
    pub(super) body: Incoming,
    /// Its host as the client wrote it, with the port.
    pub(super) authority: HeaderValue,
    /// For matching: lower case, no port.
    host: Box<str>,
    client: IpAddr,
    /// What it wants to switch to, and how to get at the connection then.
    pub(super) upgrade: Option<(UpgradeProtocol, OnUpgrade)>,
}

/// Checks what the parser of HTTP leaves to be checked.
pub(super) fn receive(
    exchange: &mut Exchange,
    mut request: Request<Incoming>,
) -> Result<Received, ProxyError> {
    let malformed = |what: &dyn std::fmt::Display| ProxyError::new(Reason::Malformed).because(what);
    let extended =
        request.extensions().get::<hyper::ext::Protocol>().map(|p| upgrade::by_connect(p.as_str()));
    let wish = match &extended {
        Some(protocol) => protocol.clone(),
        None => upgrade::requested(request.version(), request.headers()),
    };
    let upgrade = wish.map(|protocol| (protocol, hyper::upgrade::on(&mut request)));
    let (mut parts, body) = request.into_parts();
    if parts.version == Version::HTTP_2 {
        check_size(exchange, &parts)?;
        http2::check_request(&parts).map_err(|e| malformed(&e))?;
    }
    framing::check(parts.version, &parts.headers).map_err(|e| malformed(&e))?;
    let authority = uri::authority(parts.version, &parts.method, &parts.uri, &parts.headers)
        .map_err(|e| malformed(&e))?;
    let host: Box<str> = Box::from(&*authority.host);
    let authority = match parts.headers.get(header::HOST) {
        Some(written) if written.as_bytes() == authority.text.as_bytes() => written.clone(),
        _ => HeaderValue::from_str(authority.text).map_err(|e| malformed(&e))?,
    };
    exchange.know_host(authority.clone());
    exchange.know_trace(trace::take(&mut parts.headers));
    let connection = exchange.connection();
    connection.listener.via.check_loop(&parts.headers)?;
    let connection = connection.clone();
    let sender = connection.peer().admit(&mut parts.headers, Some(&authority));
    let client = sender.client;
    exchange.know_sender(sender);
    if let (Some(_), Some((protocol, _))) = (extended, &upgrade) {
        // From here on it is what it would have been over HTTP/1 (RFC 8441 §5).
        parts.method = Method::GET;
        exchange.connection().worker.rng(|rng| upgrade::from_connect(protocol, &mut parts.headers, rng));
    }
    if parts.method == Method::CONNECT {
        // A route names paths, and this has none: nothing can match it.
        return Err(ProxyError::new(Reason::NoRoute).because("CONNECT"));
    }
    if parts.uri.path() != "*" {
        let normal = route::normalise(parts.uri.path()).map_err(|e| malformed(&e))?;
        if let Cow::Owned(path) = normal {
            parts.uri = with_path(&parts.uri, &path).map_err(|e| malformed(&e))?;
        }
    }
    Ok(Received { parts, body, authority, host, client, upgrade })
}

/// Holds a request over HTTP/2 to the listener's bounds; the parser of HTTP/1 does it by itself.
fn check_size(exchange: &Exchange, parts: &Parts) -> Result<(), ProxyError> {
    let config = &exchange.connection().listener.config;
    let bytes = framing::size_of(&parts.headers);
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if parts.headers.len() > config.max_headers || bytes + target > config.max_header_bytes {
        return Err(ProxyError::new(Reason::HeaderTooLarge));
    }
    Ok(())
}

fn with_path(uri: &Uri, path: &str) -> Result<Uri, ::http::Error> {
    let target = match uri.query() {
        None => PathAndQuery::try_from(path)?,
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}"))?,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target);
    Ok(Uri::from_parts(parts)?)
}

impl Received {
    /// Counts `Max-Forwards` down.
    pub(super) fn count_forwards(&mut self) -> Forwards {
        framing::count_forwards(&self.parts.method, &mut self.parts.headers)
    }

    fn view(&self) -> RequestView<'_> {
        RequestView {
            host: &self.host,
            path: self.parts.uri.path(),
            query: self.parts.uri.query(),
            method: &self.parts.method,
            headers: &self.parts.headers,
            client: self.client,
        }
    }
}

/// The route of a request, and the upstream that it goes to.
pub(super) fn resolve(
    exchange: &mut Exchange,
    received: &Received,
) -> Result<(Arc<policy::Route>, Arc<Upstream>), ProxyError> {
    let request = received.view();
    let snapshot = exchange.view().snapshot().clone();
    let connection = exchange.connection().clone();
    let table = snapshot.tables.get(connection.listener.index);
    let index = table.and_then(|table| table.resolve(&request)).map(route::RouteIndex::get);
    let Some((index, route)) = index.and_then(|i| Some((i, snapshot.routes.get(i)?))) else {
        let what = format!("{} {}{}", request.method, request.host, request.path);
        return Err(ProxyError::new(Reason::NoRoute).because(what));
    };
    exchange.know_route(index);
    let upstream = match &route.target {
        Target::Upstream(index) => *index,
        Target::Split { split, key, targets } => {
            let sticky = key.hash(&request, Some(&route.config.name), 0);
            let part = match sticky {
                Some(key) => split.pick_sticky(key),
                None => connection.worker.rng(|rng| split.pick(rng)),
            };
            targets.get(part).copied().unwrap_or(usize::MAX)
        }
    };
    let Some(upstream) = snapshot.upstreams.get(upstream) else {
        // Validation refuses routes to nowhere.
        return Err(ProxyError::new(Reason::Internal).because("route without upstream"));
    };
    exchange.know_upstream(upstream);
    Ok((route.config.clone(), upstream.clone()))
}
