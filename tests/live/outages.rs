//! The store goes away, and comes back.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use etcd_client::TxnOp;

use crate::{
    checker,
    support::{
        etcd::{Etcd, Version},
        gate::{self, Gate},
        writer::{Writer, put},
    },
    world::{Store, World, promised, setting, within},
};

#[test]
fn promise_3_lossless_a_killed_etcd_3_4_and_its_restart() {
    a_killed_etcd(Version::V3_4);
}

#[test]
fn promise_3_lossless_a_killed_etcd_3_5_and_its_restart() {
    a_killed_etcd(Version::V3_5);
}

fn a_killed_etcd(version: Version) {
    let mut etcd = Etcd::start(version);
    let writer = Writer::connect(etcd.endpoint());
    let mut world = World::start(&[etcd.endpoint()]);
    world.changes(&writer);
    for _ in 0..2 {
        etcd.kill();
        world.connected(false);
        world.load.stays(world.n());
        etcd.run();
        etcd.answers();
        world.recovers(&writer, Instant::now());
        world.connected(true);
    }
    assert_eq!((world.reads("start"), all_reads(&world)), (1, 1), "it goes on where it was");
    assert!(world.lost(&["broken", "connect"]) >= 2);
    world.checker.check(&writer, 0, 0);
    world.checker.check_revisions();
    world.end(0);
}

fn all_reads(world: &World) -> u64 {
    ["start", "compaction", "new_cluster", "regression", "lost", "poll"].iter().map(|c| world.reads(c)).sum()
}

/// Also promise 8: the age of the last proof grows although the connection is there, and readiness does not care.
#[test]
fn promise_8_honest_and_3_lossless_a_frozen_etcd_is_found_out() {
    let etcd = Etcd::start(Version::V3_5);
    let writer = Writer::connect(etcd.endpoint());
    let mut world = World::start(&[etcd.endpoint()]);
    world.changes(&writer);
    etcd.freeze();
    let frozen = Instant::now();
    let long = Duration::from_secs(setting("WEIR_LIVE_FREEZE", 10));
    world.connected(false);
    assert!(world.lost(&["stalled"]) >= 1);
    while world.metric("weir_policy_sync_age_seconds", &[]) < long.as_secs_f64() {
        world.load.stays(world.n());
        assert!(frozen.elapsed() < long + crate::world::PATIENCE, "the age of the last proof does not grow");
        assert_eq!(world.weir.telemetry_get("/readyz").status(), 200);
    }
    etcd.thaw();
    world.recovers(&writer, Instant::now());
    within("a proof again", || world.metric("weir_policy_sync_age_seconds", &[]) < 8.0);
    assert_eq!((world.reads("start"), all_reads(&world)), (1, 1), "it goes on where it was");
    world.checker.check(&writer, 0, 0);
    world.checker.check_revisions();
    world.end(0);
}

/// Whoever ends while the store hangs has nothing to wait for there.
#[test]
fn promise_8_honest_a_frozen_etcd_does_not_hold_the_end_up() {
    let etcd = Etcd::start(Version::V3_5);
    let writer = Writer::connect(etcd.endpoint());
    let mut world = World::start(&[etcd.endpoint()]);
    world.changes(&writer);
    etcd.freeze();
    world.connected(false);
    let World { mut weir, load, .. } = world;
    load.end(0);
    let begin = Instant::now();
    weir.sigterm();
    assert_eq!(weir.wait_exit(), 0);
    promised("the end while the store hangs", begin.elapsed(), Duration::from_secs(5));
}

#[test]
fn promise_3_lossless_one_frozen_member_of_three_is_left_for_another() {
    let members = Etcd::cluster(Version::V3_5);
    let endpoints: Vec<String> = members.iter().map(Etcd::endpoint).collect();
    let mut world = World::start(&endpoints);
    let used = within_some(&world);
    let (frozen, others): (Vec<_>, Vec<_>) = members.iter().partition(|member| member.endpoint() == used);
    let writer = Writer::connect(others[0].endpoint());
    world.changes(&writer);
    frozen[0].freeze();
    // Whatever was the leader: the two others can write, soon.
    world.change(&writer);
    world.load.reaches(world.n());
    within("another member", || {
        world.status()["store"]["endpoint"].as_str().is_some_and(|endpoint| endpoint != used)
    });
    assert!(world.lost(&["stalled", "leader", "broken"]) >= 1);
    frozen[0].thaw();
    world.changes(&writer);
    assert_eq!((world.reads("start"), all_reads(&world)), (1, 1), "another member is no other store");
    world.checker.check(&writer, 0, 0);
    world.checker.check_revisions();
    world.end(0);
}

/// The member that is in use.
fn within_some(world: &World) -> String {
    let endpoint = || world.status()["store"]["endpoint"].as_str().map(ToOwned::to_owned);
    within("a member", || endpoint().is_some());
    endpoint().unwrap()
}

#[test]
fn promise_3_lossless_members_that_take_connections_and_never_answer_are_passed_over() {
    let mut etcd = Etcd::start(Version::V3_4);
    let writer = Writer::connect(etcd.endpoint());
    let mut endpoints: Vec<_> = (0..3).map(|_| format!("http://{}", gate::hole())).collect();
    endpoints.push(etcd.endpoint());
    let store =
        Store { etcd: "connect_timeout: 500ms, request_timeout: 500ms".into(), ..Store::at(&endpoints) };
    let mut world = World::with(&store);
    world.changes(&writer);
    assert_eq!(world.status()["store"]["endpoint"], etcd.endpoint().as_str());
    // From here on it comes back to the only one that answers, whichever it asks first.
    etcd.restart();
    world.changes(&writer);
    within("that it says what it is doing", || world.lost(&["connect", "broken", "stalled"]) >= 1);
    world.checker.check(&writer, 0, 0);
    world.end(0);
}

#[test]
fn promise_7_polite_and_3_lossless_a_cut_in_the_middle_of_a_thousand_keys() {
    let mut etcd = Etcd::start(Version::V3_5);
    let writer = Writer::connect(etcd.endpoint());
    let mut world = World::start(&[etcd.endpoint()]);
    world.changes(&writer);
    let mut last = 0;
    for part in 0..20 {
        if part == 10 {
            // Some of it has been told, some is on its way, some is still to be written.
            etcd.restart();
        }
        let mut operations = world.next();
        operations.extend((0..50).map(|n| limit(part * 50 + n)));
        last = writer.transaction(operations);
    }
    world.load.reaches(world.n());
    within("all keys in /policy", || {
        let in_force = checker::in_force(&world.weir.admin_get("/policy").json());
        in_force.len() == 1002 && in_force.values().max() == Some(&last)
    });
    assert_eq!(
        (world.reads("start"), all_reads(&world)),
        (1, 1),
        "a thousand changes, and nothing was read anew"
    );
    world.checker.check(&writer, 0, 0);
    world.checker.check_revisions();
    world.end(0);
}

fn limit(n: usize) -> TxnOp {
    put(&format!("orders/limits/l{n}"), "{rate: 10/s, match: {path: /nowhere}}")
}

#[test]
fn promise_3_lossless_a_connection_that_is_cut_again_and_again() {
    let etcd = Etcd::start(Version::V3_4);
    let writer = Writer::connect(etcd.endpoint());
    let gate = Gate::start(etcd.address());
    let mut world = World::start(&[gate.endpoint()]);
    world.changes(&writer);
    for _ in 0..3 {
        gate.close();
        world.connected(false);
        world.change(&writer);
        gate.open();
        world.recovers(&writer, Instant::now());
    }
    assert_eq!(all_reads(&world), 1);
    world.checker.check(&writer, 0, 0);
    world.checker.check_revisions();
    world.end(0);
}

/// Faults in an order that nobody has thought of; `WEIR_LIVE_SEED` repeats one.
#[test]
fn promise_3_lossless_a_random_sequence_of_faults() {
    let seed = setting("WEIR_LIVE_SEED", fastrand::u64(..));
    eprintln!("WEIR_LIVE_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut etcd = Etcd::start(Version::V3_5);
    let writer = Writer::connect(etcd.endpoint());
    let gate = Gate::start(etcd.address());
    let mut world = World::start(&[gate.endpoint()]);
    let (mut revisions, mut compacted) = (BTreeSet::from([world.changes(&writer)]), 0);
    for _ in 0..setting("WEIR_LIVE_FAULTS", 15) {
        let fault = rng.u8(0..7);
        match fault {
            0 => etcd.restart(),
            1 => {
                etcd.kill();
                world.load.goes_on();
                etcd.run();
                etcd.answers();
            }
            2 => {
                etcd.freeze();
                world.load.goes_on();
                etcd.thaw();
            }
            3 => gate.close(),
            4 => gate.open(),
            5 => {
                let last = *revisions.last().unwrap();
                if std::mem::replace(&mut compacted, last) < last {
                    writer.compact(last);
                }
            }
            _ => {
                gate.open();
                revisions.insert(world.changes(&writer));
            }
        }
        for _ in 0..rng.u8(0..4) {
            revisions.insert(world.change(&writer));
        }
        if rng.bool() {
            world.load.goes_on();
        }
    }
    gate.open();
    revisions.insert(world.changes(&writer));
    world.checker.check_against(&revisions);
    world.checker.check_revisions();
    world.end(0);
}
