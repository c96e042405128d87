//! What a connection's socket, its watchdog and its request handler tell each other.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering},
    },
    task::Waker,
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
    /// The answer is out, and the rest of the request's body still comes.
    Rest,
    /// The connection has left HTTP.
    Tunnel,
}

/// The shared state of one downstream connection.
///
/// The worker reads it when it looks at its connections; nothing here costs a timer operation per request. All
/// parties run on the same thread; the atomics are there because an upgradable connection must be `Send`.
#[derive(Debug)]
pub(crate) struct ConnState {
    phase: AtomicU8,
    /// Counts the phases that were entered. Wraps.
    entered: AtomicU32,
    /// The peer has ended its half while a request was being handled.
    half_closed: AtomicBool,
    /// The socket is to notice the peer's end although hyper does not read.
    watching: AtomicBool,
    /// The last write found no room.
    blocked: AtomicBool,
    /// How many writes the socket took. Wraps.
    writes: AtomicU32,
    /// Everything that hyper wrote is with the system: what is written next begins a message, unless an answer's
    /// body is under way.
    between: AtomicBool,
    interim_waiting: AtomicBool,
    interim: Mutex<Vec<u8>>,
    /// Wakes the connection's task.
    waker: Mutex<Option<Waker>>,
}

impl ConnState {
    pub(crate) fn new() -> Self {
        Self {
            phase: AtomicU8::new(0),
            entered: AtomicU32::new(0),
            half_closed: AtomicBool::new(false),
            watching: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            writes: AtomicU32::new(0),
            between: AtomicBool::new(true),
            interim_waiting: AtomicBool::new(false),
            interim: Mutex::new(Vec::new()),
            waker: Mutex::new(None),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Idle,
            1 => Phase::Head,
            2 => Phase::Busy,
            3 => Phase::Rest,
            _ => Phase::Tunnel,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.entered.store(self.entered.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.watching.store(false, Ordering::Relaxed);
    }

    /// A number that changes whenever a phase is entered: whoever wants to know for how long looks twice, and a request
    /// reads no clock for it.
    pub(crate) fn entered(&self) -> u32 {
        self.entered.load(Ordering::Relaxed)
    }

    pub(super) fn did_read(&self) {
        match self.phase() {
            Phase::Idle => self.enter(Phase::Head),
            // Silence is what is bounded here.
            Phase::Rest => self.enter(Phase::Rest),
            Phase::Head | Phase::Busy | Phase::Tunnel => {}
        }
    }

    /// From now on, until the next phase, the socket notices by itself when the peer ends or breaks the connection:
    /// hyper does not read while a request waits for its answer. Says whether that is news.
    pub(crate) fn watch(&self) -> bool {
        !self.watching.swap(true, Ordering::Relaxed)
    }

    pub(super) fn watching(&self) -> bool {
        self.watching.load(Ordering::Relaxed)
    }

    pub(super) fn did_write(&self) {
        self.writes.store(self.writes.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        self.blocked.store(false, Ordering::Relaxed);
    }

    pub(super) fn could_not_write(&self) {
        self.blocked.store(true, Ordering::Relaxed);
    }

    /// Whether bytes wait because the peer takes none.
    pub(crate) fn blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }

    /// A number that changes whenever the peer's system takes bytes.
    pub(crate) fn writes(&self) -> u32 {
        self.writes.load(Ordering::Relaxed)
    }

    pub(super) fn between(&self) -> bool {
        self.between.load(Ordering::Relaxed)
    }

    pub(super) fn set_between(&self, between: bool) {
        self.between.store(between, Ordering::Relaxed);
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

    /// The head of an answer is about to be written: an interim response that cannot go before it any more, because
    /// the end of the last message still waits to be written, goes nowhere. It would fall into the answer.
    pub(crate) fn seal_interim(&self) {
        if !self.between() {
            self.take_interim();
        }
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

    pub(super) fn interim_waits(&self) -> bool {
        self.interim_waiting.load(Ordering::Relaxed)
    }

    pub(super) fn take_interim(&self) -> Option<Vec<u8>> {
        if !self.interim_waiting.load(Ordering::Relaxed) {
            return None;
        }
        self.interim_waiting.store(false, Ordering::Relaxed);
        let mut waiting = self.interim.lock().unwrap_or_else(PoisonError::into_inner);
        Some(std::mem::take(&mut *waiting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> ConnState {
        ConnState::new()
    }

    #[test]
    fn the_first_byte_of_a_head_begins_it_and_the_rest_of_a_body_does_not() {
        let state = state();
        state.did_read();
        assert_eq!(state.phase(), Phase::Head);
        for phase in [Phase::Head, Phase::Busy, Phase::Rest, Phase::Tunnel] {
            state.enter(phase);
            state.did_read();
            assert_eq!(state.phase(), phase);
        }
    }

    #[test]
    fn an_interim_response_never_falls_into_an_answer() {
        let state = state();
        state.send_interim(b"103");
        state.seal_interim();
        assert_eq!(
            state.take_interim().as_deref(),
            Some(&b"103"[..]),
            "nothing was before it: it goes out first"
        );
        state.set_between(false);
        state.send_interim(b"103");
        state.seal_interim();
        assert_eq!(state.take_interim(), None);
    }

    #[test]
    fn watching_ends_with_the_phase() {
        let state = state();
        state.enter(Phase::Busy);
        assert!(state.watch() && !state.watch());
        state.enter(Phase::Idle);
        assert!(!state.watching());
    }
}
