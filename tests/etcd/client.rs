//! The client for single calls.

use std::time::Duration;

use weir::store::client::{Client, ClientError, Committed, Expect, Transaction, Write};

use crate::{
    each_version,
    follower::{Writer, config},
    support::{
        driver,
        etcd::{Etcd, Version},
        wait_until,
        weir::unused_address,
    },
};

each_version!(
    writes_all_or_nothing_and_shows_what_was_in_the_way,
    reads_many_pages_at_one_revision_and_old_revisions,
    leases_end_and_are_kept_and_revoked,
    goes_to_the_next_member_and_says_what_each_of_them_said,
);

fn client(etcd: &Etcd) -> Client {
    Client::new(config(&[etcd.endpoint()]), Duration::from_secs(5)).unwrap()
}

fn put(key: &str, value: &str) -> Write {
    Write::Put { key: key.into(), value: value.into(), lease: None }
}

fn writes_all_or_nothing_and_shows_what_was_in_the_way(version: Version) {
    let etcd = Etcd::start(version);
    let mut client = client(&etcd);
    driver::run(async move {
        let new = Expect { key: "/weir/policy/orders/limits/a".into(), revision: 0 };
        let both = Transaction {
            expect: vec![new.clone()],
            writes: vec![put(&new.key, "1/s"), put("/weir/audit/orders/1-a", "me")],
        };
        let Committed::Done { revision } = client.commit(&both).await.unwrap() else { panic!() };
        let found = client.get(&new.key, 0).await.unwrap();
        assert_eq!((found.items[0].revision, found.items[0].value.as_slice()), (revision, &b"1/s"[..]));
        assert_eq!(client.get("/weir/audit/orders/1-a", 0).await.unwrap().items[0].revision, revision);

        // It is there now: nothing of it is done.
        let again = Transaction { writes: vec![put("/weir/policy/orders/limits/b", "x")], ..both };
        let Committed::Conflict { found, .. } = client.commit(&again).await.unwrap() else { panic!() };
        assert_eq!(found[0].as_ref().unwrap().value, b"1/s");
        assert_eq!(client.count("/weir/policy/").await.unwrap(), 1);

        let gone = Transaction {
            expect: vec![Expect { revision, ..new.clone() }],
            writes: vec![Write::Delete { key: new.key.clone() }],
        };
        assert!(matches!(client.commit(&gone).await.unwrap(), Committed::Done { .. }));
        assert_eq!(client.get(&new.key, revision).await.unwrap().items.len(), 1, "history");
        assert_eq!(client.get(&new.key, 0).await.unwrap().items.len(), 0);

        let twice = Transaction { expect: vec![], writes: vec![put("/a", "1"), put("/a", "2")] };
        assert!(matches!(client.commit(&twice).await, Err(ClientError::Refused(_))));
    });
}

fn reads_many_pages_at_one_revision_and_old_revisions(version: Version) {
    let etcd = Etcd::start(version);
    let writer = Writer::connect(etcd.endpoint());
    let mut revision = 0;
    for part in 0..12 {
        let puts = (0..100).map(|n| crate::follower::put(&format!("orders/limits/l{part:02}-{n:02}"), "1/s"));
        revision = writer.transaction(puts.collect());
    }
    let last = writer.put("orders/limits/l00-00", "2/s");
    let mut client = client(&etcd);
    let (old, new, some) = driver::run(async move {
        let prefix = "/weir/policy/orders/";
        let old = client.range(prefix, revision, 5000).await.unwrap();
        let new = client.range(prefix, 0, 5000).await.unwrap();
        (old, new, client.range(prefix, 0, 700).await.unwrap())
    });
    assert_eq!((old.items.len(), old.revision, old.more), (1200, revision, false));
    assert_eq!((old.items[0].value.as_slice(), new.items[0].value.as_slice()), (&b"1/s"[..], &b"2/s"[..]));
    assert_eq!((new.revision, some.items.len(), some.more), (last, 700, true));
    assert!(new.items.windows(2).all(|pair| pair[0].key < pair[1].key));
    writer.compact(last);
    let mut client = self::client(&etcd);
    let error = driver::run(async move { client.range("/weir/", 2, 10).await.unwrap_err() });
    assert!(matches!(error, ClientError::Compacted(_)), "{error}");
}

fn leases_end_and_are_kept_and_revoked(version: Version) {
    let etcd = Etcd::start(version);
    let mut client = client(&etcd);
    let lease = driver::run(async move {
        let lease = client.grant(Duration::from_secs(60)).await.unwrap();
        let write =
            Write::Put { key: "/weir/pods/orders/pod-1".into(), value: b"{}".into(), lease: Some(lease) };
        client.commit(&Transaction { expect: vec![], writes: vec![write] }).await.unwrap();
        client.keep_alive(lease).await.unwrap();
        assert_eq!(client.count("/weir/pods/orders/").await.unwrap(), 1);
        client.revoke(lease).await.unwrap();
        assert_eq!(client.count("/weir/pods/orders/").await.unwrap(), 0);
        lease
    });
    let mut client = self::client(&etcd);
    let gone = driver::run(async move { client.keep_alive(lease).await });
    assert_eq!(gone, Err(ClientError::LeaseGone));

    let mut client = self::client(&etcd);
    let short = driver::run(async move {
        let lease = client.grant(Duration::from_secs(1)).await.unwrap();
        let write = Write::Put { key: "/weir/pods/orders/x".into(), value: b"{}".into(), lease: Some(lease) };
        client.commit(&Transaction { expect: vec![], writes: vec![write] }).await.unwrap();
        client
    });
    let short = std::sync::Arc::new(tokio::sync::Mutex::new(short));
    wait_until("the key to go with its lease", || {
        let client = short.clone();
        driver::run(async move { client.lock().await.count("/weir/pods/").await.unwrap() == 0 })
    });
}

fn goes_to_the_next_member_and_says_what_each_of_them_said(version: Version) {
    let etcd = Etcd::start(version);
    let nobody = format!("http://{}", unused_address());
    let endpoints = [nobody.clone(), etcd.endpoint()];
    let mut client = Client::new(config(&endpoints), Duration::from_secs(5)).unwrap();
    let write = Transaction { expect: vec![], writes: vec![put("/weir/a", "b")] };
    let done = driver::run(async move { client.commit(&write).await });
    assert!(matches!(done, Ok(Committed::Done { .. })), "{done:?}");

    drop(etcd);
    let mut client = Client::new(config(&endpoints), Duration::from_secs(5)).unwrap();
    let error = driver::run(async move { client.count("/weir/").await.unwrap_err() });
    let text = error.to_string();
    assert!(text.contains(&nobody) && text.contains(&endpoints[1]), "{text}");
}
