//! The directory store: the tree of live policy as files.
//!
//! ```text
//! <directory>/<scope>/<kind>/<name>.yaml            one overlay
//! <directory>/<scope>/endpoints/<upstream>/<id>     one endpoint of an upstream
//! <directory>/<scope>/bypass                        break-glass
//! <directory>/<scope>/confirm                       releases what was held
//! <directory>/.audit/<service>/<time>-<id>.json     who changed what; never read as policy
//! ```
//!
//! The extension (`.yaml`, `.yml`, `.json`) may be left out; the key never has one. Two files for one key are a fault of
//! that key, which keeps its last value. A `ConfigMap` cannot have `/` in its keys: either its volume says `items:
//! [{key, path}]`, and Kubernetes builds the tree, or the files lie flat, `orders__switches__no-recs.yaml`. What begins
//! with a dot or looks like an editor's is not read.
//!
//! # One change
//!
//! The tree is read again and again, by content: no inotify, no trust in times. A difference counts once two looks in a
//! row agree, so that what is being written is not taken half. A volume of Kubernetes is read through the resolved target
//! of its `..data` link and one look is enough, unless the link moved meanwhile. A change by [`Tree::commit`] is seen
//! whole or not at all. All that two looks differ in is one revision.
//!
//! # Revision and identity
//!
//! The revision is the time of the newest change of a file or folder, in microseconds since 1970; when content changes
//! and that time does not grow (restored files, a clock that was turned back), the last revision plus one. So it grows
//! over restarts too, and all instances that read the same directory agree on it; [`Tree::commit`] says at which revision
//! its change will be seen. Pods that mount one `ConfigMap` have a directory each, written at their own times: compare
//! contents there, not revisions. The id of the cluster is the hash of the absolute path.
//!
//! # Trouble
//!
//! A file that cannot be read is named in [`Event::Faults`], and its key keeps its last value. A directory that is not
//! there is [`Event::Disconnected`], and what was told stays; when it comes back, all of it is told anew.

mod journal;
mod names;
mod scan;
mod tell;
mod write;

use std::{
    io,
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc as channel;
use xxhash_rust::xxh3::xxh3_64;

pub use write::{Audit, Expect, Tree, Write, WriteError};

use super::{
    Event, Lost,
    key::{Identity, Scope},
};
use crate::config::bootstrap;
use scan::{Error, Scan};
use tell::Teller;

/// How long a change must stand still.
const SETTLE: Duration = Duration::from_millis(20);

/// After so many looks that all differ, the directory counts as unreadable.
const LOOKS: u32 = 25;

/// Events that wait to be taken; the thread waits when there are more.
const WAITING: usize = 16;

/// Reads a directory again and again, on a thread of its own, until it is dropped.
#[derive(Debug)]
pub struct Directory {
    _stop: mpsc::Sender<()>,
}

impl Directory {
    /// Starts to read; what the directory tells comes out of the receiver. The error is the system's, that it has no
    /// more threads. A path that is relative counts from the current folder of the process.
    pub fn start(
        config: &bootstrap::Directory,
        identity: &Identity,
    ) -> io::Result<(Self, channel::Receiver<Event>)> {
        let (stop, stopped) = mpsc::channel();
        let (events, receiver) = channel::channel(WAITING);
        let mut watcher = Watcher::new(&config.path, identity);
        let interval = config.interval;
        thread::Builder::new().name("weir-directory".to_owned()).spawn(move || {
            loop {
                let begun = Instant::now();
                for event in watcher.poll() {
                    if events.blocking_send(event).is_err() {
                        return;
                    }
                }
                // A tree that takes long to read must not take a core: at most a tenth of one.
                let pause = interval.max(begun.elapsed() * 9);
                if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        })?;
        Ok((Self { _stop: stop }, receiver))
    }
}

/// What identifies the directory at `path`, in the place of etcd's cluster id.
pub fn cluster_id(path: &Path) -> u64 {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    xxh3_64(path.as_os_str().as_encoded_bytes())
}

/// Looks, and tells.
struct Watcher {
    root: PathBuf,
    segments: [String; 3],
    teller: Teller,
}

impl Watcher {
    fn new(root: &Path, identity: &Identity) -> Self {
        let teller = Teller::new(root.display().to_string(), cluster_id(root));
        Self { root: root.to_owned(), segments: Scope::ALL.map(|scope| identity.segment(scope)), teller }
    }

    /// Looks until there is something that holds still, and tells it.
    fn poll(&mut self) -> Vec<Event> {
        let known = |scan: &Scan| self.teller.is_told(scan);
        match settled(&self.root, &self.segments, known) {
            Ok(scan) => self.teller.holds(&scan, Instant::now()),
            Err(Error::Moving) => self
                .teller
                .lost(Lost::Stalled, "the directory changes all the time and is never whole".to_owned()),
            Err(Error::Gone(error)) => {
                self.teller.lost(Lost::Connect, format!("{}: {error}", self.root.display()))
            }
            Err(Error::TooMuch(why)) => self.teller.lost(Lost::Protocol, why),
        }
    }
}

/// A look that another one agrees with, or that needs none; `known` says that there is nothing new in it.
fn settled(root: &Path, segments: &[String], known: impl Fn(&Scan) -> bool) -> Result<Scan, Error> {
    let mut before: Option<Scan> = None;
    for _ in 0..LOOKS {
        match scan::scan(root, segments) {
            Ok(scan) if scan.sealed || known(&scan) || before.as_ref() == Some(&scan) => return Ok(scan),
            Ok(scan) => before = Some(scan),
            Err(Error::Moving) => before = None,
            Err(error) => return Err(error),
        }
        thread::sleep(SETTLE);
    }
    Err(Error::Moving)
}

#[cfg(test)]
mod tests;
