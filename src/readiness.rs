//! Whether this instance is started, ready and alive: what the probes of an orchestrator ask.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// A worker that has not turned for this long counts as stuck.
pub const STALE: Duration = Duration::from_secs(10);
/// How often a worker should say that it turns.
pub const BEAT_EVERY: Duration = Duration::from_secs(1);

/// The state behind the probes. Shared by everything that has a say in it.
#[derive(Debug)]
pub struct Readiness {
    /// How many guards hold readiness back, by what they wait for.
    held: Mutex<BTreeMap<&'static str, usize>>,
    draining: AtomicBool,
    started: AtomicBool,
    epoch: Instant,
    /// For each worker, when it last turned, in milliseconds since `epoch`.
    beats: Box<[AtomicU64]>,
}

impl Readiness {
    /// Not started yet: take the guards of everything that must happen first, then drop each when it has.
    pub fn new(workers: usize, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            held: Mutex::default(),
            draining: AtomicBool::new(false),
            started: AtomicBool::new(false),
            epoch: now,
            beats: (0..workers).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    /// Holds readiness back for `what` until the guard is dropped. Guards may have the same name.
    pub fn hold(self: &Arc<Self>, what: &'static str) -> Hold {
        *self.held().entry(what).or_default() += 1;
        Hold { readiness: self.clone(), what }
    }

    /// From now on this instance is not ready, for good.
    pub fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    /// Whether [`Self::drain`] was called.
    pub fn draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Whether traffic should be sent here, or else what stands in the way.
    ///
    /// # Errors
    /// The names of all that hold readiness back.
    pub fn ready(&self) -> Result<(), Vec<&'static str>> {
        let draining = self.draining().then_some("draining");
        let reasons: Vec<_> = draining.into_iter().chain(self.held().keys().copied()).collect();
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    /// Whether nothing has held readiness back at some moment since the start; then it stays true.
    pub fn started(&self) -> bool {
        if !self.started.load(Relaxed) && self.held().is_empty() {
            self.started.store(true, Relaxed);
        }
        self.started.load(Relaxed)
    }

    /// Worker number `worker`, counted from 0, turns. Call it about every [`BEAT_EVERY`] from a timer of
    /// its own runtime, so that a loop that is stuck cannot say so.
    pub fn beat(&self, worker: usize, now: Instant) {
        if let Some(beat) = self.beats.get(worker) {
            let passed = now.saturating_duration_since(self.epoch).as_millis();
            beat.store(u64::try_from(passed).unwrap_or(u64::MAX), Relaxed);
        }
    }

    /// Whether all workers turn. While the start still waits for something there are none yet, and it is alive: it may
    /// be told to wait for the store for longer than [`STALE`].
    ///
    /// # Errors
    /// One sentence for each worker that has not turned for [`STALE`].
    pub fn live(&self, now: Instant) -> Result<(), Vec<String>> {
        if !self.started() {
            return Ok(());
        }
        let passed = now.saturating_duration_since(self.epoch);
        let stuck: Vec<_> = self
            .beats
            .iter()
            .enumerate()
            .map(|(worker, beat)| (worker, passed.saturating_sub(Duration::from_millis(beat.load(Relaxed)))))
            .filter(|(_, silent)| *silent > STALE)
            .map(|(worker, silent)| format!("worker {worker} has not turned for {} s", silent.as_secs()))
            .collect();
        if stuck.is_empty() { Ok(()) } else { Err(stuck) }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<&'static str, usize>> {
        // A count is changed in one step, so a panic elsewhere leaves it whole.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Holds readiness back while it lives.
#[derive(Debug)]
#[must_use = "readiness is held back until this is dropped"]
pub struct Hold {
    readiness: Arc<Readiness>,
    what: &'static str,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.readiness.held();
        if let Some(count) = held.get_mut(self.what) {
            *count -= 1;
            if *count == 0 {
                held.remove(self.what);
            }
        }
        // Noted here as well, so that a start is not missed because nobody asked at that moment.
        if held.is_empty() {
            self.readiness.started.store(true, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guard_must_go_before_it_is_ready() {
        let readiness = Readiness::new(0, Instant::now());
        let policy = readiness.hold("policy");
        let listeners = [readiness.hold("listeners"), readiness.hold("listeners")];
        assert_eq!(readiness.ready(), Err(vec!["listeners", "policy"]));
        drop(policy);
        let [one, two] = listeners;
        drop(one);
        assert_eq!(readiness.ready(), Err(vec!["listeners"]));
        assert!(!readiness.started());
        drop(two);
        assert_eq!(readiness.ready(), Ok(()));
        assert!(readiness.started());
    }

    #[test]
    fn draining_is_for_good_and_started_stays() {
        let readiness = Readiness::new(0, Instant::now());
        drop(readiness.hold("listeners"));
        let again = readiness.hold("policy");
        readiness.drain();
        assert_eq!(readiness.ready(), Err(vec!["draining", "policy"]));
        drop(again);
        assert_eq!(readiness.ready(), Err(vec!["draining"]));
        assert!(readiness.started() && readiness.draining());
    }

    #[test]
    fn a_start_that_waits_for_long_is_alive_and_nothing_else() {
        let start = Instant::now();
        let readiness = Readiness::new(1, start);
        let policy = readiness.hold("policy");
        let later = start + Duration::from_mins(1);
        assert_eq!((readiness.live(later), readiness.started()), (Ok(()), false));
        assert_eq!(readiness.ready(), Err(vec!["policy"]));
        readiness.beat(0, later);
        drop(policy);
        assert_eq!((readiness.live(later), readiness.started()), (Ok(()), true));
        assert!(readiness.live(later + STALE + Duration::from_millis(1)).is_err());
    }

    #[test]
    fn a_worker_that_stands_still_is_named() {
        let start = Instant::now();
        let readiness = Readiness::new(2, start);
        assert_eq!(readiness.live(start + STALE), Ok(()), "time to start");
        let later = start + Duration::from_mins(1);
        readiness.beat(0, later);
        readiness.beat(1, start + Duration::from_secs(30));
        readiness.beat(9, later);
        assert_eq!(readiness.live(later), Err(vec!["worker 1 has not turned for 30 s".to_owned()]));
        readiness.beat(1, later);
        assert_eq!(readiness.live(later + STALE), Ok(()));
        assert!(readiness.live(later + STALE + Duration::from_millis(1)).is_err());
    }
}
