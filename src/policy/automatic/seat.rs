//! Where an automatic switch says whether it is on.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use super::{Change, Reading};
use crate::policy::Stamp;

/// Where an automatic switch says whether it is on. Requests read it; the control side alone writes it.
///
/// It lives for as long as the state of the switch is `auto`: whatever else of the switch is edited, its seat stays the
/// same one, and with it whether it is on. When a hand has turned the switch on or off, the next `auto` has a new seat.
#[derive(Debug, Default)]
pub struct AutomaticSeat {
    on: AtomicBool,
    /// Requests do not look at this.
    said: Mutex<Seated>,
}

/// What there is to say of an automatic switch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seated {
    /// Whether it is on.
    pub on: bool,
    /// When it turned itself on or off last; `None` = it has been off from the beginning.
    pub since: Option<Stamp>,
    /// Why; `None` = it has been off from the beginning.
    pub reason: Option<Arc<str>>,
    /// How often it has turned itself on or off.
    pub changes: u64,
    /// What its signal showed at the last look.
    pub reading: Reading,
}

impl AutomaticSeat {
    /// Whether the switch is on. One relaxed load.
    pub fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// What there is to say of it. Not for the request path.
    pub fn shown(&self) -> Seated {
        self.said().clone()
    }

    /// The switch has turned itself on or off.
    pub fn set(&self, change: &Change, now: Stamp) {
        let mut said = self.said();
        said.on = change.on;
        said.since = Some(now);
        said.reason = Some(Arc::from(change.reason.as_str()));
        said.changes += 1;
        self.on.store(change.on, Relaxed);
    }

    /// What its signal shows.
    pub fn see(&self, reading: Reading) {
        self.said().reading = reading;
    }

    fn said(&self) -> MutexGuard<'_, Seated> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_it_was_told_last() {
        let seat = AutomaticSeat::default();
        assert!(!seat.is_on());
        assert_eq!(seat.shown(), Seated::default());
        let at = Stamp::from_micros(7);
        seat.set(&Change { on: true, reason: "memory 80MiB > 64MiB for 5s".to_owned() }, at);
        seat.see(Reading::Level(80 << 20));
        assert!(seat.is_on());
        let shown = seat.shown();
        assert_eq!((shown.on, shown.since, shown.changes), (true, Some(at), 1));
        assert_eq!(shown.reason.as_deref(), Some("memory 80MiB > 64MiB for 5s"));
        assert_eq!(shown.reading, Reading::Level(80 << 20));
        seat.set(&Change { on: false, reason: "memory 60MiB ≤ 64MiB for 30s".to_owned() }, at);
        assert!(!seat.is_on() && !seat.shown().on);
        assert_eq!(seat.shown().changes, 2);
    }
}
