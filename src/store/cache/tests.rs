use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    config::Name,
    store::guard::{Held, Seen, Why},
};

fn identity(service: &str, instance: &str) -> Identity {
    Identity { service: Name::new(service).unwrap(), instance: Name::new(instance).unwrap() }
}

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

/// A state that differs from others by `n`.
fn kept(n: i64) -> Kept {
    let item = |key: &str, value: &[u8], revision| Item {
        key: key.into(),
        value: Bytes::copy_from_slice(value),
        revision,
    };
    let held = Held {
        target: Some((Bytes::from_static(b"50%"), 12)),
        revision: 13,
        since: time(-5),
        why: Why::OtherCluster,
    };
    let gone = Held { target: None, revision: 13, since: time(-5), why: Why::MassDelete };
    Kept {
        identity: identity("orders", "pod-1"),
        items: vec![
            item("_all/bypass", b"off", 3),
            item("orders/switches/no-recs", b"{state: \"on\", why: \"\xc3\xa4\\n\"}", n),
            item("orders/upstreams/odd", b"\xff\x00\n", 5),
            item("orders@pod-1/limits/checkout", b"200/s", 6),
        ],
        memory: Memory {
            cluster: Some(u64::MAX - 3),
            revision: n,
            held: BTreeMap::from([
                ("orders/switches/a".into(), held),
                ("orders@pod-1/switches/b".into(), gone),
            ]),
            confirms: [
                Some(Seen { revision: 4, value: Bytes::from_static(b"{cluster: 1, revision: 2}") }),
                None,
                None,
            ],
        },
        instances: None,
    }
}

fn loaded(disk: &mut dyn Disk, path: &Path) -> Option<Kept> {
    match load(disk, path, &identity("orders", "pod-1"), time(100)) {
        Loaded::Kept { kept, .. } => Some(kept),
        Loaded::Nothing => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_written_is_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made/on/demand/policy.cache");
    let mut disk = System::default();
    assert!(matches!(load(&mut disk, &path, &identity("orders", "pod-1"), time(0)), Loaded::Nothing));
    for n in [7, 8] {
        store(&mut disk, &path, &kept(n), time(n)).unwrap();
        let Loaded::Kept { kept: found, written } =
            load(&mut disk, &path, &identity("orders", "pod-1"), time(9))
        else {
            panic!("not read")
        };
        assert_eq!((found, written), (kept(n), time(n)));
    }
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut names = disk.list(path.parent().unwrap()).unwrap();
    names.sort();
    assert_eq!(names, ["policy.cache", "policy.cache.lock"]);
}

#[test]
fn how_many_instances_there_were_is_kept_and_missing_in_older_caches() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.cache");
    let mut disk = System::default();
    let with = Kept { instances: Some(12), ..kept(7) };
    assert!(with.differs(&kept(7)), "worth a write");
    store(&mut disk, &path, &with, time(0)).unwrap();
    assert_eq!(loaded(&mut disk, &path), Some(with));
    // Byte for byte what versions wrote that knew of no instances.
    let old = format::encode(&kept(7), time(0)).unwrap();
    assert!(!String::from_utf8_lossy(&old).contains("instances"));
    assert_eq!(format::decode(&old).map(|(kept, _)| kept.instances), Ok(None));
}

#[test]
fn a_cache_that_is_cut_off_anywhere_is_never_half_read() {
    let whole = format::encode(&kept(7), time(0)).unwrap();
    assert!(format::decode(&whole).is_ok());
    for length in 0..whole.len() {
        assert!(format::decode(&whole[..length]).is_err(), "{length} of {}", whole.len());
    }
    let mut longer = whole;
    longer.push(b'\n');
    assert_eq!(format::decode(&longer), Err(Torn::Length));
}

#[test]
fn every_single_flipped_bit_is_found() {
    let whole = format::encode(&kept(7), time(0)).unwrap();
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << bit;
            assert!(format::decode(&flipped).is_err(), "bit {bit} of byte {at}");
        }
    }
}

proptest! {
    #[test]
    fn damage_is_found(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20), cut in any::<prop::sample::Index>()) {
        let whole = format::encode(&kept(7), time(0)).unwrap();
        let mut bytes = whole.clone();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if bytes != whole {
            prop_assert!(format::decode(&bytes).is_err());
        }
        // A new file whose end is still that of an old one.
        let cut = cut.index(whole.len());
        let other = format::encode(&kept(9), time(0)).unwrap();
        let mixed = [&whole[..cut], other.get(cut..).unwrap_or_default()].concat();
        if mixed != whole && mixed != other {
            prop_assert!(format::decode(&mixed).is_err());
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), body in "[{}\\[\\]\":,a-z0-9]{0,80}") {
        let _ = format::decode(&bytes);
        let _ = format::decode(&[b"weir-policy-cache 1 ".as_slice(), &bytes].concat());
        // The right checksum of nonsense.
        let sum = xxhash_rust::xxh3::xxh3_128(body.as_bytes());
        let file = format!("weir-policy-cache 1 {} {sum:032x}\n{body}", body.len());
        prop_assert!(matches!(format::decode(file.as_bytes()), Err(Torn::Content(_))));
    }
}

#[test]
fn a_useless_cache_is_set_aside_and_three_of_them_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.cache");
    let mut disk = System::default();
    for n in 0..6 {
        fs::write(&path, b"weir-policy-cache 1 5 00\nhello").unwrap();
        let Loaded::SetAside { why, to: Some(to) } =
            load(&mut disk, &path, &identity("orders", "pod-1"), time(n))
        else {
            panic!("not set aside")
        };
        assert_eq!(why, Useless::Torn(Torn::Checksum));
        assert!(to.exists() && !path.exists());
        let bad = disk.list(folder.path()).unwrap().into_iter().filter(|name| name.contains(".bad-")).count();
        assert_eq!(bad, usize::try_from(n + 1).unwrap().min(3));
    }
}

#[test]
fn other_services_are_foreign_and_other_instances_lend_what_is_not_theirs_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.cache");
    let mut disk = System::default();
    store(&mut disk, &path, &kept(7), time(0)).unwrap();
    let other = identity("orders", "pod-2");
    let Loaded::Kept { kept: found, .. } = load(&mut disk, &path, &other, time(0)) else {
        panic!("not read")
    };
    let keys: Vec<_> = found.items.iter().map(|item| &*item.key).collect();
    assert_eq!(keys, ["_all/bypass", "orders/switches/no-recs", "orders/upstreams/odd"]);
    assert_eq!((found.memory.held.len(), found.identity), (1, other));
    let foreign = load(&mut disk, &path, &identity("orders2", "pod-1"), time(0));
    assert!(
        matches!(&foreign, Loaded::SetAside { why: Useless::Foreign(service), .. } if service == "orders"),
        "{foreign:?}"
    );
}

#[test]
fn what_is_no_file_does_not_hold_the_start_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = System::default();
    let load = |disk: &mut System, path: &Path| load(disk, path, &identity("orders", "pod-1"), time(0));
    assert!(matches!(load(&mut disk, folder.path()), Loaded::Unreadable(_)));
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(matches!(load(&mut disk, &pipe), Loaded::Unreadable(_)));
}

#[test]
fn two_weirs_do_not_write_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.cache");
    let (mut one, mut two) = (System::default(), System::default());
    store(&mut one, &path, &kept(1), time(0)).unwrap();
    let error = store(&mut two, &path, &kept(2), time(0)).unwrap_err();
    assert!(error.to_string().contains("another Weir"), "{error}");
    assert_eq!(loaded(&mut two, &path), Some(kept(1)));
    drop(one);
    store(&mut two, &path, &kept(2), time(0)).unwrap();
}

#[test]
fn a_temporary_file_that_a_crash_left_is_in_nobodys_way() {
    let folder = tempfile::tempdir().unwrap();
    let (path, victim) = (folder.path().join("policy.cache"), folder.path().join("victim"));
    fs::write(&victim, "mine").unwrap();
    std::os::unix::fs::symlink(&victim, folder.path().join("policy.cache.tmp")).unwrap();
    store(&mut System::default(), &path, &kept(1), time(0)).unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

// ---- a disk that fails

/// A file system in memory that crashes, or fails, after so many steps. Each byte written is a step.
#[derive(Debug, Clone, Default)]
struct Model {
    files: BTreeMap<PathBuf, Vec<u8>>,
    steps: Option<usize>,
    /// Whether running out of steps is the end (a crash) or an error that goes on (a full disk).
    crash: bool,
}

impl Model {
    fn step(&mut self) -> io::Result<()> {
        match &mut self.steps {
            Some(0) => Err(io::ErrorKind::StorageFull.into()),
            Some(steps) => {
                *steps -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Disk for Model {
    fn read(&mut self, path: &Path, most: usize) -> io::Result<Vec<u8>> {
        let file = self.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(file.iter().copied().take(most).collect())
    }

    fn write(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.step()?;
        self.files.insert(path.to_owned(), Vec::new());
        for byte in bytes {
            self.step()?;
            self.files.get_mut(path).unwrap().push(*byte);
        }
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        let file = self.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        if self.crash {
            self.step()?;
        }
        self.files.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_folder(&mut self, _: &Path) -> io::Result<()> {
        self.step()
    }

    fn list(&mut self, _: &Path) -> io::Result<Vec<String>> {
        Ok(self.files.keys().map(|path| path.to_str().unwrap().to_owned()).collect())
    }

    fn lock(&mut self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_crash_at_any_byte_leaves_the_old_or_the_new() {
    let path = Path::new("policy.cache");
    let mut before = Model { crash: true, ..Model::default() };
    store(&mut before, path, &kept(1), time(1)).unwrap();
    let (mut old, mut new) = (0, 0);
    for steps in 0.. {
        let mut disk = Model { steps: Some(steps), ..before.clone() };
        let done = store(&mut disk, path, &kept(2), time(2)).is_ok();
        // Up again.
        disk.steps = None;
        match loaded(&mut disk, path) {
            Some(found) if found == kept(1) => old += 1,
            Some(found) if found == kept(2) => new += 1,
            other => panic!("after {steps} steps: {other:?}"),
        }
        store(&mut disk, path, &kept(3), time(3)).unwrap();
        assert_eq!(loaded(&mut disk, path), Some(kept(3)));
        if done {
            break;
        }
    }
    assert!(old > 500 && new >= 1, "{old} {new}");
}

#[test]
fn a_full_disk_keeps_the_old_one_and_is_not_littered() {
    let path = Path::new("policy.cache");
    let mut before = Model::default();
    store(&mut before, path, &kept(1), time(1)).unwrap();
    for steps in 0..200 {
        let mut disk = Model { steps: Some(steps), ..before.clone() };
        let error = store(&mut disk, path, &kept(2), time(2)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!((loaded(&mut disk, path), disk.files.len()), (Some(kept(1)), 1), "after {steps} steps");
    }
}

#[test]
fn more_than_a_cache_holds_is_not_written() {
    let mut huge = kept(1);
    let value = Bytes::from(vec![b'x'; 256 << 10]);
    huge.items = (0..300)
        .map(|n| Item { key: format!("orders/routes/r{n}").into(), value: value.clone(), revision: 1 })
        .collect();
    let mut disk = Model::default();
    assert!(store(&mut disk, Path::new("c"), &huge, time(0)).is_err());
    assert!(disk.files.is_empty());
}

// ---- the thread

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(std::time::Instant::now() < end, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn the_writer_writes_and_at_its_end_what_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.cache");
    let writer = Writer::start(path.clone(), Box::new(System::default())).unwrap();
    writer.give(Arc::new(kept(1)));
    eventually("the first is written at once", || writer.status().revision == 1);
    for n in 2..50 {
        writer.give(Arc::new(kept(n)));
    }
    writer.close(Duration::from_secs(20));
    assert_eq!(loaded(&mut System::default(), &path), Some(kept(49)));
}

#[test]
fn a_revision_alone_is_no_reason_to_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.cache");
    let writer = Writer::start(path.clone(), Box::new(System::default())).unwrap();
    writer.give(Arc::new(kept(1)));
    eventually("the first is written", || writer.status().revision == 1);
    let mut later = kept(1);
    later.memory.revision = 99;
    writer.give(Arc::new(later));
    writer.close(Duration::from_secs(20));
    assert_eq!(loaded(&mut System::default(), &path), Some(kept(1)));
}

#[test]
fn the_writer_tries_again_when_the_folder_can_be_written_again() {
    let folder = tempfile::tempdir().unwrap();
    // A file where the folder should be: even root cannot write there.
    let parent = folder.path().join("cache");
    fs::write(&parent, "").unwrap();
    let path = parent.join("policy.cache");
    let writer = Writer::start(path.clone(), Box::new(System::default())).unwrap();
    writer.give(Arc::new(kept(1)));
    eventually("the error is reported", || writer.status().error.is_some());
    fs::remove_file(&parent).unwrap();
    eventually("it is written", || writer.status().revision == 1);
    assert_eq!(writer.status().error, None);
    assert_eq!(loaded(&mut System::default(), &path), Some(kept(1)));
}
