//! Validated settings of what keeps an upstream's failure from its callers: balancing, discovery, health checks,
//! ejection, the breaker, the fallback.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method};

use super::{
    Name,
    policy::{KeyPart, Respond},
};

/// A share in basis points (1 % = 100); 0 to 10,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Percent(u16);

impl Percent {
    /// All of it.
    pub const ALL: Self = Self(10_000);

    /// A share of so many basis points; more than all is all.
    pub const fn new(points: u16) -> Self {
        Self(if points > 10_000 { 10_000 } else { points })
    }

    /// So many hundredths.
    pub const fn whole(percent: u8) -> Self {
        Self::new(percent as u16 * 100)
    }

    /// Basis points.
    pub const fn points(self) -> u16 {
        self.0
    }

    /// As a part of 1.
    pub fn part(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }

    /// Whether `some` of `all` is at least this share; nothing of nothing is not.
    pub fn is_reached_by(self, some: u64, all: u64) -> bool {
        all > 0 && u128::from(some) * 10_000 >= u128::from(all) * u128::from(self.0)
    }
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Balancing {
    /// The way. Default `peak_ewma`.
    pub policy: BalancerPolicy,
    /// What requests that belong together have in common; for [`BalancerPolicy::RingHash`] only, and never empty there.
    pub key: Vec<KeyPart>,
    /// How much more than its share of the requests in flight an endpoint of a ring may have before the next one on
    /// the ring is taken ("Consistent Hashing with Bounded Loads", Mirrokni et al., 2016). Default 25 %.
    pub excess: Percent,
    /// How long it takes until what was measured counts for 1/e, for [`BalancerPolicy::PeakEwma`]. Default 10 s.
    pub decay: Duration,
    /// What an endpoint that has not answered yet is taken to need. Default 30 ms.
    pub first_estimate: Duration,
    /// What a failure is taken to have needed, so that failing fast does not look like being fast. Default 5 s.
    pub failure_cost: Duration,
}

impl Default for Balancing {
    fn default() -> Self {
        Self {
            policy: BalancerPolicy::default(),
            key: Vec::new(),
            excess: Percent::whole(25),
            decay: Duration::from_secs(10),
            first_estimate: Duration::from_millis(30),
            failure_cost: Duration::from_secs(5),
        }
    }
}

/// The ways to choose an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BalancerPolicy {
    /// The cheaper of two that were drawn at random by weight: latency, with peaks remembered, times what is in flight.
    #[default]
    PeakEwma,
    /// The less loaded of two that were drawn at random by weight ("power of two choices").
    LeastRequest,
    /// In turn, smoothly by weight.
    RoundRobin,
    /// At random, by weight.
    Random,
    /// By the key of the request, on a ring of hashes.
    RingHash,
}

/// Where further endpoints are looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Discover {
    /// The DNS name whose addresses (A and AAAA) are all endpoints.
    pub host: Arc<str>,
    /// Their port.
    pub port: u16,
    /// Not looked up more often than this, whatever the records' TTL. Default 5 s.
    pub interval: Duration,
    /// Looked up at least this often, whatever the records' TTL; not less than `interval`. Default 5 m.
    pub max_interval: Duration,
}

/// How an endpoint that has come back, or is new among others, is brought up to its full share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SlowStart {
    /// How long that takes; 0 = at once. Default 30 s.
    pub window: Duration,
    /// The share it begins with. Default 10 %, at least 1 %.
    pub from: Percent,
}

impl Default for SlowStart {
    fn default() -> Self {
        Self { window: Duration::from_secs(30), from: Percent::whole(10) }
    }
}

/// Active health checks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Health {
    /// What is asked, and what is expected.
    pub check: HealthCheck,
    /// The port that is asked; `None` = the endpoint's own.
    pub port: Option<u16>,
    /// From one check to the next, ± 20 %. Default 5 s.
    pub interval: Duration,
    /// How long one may take, the connection included. Default 1 s.
    pub timeout: Duration,
    /// So many good ones in a row make an unhealthy endpoint healthy. Default 2.
    pub rise: u32,
    /// So many bad ones in a row make an endpoint unhealthy. Default 3.
    pub fall: u32,
}

/// The kinds of health checks. All but [`HealthCheck::Tcp`] go by TLS where the upstream has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HealthCheck {
    /// A request over HTTP.
    Http {
        /// Default GET.
        method: Method,
        /// The path, with its query.
        path: Arc<str>,
        /// The host that is asked for. Default: the endpoint's address.
        host: Option<HeaderValue>,
        /// The statuses that are good. Default 200 to 299.
        expect: Vec<RangeInclusive<u16>>,
        /// What the first 64 KiB of the body have to contain.
        contains: Option<Arc<str>>,
    },
    /// A connection is accepted.
    Tcp,
    /// A TLS handshake succeeds, with what the upstream's `tls` says; always bad where the upstream has none.
    Tls,
    /// The gRPC health protocol (grpc.health.v1) says `SERVING` for this service; empty = the whole server.
    Grpc {
        /// The service.
        service: Arc<str>,
    },
    /// What is sent is answered as expected.
    Exchange {
        /// What is sent; empty = nothing, the other side speaks first.
        send: Bytes,
        /// What the first 64 KiB of the answer have to contain; never empty.
        expect: Bytes,
    },
}

/// When one endpoint is taken out of rotation because of its own results.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ejection {
    /// Whether it acts. Default on.
    pub state: EjectionState,
    /// So many failures in a row; 0 = does not count. Default 5.
    pub consecutive: u32,
    /// This share of failures within 10 s; `None` = does not count. Default 50 %.
    pub failure_rate: Option<Percent>,
    /// A failure rate takes at least so many results. Default 10.
    pub min_requests: u32,
    /// How long the first one lasts; each further one twice as long, jittered. Default 1 s.
    pub base: Duration,
    /// None lasts longer. Default 60 s.
    pub max: Duration,
    /// At most this share of the endpoints, rounded down, at least one, never the last. Default 50 %.
    pub max_share: Percent,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            state: EjectionState::On,
            consecutive: 5,
            failure_rate: Some(Percent::whole(50)),
            min_requests: 10,
            base: Duration::from_secs(1),
            max: Duration::from_mins(1),
            max_share: Percent::whole(50),
        }
    }
}

/// Whether endpoints are ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EjectionState {
    /// They are.
    #[default]
    On,
    /// They are not.
    Off,
    /// It is only counted what would be.
    Observe,
}

/// The circuit breaker of an upstream, or of a route's use of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Breaker {
    /// How it acts; `None` = auto, but observe for an upstream that only inbound listeners use.
    pub mode: Option<BreakerMode>,
    /// It opens at this share of failures; `None` = not for failures. Default 50 %.
    pub failure_rate: Option<Percent>,
    /// It opens at this share of slow answers; `None` = not for slowness. Default none.
    pub slow_rate: Option<Percent>,
    /// An answer is slow when its head takes longer; there when `slow_rate` is.
    pub slow_after: Option<Duration>,
    /// Over which results. Default 10 s.
    pub window: BreakerWindow,
    /// It takes at least so many results. Default 20.
    pub min_requests: u32,
    /// How long it is open first; each further time twice as long, jittered. Default 5 s.
    pub open_for: Duration,
    /// It is never open for longer. Default 60 s.
    pub max_open: Duration,
    /// So many probes, all of them good, close it. Default 3.
    pub half_open: u32,
    /// How long it takes from 10 % to all of the traffic after it closed; 0 = at once. Default 10 s.
    pub ramp: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            mode: None,
            failure_rate: Some(Percent::whole(50)),
            slow_rate: None,
            slow_after: None,
            window: BreakerWindow::default(),
            min_requests: 20,
            open_for: Duration::from_secs(5),
            max_open: Duration::from_mins(1),
            half_open: 3,
            ramp: Duration::from_secs(10),
        }
    }
}

/// How a breaker acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BreakerMode {
    /// By what it sees.
    #[default]
    Auto,
    /// It refuses everything.
    Open,
    /// It refuses nothing, and counts.
    Closed,
    /// It is not there.
    Off,
    /// It refuses nothing, and shows what it would do.
    Observe,
}

/// Which results a breaker looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BreakerWindow {
    /// Those of so much time.
    Time(Duration),
    /// The last so many; at least `min_requests`.
    Calls(u32),
}

impl Default for BreakerWindow {
    fn default() -> Self {
        Self::Time(Duration::from_secs(10))
    }
}

/// What a route says of the breaker of the upstream it uses, in place of what the upstream says. `None` = as there. A
/// route that says anything has a breaker of its own, with a state of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct BreakerOverride {
    /// See [`Breaker::mode`].
    pub mode: Option<BreakerMode>,
    /// See [`Breaker::failure_rate`]; the inner `None` turns it off.
    pub failure_rate: Option<Option<Percent>>,
    /// See [`Breaker::slow_rate`].
    pub slow_rate: Option<Option<Percent>>,
    /// See [`Breaker::slow_after`].
    pub slow_after: Option<Duration>,
    /// See [`Breaker::window`].
    pub window: Option<BreakerWindow>,
    /// See [`Breaker::min_requests`].
    pub min_requests: Option<u32>,
    /// See [`Breaker::open_for`].
    pub open_for: Option<Duration>,
    /// See [`Breaker::max_open`].
    pub max_open: Option<Duration>,
    /// See [`Breaker::half_open`].
    pub half_open: Option<u32>,
    /// See [`Breaker::ramp`].
    pub ramp: Option<Duration>,
}

impl BreakerOverride {
    /// The breaker that comes of it. What is good by itself on either side and does not fit together is made to fit:
    /// `max_open` is raised to `open_for`, `min_requests` lowered to a window of calls, and a `slow_rate` without any
    /// `slow_after` does not count.
    pub fn over(&self, below: &Breaker) -> Breaker {
        let slow_after = self.slow_after.or(below.slow_after);
        let window = self.window.unwrap_or(below.window);
        let min_requests = self.min_requests.unwrap_or(below.min_requests);
        let open_for = self.open_for.unwrap_or(below.open_for);
        Breaker {
            mode: self.mode.or(below.mode),
            failure_rate: self.failure_rate.unwrap_or(below.failure_rate),
            slow_rate: self.slow_rate.unwrap_or(below.slow_rate).filter(|_| slow_after.is_some()),
            slow_after,
            window,
            min_requests: match window {
                BreakerWindow::Calls(calls) => min_requests.min(calls),
                BreakerWindow::Time(_) => min_requests,
            },
            open_for,
            max_open: self.max_open.unwrap_or(below.max_open).max(open_for),
            half_open: self.half_open.unwrap_or(below.half_open),
            ramp: self.ramp.unwrap_or(below.ramp),
        }
    }
}

/// What a request gets when its upstream cannot answer it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Fallback {
    /// This answer.
    Respond(Respond),
    /// That of another upstream, which may have a fallback too; there are no circles.
    Upstream(Name),
}

/// Where an endpoint is known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub enum EndpointSource {
    /// The upstream's own list.
    #[default]
    List,
    /// The store: `endpoints/<upstream>/<id>`.
    Store,
    /// DNS.
    Dns,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_reached_exactly() {
        let half = Percent::whole(50);
        assert!(half.is_reached_by(1, 2) && !half.is_reached_by(0, 0) && !half.is_reached_by(49, 99));
        assert!(Percent::new(0).is_reached_by(0, 1) && Percent::ALL.is_reached_by(7, 7));
        assert_eq!(Percent::new(60_000), Percent::ALL);
    }

    #[test]
    fn a_route_says_only_what_is_different() {
        let slow_after = Some(Duration::from_millis(500));
        let below =
            Breaker { min_requests: 7, slow_rate: Some(Percent::ALL), slow_after, ..Breaker::default() };
        assert_eq!(BreakerOverride::default().over(&below), below);
        let over =
            BreakerOverride { slow_rate: Some(None), half_open: Some(1), ..BreakerOverride::default() };
        assert_eq!(over.over(&below), Breaker { slow_rate: None, half_open: 1, ..below });
    }

    #[test]
    fn what_does_not_fit_what_the_upstream_says_is_made_to_fit() {
        let over = BreakerOverride {
            window: Some(BreakerWindow::Calls(10)),
            open_for: Some(Duration::from_mins(5)),
            slow_rate: Some(Some(Percent::ALL)),
            ..BreakerOverride::default()
        };
        let below = Breaker::default();
        let made = over.over(&below);
        assert_eq!((made.min_requests, made.max_open, made.slow_rate), (10, Duration::from_mins(5), None));
        let slow = Breaker { slow_after: Some(Duration::from_secs(1)), ..below };
        assert_eq!(over.over(&slow).slow_rate, Some(Percent::ALL));
    }
}
