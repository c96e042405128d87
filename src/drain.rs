//! Leaving in order: the phases of a drain, and the clock that moves through them.

use std::sync::atomic::{AtomicU8, Ordering};

/// How far a listener has come on its way out. It only ever moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Serving,
    /// Still accepting, while callers find out: answers carry `Connection: close`, HTTP/2 gets GOAWAY.
    Leaving,
    /// No longer accepting; idle connections are closed, requests in flight finish.
    Closing,
    /// Whatever still runs is cut.
    Cut,
}

/// The phase of one listener; read by every request, written by the drain.
#[derive(Debug, Default)]
pub struct PhaseCell(AtomicU8);

impl PhaseCell {
    /// The phase now.
    pub fn get(&self) -> Phase {
        match self.0.load(Ordering::Relaxed) {
            0 => Phase::Serving,
            1 => Phase::Leaving,
            2 => Phase::Closing,
            _ => Phase::Cut,
        }
    }

    /// Moves forward to `phase`; says whether that was a move.
    pub fn advance(&self, phase: Phase) -> bool {
        self.0.fetch_max(phase as u8, Ordering::Relaxed) < phase as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_only_move_forward() {
        let cell = PhaseCell::default();
        assert_eq!(cell.get(), Phase::Serving);
        assert!(cell.advance(Phase::Closing));
        assert!(!cell.advance(Phase::Leaving));
        assert_eq!(cell.get(), Phase::Closing);
        assert!(cell.advance(Phase::Cut));
    }
}
