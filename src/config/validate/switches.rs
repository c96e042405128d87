//! Switches.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE};

use super::{
    Facts,
    matches::{matches, pairs, plain},
    routes::forbidden,
};
use crate::config::{
    Kind, Name,
    codes::Code,
    fault::{Problem, listed, shown},
    policy::{KeyPart, Priority, Status},
    switch::{Action, Respond, Signal, Switch, SwitchState, When},
    units::{self, show_duration},
    wire::{
        Cx, Spanned, Table, Text,
        scalars::{Int, Size, Span},
        switches::{DelayWire, RespondWire, SignalWord, SwitchWire, WhenWire},
    },
};

/// A switch; what it refers to is noted in `cx`.
pub(in crate::config) fn switch(
    name: &Name,
    wire: &SwitchWire,
    facts: &Facts<'_>,
    cx: &mut Cx<'_>,
) -> Option<Switch> {
    let matches = matches(&wire.matches, facts, cx);
    let key = plain(wire.key.as_ref());
    let when = wire.when.as_ref().map(|when| cx.at("when", when.origin, |cx| self::when(&when.value, cx)));
    automatic(wire, cx);
    let action = action(wire, cx);
    Some(Switch {
        name: name.clone(),
        state: wire.state.value,
        matches,
        key: if key.is_empty() { vec![KeyPart::Client] } else { key },
        priority: wire.priority.value.0,
        announce: wire.announce.value.0,
        revision: 0,
        action: action?,
        when: match when {
            Some(when) => Some(when?),
            None => None,
        },
        // The layers know, where there are any.
    })
}

/// `when` and `state: auto` belong together. Turned on or off by hand a switch keeps its `when`, so that is no fault.
fn automatic(wire: &SwitchWire, cx: &mut Cx<'_>) {
    let auto = wire.state.value == SwitchState::Auto;
    match &wire.when {
        None if auto => {
            let problem = Problem::new(Code::Incomplete, "`state: auto` without `when`")
                .help("say when: `when: { signal: failure_rate, of: inventory, above: 50% }`");
            cx.at("state", wire.state.origin, |cx| cx.problem(problem, wire.state.origin));
        }
        Some(when) if !auto && !cx.is_live() => {
            let problem = Problem::new(Code::Incomplete, "`when` does nothing until the state is auto")
                .help("set `state: auto`");
            cx.at("when", when.origin, |cx| cx.warn(problem, when.origin));
        }
        _ => {}
    }
}

/// The one action.
fn action(wire: &SwitchWire, cx: &mut Cx<'_>) -> Option<Action> {
    let given = [
        ("respond", wire.respond.as_ref().map(|action| action.origin)),
        ("reject", wire.reject.as_ref().map(|action| action.origin)),
        ("upstream", wire.upstream.as_ref().map(|action| action.origin)),
        ("annotate", wire.annotate.as_ref().map(|action| action.origin)),
        ("delay", wire.delay.as_ref().map(|action| action.origin)),
        ("abort", wire.abort.as_ref().map(|action| action.origin)),
        ("shed", wire.shed.as_ref().map(|action| action.origin)),
    ];
    let mut actions = given.iter().filter_map(|(name, origin)| Some((*name, (*origin)?)));
    let Some((first, _)) = actions.next() else {
        let here = cx.here();
        let problem = Problem::new(Code::Missing, "a switch needs an action");
        cx.problem(
            problem.help(format!("give it one of {}", listed(given.iter().map(|(name, _)| *name)))),
            here,
        );
        return None;
    };
    if let Some((second, origin)) = actions.next() {
        let message = format!("`{first}` and `{second}` cannot both be given");
        let problem =
            Problem::new(Code::Conflict, message).help("a switch has one action: make two switches");
        cx.at(second, origin, |cx| cx.problem(problem, origin));
        return None;
    }
    one_action(wire, cx)
}

fn one_action(wire: &SwitchWire, cx: &mut Cx<'_>) -> Option<Action> {
    if let Some(respond) = &wire.respond {
        return cx.at("respond", respond.origin, |cx| self::respond(&respond.value, cx)).map(Action::Respond);
    }
    if let Some(reject) = &wire.reject {
        let retry_after = reject.value.retry_after.as_ref().map(|after| after.value.0);
        return Some(Action::Reject { status: status(reject.value.status.value.0)?, retry_after });
    }
    if let Some(upstream) = &wire.upstream {
        cx.refer("upstream", Kind::Upstream, upstream);
        return Some(Action::Reroute(upstream.value.clone()));
    }
    if let Some(annotate) = &wire.annotate {
        return cx.at("annotate", annotate.origin, |cx| {
            if annotate.value.0.is_empty() {
                cx.problem(Problem::new(Code::TooFew, "`annotate` needs a header"), annotate.origin);
            }
            Some(Action::Annotate(headers(&annotate.value, cx)))
        });
    }
    if let Some(delay) = &wire.delay {
        return cx.at("delay", delay.origin, |cx| self::delay(&delay.value, cx));
    }
    if let Some(abort) = &wire.abort {
        return status(abort.value.status.as_ref()?.value.0).map(Action::Abort);
    }
    let shed = wire.shed.as_ref()?;
    let below = &shed.value.below;
    if below.value == Priority::Background {
        let problem = Problem::new(Code::Inconsistent, "nothing is below `background`")
            .help("it takes `critical`, `normal` or `low`");
        cx.at("shed", shed.origin, |cx| cx.at("below", below.origin, |cx| cx.problem(problem, below.origin)));
    }
    Some(Action::Shed { below: below.value })
}

fn status(number: u32) -> Option<Status> {
    StatusCode::from_u16(u16::try_from(number).ok()?).ok()
}

fn headers(table: &Table<HeaderName, HeaderValue>, cx: &mut Cx<'_>) -> Vec<(HeaderName, HeaderValue)> {
    for (name, _) in &table.0 {
        if let Some(why) = forbidden(&name.value) {
            let message = format!("`{}` is not for policy to change", name.value);
            let problem = Problem::new(Code::ForbiddenHeader, message).help(why);
            cx.at(name.value.as_str(), name.origin, |cx| cx.problem(problem, name.origin));
        }
    }
    pairs(table)
}

/// An answer.
pub(super) fn respond(wire: &RespondWire, cx: &mut Cx<'_>) -> Option<Respond> {
    let mut headers = cx.at("headers", wire.headers.origin, |cx| self::headers(&wire.headers.value, cx));
    if let (Some(_), Some(body)) = (&wire.json, &wire.body) {
        let problem = Problem::new(Code::Conflict, "`json` and `body` cannot both be given")
            .help("an answer has one body");
        cx.at("body", body.origin, |cx| cx.problem(problem, body.origin));
    }
    let status = status(wire.status.value.0)?;
    let body = wire.json.as_ref().map(|json| (&json.value.0, json.origin));
    let body = body.or_else(|| wire.body.as_ref().map(|body| (&body.value.0, body.origin)));
    if let (true, Some((_, origin))) = (matches!(status.as_u16(), 204 | 205 | 304), body) {
        let message = format!("an answer with the status {} has no body", status.as_u16());
        cx.problem(
            Problem::new(Code::Inconsistent, message).help("take the body out (RFC 9110 §6.4.1)"),
            origin,
        );
    }
    if wire.json.is_some() && !headers.iter().any(|(name, _)| *name == CONTENT_TYPE) {
        headers.push((CONTENT_TYPE, HeaderValue::from_static("application/json")));
    }
    Some(Respond { status, headers, body: body.map_or_else(|| Arc::from(""), |(body, _)| Arc::clone(body)) })
}

fn delay(wire: &DelayWire, cx: &mut Cx<'_>) -> Option<Action> {
    let p50 = wire.p50.as_ref()?.value.0;
    let max = wire.max.as_ref().map_or_else(|| p50.saturating_mul(10).min(units::LONGEST), |max| max.value.0);
    if let (true, Some(given)) = (max < p50, &wire.max) {
        let message = format!("`max` ({}) is less than `p50` ({})", show_duration(max), show_duration(p50));
        let origin = given.origin;
        cx.at("max", origin, |cx| cx.problem(Problem::new(Code::Inconsistent, message), origin));
    }
    Some(Action::Delay { p50, max })
}

fn when(wire: &WhenWire, cx: &mut Cx<'_>) -> Option<When> {
    let signal = wire.signal.as_ref()?;
    let signal = self::signal(signal, wire, cx);
    Some(When { signal: signal?, after: wire.after.value.0, hold: wire.hold.value.0 })
}

fn signal(word: &Spanned<SignalWord>, wire: &WhenWire, cx: &mut Cx<'_>) -> Option<Signal> {
    let of = of(word.value, wire, cx);
    match word.value {
        SignalWord::FailureRate => Some(Signal::FailureRate(of?, above(wire, cx, units::percent)?)),
        SignalWord::P99 => {
            let span = |text: &str| Span::parse(text).map(|span| span.0);
            Some(Signal::P99(of?, above::<Duration>(wire, cx, span)?))
        }
        SignalWord::BreakerOpen => {
            if let Some(above) = &wire.above {
                let problem =
                    Problem::new(Code::Conflict, "`breaker_open` has no threshold").help("take `above` out");
                cx.at("above", above.origin, |cx| cx.problem(problem, above.origin));
            }
            of.map(Signal::BreakerOpen)
        }
        SignalWord::InFlight => {
            let count = |text: &str| Int::<1, 1_000_000_000>::parse(text).map(|number| number.0);
            Some(Signal::InFlight(of?, above(wire, cx, count)?))
        }
        SignalWord::RefusalShare => Some(Signal::RefusalShare(of?, above(wire, cx, units::percent)?)),
        SignalWord::Memory => {
            let size = |text: &str| Size::<1, { u64::MAX }>::parse(text).map(|size| size.0);
            above(wire, cx, size).map(Signal::Memory)
        }
    }
}

/// The resource that a signal is of; `None` where it has none, or where it is missing.
fn of(word: SignalWord, wire: &WhenWire, cx: &mut Cx<'_>) -> Option<Name> {
    let kind = match word {
        SignalWord::FailureRate | SignalWord::P99 | SignalWord::BreakerOpen | SignalWord::InFlight => {
            Kind::Upstream
        }
        SignalWord::RefusalShare => Kind::Limit,
        SignalWord::Memory => {
            if let Some(of) = &wire.of {
                let problem = Problem::new(Code::Conflict, "`memory` is the process's").help("take `of` out");
                cx.at("of", of.origin, |cx| cx.problem(problem, of.origin));
            }
            return None;
        }
    };
    let Some(of) = &wire.of else {
        let what = if kind == Kind::Limit { "a limit" } else { "an upstream" };
        let here = cx.here();
        cx.problem(Problem::new(Code::Missing, "`of` is missing").help(format!("name {what}")), here);
        return None;
    };
    cx.refer("of", kind, of);
    Some(of.value.clone())
}

/// The threshold, as the signal reads it.
fn above<T>(wire: &WhenWire, cx: &mut Cx<'_>, read: impl Fn(&str) -> Result<T, Problem>) -> Option<T> {
    let Some(above) = &wire.above else {
        let here = cx.here();
        cx.problem(Problem::new(Code::Missing, "`above` is missing"), here);
        return None;
    };
    cx.at("above", above.origin, |cx| {
        read(&above.value.0)
            .map_err(|problem| {
                let message = format!("`{}`: {}", shown(&above.value.0), problem.message);
                cx.problem(Problem { message, ..problem }, above.origin);
            })
            .ok()
    })
}
