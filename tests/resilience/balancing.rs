//! One endpoint is slow: traffic goes around it.

use std::time::{Duration, Instant};

use crate::{
    load::{Load, Sample, quantile, share, tally},
    origins::{Mode, Unruly},
    support::wait_until,
    world::{Setup, World, origins},
};

/// What a good origin takes, and one that is twenty times slower.
const QUICK: Duration = Duration::from_millis(20);
const SLOW: Duration = Duration::from_millis(400);

fn slow_one(policy: &str) -> ([Unruly; 3], World, Load) {
    let all = origins(["a", "b", "c"]);
    all[0].set(Mode::Slow(SLOW));
    all[1].set(Mode::Slow(QUICK));
    all[2].set(Mode::Slow(QUICK));
    let fields = format!("balancer: {{ policy: {policy} }}");
    let world = Setup::default().upstream("app", &[&all[0], &all[1], &all[2]], &fields).start();
    let load = world.load("app", 100);
    (all, world, load)
}

#[test]
fn under_peak_ewma_the_share_of_a_slow_one_falls_below_a_tenth() {
    let (_all, _world, load) = slow_one("peak_ewma");
    wait_until("the first answers", || load.samples().len() > 100);
    let steady = load.more(300);
    assert!(steady.iter().all(Sample::is_good), "{:?}", tally(&steady));
    let slow = share(&steady, "a");
    assert!(slow < 0.1, "the slow one has {slow} of the answers: {:?}", tally(&steady));
    let others = (share(&steady, "b"), share(&steady, "c"));
    assert!(others.0 > 0.2 && others.1 > 0.2, "{others:?}");
    eprintln!("peak_ewma: p50 {:?}, p99 {:?}", quantile(&steady, 0.5), quantile(&steady, 0.99));
    load.end();
}

#[test]
fn under_round_robin_it_keeps_its_third() {
    let (_all, _world, load) = slow_one("round_robin");
    wait_until("the first answers", || load.samples().len() > 100);
    let steady = load.more(300);
    let slow = share(&steady, "a");
    assert!((0.2..0.45).contains(&slow), "{slow}: {:?}", tally(&steady));
    assert!(quantile(&steady, 0.9) >= SLOW, "a third of the answers is slow");
    eprintln!("round_robin: p50 {:?}, p99 {:?}", quantile(&steady, 0.5), quantile(&steady, 0.99));
    load.end();
}

#[test]
fn one_that_is_quick_again_gets_its_share_back() {
    let (all, _world, load) = slow_one("peak_ewma, decay: 500ms");
    wait_until("the first answers", || load.samples().len() > 200);
    all[0].set(Mode::Slow(QUICK));
    wait_until("its share", || share(&load.more(100), "a") > 0.2);
    load.end();
}

#[test]
fn failing_fast_does_not_look_like_being_fast() {
    let all = origins(["a", "b", "c"]);
    all[1].set(Mode::Slow(QUICK));
    all[2].set(Mode::Slow(QUICK));
    all[0].set(Mode::Status(500));
    let fields = "balancer: { policy: peak_ewma }, ejection: off, breaker: off";
    let world = Setup::default().upstream("app", &[&all[0], &all[1], &all[2]], fields).start();
    let load = world.load("app", 100);
    wait_until("the first answers", || load.samples().len() > 100);
    let since = Instant::now();
    let steady = load.more(300);
    let failed = share(&steady, "a");
    assert!(failed < 0.1, "{failed}: {:?}", tally(&steady));
    // It is not forgotten either: a request a second, or so.
    wait_until("a request for the one that fails", || all[0].requests_since(since) > 0);
    all[0].set(Mode::Slow(QUICK));
    wait_until("its share", || share(&load.more(100), "a") > 0.2);
    load.end();
}
