use std::{fs, os::unix::fs::symlink, sync::Arc};

use bytes::Bytes;

use super::*;
use crate::{
    config::Name,
    store::{Change, MAX_KEYS, MAX_VALUE, ReadCause},
};

fn identity() -> Identity {
    Identity { service: Name::new("orders").unwrap(), instance: Name::new("pod-1").unwrap() }
}

struct Tried {
    folder: tempfile::TempDir,
    watcher: Watcher,
}

impl Tried {
    /// Over a directory with these files.
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let watcher = Watcher::new(folder.path(), &identity());
        let tried = Self { folder, watcher };
        for (path, text) in files {
            tried.write(path, text);
        }
        tried
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), text).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.path(path)).unwrap();
    }

    fn tree(&self) -> Tree {
        Tree::new(self.folder.path())
    }

    /// What a poll tells, short.
    fn poll(&mut self) -> Vec<String> {
        self.watcher.poll().iter().filter_map(show).collect()
    }
}

fn text(value: &Bytes) -> String {
    String::from_utf8_lossy(value).into_owned()
}

fn show(event: &Event) -> Option<String> {
    Some(match event {
        Event::Read { content, cause, .. } => {
            let items: Vec<_> =
                content.items.iter().map(|item| format!("{}={}", item.key, text(&item.value))).collect();
            format!("read {cause:?}: {}", items.join(" "))
        }
        Event::Changed { changes, .. } => {
            let one = |change: &Change| {
                format!("{}={}", change.key, change.value.as_ref().map_or("-".into(), text))
            };
            format!("changed: {}", changes.iter().map(one).collect::<Vec<_>>().join(" "))
        }
        Event::Proven { .. } => return None,
        Event::Connected { .. } => "connected".to_owned(),
        Event::Disconnected { cause, .. } => format!("disconnected {cause:?}"),
        Event::Faults { faults } => {
            format!(
                "faults: {}",
                faults.iter().map(|(key, why)| format!("{key}: {why}")).collect::<Vec<_>>().join("; ")
            )
        }
    })
}

fn revision(events: &[Event]) -> i64 {
    events
        .iter()
        .find_map(|event| match event {
            Event::Read { content, .. } => Some(content.revision),
            Event::Changed { revision, .. } | Event::Proven { revision, .. } => Some(*revision),
            _ => None,
        })
        .unwrap()
}

#[test]
fn the_tree_is_read_and_each_change_is_told_once() {
    let mut tried = Tried::new(&[
        ("orders/switches/no-recs.yaml", "on"),
        ("orders/switches/v1.2", "off"),
        ("orders/limits/checkout.json", "200/s"),
        ("orders/endpoints/app/a", "h:1"),
        ("_all/bypass", "off"),
        ("orders@pod-1/plans/sale.yml", "on"),
        ("_all__limits__flat.yaml", "1/s"),
        // Not ours, or nobody's.
        ("orders2/switches/x", "on"),
        ("orders2__switches__x", "on"),
        ("orders@pod-10/switches/x", "on"),
        ("README.md", "hello"),
        ("orders/switches/.no-recs.yaml.swp", "x"),
        ("orders/switches/no-recs.yaml~", "x"),
        (".git/config", "x"),
        (".audit/orders/1-a.json", "{}"),
    ]);
    let all = "read Start: _all/bypass=off _all/limits/flat=1/s orders/endpoints/app/a=h:1 \
               orders/limits/checkout=200/s orders/switches/no-recs=on orders/switches/v1.2=off \
               orders@pod-1/plans/sale=on";
    assert_eq!(tried.poll(), ["connected", all]);
    assert!(tried.poll().is_empty());
    tried.write("orders/switches/no-recs.yaml", "25%");
    tried.write("orders/routes/new", "{}");
    tried.remove("_all/bypass");
    assert_eq!(
        tried.poll(),
        ["changed: _all/bypass=- orders/routes/new={} orders/switches/no-recs=25%"],
        "all that one look finds is one change"
    );
    assert!(tried.poll().is_empty());
    fs::remove_dir_all(tried.path("orders")).unwrap();
    assert_eq!(tried.poll().len(), 1);
}

#[test]
fn revisions_grow_and_are_the_same_for_all_who_read() {
    let mut tried = Tried::new(&[("orders/switches/a", "on")]);
    let first = revision(&tried.watcher.poll());
    let mut last = first;
    // The same time, and even an older one, is no reason to miss a change or to go back.
    let file = fs::File::options().write(true).open(tried.path("orders/switches/a")).unwrap();
    for value in ["off", "10%"] {
        fs::write(tried.path("orders/switches/a"), value).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        let events = tried.watcher.poll();
        assert!(matches!(events[..], [Event::Changed { .. }]), "{events:?}");
        assert!(revision(&events) > last);
        last = revision(&events);
    }
    // A write that says its revision; whoever begins now agrees.
    let write = Write { key: "orders/switches/a".into(), value: Some("on".into()), expect: Expect::Anything };
    let stamp = tried.tree().commit(&[write], None).unwrap();
    assert!(stamp > first);
    let seen = revision(&tried.watcher.poll());
    assert!(seen >= stamp);
    let mut other = Watcher::new(tried.folder.path(), &identity());
    assert_eq!(revision(&other.poll()), stamp);
    // Also what deletes has one.
    let write = Write { key: "orders/switches/a".into(), value: None, expect: Expect::Anything };
    let gone = tried.tree().commit(&[write], None).unwrap();
    assert!(gone > stamp);
    assert_eq!(revision(&other.poll()), gone);
    assert_eq!(revision(&Watcher::new(tried.folder.path(), &identity()).poll()), gone);
}

#[test]
fn a_mounted_config_map_changes_as_one() {
    let mut tried =
        Tried::new(&[("..2026_1/orders/switches/a", "on"), ("..2026_1/orders__limits__b", "1/s")]);
    let root = tried.folder.path().to_owned();
    symlink("..2026_1", root.join("..data")).unwrap();
    symlink("..data/orders", root.join("orders")).unwrap();
    symlink("..data/orders__limits__b", root.join("orders__limits__b")).unwrap();
    assert_eq!(tried.poll(), ["connected", "read Start: orders/limits/b=1/s orders/switches/a=on"]);
    // As kubelet does it: a new folder, a new link over the old one, the old folder goes.
    tried.write("..2026_2/orders/switches/a", "off");
    tried.write("..2026_2/orders__limits__b", "2/s");
    assert!(tried.poll().is_empty(), "nothing has changed before the link is swapped");
    symlink("..2026_2", root.join("..data_tmp")).unwrap();
    fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    fs::remove_dir_all(root.join("..2026_1")).unwrap();
    assert_eq!(tried.poll(), ["changed: orders/limits/b=2/s orders/switches/a=off"]);
    let write = Write { key: "orders/switches/a".into(), value: None, expect: Expect::Anything };
    assert!(matches!(tried.tree().commit(&[write], None), Err(WriteError::Mounted)));
}

#[test]
fn a_swap_is_never_seen_half_however_often() {
    let tried = Tried::new(&[]);
    let root = tried.folder.path().to_owned();
    let build = |n: u32| {
        let target = format!("..v{n}");
        for key in 0..20 {
            tried.write(&format!("{target}/orders/switches/s{key}"), &format!("{}%", n % 100));
        }
        symlink(&target, root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        if n > 0 {
            fs::remove_dir_all(root.join(format!("..v{}", n - 1))).unwrap();
        }
    };
    build(0);
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (root, stop) = (root.clone(), Arc::clone(&stop));
        move || {
            let mut looks = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let scan = settled(&root, &["orders".to_owned()], |_| false).unwrap();
                let values: std::collections::BTreeSet<_> =
                    scan.found.values().map(|found| found.value.clone()).collect();
                assert_eq!((scan.found.len(), values.len()), (20, 1), "{values:?}");
                looks += 1;
            }
            looks
        }
    });
    for n in 1..150 {
        build(n);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(reader.join().unwrap() > 0);
}

#[test]
fn a_commit_of_several_files_is_never_seen_half() {
    let tried = Tried::new(&[]);
    let tree = tried.tree();
    let value = |n: u32| {
        let write = |key: u32| Write {
            key: format!("orders/switches/s{key}"),
            value: Some(format!("{n}%")),
            expect: Expect::Anything,
        };
        (0..5).map(write).collect::<Vec<_>>()
    };
    tree.commit(&value(0), None).unwrap();
    let root = tried.folder.path().to_owned();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let reader = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut watcher = Watcher::new(&root, &identity());
            let mut state = std::collections::BTreeMap::new();
            let mut told = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for event in watcher.poll() {
                    match event {
                        Event::Read { content, .. } => {
                            state.extend(content.items.into_iter().map(|item| (item.key, item.value)))
                        }
                        Event::Changed { changes, .. } => {
                            state.extend(
                                changes.into_iter().filter_map(|change| Some((change.key, change.value?))),
                            );
                        }
                        _ => continue,
                    }
                    told += 1;
                    let values: std::collections::BTreeSet<_> = state.values().cloned().collect();
                    assert_eq!((state.len(), values.len()), (5, 1), "{values:?}");
                }
            }
            told
        }
    });
    for n in 1..40 {
        tree.commit(&value(n), None).unwrap();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(reader.join().unwrap() > 0);
}

#[test]
fn what_a_crash_left_undone_is_seen_whole_and_finished_by_the_next() {
    let mut tried = Tried::new(&[("orders/switches/a.yaml", "on"), ("orders/switches/b.yaml", "on")]);
    tried.poll();
    // Down on the disk, and nothing of it done but the first file.
    let change = r#"{"stamp": 9000000000000000, "entries": [
        {"path": "orders/switches/a.yaml", "key": "orders/switches/a", "text": "off"},
        {"path": "orders/switches/b.yaml", "key": "orders/switches/b", "text": null},
        {"path": "other/switches/b.yaml", "key": "other/switches/b", "text": "on"}]}"#;
    tried.write(".weir/change", change);
    tried.write("orders/switches/a.yaml", "off");
    assert_eq!(tried.poll(), ["changed: orders/switches/b=- orders/switches/a=off"]);
    let write = Write { key: "orders/switches/c".into(), value: Some("on".into()), expect: Expect::Absent };
    tried.tree().commit(&[write], None).unwrap();
    assert_eq!(tried.poll(), ["changed: orders/switches/c=on"]);
    assert!(!tried.path("orders/switches/b.yaml").exists() && tried.path("other/switches/b.yaml").exists());
    // One that would leave the directory is none.
    tried.write(".weir/change", &change.replace("other/switches", "../../tmp"));
    assert!(tried.poll().is_empty());
}

#[test]
fn writes_compare_and_leave_an_audit_entry() {
    let mut tried = Tried::new(&[("orders/switches/a.yml", "on")]);
    tried.poll();
    let tree = tried.tree();
    let write = |value: Option<&str>, expect| Write {
        key: "orders/switches/a".into(),
        value: value.map(Into::into),
        expect,
    };
    let absent = tree.commit(&[write(Some("off"), Expect::Absent)], None);
    assert!(
        matches!(&absent, Err(WriteError::Conflict { found: Some(value), .. }) if value == "on"),
        "{absent:?}"
    );
    let other = [
        write(Some("off"), Expect::Value(Bytes::from_static(b"on"))),
        Write { key: "orders/limits/x".into(), value: None, expect: Expect::Value(Bytes::new()) },
    ];
    assert!(matches!(tree.commit(&other, None), Err(WriteError::Conflict { found: None, .. })));
    assert!(tried.poll().is_empty(), "one conflict, and nothing is written");
    let audit =
        Audit { scope: "orders".into(), id: "20261121T164500Z-1".into(), text: "{\"by\":\"ann\"}".into() };
    tree.commit(&[write(Some("off"), Expect::Value(Bytes::from_static(b"on")))], Some(&audit)).unwrap();
    assert_eq!(tried.poll(), ["changed: orders/switches/a=off"]);
    assert_eq!(
        fs::read_to_string(tried.path("orders/switches/a.yml")).unwrap(),
        "off",
        "the file keeps its name"
    );
    assert_eq!(fs::read_to_string(tried.path(".audit/orders/20261121T164500Z-1.json")).unwrap(), audit.text);
    assert_eq!(
        tree.get("orders/switches/a").unwrap().map(|item| item.value),
        Some(Bytes::from_static(b"off"))
    );
    assert_eq!(tree.get("orders/switches/none").unwrap(), None);
    for key in [
        "",
        "orders",
        "../x/switches/a",
        "orders/switches/../a",
        "orders/nonsense/a",
        "orders/switches/a~",
        "orders/switches/a/b",
        "orders/switches/x.tmp",
    ] {
        let write = Write { key: key.into(), value: Some("on".into()), expect: Expect::Anything };
        assert!(matches!(tree.commit(&[write], None), Err(WriteError::Refused(_))), "{key}");
    }
    // A name that ends like a file's.
    let write =
        Write { key: "orders/switches/v.json".into(), value: Some("on".into()), expect: Expect::Absent };
    tree.commit(&[write], None).unwrap();
    assert_eq!(tried.poll(), ["changed: orders/switches/v.json=on"]);
}

#[test]
fn what_cannot_be_read_is_said_and_keeps_its_value() {
    let mut tried = Tried::new(&[("orders/switches/a.yaml", "on"), ("orders/switches/b", "on")]);
    tried.poll();
    tried.write("orders/switches/a.json", "off");
    assert_eq!(tried.poll(), ["faults: orders/switches/a: two files stand for this key: a.json and a.yaml"]);
    assert!(tried.poll().is_empty());
    tried.remove("orders/switches/a.yaml");
    assert_eq!(tried.poll(), ["changed: orders/switches/a=off", "faults: "]);

    tried.remove("orders/switches/b");
    symlink("b", tried.path("orders/switches/b")).unwrap();
    symlink("nowhere", tried.path("orders/switches/c")).unwrap();
    fs::create_dir_all(tried.path("orders/plans/p/q/r/s")).unwrap();
    symlink("..", tried.path("orders/routes")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        tried.path("orders/switches/pipe"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let told = tried.poll();
    let faults = told.iter().find(|event| event.starts_with("faults")).unwrap();
    for part in [
        "orders/switches/b: Too many levels",
        "orders/switches/c: No such file",
        "orders/switches/pipe: it is no regular file",
        "lie too deep",
    ] {
        assert!(faults.contains(part), "{part}: {faults}");
    }
    assert!(!told.iter().any(|event| event.contains("orders/switches/b=-")), "{told:?}");
}

#[test]
fn a_directory_that_goes_away_takes_nothing_with_it() {
    let mut tried = Tried::new(&[("live/orders/switches/a", "on")]);
    let live = tried.path("live");
    tried.watcher = Watcher::new(&tried.path("none"), &identity());
    assert_eq!(tried.poll(), ["disconnected Connect"]);
    tried.watcher = Watcher::new(&live, &identity());
    assert_eq!(tried.poll(), ["connected", "read Start: orders/switches/a=on"]);
    fs::rename(&live, tried.path("away")).unwrap();
    assert_eq!(tried.poll(), ["disconnected Connect"]);
    assert!(tried.poll().is_empty());
    fs::rename(tried.path("away"), &live).unwrap();
    tried.write("live/orders/switches/b", "on");
    assert_eq!(tried.poll(), ["connected", "read Poll: orders/switches/a=on orders/switches/b=on"]);
    assert!(tried.poll().is_empty());
}

#[test]
fn everything_is_bounded() {
    let mut tried = Tried::new(&[("_all/switches/a", "on")]);
    tried.write("orders/switches/huge", &"x".repeat(MAX_VALUE + 10));
    let events = tried.watcher.poll();
    let Some(Event::Read { content, cause: ReadCause::Start, .. }) = events.last() else {
        panic!("{events:?}")
    };
    assert_eq!(content.items[1].value.len(), MAX_VALUE + 1);
    tried.remove("orders/switches/huge");
    fs::create_dir_all(tried.path("orders/limits")).unwrap();
    for n in 0..MAX_KEYS + 5 {
        fs::write(tried.path(&format!("orders/limits/l{n:05}")), "1/s").unwrap();
    }
    let scan = settled(tried.folder.path(), &tried.watcher.segments, |_| false).unwrap();
    assert_eq!(scan.found.len(), 1 + MAX_KEYS + 1);
    // Links that make many files of few.
    fs::remove_dir_all(tried.path("orders")).unwrap();
    fs::create_dir(tried.path("orders")).unwrap();
    for n in 0..100 {
        symlink(".", tried.path(&format!("orders/loop{n}"))).unwrap();
    }
    tried.watcher = Watcher::new(tried.folder.path(), &identity());
    assert_eq!(tried.poll(), ["disconnected Protocol"]);
}

#[test]
fn names_that_are_no_text_are_keys_that_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let mut tried = Tried::new(&[("orders/switches/a", "on")]);
    let odd = std::ffi::OsStr::from_bytes(b"b\xff");
    fs::write(tried.path("orders/switches").join(odd), "on").unwrap();
    assert_eq!(tried.poll()[1], "read Start: orders/switches/a=on orders/switches/b\u{fffd}=on");
}

#[test]
fn the_thread_tells_and_ends() {
    let tried = Tried::new(&[("orders/switches/a", "on")]);
    let config =
        bootstrap::Directory { path: tried.folder.path().to_owned(), interval: Duration::from_millis(10) };
    let (directory, mut events) = Directory::start(&config, &identity()).unwrap();
    let mut until = |wanted: &str| {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            assert!(Instant::now() < end, "{wanted}: not in time");
            let event = events.blocking_recv();
            if event.as_ref().and_then(show).as_deref() == Some(wanted) {
                return;
            }
        }
    };
    until("read Start: orders/switches/a=on");
    tried.write("orders/switches/a", "off");
    until("changed: orders/switches/a=off");
    drop(directory);
    // The channel closes with the thread.
    while events.blocking_recv().is_some() {}
}
