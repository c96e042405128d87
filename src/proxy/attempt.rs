//! Sending a request: pick, connect, send, and once more where that is safe.

use std::{
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ::http::{HeaderMap, Method, Response, StatusCode, Version, response::Parts};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use tokio::sync::oneshot;

use super::{
    answer::StreamingBody,
    exchange::Exchange,
    fallback,
    judge::Stake,
    outgoing::Outgoing,
    tunnel::{Far, Tunnel},
};
use crate::{
    config::policy,
    error::{ProxyError, Reason},
    http::{body::UploadFault, census::Census, framing, http2, interim, upgrade, wire},
    listener::Connection,
    policy::Stamp,
    snapshot::{LocalUpstream, Picked, Upstream},
    telemetry::Outcome,
    upstream::{CheckoutError, ConnectError, Failure, Lease, Listen},
};

/// How long a client that asked to be asked for its body waits for the endpoint to do so. RFC 9110 §10.1.1 lets a
/// client send without it; an endpoint that knows nothing of it must not hang the exchange.
const EXPECT_PATIENCE: Duration = Duration::from_secs(1);

/// How often a request is sent again because a connection that was used before turned out to be dead.
const REPLAYS: usize = 1;

/// An endpoint's answer, its body still to come.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(super) head: Parts,
    /// The fields that it came with.
    pub(super) has: Census,
    pub(super) body: Box<StreamingBody>,
    /// Both sides switch protocols.
    pub(super) tunnel: Option<Box<Tunnel>>,
}

/// Sends the request to an endpoint of `upstream` and waits for the head of its answer.
pub(super) async fn send(
    exchange: &mut Exchange,
    upstream: &LocalUpstream,
    outgoing: &mut Outgoing,
) -> Result<Answer, ProxyError> {
    let mut begun = Instant::now();
    let mut now = Stamp::of(begun);
    let permit = exchange.admit(upstream, now)?;
    let Some(Picked { index, stake }) = pick(exchange, upstream, now) else {
        if let Some(permit) = permit {
            exchange.give_back(upstream, permit, now);
        }
        return Err(ProxyError::new(Reason::NoHealthyEndpoint).by(upstream.name()));
    };
    let mut stake = Some(Stake { permit, endpoint: stake });
    let mut replays = 0;
    // By an attempt at the upstream that falls back to this one.
    let sent_before = !exchange.nothing_was_sent();
    loop {
        exchange.attempt_begins(upstream, index, stake.take(), (begun, now));
        let pools = &exchange.connection().worker.pools;
        let Some(lane) = upstream.lane(pools, index, outgoing.want(exchange)) else {
            return Err(ProxyError::new(Reason::NoHealthyEndpoint).by(upstream.name()));
        };
        // A replay stays where it was: the connection was at fault, not the endpoint.
        let mut lease = match lane.checkout(begun, replays > 0).await {
            Ok(lease) => lease,
            Err(error) => return Err(not_connected(exchange, upstream, &error)),
        };
        exchange.attempt_has_connection(lease.reused());
        exchange.was_sent(true);
        let may_replay = lease.reused() && replays < REPLAYS;
        let mut gate = Gate::new(exchange, outgoing);
        if outgoing.upgrade.is_some() && !lease.takes_upgrades() {
            return Err(no_upgrades(exchange, upstream, lease, sent_before));
        }
        let asked = gate.as_mut().and_then(|gate| gate.asked.take());
        let sent = if lease.is_http2() {
            let keep = may_replay && outgoing.repeatable(exchange) || fallback::leads_on(exchange);
            let request = outgoing.request(exchange, lane.secure(), keep, asked)?;
            lease.send_http2(request).await.map(Came::by_http2)
        } else {
            let body = outgoing.body(asked);
            outgoing.head(exchange).with(|head| lease.begin_http1(head, body));
            let connection = exchange.connection().clone();
            let hears = Hears { connection, gate: gate.as_ref().map(|gate| gate.ask.clone()) };
            lease.answer_http1(&hears).await.map(Came::by_http1)
        };
        match sent {
            Ok(came) => {
                let mut answer = answer(exchange, outgoing, came, lease, upstream)?;
                answer.body.hold(gate.and_then(|gate| gate.take()));
                return Ok(answer);
            }
            Err(mut failure) => {
                let upload = exchange.flow().fault();
                let replay =
                    upload.is_none() && may_replay && again(exchange, outgoing, &lease, &mut failure);
                if replay {
                    stake = exchange.take_stake();
                } else if replays == 0 && matches!(failure, Failure::NotSent(..)) {
                    exchange.was_sent(sent_before);
                }
                // What the client did with its body says nothing of the endpoint.
                exchange.attempt_ends(if upload.is_some() { Outcome::Cancelled } else { Outcome::Reset });
                if !replay {
                    return Err(not_answered(exchange, upstream, &failure));
                }
                replays += 1;
                begun = Instant::now();
                now = Stamp::of(begun);
            }
        }
    }
}

/// The head of an answer, and how its body comes.
struct Came {
    head: Parts,
    has: Census,
    /// `None` = by the lease's own connection.
    body: Option<Incoming>,
    /// The stream of an extended `CONNECT`.
    switch: Option<OnUpgrade>,
}

impl Came {
    fn by_http1(head: wire::Head) -> Self {
        Self { head: head.parts, has: head.has, body: None, switch: None }
    }

    fn by_http2(mut response: Response<Incoming>) -> Self {
        let has = Census::of(response.headers());
        let switch = response.extensions_mut().remove::<OnUpgrade>();
        let (head, body) = response.into_parts();
        Self { head, has, body: Some(body), switch }
    }
}

/// The endpoint speaks HTTP/2 alone and does not take extended `CONNECT`. Nothing is wrong with the connection, nor with the
/// endpoint, which whoever asks it for what it does not do must not be able to take out. Nothing was sent.
fn no_upgrades(exchange: &mut Exchange, upstream: &Upstream, lease: Lease, sent_before: bool) -> ProxyError {
    lease.finish(Instant::now());
    exchange.was_sent(sent_before);
    exchange.judge_nothing();
    exchange.attempt_ends(Outcome::ProtocolError);
    let what = "the endpoint's settings do not allow extended CONNECT (RFC 8441)";
    ProxyError::new(Reason::UpstreamProtocol).by(upstream.name()).because(what)
}

/// Whether a request may be sent again: not a byte of it went out, or it does no harm to have it twice and the
/// connection died under it. Brings its head back to where it was.
fn again(exchange: &mut Exchange, outgoing: &Outgoing, lease: &Lease, failure: &mut Failure) -> bool {
    match failure {
        // It has its own still, where it was to keep it.
        Failure::NotSent(Some(request), _) if exchange.parts.headers.is_empty() => {
            Outgoing::take_back(exchange, std::mem::take(request.headers_mut()));
            true
        }
        Failure::NotSent(..) => true,
        Failure::MaybeSent(_) if !outgoing.repeatable(exchange) || !failure.connection_died() => false,
        Failure::MaybeSent(_) => {
            if lease.is_http2() {
                let kept = std::mem::take(&mut exchange.parts.headers);
                Outgoing::take_back(exchange, kept);
            }
            true
        }
    }
}

/// One of the upstream's candidates.
fn pick(exchange: &Exchange, upstream: &LocalUpstream, now: Stamp) -> Option<Picked> {
    let key = || upstream.key.hash(&exchange.as_seen(), exchange.route().map(|route| &route.config.name), 0);
    exchange.connection().worker.rng(|rng| upstream.pick(|| exchange.probe_lease(), now, rng, key))
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

/// Who hears of interim answers: the client, where it understands them, and the gate before its body.
struct Hears {
    connection: Rc<Connection>,
    gate: Option<Opener>,
}

impl Listen for Hears {
    fn hear(&self, status: StatusCode, headers: &HeaderMap) {
        if status != StatusCode::CONTINUE {
            if self.connection.interim_allowed() {
                self.connection.state.send_interim(&interim::encode(status, headers));
            }
        } else if let Some(gate) = &self.gate {
            // hyper asks the client when it is asked for the body, so this opens the gate and sends nothing.
            open(gate);
        }
    }
}

/// Looks at the head of an answer before anything of it is passed on.
fn answer(
    exchange: &mut Exchange,
    outgoing: &mut Outgoing,
    came: Came,
    mut lease: Lease,
    upstream: &Upstream,
) -> Result<Answer, ProxyError> {
    let broken = |exchange: &mut Exchange, what: &dyn std::fmt::Display| {
        exchange.attempt_ends(Outcome::ProtocolError);
        ProxyError::new(Reason::UpstreamProtocol).by(upstream.name()).because(what)
    };
    let Came { mut head, has, body, switch } = came;
    let by_http2 = body.is_some();
    if by_http2 && let Err(error) = check_head(&head, has, &upstream.config) {
        return Err(broken(exchange, &*error));
    }
    let asked = outgoing.upgrade.as_ref().map(|(protocol, _)| protocol);
    let by_connect = asked.is_some() && by_http2;
    let accepted = if by_connect {
        upgrade::accepted_connect(asked, head.status)
    } else {
        upgrade::accepted(asked, head.status, &head.headers)
    };
    let accepted = match accepted {
        Ok(accepted) => accepted,
        Err(error) => return Err(broken(exchange, &error)),
    };
    exchange.answered(head.status, has, &head.headers);
    if exchange.method() == Method::CONNECT && accepted.is_none() && head.status.is_success() {
        // To its client any 2xx would say that the tunnel is there (RFC 9110 §9.3.6).
        let what = "the endpoint does not switch protocols";
        return Err(ProxyError::new(Reason::UpstreamProtocol).by(upstream.name()).because(what));
    }
    if by_connect && accepted.is_some() {
        upgrade::into_switch(&mut head.headers, outgoing.websocket_key.as_ref());
        head.status = StatusCode::SWITCHING_PROTOCOLS;
        exchange.judge_switched();
        exchange.answers(StatusCode::SWITCHING_PROTOCOLS);
    }
    let tunnel = accepted.and_then(|protocol| {
        let (_, client) = outgoing.upgrade.take()?;
        let endpoint = match switch {
            Some(stream) => Far::Stream(stream),
            None => Far::Connection(lease.take_stream()?),
        };
        Some(Box::new(Tunnel { protocol, client, endpoint }))
    });
    let body = StreamingBody::new(body, lease, head.status);
    Ok(Answer { head, has, body, tunnel })
}

/// Holds the head of an answer over HTTP/2 to the upstream's bounds, and to what HTTP/2 says of fields. One over HTTP/1
/// is held to all that where it is read.
fn check_head(
    head: &Parts,
    has: Census,
    config: &policy::Upstream,
) -> Result<(), Box<dyn std::fmt::Display>> {
    let headers = &head.headers;
    if headers.len() > config.max_headers || framing::size_of(headers) > config.max_header_bytes {
        return Err(Box::new(wire::Refusal::TooLarge));
    }
    framing::check_of(has, Version::HTTP_2, headers).map_err(|error| Box::new(error) as _)?;
    http2::check_fields(headers).map_err(|_| Box::new("a field's value begins or ends with white space") as _)
}

pub(super) fn not_connected(
    exchange: &mut Exchange,
    upstream: &Upstream,
    error: &CheckoutError,
) -> ProxyError {
    let (outcome, reason) = match error {
        CheckoutError::Full => (Outcome::PoolFull, Reason::PoolFull),
        CheckoutError::Connect(error) => match error {
            ConnectError::Dns(_) => (Outcome::ConnectError, Reason::DnsError),
            ConnectError::DnsTimeout => (Outcome::ConnectError, Reason::DnsTimeout),
            ConnectError::Refused(_) => (Outcome::ConnectError, Reason::ConnectRefused),
            // Nobody's failure.
            ConnectError::Forbidden(_) => (Outcome::Cancelled, Reason::Forbidden),
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
    let reason = match exchange.flow().fault() {
        Some(UploadFault::TooLarge) => Reason::BodyTooLarge,
        Some(UploadFault::ClientGone) => Reason::Malformed,
        None if failure.is_refusal() => Reason::UpstreamProtocol,
        None => Reason::UpstreamReset,
    };
    ProxyError::new(reason).by(upstream.name()).because(failure.cause())
}
