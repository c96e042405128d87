//! What etcd's bad days do: nothing is lost, nothing is read twice without need.

use std::time::Duration;

use weir::store::{Lost, ReadCause, watch::Settings};

use crate::{
    each_version,
    follower::{Follower, Writer, config, put},
    support::{
        etcd::{Etcd, Version},
        gate::{self, Gate},
    },
};

each_version!(
    goes_on_after_a_kill_without_reading_anew,
    finds_out_a_stall_and_goes_on,
    reads_a_wiped_store_as_another_cluster,
    reads_a_restored_store_as_one_that_ran_backwards,
    tells_a_restored_store_that_has_overtaken_what_was_known,
    an_idle_prefix_survives_compaction_and_changes_that_were_compacted_are_read,
    a_cut_in_the_middle_of_a_burst_loses_nothing,
    a_port_that_never_answers_is_passed_over,
    a_frozen_member_of_three_is_left_for_another,
);

fn goes_on_after_a_kill_without_reading_anew(version: Version) {
    let mut etcd = Etcd::start(version);
    let writer = Writer::connect(etcd.endpoint());
    let first = writer.put("orders/switches/a", "on");
    let follower = Follower::start(etcd.endpoint());
    follower.reaches(first);
    for round in 0..3 {
        etcd.kill();
        follower.wait("the loss to be told", |told| told.lost.len() > round);
        etcd.run();
        etcd.answers();
        let last = writer.put("orders/switches/a", round.to_string());
        follower.reaches(last);
    }
    follower.told(|told| assert_eq!(told.reads, [ReadCause::Start]));
    follower.check(&writer, 0);
}

fn finds_out_a_stall_and_goes_on(version: Version) {
    let etcd = Etcd::start(version);
    let writer = Writer::connect(etcd.endpoint());
    let follower = Follower::start(etcd.endpoint());
    follower.reaches(1);
    etcd.freeze();
    follower.wait("the stall to be found out", |told| told.lost.iter().any(|lost| lost.0 == Lost::Stalled));
    etcd.thaw();
    let last = writer.put("orders/switches/a", "on");
    follower.reaches(last);
    follower.told(|told| assert_eq!(told.reads, [ReadCause::Start]));
    follower.check(&writer, 0);
}

fn reads_a_wiped_store_as_another_cluster(version: Version) {
    let mut etcd = Etcd::start(version);
    let writer = Writer::connect(etcd.endpoint());
    let before = writer.put("orders/switches/a", "on");
    let follower = Follower::start(etcd.endpoint());
    follower.reaches(before);
    etcd.wipe("second");
    etcd.run();
    etcd.answers();
    follower.wait("another cluster", |told| told.reads == [ReadCause::Start, ReadCause::NewCluster]);
    follower.told(|told| assert!(told.state.is_empty()));
    let from = follower.told(|told| told.states.len() - 1);
    let last = writer.put("orders/switches/b", "on");
    follower.reaches(last);
    follower.check(&writer, from);
}

fn reads_a_restored_store_as_one_that_ran_backwards(version: Version) {
    let mut etcd = Etcd::start(version);
    let writer = Writer::connect(etcd.endpoint());
    let old = writer.put("orders/switches/a", "old");
    let copy = etcd.backup();
    for n in 0..5 {
        writer.put("orders/switches/a", n.to_string());
    }
    let before = writer.put("orders/switches/b", "new");
    let follower = Follower::start(etcd.endpoint());
    follower.reaches(before);
    etcd.restore(&copy);
    etcd.run();
    etcd.answers();
    follower.wait("the regression", |told| told.reads == [ReadCause::Start, ReadCause::Regression]);
    let from = follower.told(|told| told.states.len() - 1);
    follower.told(|told| assert_eq!(told.states[from].0, old));
    let last = writer.put("orders/switches/c", "on");
    follower.reaches(last);
    follower.check(&writer, from);
}

/// The revision is ahead again, the cluster is the same, and yet what was told is not there.
fn tells_a_restored_store_that_has_overtaken_what_was_known(version: Version) {
    let mut etcd = Etcd::start(version);
    let writer = Writer::connect(etcd.endpoint());
    writer.put("orders/switches/a", "old");
    let copy = etcd.backup();
    let before = writer.put("orders/switches/a", "new");
    let gate = Gate::start(etcd.address());
    let follower = Follower::start(gate.endpoint());
    follower.reaches(before);
    gate.close();
    follower.wait("the loss", |told| !told.lost.is_empty());
    etcd.restore(&copy);
    etcd.run();
    etcd.answers();
    let mut last = 0;
    while last < before + 5 {
        last = writer.put("else/limits/x", "1/s");
    }
    gate.open();
    follower.wait("the old value", |told| told.state["orders/switches/a"] == b"old");
    follower.told(|told| assert_eq!(told.reads, [ReadCause::Start, ReadCause::Regression]));
}

fn an_idle_prefix_survives_compaction_and_changes_that_were_compacted_are_read(version: Version) {
    let etcd = Etcd::start(version);
    let writer = Writer::connect(etcd.endpoint());
    let gate = Gate::start(etcd.address());
    let first = writer.put("orders/switches/a", "on");
    let follower = Follower::start(gate.endpoint());
    follower.reaches(first);

    gate.close();
    follower.wait("the loss", |told| !told.lost.is_empty());
    let mut last = 0;
    for n in 0..20 {
        last = writer.put("else/limits/x", n.to_string());
    }
    writer.compact(last);
    gate.open();
    follower.reaches(last);
    follower.told(|told| assert_eq!(told.reads, [ReadCause::Start], "nothing of ours has changed"));

    let before = follower.told(|told| told.lost.len());
    gate.close();
    follower.wait("the loss", |told| told.lost.len() > before);
    writer.put("orders/switches/a", "off");
    let last = writer.put("orders/switches/b", "on");
    writer.compact(last);
    gate.open();
    follower.reaches(last);
    follower.told(|told| assert_eq!(told.reads, [ReadCause::Start, ReadCause::Compaction]));
    let from = follower.told(|told| told.states.len() - 1);
    follower.check(&writer, from);
}

fn a_cut_in_the_middle_of_a_burst_loses_nothing(version: Version) {
    let mut etcd = Etcd::start(version);
    let writer = Writer::connect(etcd.endpoint());
    let follower = Follower::start(etcd.endpoint());
    follower.reaches(1);
    let mut last = 0;
    for part in 0..10 {
        if part == 5 {
            etcd.restart();
        }
        for n in 0..10 {
            let key = |scope: &str| format!("{scope}/limits/l{}", (part * 10 + n) % 37);
            last = wait_txn(&writer, &[key("orders"), key("_all")], &format!("{part}.{n}"));
        }
    }
    follower.reaches(last);
    let history = writer.history(last);
    follower.told(|told| {
        assert_eq!(told.reads, [ReadCause::Start]);
        assert_eq!(told.state, history);
    });
    follower.check(&writer, 0);
}

fn wait_txn(writer: &Writer, keys: &[String], value: &str) -> i64 {
    writer.transaction(keys.iter().map(|key| put(key, value)).collect())
}

fn a_port_that_never_answers_is_passed_over(version: Version) {
    let etcd = Etcd::start(version);
    let writer = Writer::connect(etcd.endpoint());
    let last = writer.put("orders/switches/a", "on");
    let hole = gate::hole();
    // Whichever comes first in the shuffled order, half of these begin with the hole.
    for _ in 0..4 {
        let settings = Settings { call_timeout: Duration::from_millis(500), ..Settings::default() };
        let endpoints = [format!("http://{hole}"), etcd.endpoint()];
        let follower = Follower::with(config(&endpoints), settings);
        follower.reaches(last);
        follower.told(|told| assert_eq!(told.connected, [etcd.endpoint()]));
    }
}

fn a_frozen_member_of_three_is_left_for_another(version: Version) {
    let members = Etcd::cluster(version);
    let endpoints: Vec<String> = members.iter().map(Etcd::endpoint).collect();
    let follower = Follower::with(config(&endpoints), Settings::default());
    follower.reaches(1);
    let used = follower.told(|told| told.connected[0].clone());
    let frozen = members.iter().find(|member| member.endpoint() == used).unwrap();
    frozen.freeze();
    let other = members.iter().find(|member| member.endpoint() != used).unwrap();
    let writer = Writer::connect(other.endpoint());
    let last = writer.put("orders/switches/a", "on");
    follower.reaches(last);
    follower.told(|told| {
        assert_ne!(told.connected.last(), Some(&used));
        assert_eq!(told.reads, [ReadCause::Start], "another member is no other store");
    });
    // It comes back and lags behind for a moment; nobody minds.
    frozen.thaw();
    let last = writer.put("orders/switches/a", "off");
    follower.reaches(last);
    follower.check(&writer, 0);
}
