//! One look at the whole tree.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, ErrorKind, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::UNIX_EPOCH,
};

use bytes::Bytes;

use super::{journal, names};
use crate::store::{MAX_KEYS, MAX_VALUE};

/// How deep folders may lie below a scope; one more than a key needs, so that what is too deep is refused by its key.
const MAX_DEPTH: usize = 4;

/// The most names in one folder.
const MAX_NAMES: usize = 50_000;

/// The most files and folders in one look: links may make many of few.
const MAX_VISITS: usize = 100_000;

/// The most bytes of all values together.
const MAX_TOTAL: usize = 64 << 20;

/// What was found for one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Its value, or why it has none. One of more than [`MAX_VALUE`] bytes is cut off one byte after that.
    pub(super) value: Result<Bytes, String>,
    /// When it was written last, in microseconds since 1970.
    pub(super) modified: i64,
    /// The file.
    pub(super) path: PathBuf,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// By key.
    pub(super) found: BTreeMap<Arc<str>, Found>,
    /// The newest change of any file or folder, in microseconds since 1970.
    pub(super) modified: i64,
    /// All files lie behind links that are swapped as one (`..data`), so that one look is enough.
    pub(super) sealed: bool,
}

/// Why there is nothing to be found.
#[derive(Debug)]
pub(super) enum Error {
    /// It changed during the look.
    Moving,
    /// The directory itself cannot be read.
    Gone(io::Error),
    /// It holds more than is read.
    TooMuch(String),
}

/// Looks at the scopes `segments` of the tree at `root`.
pub(super) fn scan(root: &Path, segments: &[String]) -> Result<Scan, Error> {
    let mut look = Look {
        segments,
        scan: Scan { sealed: true, ..Scan::default() },
        total: 0,
        visits: 0,
        counts: BTreeMap::new(),
        links: Vec::new(),
    };
    let pending = journal::read(root);
    let looked = look.root(root);
    let Look { mut scan, links, .. } = look;
    // First, since a folder that is swapped away fails in all kinds of ways.
    let moved = |(link, target): &(PathBuf, PathBuf)| fs::canonicalize(link).ok().as_ref() != Some(target);
    if links.iter().any(moved) || journal::read(root) != pending {
        return Err(Error::Moving);
    }
    looked?;
    scan.sealed &= !links.is_empty();
    if let Some(pending) = pending {
        let ours =
            |key: &str| key.split_once('/').is_some_and(|(scope, _)| segments.iter().any(|own| own == scope));
        for entry in pending.entries {
            let Some(key) = entry.key.filter(|key| ours(key)) else { continue };
            let key: Arc<str> = key.into();
            match entry.text {
                Some(text) => {
                    let found = Found {
                        value: Ok(text.into()),
                        modified: pending.stamp,
                        path: root.join(entry.path),
                    };
                    scan.found.insert(key, found);
                }
                None => drop(scan.found.remove(&key)),
            }
        }
        scan.modified = scan.modified.max(pending.stamp);
    }
    Ok(scan)
}

struct Look<'s> {
    segments: &'s [String],
    scan: Scan,
    total: usize,
    visits: usize,
    counts: BTreeMap<String, usize>,
    links: Vec<(PathBuf, PathBuf)>,
}

/// A folder, as it is read.
struct Folder {
    path: PathBuf,
    names: Vec<OsString>,
    /// It is read through the target of its `..data`.
    sealed: bool,
}

impl Look<'_> {
    fn root(&mut self, root: &Path) -> Result<(), Error> {
        let folder = self.folder(root, false).map_err(Error::Gone)??;
        for name in &folder.names {
            let text = name.to_string_lossy();
            let path = folder.path.join(name);
            if let Some(segment) = self.segments.iter().find(|segment| *segment == text.as_ref()) {
                self.entry(&path, &format!("{segment}/"), None, 0, folder.sealed)?;
            } else if let Some((segment, key)) = names::flat(&text)
                && self.segments.iter().any(|own| own == segment)
            {
                self.entry(&path, &key, Some(&key), MAX_DEPTH, folder.sealed)?;
            }
        }
        Ok(())
    }

    /// A folder or a file: below the prefix `prefix`, or, as a file, with the key `key`.
    fn entry(
        &mut self,
        path: &Path,
        prefix: &str,
        key: Option<&str>,
        depth: usize,
        sealed: bool,
    ) -> Result<(), Error> {
        self.visits += 1;
        if self.visits > MAX_VISITS {
            return Err(Error::TooMuch(format!("it holds more than {MAX_VISITS} files and folders")));
        }
        let own = key.unwrap_or_else(|| prefix.trim_end_matches('/'));
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            // It went away between the listing and now; the next look knows.
            Err(error) if error.kind() == ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => {
                self.scan.sealed = false;
                return Ok(());
            }
            Err(error) => return self.fault(own, path, 0, error.to_string()),
        };
        if metadata.is_dir() && depth < MAX_DEPTH {
            return self.walk(path, &format!("{}/", prefix.trim_end_matches('/')), depth, sealed);
        }
        if metadata.is_dir() {
            return self.fault(own, path, 0, "folders lie too deep here: <scope>/<kind>/<name>".to_owned());
        }
        let Some(key) = key else {
            return self.fault(own, path, 0, "it is a file, and should be a folder".to_owned());
        };
        self.scan.sealed &= sealed;
        match self.value(path) {
            Ok((value, modified)) => {
                self.add(key, Found { value: Ok(value), modified, path: path.to_owned() })
            }
            Err(error) => self.fault(key, path, modified(&metadata), error.to_string()),
        }
    }

    fn walk(&mut self, path: &Path, prefix: &str, depth: usize, sealed: bool) -> Result<(), Error> {
        let folder = match self.folder(path, sealed) {
            Ok(folder) => folder?,
            Err(error) => return self.fault(prefix.trim_end_matches('/'), path, 0, error.to_string()),
        };
        for name in &folder.names {
            let text = name.to_string_lossy();
            let (key, inner) = (format!("{prefix}{}", names::stem(&text)), format!("{prefix}{text}"));
            self.entry(&folder.path.join(name), &inner, Some(&key), depth + 1, folder.sealed)?;
        }
        Ok(())
    }

    /// The names in a folder, in order; where Kubernetes mounted it, those behind `..data`.
    fn folder(&mut self, path: &Path, sealed: bool) -> io::Result<Result<Folder, Error>> {
        let link = path.join("..data");
        let (path, sealed) = match fs::canonicalize(&link) {
            Ok(target) => {
                self.links.push((link, target.clone()));
                (target, true)
            }
            Err(_) => (path.to_owned(), sealed),
        };
        self.scan.modified = self.scan.modified.max(modified(&fs::metadata(&path)?));
        let mut names = Vec::new();
        for entry in fs::read_dir(&path)? {
            let name = entry?.file_name();
            if names::ignored(&name.to_string_lossy()) {
                continue;
            }
            names.push(name);
            if names.len() > MAX_NAMES {
                let message = format!("{} holds more than {MAX_NAMES} files", path.display());
                return Ok(Err(Error::TooMuch(message)));
            }
        }
        names.sort();
        Ok(Ok(Folder { path, names, sealed }))
    }

    /// The content of a file, and when it was written.
    fn value(&mut self, path: &Path) -> io::Result<(Bytes, i64)> {
        // Opening a pipe must not wait for its writer.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let most = u64::try_from(MAX_VALUE + 1).unwrap_or(u64::MAX);
        let mut value = Vec::new();
        file.take(most).read_to_end(&mut value)?;
        Ok((value.into(), modified(&metadata)))
    }

    fn fault(&mut self, key: &str, path: &Path, modified: i64, why: String) -> Result<(), Error> {
        self.add(key, Found { value: Err(why), modified, path: path.to_owned() })
    }

    fn add(&mut self, key: &str, found: Found) -> Result<(), Error> {
        self.scan.modified = self.scan.modified.max(found.modified);
        if let Some(first) = self.scan.found.get_mut(key) {
            let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            first.value =
                Err(format!("two files stand for this key: {} and {}", name(&first.path), name(&found.path)));
            return Ok(());
        }
        self.total += found.value.as_ref().map_or(0, Bytes::len) + key.len();
        if self.total > MAX_TOTAL {
            return Err(Error::TooMuch(format!("its values take more than {MAX_TOTAL} bytes")));
        }
        let (scope, _) = key.split_once('/').unwrap_or((key, ""));
        let count = self.counts.entry(scope.to_owned()).or_default();
        // One more than is taken shows that there are too many.
        if *count <= MAX_KEYS {
            *count += 1;
            self.scan.found.insert(key.into(), found);
        }
        Ok(())
    }
}

/// When a file was changed last, in microseconds since 1970; at least 1.
fn modified(metadata: &Metadata) -> i64 {
    let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| i64::try_from(since.as_micros()).ok()).unwrap_or(1).max(1)
}
