//! The last requests that Weir answered or retried itself, for whoever asks what just happened.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError, TryLockError},
    time::Instant,
};

use super::access::{AccessRecord, PerSecond};

/// How many are kept. No more than that are taken within a second either: they would push each other out
/// unread.
pub const KEPT: usize = 256;
const PER_SECOND: u32 = 256;

/// A ring of the last [`KEPT`] requests of note, newest last.
#[derive(Debug)]
pub struct RecentRequests {
    ring: Mutex<VecDeque<Vec<u8>>>,
    rate: PerSecond,
    start: Instant,
}

impl Default for RecentRequests {
    fn default() -> Self {
        Self { ring: Mutex::default(), rate: PerSecond::default(), start: Instant::now() }
    }
}

impl RecentRequests {
    /// Keeps a record. Call it only for a request that Weir answered or retried.
    ///
    /// Never waits: when another thread is at the ring, or too many came this second, the record is left out.
    pub fn note(&self, record: &AccessRecord<'_>, now: Instant) {
        if !self.rate.take(PER_SECOND, self.start, now) {
            return;
        }
        let line = record.line();
        let mut ring = match self.ring.try_lock() {
            Ok(ring) => ring,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if ring.len() >= KEPT {
            ring.pop_front();
        }
        ring.push_back(line);
    }

    /// The requests as access records, newest first.
    pub fn list(&self) -> serde_json::Value {
        // Parsed outside the lock, so that a worker finds it free.
        let lines: Vec<_> = {
            let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
            ring.iter().rev().cloned().collect()
        };
        lines.iter().filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::access::tests::record;

    #[test]
    fn the_newest_come_first_and_the_oldest_go() {
        let recent = RecentRequests::default();
        for n in 0..KEPT + 10 {
            let path = format!("/{n}");
            recent.note(&record("h", &path), recent.start + Duration::from_secs(n as u64));
        }
        let list = recent.list();
        let list = list.as_array().unwrap();
        assert_eq!(list.len(), KEPT);
        assert_eq!(list[0]["path"], format!("/{}", KEPT + 9));
        assert_eq!(list[KEPT - 1]["path"], "/10");
        assert_eq!(list[0]["attempts"][0]["outcome"], "connect_error");
    }

    #[test]
    fn a_storm_is_taken_in_part_and_a_busy_ring_is_passed_by() {
        let recent = RecentRequests::default();
        for n in 0..3 * KEPT {
            recent.note(&record("h", &format!("/{n}")), recent.start);
        }
        assert_eq!(recent.list()[0]["path"], format!("/{}", KEPT - 1), "the first of the second stay");
        let held = recent.ring.lock().unwrap();
        recent.note(&record("h", "/late"), recent.start + Duration::from_secs(5));
        drop(held);
        assert_ne!(recent.list()[0]["path"], "/late");
    }
}
