//! Changes of several files that are one change.
//!
//! A file system renames one file at a time. So a writer first puts down what it is going to do, in one file that comes
//! into its place by a rename, then does it, and removes that file. Whoever reads the tree in between lays the journal
//! over it, and sees all of the change; whoever writes next finishes what a crash left undone.

use std::{
    fs::File,
    io::Read,
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Weir's own folder in the directory. What happens in it is no change of the tree.
pub(super) const FOLDER: &str = ".weir";

/// Where it lies in the directory.
pub(super) const NAME: &str = ".weir/change";

/// The largest one that is read, in bytes.
const MAX_BYTES: u64 = 64 << 20;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    /// The revision of the change: the time of all its files, in microseconds since 1970.
    pub(super) stamp: i64,
    /// File by file.
    pub(super) entries: Vec<Entry>,
}

/// What is to be done with one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Its path in the directory.
    pub(super) path: PathBuf,
    /// The key that it stands for; `None` for an audit entry.
    pub(super) key: Option<String>,
    /// Its content; `None` = it goes.
    pub(super) text: Option<String>,
}

/// The change that is on its way, if there is one. What cannot be read as one is as if it was not there: it says
/// nothing that could be done, and must not stop those who read.
pub(super) fn read(root: &Path) -> Option<Journal> {
    let mut bytes = Vec::new();
    File::open(root.join(NAME)).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    let journal: Journal = serde_json::from_slice(&bytes).ok()?;
    journal.entries.iter().all(|entry| inside(&entry.path)).then_some(journal)
}

/// Whether a path stays in the directory.
fn inside(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_))) && path.file_name().is_some()
}
