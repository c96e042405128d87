//! An upstream fails altogether: its callers are told at once, it is left in peace, and comes back by degrees.

use std::time::{Duration, Instant};

use crate::{
    load::{Sample, quantile, tally},
    origins::{Mode, Unruly},
    support::{raw::Raw, wait_until},
    world::{Setup, World, origins, promised},
};

const RATE: u32 = 100;

#[test]
fn one_that_is_not_there_is_answered_for_at_once_and_comes_back_by_degrees() {
    dies_and_comes_back(Mode::Refuse);
}

#[test]
fn one_that_answers_500_is_answered_for_at_once_and_comes_back_by_degrees() {
    dies_and_comes_back(Mode::Status(500));
}

#[test]
fn one_that_hangs_is_answered_for_at_once_and_comes_back_by_degrees() {
    dies_and_comes_back(Mode::Silent);
}

#[track_caller]
fn dies_and_comes_back(mode: Mode) {
    let all = origins(["a", "b", "c"]);
    let [a, b, c] = &all;
    let fields = "breaker: { open_for: 500ms, max_open: 1s, ramp: 2s }";
    let route = "timeout: 500ms";
    let world = Setup::default().routed("app", &[a, b, c], fields, route).start();
    let load = world.load("app", RATE);
    load.more(50);
    for origin in &all {
        origin.set(mode);
    }
    world.wait_breaker("app", "open");

    // Open: whoever is refused is told at once, with a reason and when to come again; few find the origins.
    let (since, seen) = (Instant::now(), all.iter().map(Unruly::requests).sum::<usize>());
    let closed = load.more(200);
    let refused: Vec<Sample> =
        closed.iter().filter(|sample| sample.reason == "breaker_open").cloned().collect();
    assert!(refused.len() > closed.len() * 3 / 4, "{mode:?}: {:?}", tally(&closed));
    assert!(refused.iter().all(|sample| sample.status == 503 && sample.retry_after.is_some()));
    promised("an answer while the breaker is open", quantile(&refused, 0.99), Duration::from_millis(10));
    let probes = all.iter().map(Unruly::requests).sum::<usize>() - seen;
    let most = 3 * (2 + since.elapsed().as_millis() / 250);
    assert!(probes as u128 <= most, "{mode:?}: {probes} probes in {:?}", since.elapsed());

    // It returns: probes, then more and more, and no second collapse.
    for origin in &all {
        origin.set(Mode::Good);
    }
    world.wait_breaker("app", "closed");
    let back = Instant::now();
    wait_until("all to be good", || load.more(50).iter().all(Sample::is_good));
    let after = load.since(back);
    let others: Vec<_> =
        after.iter().filter(|sample| !sample.is_good() && sample.reason != "breaker_open").cloned().collect();
    assert!(others.is_empty(), "{mode:?}: {:?}", tally(&others));
    // The first tenth of the ramp lets some 10 to 20 % pass.
    let early: Vec<_> =
        after.iter().filter(|sample| sample.at < back + Duration::from_millis(200)).cloned().collect();
    let passed = early.iter().filter(|sample| sample.is_good()).count();
    assert!(passed <= early.len() * 2 / 3 + 3, "{mode:?}: {passed} of {} at once", early.len());
    let opened = world.metric("weir_breaker_transitions_total", &[("upstream", "app"), ("to", "open")]);
    assert!(opened >= 1.0);
    load.end();
}

#[test]
fn modes_that_the_store_sets_act_on_the_next_request() {
    let [origin] = origins(["a"]);
    let world = Setup::default().upstream("app", &[&origin], "").start();
    // One connection for all of it: nothing is set up anew.
    let mut client = Raw::connect(world.weir.at("outbound"));
    let mut ask = || {
        let answer = client.get("app", "/");
        let is_problem = answer.header("content-type").is_some_and(|it| it.contains("problem"));
        let reason =
            if is_problem { answer.json()["reason"].as_str().unwrap().to_owned() } else { String::new() };
        (answer.status(), reason)
    };
    let (good, refused) = ((200, String::new()), (503, "breaker_open".to_owned()));
    assert_eq!(ask(), good);
    set(&world, "{breaker: {mode: open}}", "open");
    let seen = origin.requests();
    assert_eq!(ask(), refused);
    assert_eq!(ask(), refused);
    assert_eq!(origin.requests(), seen, "nothing gets through");
    world.wait_breaker("app", "forced_open");
    set(&world, "{breaker: auto}", "auto");
    assert_eq!(ask(), good);

    // Failures open it where it is auto, and nowhere else.
    origin.set(Mode::Status(500));
    for (mode, state) in [("closed", "forced_closed"), ("off", "off"), ("observe", "closed")] {
        set(&world, &format!("{{breaker: {{mode: {mode}}}}}"), mode);
        for _ in 0..60 {
            assert_eq!(ask(), (500, String::new()), "{mode}");
        }
        if mode != "observe" {
            world.wait_breaker("app", state);
        }
    }
    world.unset("upstreams/app.yaml");
    world.wait_mode("app", None);
    wait_until("the breaker to open", || ask() == refused);
    // An open one is closed by hand, and what it had seen is no reason to open again.
    origin.set(Mode::Good);
    set(&world, "{breaker: closed}", "closed");
    assert_eq!(ask(), good);
}

/// Sets it, and waits until it is in force.
#[track_caller]
fn set(world: &World, overlay: &str, mode: &str) {
    world.put("upstreams/app.yaml", overlay);
    world.wait_mode("app", Some(mode));
}

#[test]
fn editing_a_threshold_keeps_an_open_breaker_open() {
    let [origin] = origins(["a"]);
    let world = Setup::default().upstream("app", &[&origin], "breaker: { open_for: 1m }").start();
    let load = world.load("app", RATE);
    origin.set(Mode::Status(500));
    world.wait_breaker("app", "open");
    origin.set(Mode::Good);
    world.put("upstreams/app.yaml", "{breaker: {mode: auto, failure_rate: 90%}}");
    world.wait_mode("app", Some("auto"));
    let after = load.more(50);
    assert!(after.iter().all(|sample| sample.reason == "breaker_open"), "{:?}", tally(&after));
    load.end();
}

#[test]
fn a_fallback_answers_in_the_place_of_a_dead_upstream() {
    let all = origins(["main", "spare"]);
    let [main, spare] = &all;
    let world = Setup::default()
        .upstream("app", &[main], "breaker: { open_for: 1m }, fallback: { upstream: spare }")
        .upstream("spare", &[spare], "fallback: { respond: { status: 203, body: sorry } }")
        .start();
    let load = world.load("app", RATE);
    load.more(30);
    main.set(Mode::Refuse);
    world.wait_breaker("app", "open");
    let spared = load.more(50);
    assert!(spared.iter().all(|sample| sample.origin == "spare" && sample.is_good()), "{:?}", tally(&spared));
    // The spare one has a breaker of its own, and a fallback of its own.
    spare.set(Mode::Refuse);
    world.wait_breaker("spare", "open");
    let sorry = load.more(50);
    assert!(sorry.iter().all(|sample| sample.status == 203), "{:?}", tally(&sorry));
    load.end();
}

#[test]
fn a_route_with_a_breaker_of_its_own_opens_alone() {
    let [origin] = origins(["a"]);
    let world =
        Setup::default().routed("app", &[&origin], "", "breaker: { min_requests: 5, open_for: 1m }").start();
    let load = world.load("app", RATE);
    load.more(20);
    origin.set(Mode::Status(500));
    let of_route = [("upstream", "app"), ("route", "app"), ("state", "open")];
    wait_until("the route's breaker to open", || world.metric("weir_breaker_state", &of_route) > 0.5);
    let own = world.metric("weir_breaker_state", &[("upstream", "app"), ("route", ""), ("state", "open")]);
    assert!(own < 0.5, "the upstream's own stays closed");
    load.end();
}

#[test]
fn slowness_alone_opens_it_where_that_is_asked_for() {
    let [origin] = origins(["a"]);
    let fields = "breaker: { slow_rate: 50%, slow_after: 200ms, open_for: 1m }";
    let world = Setup::default().upstream("app", &[&origin], fields).start();
    let load = world.load("app", RATE);
    assert!(load.more(60).iter().all(Sample::is_good));
    origin.set(Mode::Slow(Duration::from_millis(600)));
    world.wait_breaker("app", "open");
    let refused = load.more(30);
    assert!(refused.iter().all(|sample| sample.reason == "breaker_open"), "{:?}", tally(&refused));
    load.end();
}
