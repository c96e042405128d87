//! Documents that cannot be meant, from a real etcd.

use std::fmt::Write as _;

use serde_json::Value;

use crate::{
    support::{
        driver,
        etcd::{Etcd, Version},
        writer::Writer,
    },
    world::{World, counted, within},
};

/// What is written, and a part of the reason that must be readable.
fn bad() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..9 {
        let (this, before) = (format!("a{n}"), format!("*a{}", n - 1));
        let _ = writeln!(bomb, "{this}: &{this} [{}]", vec![before; 10].join(", "));
    }
    let deep = |depth: usize| format!("{{match: {}{}}}", "[".repeat(depth), "]".repeat(depth));
    let regex = "{match: {path: \"~(((a{100}){100}){100})\"}, upstream: app}";
    vec![
        ("orders/routes/garbage", vec![0, 159, 146, 150, 255, 1, 2, 3], "UTF-8"),
        ("orders/routes/empty", Vec::new(), "empty"),
        ("orders/routes/scalar", b"on".to_vec(), ""),
        ("orders/routes/sequence", b"[1, 2, 3]".to_vec(), ""),
        ("orders/routes/unfinished", b"{match: {path: /x".to_vec(), ""),
        ("orders/routes/wrong", b"{upstream: app, timeout: [3]}".to_vec(), "timeout"),
        ("orders/routes/bomb", bomb.into_bytes(), "alias"),
        ("orders/routes/deep", deep(200).into_bytes(), ""),
        ("orders/routes/deeper", deep(100_000).into_bytes(), ""),
        ("orders/routes/huge", vec![b'x'; 300 << 10], "262144"),
        ("orders/routes/regex", regex.as_bytes().to_vec(), ""),
        ("orders/routes/dangling", b"{upstream: nobody}".to_vec(), "nobody"),
        ("orders/routes/with/slashes", b"{upstream: app}".to_vec(), ""),
        ("orders/routes/", b"{upstream: app}".to_vec(), ""),
        ("orders/routes/no name", b"{upstream: app}".to_vec(), ""),
        ("orders/rutes/typo", b"{upstream: app}".to_vec(), "rutes"),
        ("orders/upstreams/app", b"{endpoints: [nowhere]}".to_vec(), ""),
        ("orders/endpoints/app/a", b"127.0.0.1".to_vec(), ""),
        ("orders/endpoints/nobody/a", b"127.0.0.1:1".to_vec(), "nobody"),
        ("orders/limits/l", b"-5/s".to_vec(), ""),
        ("orders/switches/s", b"sometimes".to_vec(), ""),
        ("orders/plans/p", b"{plans: {p: on}, state: maybe}".to_vec(), ""),
        ("orders/bypass", b"perhaps".to_vec(), ""),
        ("_all/routes/until", b"{upstream: app, until: tomorrow}".to_vec(), "until"),
        ("orders@pod-1/upstreams/app", b"null".to_vec(), ""),
    ]
}

#[test]
fn promise_2_safe_what_cannot_be_meant_is_refused_by_key() {
    let etcd = Etcd::start(Version::V3_5);
    let writer = Writer::connect(etcd.endpoint());
    let mut world = World::start(&[etcd.endpoint()]);
    world.changes(&writer);
    let bad = bad();
    for (key, value, _) in &bad {
        writer.put(key, value.clone());
    }
    // Keys that are no text; and others' keys, which are nobody's here.
    let mut client = writer.0.clone();
    driver::run(async move {
        client.put(b"/weir/policy/orders/routes/\xff\xfe".to_vec(), "{upstream: app}", None).await.unwrap();
    });
    writer.put("orders2/routes/all", "{response_headers: {set: {x-n: \"999\"}}}");
    writer.put("orders2/upstreams/app", vec![0, 255]);
    writer.put("order/routes/all", "null");
    // The rest of it applies: another origin's turn, by keys that nothing is wrong with.
    let last = writer.put("orders/limits/good", "{rate: 10/s, match: {path: /nowhere}}");
    within("the good one", || {
        world.weir.admin_get("/policy").json()["limits"]["good"]["fields"]["rate"]["revision"] == last
    });

    let refused = refused(&world);
    for (key, _, part) in &bad {
        let reason = refused.iter().find(|(refused, _)| refused == key).map(|(_, reason)| reason.as_str());
        let reason = reason.unwrap_or_else(|| panic!("{key} is not refused: {refused:#?}"));
        assert!(reason.contains(part), "{key}: {reason}");
        assert!(reason.len() > 10 && reason.len() < 1000, "{key}: {reason}");
    }
    assert!(refused.iter().any(|(key, _)| key == "orders/routes/\u{fffd}\u{fffd}"), "{refused:#?}");
    assert!(!refused.iter().any(|(key, _)| key.starts_with("orders2") || key.starts_with("order/")));
    assert_eq!(refused.len(), bad.len() + 1, "{refused:#?}");
    assert_eq!(counted(world.metric("weir_policy_refused", &[])), refused.len() as u64);
    world.load.stays(1);

    // Mended: what was wrong is gone, and with it what is said of it.
    for (key, _, _) in &bad {
        if *key != "orders/upstreams/app" {
            writer.delete(key);
        }
    }
    let mut client = writer.0.clone();
    driver::run(async move {
        client.delete(b"/weir/policy/orders/routes/\xff\xfe".to_vec(), None).await.unwrap();
    });
    world.changes(&writer);
    within("nothing to be refused", || {
        world.status()["policy"]["refused"] == serde_json::json!([])
            && counted(world.metric("weir_policy_refused", &[])) == 0
    });
    world.end(0);
}

fn refused(world: &World) -> Vec<(String, String)> {
    let status = world.status();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let refused = status["policy"]["refused"].as_array().unwrap().iter();
    refused.map(|one| (text(&one["key"]), text(&one["reason"]))).collect()
}

/// More keys than a scope may have: those beyond are refused, the newest first, and the others hold.
#[test]
fn promise_2_safe_a_scope_of_too_many_keys_keeps_the_oldest() {
    let etcd = Etcd::start(Version::V3_4);
    let writer = Writer::connect(etcd.endpoint());
    let mut world = World::start(&[etcd.endpoint()]);
    world.changes(&writer);
    let key = |n: usize| format!("orders/endpoints/crowd/e{n}");
    let many = weir::store::MAX_KEYS;
    for from in (0..many).step_by(100) {
        let put = |n: usize| crate::support::writer::put(&key(n), "127.0.0.1:9");
        writer.transaction((from..from + 100).map(put).collect());
    }
    // Two of the scope's are the route's and the upstream's, which are older.
    within("two of them refused", || {
        let refused = refused(&world);
        refused.iter().filter(|(_, reason)| reason.contains("10000") || reason.contains("10,000")).count()
            == 2
    });
    world.load.stays(1);
    writer.delete_all("orders/endpoints/crowd/");
    world.changes(&writer);
    world.end(0);
}
