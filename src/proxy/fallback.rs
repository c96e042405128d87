//! What a request gets when its upstream cannot answer it.

use std::rc::Rc;

use ::http::Method;

use super::{
    attempt::{self, Answer},
    exchange::Exchange,
    outgoing::Outgoing,
};
use crate::{
    config::policy::Respond,
    error::{ProxyError, Reason},
    snapshot::{Fallback, LocalUpstream, View},
};

/// Sends the request to `upstream`, and where that cannot answer, to the upstream that it falls back to, and so on: each
/// with its own breaker. There are no circles.
pub(super) async fn send(
    exchange: &mut Exchange,
    upstream: &LocalUpstream,
    outgoing: &mut Outgoing,
) -> Result<Answer, ProxyError> {
    let mut other = None;
    let mut fallbacks = 0;
    // One call for all of them: it is large, and is to become a part of this function.
    loop {
        let error = match attempt::send(exchange, other.as_ref().unwrap_or(upstream), outgoing).await {
            Err(error) => error,
            answered => return answered,
        };
        // Validation refuses circles; this makes sure of it.
        other = if fallbacks < LONGEST_CHAIN { next(exchange, outgoing, &error) } else { None };
        let Some(next) = &other else { return Err(error) };
        exchange.falls_back(next);
        fallbacks += 1;
    }
}

/// No request goes through more upstreams than this.
const LONGEST_CHAIN: usize = 16;

/// The upstream to try after the one that could not answer.
fn next(exchange: &Exchange, outgoing: &Outgoing, error: &ProxyError) -> Option<LocalUpstream> {
    if !qualifies(error.reason) || !(outgoing.repeatable(exchange) || exchange.nothing_was_sent()) {
        return None;
    }
    let view: &Rc<View> = exchange.view();
    match of(exchange)? {
        Fallback::Upstream(index) => view.upstream(*index).cloned(),
        Fallback::Respond(_) => None,
    }
}

/// Whether there is an upstream to try after the one that the request goes to.
pub(super) fn leads_on(exchange: &Exchange) -> bool {
    matches!(of(exchange), Some(Fallback::Upstream(_)))
}

/// The answer that stands in for the one that `error` took away, where there is one. gRPC has no use for it: its callers
/// get the error. So do those who asked for a tunnel: to them any 2xx would say that it is there (RFC 9110 §9.3.6).
pub(super) fn answer(exchange: &Exchange, error: &ProxyError) -> Option<Respond> {
    if exchange.is_grpc() || exchange.method() == Method::CONNECT || !qualifies(error.reason) {
        return None;
    }
    match of(exchange)? {
        Fallback::Respond(respond) => Some(respond.clone()),
        Fallback::Upstream(_) => None,
    }
}

/// The fallback of the upstream that the request went to last; the route's own is for the first.
fn of(exchange: &Exchange) -> Option<&Fallback> {
    let upstream = exchange.upstream.as_ref()?;
    if upstream.bypassed() {
        return None;
    }
    let route = exchange.route().filter(|_| !exchange.fell_back).and_then(|route| route.fallback.as_ref());
    route.or(upstream.fallback.as_ref())
}

/// Whether an upstream that ended a request for this reason could not answer it. What the client did, or a deadline of its
/// own, is no reason; neither is an answer, whatever it says.
fn qualifies(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::BreakerOpen
            | Reason::NoHealthyEndpoint
            | Reason::DnsError
            | Reason::DnsTimeout
            | Reason::ConnectRefused
            | Reason::ConnectTimeout
            | Reason::UpstreamReset
            | Reason::UpstreamTimeout
            | Reason::UpstreamProtocol
            | Reason::UpstreamTls
            | Reason::PoolFull
    )
}
