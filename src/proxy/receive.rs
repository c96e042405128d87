//! From what arrived to what is asked for: parsed strictly, and matched to its route.

use std::{borrow::Cow, rc::Rc};

use ::http::{Method, Uri, Version, request::Parts, uri::PathAndQuery};
use hyper::upgrade::OnUpgrade;

use super::exchange::Exchange;
use crate::{
    error::{ProxyError, Reason},
    http::{
        census, framing, http2, trace,
        upgrade::{self, UpgradeProtocol},
        uri::{self, Host},
    },
    listener::Connection,
    route,
    snapshot::{LocalUpstream, Target, View},
};

/// How many fields Weir adds to a request.
const OWN_FIELDS: usize = 7;

/// What a request wants to switch to, and how to get at its connection then.
pub(super) type Wish = (UpgradeProtocol, OnUpgrade);

/// Checks what the parser of HTTP leaves to be checked, and finds out who asks for what. A request whose method is
/// still `CONNECT` after this asks for a tunnel, on a listener that gives them.
pub(super) fn receive(exchange: &mut Exchange) -> Result<Option<Wish>, ProxyError> {
    let wish = wish(exchange);
    let connection = exchange.connection().clone();
    if exchange.parts.version == Version::HTTP_2 {
        check_size(exchange)?;
        // Of HTTP/1, the framer has read how long the message is before anybody else.
        framing::check_of(exchange.had, Version::HTTP_2, &exchange.parts.headers).map_err(malformed)?;
        http2::check_request(&exchange.parts).map_err(malformed)?;
    }
    let had = exchange.had;
    let host = host(exchange, &connection)?;
    exchange.know_host(host.clone());
    let headers = &mut exchange.parts.headers;
    if exchange.parts.version == Version::HTTP_2 {
        // Room for what Weir adds, at once. Over HTTP/1 the last answer on the connection has left enough.
        headers.reserve(OWN_FIELDS);
    }
    if had.any(census::TRACE) {
        exchange.trace_id = trace::take(headers);
    }
    if had.any(census::VIA) {
        connection.listener.via.check_loop(headers)?;
    }
    let sender = connection.peer().admit(headers, had, Some(&host.text), || connection.worker.request_id());
    exchange.know_sender(sender);
    if let Some((protocol, _)) = &wish
        && exchange.method == Method::CONNECT
    {
        // From here on it is what it would have been over HTTP/1 (RFC 8441 §5).
        exchange.parts.method = Method::GET;
        connection.worker.rng(|rng| upgrade::from_connect(protocol, &mut exchange.parts.headers, rng));
    }
    if exchange.parts.method == Method::CONNECT {
        // A route names paths, and this has none: nothing can match it.
        let tunnel = exchange.parts.uri.scheme().is_none();
        if tunnel && connection.listener.passthrough.get().is_some() {
            return Ok(None);
        }
        return Err(ProxyError::new(Reason::NoRoute).because("CONNECT"));
    }
    normalise(exchange)?;
    Ok(wish)
}

fn malformed(what: impl std::fmt::Display) -> ProxyError {
    ProxyError::new(Reason::Malformed).because(what)
}

/// The wish to leave HTTP, by `Upgrade` or by extended `CONNECT`.
fn wish(exchange: &mut Exchange) -> Option<Wish> {
    let Parts { version, headers, extensions, .. } = &mut exchange.parts;
    if extensions.is_empty() {
        return None;
    }
    let protocol = match extensions.get::<hyper::ext::Protocol>() {
        Some(protocol) => upgrade::by_connect(protocol.as_str()),
        None => upgrade::requested(*version, headers),
    };
    Some((protocol?, extensions.remove::<OnUpgrade>()?))
}

/// Whom the request is for.
fn host(exchange: &Exchange, connection: &Connection) -> Result<Rc<Host>, ProxyError> {
    let Parts { version, method, uri, headers, .. } = &exchange.parts;
    let known = match uri.authority() {
        _ if *method == Method::CONNECT || exchange.had.repeats(census::HOST) => None,
        None if *version == Version::HTTP_11 => exchange.host.clone(),
        Some(authority) if *version == Version::HTTP_2 && !exchange.had.any(census::HOST) => {
            connection.known_host(authority.as_str().as_bytes())
        }
        _ => None,
    };
    if let Some(known) = known {
        return Ok(known);
    }
    let authority = uri::authority(*version, method, uri, headers).map_err(malformed)?;
    let host = Rc::new(Host::keep(&authority).map_err(malformed)?);
    connection.know_host(&host);
    Ok(host)
}

/// Brings the path into the one form in which it is matched and forwarded.
fn normalise(exchange: &mut Exchange) -> Result<(), ProxyError> {
    let uri = &exchange.parts.uri;
    // Asterisk form is for the server as a whole, which only `OPTIONS` asks about (RFC 9112 §3.2.4).
    if uri.path() == "*" && exchange.parts.method == Method::OPTIONS {
        return Ok(());
    }
    if let Cow::Owned(path) = route::normalise(uri.path()).map_err(malformed)? {
        let normal = with_path(uri, &path).map_err(malformed)?;
        exchange.written = Some(std::mem::replace(&mut exchange.parts.uri, normal));
    }
    Ok(())
}

/// Holds a request over HTTP/2 to the listener's bounds; the parser of HTTP/1 does it by itself.
fn check_size(exchange: &Exchange) -> Result<(), ProxyError> {
    let parts = &exchange.parts;
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

/// The route of a request, which the exchange keeps, and the upstream that it goes to.
pub(super) fn resolve(exchange: &mut Exchange) -> Result<LocalUpstream, ProxyError> {
    let view = exchange.view().clone();
    let (index, upstream) = find(exchange, &view)?;
    exchange.know_route(index);
    let Some(upstream) = view.upstream(upstream) else {
        // Validation refuses routes to nowhere.
        return Err(ProxyError::new(Reason::Internal).because("route without upstream"));
    };
    exchange.know_upstream(upstream);
    Ok(upstream.clone())
}

/// The route and its upstream, by their positions in the snapshot.
fn find(exchange: &Exchange, view: &View) -> Result<(usize, usize), ProxyError> {
    let request = exchange.as_seen();
    let snapshot = view.snapshot();
    let connection = exchange.connection();
    let table = snapshot.tables.get(connection.listener.index);
    let index = table.and_then(|table| table.resolve(&request)).map(route::RouteIndex::get);
    let Some((index, route)) = index.and_then(|i| Some((i, snapshot.routes.get(i)?))) else {
        let what = format!("{} {}{}", request.method, request.host, request.path);
        return Err(ProxyError::new(Reason::NoRoute).because(what));
    };
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
    Ok((index, upstream))
}
