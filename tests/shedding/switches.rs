//! Switches that are turned by hand: how soon it acts, until when, and for whom.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::{
    hammer::{Hammer, get},
    support::{etcd::Etcd, origin::Origin, raw::Raw, wait_for, wait_until, weir::Weir},
    world::{World, applied, promised, quantile, strict},
};

fn policy(origin: &Origin, switch: &str) -> String {
    format!(
        "  upstreams: {{ app: {{ endpoints: [\"{}\"] }} }}\n  routes: {{ in: {{ upstream: app }} }}\n  switches:\n    x: {{ reject: {{}}, {switch} }}\n",
        origin.address
    )
}

#[test]
fn one_acts_within_milliseconds_and_no_longer_than_its_key_is_there() {
    let (world, origin) = (World::start(), Origin::answering(200, "ok"));
    let weir = world.weir("pod-1", "", &policy(&origin, "state: off"));
    let hammer =
        Hammer::start(weir.at("inbound"), 2, Duration::from_micros(200), &get("/", &[]), |a| a.status());
    hammer.more(20);
    let (mut delays, mut gone) = (Vec::new(), Vec::new());
    for _ in 0..if strict() { 200 } else { 50 } {
        let began = Instant::now();
        world.shell("etcdctl put /weir/policy/orders/switches/x on");
        let told = Instant::now();
        let first = hammer.first("a refusal", began, |status| *status == 503);
        delays.push(first.got.saturating_duration_since(told));
        let revision = world.writer.delete("orders/switches/x");
        applied(&weir, revision);
        gone.push(Instant::now());
        let after = hammer.more(10);
        assert!(after.iter().all(|shot| shot.seen == 200), "the key is gone");
    }
    let all = hammer.end();
    assert!(all.iter().all(|shot| [200, 503].contains(&shot.seen)));
    eprintln!(
        "from etcdctl's end to the first refusal, {} times: p50 {:?}, p99 {:?}",
        delays.len(),
        quantile(&delays, 0.5),
        quantile(&delays, 0.99)
    );
    promised("the first refusal, p99", quantile(&delays, 0.99), Duration::from_millis(50));
}

#[test]
fn one_goes_off_by_itself_although_the_store_is_dead() {
    goes_off_without_a_store(Etcd::kill);
}

#[test]
fn one_goes_off_by_itself_although_the_store_is_frozen() {
    goes_off_without_a_store(|etcd| etcd.freeze());
}

#[track_caller]
fn goes_off_without_a_store(lose: impl Fn(&mut Etcd)) {
    let (mut world, origin) = (World::start(), Origin::answering(200, "ok"));
    let weir = world.weir("pod-1", "", &policy(&origin, "state: off"));
    let mut client = Raw::connect(weir.at("inbound"));
    let mut ask = || client.get("a.test", "/").status();
    let until = jiff::Timestamp::now() + Duration::from_secs(4);
    world.put(&[&weir], "orders/switches/x", &format!("{{state: on, until: \"{until}\"}}"));
    let on = ask();
    assert!(on == 503 || jiff::Timestamp::now() >= until, "{on}");
    lose(&mut world.etcd);
    let last = wait_for("it to go off", || {
        let began = jiff::Timestamp::now();
        match ask() {
            200 => Some(jiff::Timestamp::now()),
            status => {
                assert_eq!(status, 503, "{began}");
                None
            }
        }
    });
    assert!(last >= until, "{last} is before {until}");
    let late = Duration::try_from(last.duration_since(until)).unwrap();
    promised("how late it goes off", late, Duration::from_secs(1));
    assert_eq!([ask(), ask(), ask()], [200; 3], "and it stays off");
}

/// Which of so many clients it acts on.
fn among(weir: &Weir) -> BTreeSet<u32> {
    let mut raw = Raw::connect(weir.at("inbound"));
    let is_in = |client: &u32| {
        let request = get("/", &[("x-user", &format!("user-{client}"))]);
        raw.send(request).answer().status() == 503
    };
    (0..200).filter(is_in).collect()
}

#[test]
fn a_share_that_grows_keeps_who_was_in_at_every_instance() {
    let (world, origin) = (World::start(), Origin::answering(200, "ok"));
    let file = policy(&origin, "state: off, key: header:x-user");
    let (one, two) = (world.weir("pod-1", "", &file), world.weir("pod-2", "", &file));
    let at = |share: &str| {
        world.put(&[&one, &two], "orders/switches/x", share);
        let (a, b) = (among(&one), among(&two));
        assert!(a == b, "at {share} one has {a:?}, the other {b:?}");
        a
    };
    assert!(among(&one).is_empty());
    let quarter = at("25%");
    let half = at("50%");
    assert!(quarter.is_subset(&half), "{:?}", quarter.difference(&half));
    let most = at("80%");
    assert!(half.is_subset(&most));
    assert!(at("50%") == half, "and back");
    assert!(at("25%") == quarter);
    assert!(at("10%").is_subset(&quarter));
    // Of 200; the standard deviations are 6 and 7.
    assert!((20..=80).contains(&quarter.len()) && (65..=135).contains(&half.len()), "{quarter:?} {half:?}");
    assert_eq!(at("on").len(), 200);
    wait_until("its state in the metrics", || {
        (one.metrics().sum("weir_switch_state", &[("switch", "x")]) - 1.0).abs() < 1e-9
    });
}
