use std::time::Duration;

use ::http::{HeaderName, HeaderValue, Method};
use proptest::prelude::*;

use super::*;
use crate::{
    config::policy::{GrpcPattern, HeaderEdits, Priority, Rewrite, Target, ValuePattern},
    route::matcher::{Matcher, below, tests::Sample},
};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn route(route_name: &str, matches: Match) -> Arc<Route> {
    Arc::new(Route {
        name: name(route_name),
        matches,
        target: Target::Upstream(name("app")),
        timeout: Some(Duration::from_secs(15)),
        idle_timeout: None,
        priority: Priority::Normal,
        rewrite: Rewrite::default(),
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
        max_body: None,
        breaker: None,
        fallback: None,
    })
}

fn host(text: &str) -> HostPattern {
    text.strip_prefix('*').map_or_else(|| HostPattern::Exact(text.into()), |s| HostPattern::Suffix(s.into()))
}

fn path(text: &str) -> PathPattern {
    if let Some(regex) = text.strip_prefix('~') {
        PathPattern::Regex(Pattern::new(regex).unwrap())
    } else if let Some(prefix) = text.strip_suffix("/*") {
        PathPattern::Prefix(prefix.into())
    } else {
        PathPattern::Exact(text.into())
    }
}

fn at(hosts: &[&str], paths: &[&str]) -> Match {
    Match {
        host: hosts.iter().copied().map(host).collect(),
        path: paths.iter().copied().map(path).collect(),
        ..Match::default()
    }
}

/// The name of the route that the table finds.
fn found<'a>(routes: &'a [Arc<Route>], sample: &Sample) -> Option<&'a str> {
    let table = RouteTable::compile(routes, &name("in"));
    table.resolve(&sample.view()).map(|index| routes[index.get()].name.as_str())
}

#[test]
fn the_most_specific_host_wins_and_falls_through() {
    let routes = [
        route("any", at(&[], &[])),
        route("wide", at(&["*.com"], &["/*"])),
        route("narrow", at(&["*.shop.com"], &["/*"])),
        route("exact", at(&["a.shop.com"], &["/only"])),
    ];
    for (host, target, expected) in [
        ("a.shop.com", "/only", "exact"),
        ("a.shop.com", "/else", "narrow"),
        ("b.c.shop.com", "/only", "narrow"),
        ("shop.com", "/", "wide"),
        ("com", "/", "any"),
        (".com", "/", "any"),
        ("", "/", "any"),
    ] {
        assert_eq!(found(&routes, &Sample::get(host, target)), Some(expected), "{host}{target}");
    }
}

#[test]
fn the_most_specific_path_wins() {
    let routes = [
        route("all", at(&["h"], &[])),
        route("a", at(&["h"], &["/a/*"])),
        route("ab", at(&["h"], &["/a/b/*"])),
        route("exact", at(&["h"], &["/a/b"])),
        route("regex", at(&["g"], &["~/v[0-9]+"])),
        route("prefix-before-regex", at(&["g"], &["/x/*"])),
        route("regex-before-all", at(&["i"], &["~/v[0-9]+"])),
        route("all-of-i", at(&["i"], &["/*"])),
    ];
    for (host, target, expected) in [
        ("h", "/a/b", Some("exact")),
        ("h", "/a/b/", Some("ab")),
        ("h", "/a/b/c/d", Some("ab")),
        ("h", "/a/bc", Some("a")),
        ("h", "/a", Some("a")),
        ("h", "/ab", Some("all")),
        ("h", "/", Some("all")),
        ("g", "/v12", Some("regex")),
        ("g", "/x/v12", Some("prefix-before-regex")),
        ("i", "/v1", Some("regex-before-all")),
        ("i", "/w1", Some("all-of-i")),
        ("g", "/v", None),
    ] {
        assert_eq!(found(&routes, &Sample::get(host, target)), expected, "{host}{target}");
    }
}

#[test]
fn criteria_decide_between_equal_paths() {
    let header = |n: &'static str| (HeaderName::from_static(n), ValuePattern::Present);
    let routes = [
        route("a-plain", at(&[], &[])),
        route("b-plain", at(&[], &[])),
        route("method", Match { methods: vec![Method::GET], ..Match::default() }),
        route("one-header", Match { headers: vec![header("x-a")], ..Match::default() }),
        route("two-headers", Match { headers: vec![header("x-a"), header("x-b")], ..Match::default() }),
        route("query", Match { query: vec![("q".into(), ValuePattern::Present)], ..Match::default() }),
    ];
    let put = |sample: Sample| sample.method(Method::PUT);
    for (sample, expected) in [
        (put(Sample::get("h", "/")), "a-plain"),
        (Sample::get("h", "/").header("x-a", "1").header("x-b", "1"), "method"),
        (put(Sample::get("h", "/?q").header("x-a", "1").header("x-b", "1")), "two-headers"),
        (put(Sample::get("h", "/?q").header("x-a", "1")), "one-header"),
        (put(Sample::get("h", "/?q")), "query"),
    ] {
        assert_eq!(found(&routes, &sample), Some(expected));
    }
}

#[test]
fn grpc_stands_at_the_path_that_it_implies() {
    let grpc = |method: Option<&str>| Match {
        grpc: Some(GrpcPattern { service: "shop.Cart".into(), method: method.map(Into::into) }),
        ..Match::default()
    };
    let routes =
        [route("all", at(&[], &[])), route("service", grpc(None)), route("method", grpc(Some("Add")))];
    let call = |path| Sample::get("h", path).method(Method::POST).header("content-type", "application/grpc");
    assert_eq!(found(&routes, &call("/shop.Cart/Add")), Some("method"));
    assert_eq!(found(&routes, &call("/shop.Cart/Del")), Some("service"));
    assert_eq!(found(&routes, &call("/shop.Order/Del")), Some("all"));
    assert_eq!(found(&routes, &Sample::get("h", "/shop.Cart/Add")), Some("all"));
}

#[test]
fn only_routes_of_the_listener_count() {
    let routes = [
        route("out", Match { listener: Some(name("out")), ..at(&["h"], &["/"]) }),
        route("in", Match { listener: Some(name("in")), ..Match::default() }),
    ];
    assert_eq!(found(&routes, &Sample::get("h", "/")), Some("in"));
}

#[test]
fn deep_paths_and_long_prefixes() {
    let long = format!("/{}", "p".repeat(300));
    let routes = [route("long", at(&[], &[&format!("{long}/*")])), route("short", at(&[], &["/p/*"]))];
    assert_eq!(found(&routes, &Sample::get("h", &format!("{long}/x"))), Some("long"));
    assert_eq!(found(&routes, &Sample::get("h", &long)), Some("long"));
    assert_eq!(found(&routes, &Sample::get("h", &format!("{long}p"))), None);
    assert_eq!(found(&routes, &Sample::get("h", &format!("/p{}", "/a".repeat(30_000)))), Some("short"));
}

/// The definition, read off the module's text: every pair of host and path in order of precedence, the
/// first that matches.
fn reference(routes: &[Arc<Route>], sample: &Sample) -> Option<usize> {
    let view = sample.view();
    let mut best: Option<(_, usize)> = None;
    for (index, route) in routes.iter().enumerate() {
        let m = &route.matches;
        if m.listener.as_ref().is_some_and(|l| l.as_str() != "in") {
            continue;
        }
        let hosts = if m.host.is_empty() { vec![None] } else { m.host.iter().map(Some).collect() };
        let implied = m.grpc.as_ref().map_or(PathPattern::Prefix("".into()), |g| match &g.method {
            Some(method) => PathPattern::Exact(format!("/{}/{method}", g.service).into()),
            None => PathPattern::Prefix(format!("/{}", g.service).into()),
        });
        let paths = if m.path.is_empty() { vec![implied] } else { m.path.clone() };
        for host in &hosts {
            for path in &paths {
                let one = Match {
                    host: host.iter().map(|h| (*h).clone()).collect(),
                    path: vec![path.clone()],
                    ..m.clone()
                };
                if !Matcher::compile(&one).matches(&view) {
                    continue;
                }
                let host_rank = match host {
                    Some(HostPattern::Exact(_)) => (0, 0),
                    Some(HostPattern::Suffix(s)) => (1, usize::MAX - s.len()),
                    None => (2, 0),
                };
                let path_rank = match path {
                    PathPattern::Exact(_) => (0, 0),
                    PathPattern::Prefix(p) if p.is_empty() => (3, 0),
                    PathPattern::Prefix(p) => (1, usize::MAX - p.len()),
                    PathPattern::Regex(_) => (2, 0),
                };
                let criteria =
                    m.headers.len() + usize::from(!m.client.is_empty()) + usize::from(m.grpc.is_some());
                let rank = (
                    host_rank,
                    path_rank,
                    m.methods.is_empty(),
                    Reverse(criteria),
                    Reverse(m.query.len()),
                    route.name.clone(),
                );
                if best.as_ref().is_none_or(|(b, _)| rank < *b) {
                    best = Some((rank, index));
                }
            }
        }
    }
    best.map(|(_, index)| index)
}

fn matches() -> impl Strategy<Value = Match> {
    let hosts = prop::sample::subsequence(vec!["a", "b.a", "c.b.a", "*.a", "*.b.a", "*.c.b.a"], 0..=2);
    let paths = prop::sample::subsequence(
        vec!["/", "/*", "/a", "/a/*", "/a/b", "/a/b/*", "/a/b/c/*", "/s.T/m", "/s.T/*", "~/a.*", "~/[ab]"],
        0..3,
    );
    // Mostly the same host and path, so that what comes after them in the order has to decide.
    let hosts = prop_oneof![3 => Just(vec![]), 2 => hosts];
    let paths = prop_oneof![1 => Just(vec!["/a/*"]), 3 => paths];
    let methods = prop::sample::subsequence(vec![Method::GET, Method::POST], 0..2);
    let value = prop_oneof![
        Just(ValuePattern::Present),
        Just(ValuePattern::Absent),
        Just(ValuePattern::Exact("1".into())),
        Just(ValuePattern::Regex(Pattern::new("[12]").unwrap())),
    ];
    let headers = prop::collection::vec((prop::sample::select(vec!["x-a", "x-b"]), value.clone()), 0..3);
    let query = prop::collection::vec((prop::sample::select(vec!["p", "q"]), value), 0..3);
    let client = prop::sample::subsequence(vec!["10.0.0.0/8", "11.0.0.0/8"], 0..2);
    let grpc = prop::option::weighted(0.1, prop::option::of(Just("m")));
    let listener = prop::option::weighted(0.2, prop::sample::select(vec!["in", "out"]));
    (hosts, paths, methods, headers, query, client, grpc, listener).prop_map(
        |(hosts, paths, methods, headers, query, client, grpc, listener)| Match {
            listener: listener.map(name),
            methods,
            headers: headers.into_iter().map(|(n, v)| (HeaderName::from_static(n), v)).collect(),
            query: query.into_iter().map(|(n, v)| (n.into(), v)).collect(),
            client: client.into_iter().map(|c| c.parse().unwrap()).collect(),
            grpc: grpc.map(|method| GrpcPattern { service: "s.T".into(), method: method.map(Into::into) }),
            ..at(&hosts, &paths)
        },
    )
}

fn samples() -> impl Strategy<Value = Sample> {
    let host = prop::sample::select(vec!["", "a", "b.a", "c.b.a", "d.c.b.a", "x.a", "z"]);
    let path = prop::sample::select(vec![
        "/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/a/b/c/d", "/ab", "/b", "/s.T/m", "/s.T/n", "/s.T",
    ]);
    let query = prop::option::of(prop::sample::select(vec!["", "p=1", "p=2&q", "q=1&p=3"]));
    let headers =
        prop::sample::subsequence(vec![("x-a", "1"), ("x-a", "2"), ("x-b", "1"), ("x-b", "3")], 0..4);
    let (grpc, post) = (any::<bool>(), any::<bool>());
    (host, path, query, headers, grpc, post).prop_map(|(host, path, query, headers, grpc, post)| {
        let mut sample = Sample::get(host, path);
        sample.query = query.map(ToOwned::to_owned);
        for (n, v) in headers {
            sample.headers.append(n, HeaderValue::from_static(v));
        }
        if grpc {
            sample = sample.header("content-type", "application/grpc");
        }
        if grpc || post { sample.method(Method::POST) } else { sample }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn agrees_with_the_reference(
        blocks in prop::collection::vec(matches(), 0..24),
        samples in prop::collection::vec(samples(), 1..24),
    ) {
        // Names in an order of their own, so that they cannot stand in for the position.
        let routes: Vec<_> = blocks
            .into_iter()
            .enumerate()
            .map(|(i, block)| route(&format!("r{}", (i * 7 + 3) % 24), block))
            .collect();
        let table = RouteTable::compile(&routes, &name("in"));
        for sample in samples {
            let found = table.resolve(&sample.view()).map(RouteIndex::get);
            prop_assert_eq!(found, reference(&routes, &sample), "{}{}", sample.host, sample.path);
        }
    }

    #[test]
    fn what_is_below_a_prefix(path in "(/[ab]{0,2}){1,4}", prefix in "(/[ab]{1,2}){0,3}") {
        let expected = path == prefix || path.starts_with(&format!("{prefix}/"));
        prop_assert_eq!(below(&prefix, &path).is_some(), expected);
    }
}
