//! One of several endpoints fails: it goes out of rotation, costs no more than probes, and comes back.

use std::time::{Duration, Instant};

use crate::{
    load::{Load, Sample, share, tally},
    origins::{Mode, Unruly},
    support::{
        client::{Client, empty},
        wait_until,
    },
    world::{Setup, World, origins, promised, within},
};

/// 50 requests a second.
const RATE: u32 = 50;

/// The first of these fails, goes out, recovers and comes back; `mode`: how it fails.
///
/// Under `peak_ewma` traffic leaves it with its first failure, and a few requests that look again find out whether it was
/// more than one; under the other ways only ejection helps.
#[track_caller]
fn goes_and_comes_back(all: &[&Unruly], mode: Mode, balancer: &str) {
    let fields = format!("breaker: off, balancer: {{ policy: {balancer} }}");
    let world = Setup::default().upstream("app", all, &fields).start();
    let load = world.load("app", RATE);
    let before = load.more(30);
    assert!(before.iter().all(Sample::is_good), "{:?}", tally(&before));
    let bad = all[0];

    bad.set(mode);
    let failing = Instant::now();
    let out = within("the endpoint to be ejected", || ejected(&world) == 1);
    promised(&format!("{balancer}: traffic had left after"), bad.left_after(failing), Duration::from_secs(1));
    promised(&format!("{balancer}: ejected after"), out, Duration::from_secs(1));
    // Five in a row, those that were under way with them, and not the traffic of a whole window.
    let cost = failures(&load.since(failing));
    assert!(cost <= 20, "ejection cost {cost} requests");

    // Out: only probes find it, and each is one request. The first ejections last 1 s, 2 s, 4 s …, jittered.
    let (from, probes) = (Instant::now(), bad.requests());
    let out = load.more(150);
    let (took, probes) = (from.elapsed(), bad.requests() - probes);
    let most = usize::try_from((2 + took.as_secs() / 2).max(4)).unwrap();
    assert!(probes <= most, "{probes} requests in {took:?} at an endpoint that is out");
    assert!(failures(&out) <= most, "only probes fail: {:?}", tally(&out));

    bad.set(Mode::Good);
    let (recovered, seen) = (Instant::now(), bad.requests());
    let back = within("the endpoint to be back", || ejected(&world) == 0 && bad.requests() > seen);
    promised(&format!("{balancer}: back in rotation after"), back, Duration::from_secs(10));
    let fair = 1.0 / f64::from(u32::try_from(all.len()).unwrap());
    // It has slowed down nobody meanwhile, and comes up to its share.
    wait_until("its share", || share(&load.more(40), bad.name()) > fair / 2.0);
    let after = load.since(recovered + Duration::from_millis(100));
    assert!(after.iter().all(Sample::is_good), "{:?}", tally(&after));
    let causes = world.metric("weir_ejections_total", &[("upstream", "app")]);
    assert!(causes >= 1.0, "it is counted");
    load.end();
}

fn ejected(world: &World) -> u32 {
    let found = world.metric("weir_endpoints", &[("upstream", "app"), ("state", "ejected")]);
    u32::from(found > 0.5) + u32::from(found > 1.5)
}

fn failures(samples: &[Sample]) -> usize {
    samples.iter().filter(|sample| !sample.is_good()).count()
}

#[test]
fn one_of_three_that_answers_500() {
    let [a, b, c] = origins(["a", "b", "c"]);
    goes_and_comes_back(&[&a, &b, &c], Mode::Status(500), "peak_ewma");
}

#[test]
fn one_of_three_that_answers_500_in_turn() {
    let [a, b, c] = origins(["a", "b", "c"]);
    goes_and_comes_back(&[&a, &b, &c], Mode::Status(500), "round_robin");
}

#[test]
fn one_of_two_in_turn() {
    let [a, b] = origins(["a", "b"]);
    goes_and_comes_back(&[&a, &b], Mode::Refuse, "least_request");
}

#[test]
fn one_of_three_that_breaks_off_inside_of_its_bodies() {
    let [a, b, c] = origins(["a", "b", "c"]);
    goes_and_comes_back(&[&a, &b, &c], Mode::HalfBody, "round_robin");
}

#[test]
fn one_of_three_that_flaps_costs_little() {
    let [a, b, c] = origins(["a", "b", "c"]);
    let world = Setup::default().upstream("app", &[&a, &b, &c], "breaker: off").start();
    let load = world.load("app", RATE);
    load.more(30);
    a.set(Mode::Flapping(Duration::from_millis(500)));
    let since = Instant::now();
    wait_until("half of ten seconds", || load.since(since).len() > 300);
    let all = load.since(since);
    assert!(failures(&all) * 20 <= all.len(), "more than 5 % fail: {:?}", tally(&all));
    load.end();
}

#[test]
fn one_of_three_whose_grpc_statuses_say_so() {
    let [a, b, c] = origins(["a", "b", "c"]);
    let fields = "breaker: off, protocol: http2, balancer: { policy: round_robin }";
    let world = Setup::default().upstream("app", &[&a, &b, &c], fields).start();
    let client = Client::http2(world.weir.at("outbound"));
    let ask = || {
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let answer = client.send(client.to("app", "POST", "/a.B/C", &headers, empty()));
        (answer.header("x-origin").to_owned(), answer.trailers["grpc-status"].to_str().unwrap().to_owned())
    };
    // RESOURCE_EXHAUSTED is load, not failure.
    a.set(Mode::Grpc(8));
    for _ in 0..60 {
        ask();
    }
    assert_eq!(ejected(&world), 0);
    a.set(Mode::Grpc(14));
    wait_until("the endpoint to be ejected", || {
        ask();
        ejected(&world) == 1
    });
    let answers: Vec<_> = (0..30).map(|_| ask()).collect();
    assert!(answers.iter().filter(|(_, code)| code != "0").count() <= 2, "{answers:?}");
}

#[test]
fn one_of_three_that_resets() {
    let [a, b, c] = origins(["a", "b", "c"]);
    goes_and_comes_back(&[&a, &b, &c], Mode::Reset, "peak_ewma");
}

#[test]
fn one_of_three_that_breaks_off_inside_of_its_heads() {
    let [a, b, c] = origins(["a", "b", "c"]);
    goes_and_comes_back(&[&a, &b, &c], Mode::HalfHead, "peak_ewma");
}

#[test]
fn one_of_two() {
    let [a, b] = origins(["a", "b"]);
    goes_and_comes_back(&[&a, &b], Mode::Status(503), "peak_ewma");
}

#[test]
fn one_alone_is_never_ejected_and_the_breaker_acts() {
    let [a] = origins(["a"]);
    let world =
        Setup::default().upstream("app", &[&a], "breaker: { open_for: 1s, max_open: 1s, ramp: 1s }").start();
    let load = world.load("app", RATE);
    load.more(30);
    a.set(Mode::Status(500));
    world.wait_breaker("app", "open");
    assert_eq!(ejected(&world), 0);
    let refused = load.more(20);
    assert!(refused.iter().any(|sample| sample.reason == "breaker_open"), "{:?}", tally(&refused));
    a.set(Mode::Good);
    world.wait_breaker("app", "closed");
    wait_until("all to be good", || load.more(30).iter().all(Sample::is_good));
    let ejections = world.metric("weir_ejections_total", &[("upstream", "app")]);
    assert!(ejections < 0.5, "{ejections} ejections of the only endpoint");
    load.end();
}

#[test]
fn where_all_fail_together_nobody_is_ejected() {
    let [a, b, c] = origins(["a", "b", "c"]);
    // One may be out before it is known that all fail: it is to be back for all of its share at once.
    let fields = "breaker: off, slow_start: off, ejection: { max: 2s }";
    let world = Setup::default().upstream("app", &[&a, &b, &c], fields).start();
    let load = world.load("app", RATE);
    load.more(30);
    let failing = Instant::now();
    for origin in [&a, &b, &c] {
        origin.set(Mode::Status(500));
    }
    wait_until("everything to fail", || failures(&load.since(failing)) > 150);
    assert!(ejected(&world) <= 1, "at most what failed before it was known that all do");
    for origin in [&a, &b, &c] {
        origin.set(Mode::Good);
    }
    wait_until("all three to serve", || {
        let after = load.more(60);
        [&a, &b, &c].iter().all(|origin| share(&after, origin.name()) > 0.1)
    });
    load.end();
}

#[test]
fn off_ejects_nobody_and_observe_counts() {
    for (state, counted) in [("off", false), ("observe", true)] {
        let [a, b, c] = origins(["a", "b", "c"]);
        let fields = format!("breaker: off, balancer: {{ policy: round_robin }}, ejection: {state}");
        let world = Setup::default().upstream("app", &[&a, &b, &c], &fields).start();
        let load: Load = world.load("app", RATE);
        a.set(Mode::Status(500));
        wait_until("many failures", || failures(&load.samples()) > 40);
        assert_eq!(ejected(&world), 0, "{state}");
        let ejections = world.metric("weir_ejections_total", &[("upstream", "app")]);
        assert_eq!(ejections > 0.5, counted, "{state}: {ejections}");
        load.end();
    }
}
