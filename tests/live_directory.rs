//! A directory, the guard and the cache together, through what the library offers.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc::Receiver;
use weir::{
    config::{Name, bootstrap},
    store::{
        Event, Item,
        cache::{self, Kept, Loaded, System, Writer},
        directory::{Directory, Expect, Tree, Write},
        guard::{Guard, Memory, Why},
        key::Identity,
    },
};

fn identity() -> Identity {
    Identity { service: Name::new("orders").unwrap(), instance: Name::new("pod-1").unwrap() }
}

/// What a Weir would do with its store, as far as there is no traffic.
struct Instance {
    _directory: Directory,
    events: Receiver<Event>,
    guard: Guard,
    in_force: BTreeMap<Arc<str>, (Bytes, i64)>,
    cache: Writer,
    notes: Vec<String>,
}

impl Instance {
    fn start(live: &Path, path: &Path) -> Self {
        let kept = match cache::load(&mut System::default(), path, &identity(), Timestamp::now()) {
            Loaded::Nothing => {
                Kept { identity: identity(), items: Vec::new(), memory: Memory::default(), instances: None }
            }
            Loaded::Kept { kept, .. } => kept,
            other => panic!("{other:?}"),
        };
        let config = bootstrap::Directory { path: live.to_owned(), interval: Duration::from_millis(10) };
        let (directory, events) = Directory::start(&config, &identity()).unwrap();
        Self {
            _directory: directory,
            events,
            guard: Guard::restore(&identity(), kept.items.clone(), kept.memory),
            in_force: kept.items.into_iter().map(|item| (item.key, (item.value, item.revision))).collect(),
            cache: Writer::start(path.to_owned(), Box::new(System::default())).unwrap(),
            notes: Vec::new(),
        }
    }

    /// Takes events until `done`.
    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !done(self) {
            assert!(Instant::now() < end, "{what}: not in time; {:?} {:?}", self.in_force.keys(), self.notes);
            let event = self.events.blocking_recv().unwrap();
            self.take(&event);
        }
    }

    /// Takes the next event that says that all is known.
    fn proven(&mut self) {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            assert!(Instant::now() < end, "nothing is proven");
            let event = self.events.blocking_recv().unwrap();
            self.take(&event);
            if matches!(event, Event::Proven { .. }) {
                return;
            }
        }
    }

    fn take(&mut self, event: &Event) {
        let out = self.guard.take(event, Timestamp::now());
        self.notes.extend(out.notes.iter().map(ToString::to_string));
        for change in out.batch.into_iter().flat_map(|batch| batch.changes) {
            match change.value {
                Some(value) => drop(self.in_force.insert(change.key, (value, change.revision))),
                None => drop(self.in_force.remove(&change.key)),
            }
        }
        let item = |(key, (value, revision)): (&Arc<str>, &(Bytes, i64))| Item {
            key: Arc::clone(key),
            value: value.clone(),
            revision: *revision,
        };
        let items = self.in_force.iter().map(item).collect();
        let kept = Kept { identity: identity(), items, memory: self.guard.memory().clone(), instances: None };
        self.cache.give(Arc::new(kept));
    }

    fn end(self) {
        self.cache.close(Duration::from_secs(20));
    }
}

fn write(key: &str, value: Option<&str>) -> Write {
    Write { key: key.to_owned(), value: value.map(str::to_owned), expect: Expect::Anything }
}

#[test]
fn what_was_deleted_by_mistake_stays_held_over_a_restart_until_it_is_confirmed() {
    let folder = tempfile::tempdir().unwrap();
    let (live, path) = (folder.path().join("live"), folder.path().join("cache/policy.cache"));
    std::fs::create_dir(&live).unwrap();
    let tree = Tree::new(&live);
    let switches = |value: Option<&str>| -> Vec<_> {
        (0..6).map(|n| write(&format!("orders/switches/s{n}"), value)).collect()
    };
    tree.commit(&switches(Some("on")), None).unwrap();

    let mut instance = Instance::start(&live, &path);
    instance.until("all are in force", |instance| instance.in_force.len() == 6);
    let mut changes = switches(None);
    changes.push(write("orders/limits/checkout", Some("200/s")));
    let deleted = tree.commit(&changes, None).unwrap();
    instance.until("the limit is in force", |instance| instance.in_force.len() == 7);
    let holding = &instance.guard.holdings()[0];
    assert_eq!((holding.why, holding.keys.len(), holding.revision), (Why::MassDelete, 6, deleted));
    assert!(instance.notes[0].contains("more than half"), "{:?}", instance.notes);
    instance.end();

    let mut instance = Instance::start(&live, &path);
    assert_eq!((instance.in_force.len(), instance.guard.held_count()), (7, 6), "from the cache alone");
    instance.proven();
    assert_eq!((instance.in_force.len(), instance.guard.held_count()), (7, 6), "and with the store");

    tree.commit(&[write("orders/switches/s0", Some("25%"))], None).unwrap();
    instance.until("a put releases its key", |instance| instance.guard.held_count() == 5);
    let confirm = format!("{{cluster: {}, revision: {deleted}}}", tree.cluster());
    tree.commit(&[write("orders/confirm", Some(&confirm))], None).unwrap();
    instance.until("the rest is released", |instance| instance.guard.held_count() == 0);
    let keys: Vec<_> = instance.in_force.keys().map(|key| &**key).collect();
    assert_eq!(keys, ["orders/limits/checkout", "orders/switches/s0"]);
    instance.end();

    let instance = Instance::start(&live, &path);
    assert_eq!((instance.in_force.len(), instance.guard.held_count()), (2, 0));
    instance.end();
}

#[test]
fn a_directory_that_comes_back_empty_takes_nothing_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (live, path) = (folder.path().join("live"), folder.path().join("policy.cache"));
    std::fs::create_dir(&live).unwrap();
    let tree = Tree::new(&live);
    tree.commit(&[write("_all/bypass", Some("off")), write("orders/switches/a", Some("on"))], None).unwrap();
    let mut instance = Instance::start(&live, &path);
    instance.until("both are in force", |instance| instance.in_force.len() == 2);
    // Away for long enough to be seen, then there and empty.
    std::fs::rename(&live, folder.path().join("away")).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    while !matches!(instance.events.blocking_recv(), Some(Event::Disconnected { .. })) {
        assert!(Instant::now() < end, "the loss is not told");
    }
    std::fs::create_dir(&live).unwrap();
    instance.until("all is held", |instance| instance.guard.held_count() == 2);
    assert_eq!(instance.in_force.len(), 2);
    // The right one comes back: nothing differs, nothing is held.
    std::fs::remove_dir(&live).unwrap();
    std::fs::rename(folder.path().join("away"), &live).unwrap();
    instance.until("nothing is held", |instance| instance.guard.held_count() == 0);
    assert_eq!(instance.in_force.len(), 2);
    instance.end();
}
