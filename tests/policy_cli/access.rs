//! Who may: users, roles and certificates of an etcd.

use etcd_client::{Client, Permission, PermissionType};

use crate::{
    harness::{Bench, Store, spawn},
    support::{
        PATIENCE,
        certs::Certs,
        driver,
        etcd::{Etcd, ServerTls, Version},
        programs::{Done, finish},
    },
};

/// Turns authentication on: `ann` has what the README gives to operators, and nothing else.
fn operators(endpoint: String) {
    driver::run(async move {
        let mut client = Client::connect([endpoint], None).await.unwrap();
        client.user_add("root", "secret", None).await.unwrap();
        client.role_add("root").await.unwrap();
        client.user_grant_role("root", "root").await.unwrap();
        client.role_add("operator").await.unwrap();
        for (kind, prefix) in [
            (PermissionType::Readwrite, "/weir/policy/"),
            (PermissionType::Readwrite, "/weir/audit/"),
            (PermissionType::Read, "/weir/pods/"),
        ] {
            client
                .role_grant_permission("operator", Permission::new(kind, prefix).with_prefix())
                .await
                .unwrap();
        }
        // Of one service alone.
        client.role_add("team").await.unwrap();
        for (kind, prefix) in [
            (PermissionType::Readwrite, "/weir/policy/orders/"),
            (PermissionType::Readwrite, "/weir/policy/orders@"),
            (PermissionType::Readwrite, "/weir/audit/orders/"),
            (PermissionType::Read, "/weir/policy/_all/"),
            (PermissionType::Read, "/weir/pods/orders/"),
        ] {
            client.role_grant_permission("team", Permission::new(kind, prefix).with_prefix()).await.unwrap();
        }
        client.user_add("eve", "word", None).await.unwrap();
        client.user_grant_role("eve", "team").await.unwrap();
        client.user_add("ann", "word", None).await.unwrap();
        client.user_grant_role("ann", "operator").await.unwrap();
        client.auth_enable().await.unwrap();
    });
}

#[test]
fn an_operator_needs_three_ranges_and_a_password() {
    let bench = Bench::etcd();
    let Store::Etcd(etcd) = &bench.store else { panic!("no etcd") };
    operators(etcd.endpoint());
    bench.file("password", "word\n");
    bench.file("wrong", "words\n");
    let option = bench.option();
    let run_as = |arguments: &[&str], who: Option<(&str, &str)>| -> Done {
        let user = who.map(|(user, file)| ["--user", user, "--password-file", file]);
        let store = ["--store", option.as_str()];
        let all: Vec<_> = arguments.iter().chain(&store).chain(user.iter().flatten()).copied().collect();
        bench.run(&all)
    };
    let run =
        |arguments: &[&str], password: Option<&str>| run_as(arguments, password.map(|file| ("ann", file)));
    run(&["policy", "set", "switches/no-recs", "on"], Some("password")).ok();
    run(&["policy", "ls"], Some("password")).ok();
    let history = run(&["policy", "history", "switches/no-recs"], Some("password")).ok();
    assert!(history.out.contains("ann@"), "{}", history.out);
    run(&["policy", "unset", "switches/no-recs"], Some("password")).ok();
    let done = run(&["wait", "--revision", "1", "--timeout", "1ms"], Some("password"));
    assert!(done.code == 1 && done.out.contains("no instance was seen"), "{} {}", done.out, done.err);
    for password in [None, Some("wrong")] {
        let done = run(&["policy", "ls"], password);
        assert_eq!(done.code, 1, "{}", done.err);
        assert!(done.err.contains("the store refused"), "{}", done.err);
    }
    let team = Some(("eve", "password"));
    run_as(&["policy", "set", "switches/no-recs", "on"], team).ok();
    run_as(&["policy", "set", "limits/checkout", "1/s", "--scope", "orders@pod-1"], team).ok();
    run_as(&["policy", "ls"], team).ok();
    run_as(&["policy", "history", "switches/no-recs"], team).ok();
    run_as(&["policy", "confirm", "--yes"], team).ok();
    let done = run_as(&["policy", "set", "bypass", "on", "--scope", "_all"], team);
    assert!(done.code == 1 && done.err.contains("permission denied"), "{}", done.err);
    assert_eq!(run(&["policy", "ls", "--root", "/other"], Some("password")).code, 1);
}

#[test]
fn certificates_both_ways() {
    let certs = Certs::new();
    let etcd =
        Etcd::with_tls(Version::V3_4, ServerTls { identity: certs.localhost(), client_ca: certs.ca() });
    let own = certs.issue("operator", &["operator"]);
    let folder = tempfile::TempDir::new().unwrap();
    let option = format!("etcd:{}", etcd.endpoint());
    let (ca, cert, key) = (certs.ca(), own.cert, own.key);
    let with = |arguments: &[&str]| {
        let store = ["policy", "ls", "--service", "orders", "--store", &option];
        let all: Vec<_> = store.iter().chain(arguments).copied().collect();
        finish(spawn(folder.path(), &all), PATIENCE * 2)
    };
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let (ca, cert, key) = (path(&ca), path(&cert), path(&key));
    assert_eq!(with(&["--ca", &ca, "--cert", &cert, "--key", &key]).ok().out, "no overlays\n");
    let done = with(&["--cert", &cert, "--key", &key]);
    assert_eq!(done.code, 69, "{}", done.err);
    assert!(done.err.contains(&etcd.endpoint()), "{}", done.err);
    assert_eq!(with(&["--ca", &ca, "--cert", &cert]).code, 2);
}
