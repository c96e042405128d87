//! What a connection's socket, its watchdog and its request handler tell each other.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::Waker,
    time::{Duration, Instant},
};

/// Where an HTTP/1 connection is in its cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing of a request has arrived.
    Idle,
    /// Some of a request's head has arrived, not all.
    Head,
    /// A request is being handled.
    Busy,
}

/// The shared state of one downstream connection.
///
/// The watchdog reads it when its one timer fires; nothing here costs a timer operation per request. All
/// parties run on the same thread; the atomics are there because an upgradable connection must be `Send`.
#[derive(Debug)]
pub(crate) struct ConnState {
    epoch: Instant,
    phase: AtomicU8,
    /// When the phase was entered, in milliseconds since `epoch`.
    since: AtomicU64,
    /// The peer has ended its half while a request was being handled.
    half_closed: AtomicBool,
    interim_waiting: AtomicBool,
    interim: Mutex<Vec<u8>>,
    /// Wakes the connection's task.
    waker: Mutex<Option<Waker>>,
}

impl ConnState {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            phase: AtomicU8::new(0),
            since: AtomicU64::new(0),
            half_closed: AtomicBool::new(false),
            interim_waiting: AtomicBool::new(false),
            interim: Mutex::new(Vec::new()),
            waker: Mutex::new(None),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Idle,
            1 => Phase::Head,
            _ => Phase::Busy,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.since.store(self.now(), Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// How long the connection has been in its phase.
    pub(crate) fn in_phase(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.since.load(Ordering::Relaxed)))
    }

    pub(super) fn did_read(&self) {
        if self.phase() == Phase::Idle {
            self.enter(Phase::Head);
        }
    }

    pub(super) fn saw_end(&self) {
        self.half_closed.store(true, Ordering::Relaxed);
    }

    /// Whether the peer has ended its half of the connection.
    pub(crate) fn half_closed(&self) -> bool {
        self.half_closed.load(Ordering::Relaxed)
    }

    /// Queues an interim response (1xx), ready to send, before whatever the connection writes next.
    ///
    /// hyper's server has no way to send one. It flushes its socket at the end of every poll, and only when
    /// its own buffer is empty, so bytes that the socket itself adds at a flush fall between two messages.
    pub(crate) fn send_interim(&self, bytes: &[u8]) {
        let mut waiting = self.interim.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.extend_from_slice(bytes);
        self.interim_waiting.store(true, Ordering::Relaxed);
        drop(waiting);
        self.wake();
    }

    /// Remembers whom to wake.
    pub(crate) fn listen(&self, waker: &Waker) {
        let mut known = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }

    /// Has the connection polled.
    pub(crate) fn wake(&self) {
        let known = self.waker.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(waker) = known {
            waker.wake();
        }
    }

    pub(super) fn take_interim(&self) -> Option<Vec<u8>> {
        if !self.interim_waiting.load(Ordering::Relaxed) {
            return None;
        }
        self.interim_waiting.store(false, Ordering::Relaxed);
        let mut waiting = self.interim.lock().unwrap_or_else(PoisonError::into_inner);
        Some(std::mem::take(&mut *waiting))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
