//! The idle HTTP/1 connections of one lane.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use super::{endpoint::Counted, lease::Http1};

/// Idle connections, the newest on top: the one that was used last is used next, so that those that are not needed
/// grow old and go.
#[derive(Debug, Default)]
pub(super) struct Stack(RefCell<Vec<Idle>>);

#[derive(Debug)]
struct Idle {
    conn: Http1,
    since: Instant,
    _count: Counted,
}

impl Idle {
    /// Whether a request could be sent on it.
    fn usable(&self, now: Instant) -> bool {
        now < self.conn.expires && self.conn.ready()
    }

    fn stale(&self, now: Instant, timeout: Duration) -> bool {
        now.saturating_duration_since(self.since) >= timeout
    }
}

impl Stack {
    pub(super) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    pub(super) fn push(&self, conn: Http1, now: Instant, count: Counted) {
        self.0.borrow_mut().push(Idle { conn, since: now, _count: count });
    }

    /// The newest one that is usable. What is found unusable on the way is closed; so is what was idle for `timeout`,
    /// unless it is one of the `floor` that are to stay.
    pub(super) fn pop(&self, now: Instant, timeout: Duration, floor: usize) -> Option<Http1> {
        loop {
            // Taken out first: nothing is dropped inside the borrow.
            let idle = self.0.borrow_mut().pop()?;
            let spare = self.len() >= floor;
            if idle.usable(now) && !(spare && idle.stale(now, timeout)) {
                return Some(idle.conn);
            }
        }
    }

    /// Forgets what has ended.
    pub(super) fn forget_closed(&self) {
        let closed: Vec<_> =
            self.0.borrow_mut().extract_if(.., |idle| idle.conn.sender.is_closed()).collect();
        drop(closed);
    }

    /// Closes the oldest one; says whether there was one.
    pub(super) fn close_oldest(&self) -> bool {
        let oldest = {
            let mut idle = self.0.borrow_mut();
            (!idle.is_empty()).then(|| idle.remove(0))
        };
        oldest.is_some()
    }

    /// Closes what is of no use, and of the rest what was idle for `timeout`, down to `floor`.
    pub(super) fn sweep(&self, now: Instant, timeout: Duration, floor: usize) {
        let unusable: Vec<_> = self.0.borrow_mut().extract_if(.., |idle| !idle.usable(now)).collect();
        let mut spare = self.len().saturating_sub(floor);
        // The oldest come first; those that the floor needs stay.
        let stale: Vec<_> = {
            let goes = |idle: &mut Idle| {
                let goes = spare > 0 && idle.stale(now, timeout);
                spare -= usize::from(goes);
                goes
            };
            self.0.borrow_mut().extract_if(.., goes).collect()
        };
        drop((unusable, stale));
    }

    /// Closes all.
    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut *self.0.borrow_mut());
        drop(all);
    }
}
