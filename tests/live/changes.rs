//! What a change does to requests, connections and to other changes.

use std::time::Instant;

use jiff::Timestamp;

use crate::{
    support::{
        etcd::{Etcd, Version},
        raw::Raw,
        writer::Writer,
    },
    world::{self, Store, World, setting, within},
};

fn many() -> u64 {
    setting("WEIR_LIVE_CHANGES", 200)
}

/// Each change is one transaction on two resources, and each answer shows both of them.
#[test]
fn promise_1_atomic_no_request_sees_one_half_of_a_change() {
    let etcd = Etcd::start(Version::V3_5);
    let writer = Writer::connect(etcd.endpoint());
    let mut world = World::start(&[etcd.endpoint()]);
    let changes = many();
    for n in 1..=changes {
        world.change(&writer);
        if n % 10 == 0 {
            world.load.reaches(n);
        }
    }
    world.load.reaches(changes);
    world.checker.check(&writer, 0, 0);
    world.checker.check_revisions();
    let World { load, .. } = world;
    let seen = load.end(0) as u64;
    assert!(seen >= changes / 10, "only {seen} different ones were seen");
}

/// A request that waits for its origin while the policy changes is answered under what it began with.
#[test]
fn promise_1_atomic_a_request_keeps_the_policy_that_it_began_with() {
    let etcd = Etcd::start(Version::V3_4);
    let writer = Writer::connect(etcd.endpoint());
    let mut world = World::start(&[etcd.endpoint()]);
    world.changes(&writer);
    let mut raw = Raw::connect(world.weir.at("inbound"));
    raw.send("GET /slow HTTP/1.1\r\nhost: x\r\n\r\n");
    within("the request at its origin", || world.origins[1].running() == 1);
    // Another header and another endpoint; then the same names stand for something else.
    world.changes(&writer);
    world.changes(&writer);
    world.go.notify_one();
    let answer = raw.answer();
    assert_eq!((answer.status(), answer.header("x-n").as_deref()), (200, Some("1")));
    assert_eq!(answer.text(), "origin 1");
    assert_eq!(raw.get("x", "/").header("x-n").as_deref(), Some("3"), "the next one follows the new policy");
    world.end(0);
}

/// Changes of other resources, and of the route itself, close and replace no connection to the origin, and a request
/// that runs meanwhile ends well.
#[test]
fn promise_6_stateful_pooled_connections_live_through_changes() {
    let etcd = Etcd::start(Version::V3_5);
    let writer = Writer::connect(etcd.endpoint());
    let world = World::start(&[etcd.endpoint()]);
    let origin = &world.origins[0];
    let mut slow = Raw::connect(world.weir.at("inbound"));
    slow.send("GET /slow HTTP/1.1\r\nhost: x\r\n\r\n");
    within("the request at its origin", || origin.running() >= 1);
    world.load.stays(0);
    let changes = many();
    for n in 1..=changes {
        let other = format!("orders/limits/l{}", n % 7);
        writer.put(&other, format!("{{rate: {n}/s, match: {{path: /nowhere}}}}"));
        let name = format!("orders/upstreams/u{}", n % 5);
        writer.put(&name, world::upstream(world.origins[1 + usize::try_from(n % 3).unwrap()].address));
        if n % 20 == 0 {
            // A number that belongs to the same origin.
            let n = n * world::ORIGINS as u64;
            writer.put("orders/routes/all", world::route(n));
            world.load.reaches(n);
        }
    }
    world.checker.check(&writer, 0, 0);
    assert_eq!(origin.connections(), origin.open_connections(), "none was closed");
    assert!(
        origin.connections() <= 2 * 4,
        "one for each client and worker at most: {}",
        origin.connections()
    );
    world.go.notify_one();
    assert_eq!(slow.answer().text(), "origin 0");
    world.end(0);
}

/// An overlay goes when its time is over, with nobody there to delete it.
#[test]
fn promise_2_safe_an_overlay_ends_by_itself_while_the_store_is_away() {
    let mut etcd = Etcd::start(Version::V3_4);
    let writer = Writer::connect(etcd.endpoint());
    let mut world = World::start(&[etcd.endpoint()]);
    world.changes(&writer);
    let until = Timestamp::now() + jiff::SignedDuration::from_secs(4);
    // Over the service's: the same change, under the number that has the same origin.
    let n = 1 + world::ORIGINS as u64;
    let overlay =
        format!("{{until: {until}, by: ops, why: a test, response_headers: {{set: {{x-n: \"{n}\"}}}}}}");
    writer.put("orders@pod-1/routes/all", overlay);
    world.load.reaches(n);
    etcd.kill();
    let provenance = &world.weir.admin_get("/policy").json()["routes"]["all"]["fields"];
    let field = provenance.as_object().unwrap().values().find(|field| field["layer"] == "instance").unwrap();
    assert_eq!((field["by"].as_str(), field["why"].as_str()), (Some("ops"), Some("a test")));
    assert!(world.status()["policy"]["next_expiry"].is_string());
    let there = Instant::now();
    world.load.reaches(1);
    let over = Timestamp::now();
    assert!(over >= until, "it went at {over}, before {until}");
    assert!(world.load.first(1, there).is_some());
    world.connected(false);
    world.end(1);
}

#[test]
fn promise_5_kept_a_reload_of_the_file_keeps_the_live_overlays() {
    let etcd = Etcd::start(Version::V3_5);
    let writer = Writer::connect(etcd.endpoint());
    let mut world = World::start(&[etcd.endpoint()]);
    world.changes(&writer);
    let file = world::file(&Store::at(&[etcd.endpoint()]), &world.origins);
    let more = file.replace("x-n: \"0\"", "x-n: \"0\", x-file: second");
    assert_ne!(file, more);
    world.weir.reload(&more);
    let inbound = world.weir.at("inbound");
    within("the new file", || {
        Raw::connect(inbound).get("x", "/").header("x-file").as_deref() == Some("second")
    });
    world.load.stays(1);
    world.changes(&writer);
    world.checker.check(&writer, 0, 0);
    world.end(0);
}

#[test]
fn promise_8_honest_bypass_is_shown() {
    let etcd = Etcd::start(Version::V3_4);
    let writer = Writer::connect(etcd.endpoint());
    let mut world = World::start(&[etcd.endpoint()]);
    world.changes(&writer);
    let revision = writer.put("_all/bypass", "on");
    within("bypass", || world.status()["policy"]["bypass"] == true);
    let shown = world.weir.admin_get("/policy").json()["bypass"].clone();
    assert_eq!(shown["document"]["state"], "on");
    let field = &shown["fields"]["state"];
    assert_eq!((field["key"].as_str(), field["revision"].as_i64()), (Some("_all/bypass"), Some(revision)));
    assert_eq!(field["layer"], "fleet");
    // The most specific scope wins.
    writer.put("orders/bypass", "off");
    within("no bypass", || world.status()["policy"]["bypass"] == false);
    world.changes(&writer);
    world.end(0);
}
