//! What a breaker says.

use std::time::Duration;

use super::{BreakerMode, Percent, Stamp, leases::Lease};

/// How a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Requests pass; on a ramp, a share of them.
    Closed,
    /// None do.
    Open,
    /// A few do, to try.
    HalfOpen,
}

impl State {
    /// As metrics and messages have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Why a breaker changed its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Opened: too many failures.
    FailureRate,
    /// Opened: too many slow answers.
    SlowRate,
    /// Opened: a probe failed, or was slow where slowness counts.
    ProbeFailed,
    /// Opened: a probe was not heard of in time.
    ProbeLost,
    /// Half-open: it has been open for long enough.
    Waited,
    /// Closed: all the probes were good.
    ProbesPassed,
    /// Open, and done with waiting: its mode was set by hand while it probed, and it will probe anew.
    Interrupted,
}

impl Cause {
    /// As `/upstreams` and messages have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FailureRate => "failure_rate",
            Self::SlowRate => "slow_rate",
            Self::ProbeFailed => "probe_failed",
            Self::ProbeLost => "probe_lost",
            Self::Waited => "waited",
            Self::ProbesPassed => "probes_passed",
            Self::Interrupted => "interrupted",
        }
    }

    pub(super) const fn code(self) -> u8 {
        match self {
            Self::FailureRate => 1,
            Self::SlowRate => 2,
            Self::ProbeFailed => 3,
            Self::ProbeLost => 4,
            Self::Waited => 5,
            Self::ProbesPassed => 6,
            Self::Interrupted => 7,
        }
    }

    pub(super) const fn of_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::FailureRate,
            2 => Self::SlowRate,
            3 => Self::ProbeFailed,
            4 => Self::ProbeLost,
            5 => Self::Waited,
            6 => Self::ProbesPassed,
            7 => Self::Interrupted,
            _ => return None,
        })
    }
}

/// A change of state: to be counted and logged by whoever caused it. There is exactly one for each change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Transition {
    /// Before.
    pub from: State,
    /// After. The same for a probe that was lost for so long that it is time for the next.
    pub to: State,
    /// Why.
    pub cause: Cause,
}

/// Leave to send one request. It is to be given back with [`end`](super::Breaker::end), whatever became of it. One that is
/// not costs nothing but, while half-open, the time until its deadline.
#[derive(Debug)]
#[must_use = "a permit is ended with the result of its request"]
pub struct Permit {
    pub(super) generation: u16,
    pub(super) would_refuse: bool,
    pub(super) transition: Option<Transition>,
    pub(super) hold: Hold,
}

/// What a result of it is good for.
#[derive(Debug)]
pub(super) enum Hold {
    /// Nothing.
    Nothing,
    /// The window.
    Window,
    /// It decides whether the breaker closes.
    Probe(Lease),
}

impl Permit {
    /// Whether the breaker would have refused it, if it did not only observe.
    pub const fn would_refuse(&self) -> bool {
        self.would_refuse
    }

    /// Whether the request is a probe: one of the few that decide about the others.
    pub const fn is_probe(&self) -> bool {
        matches!(self.hold, Hold::Probe(_))
    }

    /// The change of state that came with it.
    pub const fn transition(&self) -> Option<Transition> {
        self.transition
    }
}

/// The breaker lets a request not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// When it makes sense to ask again; how long from now.
    pub retry_after: Duration,
    /// Why.
    pub why: Why,
    /// The change of state that came with it.
    pub transition: Option<Transition>,
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// It is open.
    Open,
    /// It is half-open, and all the probes are on their way.
    Probing,
    /// It has closed a short time ago, and this request was not among the share that passes.
    Ramping,
    /// It was opened by hand.
    Forced,
}

/// How a breaker stands, for `/upstreams` and the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Its mode.
    pub mode: BreakerMode,
    /// How the machine stands; what it does depends on the mode too: see [`Self::label`]. One that has been open for long
    /// enough is half-open, whether or not a request has come to try.
    pub state: State,
    /// Why.
    pub cause: Option<Cause>,
    /// Since when.
    pub since: Stamp,
    /// When it is open: until when. When it ramps: when it has all of the traffic.
    pub until: Option<Stamp>,
    /// The share of the requests that the machine lets pass; half-open ones are not a share, but counted.
    pub share: Percent,
    /// How often it has opened since it was last closed with all of the traffic; up to 31.
    pub openings: u8,
    /// Probes on their way.
    pub probes_out: u32,
    /// Probes that were good.
    pub probes_good: u32,
    /// Results in the window; open and half-open: when it opened.
    pub requests: u64,
    /// The failures among them.
    pub failures: u64,
    /// The slow ones among them, failed or not.
    pub slow: u64,
}

impl Shown {
    /// The state that the metric `breaker_state` has: `closed`, `open`, `half_open`, `forced_open`, `forced_closed` or
    /// `off`.
    pub const fn label(&self) -> &'static str {
        match self.mode {
            BreakerMode::Auto | BreakerMode::Observe => self.state.as_str(),
            BreakerMode::Open => "forced_open",
            BreakerMode::Closed => "forced_closed",
            BreakerMode::Off => "off",
        }
    }
}
