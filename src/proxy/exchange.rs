//! The books of one exchange: what is known of it, and what is written when it ends.

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use ::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use hyper::{
    Request,
    body::{Body as _, Incoming},
};
use smallvec::SmallVec;

use crate::{
    config::{Name, bootstrap::Direction},
    drain,
    error::{Origin, ProxyError, Reason},
    http::{
        body::Flow,
        forwarded::new_request_id,
        grpc,
        respond::{self, Asked},
        trace::TraceId,
    },
    listener::Connection,
    snapshot::{Route, Upstream, View},
    telemetry::{AccessRecord, AttemptRecord, Ended, Held, Outcome, RetryOutcome, RouteMetrics},
    upstream::Endpoint,
};

/// One exchange, from the request's headers to the last byte of its answer.
///
/// It lives in the handler while that runs, then in the answer's body or in the tunnel. Its drop is the end of
/// the exchange, however it came: the counts go down, the metrics and the access record are written.
#[derive(Debug)]
pub(crate) struct Exchange {
    connection: Rc<Connection>,
    view: Rc<View>,
    started: Instant,
    flow: Rc<Flow>,
    method: Method,
    uri: Uri,
    version: Version,
    is_grpc: bool,
    request_id: Option<HeaderValue>,
    trace_id: Option<TraceId>,
    host: HeaderValue,
    route: Option<usize>,
    upstream: Option<Arc<Upstream>>,
    attempts: SmallVec<[Attempt; 1]>,
    status: Option<StatusCode>,
    grpc_status: Option<u16>,
    made: Option<(Reason, Option<Name>, Option<String>)>,
    ended: Ended,
    /// Weir's own share of the time to the answer's head, once that is out.
    overhead: Option<Duration>,
    refused_on_purpose: bool,
    _in_flight: Held,
}

/// One attempt to have the request answered.
#[derive(Debug)]
struct Attempt {
    endpoint: Arc<Endpoint>,
    begun: Instant,
    took: Duration,
    reused: bool,
    outcome: Option<Outcome>,
}

impl Exchange {
    pub(super) fn begin(connection: Rc<Connection>, request: &Request<Incoming>) -> Self {
        let started = Instant::now();
        connection.begin(request.version() == Version::HTTP_11, !request.body().is_end_stream());
        let listener = &connection.listener;
        if !listener.served.load(Ordering::Relaxed) {
            listener.served.store(true, Ordering::Relaxed);
        }
        let in_flight = listener.metrics.in_flight.hold();
        Self {
            view: connection.worker.view(),
            started,
            flow: Flow::new(started),
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            is_grpc: grpc::is_grpc(request.headers()),
            request_id: None,
            trace_id: None,
            host: HeaderValue::from_static(""),
            route: None,
            upstream: None,
            attempts: SmallVec::new(),
            status: None,
            grpc_status: None,
            made: None,
            ended: Ended::ClientGone,
            overhead: None,
            refused_on_purpose: false,
            _in_flight: in_flight,
            connection,
        }
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
        self.version
    }

    /// The request's id; a new one when it failed before it had one.
    pub(super) fn request_id(&mut self) -> &HeaderValue {
        self.request_id.get_or_insert_with(new_request_id)
    }

    pub(super) fn know_request_id(&mut self, id: HeaderValue) {
        self.request_id = Some(id);
    }

    fn id_text(&self) -> &str {
        self.request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or("-")
    }

    pub(super) fn know_host(&mut self, host: HeaderValue) {
        self.host = host;
    }

    pub(super) fn know_trace(&mut self, trace_id: Option<TraceId>) {
        self.trace_id = trace_id;
    }

    pub(super) fn know_route(&mut self, route: usize) {
        self.route = Some(route);
    }

    pub(super) fn know_upstream(&mut self, upstream: &Arc<Upstream>) {
        self.upstream = Some(upstream.clone());
    }

    /// The route that it matched.
    pub(super) fn route(&self) -> Option<&Route> {
        self.view.snapshot().routes.get(self.route?)
    }

    fn route_metrics(&self) -> Option<&Arc<RouteMetrics>> {
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
            request_id: Some(self.request_id.get_or_insert_with(new_request_id)),
        }
    }

    /// How many attempts were begun.
    pub(super) fn attempts(&self) -> usize {
        self.attempts.len()
    }

    pub(super) fn attempt_begins(&mut self, endpoint: &Arc<Endpoint>) {
        let begun = Instant::now();
        let endpoint = endpoint.clone();
        self.attempts.push(Attempt { endpoint, begun, took: Duration::ZERO, reused: false, outcome: None });
    }

    pub(super) fn attempt_has_connection(&mut self, reused: bool) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.reused = reused;
        }
    }

    /// The attempt that runs has ended like this.
    pub(super) fn attempt_ends(&mut self, outcome: Outcome) {
        let is_replay = self.attempts.len() > 1;
        let Some(attempt) = self.attempts.last_mut() else { return };
        if attempt.outcome.is_some() {
            return;
        }
        attempt.outcome = Some(outcome);
        attempt.took = attempt.begun.elapsed();
        let failed = !matches!(outcome, Outcome::Success | Outcome::Cancelled | Outcome::PoolFull);
        if failed && !self.refused_on_purpose {
            attempt.endpoint.failed();
        }
        if let Some(upstream) = &self.upstream {
            upstream.metrics.attempts.of(outcome).increment(1);
            if is_replay {
                let result = if failed { RetryOutcome::Failure } else { RetryOutcome::Success };
                upstream.metrics.retries.of(result).increment(1);
            }
        }
    }

    /// The endpoint's answer has begun.
    pub(super) fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        // Whoever answers like this decided to: it says nothing of the endpoint.
        self.refused_on_purpose =
            headers.get(respond::X_WEIR_RETRY).is_some_and(|retry| retry.as_bytes() == b"no");
        let outcome = if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED {
            Outcome::ServerError
        } else {
            Outcome::Success
        };
        self.attempt_ends(outcome);
        if let (Some(upstream), Some(attempt)) = (&self.upstream, self.attempts.last()) {
            upstream.metrics.duration.record(attempt.took);
        }
        self.status = Some(status);
        self.know_grpc_status(headers);
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

    /// How it ends; until this is said, the client went away.
    pub(crate) fn ends(&mut self, ended: Ended) {
        self.ended = ended;
    }

    fn write_record(&self, took: Duration) {
        let telemetry = &self.connection.worker.shared.telemetry;
        let status = self.status.unwrap_or(client_closed());
        let reason = self.made.as_ref().map(|made| made.0);
        let worker = &self.connection.worker;
        let replayed = self.attempts.len() > 1;
        let now = self.started + took;
        let wanted = worker.rng(|rng| telemetry.access.wants(status, reason, self.ended, now, rng));
        if !wanted && reason.is_none() && !replayed {
            return;
        }
        let endpoints: SmallVec<[String; 2]> =
            self.attempts.iter().map(|attempt| attempt.endpoint.address().to_string()).collect();
        let attempts = self
            .attempts
            .iter()
            .zip(&endpoints)
            .map(|(attempt, endpoint)| AttemptRecord {
                endpoint: Some(endpoint),
                outcome: attempt.outcome.unwrap_or(Outcome::Cancelled),
                took: attempt.took,
                reused: attempt.reused,
            })
            .collect();
        let record = AccessRecord {
            ts: jiff::Timestamp::now()
                .checked_sub(jiff::SignedDuration::try_from(took).unwrap_or_default())
                .unwrap_or_default(),
            request_id: self.id_text(),
            trace_id: self.trace_id.as_ref().map(TraceId::as_str),
            listener: self.connection.listener.config.name.as_str(),
            client: self.connection.remote,
            method: &self.method,
            scheme: if self.connection.secure.get() { "https" } else { "http" },
            host: self.host.to_str().unwrap_or("-"),
            path: self.uri.path(),
            proto: proto(self.version),
            route: self.route().map(|route| route.config.name.as_str()),
            upstream: self.upstream.as_ref().map(|upstream| upstream.name().as_str()),
            endpoint: endpoints.last().map(String::as_str),
            status,
            grpc_status: self.grpc_status,
            reason,
            policy: self.made.as_ref().and_then(|made| made.1.as_ref()).map(Name::as_str),
            detail: self.made.as_ref().and_then(|made| made.2.as_deref()),
            attempts,
            duration: took,
            upstream_time: self.upstream_time(),
            overhead: self.overhead.unwrap_or_else(|| self.own_share(took)),
            request_bytes: self.flow.request_bytes(),
            response_bytes: self.flow.response_bytes(),
            ended: self.ended,
            revision: self.view.snapshot().generation,
        };
        if reason.is_some() || replayed {
            telemetry.recent.note(&record, now);
        }
        if wanted {
            telemetry.access.write(&record);
        }
    }

    fn upstream_time(&self) -> Option<Duration> {
        let answered =
            |attempt: &&Attempt| matches!(attempt.outcome, Some(Outcome::Success | Outcome::ServerError));
        self.attempts.last().filter(answered).map(|attempt| attempt.took)
    }

    /// Time that was Weir's own: up to the answer's headers, without the attempts.
    fn own_share(&self, until_headers: Duration) -> Duration {
        let waited: Duration = self.attempts.iter().map(|attempt| attempt.took).sum();
        until_headers.saturating_sub(waited)
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
        let took = self.started.elapsed();
        let status = self.status.unwrap_or(client_closed());
        if let Some(metrics) = self.route_metrics() {
            metrics.finished(&self.method, status, took);
        }
        let listener = &self.connection.listener.metrics;
        listener.request_bytes.increment(self.flow.request_bytes());
        listener.response_bytes.increment(self.flow.response_bytes());
        if self.ended == Ended::ClientGone && self.connection.stalled() {
            self.ended = Ended::Timeout;
        }
        self.write_record(took);
        self.connection.end(&self.flow);
    }
}

/// The status of a request whose client left before its answer, as nginx calls it; only logs and metrics see it.
fn client_closed() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}

fn proto(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}
