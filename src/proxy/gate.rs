//! What policy does to a request before it goes anywhere: switches, then limits.
//!
//! Switches act in order of priority, then of name; `annotate`, `delay` and those that only observe let the next one act
//! too, the others end it. Then all limits that match must grant: one that refuses takes nothing from the others.

mod rates;
mod waits;

use std::{
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use ::http::{HeaderMap, HeaderName, HeaderValue, Method};
use smallvec::SmallVec;

use super::{Instead, exchange::Exchange, limits::TimeLimits};
use crate::{
    config::policy::{Action, Priority, SwitchState},
    error::{ProxyError, Reason},
    policy::Stamp,
    route::RequestView,
    snapshot::{Gate, LocalUpstream, Switch, View},
    telemetry::SwitchMode,
};

/// Which switches acted on a request, where they are to say so: a list of names, each with the revision it is of.
const X_WEIR_SWITCH: HeaderName = HeaderName::from_static("x-weir-switch");

/// Fields that an answer gets besides those of its own.
pub(super) type Notices = SmallVec<[(HeaderName, HeaderValue); 4]>;

/// How far a request has come without waiting.
pub(super) enum Entered {
    /// It is through, perhaps with another upstream.
    Through(LocalUpstream),
    /// It has to wait.
    Waiting(Waiting),
}

/// A request that has to wait in the gate, or that might have to.
pub(super) struct Waiting {
    gate: Arc<Gate>,
    upstream: LocalUpstream,
    /// How long, before it goes on.
    delay: Duration,
    /// The switch that it meets next.
    next: usize,
}

/// Takes a request through what policy has for it, as far as it comes without waiting. Most come through: they pay for
/// nothing that waits.
pub(super) fn enter(exchange: &mut Exchange, upstream: LocalUpstream) -> Result<Entered, Instead> {
    let view = exchange.view().clone();
    let listener = exchange.connection().listener.index;
    let Some(gate) = view.snapshot().gates.of(listener, exchange.route) else {
        return Ok(Entered::Through(upstream));
    };
    let mut upstream = upstream;
    if !gate.switches.is_empty()
        && let Some((delay, next)) = switches(exchange, &view, gate, 0, &mut upstream)?
    {
        return Ok(Entered::Waiting(Waiting { gate: gate.clone(), upstream, delay, next }));
    }
    if gate.limits_wait {
        let next = gate.switches.len();
        return Ok(Entered::Waiting(Waiting { gate: gate.clone(), upstream, delay: Duration::ZERO, next }));
    }
    if !gate.limits.is_empty() {
        rates::take(exchange, gate)?;
    }
    Ok(Entered::Through(upstream))
}

impl Waiting {
    /// Takes the request the rest of the way.
    pub(super) async fn pass(mut self, exchange: &mut Exchange) -> Result<LocalUpstream, Instead> {
        let view = exchange.view().clone();
        loop {
            wait(exchange, self.delay).await?;
            match switches(exchange, &view, &self.gate, self.next, &mut self.upstream)? {
                Some((delay, next)) => (self.delay, self.next) = (delay, next),
                None => break,
            }
        }
        waits::pass(exchange, &self.gate).await?;
        Ok(self.upstream)
    }
}

/// Has the switches act, from the one in this place on. Where one makes the request wait, how long, and which is the next.
fn switches(
    exchange: &mut Exchange,
    view: &Rc<View>,
    gate: &Gate,
    from: usize,
    upstream: &mut LocalUpstream,
) -> Result<Option<(Duration, usize)>, Instead> {
    let mut next = from;
    while let Some((place, switch, mode)) = first(exchange, gate, next) {
        next = place + 1;
        switch.metrics.hits.of(mode).increment(1);
        if mode == SwitchMode::Observe {
            continue;
        }
        if let Some(mark) = &switch.mark {
            exchange.notice(X_WEIR_SWITCH, mark.clone());
        }
        match &switch.config.action {
            Action::Annotate(headers) => exchange.annotate(headers),
            Action::Delay { p50, max } => {
                let span = exchange.connection().worker.rng(|rng| delay(*p50, *max, rng.f64()));
                return Ok(Some((span, next)));
            }
            Action::Reroute(_) => {
                let Some(other) = switch.upstream.and_then(|index| view.upstream(index)) else {
                    // Validation refuses switches to nowhere.
                    return Err(ProxyError::new(Reason::Internal).because("switch without upstream").into());
                };
                exchange.know_upstream(other);
                *upstream = other.clone();
                return Ok(None);
            }
            _ => return Err(ends(exchange, switch)),
        }
    }
    Ok(None)
}

/// The first switch that acts on a request, from the one in this place on; where it is, and in which mode it acts.
fn first<'g>(
    exchange: &Exchange,
    gate: &'g Gate,
    from: usize,
) -> Option<(usize, &'g Arc<Switch>, SwitchMode)> {
    let rest = gate.switches.get(from..).filter(|rest| !rest.is_empty())?;
    let request = exchange.as_seen();
    rest.iter().enumerate().find_map(|(place, switch)| {
        let mode = mode_of(exchange, switch, &request)?;
        Some((from + place, switch, mode))
    })
}

/// How a request gets its answer from a switch.
fn ends(exchange: &Exchange, switch: &Arc<Switch>) -> Instead {
    let by = |reason| ProxyError::new(reason).by(switch.name());
    let error = match &switch.config.action {
        Action::Reject { status, retry_after } => {
            let mut error = by(Reason::Switch).with_status(*status);
            error.retry_after = *retry_after;
            error
        }
        Action::Abort(status) => by(Reason::Fault).with_status(*status),
        Action::Shed { .. } => by(Reason::Shed),
        // gRPC has no use for a body of HTTP: its callers get the error. So do those who asked for a tunnel: to them any
        // 2xx would say that it is there (RFC 9110 §9.3.6).
        Action::Respond(_) if !exchange.is_grpc() && exchange.method() != Method::CONNECT => {
            return Instead::Switch(switch.clone());
        }
        Action::Respond(_) | Action::Reroute(_) | Action::Annotate(_) | Action::Delay { .. } => {
            by(Reason::Switch)
        }
    };
    Instead::Fail(error)
}

/// In which mode a switch acts on a request; `None` = it does not.
fn mode_of(exchange: &Exchange, switch: &Switch, request: &RequestView<'_>) -> Option<SwitchMode> {
    let mode = match switch.config.state {
        SwitchState::On => SwitchMode::On,
        SwitchState::Observe => SwitchMode::Observe,
        SwitchState::Share(_) => SwitchMode::Share,
        SwitchState::Auto if switch.automatic.is_on() => SwitchMode::Auto,
        SwitchState::Auto | SwitchState::Off => return None,
    };
    if !switch.matcher.matches(request) {
        return None;
    }
    let acts = match (&switch.config.action, switch.config.state) {
        // A tunnel leads where its client says, or nowhere.
        (Action::Reroute(_), _) if exchange.parts.method == Method::CONNECT => false,
        (Action::Shed { below }, _) if !is_below(exchange, *below) => false,
        (_, SwitchState::Share(share)) => falls_within(exchange, switch, request, share),
        _ => true,
    };
    acts.then_some(mode)
}

/// Whether a request is among those that a share is of: a client that is in at 25 % is in at 50 % too, and at every
/// instance.
fn falls_within(exchange: &Exchange, switch: &Switch, request: &RequestView<'_>, share: u16) -> bool {
    const ALL: u64 = 10_000;
    let route = exchange.route_name();
    let place = match switch.key.hash(request, route, switch.seed) {
        Some(hash) => ((u128::from(hash) * u128::from(ALL)) >> 64) as u64,
        // It has nothing by which it could be held to a side.
        None => exchange.connection().worker.rng(|rng| rng.u64(..ALL)),
    };
    place < u64::from(share)
}

/// Whether a request is less important than `least`.
fn is_below(exchange: &Exchange, least: Priority) -> bool {
    exchange.route().is_some_and(|route| route.config.priority < least)
}

/// How long an injected delay takes; `luck` is evenly between 0 and 1. Half of them take no longer than `p50`, each further
/// `p50` halves those that are left, and none takes longer than `max`.
fn delay(p50: Duration, max: Duration, luck: f64) -> Duration {
    let spans = -(1.0 - luck).log2();
    Duration::try_from_secs_f64(p50.as_secs_f64() * spans).map_or(max, |span| span.min(max))
}

/// Lets a request wait, as long as its deadlines let it.
async fn wait(exchange: &mut Exchange, span: Duration) -> Result<(), ProxyError> {
    if span.is_zero() {
        return Ok(());
    }
    exchange.begin_clocks();
    let (limits, flow) = (exchange.limits, exchange.flow().clone());
    let deadlines = exchange.connection().worker.deadlines.clone();
    // Boxed: every request would have room for it.
    let waited = Box::pin(async move {
        let sleep = pin!(tokio::time::sleep(span));
        limits.bound(&deadlines, &flow, sleep).await
    });
    let begun = Instant::now();
    let done = waited.await;
    exchange.waited += begun.elapsed();
    done.map_err(|reason| ProxyError::new(reason).because("it was made to wait"))
}

impl Exchange {
    /// This moment, as policy counts it: that of the request's head, unless it was made to wait since.
    pub(super) fn now(&self) -> Stamp {
        Stamp::of(if self.waited.is_zero() { self.started } else { Instant::now() })
    }

    /// Writes fields into the request, in the place of those that it came with.
    pub(super) fn annotate(&mut self, fields: &[(HeaderName, HeaderValue)]) {
        self.annotated = true;
        for (name, value) in fields {
            self.parts.headers.insert(name, value.clone());
        }
    }

    /// Has the answer carry this field, whoever makes it.
    pub(super) fn notice(&mut self, name: HeaderName, value: HeaderValue) {
        self.notices.get_or_insert_default().push((name, value));
    }

    /// Writes what its answer says of the policy that it met.
    pub(super) fn write_notices(&mut self, headers: &mut HeaderMap) {
        for (name, value) in self.notices.take().into_iter().flat_map(|notices| *notices) {
            headers.append(name, value);
        }
    }

    /// Whether its deadline comes before so much time has passed.
    fn has_no_time_for(&mut self, span: Duration) -> bool {
        self.begin_clocks();
        self.limits.due(&self.flow).is_some_and(|due| due <= Instant::now() + span)
    }

    /// The route's clocks run from the request's beginning.
    fn begin_clocks(&mut self) {
        if let Some(config) = self.route().map(|route| route.config.clone()) {
            self.limits = TimeLimits::begin(self, &config);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_delays_are_no_longer_than_the_median_and_none_than_the_most() {
        let (p50, max) = (Duration::from_millis(100), Duration::from_millis(350));
        assert_eq!(delay(p50, max, 0.0), Duration::ZERO);
        assert_eq!(delay(p50, max, 0.5), p50);
        assert_eq!(delay(p50, max, 0.75), p50 * 2);
        assert_eq!(delay(p50, max, 0.999), max);
        assert_eq!(delay(p50, max, 1.0), max);
        let mut rng = fastrand::Rng::with_seed(7);
        let shorter = (0..10_000).filter(|_| delay(p50, max, rng.f64()) <= p50).count();
        assert!((4_800..5_200).contains(&shorter), "{shorter}");
    }
}
