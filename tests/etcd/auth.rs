//! Users, tokens and roles.

use std::{fs, path::Path};

use etcd_client::{Client, ConnectOptions, Permission, PermissionType};
use tempfile::TempDir;
use weir::store::{Lost, ReadCause, etcd::Config, watch::Settings};

use crate::{
    each_version,
    follower::{Follower, Writer, config},
    support::{
        driver,
        etcd::{Etcd, Version},
    },
};

each_version!(
    a_user_with_only_its_three_ranges_follows,
    tokens_that_expire_or_are_forgotten_are_renewed,
    a_wrong_password_is_said_and_mended_without_a_restart,
    a_user_without_need_does_no_harm,
    auth_that_is_turned_on_while_a_watch_runs_is_met,
);

/// `root` who may all, and `pods` who may read the three ranges of `orders@pod-1`.
fn users(etcd: &Etcd) {
    let endpoint = etcd.endpoint();
    driver::run(async move {
        let mut client = Client::connect([endpoint], None).await.unwrap();
        client.user_add("root", "secret", None).await.unwrap();
        client.role_add("root").await.unwrap();
        client.user_grant_role("root", "root").await.unwrap();
        client.user_add("pods", "word", None).await.unwrap();
        client.role_add("pods").await.unwrap();
        for scope in ["_all/", "orders/", "orders@pod-1/"] {
            let range = Permission::new(PermissionType::Read, format!("/weir/policy/{scope}")).with_prefix();
            client.role_grant_permission("pods", range).await.unwrap();
        }
        client.user_grant_role("pods", "pods").await.unwrap();
    });
}

fn enable(etcd: &Etcd) -> Writer {
    let endpoint = etcd.endpoint();
    driver::run(async move {
        Client::connect([endpoint], None).await.unwrap().auth_enable().await.unwrap();
    });
    root(etcd)
}

fn root(etcd: &Etcd) -> Writer {
    let options = ConnectOptions::new().with_user("root", "secret").with_auto_token_refresh(true);
    Writer::with(etcd.endpoint(), options)
}

fn as_pods(etcd: &Etcd, folder: &Path, password: &str) -> Config {
    let file = folder.join("password");
    fs::write(&file, format!("{password}\n")).unwrap();
    Config { user: Some("pods".into()), password_file: Some(file), ..config(&[etcd.endpoint()]) }
}

fn a_user_with_only_its_three_ranges_follows(version: Version) {
    let (etcd, folder) = (Etcd::start(version), TempDir::new().unwrap());
    users(&etcd);
    let writer = enable(&etcd);
    writer.put("orders/switches/a", "on");
    let follower = Follower::with(as_pods(&etcd, folder.path(), "word"), Settings::default());
    let last = writer.put("orders@pod-1/switches/a", "on");
    follower.reaches(last);
    follower.check(&writer, 0);

    let nobody = Follower::start(etcd.endpoint());
    nobody.wait("that a user is wanted", |told| {
        told.lost.iter().any(|(lost, text)| *lost == Lost::Auth && text.contains("password_file"))
    });
}

fn tokens_that_expire_or_are_forgotten_are_renewed(version: Version) {
    let folder = TempDir::new().unwrap();
    let mut etcd = Etcd::with(version, &["--auth-token-ttl=1"]);
    users(&etcd);
    let writer = enable(&etcd);
    let follower = Follower::with(as_pods(&etcd, folder.path(), "word"), Settings::default());
    follower.wait("the first read", |told| told.reads.len() == 1);
    // A proof after each token's end: the next one is asked for every 3 to 4 s.
    for round in 0..3 {
        let last = writer.put("else/limits/x", round.to_string());
        follower.reaches(last);
    }
    follower.told(|told| {
        assert_eq!(told.lost, [], "the connection stays");
        assert_eq!(told.reads, [ReadCause::Start]);
    });
    etcd.restart();
    let last = writer.put("orders/limits/x", "1/s");
    follower.reaches(last);
    follower.told(|told| assert_eq!(told.reads, [ReadCause::Start]));
    follower.check(&writer, 0);
}

fn a_wrong_password_is_said_and_mended_without_a_restart(version: Version) {
    let (etcd, folder) = (Etcd::start(version), TempDir::new().unwrap());
    users(&etcd);
    let writer = enable(&etcd);
    let follower = Follower::with(as_pods(&etcd, folder.path(), "wrong"), Settings::default());
    follower.wait("the refusal", |told| {
        told.lost
            .iter()
            .any(|(lost, text)| *lost == Lost::Auth && text.contains("invalid user ID or password"))
    });
    as_pods(&etcd, folder.path(), "word");
    let last = writer.put("orders/limits/x", "1/s");
    follower.reaches(last);
}

fn a_user_without_need_does_no_harm(version: Version) {
    let (etcd, folder) = (Etcd::start(version), TempDir::new().unwrap());
    let follower = Follower::with(as_pods(&etcd, folder.path(), "word"), Settings::default());
    let last = Writer::connect(etcd.endpoint()).put("orders/limits/x", "1/s");
    follower.reaches(last);
    follower.told(|told| assert_eq!(told.lost, []));
}

fn auth_that_is_turned_on_while_a_watch_runs_is_met(version: Version) {
    let (etcd, folder) = (Etcd::start(version), TempDir::new().unwrap());
    users(&etcd);
    let follower = Follower::with(as_pods(&etcd, folder.path(), "word"), Settings::default());
    follower.wait("the first read", |told| told.reads.len() == 1);
    let writer = enable(&etcd);
    let last = writer.put("orders/limits/x", "1/s");
    follower.reaches(last);
    follower.told(|told| assert_eq!(told.reads, [ReadCause::Start]));
}
