//! Validated degradation switches.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue};

use super::{
    Name,
    policy::{KeyPart, Match, Priority, Status},
};

/// A degradation switch: when on, it acts on the requests that match it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Switch {
    /// Its name.
    pub name: Name,
    /// Whether it acts. Default off.
    pub state: SwitchState,
    /// Which requests it acts on; empty = all.
    pub matches: Match,
    /// By what a percentage is sticky. Default the client's address.
    pub key: Vec<KeyPart>,
    /// Lower ones act first; then the name decides. Default 100, at most 65,535.
    pub priority: u32,
    /// What it does.
    pub action: Action,
    /// What turns it on when its state is auto; `None` only when it is not.
    pub when: Option<When>,
    /// Whether answers say that it acted on them. Default no.
    pub announce: bool,
    /// The newest revision among the live overlays that have a say in it, those of plans that are on too; 0 = the file
    /// alone.
    pub revision: i64,
}

/// Whether a switch acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SwitchState {
    /// It does nothing.
    #[default]
    Off,
    /// It acts on all requests that match.
    On,
    /// It counts what it would act on.
    Observe,
    /// It acts on this share of the requests, in hundredths of a percent (1 % = 100).
    Share(u16),
    /// [`When`] decides.
    Auto,
}

/// What a switch does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Answers.
    Respond(Respond),
    /// Refuses.
    Reject {
        /// 400 to 599. Default 503.
        status: Status,
        /// When the client should come back.
        retry_after: Option<Duration>,
    },
    /// Sends the request to another upstream.
    Reroute(Name),
    /// Tells the application, by headers of the request, to degrade itself.
    Annotate(Vec<(HeaderName, HeaderValue)>),
    /// Makes the request wait (fault injection).
    Delay {
        /// Half of the requests wait no longer.
        p50: Duration,
        /// None waits longer. Default ten times `p50`.
        max: Duration,
    },
    /// Answers with an error (fault injection); 400 to 599.
    Abort(Status),
    /// Refuses requests that are less important than this.
    Shed {
        /// The least important priority that still passes. Default normal.
        below: Priority,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Respond {
    /// Its status, 200 to 599. Default 200.
    pub status: Status,
    /// Its headers; `content-type: application/json` is among them for a body in JSON unless another is given.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its body.
    pub body: Arc<str>,
}

/// What turns a switch on by itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct When {
    /// What is watched, and its threshold.
    pub signal: Signal,
    /// How long the signal has to be above its threshold. Default 5 s.
    pub after: Duration,
    /// How long it has to be back before the switch goes off again. Default 30 s.
    pub hold: Duration,
}

/// What is watched.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Signal {
    /// The share of an upstream's results that are failures, in hundredths of a percent.
    FailureRate(Name, u16),
    /// An upstream's 99th percentile of the time to the first byte.
    P99(Name, Duration),
    /// An upstream's breaker is open.
    BreakerOpen(Name),
    /// How many requests to an upstream are in flight.
    InFlight(Name, u32),
    /// The share of its requests that a limit refuses, in hundredths of a percent.
    RefusalShare(Name, u16),
    /// The resident memory of the process, in bytes.
    Memory(u64),
}
