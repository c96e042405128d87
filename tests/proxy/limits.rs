//! Rate limits: what they grant, and how those are told whom they refuse.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{
    live::Live,
    support::{
        client::{Answer, Client, empty},
        driver,
        origin::Origin,
        redis::Redis,
        wait_until,
        weir::{File, Weir},
    },
};

/// A Weir before `origin` with these limits.
fn with(origin: &Origin, limits: &str) -> Weir {
    File::to(&[origin.address]).top("workers: 1").policy(&format!("  limits:\n{limits}")).start()
}

fn get(client: &Client, path: &str, headers: &[(&str, &str)]) -> Answer {
    client.send(client.to("a.test", "GET", path, headers, empty()))
}

/// Granted, refused, would refuse.
fn decisions(weir: &Weir, limit: &str) -> String {
    let metrics = weir.metrics();
    let of = |decision| {
        metrics.sum("weir_limit_decisions_total", &[("limit", limit), ("decision", decision)]).to_string()
    };
    ["granted", "refused", "would_refuse"].map(of).join(" ")
}

#[test]
fn the_one_above_the_burst_is_told_who_refused_and_until_when() {
    let origin = Origin::answering(200, "ok");
    let weir = with(&origin, "    few: { match: { path: /few }, rate: 2/h, burst: 2 }\n");
    let clients = [Client::http1(weir.at("inbound")), Client::http2(weir.at("inbound"))];
    for client in &clients {
        let answer = get(client, "/few", &[]);
        assert_eq!((answer.status, answer.header("ratelimit")), (200, ""));
    }
    for client in &clients {
        let answer = get(client, "/few", &[]);
        assert_eq!((answer.status, answer.header("x-weir-retry")), (429, "no"));
        assert_eq!(answer.header("ratelimit-policy"), "\"few\";q=2;w=3600");
        let wait: u64 = answer.header("retry-after").parse().unwrap();
        // Half an hour until the next one, and up to a tenth more.
        assert!((1_795..=1_981).contains(&wait), "{wait}");
        assert!(answer.header("ratelimit").starts_with("\"few\";r=0;t=3"), "{:?}", answer.headers);
        let body: Value = serde_json::from_str(&answer.text()).unwrap();
        assert_eq!((&body["reason"], &body["policy"]), (&"rate_limit".into(), &"few".into()));
        assert_eq!(body["retry_after_s"], wait);
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let call = client.send(client.to("a.test", "POST", "/few", &headers, empty()));
        assert_eq!((call.status, call.header("grpc-status")), (200, "8"));
        let pushback: u64 = call.header("grpc-retry-pushback-ms").parse().unwrap();
        assert!((1_795_000..=1_980_000).contains(&pushback), "{pushback}");
        assert!(call.header("grpc-message").contains("(few)"), "{:?}", call.headers);
        assert_eq!(get(client, "/other", &[]).status, 200);
    }
    assert_eq!(decisions(&weir, "few"), "2 4 0");
    let shown = weir.admin_get("/limits").json();
    assert_eq!((&shown["few"]["rate"], &shown["few"]["decisions"]["refused"]), (&"2/h".into(), &4.into()));
}

#[test]
fn granted_answers_say_what_is_left_where_that_is_wanted() {
    let origin = Origin::answering(200, "ok");
    let weir = with(
        &origin,
        "    a: { rate: 100/h, burst: 3, headers: always }\n    b: { rate: 7/h, headers: always, algorithm: fixed_window }\n",
    );
    let client = Client::http2(weir.at("inbound"));
    for left in [2, 1, 0] {
        let answer = get(&client, "/", &[]);
        assert_eq!(answer.status, 200);
        let all: Vec<_> =
            answer.headers.get_all("ratelimit").iter().map(|line| line.to_str().unwrap()).collect();
        assert_eq!(all.len(), 2);
        assert!(all[0].starts_with(&format!("\"a\";r={left};t=")), "{all:?}");
        assert!(all[1].starts_with(&format!("\"b\";r={};t=", left + 4)), "{all:?}");
    }
}

#[test]
fn keys_have_their_own_buckets_and_those_without_share_one() {
    let origin = Origin::answering(200, "ok");
    let weir = with(&origin, "    each: { key: [header:x-user, method], rate: 1/h }\n");
    let client = Client::http1(weir.at("inbound"));
    let status = |user| get(&client, "/", &[("x-user", user)]).status;
    assert_eq!([status("ann"), status("bob"), status("ann")], [200, 200, 429]);
    assert_eq!([get(&client, "/", &[]).status, get(&client, "/", &[]).status], [200, 429]);
    let post = client.send(client.to("a.test", "POST", "/", &[("x-user", "ann")], empty()));
    assert_eq!(post.status, 200);
    weir.wait_metric("weir_limit_keys", &[("limit", "each")], 4.0);
}

#[test]
fn one_refusal_takes_nothing_from_the_others() {
    let origin = Origin::answering(200, "ok");
    let weir = with(
        &origin,
        "    a-wide: { rate: 3/h, burst: 3 }\n    b-narrow: { match: { path: /narrow }, rate: 1/h }\n    c-seen: { rate: 1/h, state: observe }\n    d-off: { rate: 1/h, state: off }\n",
    );
    let client = Client::http1(weir.at("inbound"));
    let status = |path| get(&client, path, &[]).status;
    assert_eq!([status("/narrow"), status("/narrow"), status("/narrow")], [200, 429, 429]);
    assert_eq!([status("/"), status("/"), status("/")], [200, 200, 429]);
    assert_eq!(decisions(&weir, "a-wide"), "3 1 0");
    assert_eq!(decisions(&weir, "b-narrow"), "1 2 0");
    // What was refused anyway is not counted.
    assert_eq!(decisions(&weir, "c-seen"), "1 0 2");
    assert_eq!(decisions(&weir, "d-off"), "0 0 0");
    // None of them has keys.
    weir.wait_metric("weir_limit_keys", &[("limit", "a-wide")], 0.0);
}

#[test]
fn a_request_may_say_what_it_costs() {
    let origin = Origin::answering(200, "ok");
    let weir = with(&origin, "    dear: { rate: 10/h, burst: 10, cost: header:x-cost }\n");
    let client = Client::http1(weir.at("inbound"));
    let ask = |cost| get(&client, "/", &[("x-cost", cost)]);
    assert_eq!(
        [ask("6").status, ask("5").status, ask("nonsense").status, ask("3").status, ask("0").status],
        [200, 429, 200, 200, 200]
    );
    // It would never be granted: to say when to come back would be a lie. However much more it is.
    for cost in ["11", "4294967296", "99999999999999999999999"] {
        let never = ask(cost);
        assert_eq!((never.status, never.header("retry-after")), (429, ""), "{cost}");
        let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("x-cost", cost)];
        let call = client.send(client.to("a.test", "POST", "/", &headers, empty()));
        // Negative is: do not try again (gRFC A6).
        assert_eq!(
            (call.header("grpc-status"), call.header("grpc-retry-pushback-ms")),
            ("8", "-1"),
            "{cost}"
        );
    }
}

#[test]
fn a_leaky_bucket_lets_requests_wait_for_their_turn() {
    let origin = Origin::answering(200, "ok");
    let weir =
        with(&origin, "    paced: { rate: 20/s, burst: 100, algorithm: leaky_bucket, max_wait: 400ms }\n");
    let begun = Instant::now();
    let clients: Vec<_> = (0..12).map(|_| Client::http1(weir.at("inbound"))).collect();
    let started: Vec<_> =
        clients.iter().map(|client| client.start(client.to("a.test", "GET", "/", &[], empty()))).collect();
    let statuses: Vec<_> =
        started.into_iter().map(|one| driver::run(one).unwrap().map_or(0, |answer| answer.status)).collect();
    let granted = statuses.iter().filter(|status| **status == 200).count();
    // The first at once, then one each 50 ms up to 400 ms; the rest is refused. Later ones may come later.
    assert!((9..=12).contains(&granted), "{statuses:?}");
    assert!(begun.elapsed() >= Duration::from_millis(395), "{:?}", begun.elapsed());
    assert!(weir.metrics().sum("weir_limit_waits_total", &[("limit", "paced"), ("cause", "turn")]) >= 8.0);
}

#[test]
fn edits_refill_nothing_and_what_grows_is_felt_at_once() {
    let origin = Origin::answering(200, "ok");
    let live = Live::start(
        "",
        &format!(
            "  upstreams: {{ app: {{ endpoints: [\"{}\"] }} }}\n  routes: {{ all: {{ upstream: app }} }}\n  limits: {{ few: {{ rate: 5/h, burst: 5 }} }}\n",
            origin.address
        ),
    );
    let client = live.client();
    let status = || client.get("a.test", "/").status;
    for _ in 0..5 {
        assert_eq!(status(), 200);
    }
    let generation = || live.weir.admin_get("/status").json()["policy"]["generation"].as_u64().unwrap();
    let change = |value: &str| {
        let before = generation();
        live.put("limits/few", value);
        crate::support::wait_until("the change", || generation() > before);
    };
    change("{ burst: 50 }");
    assert_eq!(status(), 429);
    change("{ rate: 1000/s, burst: 50 }");
    crate::support::wait_until("the new rate", || status() == 200);
    change("off");
    for _ in 0..60 {
        assert_eq!(status(), 200);
    }
}

#[test]
fn who_has_no_time_to_wait_for_its_turn_is_told_so_at_once_and_takes_none() {
    let origin = Origin::answering(200, "ok");
    let weir = with(&origin, "    paced: { rate: 1/h, burst: 9, algorithm: leaky_bucket, max_wait: 20h }\n");
    let client = Client::http1(weir.at("inbound"));
    assert_eq!(get(&client, "/", &[]).status, 200);
    for _ in 0..3 {
        let answer = get(&client, "/", &[("x-weir-timeout-ms", "5000")]);
        let wait: u64 = answer.header("retry-after").parse().unwrap();
        // Nobody is ahead but the first one.
        assert!(answer.status == 429 && (3_500..=3_960).contains(&wait), "{} {wait}", answer.status);
    }
    assert_eq!(decisions(&weir, "paced"), "1 3 0");
    assert!((weir.metrics().sum("weir_limit_waits_total", &[("cause", "turn")])).abs() < 0.5);
}

#[test]
fn nobody_waits_for_a_limit_that_does_not_act_any_more() {
    let origin = Origin::answering(200, "ok");
    let live = Live::start(
        "",
        &format!(
            "  upstreams: {{ app: {{ endpoints: [\"{}\"] }} }}\n  routes: {{ all: {{ upstream: app, timeout: 0, idle_timeout: 24h }} }}\n  limits: {{ paced: {{ rate: 1/h, burst: 9, algorithm: leaky_bucket, max_wait: 20h }} }}\n",
            origin.address
        ),
    );
    let waits = || live.weir.metrics().sum("weir_limit_waits_total", &[("cause", "turn")]);
    let mut waited = 0.0;
    assert_eq!(live.client().get("a.test", "/").status, 200);
    for (key, value) in
        [("bypass", "on"), ("limits/paced", "off"), ("limits/paced", "observe"), ("limits/paced", "null")]
    {
        let client = live.client();
        let waiting = client.start(client.to("a.test", "GET", "/", &[], empty()));
        waited += 1.0;
        wait_until("it waits for its turn", || waits() >= waited);
        live.put(key, value);
        assert_eq!(driver::run(waiting).unwrap().unwrap().status, 200, "{key} {value}");
        live.unset(key);
        wait_until("the limit acts again", || {
            let status = live.weir.admin_get("/status").json();
            let limit = &live.weir.admin_get("/limits").json()["paced"]["state"];
            status["policy"]["bypass"] == false && *limit == "on"
        });
    }
}

#[test]
fn what_redis_counts_and_a_limit_only_observes_is_counted_all_the_same() {
    const ASKED: u32 = 40;
    let (redis, origin) = (Redis::start(), Origin::answering(200, "ok"));
    let weir = File::to(&[origin.address])
        .top(&format!("workers: 1\nredis: {{ url: \"redis://{}\" }}", redis.address()))
        .policy("  limits: { seen: { rate: 3/h, burst: 3, scope: service, share: redis, state: observe } }\n")
        .start();
    wait_until("Redis", || weir.admin_get("/status").json()["redis"]["connected"] == true);
    let client = Client::http1(weir.at("inbound"));
    for _ in 0..ASKED {
        assert_eq!(get(&client, "/", &[]).status, 200);
    }
    let of = |decision| weir.metrics().sum("weir_limit_decisions_total", &[("decision", decision)]);
    wait_until("all are counted", || of("granted") + of("would_refuse") >= f64::from(ASKED));
    // What Redis has, and at most as much by the even share, if it was late.
    assert!((1.0..=6.0).contains(&of("granted")), "{}", decisions(&weir, "seen"));
}
