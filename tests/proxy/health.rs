//! Endpoints that are taken out, by their checks and by their own results; and those that DNS knows.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::{
    live::{Live, Moody},
    support::{
        client::{Client, empty},
        origin::{self, Origin},
        wait_until,
    },
};

#[test]
fn where_too_few_are_healthy_only_probes_pass_and_the_rest_is_told_at_once() {
    let (one, other) = (Moody::start("one"), Moody::start("other"));
    let checked =
        |origin: &Moody| origin.origin.seen().iter().filter(|seen| seen.uri.path() == "/healthz").count();
    let world = Live::start(
        "",
        &format!(
            "  upstreams:\n    app: {{ endpoints: [\"{}\", \"{}\"], breaker: off, health: {{ http: /healthz, interval: 100ms, fall: 2, rise: \
             1 }} }}\n  routes:\n    all: {{ upstream: app }}\n",
            one.address(),
            other.address()
        ),
    );
    let states = |state, count| {
        world.weir.wait_metric("weir_endpoints", &[("upstream", "app"), ("state", state)], count);
    };
    states("healthy", 2.0);
    one.set(500);
    other.set(500);
    states("unhealthy", 2.0);
    world.wait_upstream("app", "in panic", |it| it["standing"]["state"] == "panic");
    let endpoint = world.endpoint("app", one.address());
    assert_eq!(
        (endpoint["state"].as_str(), endpoint["health"]["state"].as_str()),
        (Some("unhealthy"), Some("unhealthy"))
    );
    assert!(endpoint["health"]["last"]["fault"].as_str().unwrap().contains("500"), "{endpoint}");
    let client = world.client();
    let answers: Vec<_> = (0..100).map(|_| client.get("x", "/")).collect();
    let (passed, told): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 500);
    assert!((1..=25).contains(&passed.len()), "{} probes", passed.len());
    for answer in told {
        assert_eq!((answer.status, answer.reason().as_str()), (503, "no_healthy_endpoint"));
        assert_eq!((answer.header("retry-after"), answer.header("x-weir-retry")), ("1", "no"));
    }
    // Checks go on, by connections of their own, and find out when it is over.
    let before = checked(&one);
    wait_until("checks to go on", || checked(&one) > before);
    one.set(200);
    wait_until("one to be back", || {
        client.get("x", "/").text() == "one" && client.get("x", "/").status == 200
    });
    other.set(200);
    // Its own results may have taken it out, too: then a request brings it back.
    wait_until("both to be back", || {
        client.get("x", "/");
        world.weir.metrics().sum("weir_endpoints", &[("upstream", "app"), ("state", "healthy")]) > 1.5
    });
    assert_eq!(world.upstream("app")["standing"]["state"], "serving");
}

#[test]
fn why_an_endpoint_is_out_is_told_and_an_edit_shortens_it() {
    let (bad, good) = (Moody::start("bad"), Moody::start("good"));
    let world = Live::start(
        "",
        &format!(
            "  upstreams:\n    app: {{ endpoints: [\"{}\", \"{}\"], breaker: off, balancer: {{ policy: round_robin }}, ejection: {{ base: \
             1m }} }}\n  routes:\n    all: {{ upstream: app }}\n",
            bad.address(),
            good.address()
        ),
    );
    let client = world.client();
    bad.set(500);
    while world.endpoint("app", bad.address())["state"] != "ejected" {
        client.get("x", "/");
    }
    let ejection = world.endpoint("app", bad.address())["ejection"].clone();
    assert_eq!((ejection["state"].as_str(), ejection["cause"].as_str()), (Some("out"), Some("consecutive")));
    assert!(ejection["until_s"].as_f64().unwrap() > 20.0, "{ejection}");
    assert_eq!((world.upstream("app")["ejected"].as_u64(), ejection["times"].as_u64()), (Some(1), Some(1)));
    world.weir.wait_metric("weir_endpoints", &[("upstream", "app"), ("state", "ejected")], 1.0);
    world.weir.wait_metric("weir_ejections_total", &[("upstream", "app"), ("cause", "consecutive")], 1.0);
    let seen = bad.origin.requests();
    for _ in 0..20 {
        assert_eq!(client.get("x", "/").text(), "good");
    }
    assert_eq!(bad.origin.requests(), seen);
    // Whoever shortens it need not wait for what it was.
    bad.set(200);
    world.put("upstreams/app.yaml", "{ejection: {base: 100ms, max: 100ms}}");
    wait_until("it to be back", || client.get("x", "/").text() == "bad");
    assert_eq!(world.endpoint("app", bad.address())["ejection"]["state"], "in");
    world.weir.wait_metric("weir_endpoints", &[("upstream", "app"), ("state", "ejected")], 0.0);
}

#[test]
fn half_an_answer_brings_nobody_back() {
    let breaks = Arc::new(AtomicBool::new(true));
    let now = breaks.clone();
    let half = Origin::start(move |_| {
        let breaks = now.load(Ordering::SeqCst);
        async move { Ok(if breaks { origin::broken_off("half") } else { origin::answer(200, "whole") }) }
    });
    let good = Moody::start("good");
    let world = Live::start(
        "",
        &format!(
            "  upstreams:\n    app: {{ endpoints: [\"{}\", \"{}\"], breaker: off, balancer: {{ policy: round_robin }}, ejection: {{ base: \
             100ms, max: 200ms }} }}\n  routes:\n    all: {{ upstream: app }}\n",
            half.address,
            good.address()
        ),
    );
    let ask = || {
        let client = Client::http1(world.weir.at("outbound"));
        let streaming = client.open(client.to("x", "GET", "/", &[], empty())).unwrap();
        streaming.collect().map(|answer| answer.text()).unwrap_or_default()
    };
    let ejections = |cause| world.weir.metrics().sum("weir_ejections_total", &[("cause", cause)]);
    wait_until("it to go", || {
        ask();
        ejections("consecutive") > 0.5
    });
    wait_until("its probes to fail", || {
        ask();
        ejections("probe") > 2.5
    });
    assert!(ejections("consecutive") < 1.5, "it was not in again meanwhile");
    breaks.store(false, Ordering::SeqCst);
    wait_until("it to be back", || ask() == "whole" && world.upstream("app")["ejected"] == 0);
}

#[test]
fn names_are_looked_up_and_their_addresses_join() {
    let (named, listed) = (Moody::start("named"), Moody::start("listed"));
    let port = named.address().port();
    let world = Live::start(
        "",
        &format!(
            "  upstreams:\n    app: {{ endpoints: [\"{}\"], discover: {{ dns: \"localhost:{port}\" }}, balancer: {{ policy: round_robin }} \
             }}\n  routes:\n    all: {{ upstream: app }}\n",
            listed.address()
        ),
    );
    let client = world.client();
    for name in ["named", "listed"] {
        wait_until(name, || {
            let answer = client.get("x", "/");
            answer.status == 200 && answer.text() == name
        });
    }
    let found = world.endpoint("app", named.address());
    assert_eq!((found["source"].as_str(), found["slow_start"].is_null()), (Some("dns"), true), "{found}");
    let discover = world.upstream("app")["discover"].clone();
    assert_eq!(discover["name"], format!("localhost:{port}"));
    assert!(
        discover["addresses"].as_array().unwrap().contains(&named.address().to_string().into()),
        "{discover}"
    );
    assert!(discover["age_s"].is_number() && discover["error"].is_null(), "{discover}");
    world.put("upstreams/app.yaml", "{discover: null}");
    wait_until("the name to be forgotten", || world.upstream("app").get("discover").is_none());
    assert_eq!(world.upstream("app")["endpoints"].as_array().unwrap().len(), 1);
}
