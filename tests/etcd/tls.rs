//! Certificates, both ways.

use std::{fs, path::PathBuf};

use weir::store::{
    Lost, ReadCause,
    etcd::{Config, Tls},
    watch::Settings,
};

use crate::{
    each_version,
    follower::{Follower, config},
    support::{
        certs::{Certs, Identity},
        etcd::{Etcd, ServerTls, Version},
    },
};

each_version!(
    certificates_are_checked_and_shown_and_new_ones_are_taken,
    a_server_that_nobody_vouches_for_is_refused,
);

fn with(etcd: &Etcd, ca: PathBuf, own: &Identity) -> Config {
    let tls =
        Tls { ca: Some(ca), cert: Some(own.cert.clone()), key: Some(own.key.clone()), server_name: None };
    Config { tls: Some(tls), ..config(&[etcd.endpoint()]) }
}

fn certificates_are_checked_and_shown_and_new_ones_are_taken(version: Version) {
    let (old, new) = (Certs::new(), Certs::new());
    let server = ServerTls { identity: old.localhost(), client_ca: old.ca() };
    let own = old.issue("pod-1", &["pod-1"]);
    let mut etcd = Etcd::with_tls(version, server.clone());
    let follower = Follower::with(with(&etcd, old.ca(), &own), Settings::default());
    follower.wait("the first read", |told| told.reads.len() == 1);

    // Everything is issued anew by another authority, in the same files; the server is started anew with it.
    etcd.kill();
    let (fresh, mine) = (new.localhost(), new.issue("pod-1", &["pod-1"]));
    for (from, to) in [
        (new.ca(), old.ca()),
        (fresh.cert, server.identity.cert.clone()),
        (fresh.key, server.identity.key.clone()),
        (mine.cert, own.cert.clone()),
        (mine.key, own.key.clone()),
    ] {
        fs::copy(from, to).unwrap();
    }
    let lost = follower.told(|told| told.connected.len());
    etcd.run();
    follower.wait("a connection with the new certificates", |told| told.connected.len() > lost);
    follower.told(|told| assert_eq!(told.reads, [ReadCause::Start]));
}

fn a_server_that_nobody_vouches_for_is_refused(version: Version) {
    let (certs, others) = (Certs::new(), Certs::new());
    let server = ServerTls { identity: certs.localhost(), client_ca: certs.ca() };
    let etcd = Etcd::with_tls(version, server);
    let own = certs.issue("pod-1", &["pod-1"]);
    let follower = Follower::with(with(&etcd, others.ca(), &own), Settings::default());
    follower.wait("the refusal", |told| {
        told.lost.iter().any(|(lost, text)| *lost == Lost::Tls && text.contains("`ca` says who may sign"))
    });
    follower.told(|told| assert!(told.reads.is_empty()));
}
