//! Balancing, discovery, slow start, ejection, breakers, fallbacks.

use std::{sync::Arc, time::Duration};

use super::{matches::plain, switches::respond};
use crate::config::{
    Kind, Name,
    codes::Code,
    fault::Problem,
    node::Origin,
    policy::{
        BalancerPolicy, Balancing, Breaker, BreakerOverride, BreakerWindow, Discover, Ejection,
        EjectionState, Fallback, SlowStart,
    },
    units::show_duration,
    wire::{
        Cx, Spanned,
        resilience::{
            BalancerWire, BreakerWire, DiscoverWire, EjectionWire, FallbackWire, RouteBreakerWire,
            SlowStartWire,
        },
    },
};

/// How an endpoint is chosen. The parameters of other ways than the one chosen do nothing, so that changing the way back
/// and forth needs one field; but a ring without a key is none, and a key without a ring misleads.
pub(super) fn balancing(wire: &BalancerWire, cx: &mut Cx<'_>) -> Balancing {
    let ring = wire.policy.value == BalancerPolicy::RingHash;
    match &wire.key {
        None if ring && !cx.is_faulty("key") => {
            let problem = Problem::new(Code::Missing, "`key` is missing: `ring_hash` chooses by it")
                .help("say what belongs together: `key: header:x-user`");
            cx.problem(problem, wire.policy.origin);
        }
        Some(key) if !ring => {
            let problem = Problem::new(Code::Conflict, "`key` is for `policy: ring_hash`")
                .help("take `key` out (in a patch: `key: null`)");
            cx.at("key", key.origin, |cx| cx.problem(problem, key.origin));
        }
        _ => {}
    }
    Balancing {
        policy: wire.policy.value,
        key: plain(wire.key.as_ref()),
        excess: wire.excess.value.0,
        decay: wire.decay.value.0,
        first_estimate: wire.first_estimate.value.0,
        failure_cost: wire.failure_cost.value.0,
    }
}

/// Where further endpoints are looked up; `None` when there is no name, which is reported already.
pub(super) fn discover(wire: &DiscoverWire, cx: &mut Cx<'_>) -> Option<Discover> {
    let (interval, max) = (&wire.interval, &wire.max_interval);
    in_order(("interval", interval.value.0, interval.origin), ("max_interval", max.value.0, max.origin), cx);
    let dns = &wire.dns.as_ref()?.value;
    Some(Discover {
        host: Arc::clone(&dns.0),
        port: dns.1,
        interval: interval.value.0,
        max_interval: max.value.0,
    })
}

/// How an endpoint is brought up to its share.
pub(super) fn slow_start(wire: &SlowStartWire) -> SlowStart {
    SlowStart { window: wire.window.value.0, from: wire.from.value.0 }
}

/// When an endpoint is taken out.
pub(super) fn ejection(wire: &EjectionWire, cx: &mut Cx<'_>) -> Ejection {
    in_order(("base", wire.base.value.0, wire.base.origin), ("max", wire.max.value.0, wire.max.origin), cx);
    let found = Ejection {
        state: wire.state.value,
        consecutive: wire.consecutive.value.0,
        failure_rate: wire.failure_rate.value.0,
        min_requests: wire.min_requests.value.0,
        base: wire.base.value.0,
        max: wire.max.value.0,
        max_share: wire.max_share.value.0,
    };
    if found.state != EjectionState::Off && found.consecutive == 0 && found.failure_rate.is_none() {
        let problem =
            Problem::new(Code::Incomplete, "nothing counts: neither `consecutive` nor `failure_rate`")
                .help("to eject nothing, set `state: off`");
        cx.problem(problem, wire.consecutive.origin);
    }
    found
}

/// The breaker of an upstream.
pub(super) fn breaker(wire: &BreakerWire, cx: &mut Cx<'_>) -> Breaker {
    in_order(
        ("open_for", wire.open_for.value.0, wire.open_for.origin),
        ("max_open", wire.max_open.value.0, wire.max_open.origin),
        cx,
    );
    let least = wire.min_requests.value.0;
    window_holds(wire.window.value, least, wire.window.origin, cx);
    if wire.slow_rate.value.0.is_some() && wire.slow_after.is_none() && !cx.is_faulty("slow_after") {
        let problem = Problem::new(Code::Incomplete, "`slow_rate` without `slow_after`")
            .help("say from when on an answer is slow: `slow_after: 500ms`");
        let origin = wire.slow_rate.origin;
        cx.at("slow_rate", origin, |cx| cx.problem(problem, origin));
    }
    Breaker {
        mode: wire.mode.as_ref().map(|mode| mode.value),
        failure_rate: wire.failure_rate.value.0,
        slow_rate: wire.slow_rate.value.0,
        slow_after: wire.slow_after.as_ref().map(|after| after.value.0),
        window: wire.window.value,
        min_requests: least,
        open_for: wire.open_for.value.0,
        max_open: wire.max_open.value.0,
        half_open: wire.half_open.value.0,
        ramp: wire.ramp.value.0,
    }
}

/// What a route says of a breaker. Whether that fits what its upstream says is not a fault of either:
/// [`BreakerOverride::over`] makes it fit.
pub(super) fn route_breaker(wire: &RouteBreakerWire, cx: &mut Cx<'_>) -> BreakerOverride {
    if let (Some(first), Some(most)) = (&wire.open_for, &wire.max_open) {
        in_order(("open_for", first.value.0, first.origin), ("max_open", most.value.0, most.origin), cx);
    }
    if let (Some(window), Some(least)) = (&wire.window, &wire.min_requests) {
        window_holds(window.value, least.value.0, window.origin, cx);
    }
    BreakerOverride {
        mode: plainly(wire.mode.as_ref(), |it| *it),
        failure_rate: plainly(wire.failure_rate.as_ref(), |it| it.0),
        slow_rate: plainly(wire.slow_rate.as_ref(), |it| it.0),
        slow_after: plainly(wire.slow_after.as_ref(), |it| it.0),
        window: plainly(wire.window.as_ref(), |it| *it),
        min_requests: plainly(wire.min_requests.as_ref(), |it| it.0),
        open_for: plainly(wire.open_for.as_ref(), |it| it.0),
        max_open: plainly(wire.max_open.as_ref(), |it| it.0),
        half_open: plainly(wire.half_open.as_ref(), |it| it.0),
        ramp: plainly(wire.ramp.as_ref(), |it| it.0),
    }
}

fn plainly<T, U>(field: Option<&Spanned<T>>, of: impl FnOnce(&T) -> U) -> Option<U> {
    field.map(|field| of(&field.value))
}

/// A fallback: exactly one of the alternatives. What it refers to is noted in `cx`.
pub(super) fn fallback(wire: &FallbackWire, cx: &mut Cx<'_>) -> Option<Fallback> {
    match (&wire.respond, &wire.upstream) {
        (Some(_), Some(upstream)) => {
            let problem = Problem::new(Code::Conflict, "`respond` and `upstream` cannot both be given")
                .help("the other upstream may have a fallback of its own");
            cx.at("upstream", upstream.origin, |cx| cx.problem(problem, upstream.origin));
            None
        }
        (None, None) if cx.is_faulty("upstream") || cx.is_faulty("respond") => None,
        (None, None) => {
            let here = cx.here();
            cx.problem(
                Problem::new(Code::Missing, "a fallback needs `respond` or `upstream`")
                    .help("to have none, take `fallback` out (in a patch: `fallback: null`)"),
                here,
            );
            None
        }
        (Some(answer), None) => {
            cx.at("respond", answer.origin, |cx| respond(&answer.value, cx)).map(Fallback::Respond)
        }
        (None, Some(upstream)) => {
            cx.refer("upstream", Kind::Upstream, upstream);
            Some(Fallback::Upstream(upstream.value.clone()))
        }
    }
}

/// Reports a fallback to the very upstream that is used already.
pub(super) fn fallback_to_itself(wire: &FallbackWire, name: &Name, problem: Problem, cx: &mut Cx<'_>) {
    if let Some(upstream) = wire.upstream.as_ref().filter(|upstream| upstream.value == *name) {
        cx.at("upstream", upstream.origin, |cx| cx.problem(problem, upstream.origin));
    }
}

/// Reports a longest duration that is shorter than the first one.
fn in_order(first: (&str, Duration, Origin), most: (&str, Duration, Origin), cx: &mut Cx<'_>) {
    let ((name, value, origin), (most_name, most, _)) = (first, most);
    if value > most {
        let message = format!(
            "`{name}` ({}) is longer than `{most_name}` ({})",
            show_duration(value),
            show_duration(most)
        );
        let problem = Problem::new(Code::Inconsistent, message).help(format!("raise `{most_name}`"));
        cx.problem(problem, origin);
    }
}

/// Reports a window of fewer calls than a verdict takes.
fn window_holds(window: BreakerWindow, least: u32, origin: Origin, cx: &mut Cx<'_>) {
    if let BreakerWindow::Calls(calls) = window
        && calls < least
    {
        let message = format!("`window` ({calls} calls) is smaller than `min_requests` ({least})");
        let problem =
            Problem::new(Code::Inconsistent, message).help("raise `window`, or lower `min_requests`");
        cx.problem(problem, origin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Faults, policy::Percent, wire::Defaults};

    #[test]
    fn the_defaults_are_those_of_the_types() {
        let (mut faults, here) = (Faults::default(), Origin::default());
        let mut cx = Cx::new(&mut faults, here);
        assert_eq!(balancing(&BalancerWire::defaults(here), &mut cx), Balancing::default());
        assert_eq!(slow_start(&SlowStartWire::defaults(here)), SlowStart::default());
        assert_eq!(ejection(&EjectionWire::defaults(here), &mut cx), Ejection::default());
        assert_eq!(breaker(&BreakerWire::defaults(here), &mut cx), Breaker::default());
        let none = route_breaker(&RouteBreakerWire::defaults(here), &mut cx);
        assert_eq!(none, BreakerOverride::default());
        assert!(faults.is_empty());
        assert_eq!(SlowStart::default().from, Percent::whole(10));
    }
}
