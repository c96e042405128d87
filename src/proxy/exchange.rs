//! The books of one exchange: what is known of it, and what is written when it ends.

use std::{
    net::IpAddr,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use ::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, request::Parts};
use hyper::{
    Request,
    body::{Body as _, Incoming},
};
use smallvec::SmallVec;

use super::{
    gate::Notices,
    judge::{Held, Stake},
    limits::TimeLimits,
};
use crate::{
    config::{Name, bootstrap::Direction},
    drain,
    error::{Origin, ProxyError, Reason},
    http::{
        body::Flow,
        census::{self, Census},
        deadline,
        forwarded::Sender,
        grpc,
        respond::{self, Asked},
        trace::TraceId,
        uri::Host,
    },
    listener::Connection,
    policy::Stamp,
    proxy::Passthrough,
    route::RequestView,
    snapshot::{LocalUpstream, Route, Upstream, View},
    telemetry::{Ended, Outcome, RetryOutcome, RouteMetrics},
    upstream::Endpoint,
};

/// One exchange, from the request's headers to the last byte of its answer.
///
/// It lives in the handler while that runs, then in the answer's body or in the tunnel. Its drop is the end of
/// the exchange, however it came: the counts go down, the metrics and the access record are written.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(super) connection: Rc<Connection>,
    pub(super) view: Rc<View>,
    pub(super) started: Instant,
    pub(super) flow: Rc<Flow>,
    /// As the client sent it.
    pub(super) method: Method,
    /// The request's head. Its path comes into normal form and its fields into that of the next hop, until they go.
    pub(super) parts: Parts,
    /// The request's body, until it goes.
    pub(super) body: Option<Incoming>,
    /// The target as the client wrote it, where the normal form of its path is another.
    pub(super) written: Option<Uri>,
    /// The fields that the request came with.
    pub(super) had: Census,
    pub(super) is_grpc: bool,
    /// Who sent it, as rules see it.
    pub(super) client: IpAddr,
    pub(super) request_id: Option<HeaderValue>,
    pub(super) trace_id: Option<TraceId>,
    pub(super) host: Option<Rc<Host>>,
    pub(super) route: Option<usize>,
    /// It passes through: no route matched it.
    pub(super) passes: Option<Arc<Passthrough>>,
    pub(super) upstream: Option<LocalUpstream>,
    pub(super) limits: TimeLimits,
    pub(super) attempts: SmallVec<[Attempt; 1]>,
    pub(super) status: Option<StatusCode>,
    pub(super) grpc_status: Option<u16>,
    pub(super) made: Option<(Reason, Option<Name>, Option<String>)>,
    pub(super) ended: Ended,
    /// When its last byte had come, where that was noted.
    pub(super) ended_at: Option<Instant>,
    /// Weir's own share of the time to the answer's head, once that is out.
    pub(super) overhead: Option<Duration>,
    pub(super) refused_on_purpose: bool,
    /// It goes to an upstream that another one falls back to.
    pub(super) fell_back: bool,
    /// A switch has written into its fields.
    pub(super) annotated: bool,
    /// Time that policy let it wait.
    pub(super) waited: Duration,
    /// What its answer says of the policy that it met.
    pub(super) notices: Option<Box<Notices>>,
    /// Something of it may have reached an endpoint.
    sent: bool,
}

/// One attempt to have the request answered.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) upstream: LocalUpstream,
    pub(super) candidate: usize,
    /// What its result counts for.
    pub(super) stake: Held,
    pub(super) begun: Instant,
    /// The same moment.
    pub(super) stamp: Stamp,
    /// To its answer's head, or to its end without one.
    pub(super) took: Duration,
    pub(super) reused: bool,
    pub(super) outcome: Option<Outcome>,
}

impl Attempt {
    /// Whom it was for.
    pub(super) fn endpoint(&self) -> Option<&Endpoint> {
        self.upstream.candidates.get(self.candidate).map(|candidate| &*candidate.endpoint)
    }

    /// When its answer's head came, or it ended without one.
    pub(super) fn ended_at(&self) -> Stamp {
        self.stamp.after(self.took)
    }
}

impl Exchange {
    /// Boxed from the start: it is large, and moves from the handler into the answer's body.
    pub(crate) fn begin(connection: Rc<Connection>, request: Request<Incoming>) -> Box<Self> {
        let started = Instant::now();
        let flow = Flow::new(started);
        let (parts, body) = request.into_parts();
        connection.begin(parts.version == Version::HTTP_11, !body.is_end_stream());
        let listener = &connection.listener;
        if !listener.served.load(Ordering::Relaxed) {
            listener.served.store(true, Ordering::Relaxed);
        }
        listener.metrics.in_flight.increment();
        if connection.is_multiplexed() {
            connection.newest(&flow);
        }
        // The connection remembers whom its last request was for: the next one nearly always names the same.
        let mut known_host = None;
        let had =
            Census::with_host(&parts.headers, |host| known_host = connection.known_host(host.as_bytes()));
        Box::new(Self {
            view: connection.worker.view(),
            started,
            flow,
            method: parts.method.clone(),
            body: Some(body),
            written: None,
            had,
            is_grpc: had.any(census::CONTENT_TYPE) && grpc::is_grpc(&parts.headers),
            client: connection.peer().address(),
            request_id: None,
            trace_id: None,
            host: known_host,
            route: None,
            passes: None,
            upstream: None,
            limits: TimeLimits::default(),
            attempts: SmallVec::new(),
            status: None,
            grpc_status: None,
            made: None,
            ended: Ended::ClientGone,
            ended_at: None,
            overhead: None,
            refused_on_purpose: false,
            fell_back: false,
            annotated: false,
            waited: Duration::ZERO,
            notices: None,
            sent: false,
            parts,
            connection,
        })
    }

    pub(super) fn connection(&self) -> &Rc<Connection> {
        &self.connection
    }

    pub(super) fn view(&self) -> &Rc<View> {
        &self.view
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    pub(super) fn flow(&self) -> &Rc<Flow> {
        &self.flow
    }

    pub(super) fn is_grpc(&self) -> bool {
        self.is_grpc
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    pub(super) fn version(&self) -> Version {
        self.parts.version
    }

    /// The target as the client wrote it.
    pub(super) fn target(&self) -> &Uri {
        self.written.as_ref().unwrap_or(&self.parts.uri)
    }

    /// The request's id; a new one when it failed before it had one.
    pub(super) fn request_id(&mut self) -> &HeaderValue {
        self.request_id.get_or_insert_with(|| self.connection.worker.request_id())
    }

    pub(super) fn know_sender(&mut self, sender: Sender) {
        self.client = sender.client;
        self.request_id = Some(sender.request_id);
    }

    pub(super) fn id_text(&self) -> &str {
        self.request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or("-")
    }

    pub(super) fn know_host(&mut self, host: Rc<Host>) {
        self.host = Some(host);
    }

    /// The request as rules see it.
    pub(super) fn as_seen(&self) -> RequestView<'_> {
        let Parts { uri, method, headers, .. } = &self.parts;
        let (host, path, query) = (self.host(), uri.path(), uri.query());
        RequestView { host, path, query, method, headers, client: self.client }
    }

    /// The host for matching; empty when the request names none.
    pub(super) fn host(&self) -> &str {
        self.host.as_ref().map_or("", |host| &host.name)
    }

    pub(super) fn know_route(&mut self, route: usize) {
        self.route = Some(route);
    }

    pub(super) fn know_upstream(&mut self, upstream: &LocalUpstream) {
        self.upstream = Some(upstream.clone());
    }

    /// The route that it matched.
    pub(super) fn route(&self) -> Option<&Route> {
        if let Some(passes) = &self.passes {
            return Some(passes.route());
        }
        self.view.snapshot().routes.get(self.route?).map(|route| &**route)
    }

    /// It passes through although no route matched it.
    pub(super) fn passes(&mut self, by: &Arc<Passthrough>) {
        self.passes = Some(by.clone());
    }

    /// The name of that route; `None` where it passes through.
    pub(super) fn route_name(&self) -> Option<&Name> {
        self.view.snapshot().routes.get(self.route?).map(|route| &route.config.name)
    }

    fn route_metrics(&self) -> Option<&Arc<RouteMetrics>> {
        if let Some(passes) = &self.passes {
            return Some(passes.route_metrics());
        }
        self.route()?.metrics.get(self.connection.listener.index)?.as_ref()
    }

    /// Whether the client should look for another connection after this answer.
    pub(super) fn connection_is_leaving(&self) -> bool {
        self.connection.listener.phase.get() >= drain::Phase::Leaving
    }

    /// What an answer that Weir makes has to know of the request.
    ///
    /// The caller's Weir is to count it and go elsewhere when it is this instance's own application that failed.
    pub(super) fn asked(&mut self, reason: Reason) -> Asked<'_> {
        let inbound = self.connection.listener.config.direction == Direction::Inbound;
        let retry_elsewhere = inbound && reason.origin() == Origin::Upstream;
        Asked {
            head: self.method == Method::HEAD,
            grpc: self.is_grpc,
            retry_elsewhere,
            request_id: Some(self.request_id()),
        }
    }

    /// How many attempts were begun.
    pub(super) fn attempts(&self) -> usize {
        self.attempts.len()
    }

    /// An attempt begins, for one of an upstream's candidates.
    pub(super) fn attempt_begins(
        &mut self,
        upstream: &LocalUpstream,
        candidate: usize,
        stake: Option<Stake>,
        (begun, stamp): (Instant, Stamp),
    ) {
        self.attempts.push(Attempt {
            upstream: upstream.clone(),
            candidate,
            stake: stake.map_or(Held::Nothing, Held::Own),
            begun,
            stamp,
            took: Duration::ZERO,
            reused: false,
            outcome: None,
        });
    }

    /// The request goes to another upstream, which the last one falls back to. What is left of its client's deadline is less
    /// by now.
    pub(super) fn falls_back(&mut self, upstream: &LocalUpstream) {
        if let Some(remaining) = self.limits.remaining() {
            deadline::write_remaining(&mut self.parts.headers, Some(remaining), self.is_grpc);
        }
        self.fell_back = true;
        self.upstream = Some(upstream.clone());
    }

    /// Whether an endpoint may have some of the request.
    pub(super) fn was_sent(&mut self, sent: bool) {
        self.sent = sent;
    }

    /// Whether no endpoint can have anything of the request.
    pub(super) fn nothing_was_sent(&self) -> bool {
        !self.sent
    }

    pub(super) fn attempt_has_connection(&mut self, reused: bool) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.reused = reused;
        }
    }

    /// The attempt that runs has ended like this.
    pub(super) fn attempt_ends(&mut self, outcome: Outcome) {
        let is_replay = match self.attempts.as_slice() {
            // Elsewhere it is the first.
            [.., before, last] => before.upstream.name() == last.upstream.name(),
            _ => false,
        };
        let Some(attempt) = self.attempts.last_mut() else { return };
        if attempt.outcome.is_some() {
            return;
        }
        attempt.outcome = Some(outcome);
        attempt.took = attempt.begun.elapsed();
        let failed = !matches!(outcome, Outcome::Success | Outcome::Cancelled | Outcome::PoolFull);
        if failed && !self.refused_on_purpose {
            attempt.endpoint().inspect(|endpoint| endpoint.failed());
        }
        if let Some(upstream) = &self.upstream {
            upstream.metrics.attempts.of(outcome).increment(1);
            if is_replay {
                let result = if failed { RetryOutcome::Failure } else { RetryOutcome::Success };
                upstream.metrics.retries.of(result).increment(1);
            }
        }
        self.judge_outcome(outcome);
    }

    /// The endpoint's answer has begun.
    pub(super) fn answered(&mut self, status: StatusCode, has: Census, headers: &HeaderMap) {
        // Whoever answers like this decided to: it says nothing of the endpoint.
        self.refused_on_purpose = has.any(census::X_WEIR_RETRY)
            && headers.get(respond::X_WEIR_RETRY).is_some_and(|retry| retry.as_bytes() == b"no");
        let outcome = if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED {
            Outcome::ServerError
        } else {
            Outcome::Success
        };
        self.attempt_ends(outcome);
        self.status = Some(status);
        if has.any(census::GRPC_STATUS) {
            self.know_grpc_status(headers);
        }
        let (Some(upstream), Some(attempt)) = (&self.upstream, self.attempts.last()) else { return };
        upstream.metrics.duration.record(attempt.took);
        if outcome == Outcome::Success {
            let now = attempt.ended_at();
            if let Some(endpoint) = attempt.endpoint() {
                endpoint.latency().sample(attempt.took, now, &upstream.terms);
            }
            self.judge_head(status == StatusCode::SWITCHING_PROTOCOLS, now);
        }
    }

    /// Reads `grpc-status`, which is in the trailers, or, where there is no body, in the headers.
    pub(super) fn know_grpc_status(&mut self, fields: &HeaderMap) {
        if self.is_grpc
            && let Some(status) = fields.get(respond::GRPC_STATUS)
        {
            self.grpc_status = status.to_str().ok().and_then(|text| text.parse().ok());
        }
    }

    /// One of the exchange's clocks has run out before the answer's headers came.
    pub(super) fn timed_out(&mut self, reason: Reason, upstream: &Upstream) -> ProxyError {
        if reason == Reason::UpstreamTimeout && self.flow.owed() {
            // The endpoint waits for the request as Weir does: it is not to blame.
            self.attempt_ends(Outcome::Cancelled);
            return ProxyError::new(Reason::BodyTimeout);
        }
        // A deadline that the client set is nobody's failure.
        let outcome = if reason == Reason::DeadlineExceeded { Outcome::Cancelled } else { Outcome::Timeout };
        self.attempt_ends(outcome);
        ProxyError::new(reason).by(upstream.name())
    }

    /// A panic was caught while the request was handled.
    pub(super) fn panicked(&mut self, message: &str) {
        self.connection.worker.shared.telemetry.metrics.panics.increment(1);
        let request_id = self.request_id().to_str().unwrap_or("-");
        tracing::error!(request_id, message, "a request was lost to a panic; please report this");
    }

    /// Weir answers by itself.
    pub(super) fn makes(&mut self, error: &ProxyError, status: StatusCode) {
        self.status = Some(status);
        self.made = Some((error.reason, error.policy.clone(), error.detail.clone()));
        self.attempt_ends(Outcome::Cancelled);
        match self.route_metrics() {
            Some(metrics) => metrics.made(error.reason),
            None => self.connection.listener.metrics.made.of(error.reason).increment(1),
        }
    }

    /// Weir answers by itself, and nothing is wrong.
    pub(super) fn answers(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// The last byte of its answer has come.
    pub(super) fn ended_at(&mut self, now: Instant) {
        self.ended_at = Some(now);
    }

    /// How it ends; until this is said, the client went away.
    pub(crate) fn ends(&mut self, ended: Ended) {
        self.ended = ended;
    }

    /// Bounds how long the client may let the answer's body stand still; `None` = for ever.
    pub(super) fn bound_stall(&self, limit: Option<Duration>) {
        if !self.connection.is_multiplexed() {
            self.connection.bound_stall(limit);
        } else if let Some(limit) = limit {
            self.connection.watch(&self.flow, limit);
        }
    }

    /// Time that was Weir's own: up to the answer's headers, without the attempts.
    pub(super) fn own_share(&self, until_headers: Duration) -> Duration {
        let waited: Duration = self.attempts.iter().map(|attempt| attempt.took).sum();
        until_headers.saturating_sub(waited + self.waited)
    }

    /// The answer's head is on its way.
    pub(super) fn head_goes_out(&mut self) {
        self.connection.answering();
        let overhead = self.own_share(self.started.elapsed());
        self.overhead = Some(overhead);
        self.connection.listener.metrics.overhead.record(overhead);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.attempt_ends(Outcome::Cancelled);
        let ended_at = self.ended_at.unwrap_or_else(Instant::now);
        let took = ended_at.saturating_duration_since(self.started);
        self.connection.listener.metrics.in_flight.decrement();
        let status = self.status.unwrap_or(client_closed());
        let listener = &self.connection.listener.metrics;
        let route = self.route_metrics().map_or(&listener.unrouted, |route| route);
        route.finished(&self.method, status, took);
        listener.request_bytes.increment(self.flow.request_bytes());
        listener.response_bytes.increment(self.flow.response_bytes());
        self.judge_end(ended_at);
        if self.ended == Ended::ClientGone && (self.connection.stalled() || self.flow.stalled()) {
            self.ended = Ended::Timeout;
        }
        self.write_record(took);
        self.connection.end(&self.flow);
    }
}

/// The status of a request whose client left before its answer, as nginx calls it; only logs and metrics see it.
pub(super) fn client_closed() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}
