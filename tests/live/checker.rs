//! What was in force, seen from outside, against etcd's own history.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::Value;

use crate::support::{weir::get, writer::Writer};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(15);

/// Which live documents were in force: each key with the revision of its last write.
pub type InForce = BTreeMap<String, i64>;

/// Looks at `/policy` and `/status` all the time.
pub struct Checker {
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
    stop: Option<Sender<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Every state that differs from the one before it.
    states: Vec<InForce>,
    /// Observed, proven and applied, whenever they differ from those before.
    revisions: Vec<[i64; 3]>,
    looks: usize,
}

impl Checker {
    /// Begins to look.
    pub fn start(admin: SocketAddr) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (stop, stopped) = channel::<()>();
        let into = Arc::clone(&seen);
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                let look = |path| get(admin, path).map(|answer| answer.json());
                let (Some(policy), Some(status)) = (look("/policy"), look("/status")) else { continue };
                into.lock().unwrap().take(in_force(&policy), revisions(&status));
            }
        });
        Self { seen, thread: Some(thread), stop: Some(stop) }
    }

    /// How many states were seen: where the next stretch begins.
    pub fn mark(&self) -> usize {
        self.seen.lock().unwrap().states.len()
    }

    /// Waits until it has looked anew, twice.
    #[track_caller]
    pub fn looks(&self) {
        let from = self.seen.lock().unwrap().looks;
        crate::world::within("a look at the policy", || self.seen.lock().unwrap().looks > from + 1);
    }

    /// Every state since the mark `from` was etcd's at some revision, none older than the one before it, and the
    /// newest is etcd's now. What was compacted away, up to `compacted`, is asked for there: for a state that held on.
    #[track_caller]
    pub fn check(&self, writer: &Writer, from: usize, compacted: i64) {
        self.looks();
        let seen = self.seen.lock().unwrap();
        let states = &seen.states[from.min(seen.states.len() - 1)..];
        let mut before = 0;
        for state in states {
            let revision = state.values().copied().max().unwrap_or(1);
            assert!(revision >= before, "ran backwards: {revision} after {before}");
            before = revision;
            let written = writer.written(revision.max(compacted));
            assert_eq!(state, &written, "at revision {revision}");
        }
        assert_eq!(states.last(), Some(&writer.written(0)), "the newest");
    }

    /// Every state since the start was what these transactions left, each of which wrote all keys that there are; none
    /// is older than the one before it. For a history that etcd has forgotten.
    #[track_caller]
    pub fn check_against(&self, transactions: &BTreeSet<i64>) {
        self.looks();
        let seen = self.seen.lock().unwrap();
        let mut before = 0;
        for state in &seen.states {
            let revisions: BTreeSet<i64> = state.values().copied().collect();
            assert!(revisions.len() <= 1, "a half of a change: {state:?}");
            let Some(revision) = revisions.first().copied() else {
                assert_eq!(before, 0, "nothing is in force any more");
                continue;
            };
            assert!(transactions.contains(&revision), "{revision} was no change");
            assert!(revision > before, "ran backwards: {revision} after {before}");
            before = revision;
        }
        assert_eq!(Some(&before), transactions.last(), "the newest");
    }

    /// Every revision that `/status` showed since it began is at least the one before it.
    #[track_caller]
    pub fn check_revisions(&self) {
        let seen = self.seen.lock().unwrap();
        for pair in seen.revisions.windows(2) {
            let forward = pair[0].iter().zip(&pair[1]).all(|(before, after)| after >= before);
            assert!(forward, "observed, proven, applied ran backwards: {pair:?}");
        }
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Seen {
    fn take(&mut self, state: InForce, revisions: [i64; 3]) {
        self.looks += 1;
        if self.states.last() != Some(&state) {
            self.states.push(state);
        }
        if self.revisions.last() != Some(&revisions) {
            self.revisions.push(revisions);
        }
    }
}

/// The keys that have a say in `/policy`, `bypass` aside.
pub fn in_force(policy: &Value) -> InForce {
    let kinds = policy.as_object().unwrap().iter().filter(|(kind, _)| *kind != "bypass");
    let documents = kinds.flat_map(|(_, documents)| documents.as_object().unwrap().values());
    let fields = documents.flat_map(|document| document["fields"].as_object().unwrap().values());
    let key =
        |field: &Value| Some((field.get("key")?.as_str()?.to_owned(), field.get("revision")?.as_i64()?));
    fields.filter_map(key).collect()
}

fn revisions(status: &Value) -> [i64; 3] {
    ["observed", "proven", "applied"].map(|stage| status["revisions"][stage].as_i64().unwrap_or(0))
}
