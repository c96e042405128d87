//! What is known of every name that is looked up.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::config::policy::Discover;

/// What is looked up: the addresses of a name, and the port that they are taken with.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// The name.
    pub host: Arc<str>,
    /// The port.
    pub port: u16,
}

impl Target {
    /// What `config` wants looked up.
    pub fn of(config: &Discover) -> Self {
        Self { host: config.host.clone(), port: config.port }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What is known of one name, for people.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shown {
    /// The addresses that are in use, in order; none before the first answer.
    pub addresses: Arc<[SocketAddr]>,
    /// When a name server said so last: their age is the time since then. `None` = never.
    pub answered: Option<Instant>,
    /// How long the records of that answer lived, by what the name server said.
    pub ttl: Option<Duration>,
    /// Look-ups that failed since then.
    pub failures: u32,
    /// Why the last one failed, or what could not be asked for; `None` when all went well.
    pub error: Option<Arc<str>>,
    /// When it is looked up next.
    pub next: Option<Instant>,
}

/// What is known of all names. Only the control side writes; the lock is never taken for a request.
#[derive(Debug, Default)]
pub struct Discoveries {
    table: Mutex<BTreeMap<Target, Shown>>,
    /// Counts results.
    news: watch::Sender<u64>,
}

impl Discoveries {
    /// What is known of `target`; `None` when it is not looked up.
    pub fn of(&self, target: &Target) -> Option<Shown> {
        self.lock().get(target).cloned()
    }

    /// What is known of all, in order of name and port.
    pub fn all(&self) -> Vec<(Target, Shown)> {
        self.lock().iter().map(|(target, shown)| (target.clone(), shown.clone())).collect()
    }

    /// Changes with every result.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Whether each of them was looked up at least once, with whatever outcome.
    pub fn tried(&self, targets: &[Target]) -> bool {
        let table = self.lock();
        targets.iter().all(|target| {
            table.get(target).is_some_and(|shown| shown.answered.is_some() || shown.failures > 0)
        })
    }

    /// Begins a row.
    pub(super) fn add(&self, target: &Target) {
        self.lock().entry(target.clone()).or_default();
    }

    /// Forgets all that are not wanted.
    pub(super) fn keep(&self, wanted: impl Fn(&Target) -> bool) {
        self.lock().retain(|target, _| wanted(target));
    }

    /// Notes an answer; `error` is what was wrong with it. Returns whether the addresses are others than before.
    pub(super) fn answered(
        &self,
        target: &Target,
        addresses: &Arc<[SocketAddr]>,
        ttl: Duration,
        error: Option<Arc<str>>,
        now: Instant,
    ) -> bool {
        let mut table = self.lock();
        // What was given up meanwhile stays given up.
        let Some(shown) = table.get_mut(target) else { return false };
        let changed = shown.addresses != *addresses;
        *shown = Shown {
            addresses: addresses.clone(),
            answered: Some(now),
            ttl: Some(ttl),
            failures: 0,
            error,
            next: None,
        };
        drop(table);
        self.news.send_modify(|count| *count += 1);
        changed
    }

    /// Notes a failure: what was known stays. Returns how many it makes in a row, and the age of what stays.
    pub(super) fn failed(&self, target: &Target, error: &str, now: Instant) -> (u32, Option<Duration>) {
        let mut table = self.lock();
        let Some(shown) = table.get_mut(target) else { return (1, None) };
        shown.failures = shown.failures.saturating_add(1);
        shown.error = Some(error.into());
        let told = (shown.failures, shown.answered.map(|at| now.saturating_duration_since(at)));
        drop(table);
        self.news.send_modify(|count| *count += 1);
        told
    }

    /// Notes when it is looked up next.
    pub(super) fn next(&self, target: &Target, at: Instant) {
        if let Some(shown) = self.lock().get_mut(target) {
            shown.next = Some(at);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Target, Shown>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target { host: "db.shop".into(), port: 80 }
    }

    #[test]
    fn a_failure_keeps_what_was_known_and_says_how_old_it_is() {
        let (table, now) = (Discoveries::default(), Instant::now());
        let found: Arc<[SocketAddr]> = [([10, 0, 0, 1], 80).into()].into();
        table.add(&target());
        assert!(!table.tried(&[target()]));
        assert_eq!(table.failed(&target(), "SERVFAIL", now), (1, None));
        assert!(table.tried(&[target()]) && table.tried(&[]));
        assert!(table.answered(&target(), &found, Duration::from_secs(30), None, now));
        assert!(!table.answered(&target(), &found, Duration::from_secs(30), None, now), "the same again");
        let later = now + Duration::from_secs(9);
        assert_eq!(table.failed(&target(), "timed out", later), (1, Some(Duration::from_secs(9))));
        assert_eq!(table.failed(&target(), "timed out", later).0, 2);
        let shown = table.of(&target()).unwrap();
        assert_eq!((shown.addresses, shown.answered, shown.failures), (found, Some(now), 2));
        assert_eq!(shown.error.as_deref(), Some("timed out"));
    }

    #[test]
    fn what_is_given_up_does_not_come_back_by_a_late_answer() {
        let (table, now) = (Discoveries::default(), Instant::now());
        table.add(&target());
        table.keep(|_| false);
        assert!(!table.answered(&target(), &[([10, 0, 0, 1], 80).into()].into(), Duration::ZERO, None, now));
        assert_eq!(table.failed(&target(), "late", now), (1, None));
        assert_eq!(table.of(&target()), None);
    }
}
