//! The thread that writes the cache, so that a slow disk slows nothing else down.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{Decision, Disk, Kept, Say, Schedule, store};

/// How the cache stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// When it was written last by this process.
    pub written: Option<Timestamp>,
    /// The store's revision that it had then.
    pub revision: i64,
    /// Why the newest state is not in it.
    pub error: Option<String>,
}

/// Writes what it is given, at most once a second, and only what differs from what it wrote last.
#[derive(Debug)]
pub struct Writer(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Something was given, or the end was asked for.
    given: Condvar,
    /// The thread has ended.
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    newest: Option<Arc<Kept>>,
    status: Status,
    stop: bool,
    ended: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// Starts the thread; an error is the system's, that it has no more threads.
    pub fn start(path: PathBuf, mut disk: Box<dyn Disk>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name("weir-cache".to_owned()).spawn(move || {
            run(&theirs, &path, disk.as_mut());
            theirs.state().ended = true;
            theirs.ended.notify_all();
        })?;
        Ok(Self(shared))
    }

    /// Gives it the newest state; what was given before and is not written yet never will be. Does not block.
    pub fn give(&self, kept: Arc<Kept>) {
        self.0.state().newest = Some(kept);
        self.0.given.notify_one();
    }

    /// How the cache stands.
    pub fn status(&self) -> Status {
        self.0.state().status.clone()
    }

    /// Writes what is still to be written, and ends; waits for that no longer than `most`.
    pub fn close(self, most: Duration) {
        let mut state = self.0.state();
        state.stop = true;
        self.0.given.notify_one();
        let until = Instant::now().checked_add(most);
        while !state.ended {
            let left = until.map_or(most, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return;
            }
            state = self.0.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.state().stop = true;
        self.0.given.notify_one();
    }
}

fn run(shared: &Shared, path: &std::path::Path, disk: &mut dyn Disk) {
    let mut schedule = Schedule::default();
    let mut pending: Option<Arc<Kept>> = None;
    let mut last: Option<Arc<Kept>> = None;
    loop {
        let (given, stop) = wait(shared, &schedule);
        if let Some(given) = given {
            if last.as_ref() != Some(&given) {
                schedule.changed();
            }
            pending = Some(given);
        }
        let due = match schedule.decide(Instant::now()) {
            Decision::Write => true,
            // The end does not wait for its turn.
            Decision::Wait(_) => stop,
            Decision::Rest => false,
        };
        if let Some(kept) = pending.as_ref().filter(|_| due) {
            schedule.began(Instant::now());
            let done = store(disk, path, kept, Timestamp::now());
            let say = schedule.ended(done.is_ok(), Instant::now());
            if done.is_ok() {
                last = Some(Arc::clone(kept));
            }
            report(shared, path, kept, done.as_ref().err(), say);
        }
        if stop {
            return;
        }
    }
}

/// Waits for something to do; what was given, and whether this is the end.
fn wait(shared: &Shared, schedule: &Schedule) -> (Option<Arc<Kept>>, bool) {
    let mut state = shared.state();
    loop {
        if state.stop || state.newest.is_some() {
            return (state.newest.take(), state.stop);
        }
        state = match schedule.decide(Instant::now()) {
            Decision::Write => return (None, false),
            Decision::Wait(until) => {
                let left = until.saturating_duration_since(Instant::now());
                shared.given.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
            }
            Decision::Rest => shared.given.wait(state).unwrap_or_else(PoisonError::into_inner),
        };
    }
}

fn report(shared: &Shared, path: &std::path::Path, kept: &Kept, error: Option<&io::Error>, say: Say) {
    let mut state = shared.state();
    if error.is_none() {
        state.status.written = Some(Timestamp::now());
        state.status.revision = kept.memory.revision;
    }
    state.status.error = error.map(ToString::to_string);
    drop(state);
    let path = path.display();
    match (say, error) {
        (Say::Fails, Some(error)) => {
            tracing::warn!(%path, %error, "the cache of live policy cannot be written; it is tried again, quietly");
        }
        (Say::Works, _) => tracing::info!(%path, "the cache of live policy is written again"),
        _ => {}
    }
}
