//! The handles of one listener, route or upstream, and what counting through them means.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::{Method, StatusCode};

use super::{
    cells::{Counter, Gauge, Histogram, Share, UpDown},
    labels::{
        BreakerChange, BreakerState, ConnectionEnd, ConnectionRefusal, EjectionCause, EndpointState,
        HealthResult, Label, LimitDecision, Outcome, PerLabel, PoolState, RetryOutcome, StatusTable,
        SwitchMode, WaitCause,
    },
    names,
    registry::Registry,
};
use crate::{config::Name, error::Reason};

/// The label value of resources beyond the limit of series. No [`Name`] can be it.
pub(super) const OTHER: &str = "_other";

/// The handles of a listener.
#[derive(Debug)]
pub struct ListenerMetrics {
    /// Time spent in Weir itself.
    pub overhead: Histogram,
    /// Requests whose exchange has not ended.
    pub in_flight: UpDown,
    /// Bytes of request bodies.
    pub request_bytes: Counter,
    /// Bytes of answer bodies.
    pub response_bytes: Counter,
    /// Open connections.
    pub connections: UpDown,
    /// Accepted connections.
    pub connections_total: Counter,
    /// Errors of accept(2).
    pub accept_errors: Counter,
    /// Connections closed before their first request.
    pub refused: PerLabel<ConnectionRefusal, Counter>,
    /// Connections that Weir ended because of what the client did.
    pub ended: PerLabel<ConnectionEnd, Counter>,
    /// Requests that no route had matched; their label is empty.
    pub unrouted: RouteMetrics,
    /// Answers that Weir made where no route had matched; shared by all listeners.
    pub made: Arc<PerLabel<Reason, Counter>>,
}

impl ListenerMetrics {
    pub(super) fn new(
        registry: &Arc<Registry>,
        overflow: &Counter,
        name: &Name,
        made: &Arc<PerLabel<Reason, Counter>>,
    ) -> Self {
        let labels = &[name.as_str()];
        Self {
            overhead: registry.resolve(&names::OVERHEAD, labels),
            in_flight: registry.resolve(&names::REQUESTS_IN_FLIGHT, labels),
            request_bytes: registry.resolve(&names::REQUEST_BYTES, labels),
            response_bytes: registry.resolve(&names::RESPONSE_BYTES, labels),
            connections: registry.resolve(&names::CONNECTIONS, labels),
            connections_total: registry.resolve(&names::CONNECTIONS_TOTAL, labels),
            accept_errors: registry.resolve(&names::ACCEPT_ERRORS, labels),
            refused: PerLabel::new(|why| {
                registry.resolve(&names::CONNECTIONS_REFUSED, &[name.as_str(), why])
            }),
            ended: PerLabel::new(|why| registry.resolve(&names::CONNECTIONS_ENDED, &[name.as_str(), why])),
            unrouted: RouteMetrics::new(registry, overflow, name, ""),
            made: made.clone(),
        }
    }
}

/// The handles of a route on a listener.
pub struct RouteMetrics {
    /// Time from the request's headers to the last byte of the answer.
    pub duration: Histogram,
    requests: StatusTable<Counter>,
    made: PerLabel<Reason, OnceLock<Counter>>,
    listener: Name,
    route: Box<str>,
    registry: Arc<Registry>,
    overflow: Counter,
}

impl fmt::Debug for RouteMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteMetrics")
            .field("listener", &self.listener)
            .field("route", &self.route)
            .finish_non_exhaustive()
    }
}

impl RouteMetrics {
    pub(super) fn new(registry: &Arc<Registry>, overflow: &Counter, listener: &Name, route: &str) -> Self {
        Self {
            duration: registry.resolve(&names::REQUEST_DURATION, &[listener.as_str(), route]),
            requests: StatusTable::default(),
            made: PerLabel::new(|_| OnceLock::new()),
            listener: listener.clone(),
            route: route.into(),
            registry: registry.clone(),
            overflow: overflow.clone(),
        }
    }

    pub(super) fn lines() -> usize {
        names::REQUEST_DURATION.spec.lines()
    }

    /// Counts a request that ended: its answer, and how long it took to the answer's last byte.
    ///
    /// The first request with a method and status takes the registry's lock to make the series.
    pub fn finished(&self, method: &Method, status: StatusCode, took: Duration) {
        self.duration.record(took);
        let counter = self.requests.get_or_make(method, status, |method, code| {
            let own = &[self.listener.as_str(), &self.route, method, code];
            self.registry.bounded(&names::REQUESTS_TOTAL, own).unwrap_or_else(|| {
                self.overflow.increment(1);
                let class = class_of(status);
                self.registry
                    .resolve(&names::REQUESTS_TOTAL, &[self.listener.as_str(), OTHER, "other", class])
            })
        });
        if let Some(counter) = counter {
            counter.increment(1);
        }
    }

    /// Counts an answer that Weir made on this route.
    ///
    /// The first one for a reason takes the registry's lock to make the series.
    pub fn made(&self, reason: Reason) {
        let counter = self.made.of(reason).get_or_init(|| {
            let reason = reason.as_str();
            self.registry.bounded(&names::RESPONSES_MADE, &[&self.route, reason]).unwrap_or_else(|| {
                self.overflow.increment(1);
                self.registry.resolve(&names::RESPONSES_MADE, &[OTHER, reason])
            })
        });
        counter.increment(1);
    }
}

/// The label of a status whose own series does not fit: at most six of them for each listener.
fn class_of(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => "other",
    }
}

/// The handles of a breaker.
#[derive(Debug)]
pub struct BreakerMetrics {
    /// 1 for the state that it is in.
    pub state: PerLabel<BreakerState, Gauge>,
    /// How often it changed, by what to.
    pub transitions: PerLabel<BreakerChange, Counter>,
}

impl BreakerMetrics {
    pub(super) fn new(registry: &Registry, upstream: &str, route: &str) -> Self {
        Self {
            state: PerLabel::new(|state| registry.resolve(&names::BREAKER_STATE, &[upstream, route, state])),
            transitions: PerLabel::new(|to| {
                registry.resolve(&names::BREAKER_TRANSITIONS, &[upstream, route, to])
            }),
        }
    }

    /// Shows the state that it is in.
    pub fn show(&self, state: BreakerState) {
        for other in BreakerState::ALL {
            self.state.of(*other).set(f64::from(u8::from(*other == state)));
        }
    }

    pub(super) fn lines() -> usize {
        BreakerState::ALL.len() + BreakerChange::ALL.len()
    }
}

/// The handles of an upstream.
#[derive(Debug)]
pub struct UpstreamMetrics {
    /// Time from sending an attempt to the first byte of its answer.
    pub duration: Histogram,
    /// Attempts by how they ended.
    pub attempts: PerLabel<Outcome, Counter>,
    /// Attempts after the first, by whether they brought an answer.
    pub retries: PerLabel<RetryOutcome, Counter>,
    /// Endpoints by state; set by the control thread.
    pub endpoints: PerLabel<EndpointState, Share>,
    /// Active health checks by how they ended.
    pub checks: PerLabel<HealthResult, Counter>,
    /// Connections by state.
    pub pool: PerLabel<PoolState, UpDown>,
    /// Its own breaker.
    pub breaker: BreakerMetrics,
    /// Endpoints that were ejected, by cause.
    pub ejections: PerLabel<EjectionCause, Counter>,
}

impl UpstreamMetrics {
    pub(super) fn new(registry: &Registry, name: &str) -> Self {
        Self {
            duration: registry.resolve(&names::UPSTREAM_DURATION, &[name]),
            attempts: PerLabel::new(|outcome| registry.resolve(&names::ATTEMPTS, &[name, outcome])),
            retries: PerLabel::new(|outcome| registry.resolve(&names::RETRIES, &[name, outcome])),
            endpoints: PerLabel::new(|state| Share::new(registry.resolve(&names::ENDPOINTS, &[name, state]))),
            checks: PerLabel::new(|result| registry.resolve(&names::HEALTH_CHECKS, &[name, result])),
            pool: PerLabel::new(|state| registry.resolve(&names::POOL_CONNECTIONS, &[name, state])),
            breaker: BreakerMetrics::new(registry, name, ""),
            ejections: PerLabel::new(|cause| registry.resolve(&names::EJECTIONS, &[name, cause])),
        }
    }

    pub(super) fn lines() -> usize {
        names::UPSTREAM_DURATION.spec.lines()
            + Outcome::ALL.len()
            + RetryOutcome::ALL.len()
            + EndpointState::ALL.len()
            + HealthResult::ALL.len()
            + PoolState::ALL.len()
            + BreakerMetrics::lines()
            + EjectionCause::ALL.len()
    }
}

/// Counts for one resource, also where its series is merged with others': what is decided by the count must not depend on
/// how many series there are.
#[derive(Debug)]
pub struct Tally {
    own: Counter,
    /// The series that it is merged into; `None` = it has one of its own.
    merged: Option<Counter>,
}

impl Tally {
    fn new(registry: &Registry, series: Counter, name: &str) -> Self {
        if name == OTHER {
            return Self { own: registry.unlisted(), merged: Some(series) };
        }
        Self { own: series, merged: None }
    }

    /// Adds `by`.
    pub fn increment(&self, by: u64) {
        self.own.increment(by);
        if let Some(merged) = &self.merged {
            merged.increment(by);
        }
    }

    /// What was counted of this resource.
    pub fn value(&self) -> u64 {
        self.own.value()
    }
}

/// The handles of a limit.
#[derive(Debug)]
pub struct LimitMetrics {
    /// Requests by what was decided.
    pub decisions: PerLabel<LimitDecision, Tally>,
    /// Requests that had to wait, by what for.
    pub waits: PerLabel<WaitCause, Counter>,
    /// Requests decided on by the even share because Redis was away.
    pub fallbacks: Counter,
    /// Whether that is so now.
    pub fallback: Gauge,
    /// What it grants a second.
    pub rate: Gauge,
    /// Keys that it remembers.
    pub keys: Gauge,
    /// Keys that it forgot too early.
    pub evictions: Gauge,
}

impl LimitMetrics {
    pub(super) fn new(registry: &Registry, name: &str) -> Self {
        Self {
            decisions: PerLabel::new(|decision| {
                let series = registry.resolve(&names::LIMIT_DECISIONS, &[name, decision]);
                Tally::new(registry, series, name)
            }),
            waits: PerLabel::new(|cause| registry.resolve(&names::LIMIT_WAITS, &[name, cause])),
            fallbacks: registry.resolve(&names::LIMIT_FALLBACKS, &[name]),
            fallback: registry.resolve(&names::LIMIT_FALLBACK, &[name]),
            rate: registry.resolve(&names::LIMIT_RATE, &[name]),
            keys: registry.resolve(&names::LIMIT_KEYS, &[name]),
            evictions: registry.resolve(&names::LIMIT_EVICTIONS, &[name]),
        }
    }

    pub(super) fn lines() -> usize {
        LimitDecision::ALL.len() + WaitCause::ALL.len() + 5
    }
}

/// The handles of a switch.
#[derive(Debug)]
pub struct SwitchMetrics {
    /// The share of requests that it acts on.
    pub state: Gauge,
    /// Requests that it acted on.
    pub hits: PerLabel<SwitchMode, Tally>,
}

impl SwitchMetrics {
    pub(super) fn new(registry: &Registry, name: &str) -> Self {
        Self {
            state: registry.resolve(&names::SWITCH_STATE, &[name]),
            hits: PerLabel::new(|mode| {
                Tally::new(registry, registry.resolve(&names::SWITCH_HITS, &[name, mode]), name)
            }),
        }
    }

    pub(super) fn lines() -> usize {
        SwitchMode::ALL.len() + 1
    }
}

/// The handles of a plan.
#[derive(Debug)]
pub struct PlanMetrics {
    /// 1 while it is on.
    pub state: Gauge,
}

impl PlanMetrics {
    pub(super) fn new(registry: &Registry, name: &str) -> Self {
        Self { state: registry.resolve(&names::PLAN_STATE, &[name]) }
    }

    pub(super) fn lines() -> usize {
        1
    }
}

/// What happens to a resource's gauges when it has left the policy.
pub(super) trait Release {
    /// Puts to 0 what nobody will set again.
    fn release(&self) {}
}

impl Release for ListenerMetrics {}
impl Release for RouteMetrics {}
impl Release for BreakerMetrics {
    fn release(&self) {
        for state in BreakerState::ALL {
            self.state.of(*state).set(0.0);
        }
    }
}
impl Release for UpstreamMetrics {
    fn release(&self) {
        for state in EndpointState::ALL {
            self.endpoints.of(*state).set(0);
        }
        self.breaker.release();
    }
}
impl Release for LimitMetrics {
    fn release(&self) {
        for gauge in [&self.fallback, &self.rate, &self.keys] {
            gauge.set(0.0);
        }
    }
}
impl Release for SwitchMetrics {
    fn release(&self) {
        self.state.set(0.0);
    }
}
impl Release for PlanMetrics {
    fn release(&self) {
        self.state.set(0.0);
    }
}
