//! Which results count, for whom, and until when.

use std::io;

use hyper::{Request, body::Incoming};

use crate::{
    live::{Live, Moody},
    support::{
        client::{Client, empty},
        origin::{self, Origin, Scripted},
        raw::Raw,
        wait_until,
        weir::unused_address,
    },
};

/// Answers as the path wants it.
async fn as_asked(request: Request<Incoming>) -> Scripted {
    let asked = request.uri().path().trim_start_matches('/').to_owned();
    let trailers = |status| Ok(origin::with_trailers(200, "", &[("grpc-status", status)]));
    match asked.as_str() {
        "never" => std::future::pending().await,
        "reset" => Err(io::Error::other("reset")),
        "half" => Ok(origin::broken_off("half")),
        "refused" => Ok(origin::answer_with(503, &[("x-weir-retry", "no")], empty())),
        "trailers/0" => trailers("0"),
        "trailers/4" => trailers("4"),
        "trailers/8" => trailers("8"),
        "trailers/14" => trailers("14"),
        "head/14" => Ok(origin::answer_with(200, &[("grpc-status", "14")], empty())),
        "304" => Ok(origin::bare(304)),
        status => Ok(origin::answer(status.parse().unwrap(), "body")),
    }
}

#[test]
fn results_count_as_what_they_are() {
    let origin = Origin::start(as_asked);
    // So many calls that nothing falls out of the window, and nothing opens.
    let app = format!(
        "  upstreams:\n    app: {{ endpoints: [\"{}\"], breaker: {{ window: 1000, min_requests: 1000 }}, ejection: off }}\n  routes:\n    \
         all: {{ upstream: app }}\n",
        origin.address
    );
    let world = Live::start("", &app);
    let client = world.client();
    let mut so_far = (0, 0);
    let mut now = |what: &str, requests: u64, failures: u64| {
        so_far = (so_far.0 + requests, so_far.1 + failures);
        eprintln!("{what}");
        world.wait_window("app", so_far.0, so_far.1);
    };
    for (path, requests, failures) in [
        ("/200", 1, 0),
        ("/404", 1, 0),
        ("/429", 1, 0),
        ("/500", 1, 1),
        ("/501", 1, 0),
        ("/504", 1, 1),
        ("/304", 1, 0),
        ("/reset", 1, 1),
        ("/refused", 0, 0),
    ] {
        client.get("a.test", path);
        now(path, requests, failures);
    }
    client.send(client.to("a.test", "HEAD", "/200", &[], empty()));
    now("HEAD", 1, 0);
    let half = client.open(client.to("a.test", "GET", "/half", &[], empty())).unwrap();
    assert!(half.collect().is_err());
    now("half an answer", 1, 1);
    let client = world.client();
    let late = client.send(client.to("a.test", "GET", "/never", &[("x-weir-timeout-ms", "50")], empty()));
    assert_eq!(late.reason(), "deadline_exceeded");
    now("the client's deadline", 0, 0);
    let gone = Client::http1(world.weir.at("outbound"));
    let running = gone.start(gone.to("a.test", "GET", "/never", &[], empty()));
    wait_until("the request to run", || origin.running() > 0);
    running.abort();
    drop(gone);
    wait_until("the client to be gone", || origin.running() == 0);
    now("a client that goes away", 0, 0);

    let client = Client::http2(world.weir.at("outbound"));
    for (path, timeout, requests, failures) in [
        ("/trailers/0", None, 1, 0),
        ("/trailers/8", None, 1, 0),
        ("/trailers/14", None, 1, 1),
        ("/trailers/4", None, 1, 1),
        // It is the client that has no time, as the endpoint was the first to find out.
        ("/trailers/4", Some("10S"), 0, 0),
        ("/head/14", None, 1, 1),
        ("/200", None, 1, 1),
        ("/404", None, 1, 0),
        ("/429", None, 1, 0),
    ] {
        let mut headers = vec![("content-type", "application/grpc"), ("te", "trailers")];
        headers.extend(timeout.map(|timeout| ("grpc-timeout", timeout)));
        client.send(client.to("a.test", "POST", path, &headers, empty()));
        now(path, requests, failures);
    }
    // What fails after a good head is a failure of the endpoint's, too. One more than above: the reset was on a connection
    // that was used before, and the request was sent again.
    assert_eq!(world.endpoint("app", origin.address)["failures"], 9, "{}", world.upstream("app"));
}

#[test]
fn for_inbound_listeners_alone_a_breaker_only_observes() {
    let moody = Moody::start("app");
    let one =
        |name: &str, more: &str| format!("    {name}: {{ endpoints: [\"{}\"]{more} }}\n", moody.address());
    let upstreams = [
        one(
            "inward",
            ", breaker: { min_requests: 5, open_for: 1m }, ejection: off, fallback: { upstream: spare }",
        ),
        one("spare", ""),
        one("outward", ""),
        one("both", ""),
        one("told", ", breaker: auto"),
    ]
    .concat();
    let routes = "    a: { listener: inbound, match: { host: inward }, upstream: inward }\n    b: { listener: outbound, match: { host: \
                  outward }, upstream: outward }\n    c: { match: { host: both }, upstream: both }\n    d: { listener: inbound, match: { \
                  host: told }, upstream: told }\n";
    let world = Live::start("", &format!("  upstreams:\n{upstreams}  routes:\n{routes}"));
    let mode = |name: &str| world.upstream(name)["breaker"]["mode"].as_str().unwrap().to_owned();
    for (name, expected) in
        [("inward", "observe"), ("spare", "observe"), ("outward", "auto"), ("both", "auto"), ("told", "auto")]
    {
        assert_eq!(mode(name), expected, "{name}");
    }
    moody.set(500);
    let client = Client::http1(world.weir.at("inbound"));
    for _ in 0..30 {
        assert_eq!(client.get("inward", "/").status, 500);
    }
    world.wait_upstream("inward", "open, for show", |it| it["breaker"]["state"] == "open");
    assert_eq!(client.get("inward", "/").status, 500);
    // An operator's word counts, and taken back it is as it was.
    world.put("upstreams/inward.yaml", "{breaker: {mode: auto}, fallback: null}");
    wait_until("it to act", || client.get("inward", "/").status == 503);
    world.put("upstreams/inward.yaml", "{breaker: {mode: null}, fallback: null}");
    wait_until("it to observe", || client.get("inward", "/").status == 500);
    assert_eq!(mode("inward"), "observe");
}

#[test]
fn a_routes_own_breaker_keeps_its_state_through_edits_and_leaves_nothing_behind() {
    let moody = Moody::start("app");
    let world = Live::start(
        "",
        &format!(
            "  upstreams:\n    app: {{ endpoints: [\"{}\"], ejection: off }}\n  routes:\n    own: {{ match: {{ path: /own }}, upstream: \
             app, breaker: {{ min_requests: 5, open_for: 1m }} }}\n    all: {{ upstream: app }}\n",
            moody.address()
        ),
    );
    let client = world.client();
    moody.set(500);
    wait_until("the route's breaker to open", || client.get("a.test", "/own").status == 503);
    moody.set(200);
    assert_eq!(client.get("a.test", "/").status, 200, "the upstream's own has its own state");
    let own = [("upstream", "app"), ("route", "own"), ("state", "open")];
    world.weir.wait_metric("weir_breaker_state", &own, 1.0);
    world.weir.wait_metric("weir_breaker_transitions_total", &[("route", "own"), ("to", "open")], 1.0);
    world.put("routes/own.yaml", "{breaker: {failure_rate: 90%}, response_headers: {set: {x-edited: '1'}}}");
    world.put("upstreams/app.yaml", "{breaker: {half_open: 5}}");
    let edited = |world: &Live| world.weir.admin_get("/policy").text().contains("x-edited");
    wait_until("the edit", || edited(&world));
    assert_eq!(client.get("a.test", "/own").reason(), "breaker_open");
    assert_eq!(world.upstream("app")["route_breakers"]["own"]["state"], "open");
    world.put("routes/own.yaml", "null");
    wait_until("the route to go", || client.get("a.test", "/own").status == 200);
    world.weir.wait_metric("weir_breaker_state", &[("upstream", "app"), ("route", "own")], 0.0);
    assert!(world.upstream("app").get("route_breakers").is_none());
}

#[test]
fn bypass_takes_everything_out_of_the_way_and_gives_it_back() {
    let (bad, good) = (Moody::start("bad"), Moody::start("good"));
    let world = Live::start(
        "",
        &format!(
            "  upstreams:\n    app: {{ endpoints: [\"{}\"], breaker: {{ min_requests: 5, open_for: 1m }}, fallback: {{ respond: {{ status: \
             203 }} }} }}\n    two: {{ endpoints: [\"{}\", \"{}\"], breaker: off, ejection: {{ base: 1m }}, balancer: {{ policy: \
             round_robin }} }}\n    gone: {{ endpoints: [\"{}\"], fallback: {{ upstream: two }} }}\n    late: {{ endpoints: [\"{}\"] }}\n  routes:\n    app: {{ upstream: app \
             }}\n    two: {{ match: {{ host: two }}, upstream: two }}\n    gone: {{ match: {{ host: gone }}, upstream: gone \
             }}\n    late: {{ match: {{ host: late }}, upstream: late }}\n",
            bad.address(),
            bad.address(),
            good.address(),
            unused_address(),
            bad.address()
        ),
    );
    let client = world.client();
    let statuses = |client: &Client| -> Vec<u16> { (0..4).map(|_| client.get("two", "/").status).collect() };
    bad.set(500);
    wait_until("the breaker to open", || client.get("a.test", "/").status == 203);
    wait_until("the ejection", || statuses(&client).iter().all(|status| *status == 200));
    assert_eq!(client.get("gone", "/").text(), "good");
    world.put("bypass", "on");
    wait_until("bypass", || client.get("a.test", "/").status == 500);
    assert_eq!(statuses(&client).iter().filter(|status| **status == 500).count(), 2);
    assert_eq!(client.get("gone", "/").reason(), "connect_refused");
    // Balancing stays, and knows what fails.
    assert_eq!(client.get("late", "/").status, 500);
    world.wait_upstream("late", "penalised", |it| it["endpoints"][0]["penalised"] == true);
    let window = world.upstream("app")["breaker"]["window"].clone();
    client.get("a.test", "/");
    assert_eq!(world.upstream("app")["breaker"]["window"], window, "nothing counts");
    world.unset("bypass");
    wait_until("the breaker to be as it was", || client.get("a.test", "/").status == 203);
    assert!(statuses(&client).iter().all(|status| *status == 200), "and the ejection");
    assert_eq!(client.get("gone", "/").text(), "good");
}

#[test]
fn who_asks_for_what_an_endpoint_does_not_do_takes_it_from_nobody() {
    let origin = Origin::answering(200, "ok");
    let world = Live::start(
        "",
        &format!(
            "  upstreams:\n    app: {{ endpoints: [\"{}\"], protocol: http2 }}\n  routes:\n    all: {{ upstream: app }}\n",
            origin.address
        ),
    );
    let mut raw = Raw::connect(world.weir.at("outbound"));
    for _ in 0..5 {
        raw.send(
            "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: \
             13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        assert_eq!(raw.answer().status(), 502);
    }
    assert_eq!(raw.get("a", "/").status(), 200);
    world.wait_window("app", 1, 0);
}
