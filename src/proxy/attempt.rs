//! Sending a request: pick, connect, send, and once more where that is safe.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ::http::{Method, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::{exchange::Exchange, limits::TimeLimits, outgoing::Outgoing, tunnel::Tunnel};
use crate::{
    config::policy,
    error::{ProxyError, Reason},
    http::{body::UploadFault, framing, http2, interim, upgrade},
    listener::ConnState,
    snapshot::{Candidate, Upstream},
    telemetry::Outcome,
    upstream::{CheckoutError, ConnectError, Failure, Lane, Lease},
};

/// How long a client that asked to be asked for its body waits for the endpoint to do so. RFC 9110 §10.1.1 lets a
/// client send without it; an endpoint that knows nothing of it must not hang the exchange.
const EXPECT_PATIENCE: Duration = Duration::from_secs(1);

/// How often a request is sent again because a connection that was used before turned out to be dead.
const REPLAYS: usize = 1;

/// An endpoint's answer, its body still to come.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(super) response: Response<Incoming>,
    pub(super) lease: Lease,
    pub(super) limits: TimeLimits,
    /// Both sides switch protocols.
    pub(super) tunnel: Option<Tunnel>,
    /// Its client waits to be asked for the body, and the answer came first. Dropped, it ends the wait in vain.
    pub(super) unasked: Option<oneshot::Sender<()>>,
}

/// Sends the request to an endpoint of `upstream` and waits for the head of its answer.
pub(super) async fn send(
    exchange: &mut Exchange,
    upstream: &Arc<Upstream>,
    mut outgoing: Outgoing,
    limits: &TimeLimits,
) -> Result<Answer, ProxyError> {
    let mut picked = None;
    loop {
        // A replay stays where it was: the connection was at fault, not the endpoint.
        let candidate = match picked {
            Some(candidate) => candidate,
            None => *picked.insert(pick(exchange, upstream)?),
        };
        let fresh = exchange.attempts() > 0;
        exchange.attempt_begins(&candidate.endpoint);
        let lane = lane(exchange, upstream, candidate, &outgoing);
        let mut lease = match lane.checkout(fresh).await {
            Ok(lease) => lease,
            Err(error) => return Err(not_connected(exchange, upstream, &error)),
        };
        exchange.attempt_has_connection(lease.reused());
        let may_replay = lease.reused() && exchange.attempts() <= REPLAYS;
        let mut gate = Gate::new(exchange, &outgoing);
        match send_once(exchange, &mut outgoing, &lane, &mut lease, may_replay, &mut gate).await? {
            Ok(response) => {
                let unasked = gate.and_then(|gate| gate.take());
                let answer = answer(exchange, outgoing, response, lease, limits, upstream)?;
                return Ok(Answer { unasked, ..answer });
            }
            Err(failure) => {
                let upload = exchange.flow().fault();
                // What the client did with its body says nothing of the endpoint.
                exchange.attempt_ends(if upload.is_some() { Outcome::Cancelled } else { Outcome::Reset });
                let replay = upload.is_none()
                    && match &failure {
                        Failure::NotSent(..) => may_replay,
                        Failure::MaybeSent(_) => {
                            may_replay && outgoing.repeatable() && failure.connection_died()
                        }
                    };
                if !replay {
                    return Err(not_answered(exchange, upstream, &failure));
                }
                if let Failure::NotSent(request, _) = failure {
                    outgoing.take_back(*request);
                }
            }
        }
    }
}

fn pick<'a>(exchange: &Exchange, upstream: &'a Upstream) -> Result<&'a Candidate, ProxyError> {
    let candidates = &upstream.candidates;
    let load = |i: usize| candidates.get(i).map_or(u32::MAX, |candidate| candidate.endpoint.in_flight());
    let picked = exchange.connection().worker.rng(|rng| upstream.balancer.pick(rng, load, |_| false));
    picked
        .and_then(|i| candidates.get(i))
        .ok_or_else(|| ProxyError::new(Reason::NoHealthyEndpoint).by(upstream.name()))
}

fn lane(
    exchange: &Exchange,
    upstream: &Upstream,
    candidate: &Candidate,
    outgoing: &Outgoing,
) -> std::rc::Rc<Lane> {
    let worker = &exchange.connection().worker;
    exchange.view().lane(&worker.pools, upstream, candidate, outgoing.want())
}

/// Sends the request on `lease`. The outer error is Weir's own; the inner one is the connection's.
async fn send_once(
    exchange: &Exchange,
    outgoing: &mut Outgoing,
    lane: &Lane,
    lease: &mut Lease,
    may_replay: bool,
    gate: &mut Option<Gate>,
) -> Result<Result<Response<Incoming>, Failure>, ProxyError> {
    let keep = may_replay && outgoing.repeatable();
    let asked = gate.as_mut().and_then(|gate| gate.asked.take());
    let mut request = outgoing.request(exchange.attempts(), lease.is_http2(), lane.secure(), keep, asked)?;
    let connection = exchange.connection();
    if connection.interim_allowed() {
        pass_on_interim(&mut request, connection.state.clone(), gate.as_ref().map(Gate::opener));
    }
    Ok(lease.send(request).await)
}

/// Holds back the body of a request whose client waits to be asked for it.
struct Gate {
    ask: Opener,
    asked: Option<oneshot::Receiver<()>>,
}

type Opener = Arc<Mutex<Option<oneshot::Sender<()>>>>;

impl Gate {
    fn new(exchange: &Exchange, outgoing: &Outgoing) -> Option<Self> {
        if !outgoing.expects() || !exchange.connection().interim_allowed() {
            return None;
        }
        let (ask, asked) = oneshot::channel();
        let ask = Arc::new(Mutex::new(Some(ask)));
        let patient = ask.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(EXPECT_PATIENCE).await;
            open(&patient);
        });
        Some(Self { ask, asked: Some(asked) })
    }

    fn opener(&self) -> Opener {
        self.ask.clone()
    }

    /// Takes the key away: nothing opens the gate any more. `None` when it is open.
    fn take(&self) -> Option<oneshot::Sender<()>> {
        self.ask.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn open(gate: &Mutex<Option<oneshot::Sender<()>>>) {
    if let Some(ask) = gate.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // The attempt may be over.
        let _ = ask.send(());
    }
}

/// Passes interim answers on to the client as they come, and lets the body flow when the endpoint asks for it.
fn pass_on_interim<B>(request: &mut ::http::Request<B>, client: Arc<ConnState>, gate: Option<Opener>) {
    hyper::ext::on_informational(request, move |response| {
        if response.status() != StatusCode::CONTINUE {
            client.send_interim(&interim::encode(response.status(), response.headers()));
        } else if let Some(gate) = &gate {
            // hyper asks the client when it is asked for the body, so this opens the gate and sends nothing.
            open(gate);
        }
    });
}

/// Looks at the head of an answer before anything of it is passed on.
fn answer(
    exchange: &mut Exchange,
    outgoing: Outgoing,
    mut response: Response<Incoming>,
    lease: Lease,
    limits: &TimeLimits,
    upstream: &Upstream,
) -> Result<Answer, ProxyError> {
    let broken = |exchange: &mut Exchange, what: &dyn std::fmt::Display| {
        exchange.attempt_ends(Outcome::ProtocolError);
        ProxyError::new(Reason::UpstreamProtocol).by(upstream.name()).because(what)
    };
    if let Err(error) = framing::check(response.version(), response.headers()) {
        return Err(broken(exchange, &error));
    }
    if let Err(error) = check_head(&response, &upstream.config) {
        return Err(broken(exchange, &error));
    }
    let asked = outgoing.upgrade.as_ref().map(|(protocol, _)| protocol);
    let accepted = match upgrade::accepted(asked, response.status(), response.headers()) {
        Ok(accepted) => accepted,
        Err(error) => return Err(broken(exchange, &error)),
    };
    exchange.answered(response.status(), response.headers());
    if exchange.method() == Method::CONNECT && accepted.is_none() && response.status().is_success() {
        // To its client any 2xx would say that the tunnel is there (RFC 9110 §9.3.6).
        let what = "the endpoint does not switch protocols";
        return Err(ProxyError::new(Reason::UpstreamProtocol).by(upstream.name()).because(what));
    }
    let tunnel = accepted.and_then(|protocol| {
        let (_, client) = outgoing.upgrade?;
        Some(Tunnel { protocol, client, endpoint: hyper::upgrade::on(&mut response) })
    });
    Ok(Answer { response, lease, limits: limits.clone(), tunnel, unasked: None })
}

/// Holds the head of an answer to the upstream's bounds. h2 does part of it by itself.
fn check_head(response: &Response<Incoming>, config: &policy::Upstream) -> Result<(), &'static str> {
    let headers = response.headers();
    if headers.len() > config.max_headers || framing::size_of(headers) > config.max_header_bytes {
        return Err("the head is larger than max_headers or max_header_bytes");
    }
    if response.version() == Version::HTTP_2 && http2::check_fields(headers).is_err() {
        return Err("a field's value begins or ends with white space");
    }
    Ok(())
}

fn not_connected(exchange: &mut Exchange, upstream: &Upstream, error: &CheckoutError) -> ProxyError {
    let (outcome, reason) = match error {
        CheckoutError::Full => (Outcome::PoolFull, Reason::PoolFull),
        CheckoutError::Connect(error) => match error {
            ConnectError::Dns(_) => (Outcome::ConnectError, Reason::DnsError),
            ConnectError::DnsTimeout => (Outcome::ConnectError, Reason::DnsTimeout),
            ConnectError::Refused(_) => (Outcome::ConnectError, Reason::ConnectRefused),
            ConnectError::Timeout => (Outcome::ConnectError, Reason::ConnectTimeout),
            ConnectError::Tls(_) => (Outcome::TlsError, Reason::UpstreamTls),
            ConnectError::Handshake(_) => (Outcome::ConnectError, Reason::UpstreamReset),
        },
    };
    exchange.attempt_ends(outcome);
    let made = ProxyError::new(reason).by(upstream.name());
    match error {
        CheckoutError::Full => made,
        CheckoutError::Connect(error) => made.because(error),
    }
}

fn not_answered(exchange: &Exchange, upstream: &Upstream, failure: &Failure) -> ProxyError {
    let (Failure::NotSent(_, error) | Failure::MaybeSent(error)) = failure;
    let reason = match exchange.flow().fault() {
        Some(UploadFault::TooLarge) => Reason::BodyTooLarge,
        Some(UploadFault::ClientGone) => Reason::Malformed,
        None if error.is_parse() || is_malformed(error) => Reason::UpstreamProtocol,
        None => Reason::UpstreamReset,
    };
    ProxyError::new(reason).by(upstream.name()).because(cause_of(error))
}

/// Whether h2 refused the answer.
fn is_malformed(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    source.is_some_and(h2::Error::is_library)
}

/// An error with its causes, for the log.
fn cause_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
