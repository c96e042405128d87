//! Users, tokens and certificates change while Weir runs.

use std::{
    fs,
    path::Path,
    sync::Mutex,
    time::{Duration, Instant},
};

use etcd_client::{Client, ConnectOptions, Permission, PermissionType};
use tempfile::TempDir;
use weir::store::{
    client::{self, Committed, Transaction, Write},
    etcd::{Config, Tls},
};

use crate::{
    support::{
        certs::{Certs, Identity},
        driver,
        etcd::{Etcd, ServerTls, Version},
        writer::Writer,
    },
    world::{Store, World, route, upstream, within},
};

/// `root` who may all, and `pods` who may read the three ranges of `orders@pod-1`; authentication is on.
fn with_users(etcd: &Etcd) -> Writer {
    let endpoint = etcd.endpoint();
    driver::run(async move {
        let mut client = Client::connect([endpoint], None).await.unwrap();
        client.user_add("root", "secret", None).await.unwrap();
        client.role_add("root").await.unwrap();
        client.user_grant_role("root", "root").await.unwrap();
        client.user_add("pods", "word", None).await.unwrap();
        client.role_add("pods").await.unwrap();
        for scope in ["_all/", "orders/", "orders@pod-1/"] {
            client.role_grant_permission("pods", reading(scope)).await.unwrap();
        }
        client.user_grant_role("pods", "pods").await.unwrap();
        client.auth_enable().await.unwrap();
    });
    let options = ConnectOptions::new().with_user("root", "secret").with_auto_token_refresh(true);
    Writer::with(etcd.endpoint(), options)
}

fn reading(scope: &str) -> Permission {
    Permission::new(PermissionType::Read, format!("/weir/policy/{scope}")).with_prefix()
}

/// Weir as `pods`.
fn as_pods(etcd: &Etcd, folder: &Path) -> World {
    let file = folder.join("password");
    fs::write(&file, "word\n").unwrap();
    let mut store = Store::at(&[etcd.endpoint()]);
    store.etcd = format!("{}, user: pods, password_file: \"{}\"", store.etcd, file.display());
    World::with(&store)
}

/// A token that is used lives on, and Weir asks for a proof about every 4 s; so one that lives for 5 s would not expire
/// at all. These live for one second, and expire between any two proofs.
#[test]
fn promise_3_lossless_tokens_that_expire_every_second() {
    let folder = TempDir::new().unwrap();
    let etcd = Etcd::with(Version::V3_5, &["--auth-token-ttl=1"]);
    let writer = with_users(&etcd);
    let mut world = as_pods(&etcd, folder.path());
    for _ in 0..3 {
        // Somebody else's change, so that the next proof shows.
        let last = writer.put("else/limits/x", "1/s");
        within("a proof", || world.status()["revisions"]["proven"].as_i64() >= Some(last));
    }
    world.changes(&writer);
    world.changes(&writer);
    assert_eq!(world.lost(&["auth", "broken", "stalled", "protocol", "connect"]), 0, "the connection stays");
    assert_eq!(world.reads("start"), 1);
    world.checker.check(&writer, 0, 0);
    world.checker.check_revisions();
    world.end(0);
}

/// Each change of a user or role makes every token older than it invalid.
#[test]
fn promise_3_lossless_users_and_roles_that_change() {
    let folder = TempDir::new().unwrap();
    let etcd = Etcd::start(Version::V3_4);
    let writer = with_users(&etcd);
    let mut world = as_pods(&etcd, folder.path());
    world.changes(&writer);
    for n in 0..3 {
        let mut root = writer.0.clone();
        driver::run(async move {
            root.user_add(format!("another-{n}"), "word", None).await.unwrap();
            root.role_add(format!("another-{n}")).await.unwrap();
        });
        world.changes(&writer);
    }
    let (from, proven) = (world.checker.mark(), world.status()["revisions"]["proven"].as_i64());

    // It may not read its service's range any more.
    let (mut root, taken) = (writer.0.clone(), reading("orders/"));
    driver::run(async move {
        let options = etcd_client::RoleRevokePermissionOptions::new().with_prefix();
        root.role_revoke_permission("pods", "/weir/policy/orders/", Some(options)).await.unwrap();
    });
    within("that it says what is in the way", || {
        writer.put("else/limits/x", "1/s");
        world.lost(&["auth"]) >= 1
    });
    world.load.stays(world.n());
    let error = world.status()["store"]["error"].clone();
    assert_eq!(error["cause"], "auth", "{error}");
    assert!(world.status()["revisions"]["proven"].as_i64() >= proven);
    let mut root = writer.0.clone();
    driver::run(async move {
        root.role_grant_permission("pods", taken).await.unwrap();
    });
    world.recovers(&writer, Instant::now());
    assert_eq!(world.reads("start"), 1);
    world.checker.check(&writer, from, 0);
    world.checker.check_revisions();
    world.end(0);
}

/// Writes as a client with certificates.
struct TlsWriter(Mutex<Option<client::Client>>);

impl TlsWriter {
    fn new(etcd: &Etcd, certs: &Certs, own: &Identity) -> Self {
        let tls = Tls {
            ca: Some(certs.ca()),
            cert: Some(own.cert.clone()),
            key: Some(own.key.clone()),
            server_name: None,
        };
        let config = Config {
            endpoints: vec![etcd.endpoint()],
            root: "/weir".into(),
            tls: Some(tls),
            ..Config::default()
        };
        Self(Mutex::new(Some(client::Client::new(config, Duration::from_secs(5)).unwrap())))
    }

    /// Makes the change `n`, as [`World::change`] does.
    fn change(&self, world: &mut World) {
        world.next();
        let n = world.n();
        let origin = world.origins[usize::try_from(n).unwrap() % world.origins.len()].address;
        within("a write", || {
            let mut client = self.0.lock().unwrap().take().unwrap();
            let write = |key: &str, value: String| Write::Put {
                key: format!("/weir/policy/orders/{key}"),
                value: value.into_bytes(),
                lease: None,
            };
            let writes = vec![write("routes/all", route(n)), write("upstreams/app", upstream(origin))];
            let (client, done) = driver::run(async move {
                let done = client.commit(&Transaction { expect: Vec::new(), writes }).await;
                (client, done)
            });
            *self.0.lock().unwrap() = Some(client);
            matches!(done, Ok(Committed::Done { .. }))
        });
    }
}

#[test]
fn promise_3_lossless_certificates_that_are_rotated() {
    let (old, new) = (Certs::new(), Certs::new());
    let server = ServerTls { identity: old.localhost(), client_ca: old.ca() };
    let own = old.issue("pod-1", &["pod-1"]);
    let mut etcd = Etcd::with_tls(Version::V3_5, server.clone());
    let mut store = Store::at(&[etcd.endpoint()]);
    let path = |path: &Path| path.display().to_string();
    store.etcd = format!(
        "{}, tls: {{ ca: \"{}\", cert: \"{}\", key: \"{}\" }}",
        store.etcd,
        path(&old.ca()),
        path(&own.cert),
        path(&own.key)
    );
    let mut world = World::with(&store);
    let writer = TlsWriter::new(&etcd, &old, &own);
    writer.change(&mut world);
    world.load.reaches(1);

    // First the server alone is issued anew, by an authority that nobody here knows: it is refused, and said so.
    etcd.kill();
    world.connected(false);
    let (fresh, mine) = (new.localhost(), new.issue("pod-1", &["pod-1"]));
    fs::copy(fresh.cert, &server.identity.cert).unwrap();
    fs::copy(fresh.key, &server.identity.key).unwrap();
    etcd.run();
    within("that it is refused", || world.lost(&["tls"]) >= 1);
    world.load.stays(1);
    // Then the rest, in the same files; the server is started anew for its authority of clients.
    etcd.kill();
    for (from, to) in [(new.ca(), old.ca()), (mine.cert, own.cert.clone()), (mine.key, own.key.clone())] {
        fs::copy(from, to).unwrap();
    }
    etcd.run();
    let back = Instant::now();
    let writer = TlsWriter::new(&etcd, &old, &own);
    writer.change(&mut world);
    world.load.reaches(2);
    crate::world::promised(
        "the policy is right with new certificates",
        back.elapsed(),
        Duration::from_secs(5),
    );
    assert_eq!(world.reads("start"), 1);
    world.checker.check_revisions();
    world.end(0);
}
