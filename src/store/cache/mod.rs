//! The cache: the last good overlays in a file, for a start without the store.
//!
//! It is written to a temporary file beside it, synced and renamed (and the folder synced), so that a crash at any
//! byte leaves the old file or the new one. Its first line has the version, the length and a checksum of all that
//! follows; what does not fit to the byte is not read at all, but set aside as `<file>.bad-<time>` (the newest three
//! are kept) and reported. The same happens to the cache of another service. A cache of another instance of the same
//! service is taken without that instance's own overlays.
//!
//! Its mode is 0600. It holds what the store holds, the texts of overlays, and nothing else: `${NAME}` is not expanded
//! in live documents, and neither passwords nor tokens nor keys of Weir's own ever get near it.
//!
//! A lock on `<file>.lock` keeps two Weirs from writing one file; the second one says so and goes without.

mod disk;
mod format;
mod schedule;
mod writer;

use std::{
    io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

pub use disk::{Disk, System};
pub use format::Torn;
pub use schedule::{Decision, Say, Schedule};
pub use writer::{Status, Writer};

use super::{
    Item,
    guard::Memory,
    key::{Identity, Scope},
};

/// The largest cache that is written or read, in bytes.
pub const MAX_BYTES: usize = 64 << 20;

/// How many caches that were set aside are kept.
const SET_ASIDE: usize = 3;

/// What a cache keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Whose it is.
    pub identity: Identity,
    /// The last good overlays, in order of key; raw, as the store holds them.
    pub items: Vec<Item>,
    /// The cluster, the revision, and what is held.
    pub memory: Memory,
    /// Among how many instances service-wide limits were divided, where there were any; `None` in older caches.
    pub instances: Option<u64>,
}

impl Kept {
    /// Whether there is a difference that is worth a write.
    fn differs(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.memory, &other.memory);
        let memory =
            (ours.cluster, &ours.held, &ours.confirms) != (theirs.cluster, &theirs.held, &theirs.confirms);
        let others = self.items != other.items || self.identity != other.identity;
        memory || others || self.instances != other.instances
    }
}

/// What came of reading a cache.
#[derive(Debug)]
pub enum Loaded {
    /// There is none.
    Nothing,
    /// It is good.
    Kept {
        /// What it keeps, as far as it is ours.
        kept: Kept,
        /// When it was written.
        written: Timestamp,
    },
    /// It is of no use.
    SetAside {
        /// Why.
        why: Useless,
        /// Where it is now; `None` = it could not be renamed and is still in its place.
        to: Option<PathBuf>,
    },
    /// It cannot be read.
    Unreadable(io::Error),
}

/// Why a cache is of no use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Useless {
    /// It is not whole, or not a cache.
    Torn(Torn),
    /// It is another service's.
    Foreign(String),
}

impl std::fmt::Display for Useless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Torn(torn) => torn.fmt(f),
            Self::Foreign(service) => write!(f, "it is of the service {service}"),
        }
    }
}

/// Reads the cache at `path`. `now` names what is set aside.
pub fn load(disk: &mut dyn Disk, path: &Path, identity: &Identity, now: Timestamp) -> Loaded {
    let bytes = match disk.read(path, MAX_BYTES + 1) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Loaded::Nothing,
        Err(error) => return Loaded::Unreadable(error),
    };
    let why = match format::decode(&bytes) {
        Err(torn) => Useless::Torn(torn),
        Ok((kept, _)) if kept.identity.service != identity.service => {
            Useless::Foreign(kept.identity.service.to_string())
        }
        Ok((kept, written)) => return Loaded::Kept { kept: ours(kept, identity), written },
    };
    Loaded::SetAside { why, to: set_aside(disk, path, now) }
}

/// Without what only another instance reads.
fn ours(mut kept: Kept, identity: &Identity) -> Kept {
    let prefixes = Scope::ALL.map(|scope| identity.prefix(scope));
    let own = |key: &str| prefixes.iter().any(|prefix| key.starts_with(prefix.as_str()));
    kept.items.retain(|item| own(&item.key));
    kept.memory.held.retain(|key, _| own(key));
    if kept.identity.instance != identity.instance {
        let [_, _, instance] = &mut kept.memory.confirms;
        *instance = None;
    }
    kept.identity = identity.clone();
    kept
}

/// Renames a useless cache; the oldest ones beyond those that are kept go.
fn set_aside(disk: &mut dyn Disk, path: &Path, now: Timestamp) -> Option<PathBuf> {
    // Another Weir may be about to write it.
    disk.lock(&beside(path, ".lock")).ok()?;
    let to = beside(path, &format!(".bad-{:015}", now.as_millisecond()));
    disk.rename(path, &to).ok()?;
    let prefix = format!("{}.bad-", path.file_name()?.to_string_lossy());
    let mut names = disk.list(path.parent()?).unwrap_or_default();
    names.retain(|name| name.starts_with(&prefix));
    names.sort();
    let surplus = names.len().saturating_sub(SET_ASIDE);
    for name in names.iter().take(surplus) {
        // One more than wanted does no harm.
        let _ = disk.remove(&path.with_file_name(name));
    }
    Some(to)
}

/// Writes the cache. After an error the old one is still there.
pub fn store(disk: &mut dyn Disk, path: &Path, kept: &Kept, now: Timestamp) -> io::Result<()> {
    let bytes = format::encode(kept, now).map_err(io::Error::other)?;
    disk.lock(&beside(path, ".lock"))?;
    let temporary = beside(path, ".tmp");
    let done = disk.write(&temporary, &bytes).and_then(|()| disk.rename(&temporary, path));
    if let Err(error) = done {
        // On a full disk it would stand in the way of others.
        let _ = disk.remove(&temporary);
        return Err(error);
    }
    disk.sync_folder(path.parent().unwrap_or(Path::new("")))
}

/// `path` with something behind its name.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests;
