//! The other side: what the command line does to a directory.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use rustix::fs::{FlockOperation, flock};

use super::{
    cluster_id,
    journal::{self, Entry, Journal},
    names,
    scan::{Error, Scan},
    settled,
};
use crate::{
    config::Name,
    store::{Content, Item, MAX_VALUE, key::Subject},
};

/// How long a writer waits for another one.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a key must be for a write to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Anything.
    Anything,
    /// Not there.
    Absent,
    /// There, with exactly this value.
    Value(Bytes),
}

/// One key that is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The key, as in [`Item::key`].
    pub key: String,
    /// Its new value; `None` deletes it.
    pub value: Option<String>,
    /// What it must be before.
    pub expect: Expect,
}

/// What is put down of a change, beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Whose policy it is: `_all`, or a service.
    pub scope: String,
    /// The name of the entry, `<time>-<id>`.
    pub id: String,
    /// What it says: JSON.
    pub text: String,
}

/// Why nothing was written.
#[derive(Debug)]
pub enum WriteError {
    /// A key is not what was expected; what it is.
    Conflict {
        /// The key.
        key: String,
        /// Its value now; `None` = it is not there.
        found: Option<Bytes>,
    },
    /// What was to be written is not for a store.
    Refused(String),
    /// Kubernetes mounted the directory, so that nobody can write it.
    Mounted,
    /// Another writer does not come to its end.
    Busy,
    /// The file system.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict { key, found: Some(_) } => {
                write!(f, "{key} was changed by somebody else meanwhile: look at it again")
            }
            Self::Conflict { key, found: None } => {
                write!(f, "{key} is not there: somebody else deleted it, or it was never there")
            }
            Self::Refused(why) => f.write_str(why),
            Self::Mounted => f.write_str("Kubernetes mounted this directory: change its ConfigMap instead"),
            Self::Busy => f.write_str("another writer holds the directory's lock"),
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
        }
    }
}

impl std::error::Error for WriteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// A directory, for those who look into it once or change it. Everything here blocks.
#[derive(Debug, Clone)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The tree in `root`. Nothing is read yet.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// What identifies it, in the place of etcd's cluster id.
    pub fn cluster(&self) -> u64 {
        cluster_id(&self.root)
    }

    /// What the scopes (`_all`, `orders`, `orders@pod-1`) hold. Keys that cannot be read come second, with why.
    pub fn read(&self, scopes: &[String]) -> Result<(Content, Vec<(String, String)>), WriteError> {
        let scan = self.scan(scopes)?;
        let (mut items, mut faults) = (Vec::new(), Vec::new());
        for (key, found) in scan.found {
            match found.value {
                Ok(value) => items.push(Item { key, value, revision: found.modified }),
                Err(why) => faults.push((key.to_string(), why)),
            }
        }
        Ok((Content { cluster: self.cluster(), revision: scan.modified, items }, faults))
    }

    /// One key; `None` = it is not there.
    pub fn get(&self, key: &str) -> Result<Option<Item>, WriteError> {
        let (scope, _) = checked(key)?;
        let (content, faults) = self.read(&[scope.to_owned()])?;
        if let Some((_, why)) = faults.into_iter().find(|(faulty, _)| faulty == key) {
            return Err(WriteError::Refused(format!("{key}: {why}")));
        }
        Ok(content.items.into_iter().find(|item| &*item.key == key))
    }

    /// Writes all keys, or none; with several of them (and with audit entries) as one change that no reader sees half.
    /// Says the revision at which it will be seen. All of it is on the disk then.
    pub fn commit<'a>(
        &self,
        writes: &[Write],
        audits: impl IntoIterator<Item = &'a Audit>,
    ) -> Result<i64, WriteError> {
        if fs::symlink_metadata(self.root.join("..data")).is_ok() {
            return Err(WriteError::Mounted);
        }
        let _lock = self.lock()?;
        // What a crash left undone comes first.
        if let Some(left) = journal::read(&self.root) {
            self.perform(&left)?;
        }
        let mut scopes = Vec::new();
        for write in writes {
            let (scope, _) = checked(&write.key)?;
            if write.value.as_ref().is_some_and(|value| value.len() > MAX_VALUE) {
                return Err(WriteError::Refused(format!(
                    "{}: a value has at most {MAX_VALUE} bytes",
                    write.key
                )));
            }
            scopes.push(scope.to_owned());
        }
        let scan = self.scan(&scopes)?;
        let mut entries = Vec::new();
        for write in writes {
            expected(write, &scan)?;
            let found = scan.found.get(write.key.as_str());
            let there = found.and_then(|found| found.path.strip_prefix(&self.root).ok().map(Path::to_owned));
            let path = there.unwrap_or_else(|| PathBuf::from(format!("{}.yaml", write.key)));
            entries.push(Entry { path, key: Some(write.key.clone()), text: write.value.clone() });
        }
        for audit in audits {
            let path = audit_path(audit)?;
            entries.push(Entry { path, key: None, text: Some(audit.text.clone()) });
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_micros()).unwrap_or(i64::MAX);
        let journal = Journal { stamp: now.max(scan.modified.saturating_add(1)), entries };
        let text = serde_json::to_vec(&journal).map_err(|error| WriteError::Refused(error.to_string()))?;
        self.put(Path::new(journal::NAME), &text, journal.stamp)?;
        self.perform(&journal)?;
        Ok(journal.stamp)
    }

    fn scan(&self, scopes: &[String]) -> Result<Scan, WriteError> {
        settled(&self.root, scopes, |_| false).map_err(|error| match error {
            Error::Moving => WriteError::Busy,
            Error::Gone(source) => WriteError::Io { path: self.root.clone(), source },
            Error::TooMuch(why) => WriteError::Refused(why),
        })
    }

    /// Does what a journal says, however much of it was done already, and removes it.
    fn perform(&self, journal: &Journal) -> Result<(), WriteError> {
        for entry in &journal.entries {
            match &entry.text {
                Some(text) => self.put(&entry.path, text.as_bytes(), journal.stamp)?,
                None => self.take(&entry.path, journal.stamp)?,
            }
        }
        let path = self.root.join(journal::NAME);
        let done =
            fs::remove_file(&path).and_then(|()| File::open(self.root.join(journal::FOLDER))?.sync_all());
        done.map_err(|source| WriteError::Io { path, source })
    }

    /// Puts a file into its place, whole and on the disk.
    fn put(&self, path: &Path, bytes: &[u8], stamp: i64) -> Result<(), WriteError> {
        let path = self.root.join(path);
        let folder = path.parent().unwrap_or(&self.root);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = folder.join(format!(".{name}.tmp"));
        let done = || {
            fs::create_dir_all(folder)?;
            let options = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).clone();
            let mut file = options.open(&temporary)?;
            file.write_all(bytes)?;
            file.set_modified(time(stamp))?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            // Folders that were made on the way have changed theirs.
            let mut way = folder.ancestors().take_while(|above| above.starts_with(&self.root));
            way.try_for_each(|folder| stamped(folder, stamp))
        };
        done().map_err(|source| {
            let _ = fs::remove_file(&temporary);
            WriteError::Io { path: path.clone(), source }
        })
    }

    /// Removes a file.
    fn take(&self, path: &Path, stamp: i64) -> Result<(), WriteError> {
        let path = self.root.join(path);
        let done = match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => stamped(path.parent().unwrap_or(&self.root), stamp),
        };
        done.map_err(|source| WriteError::Io { path, source })
    }

    /// One writer at a time; the lock goes with the process.
    fn lock(&self) -> Result<File, WriteError> {
        let folder = self.root.join(journal::FOLDER);
        let path = folder.join("lock");
        let io = |source| WriteError::Io { path: path.clone(), source };
        // One level only: a directory that is not there is not made by a slip of the keyboard.
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io(error)),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(io)?;
        let end = Instant::now().checked_add(PATIENCE);
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::WOULDBLOCK) if end.is_some_and(|end| Instant::now() < end) => {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(WriteError::Busy),
                Err(error) => return Err(io(error.into())),
            }
        }
    }
}

/// Gives a folder its time, so that a deletion has its revision too, and brings it to the disk.
fn stamped(folder: &Path, stamp: i64) -> io::Result<()> {
    let folder = File::open(folder)?;
    folder.set_modified(time(stamp))?;
    folder.sync_all()
}

fn time(stamp: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(u64::try_from(stamp).unwrap_or(0))
}

/// The scope and the subject of a key that can be written.
fn checked(key: &str) -> Result<(&str, Subject), WriteError> {
    let wrong = |why: String| WriteError::Refused(format!("`{}`: {why}", key.escape_debug()));
    let (scope, rest) =
        key.split_once('/').ok_or_else(|| wrong("a key is <scope>/<kind>/<name>".to_owned()))?;
    let sound = match scope.split_once('@') {
        _ if scope == "_all" => true,
        Some((service, instance)) => Name::new(service).is_some() && Name::new(instance).is_some(),
        None => Name::new(scope).is_some(),
    };
    if !sound {
        return Err(wrong("its scope is none: `_all`, a service, or <service>@<instance>".to_owned()));
    }
    let subject = Subject::parse(rest).map_err(|error| wrong(error.to_string()))?;
    if rest.split('/').any(names::ignored) {
        return Err(wrong("files with names like this are not read".to_owned()));
    }
    Ok((scope, subject))
}

/// Whether a key is what the writer thinks.
fn expected(write: &Write, scan: &Scan) -> Result<(), WriteError> {
    let found = match scan.found.get(write.key.as_str()).map(|found| &found.value) {
        None => None,
        Some(Ok(value)) => Some(value),
        Some(Err(why)) => return Err(WriteError::Refused(format!("{}: {why}", write.key))),
    };
    let right = match &write.expect {
        Expect::Anything => true,
        Expect::Absent => found.is_none(),
        Expect::Value(value) => found == Some(value),
    };
    if right { Ok(()) } else { Err(WriteError::Conflict { key: write.key.clone(), found: found.cloned() }) }
}

/// Where an audit entry goes. The point keeps it from being read as policy.
fn audit_path(audit: &Audit) -> Result<PathBuf, WriteError> {
    let sound = |name: &str| Name::new(name).is_some();
    if !(sound(&audit.id) && (audit.scope == "_all" || sound(&audit.scope))) {
        return Err(WriteError::Refused("the name of the audit entry is none".to_owned()));
    }
    Ok(PathBuf::from(format!(".audit/{}/{}.json", audit.scope, audit.id)))
}
