//! What a change costs, and that it costs nothing in truth.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use ::http::{HeaderMap, Method};
use proptest::prelude::*;

use super::{Registry, Snapshot, Target, compile};
use crate::{
    config::{self, Env, File, HostFacts},
    http::via::Via,
    listener::Listener,
    route::RequestView,
    telemetry::Metrics,
};

pub(super) fn file(policy: &str) -> File {
    let text = format!(
        "service: s\nlisteners: {{ in: {{ listen: 127.0.0.1:1 }}, out: {{ listen: 127.0.0.1:2 }} }}\npolicy:\n{policy}"
    );
    let host = HostFacts { hostname: "h".into(), cpus: 1 };
    let env = Env { vars: &|_| None, host: &host, probe: &|_, _| Ok(()) };
    let loaded = config::load("weir.yaml", text.as_bytes(), &env);
    loaded.file.unwrap_or_else(|| panic!("{text}: {:?}", loaded.faults))
}

pub(super) fn listeners(file: &File, metrics: &Metrics) -> Vec<Arc<Listener>> {
    let make = |(index, config): (usize, &config::bootstrap::Listener)| {
        let via = Via::new(&file.bootstrap.instance, &config.name, &config.listen);
        let handles = metrics.listener(&config.name);
        Arc::new(Listener::new(index, config.clone(), config.listen.clone(), None, handles, via))
    };
    file.bootstrap.listeners.values().enumerate().map(make).collect()
}

/// What requests would find.
fn shown(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    for (table, path) in
        snapshot.tables.iter().flat_map(|t| ["/p0", "/p1", "/p2", "/p3", "/"].map(|p| (t, p)))
    {
        let (headers, client) = (HeaderMap::new(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        let request =
            RequestView { host: "a", path, query: None, method: &Method::GET, headers: &headers, client };
        let _ = writeln!(text, "{path} {:?}", table.resolve(&request));
    }
    for route in &snapshot.routes {
        let target = match &route.target {
            Target::Upstream(index) => vec![*index],
            Target::Split { targets, .. } => targets.clone(),
        };
        let metrics: Vec<_> = route.metrics.iter().map(Option::is_some).collect();
        let _ = writeln!(text, "{:?} {target:?} {metrics:?}", route.config);
    }
    for upstream in &snapshot.upstreams {
        let endpoints: Vec<_> = upstream.candidates.iter().map(|c| (c.endpoint.id(), &c.config)).collect();
        let _ = writeln!(text, "{:?} {endpoints:?}", upstream.config);
    }
    let mut endpoints: Vec<_> = snapshot.endpoints.iter().collect();
    endpoints.sort();
    let _ = write!(text, "{endpoints:?}");
    text
}

/// Upstreams `u0…`, and for each number below 6 a route or none.
fn policy(upstreams: &[u8], routes: &[Option<(u8, u8)>]) -> String {
    let mut text = "  upstreams:\n".to_owned();
    for (i, port) in upstreams.iter().enumerate() {
        let _ = writeln!(text, "    u{i}: {{ endpoints: [127.0.0.1:{}] }}", 100 + u32::from(*port));
    }
    text.push_str("  routes:\n    always: { upstream: u0 }\n");
    for (i, route) in routes.iter().enumerate() {
        let Some((path, target)) = route else { continue };
        let listener = if path % 2 == 0 { "in" } else { "out" };
        let target = usize::from(*target) % upstreams.len();
        let _ = writeln!(
            text,
            "    r{i}: {{ listener: {listener}, match: {{ path: /p{path} }}, upstream: u{target} }}"
        );
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// However a policy came about, requests find what they would find if it had been there from the start.
    #[test]
    fn what_is_taken_over_is_what_would_have_been_made(
        history in prop::collection::vec(
            (prop::collection::vec(0_u8..4, 1..4), prop::collection::vec(prop::option::of((0_u8..4, 0_u8..4)), 6)),
            1..6,
        ),
    ) {
        let metrics = Metrics::new(1, 1000, "0", "0");
        let mut registry = Registry::default();
        let mut now = Snapshot::default();
        for (upstreams, routes) in history {
            let file = file(&policy(&upstreams, &routes));
            let listeners = listeners(&file, &metrics);
            let before = now;
            now = compile::compile(1, &file.policy, &before, &listeners, &mut registry, &metrics).unwrap();
            let fresh =
                compile::compile(1, &file.policy, &Snapshot::default(), &listeners, &mut registry, &metrics).unwrap();
            prop_assert_eq!(shown(&now), shown(&fresh));
        }
    }
}

#[test]
fn only_what_changed_is_made_anew() {
    let metrics = Metrics::new(1, 1000, "0", "0");
    let mut registry = Registry::default();
    let mut next = |before: &Snapshot, upstreams: &[u8], routes: &[Option<(u8, u8)>]| {
        let file = file(&policy(upstreams, routes));
        let listeners = listeners(&file, &metrics);
        compile::compile(1, &file.policy, before, &listeners, &mut registry, &metrics).unwrap()
    };
    let routes = [Some((0, 0)), Some((1, 1))];
    let first = next(&Snapshot::default(), &[0, 1], &routes);
    let second = next(&first, &[0, 2], &routes);
    assert!(Arc::ptr_eq(&first.upstreams[0], &second.upstreams[0]));
    assert!(!Arc::ptr_eq(&first.upstreams[1], &second.upstreams[1]));
    assert!(first.routes.iter().zip(&second.routes).all(|(a, b)| Arc::ptr_eq(a, b)));
    assert!(Arc::ptr_eq(&first.tables[0], &second.tables[0]));
    let third = next(&second, &[0, 2], &[Some((0, 0)), Some((1, 0))]);
    assert!(Arc::ptr_eq(&second.tables[0], &third.tables[0]), "the target is not in the table");
    assert!(!Arc::ptr_eq(&second.routes[2], &third.routes[2]));
    let fourth = next(&third, &[0, 2], &[Some((3, 0)), Some((1, 0))]);
    assert!(!Arc::ptr_eq(&third.tables[0], &fourth.tables[0]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whichever rules there are: a gate has those for its listener and its route, in order, and no others.
    #[test]
    fn gates_have_the_rules_for_their_requests_in_order(
        rules in prop::collection::vec(
            (0_u32..3, prop::option::of(0_usize..2), prop::option::of(0_usize..3), any::<bool>()),
            0..12,
        ),
    ) {
        const LISTENERS: [&str; 2] = ["in", "out"];
        let mut text = policy(&[0], &[Some((0, 0)), Some((1, 0)), Some((2, 0))]);
        text.push_str("  switches:\n    none: { reject: {} }\n");
        for (i, (priority, listener, route, on)) in rules.iter().enumerate() {
            let listener = listener.map(|at| format!("listener: {}, ", LISTENERS[at])).unwrap_or_default();
            let route = route.map(|at| format!("route: r{at}")).unwrap_or_default();
            let state = if *on { "on" } else { "off" };
            let _ = writeln!(
                text,
                "    s{i:02}: {{ priority: {priority}, match: {{ {listener}{route} }}, state: {state}, reject: {{}} }}"
            );
        }
        let (file, metrics) = (file(&text), Metrics::new(1, 1000, "0", "0"));
        let listeners = listeners(&file, &metrics);
        let mut registry = Registry::default();
        let snapshot =
            compile::compile(1, &file.policy, &Snapshot::default(), &listeners, &mut registry, &metrics).unwrap();
        for (at, _) in listeners.iter().enumerate() {
            for route in [None, Some(0), Some(1), Some(2), Some(3)] {
                let mut wanted: Vec<_> = rules.iter().enumerate().filter(|(_, (_, listener, named, on))| {
                    let name = |index: usize| snapshot.routes[index].config.name.to_string();
                    *on && listener.is_none_or(|listener| listener == at)
                        && named.is_none_or(|named| route.map(name) == Some(format!("r{named}")))
                }).collect();
                wanted.sort_by_key(|(i, (priority, ..))| (*priority, *i));
                let wanted: Vec<_> = wanted.into_iter().map(|(i, _)| format!("s{i:02}")).collect();
                let gate = snapshot.gates.of(at, route);
                let found: Vec<_> =
                    gate.iter().flat_map(|gate| &gate.switches).map(|switch| switch.name().to_string()).collect();
                prop_assert_eq!(found, wanted, "{} {:?}", at, route);
            }
        }
    }
}
