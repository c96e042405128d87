//! The closed sets of label values, and tables of handles over them.

use std::sync::OnceLock;

use http::{Method, StatusCode};

use crate::{
    config::policy::BreakerMode,
    error::Reason,
    policy::{
        breaker::{self, State},
        ejection,
    },
    store::{Lost, ReadCause},
};

/// A label whose values are a closed set.
pub trait Label: Copy + 'static {
    /// All values, in order of [`Self::index`].
    const ALL: &'static [Self];
    /// The position in [`Self::ALL`].
    fn index(self) -> usize;
    /// The text of the value.
    fn text(self) -> &'static str;
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)*];
            fn index(self) -> usize { self as usize }
            fn text(self) -> &'static str { match self { $(Self::$variant => $text,)* } }
        }
    };
}

label! {
    /// How an attempt ended.
    Outcome {
        /// An answer below 500.
        Success = "success",
        /// An answer of 500 and above.
        ServerError = "server_error",
        /// No connection.
        ConnectError = "connect_error",
        /// No TLS session.
        TlsError = "tls_error",
        /// The connection ended before the answer.
        Reset = "reset",
        /// Time ran out.
        Timeout = "timeout",
        /// The answer was not HTTP as it must be.
        ProtocolError = "protocol_error",
        /// No connection was free and none may be opened.
        PoolFull = "pool_full",
        /// The client left, which is nobody's fault upstream.
        Cancelled = "cancelled",
    }
}

label! {
    /// Whether a retry brought an answer.
    RetryOutcome {
        /// It did.
        Success = "success",
        /// It did not.
        Failure = "failure",
    }
}

label! {
    /// How an active health check ended.
    HealthResult {
        /// The answer was the expected one.
        Success = "success",
        /// It was another one, or broken off.
        Failure = "failure",
        /// There was no connection, or no TLS on it.
        ConnectError = "connect_error",
        /// There was no answer in time.
        Timeout = "timeout",
    }
}

label! {
    /// The state of an endpoint.
    EndpointState {
        /// Its health check passes.
        Healthy = "healthy",
        /// Not checked, or not yet; used like a healthy one.
        Unknown = "unknown",
        /// Its health check fails.
        Unhealthy = "unhealthy",
        /// Out of rotation because of its own results.
        Ejected = "ejected",
    }
}

label! {
    /// How a breaker stands.
    BreakerState {
        /// Requests pass.
        Closed = "closed",
        /// None do.
        Open = "open",
        /// A few do, to try.
        HalfOpen = "half_open",
        /// Set by hand: none pass.
        ForcedOpen = "forced_open",
        /// Set by hand: all pass.
        ForcedClosed = "forced_closed",
        /// It is not there.
        Off = "off",
    }
}

impl BreakerState {
    /// That of a breaker.
    pub fn of(shown: &breaker::Shown) -> Self {
        match (shown.mode, shown.state) {
            (BreakerMode::Open, _) => Self::ForcedOpen,
            (BreakerMode::Closed, _) => Self::ForcedClosed,
            (BreakerMode::Off, _) => Self::Off,
            (_, State::Closed) => Self::Closed,
            (_, State::Open) => Self::Open,
            (_, State::HalfOpen) => Self::HalfOpen,
        }
    }
}

label! {
    /// What a breaker changed to.
    BreakerChange {
        /// Requests pass again.
        Closed = "closed",
        /// None do any more.
        Open = "open",
        /// A few do, to try.
        HalfOpen = "half_open",
    }
}

impl From<State> for BreakerChange {
    fn from(state: State) -> Self {
        match state {
            State::Closed => Self::Closed,
            State::Open => Self::Open,
            State::HalfOpen => Self::HalfOpen,
        }
    }
}

label! {
    /// Why an endpoint was ejected.
    EjectionCause {
        /// So many failures in a row.
        Consecutive = "consecutive",
        /// Such a share of failures.
        FailureRate = "failure_rate",
        /// Its probe failed.
        Probe = "probe",
        /// It would have been, if ejection did not only observe.
        Observed = "observed",
    }
}

impl From<ejection::Cause> for EjectionCause {
    fn from(cause: ejection::Cause) -> Self {
        match cause {
            ejection::Cause::Consecutive => Self::Consecutive,
            ejection::Cause::FailureRate => Self::FailureRate,
            ejection::Cause::Probe => Self::Probe,
        }
    }
}

label! {
    /// What a limit decided.
    LimitDecision {
        /// The request may go on.
        Granted = "granted",
        /// It may not.
        Refused = "refused",
        /// It might not, if the limit did not only observe.
        WouldRefuse = "would_refuse",
    }
}

label! {
    /// For what a limit made a request wait.
    WaitCause {
        /// For its turn.
        Turn = "turn",
        /// For tokens from Redis.
        Redis = "redis",
    }
}

label! {
    /// In which state a switch acted.
    SwitchMode {
        /// On, for all requests that match.
        On = "on",
        /// On, for a share of them.
        Share = "share",
        /// On by itself.
        Auto = "auto",
        /// It would have acted.
        Observe = "observe",
    }
}

label! {
    /// The state of a pooled connection.
    PoolState {
        /// Open and unused.
        Idle = "idle",
        /// In use.
        Active = "active",
        /// Being opened.
        Connecting = "connecting",
    }
}

label! {
    /// Why a client's connection was closed before its first request.
    ConnectionRefusal {
        /// `max_connections` is reached.
        Limit = "limit",
        /// The TLS handshake failed.
        Tls = "tls",
        /// Nothing came in time.
        Timeout = "timeout",
        /// Not a protocol that this listener speaks.
        Protocol = "protocol",
        /// The header of the PROXY protocol is missing, malformed, or of one who may not send it.
        ProxyProtocol = "proxy_protocol",
        /// This instance is leaving.
        Draining = "draining",
    }
}

label! {
    /// Why Weir ended a client's connection.
    ConnectionEnd {
        /// HTTP/2: the client reset too many streams.
        ResetFlood = "reset_flood",
        /// HTTP/2: too many frames that carry nothing.
        ControlFlood = "control_flood",
        /// HTTP/2: what h2 itself takes for a flood.
        FrameFlood = "frame_flood",
        /// It does not speak HTTP/2 as it must.
        Protocol = "protocol",
        /// A request's head took too long.
        HeaderTimeout = "header_timeout",
        /// The client took nothing of its answer for too long.
        Stalled = "stalled",
        /// HTTP/2: no sign of life.
        PingTimeout = "ping_timeout",
    }
}

label! {
    /// What became of an attempt to take a new policy.
    UpdateResult {
        /// It is in force.
        Applied = "applied",
        /// It says what was in force already.
        Unchanged = "unchanged",
        /// It is at fault; the old one stays.
        Refused = "refused",
    }
}

label! {
    /// Where the policy in force came from.
    PolicySource {
        /// The live store.
        Store = "store",
        /// This instance's own copy of it.
        Cache = "cache",
        /// The file.
        Baseline = "baseline",
    }
}

label! {
    /// A kind of policy document.
    PolicyKind {
        /// The file, as a whole.
        File = "file",
        /// An upstream.
        Upstreams = "upstreams",
        /// A route.
        Routes = "routes",
        /// A limit.
        Limits = "limits",
        /// A switch.
        Switches = "switches",
        /// A plan.
        Plans = "plans",
        /// An endpoint.
        Endpoints = "endpoints",
        /// The switch that bypasses everything.
        Bypass = "bypass",
        /// A key that means nothing.
        Key = "key",
    }
}

label! {
    /// Whether a changed certificate could be taken.
    ReloadResult {
        /// The new pair is in use.
        Success = "success",
        /// The old pair stays.
        Failure = "failure",
    }
}

label! {
    /// Why an access record was not written.
    DropCause {
        /// The writer cannot follow.
        QueueFull = "queue_full",
        /// More than ten refusals within a second for one reason.
        RefusalLimit = "refusal_limit",
    }
}

label! {
    /// How far a revision of the store has come.
    Stage {
        /// A change of it was seen.
        Observed = "observed",
        /// Nothing was missed up to it.
        Proven = "proven",
        /// Requests are served by it.
        Applied = "applied",
    }
}

impl Label for Lost {
    const ALL: &'static [Self] = Lost::ALL;
    fn index(self) -> usize {
        self as usize
    }
    fn text(self) -> &'static str {
        self.as_str()
    }
}

impl Label for ReadCause {
    const ALL: &'static [Self] = ReadCause::ALL;
    fn index(self) -> usize {
        self as usize
    }
    fn text(self) -> &'static str {
        self.as_str()
    }
}

impl Label for Reason {
    const ALL: &'static [Self] = Reason::ALL;
    fn index(self) -> usize {
        self as usize
    }
    fn text(self) -> &'static str {
        self.as_str()
    }
}

/// One `T` for each value of a label.
#[derive(Debug)]
pub struct PerLabel<L, T> {
    first: T,
    rest: Box<[T]>,
    label: std::marker::PhantomData<fn(L)>,
}

impl<L: Label, T> PerLabel<L, T> {
    /// Makes each `T` from the text of its value.
    pub fn new(mut make: impl FnMut(&'static str) -> T) -> Self {
        // A closed set has at least one value; an empty one would get a single slot that nothing reads.
        let first = make(L::ALL.first().map_or("", |label| label.text()));
        let rest = L::ALL.iter().skip(1).map(|label| make(label.text())).collect();
        Self { first, rest, label: std::marker::PhantomData }
    }

    /// For each `T` what `make` makes of it.
    pub fn map<U>(&self, mut make: impl FnMut(&T) -> U) -> PerLabel<L, U> {
        let first = make(&self.first);
        let rest = self.rest.iter().map(make).collect();
        PerLabel { first, rest, label: std::marker::PhantomData }
    }

    /// The one for `label`.
    pub fn of(&self, label: L) -> &T {
        // The first value's index wraps to the largest number, which `rest` does not have.
        self.rest.get(label.index().wrapping_sub(1)).unwrap_or(&self.first)
    }
}

/// The text of a method label, and its row in a [`StatusTable`]. Methods beyond the registered ones that
/// Weir knows are `other`: a label never comes from a request.
fn method_label(method: &Method) -> (usize, &'static str) {
    match *method {
        Method::GET => (0, "GET"),
        Method::POST => (1, "POST"),
        Method::PUT => (2, "PUT"),
        Method::DELETE => (3, "DELETE"),
        Method::HEAD => (4, "HEAD"),
        Method::PATCH => (5, "PATCH"),
        Method::OPTIONS => (6, "OPTIONS"),
        Method::TRACE => (7, "TRACE"),
        Method::CONNECT => (8, "CONNECT"),
        _ => (9, "other"),
    }
}

const METHODS: usize = 10;
/// 1xx to 5xx, and one for everything above.
const CLASSES: usize = 6;

/// A `T` for each method and status, made when it is first asked for.
///
/// After that a look-up is two array reads: no lock, no hash. A class of status takes its hundred slots
/// when a method first sees it, so a table takes at most 60 times that and usually once or twice.
#[derive(Debug)]
pub struct StatusTable<T> {
    classes: [OnceLock<Box<[OnceLock<T>; 100]>>; METHODS * CLASSES],
}

impl<T> Default for StatusTable<T> {
    fn default() -> Self {
        Self { classes: [const { OnceLock::new() }; METHODS * CLASSES] }
    }
}

impl<T> StatusTable<T> {
    /// The `T` for `method` and `status`; `make` gets both as labels when it is the first time.
    pub fn get_or_make(
        &self,
        method: &Method,
        status: StatusCode,
        make: impl FnOnce(&str, &str) -> T,
    ) -> Option<&T> {
        let (row, method) = method_label(method);
        let status = status.as_u16();
        let class = usize::from(status / 100).saturating_sub(1).min(CLASSES - 1);
        // Everything from 600 on shares one slot.
        let (slot, code) = if status < 600 { (usize::from(status % 100), Some(status)) } else { (0, None) };
        let slots = self
            .classes
            .get(row * CLASSES + class)?
            .get_or_init(|| Box::new([const { OnceLock::new() }; 100]));
        let cell = slots.get(slot)?;
        Some(cell.get_or_init(|| match code {
            Some(code) => make(method, itoa::Buffer::new().format(code)),
            None => make(method, "other"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_finds_its_own() {
        fn check<L: Label>() {
            let table = PerLabel::<L, _>::new(str::to_owned);
            for (index, label) in L::ALL.iter().enumerate() {
                assert_eq!(label.index(), index);
                assert_eq!(table.of(*label), label.text());
            }
        }
        check::<Outcome>();
        check::<RetryOutcome>();
        check::<HealthResult>();
        check::<EndpointState>();
        check::<PoolState>();
        check::<LimitDecision>();
        check::<SwitchMode>();
        check::<WaitCause>();
        check::<ConnectionRefusal>();
        check::<ConnectionEnd>();
        check::<UpdateResult>();
        check::<PolicySource>();
        check::<PolicyKind>();
        check::<Stage>();
        check::<Lost>();
        check::<ReadCause>();
        check::<ReloadResult>();
        check::<DropCause>();
        check::<Reason>();
    }

    #[test]
    fn each_method_and_status_is_made_once() {
        let table = StatusTable::default();
        let mut made = 0;
        for _ in 0..2 {
            for method in ["GET", "HEAD", "POST", "CONNECT", "BREW"] {
                let method_value = Method::from_bytes(method.as_bytes()).unwrap();
                for status in 100..=999 {
                    let got =
                        table.get_or_make(&method_value, StatusCode::from_u16(status).unwrap(), |m, c| {
                            made += 1;
                            format!("{m} {c}")
                        });
                    let method = if method == "BREW" { "other" } else { method };
                    let code = if status < 600 { status.to_string() } else { "other".to_owned() };
                    assert_eq!(got.unwrap(), &format!("{method} {code}"));
                }
            }
        }
        assert_eq!(made, 5 * 501);
    }
}
