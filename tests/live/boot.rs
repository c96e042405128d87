//! Starts without a store: from the cache, and from the file alone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::{
    load::Load,
    support::{
        etcd::{Etcd, Version},
        gate,
        origin::Origin,
        weir::{Weir, get},
        writer::Writer,
    },
    world::{self, Store, World, counted, promised, within},
};

const BOOT_WAIT: Duration = Duration::from_millis(500);

/// A store that is not there, and a cache.
fn away(cache: &Path) -> Store {
    with_cache(&[format!("http://{}", gate::hole())], cache)
}

fn with_cache(endpoints: &[String], cache: &Path) -> Store {
    let more = format!("boot_wait: {}ms\n  cache: \"{}\"", BOOT_WAIT.as_millis(), cache.display());
    Store { more, ..Store::at(endpoints) }
}

/// A Weir with a load before it that is answered under the change `n` from the first request on.
fn serves(store: &Store, origins: &[Origin], n: u64, source: &str) -> (Weir, Duration) {
    let begin = Instant::now();
    let weir = Weir::start(&world::file(store, origins));
    let took = begin.elapsed();
    let load = Load::start(weir.at("inbound"));
    load.reaches(n);
    assert_eq!(load.end(0), 1, "the change {n} and no other");
    assert_eq!(counted(weir.metrics().sum("weir_policy_source", &[("source", source)])), 1, "{source}");
    assert_eq!(weir.admin_get("/status").json()["policy"]["source"], source);
    (weir, took)
}

/// What a Weir with an etcd keeps after three changes.
fn kept(folder: &Path, origins: &mut Vec<Origin>) -> PathBuf {
    let cache = folder.join("policy.cache");
    let etcd = Etcd::start(Version::V3_5);
    let writer = Writer::connect(etcd.endpoint());
    let mut world = World::with(&with_cache(&[etcd.endpoint()], &cache));
    world.changes(&writer);
    world.changes(&writer);
    let last = world.changes(&writer);
    within("the newest in the cache", || world.status()["cache"]["revision"].as_i64() >= Some(last));
    *origins = std::mem::take(&mut world.origins);
    // Nothing is written at the end that was not there before.
    world.weir.signal(Signal::KILL);
    world.weir.wait_exit();
    cache
}

#[test]
fn promise_5_kept_a_start_from_the_cache_while_etcd_is_a_black_hole() {
    let (folder, mut origins) = (TempDir::new().unwrap(), Vec::new());
    let cache = kept(folder.path(), &mut origins);
    let (weir, took) = serves(&away(&cache), &origins, 3, "cache");
    promised("ready from the cache", took, BOOT_WAIT + Duration::from_secs(1));
    let status = weir.admin_get("/status").json();
    assert_eq!((&status["store"]["connected"], &status["ready"]), (&false.into(), &true.into()));
}

/// The store hangs at the start and comes back later: until then the cache holds, and then it goes on from there.
#[test]
fn promise_5_kept_a_start_from_the_cache_goes_on_with_the_store() {
    let (folder, go) = (TempDir::new().unwrap(), Arc::new(Notify::new()));
    let cache = folder.path().join("policy.cache");
    let etcd = Etcd::start(Version::V3_5);
    let writer = Writer::connect(etcd.endpoint());
    let store = with_cache(&[etcd.endpoint()], &cache);
    let mut world = World::with(&store);
    world.changes(&writer);
    let last = world.changes(&writer);
    within("the newest in the cache", || world.status()["cache"]["revision"].as_i64() >= Some(last));
    let World { mut weir, load, checker, origins, .. } = world;
    drop((load, checker));
    weir.signal(Signal::KILL);
    weir.wait_exit();

    etcd.freeze();
    let mut world = World::around(&store, origins, go, 2);
    world.load.stays(2);
    assert_eq!(world.status()["policy"]["source"], "cache");
    etcd.thaw();
    world.recovers(&writer, Instant::now());
    assert_eq!(world.status()["policy"]["source"], "store");
    assert_eq!(world.status()["held"], serde_json::json!([]), "it is the same store");
    world.checker.check(&writer, 0, 0);
    world.end(0);
}

/// What is torn is worth nothing: no half of it is in force, it is put aside, and the log says why.
#[test]
fn promise_5_kept_a_cache_that_is_torn_at_ten_places_is_set_aside() {
    let (folder, mut origins) = (TempDir::new().unwrap(), Vec::new());
    let cache = kept(folder.path(), &mut origins);
    let whole = fs::read(&cache).unwrap();
    let mut store = away(&cache);
    store.more = store.more.replace("500ms", "0s");
    for part in 0..10 {
        let folder = TempDir::new().unwrap();
        let torn = folder.path().join("policy.cache");
        // Every second one is whole in length, and wrong from there on.
        let mut bytes = whole[..whole.len() * part / 10].to_vec();
        if part % 2 == 1 {
            bytes.resize(whole.len(), 0);
        }
        fs::write(&torn, bytes).unwrap();
        let mut store = store.clone();
        store.more = store.more.replace(&cache.display().to_string(), &torn.display().to_string());
        let (weir, _) = serves(&store, &origins, 0, "baseline");
        within("that it says so", || {
            weir.stdout().contains("set aside") || weir.stderr().contains("set aside")
        });
        let aside = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let aside: Vec<_> = aside.filter(|name| name.to_string_lossy().contains(".bad-")).collect();
        assert_eq!(aside.len(), 1, "{part}: {aside:?}");
    }
}

#[test]
fn promise_8_honest_a_start_without_store_and_cache_is_one_from_the_file() {
    let folder = TempDir::new().unwrap();
    let origins = world::origins(&Arc::new(Notify::new()));
    let (weir, took) = serves(&away(&folder.path().join("policy.cache")), &origins, 0, "baseline");
    promised("ready from the file", took, BOOT_WAIT + Duration::from_secs(1));
    assert_eq!(weir.telemetry_get("/readyz").status(), 200);
    within("what is wrong", || {
        counted(weir.metrics().sum("weir_store_reconnects_total", &[])) >= 1
            && weir.admin_get("/status").json()["store"]["error"]["message"].is_string()
    });
}

/// While a start waits for the store it is alive and not ready, and says what it waits for; and it can be ended.
#[test]
fn promise_8_honest_a_start_that_waits_for_the_store_is_not_ready() {
    let folder = TempDir::new().unwrap();
    let origins = world::origins(&Arc::new(Notify::new()));
    let mut store = away(&folder.path().join("policy.cache"));
    store.more = store.more.replace("500ms", "10m");
    let mut weir = Weir::spawn(&world::file(&store, &origins), &[]);
    let probe = |path| get(weir.at("telemetry"), path);
    within("an answer", || probe("/livez").is_some());
    let ready = probe("/readyz").unwrap();
    assert_eq!((ready.status(), ready.text().as_str()), (503, "the first policy is awaited\n"));
    assert_eq!((probe("/livez").unwrap().status(), probe("/startupz").unwrap().status()), (200, 503));
    weir.sigterm();
    assert_eq!(weir.wait_exit(), 0);
}

/// A cache of another store is taken, and the store is doubted: it could be the wrong one.
#[test]
fn promise_5_kept_and_4_guarded_a_start_from_the_cache_meets_another_cluster() {
    let (folder, mut origins) = (TempDir::new().unwrap(), Vec::new());
    let cache = kept(folder.path(), &mut origins);
    let etcd = Etcd::with(Version::V3_4, &["--initial-cluster-token=another"]);
    let (weir, _) = serves(&with_cache(&[etcd.endpoint()], &cache), &origins, 3, "store");
    within("what differs to be held", || counted(weir.metrics().sum("weir_policy_held", &[])) == 2);
    assert_eq!(weir.admin_get("/status").json()["held"][0]["why"], "other_cluster");
}

/// What is held stays held over a restart, until it is confirmed.
#[test]
fn promise_4_guarded_a_wiped_store_stays_held_over_a_restart() {
    let (folder, go) = (TempDir::new().unwrap(), Arc::new(Notify::new()));
    let cache = folder.path().join("policy.cache");
    let mut etcd = Etcd::start(Version::V3_5);
    let writer = Writer::connect(etcd.endpoint());
    let store = with_cache(&[etcd.endpoint()], &cache);
    let mut world = World::with(&store);
    world.changes(&writer);
    world.changes(&writer);
    etcd.wipe("second");
    etcd.run();
    etcd.answers();
    world.holds(2);
    within("the holding in the cache", || {
        fs::read_to_string(&cache).is_ok_and(|cache| cache.contains("other_cluster"))
    });
    let World { mut weir, load, checker, origins, .. } = world;
    load.end(0);
    drop(checker);
    weir.signal(Signal::KILL);
    weir.wait_exit();

    let world = World::around(&store, origins, go, 2);
    world.load.reaches(2);
    // The cluster is not another one any more; that it is empty is doubt enough.
    assert_eq!(world.holds(2)["why"], "empty_store");
    world.load.stays(2);
    world.confirm(&writer);
    world.load.reaches(0);
    world.holds_nothing();
    world.end(1);
}

/// A cache that cannot be written: traffic and live policy go on, and it is said.
#[test]
fn promise_5_kept_a_folder_that_cannot_be_written_is_reported() {
    cannot_be_kept(Path::new("/proc/no-such-folder/policy.cache"));
}

#[test]
fn promise_5_kept_a_full_disk_is_reported_and_mended() {
    let mount = Mount::start();
    let Some(mount) = mount else {
        eprintln!(
            "no small file system can be mounted here; a full disk is in the tests of store::cache as well"
        );
        return;
    };
    let filler = mount.folder.path().join("filler");
    fs::write(&filler, [0; 4096]).unwrap();
    let mut more = fs::OpenOptions::new().append(true).open(&filler).unwrap();
    while std::io::Write::write(&mut more, &[0; 4096]).is_ok() {}
    let world = cannot_be_kept(&mount.folder.path().join("policy.cache"));
    // Room again: it is kept by itself.
    drop(more);
    fs::remove_file(filler).unwrap();
    within("the cache", || {
        let cache = world.status()["cache"].clone();
        cache["error"].is_null() && cache["revision"].as_i64() > Some(0)
    });
    drop(world);
}

fn cannot_be_kept(cache: &Path) -> World {
    let etcd = Etcd::start(Version::V3_4);
    let writer = Writer::connect(etcd.endpoint());
    let mut world = World::with(&with_cache(&[etcd.endpoint()], cache));
    world.changes(&writer);
    within("that it says so", || world.status()["cache"]["error"].is_string());
    world.changes(&writer);
    world.checker.check(&writer, 0, 0);
    world.load.stays(2);
    world
}

/// A file system of a few pages.
struct Mount {
    folder: TempDir,
}

impl Mount {
    fn start() -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(folder.path());
        command.status().is_ok_and(|status| status.success()).then_some(Self { folder })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}
