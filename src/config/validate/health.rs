//! Active health checks.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Method;

use crate::config::{
    codes::Code,
    fault::{Problem, listed, shown},
    node::Origin,
    policy::{Health, HealthCheck},
    units::show_duration,
    wire::{
        Cx, Many, Spanned,
        health::{Exchanged, HealthWire},
    },
};

/// How long a check may take when nothing is said.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A kind of check, as its fields say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Tcp,
    Tls,
    Grpc,
    Exchange,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Grpc => "grpc",
            Self::Exchange => "send",
        }
    }
}

/// Active health checks: exactly one kind of them, with the fields of that kind. `tls`: whether the upstream has it.
pub(super) fn health(wire: &HealthWire, tls: bool, cx: &mut Cx<'_>) -> Option<Health> {
    let interval = wire.interval.value.0;
    let timeout = wire.timeout.as_ref().map_or_else(|| TIMEOUT.min(interval), |timeout| timeout.value.0);
    if let Some(given) = wire.timeout.as_ref().filter(|_| timeout > interval) {
        let message = format!(
            "`timeout` ({}) is longer than `interval` ({})",
            show_duration(timeout),
            show_duration(interval)
        );
        let problem =
            Problem::new(Code::Inconsistent, message).help("raise `interval`: checks do not overlap");
        cx.at("timeout", given.origin, |cx| cx.problem(problem, given.origin));
    }
    let kind = kind(wire, cx)?;
    foreign(kind, wire, cx);
    let check = match kind {
        Kind::Http => http(wire, cx)?,
        Kind::Tcp => HealthCheck::Tcp,
        Kind::Tls => {
            needs_tls(wire, tls, cx);
            HealthCheck::Tls
        }
        Kind::Grpc => HealthCheck::Grpc { service: Arc::clone(&wire.grpc.as_ref()?.value.0) },
        Kind::Exchange => exchange(wire, cx)?,
    };
    Some(Health {
        check,
        port: wire.port.as_ref().and_then(|port| u16::try_from(port.value.0).ok()),
        interval,
        timeout,
        rise: wire.rise.value.0,
        fall: wire.fall.value.0,
    })
}

/// The one kind that is given. `expect` alone is an exchange in which the other side speaks first.
fn kind(wire: &HealthWire, cx: &mut Cx<'_>) -> Option<Kind> {
    let given = [
        (Kind::Http, wire.http.as_ref().map(|it| it.origin)),
        (Kind::Tcp, wire.tcp.as_ref().map(|it| it.origin)),
        (Kind::Tls, wire.tls.as_ref().map(|it| it.origin)),
        (Kind::Grpc, wire.grpc.as_ref().map(|it| it.origin)),
        (Kind::Exchange, wire.send.as_ref().map(|it| it.origin)),
    ];
    let mut kinds = given.iter().filter_map(|(kind, origin)| Some((*kind, (*origin)?)));
    match (kinds.next(), kinds.next()) {
        (Some((first, _)), Some((second, origin))) => {
            let message = format!("`{}` and `{}` cannot both be given", first.as_str(), second.as_str());
            let problem = Problem::new(Code::Conflict, message).help("an upstream has one kind of check");
            cx.at(second.as_str(), origin, |cx| cx.problem(problem, origin));
            None
        }
        (Some((kind, _)), None) => Some(kind),
        (None, _) if given.iter().any(|(kind, _)| cx.is_faulty(kind.as_str())) => None,
        (None, _) if wire.expect.is_some() => Some(Kind::Exchange),
        (None, _) => {
            let here = cx.here();
            let names = listed(given.iter().map(|(kind, _)| kind.as_str()));
            let problem = Problem::new(Code::Missing, "a health check needs its kind")
                .help(format!("give it {names}: for instance `http: /healthz`"));
            cx.problem(problem, here);
            None
        }
    }
}

/// Reports fields that belong to another kind.
fn foreign(kind: Kind, wire: &HealthWire, cx: &mut Cx<'_>) {
    let fields = [
        ("expect", wire.expect.as_ref().map(|it| it.origin), "`http` and `send`"),
        ("method", wire.method.as_ref().map(|it| it.origin), "`http`"),
        ("host", wire.host.as_ref().map(|it| it.origin), "`http`"),
        ("contains", wire.contains.as_ref().map(|it| it.origin), "`http`"),
    ];
    for (field, origin, of) in fields {
        let Some(origin) = origin else { continue };
        let belongs = kind == Kind::Http || (kind == Kind::Exchange && field == "expect");
        if !belongs {
            let given = if wire.send.is_none() && kind == Kind::Exchange { "expect" } else { kind.as_str() };
            let message = format!("`{field}` belongs to checks by {of}; this one is by `{given}`");
            let problem = Problem::new(Code::Conflict, message)
                .help(format!("take `{field}` out (in a patch: `{field}: null`)"));
            cx.at(field, origin, |cx| cx.problem(problem, origin));
        }
    }
}

fn needs_tls(wire: &HealthWire, tls: bool, cx: &mut Cx<'_>) {
    if let (Some(given), false) = (&wire.tls, tls) {
        let problem = Problem::new(Code::Incomplete, "a check by `tls` of an upstream without `tls`")
            .help("give the upstream its `tls: {}`, which says whom to trust, or check by `tcp: true`");
        cx.at("tls", given.origin, |cx| cx.problem(problem, given.origin));
    }
}

fn http(wire: &HealthWire, cx: &mut Cx<'_>) -> Option<HealthCheck> {
    let method = wire.method.as_ref().map_or(Method::GET, |method| method.value.clone());
    if let Some(given) = wire.method.as_ref().filter(|method| method.value == Method::CONNECT) {
        let problem = Problem::new(Code::BadValue, "CONNECT asks for no path (RFC 9110 §9.3.6)")
            .help("take `method` out: GET is the default");
        cx.at("method", given.origin, |cx| cx.problem(problem, given.origin));
    }
    if let Some(contains) = wire.contains.as_ref().filter(|_| method == Method::HEAD) {
        let problem = Problem::new(Code::Inconsistent, "an answer to HEAD has no body that could contain it")
            .help("take `method` out: GET is the default");
        cx.at("contains", contains.origin, |cx| cx.problem(problem, contains.origin));
    }
    if let Some(contains) = wire.contains.as_ref().filter(|it| it.value.0.is_empty()) {
        empty("contains", contains.origin, cx);
    }
    let expect = match &wire.expect {
        None => vec![200..=299],
        Some(expect) => cx.at("expect", expect.origin, |cx| statuses(expect, cx)),
    };
    Some(HealthCheck::Http {
        method,
        path: Arc::clone(&wire.http.as_ref()?.value.0),
        host: wire.host.as_ref().map(|host| host.value.0.clone()),
        expect,
        contains: wire.contains.as_ref().map(|text| Arc::clone(&text.value.0)),
    })
}

/// The statuses of a list, in order, joined where they overlap or touch.
fn statuses(list: &Spanned<Many<Exchanged>>, cx: &mut Cx<'_>) -> Vec<RangeInclusive<u16>> {
    let mut found = Vec::new();
    for item in &list.value.0 {
        match status_range(&item.value.0) {
            Ok(range) => found.push(range),
            Err(problem) => cx.problem(problem, item.origin),
        }
    }
    found.sort_by_key(|range| (*range.start(), *range.end()));
    let mut joined: Vec<RangeInclusive<u16>> = Vec::with_capacity(found.len());
    for range in found {
        match joined.last_mut() {
            Some(before) if *range.start() <= before.end().saturating_add(1) => {
                *before = *before.start()..=*before.end().max(range.end());
            }
            _ => joined.push(range),
        }
    }
    joined
}

/// `200`, `2xx` or `200-204`.
fn status_range(text: &str) -> Result<RangeInclusive<u16>, Problem> {
    let wrong = |code| {
        Problem::new(code, format!("`{}` is not a set of statuses", shown(text)))
            .help("write for instance `200`, `2xx` or `200-204`, or a list of them; from 200 to 599")
    };
    let number = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|_| digits)
    };
    let range = if let Some(class) = text.strip_suffix("xx") {
        let class = class.parse::<u16>().ok().filter(|_| class.len() == 1 && class != "+");
        class.map(|class| class * 100..=class * 100 + 99)
    } else if let Some((from, to)) = text.split_once('-') {
        number(from.trim()).zip(number(to.trim())).map(|(from, to)| from..=to)
    } else {
        number(text).map(|status| status..=status)
    };
    let range = range.ok_or_else(|| wrong(Code::BadValue))?;
    let legal = *range.start() >= 200 && *range.end() <= 599 && !range.is_empty();
    if legal { Ok(range) } else { Err(wrong(Code::OutOfBounds)) }
}

fn exchange(wire: &HealthWire, cx: &mut Cx<'_>) -> Option<HealthCheck> {
    let send = wire.send.as_ref().map_or("", |send| &*send.value.0);
    let Some(expect) = &wire.expect else {
        if cx.is_faulty("expect") {
            return None;
        }
        let origin = wire.send.as_ref().map_or_else(|| cx.here(), |send| send.origin);
        let problem = Problem::new(Code::Incomplete, "`send` without `expect`")
            .help("say what the answer has to contain: `expect: PONG`; or check by `tcp: true`");
        cx.at("send", origin, |cx| cx.problem(problem, origin));
        return None;
    };
    if let Some(second) = expect.value.0.get(1) {
        let problem = Problem::new(Code::BadValue, "one text is expected, not several");
        cx.at("expect", expect.origin, |cx| cx.problem(problem, second.origin));
    }
    let text = expect.value.0.first()?;
    if text.value.0.is_empty() {
        empty("expect", text.origin, cx);
    }
    Some(HealthCheck::Exchange {
        send: Bytes::copy_from_slice(send.as_bytes()),
        expect: Bytes::copy_from_slice(text.value.0.as_bytes()),
    })
}

fn empty(field: &str, origin: Origin, cx: &mut Cx<'_>) {
    let problem =
        Problem::new(Code::BadValue, "an empty text is in every answer").help(format!("take `{field}` out"));
    cx.at(field, origin, |cx| cx.problem(problem, origin));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_statuses() {
        for (text, range) in [
            ("200", 200..=200),
            ("2xx", 200..=299),
            ("200-204", 200..=204),
            ("200 - 399", 200..=399),
            ("5xx", 500..=599),
        ] {
            assert_eq!(status_range(text), Ok(range), "{text}");
        }
        for text in ["", "xx", "20x", "+xx", "22xx", "200-", "-200", "200-2xx", "ok", "0200", "+20", "2XX"] {
            assert_eq!(status_range(text).unwrap_err().code, Code::BadValue, "{text}");
        }
        for text in ["199", "600", "1xx", "6xx", "204-200", "100-200"] {
            assert_eq!(status_range(text).unwrap_err().code, Code::OutOfBounds, "{text}");
        }
    }
}
