//! What results count for: the breaker that let a request pass, and the endpoint that it went to.
//!
//! A result is known when the answer's head says that it is a failure, and otherwise when the exchange ends: a half answer
//! is no answer, and gRPC says in its trailers how it went. Whoever goes away earlier has said nothing.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use ::http::StatusCode;

use super::exchange::{Attempt, Exchange};
use crate::{
    config::Name,
    error::{ProxyError, Reason},
    policy::{
        Stamp, Verdict,
        breaker::{Breaker, Permit, Why},
        of_grpc, of_status,
    },
    snapshot::{EndpointStake, LocalUpstream, Route, RouteBreaker, Upstream},
    telemetry::{Ended, Outcome},
};

/// A probe whose answer has begun is good when that has gone on for so long: streams may run for hours, and somebody waits
/// for what the probe says.
const STREAM_PATIENCE: Duration = Duration::from_secs(5);

/// A probe that may take for ever is taken for lost after this.
const LONGEST_PROBE: Duration = Duration::from_secs(30);

/// What the result of an attempt counts for.
#[derive(Debug)]
pub(super) struct Stake {
    /// The breaker's; `None` = nothing is protected, and the result counts for balancing alone.
    pub(super) permit: Option<Permit>,
    pub(super) endpoint: EndpointStake,
}

impl Stake {
    fn is_probe(&self) -> bool {
        self.permit.as_ref().is_some_and(Permit::is_probe) || matches!(self.endpoint, EndpointStake::Probe(_))
    }
}

/// Where an attempt keeps its stake.
#[derive(Debug, Default)]
pub(super) enum Held {
    /// Nothing counts, or it is counted.
    #[default]
    Nothing,
    /// Until the exchange ends.
    Own(Stake),
    /// Until the exchange ends, or for so long as somebody else waits.
    Shared(Rc<RefCell<Option<Stake>>>),
}

impl Held {
    fn take(&mut self) -> Option<Stake> {
        match std::mem::take(self) {
            Self::Nothing => None,
            Self::Own(stake) => Some(stake),
            Self::Shared(stake) => stake.borrow_mut().take(),
        }
    }
}

/// The breaker of a route's use of an upstream: the route's own, where it has one.
fn breaker_of<'a>(
    route: Option<&'a Route>,
    upstream: &'a Upstream,
) -> (&'a Breaker, Option<(&'a Name, &'a RouteBreaker)>) {
    let own = route.and_then(|route| {
        let own = route.breakers.iter().find(|own| own.upstream == *upstream.name())?;
        Some((&route.config.name, own))
    });
    (own.map_or(&upstream.vitals.breaker, |(_, own)| &own.breaker), own)
}

/// See [`Exchange::probe_lease`].
fn lease_of(route: Option<&Route>) -> Duration {
    let timeout = route.and_then(|route| route.config.timeout);
    timeout.map_or(LONGEST_PROBE, |timeout| timeout + STREAM_PATIENCE + Duration::from_secs(1))
}

impl Exchange {
    /// Leave to send the request to `upstream`; `None` where nothing is protected.
    pub(super) fn admit(&self, upstream: &LocalUpstream, now: Stamp) -> Result<Option<Permit>, ProxyError> {
        if upstream.bypassed() {
            return Ok(None);
        }
        let route = self.route();
        let (breaker, own) = breaker_of(route, upstream);
        let admitted = self.connection.worker.rng(|rng| breaker.admit_within(lease_of(route), now, rng));
        let transition = admitted.as_ref().map_or_else(|refused| refused.transition, Permit::transition);
        if let Some(transition) = transition {
            upstream.breaker_changed(own, transition);
        }
        admitted.map(Some).map_err(|refused| {
            let why = match refused.why {
                Why::Open => "it is open",
                Why::Probing => "its probes are on their way",
                Why::Ramping => "it has closed a short time ago, and lets only a part pass",
                Why::Forced => "its mode is `open`",
            };
            let error = ProxyError::new(Reason::BreakerOpen).by(upstream.name()).because(why);
            error.retry_after(refused.retry_after)
        })
    }

    /// How long a probe may take: as long as the answer's head, what is waited for of its body, and a little more.
    pub(super) fn probe_lease(&self) -> Duration {
        lease_of(self.route())
    }

    /// The permit is not used.
    pub(super) fn give_back(&self, upstream: &LocalUpstream, permit: Permit, now: Stamp) {
        let (breaker, own) = breaker_of(self.route(), upstream);
        let neither = Verdict::Neither;
        let transition =
            self.connection.worker.rng(|rng| breaker.end(permit, neither, Duration::ZERO, now, rng));
        if let Some(transition) = transition {
            upstream.breaker_changed(own, transition);
        }
    }

    /// The stake of the attempt that runs, which the next one takes over: what happened says nothing.
    pub(super) fn take_stake(&mut self) -> Option<Stake> {
        self.attempts.last_mut().and_then(|attempt| attempt.stake.take())
    }

    /// The attempt that runs has this result, unless it had one before.
    pub(super) fn judge(&mut self, verdict: Verdict, now: Stamp) {
        let Some(attempt) = self.attempts.last_mut() else { return };
        let Some(stake) = attempt.stake.take() else { return };
        let Some(attempt) = self.attempts.last() else { return };
        if verdict == Verdict::Failure && attempt.outcome == Some(Outcome::Success) {
            // What followed the head was no success.
            attempt.endpoint().inspect(|endpoint| endpoint.failed());
        }
        let seen = Seen { verdict, took: attempt.took, now };
        self.connection.worker.rng(|rng| {
            count(self.route(), &attempt.upstream, attempt.candidate, stake, seen, rng);
        });
    }

    /// The attempt has ended without an answer that says more.
    pub(super) fn judge_outcome(&mut self, outcome: Outcome) {
        let verdict = match outcome {
            // The answer's head or its end says more.
            Outcome::Success => return,
            _ if self.refused_on_purpose => Verdict::Neither,
            Outcome::Cancelled | Outcome::PoolFull => Verdict::Neither,
            Outcome::ServerError
            | Outcome::ConnectError
            | Outcome::TlsError
            | Outcome::Reset
            | Outcome::Timeout
            | Outcome::ProtocolError => Verdict::Failure,
        };
        if let Some(now) = self.attempts.last().map(Attempt::ended_at) {
            self.judge(verdict, now);
        }
    }

    /// The head of an answer that is no failure has come; `switches` protocols.
    pub(super) fn judge_head(&mut self, switches: bool, now: Stamp) {
        if self.refused_on_purpose {
            self.judge(Verdict::Neither, now);
        } else if switches {
            self.judge(Verdict::Success, now);
        } else if let Some(status) = self.grpc_status.filter(|_| self.is_grpc) {
            self.judge(self.verdict_of_grpc(status), now);
        } else {
            self.wait_for_body();
        }
    }

    /// The attempt that runs says nothing, whatever becomes of it.
    pub(super) fn judge_nothing(&mut self) {
        let now = self.attempts.last().map(|attempt| attempt.stamp);
        if let Some(now) = now {
            self.judge(Verdict::Neither, now);
        }
    }

    /// By extended `CONNECT` a tunnel is there: what becomes of it says nothing of requests.
    pub(super) fn judge_switched(&mut self) {
        if let Some(now) = self.attempts.last().map(Attempt::ended_at) {
            self.judge(Verdict::Success, now);
        }
    }

    /// What a gRPC status says. That a deadline was too short which the client set is nobody's failure, whoever finds it
    /// out first.
    fn verdict_of_grpc(&self, status: u16) -> Verdict {
        const DEADLINE_EXCEEDED: u16 = 4;
        match status {
            DEADLINE_EXCEEDED if self.limits.client_is_first() => Verdict::Neither,
            _ => of_grpc(status),
        }
    }

    /// What the end of a gRPC answer says.
    fn verdict_of_stream(&self) -> Verdict {
        match (self.grpc_status, self.status) {
            (Some(status), _) => self.verdict_of_grpc(status),
            // Not by gRPC at all: that there is no such thing (404), or too much of it (429), is an answer.
            (None, Some(status)) if status != StatusCode::OK => of_status(status),
            // Without a status it is UNKNOWN (gRPC over HTTP/2, "Responses").
            (None, _) => Verdict::Failure,
        }
    }

    /// Has a probe judged when its answer has gone on for long enough, if that does not end before: half an answer is none.
    fn wait_for_body(&mut self) {
        let Some(attempt) = self.attempts.last_mut() else { return };
        if !matches!(&attempt.stake, Held::Own(stake) if stake.is_probe()) {
            return;
        }
        let (view, route) = (self.view.clone(), self.route);
        let worker = self.connection.worker.clone();
        let shared = Rc::new(RefCell::new(attempt.stake.take()));
        attempt.stake = Held::Shared(shared.clone());
        let (upstream, candidate, took) = (attempt.upstream.clone(), attempt.candidate, attempt.took);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(STREAM_PATIENCE).await;
            let Some(stake) = shared.borrow_mut().take() else { return };
            let route = route.and_then(|route| view.snapshot().routes.get(route));
            let seen = Seen { verdict: Verdict::Success, took, now: Stamp::of(Instant::now()) };
            worker.rng(|rng| {
                count(route.map(|route| &**route), &upstream, candidate, stake, seen, rng);
            });
        });
    }

    /// What the end of the exchange says, of an answer whose head was good.
    pub(super) fn judge_end(&mut self, ended_at: Instant) {
        let Some(attempt) = self.attempts.last().filter(|attempt| !matches!(attempt.stake, Held::Nothing))
        else {
            return;
        };
        let now = attempt.stamp.after(ended_at.saturating_duration_since(attempt.begun));
        let verdict = match self.ended {
            Ended::Complete if self.is_grpc => self.verdict_of_stream(),
            Ended::Timeout if self.limits.client_is_late() => Verdict::Neither,
            Ended::ClientGone if self.is_grpc => Verdict::Neither,
            // It has answered: that the client does not want any more says nothing against it.
            Ended::Complete | Ended::ClientGone => Verdict::Success,
            Ended::UpstreamReset | Ended::Timeout => Verdict::Failure,
        };
        self.judge(verdict, now);
    }
}

/// A result.
#[derive(Debug, Clone, Copy)]
struct Seen {
    verdict: Verdict,
    /// To the answer's head.
    took: Duration,
    now: Stamp,
}

fn count(
    route: Option<&Route>,
    upstream: &Upstream,
    candidate: usize,
    stake: Stake,
    Seen { verdict, took, now }: Seen,
    rng: &mut fastrand::Rng,
) {
    let (breaker, own) = breaker_of(route, upstream);
    let is_protected = stake.permit.is_some();
    if let Some(watched) = &upstream.watched {
        watched.record(verdict, took);
    }
    if let Some(transition) = stake.permit.and_then(|permit| breaker.end(permit, verdict, took, now, rng)) {
        upstream.breaker_changed(own, transition);
    }
    let Some(endpoint) = upstream.candidates.get(candidate).map(|candidate| &candidate.endpoint) else {
        return;
    };
    if verdict == Verdict::Failure {
        endpoint.latency().fail(took, now, &upstream.terms);
        endpoint.health().suspect();
    }
    if !is_protected {
        return;
    }
    let among = upstream.among();
    let change = match stake.endpoint {
        EndpointStake::Era(era) => endpoint.outlier().record(&among, era, verdict, now, rng),
        EndpointStake::Probe(probe) => {
            let change = endpoint.outlier().end_probe(probe, &among, verdict, now, rng);
            if change.is_none() {
                // Whoever comes next may be the probe.
                upstream.vitals.probe_at(now);
            }
            change
        }
    };
    if let Some(change) = change {
        upstream.endpoint_changed(candidate, change, now);
    }
}
