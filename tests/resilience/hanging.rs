//! A dependency hangs: it accepts and never answers. Who needs it is told; nobody else notices.

use std::time::{Duration, Instant};

use crate::{
    load::{Sample, quantile, tally},
    origins::Mode,
    support::wait_until,
    world::{Setup, origins, promised},
};

#[test]
fn a_dependency_that_hangs_does_not_touch_other_routes() {
    let all = origins(["shop", "cache"]);
    let [shop, cache] = &all;
    let world = Setup::default()
        .upstream("shop", &[shop], "")
        .routed(
            "cache",
            &[cache],
            "breaker: { open_for: 1s, max_open: 1s, ramp: 1s }, pool: { max_connections: 50 }",
            "timeout: 500ms",
        )
        .start();
    let (others, callers) = (world.load("shop", 100), world.load("cache", 100));
    others.more(100);
    let quiet = others.more(300);

    cache.set(Mode::Silent);
    let began = Instant::now();
    wait_until("callers to be told", || {
        callers.since(began).iter().any(|sample| sample.reason == "breaker_open")
    });
    let outage = others.more(300);
    assert!(outage.iter().all(Sample::is_good), "{:?}", tally(&outage));
    let (before, during) = (quantile(&quiet, 0.99), quantile(&outage, 0.99));
    let most = (before + before / 10).max(before + Duration::from_millis(2));
    promised("p99 of the other route through the outage", during, most);

    // Once it is open nothing waits on the dead one but probes.
    wait_until("nothing but probes to hang", || cache.hanging() <= 3);
    let told = callers.more(100);
    let refused = told.iter().filter(|sample| sample.reason == "breaker_open").count();
    assert!(refused > told.len() / 2, "{:?}", tally(&told));

    cache.set(Mode::Good);
    wait_until("the dependency to be used again", || callers.more(50).iter().all(Sample::is_good));
    assert!(others.end().iter().all(Sample::is_good), "the other route never failed");
    callers.end();
}

#[test]
fn a_silent_endpoint_among_others_costs_one_time_out_and_is_left() {
    let all = origins(["a", "b", "c"]);
    let [a, b, c] = &all;
    let world = Setup::default().routed("app", &[a, b, c], "breaker: off", "timeout: 300ms").start();
    let load = world.load("app", 50);
    load.more(30);
    a.set(Mode::Silent);
    world.wait_endpoints("app", "ejected", 1);
    let out = load.more(100);
    let slow = out.iter().filter(|sample| !sample.is_good()).count();
    assert!(slow <= 5, "{:?}", tally(&out));
    a.set(Mode::Good);
    wait_until("it to serve again", || load.more(40).iter().any(|sample| sample.origin == "a"));
    load.end();
}
