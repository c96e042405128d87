//! What is told, and when.

use etcd_client::TxnOp;
use weir::store::{ReadCause, watch::Settings};

use crate::{
    each_version,
    follower::{Follower, Writer, config, put},
    support::etcd::{Etcd, GrpcProxy, Version},
};

each_version!(
    tells_what_is_there_and_every_change_of_the_three_scopes,
    a_transaction_over_all_scopes_is_told_at_once,
    a_thousand_keys_arrive_whole,
    works_through_the_grpc_proxy,
    large_values_and_odd_keys_stop_nothing,
    progress_requests_work_where_they_are_trusted,
);

fn tells_what_is_there_and_every_change_of_the_three_scopes(version: Version) {
    let etcd = Etcd::start(version);
    let writer = Writer::connect(etcd.endpoint());
    writer.put("orders/switches/a", "on");
    writer.put("orders2/switches/a", "not ours");
    writer.put("orders@pod-10/switches/a", "not ours");
    let before = writer.put("_all/bypass", "off");

    let follower = Follower::start(etcd.endpoint());
    follower.reaches(before);
    follower.told(|told| {
        assert_eq!(told.reads, [ReadCause::Start]);
        assert_eq!(told.state.keys().collect::<Vec<_>>(), ["_all/bypass", "orders/switches/a"]);
        assert_eq!(told.connected, [etcd.endpoint()]);
    });

    writer.put("orders@pod-1/limits/x", "5/s");
    writer.put("orders/switches/a", "off");
    writer.delete("_all/bypass");
    let last = writer.put("orders2/switches/a", "still not ours");
    follower.nudge();
    follower.reaches(last);
    let history = writer.history(last);
    follower.told(|told| {
        assert_eq!(told.state, history);
        assert_eq!(told.batches.iter().sum::<usize>(), 3);
        assert_eq!((told.reads.len(), told.lost.len()), (1, 0));
    });
    follower.check(&writer, 0);
}

fn a_transaction_over_all_scopes_is_told_at_once(version: Version) {
    let etcd = Etcd::start(version);
    let writer = Writer::connect(etcd.endpoint());
    let follower = Follower::start(etcd.endpoint());
    follower.reaches(1);
    let mut last = 0;
    let mut delays = Vec::new();
    for round in 0..100 {
        let value = round.to_string();
        last = writer.transaction(
            ["_all/bypass", "orders/switches/a", "orders@pod-1/switches/a"]
                .map(|key| put(key, &value))
                .to_vec(),
        );
        if round % 10 == 0 {
            follower.reaches(last);
            delays.extend(follower.told(|told| told.last.map(|(came, told)| told - came)));
        }
    }
    follower.reaches(last);
    follower.told(|told| {
        for (revision, state) in &told.states[1..] {
            let values: std::collections::BTreeSet<_> = state.values().collect();
            assert_eq!((state.len(), values.len()), (3, 1), "half of a transaction at {revision}: {state:?}");
        }
    });
    follower.check(&writer, 0);
    // What people feel: from the answer to a put of one key to its telling; only shown, as machines differ.
    let mut felt = Vec::new();
    for round in 0..20 {
        let last = writer.put("orders/switches/a", format!("single {round}"));
        let answered = std::time::Instant::now();
        follower.reaches(last);
        felt.extend(
            follower.told(|told| told.last.map(|(_, told)| told.saturating_duration_since(answered))),
        );
    }
    delays.sort();
    felt.sort();
    eprintln!("{version:?}: message to telling {delays:?}, put to telling {felt:?}");
}

fn a_thousand_keys_arrive_whole(version: Version) {
    let etcd = Etcd::start(version);
    let writer = Writer::connect(etcd.endpoint());
    let follower = Follower::start(etcd.endpoint());
    follower.reaches(1);
    let mut last = 0;
    for part in 0..10 {
        let scope = ["_all", "orders", "orders@pod-1"][part % 3];
        let operations = (0..100).map(|n| put(&format!("{scope}/limits/l{part}-{n}"), &"x".repeat(200)));
        last = writer.transaction(operations.collect());
    }
    // A second time over, three at once and some of them away again.
    for part in 0..10 {
        let operations = (0..90).map(|n| match n % 9 {
            0 => TxnOp::delete(format!("/weir/policy/orders/limits/l1-{n}"), None),
            _ => put(&format!("{}/limits/m{part}-{n}", ["_all", "orders", "orders@pod-1"][n % 3]), "y"),
        });
        last = writer.transaction(operations.collect());
    }
    follower.reaches(last);
    let history = writer.history(last);
    follower.told(|told| {
        assert_eq!(told.reads.len(), 1);
        assert_eq!(told.state, history);
    });
    follower.check(&writer, 0);
}

fn works_through_the_grpc_proxy(version: Version) {
    let mut etcd = Etcd::start(version);
    let proxy = GrpcProxy::start(&etcd);
    let writer = Writer::connect(etcd.endpoint());
    writer.put("orders/switches/a", "on");
    // It does not pass progress requests on, so a server that is trusted in this must be seen through.
    let settings = Settings { trust_progress: version == Version::V3_5, ..Settings::default() };
    let follower = Follower::with(config(&[proxy.endpoint()]), settings);
    follower.wait("the first read", |told| told.state.len() == 1);
    let last = writer.transaction(vec![put("_all/bypass", "on"), put("orders/switches/a", "off")]);
    follower.reaches(last);
    etcd.restart();
    let last = writer.put("orders@pod-1/limits/a", "1/s");
    follower.reaches(last);
    follower.told(|told| assert_eq!(told.reads, [ReadCause::Start]));
    follower.check(&writer, 0);
}

fn large_values_and_odd_keys_stop_nothing(version: Version) {
    let etcd = Etcd::with(version, &["--max-request-bytes=25000000"]);
    let options = etcd_client::ConnectOptions::new();
    let writer = Writer::with(etcd.endpoint(), options);
    for n in 0..30 {
        writer.put(&format!("orders/limits/large-{n:02}"), vec![b'x'; 1 << 20]);
    }
    // Larger than any message that is read.
    writer.put("orders/limits/huge", vec![b'x'; 20 << 20]);
    let mut client = writer.0.clone();
    crate::support::driver::run(async move {
        for key in [
            &b"/weir/policy/orders/\xff\xfe"[..],
            &b"/weir/policy/orders/\xff\xfd"[..],
            b"/weir/policy/orders/",
        ] {
            client.put(key, "odd", None).await.unwrap();
        }
    });
    let last = writer.put("orders/switches/a", "on");
    let follower = Follower::start(etcd.endpoint());
    follower.reaches(last);
    follower.told(|told| {
        assert_eq!(told.state["orders/switches/a"], b"on");
        assert!(told.state["orders/limits/huge"].len() > 256 << 10, "so that it is refused as too long");
        assert_eq!(told.state["orders/limits/large-07"].len(), (256 << 10) + 1);
        assert!(told.lost.is_empty(), "{:?}", told.lost);
    });
    // And as a change: a message that is not read ends the stream, and must not do so again and again.
    writer.put("orders/limits/huge", vec![b'y'; 21 << 20]);
    let last = writer.put("orders/switches/a", "off");
    follower.reaches(last);
    follower.told(|told| assert_eq!(told.state["orders/switches/a"], b"off"));
}

fn progress_requests_work_where_they_are_trusted(version: Version) {
    let etcd = Etcd::start(version);
    let writer = Writer::connect(etcd.endpoint());
    let settings = Settings { trust_progress: true, ..Settings::default() };
    let follower = Follower::with(config(&[etcd.endpoint()]), settings);
    follower.reaches(1);
    let mut last = 0;
    for round in 0..50 {
        last = writer.put(&format!("orders/limits/l{}", round % 7), round.to_string());
    }
    follower.reaches(last);
    let idle = writer.put("else/limits/x", "1/s");
    follower.nudge();
    follower.reaches(idle);
    follower.told(|told| assert_eq!((told.reads.len(), told.lost.len()), (1, 0), "{:?}", told.lost));
    follower.check(&writer, 0);
}
