//! The idle HTTP/1 connections of one lane.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Endpoint, http1::Http1};

/// Idle connections, the newest on top: the one that was used last is used next, so that those that are not needed
/// grow old and go.
#[derive(Debug)]
pub(super) struct Stack {
    idle: RefCell<Vec<Idle>>,
    endpoint: Arc<Endpoint>,
    /// How many the endpoint was told there are.
    told: Cell<usize>,
}

#[derive(Debug)]
struct Idle {
    conn: Http1,
    since: Instant,
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
    pub(super) fn new(endpoint: &Arc<Endpoint>) -> Self {
        Self { idle: RefCell::default(), endpoint: endpoint.clone(), told: Cell::new(0) }
    }

    pub(super) fn len(&self) -> usize {
        self.idle.borrow().len()
    }

    /// Tells the endpoint how many there are: one count at a time would be dear, for all workers share it.
    fn tell(&self) {
        let there = self.len();
        self.endpoint.idle_changed(self.told.replace(there), there);
    }

    pub(super) fn push(&self, conn: Http1, now: Instant) {
        self.idle.borrow_mut().push(Idle { conn, since: now });
        self.tell();
    }

    /// The newest one that is usable. What is found unusable on the way is closed; so is what was idle for `timeout`,
    /// unless it is one of the `floor` that are to stay.
    pub(super) fn pop(&self, now: Instant, timeout: Duration, floor: usize) -> Option<Http1> {
        let found = loop {
            // Taken out first: nothing is dropped inside the borrow.
            let Some(idle) = self.idle.borrow_mut().pop() else { break None };
            let spare = self.len() >= floor;
            if idle.usable(now) && !(spare && idle.stale(now, timeout)) {
                break Some(idle.conn);
            }
        };
        self.tell();
        found
    }

    /// Forgets what has ended.
    pub(super) fn forget_closed(&self) {
        let closed: Vec<_> = self.idle.borrow_mut().extract_if(.., |idle| !idle.conn.ready()).collect();
        self.tell();
        drop(closed);
    }

    /// Closes the oldest one; says whether there was one.
    pub(super) fn close_oldest(&self) -> bool {
        let oldest = {
            let mut idle = self.idle.borrow_mut();
            (!idle.is_empty()).then(|| idle.remove(0))
        };
        self.tell();
        oldest.is_some()
    }

    /// Closes what is of no use, and of the rest what was idle for `timeout`, down to `floor`.
    pub(super) fn sweep(&self, now: Instant, timeout: Duration, floor: usize) {
        let unusable: Vec<_> = self.idle.borrow_mut().extract_if(.., |idle| !idle.usable(now)).collect();
        let mut spare = self.len().saturating_sub(floor);
        // The oldest come first; those that the floor needs stay.
        let stale: Vec<_> = {
            let goes = |idle: &mut Idle| {
                let goes = spare > 0 && idle.stale(now, timeout);
                spare -= usize::from(goes);
                goes
            };
            self.idle.borrow_mut().extract_if(.., goes).collect()
        };
        self.tell();
        drop((unusable, stale));
    }

    /// Closes all.
    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut *self.idle.borrow_mut());
        self.tell();
        drop(all);
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.clear();
    }
}
