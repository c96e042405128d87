//! Which route a request takes, and what becomes of it on the way.

use std::collections::BTreeMap;

use crate::support::{
    client::{Client, empty},
    origin::Origin,
    weir::Weir,
};

/// Host, method, path, headers, and the route that is wanted.
type Case = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);

/// Weir with these routes, each written `name: { fields }`; every one goes to `app`, and tells its name in `x-route`.
fn with_routes(origin: &Origin, routes: &[(&str, &str)]) -> Weir {
    let routes = routes
        .iter()
        .map(|(name, fields)| {
            format!("    {name}: {{ upstream: app, response_headers: {{ set: {{ x-route: {name} }} }}, {fields} }}\n")
        })
        .collect::<Vec<_>>()
        .concat();
    Weir::start(&format!(
        "listeners:\n  inbound: {{ listen: \"{{{{inbound}}}}\" }}\n  outbound: {{ listen: \"{{{{outbound}}}}\" }}\npolicy:\n  \
         upstreams:\n    app: {{ endpoints: [\"{}\"] }}\n  routes:\n{routes}",
        origin.address
    ))
}

#[test]
fn precedence_is_that_of_the_gateway_api() {
    let origin = Origin::answering(200, "ok");
    let weir = with_routes(
        &origin,
        &[
            ("any", "match: {}"),
            ("prefix", "match: { path: /a/* }"),
            ("longer", "match: { path: /a/b/* }"),
            ("exact", "match: { path: /a/b/c }"),
            ("regex", "match: { path: \"~/a/[0-9]+\" }"),
            ("posts", "match: { path: /a/*, methods: [POST] }"),
            ("marked", "match: { path: /a/*, headers: { x-mark: present } }"),
            ("queried", "match: { path: /a/*, query: { debug: \"1\" } }"),
            ("wild", "match: { host: \"*.example.com\" }"),
            ("deeper", "match: { host: \"*.shop.example.com\" }"),
            ("host", "match: { host: www.example.com, path: /a/* }"),
        ],
    );
    let client = Client::http1(weir.at("inbound"));
    let cases: &[Case] = &[
        ("x.test", "GET", "/", &[], "any"),
        ("x.test", "GET", "/a", &[], "prefix"),
        ("x.test", "GET", "/a/x", &[], "prefix"),
        ("x.test", "GET", "/ab", &[], "any"),
        ("x.test", "GET", "/a/b/x", &[], "longer"),
        ("x.test", "GET", "/a/b/c", &[], "exact"),
        ("x.test", "POST", "/a/x", &[], "posts"),
        ("x.test", "GET", "/a/x", &[("x-mark", "1")], "marked"),
        ("x.test", "GET", "/a/x?debug=1", &[], "queried"),
        ("x.test", "GET", "/a/x?debug=2", &[], "prefix"),
        ("x.test", "GET", "/a//b/./c/../c", &[], "exact"),
        ("x.test", "GET", "/%61/%62/%63", &[], "exact"),
        ("x.test", "GET", "/a%2Fb%2Fc", &[], "any"),
        ("WWW.Example.com", "GET", "/a/x", &[], "host"),
        ("www.example.com:8080", "GET", "/a/x", &[], "host"),
        ("www.example.com", "GET", "/b", &[], "wild"),
        ("a.shop.example.com", "GET", "/a/b/c", &[], "deeper"),
        ("example.com", "GET", "/", &[], "any"),
    ];
    for (host, method, path, headers, wanted) in cases {
        let answer = client.send(client.to(host, method, path, headers, empty()));
        assert_eq!(answer.header("x-route"), *wanted, "{method} {host}{path} {headers:?}");
    }
    let routes = [("prefix", "match: { path: /b/* }"), ("regex", "match: { path: \"~/a/[0-9]+\" }")];
    let weir = with_routes(&origin, &routes);
    let client = Client::http1(weir.at("inbound"));
    assert_eq!(client.get("x.test", "/a/12").header("x-route"), "regex");
    assert_eq!(client.get("x.test", "/a/12/b").status, 404, "a regex matches the whole path");
}

#[test]
fn the_whole_match_block_counts() {
    let origin = Origin::answering(200, "ok");
    let weir = with_routes(
        &origin,
        &[
            ("rest", "match: {}"),
            ("out", "listener: outbound"),
            (
                "header",
                "match: { path: /header, headers: { x-a: one, x-b: \"~t.*\", x-c: present, x-d: absent } }",
            ),
            ("here", "match: { path: /client, client: [127.0.0.0/8] }"),
            ("elsewhere", "match: { path: /nowhere, client: [192.0.2.0/24] }"),
            ("call", "match: { grpc: shop.Orders/Get }"),
            ("calls", "match: { grpc: shop.Orders }"),
        ],
    );
    let client = Client::http1(weir.at("inbound"));
    let route = |method: &str, path: &str, headers: &[(&str, &str)]| {
        client.send(client.to("x.test", method, path, headers, empty())).header("x-route").to_owned()
    };
    let all = [("x-a", "one"), ("x-b", "two"), ("x-c", "")];
    assert_eq!(route("GET", "/header", &all), "header");
    assert_eq!(route("GET", "/header", &all[..2]), "rest");
    assert_eq!(route("GET", "/header", &[&all[..], &[("x-d", "1")]].concat()), "rest");
    assert_eq!(route("GET", "/header", &[("x-a", "two"), ("x-b", "two"), ("x-c", "")]), "rest");
    assert_eq!(route("GET", "/client", &[]), "here");
    assert_eq!(route("GET", "/nowhere", &[]), "rest");
    assert_eq!(
        route("GET", "/client", &[("x-forwarded-for", "192.0.2.1")]),
        "rest",
        "a trusted peer names the client"
    );
    assert_eq!(route("GET", "/nowhere", &[("x-forwarded-for", "192.0.2.1")]), "elsewhere");
    let grpc = [("content-type", "application/grpc")];
    assert_eq!(route("POST", "/shop.Orders/Get", &[]), "rest", "not gRPC");
    let outbound = Client::http1(weir.at("outbound"));
    assert_eq!(outbound.get("x.test", "/any").header("x-route"), "out");
    let h2 = Client::http2(weir.at("inbound"));
    for (path, wanted) in
        [("/shop.Orders/Get", "call"), ("/shop.Orders/Put", "calls"), ("/shop.Other/Get", "rest")]
    {
        let answer = h2.send(h2.to("x.test", "POST", path, &grpc, empty()));
        assert_eq!(answer.header("x-route"), wanted, "{path}");
    }
}

#[test]
fn what_is_forwarded_is_what_was_matched() {
    let origin = Origin::answering(200, "ok");
    let weir = with_routes(&origin, &[("any", "match: {}")]);
    let client = Client::http1(weir.at("inbound"));
    for (sent, forwarded) in [
        ("/a/./b//c", "/a/b/c"),
        ("/a/../b", "/b"),
        ("/%7euser/%2e%2E/x", "/x"),
        ("/a%2fb%5cc", "/a%2Fb%5Cc"),
        ("/a?x=/../%2e&y", "/a?x=/../%2e&y"),
        ("/a/", "/a/"),
        ("/?", "/?"),
    ] {
        client.get("x.test", sent);
        assert_eq!(origin.last().uri.to_string(), forwarded, "for {sent}");
    }
}

#[test]
fn rewrites_and_header_edits() {
    let origin = Origin::answering(200, "ok");
    let weir = with_routes(
        &origin,
        &[
            ("api", "match: { path: /api/* }, rewrite: { path_prefix: /v2, host: internal.test }"),
            ("top", "match: { path: /top/* }, rewrite: { path_prefix: / }"),
            ("one", "match: { path: /one }, rewrite: { path_prefix: /two }"),
            (
                "edit",
                "match: { path: /edit }, request_headers: { set: { x-set: new }, add: { x-add: more }, remove: [x-gone] }",
            ),
        ],
    );
    let client = Client::http1(weir.at("inbound"));
    for (sent, forwarded) in [
        ("/api/orders?x=1", "/v2/orders?x=1"),
        ("/api", "/v2"),
        ("/top/a/b", "/a/b"),
        ("/top", "/"),
        ("/one?q", "/two?q"),
    ] {
        client.get("x.test", sent);
        assert_eq!(origin.last().uri.to_string(), forwarded, "for {sent}");
    }
    client.get("x.test", "/api/a");
    assert_eq!(origin.last().host(), "internal.test");
    let headers = [("x-set", "old"), ("x-add", "first"), ("x-gone", "1")];
    client.send(client.to("x.test", "GET", "/edit", &headers, empty()));
    let seen = origin.last();
    assert_eq!((seen.header("x-set").as_str(), seen.header("x-gone").as_str()), ("new", ""));
    assert_eq!(seen.header("x-add"), "first, more");
}

/// Weir that splits 80:20 between two upstreams that say who they are.
fn split(key: &str) -> (Origin, Origin, Weir) {
    let (a, b) = (Origin::answering(200, "a"), Origin::answering(200, "b"));
    let weir = Weir::start(&format!(
        "listeners:\n  inbound: {{ listen: \"{{{{inbound}}}}\" }}\npolicy:\n  upstreams:\n    a: {{ endpoints: [\"{}\"] }}\n    \
         b: {{ endpoints: [\"{}\"] }}\n  routes:\n    all: {{ split: [{{ upstream: a, weight: 80 }}, {{ upstream: b, weight: 20 }}]{key} }}\n",
        a.address, b.address
    ));
    (a, b, weir)
}

#[test]
fn a_split_follows_its_weights() {
    let (a, b, weir) = split("");
    let client = Client::http1(weir.at("inbound"));
    for _ in 0..1000 {
        assert_eq!(client.get("x.test", "/").status, 200);
    }
    assert_eq!(a.requests() + b.requests(), 1000);
    // The chance of a fair draw to be further off than this is below one in a million.
    assert!((730..=870).contains(&a.requests()), "{} of 1,000 went to the one with 80 %", a.requests());
}

#[test]
fn a_split_with_a_key_is_sticky() {
    let (_a, _b, weir) = split(", key: [\"header:x-user\"]");
    let client = Client::http1(weir.at("inbound"));
    let mut places = BTreeMap::new();
    for round in 0..3 {
        for user in 0..200 {
            let request = client.to("x.test", "GET", "/", &[("x-user", &format!("user-{user}"))], empty());
            let place = client.send(request).text();
            assert_eq!(
                places.entry(user).or_insert_with(|| place.clone()),
                &place,
                "user {user}, round {round}"
            );
        }
    }
    let at_b = places.values().filter(|place| *place == "b").count();
    assert!((10..=80).contains(&at_b), "{at_b} of 200 users are with the one that has 20 %");
}
