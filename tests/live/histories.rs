//! The store comes back as something else, or has forgotten what was before.

use std::time::Instant;

use serde_json::json;

use crate::{
    support::{
        etcd::{Etcd, Version},
        gate::Gate,
        writer::Writer,
    },
    world::{World, within},
};

#[test]
fn promise_4_guarded_a_wiped_store_is_held_until_it_is_confirmed() {
    let mut etcd = Etcd::start(Version::V3_5);
    let writer = Writer::connect(etcd.endpoint());
    let mut world = World::start(&[etcd.endpoint()]);
    writer.put("orders/limits/other", "{rate: 10/s, match: {path: /nowhere}}");
    for _ in 0..3 {
        world.changes(&writer);
    }
    world.checker.check(&writer, 0, 0);

    etcd.wipe("second");
    etcd.run();
    etcd.answers();
    let holding = world.holds(3);
    assert_eq!((&holding["why"], &holding["scope"]), (&json!("other_cluster"), &json!("service")));
    assert_eq!(holding["keys"], json!(["orders/limits/other", "orders/routes/all", "orders/upstreams/app"]));
    assert_eq!(world.reads("new_cluster"), 1);
    assert_eq!(world.metric("weir_policy_source", &[("source", "store")]).to_bits(), 1.0_f64.to_bits());
    world.load.stays(world.n());

    // What is put releases its key; the rest waits for the operator.
    let back = Instant::now();
    world.recovers(&writer, back);
    let holding = world.holds(1);
    assert_eq!(holding["keys"], json!(["orders/limits/other"]));
    world.confirm(&writer);
    world.holds_nothing();
    world.checker.looks();
    world.checker.check(&writer, world.checker.mark(), 0);
    world.end(0);
}

#[test]
fn promise_4_guarded_a_store_restored_from_an_older_snapshot_is_held_until_it_is_confirmed() {
    let mut etcd = Etcd::start(Version::V3_4);
    let writer = Writer::connect(etcd.endpoint());
    let mut world = World::start(&[etcd.endpoint()]);
    world.changes(&writer);
    let old = world.n();
    let snapshot = etcd.snapshot();
    for _ in 0..5 {
        world.changes(&writer);
    }
    world.checker.check(&writer, 0, 0);

    etcd.restore_snapshot(&snapshot);
    etcd.run();
    etcd.answers();
    let holding = world.holds(2);
    assert_eq!(holding["why"], json!("older_store"));
    assert_eq!(world.reads("regression"), 1);
    world.load.stays(world.n());

    world.confirm(&writer);
    world.load.reaches(old);
    world.holds_nothing();
    world.checker.looks();
    world.checker.check(&writer, world.checker.mark(), 0);
    // Life goes on.
    world.changes(&writer);
    world.end(1);
}

#[test]
fn promise_4_guarded_a_deletion_of_most_of_a_scope_is_held() {
    let etcd = Etcd::start(Version::V3_5);
    let writer = Writer::connect(etcd.endpoint());
    let mut world = World::start(&[etcd.endpoint()]);
    for n in 0..4 {
        writer.put(&format!("orders/limits/l{n}"), "{rate: 10/s, match: {path: /nowhere}}");
    }
    world.changes(&writer);
    let revision = writer.delete_all("orders/");
    let holding = world.holds(6);
    assert_eq!((&holding["why"], &holding["revision"]), (&json!("mass_delete"), &json!(revision)));
    world.load.stays(world.n());
    world.confirm(&writer);
    world.load.reaches(0);
    world.holds_nothing();
    world.end(1);
}

/// Our prefix is idle while another is busy and the history is cut away: nothing has to be read. When ours has changed
/// as well, all is read, once.
#[test]
fn promise_3_lossless_a_compaction_past_our_revision() {
    let etcd = Etcd::start(Version::V3_5);
    let writer = Writer::connect(etcd.endpoint());
    let gate = Gate::start(etcd.address());
    let mut world = World::start(&[gate.endpoint()]);
    for _ in 0..3 {
        world.changes(&writer);
    }
    world.checker.check(&writer, 0, 0);
    let busy = |count: usize| (0..count).map(|_| writer.put("else/limits/x", "1/s")).last().unwrap();

    // While it watches.
    let compacted = busy(50);
    writer.compact(compacted);
    within("a proof of the newest revision", || {
        world.status()["revisions"]["proven"].as_i64() >= Some(compacted)
    });
    // While it is cut off.
    gate.close();
    world.connected(false);
    let compacted = busy(50);
    writer.compact(compacted);
    gate.open();
    world.connected(true);
    within("a proof of the newest revision", || {
        world.status()["revisions"]["proven"].as_i64() >= Some(compacted)
    });
    let from = world.checker.mark() - 1;
    world.changes(&writer);
    assert_eq!((world.reads("start"), world.reads("compaction")), (1, 0), "nothing of ours was lost");
    world.checker.check(&writer, from, compacted);

    gate.close();
    world.connected(false);
    let (lost, from) = (world.n() + 1, world.checker.mark());
    for _ in 0..3 {
        world.change(&writer);
    }
    let compacted = busy(1);
    writer.compact(compacted);
    gate.open();
    let back = Instant::now();
    world.recovers(&writer, back);
    assert_eq!((world.reads("start"), world.reads("compaction")), (1, 1));
    assert!(world.load.first(lost, back).is_none(), "nobody was to see it any more");
    world.checker.check_revisions();
    world.checker.check(&writer, from, compacted);
    world.end(0);
}
