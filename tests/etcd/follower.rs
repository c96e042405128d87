//! Follows a store, and checks all that it told against etcd's own history.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use weir::{
    config::Name,
    store::{
        Event, Lost, ReadCause,
        etcd::{Config, Etcd},
        key::Identity,
        watch::Settings,
    },
};

pub use crate::support::writer::{State, Writer, put};
use crate::support::{PATIENCE, driver, wait_until};

/// What was told so far.
#[derive(Debug, Default)]
pub struct Told {
    /// What it adds up to now.
    pub state: State,
    /// Every state that there was, with its revision.
    pub states: Vec<(i64, State)>,
    /// Why everything was read, each time.
    pub reads: Vec<ReadCause>,
    /// The last proof.
    pub proven: i64,
    /// Why connections were lost.
    pub lost: Vec<(Lost, String)>,
    /// The members that were connected.
    pub connected: Vec<String>,
    /// How many changes came at once, each time.
    pub batches: Vec<usize>,
    /// When the last change had come, and when it was told.
    pub last: Option<(Instant, Instant)>,
}

/// An instance `orders@pod-1` that follows a store.
pub struct Follower {
    told: Arc<Mutex<Told>>,
    handle: Etcd,
    _task: Abort,
}

struct Abort(Vec<tokio::task::AbortHandle>);

impl Drop for Abort {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// How to reach a store in clear, without a user.
pub fn config(endpoints: &[String]) -> Config {
    Config { endpoints: endpoints.to_vec(), root: "/weir".into(), ..Config::default() }
}

pub fn identity() -> Identity {
    Identity { service: Name::new("orders").unwrap(), instance: Name::new("pod-1").unwrap() }
}

impl Follower {
    pub fn start(endpoint: String) -> Self {
        Self::with(config(&[endpoint]), Settings::default())
    }

    pub fn with(config: Config, settings: Settings) -> Self {
        let told = Arc::new(Mutex::new(Told::default()));
        let (handle, task, mut events) = Etcd::new(config, &identity(), settings).unwrap();
        let task = driver::spawn(task).abort_handle();
        let into = told.clone();
        let taking = driver::spawn(async move {
            while let Some(event) = events.recv().await {
                into.lock().unwrap().take(event);
            }
        });
        Self { told, handle, _task: Abort(vec![task, taking.abort_handle()]) }
    }

    /// Asks for a proof.
    pub fn nudge(&self) {
        self.handle.nudge();
    }

    /// What was told so far.
    pub fn told<T>(&self, look: impl FnOnce(&Told) -> T) -> T {
        look(&self.told.lock().unwrap())
    }

    /// Waits for a condition on what was told; says what was told when it waits in vain.
    #[track_caller]
    pub fn wait(&self, what: &str, condition: impl Fn(&Told) -> bool) {
        let due = Instant::now() + PATIENCE.mul_f64(0.9);
        let mut said = false;
        wait_until(what, || {
            let holds = self.told(&condition);
            if !holds && !said && Instant::now() > due {
                said = true;
                self.told(|told| {
                    let lost = &told.lost[told.lost.len().saturating_sub(3)..];
                    let keys = told.state.len();
                    eprintln!("{:?}, proven {}, {keys} keys, lost {lost:?}", told.reads, told.proven);
                });
            }
            holds
        });
    }

    /// Waits until it has told everything up to a revision.
    #[track_caller]
    pub fn reaches(&self, revision: i64) {
        self.wait(&format!("revision {revision} to be proven"), |told| told.proven >= revision);
    }

    /// Every state that was told since the `from`th must be etcd's at its revision.
    #[track_caller]
    pub fn check(&self, writer: &Writer, from: usize) {
        let states = self.told(|told| told.states[from..].to_vec());
        assert!(!states.is_empty());
        for (revision, state) in &states {
            assert_eq!(state, &writer.history(*revision), "at revision {revision}");
        }
        for pair in states.windows(2) {
            assert!(pair[0].0 < pair[1].0, "ran backwards: {} after {}", pair[1].0, pair[0].0);
        }
    }
}

impl Told {
    fn take(&mut self, event: Event) {
        match event {
            Event::Read { content, cause, .. } => {
                self.reads.push(cause);
                self.state =
                    content.items.iter().map(|item| (item.key.to_string(), item.value.to_vec())).collect();
                self.proven = content.revision;
                self.states.push((content.revision, self.state.clone()));
            }
            Event::Changed { revision, changes, at } => {
                self.batches.push(changes.len());
                self.last = Some((at, Instant::now()));
                assert!(revision > self.states.last().unwrap().0, "told again: {revision}");
                for change in changes {
                    match change.value {
                        Some(value) => self.state.insert(change.key.to_string(), value.to_vec()),
                        None => self.state.remove(&*change.key),
                    };
                }
                self.states.push((revision, self.state.clone()));
            }
            Event::Proven { revision, .. } => {
                assert!(revision >= self.proven, "proven backwards: {revision} after {}", self.proven);
                self.proven = revision;
            }
            Event::Connected { endpoint } => self.connected.push(endpoint),
            Event::Disconnected { cause, error } => self.lost.push((cause, error)),
            Event::Faults { .. } => panic!("a directory's, not etcd's"),
        }
    }
}
