//! What keeps an upstream's failure from its callers, as it is written: balancing, discovery, slow start, ejection, the
//! breaker, the fallback.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::{
    Many, Shown, Takes, Text,
    bounds::{Share, ShareOrOff, Within},
    choose,
    scalars::{Int, words},
    short::{Brief, Scalar},
    switches::RespondWire,
    wire,
};
use crate::config::{
    Name,
    codes::Code,
    fault::{Problem, shown},
    policy::{BalancerPolicy, BreakerMode, BreakerWindow, EjectionState, EndpointAddress, KeyPart, Percent},
};

/// One hour, in milliseconds.
const HOUR: u64 = 3_600_000;
/// One day, in milliseconds.
const DAY: u64 = 24 * HOUR;

wire! {
    /// How an endpoint is chosen. Weights count everywhere.
    BalancerWire as "balancer" {
        /// `peak_ewma` (the cheaper of two drawn at random: latency, with peaks remembered, times what is in flight),
        /// `least_request` (the less loaded of two drawn at random), `round_robin`, `random` or `ring_hash` (by `key`).
        policy: BalancerPolicy = default(BalancerPolicy::PeakEwma),
        /// For `ring_hash`, which needs it: what requests that go to the same endpoint have in common: client, header:NAME,
        /// query:NAME, cookie:NAME, route, host or method, or a list of them.
        key: Many<KeyPart>,
        /// For `ring_hash`: how much more than its share of the requests in flight an endpoint may have before the next
        /// one on the ring is taken.
        excess: Share<100> = default(Share(Percent::whole(25))),
        /// For `peak_ewma`: how long it takes until what was measured counts for 1/e.
        decay: Within<100, HOUR> = default(Within::secs(10)),
        /// For `peak_ewma`: what an endpoint that has not answered yet is taken to need.
        first_estimate: Within<1, HOUR> = default(Within::millis(30)),
        /// For `peak_ewma`: what a failure is taken to have needed, so that failing fast does not look like being fast.
        failure_cost: Within<1, HOUR> = default(Within::secs(5)),
    }
}

wire! {
    /// Where further endpoints are looked up: all addresses of a DNS name. A look-up that fails keeps the last ones.
    DiscoverWire as "discover" {
        /// The name and the port: host:port.
        dns: DnsName = required,
        /// Not looked up more often than this, whatever the records' TTL.
        interval: Within<1000, HOUR> = default(Within::secs(5)),
        /// Looked up at least this often, whatever the records' TTL; not less than `interval`.
        max_interval: Within<1000, DAY> = default(Within::secs(300)),
    }
}

/// A DNS name and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DnsName(pub(crate) Arc<str>, pub(crate) u16);

impl Text for DnsName {
    const WHAT: &'static str = "a DNS name and a port such as `orders.shop.svc:8080`";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Text;

    fn parse(text: &str) -> Result<Self, Problem> {
        match EndpointAddress::parse(text) {
            Ok(EndpointAddress::Host(host, port)) => Ok(Self(host, port)),
            Ok(EndpointAddress::Socket(_) | EndpointAddress::Unix(_)) => {
                let message = format!("`{}` is not a DNS name", shown(text));
                Err(Problem::new(Code::BadAddress, message).help("an address stands in `endpoints`"))
            }
            Err(problem) => Err(problem),
        }
    }

    fn describe() -> Json {
        json!({ "type": "string", "pattern": "^[A-Za-z0-9._-]{1,255}:0*[1-9][0-9]{0,4}$" })
    }
}

wire! {
    /// How an endpoint that has come back, or is new among others, is brought up to its full share.
    SlowStartWire as "slow-start" {
        /// How long that takes; 0 or off = at once.
        window: Within<0, HOUR> = default(Within::secs(30)),
        /// The share it begins with.
        from: Share<100> = default(Share(Percent::whole(10))),
    }
}

impl Brief for SlowStartWire {
    const FIELD: &'static str = "window";

    fn describe() -> Json {
        Within::<0, HOUR>::describe()
    }
}

wire! {
    /// When one endpoint is taken out of rotation because of its own results. Never the last one, and nobody when more
    /// than 60 % of all the upstream's results fail together.
    EjectionWire as "ejection" {
        /// Whether it acts: on, off, or observe (it is only counted what would be ejected).
        state: EjectionState = default(EjectionState::On),
        /// So many failures in a row; 0 = they do not count.
        consecutive: Int<0, 10_000> = default(Int(5)),
        /// This share of failures within 10s; off or 0% = it does not count.
        failure_rate: ShareOrOff = default(ShareOrOff(Some(Percent::whole(50)))),
        /// A failure rate takes at least so many results.
        min_requests: Int<1, 100_000> = default(Int(10)),
        /// How long the first ejection lasts; each further one twice as long, jittered.
        base: Within<100, HOUR> = default(Within::secs(1)),
        /// None lasts longer; not less than `base`.
        max: Within<100, DAY> = default(Within::secs(60)),
        /// At most this share of the endpoints at once, rounded down, but at least one.
        max_share: Share<100> = default(Share(Percent::whole(50))),
    }
}

impl Brief for EjectionWire {
    const FIELD: &'static str = "state";

    fn describe() -> Json {
        EjectionState::describe()
    }
}

impl Text for EjectionState {
    const WHAT: &'static str = "`on`, `off` or `observe`";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Any;

    fn parse(text: &str) -> Result<Self, Problem> {
        const CHOICES: [(&str, EjectionState); 3] =
            [("on", EjectionState::On), ("off", EjectionState::Off), ("observe", EjectionState::Observe)];
        choose(Scalar::of(text), "a state of ejection", &CHOICES, &[])
    }

    fn describe() -> Json {
        json!({ "enum": ["on", "off", "observe", true, false] })
    }
}

impl Shown for EjectionState {
    fn show(&self) -> Json {
        match self {
            Self::On => "on".into(),
            Self::Off => "off".into(),
            Self::Observe => "observe".into(),
        }
    }
}

wire! {
    /// The circuit breaker of an upstream.
    BreakerWire as "breaker" {
        /// How it acts: auto (by what it sees), open (it refuses everything), closed (it refuses nothing, and counts), off
        /// (it is not there) or observe (it refuses nothing, and shows what it would do). Default: auto; observe for an
        /// upstream that only inbound listeners use.
        mode: BreakerMode,
        /// It opens at this share of failures; off or 0% = not for failures.
        failure_rate: ShareOrOff = default(ShareOrOff(Some(Percent::whole(50)))),
        /// It opens at this share of slow answers, which needs `slow_after`; off or 0% = not for slowness.
        slow_rate: ShareOrOff = default(ShareOrOff(None)),
        /// An answer is slow when its head takes longer.
        slow_after: Within<1, HOUR>,
        /// Over which results: those of so much time (10s), or the last so many (100).
        window: BreakerWindow = default(BreakerWindow::Time(std::time::Duration::from_secs(10))),
        /// It takes at least so many results; not more than a window of calls has.
        min_requests: Int<1, 100_000> = default(Int(20)),
        /// How long it is open first; each further time twice as long, jittered.
        open_for: Within<100, HOUR> = default(Within::secs(5)),
        /// It is never open for longer; not less than `open_for`.
        max_open: Within<100, DAY> = default(Within::secs(60)),
        /// So many probes, all of them good, close it.
        half_open: Int<1, 1000> = default(Int(3)),
        /// How long it takes from 10% to all of the traffic after it closed; 0 or off = at once.
        ramp: Within<0, HOUR> = default(Within::secs(10)),
    }
}

impl Brief for BreakerWire {
    const FIELD: &'static str = "mode";

    fn describe() -> Json {
        BreakerMode::describe()
    }
}

wire! {
    /// What a route says of the breaker of its upstream in place of what the upstream says. A route that says anything
    /// has a breaker of its own. Defaults: as the upstream says.
    RouteBreakerWire as "route-breaker" {
        /// How it acts: auto, open, closed, off or observe.
        mode: BreakerMode,
        /// It opens at this share of failures; off or 0% = not for failures.
        failure_rate: ShareOrOff,
        /// It opens at this share of slow answers; off or 0% = not for slowness.
        slow_rate: ShareOrOff,
        /// An answer is slow when its head takes longer.
        slow_after: Within<1, HOUR>,
        /// Over which results: those of so much time (10s), or the last so many (100).
        window: BreakerWindow,
        /// It takes at least so many results.
        min_requests: Int<1, 100_000>,
        /// How long it is open first; each further time twice as long, jittered.
        open_for: Within<100, HOUR>,
        /// It is never open for longer.
        max_open: Within<100, DAY>,
        /// So many probes, all of them good, close it.
        half_open: Int<1, 1000>,
        /// How long it takes from 10% to all of the traffic after it closed; 0 or off = at once.
        ramp: Within<0, HOUR>,
    }
}

impl Brief for RouteBreakerWire {
    const FIELD: &'static str = "mode";

    fn describe() -> Json {
        BreakerMode::describe()
    }
}

impl Text for BreakerMode {
    const WHAT: &'static str = "`auto`, `open`, `closed`, `off` or `observe`";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Any;

    fn parse(text: &str) -> Result<Self, Problem> {
        const CHOICES: [(&str, BreakerMode); 5] = [
            ("auto", BreakerMode::Auto),
            ("open", BreakerMode::Open),
            ("closed", BreakerMode::Closed),
            ("off", BreakerMode::Off),
            ("observe", BreakerMode::Observe),
        ];
        choose(Scalar::of(text), "a mode of breakers", &CHOICES, &[])
    }

    fn describe() -> Json {
        json!({ "enum": ["auto", "open", "closed", "off", "observe", false] })
    }
}

wire! {
    /// What requests get when the upstream cannot answer them; exactly one.
    FallbackWire as "fallback" {
        /// This answer.
        respond: RespondWire,
        /// That of another upstream, which may have a fallback too; there are no circles.
        upstream: Name,
    }
}

words!(BalancerPolicy, "a balancer policy" {
    "peak_ewma" => PeakEwma,
    "least_request" => LeastRequest,
    "round_robin" => RoundRobin,
    "random" => Random,
    "ring_hash" => RingHash,
});
