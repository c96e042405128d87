//! How much goes through in panic.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::policy::Stamp;

/// Of so many requests one goes through, however many there are.
const ONE_OF: u64 = 20;

/// One goes through when none has for so long, however few there are.
const PATIENCE: Duration = Duration::from_secs(1);

/// Lets through what panic takes to find out that it is over: one of twenty requests, and at least one a second. The
/// rest is refused at once: it would only keep down what is trying to get up.
#[derive(Debug, Default)]
pub struct Gate {
    /// How many have asked.
    asked: AtomicU64,
    /// When the last one went through, in microseconds; 0 = none did.
    last: AtomicU64,
}

impl Gate {
    /// Whether a request goes through now. Of several that ask at the same moment only one is the one of that second.
    pub fn admits(&self, now: Stamp) -> bool {
        let turn = self.asked.fetch_add(1, Ordering::Relaxed) % ONE_OF == ONE_OF - 1;
        let last = self.last.load(Ordering::Relaxed);
        if turn {
            self.last.fetch_max(now.as_micros(), Ordering::Relaxed);
            return true;
        }
        let late = last == 0 || now.since(Stamp::from_micros(last)) >= PATIENCE;
        late && self
            .last
            .compare_exchange(last, now.as_micros(), Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(every: Duration, during: Duration) -> u32 {
        let gate = Gate::default();
        let mut now = Stamp::FIRST.after(Duration::from_mins(1));
        let end = now.after(during);
        let mut admitted = 0;
        while now < end {
            admitted += u32::from(gate.admits(now));
            now = now.after(every);
        }
        admitted
    }

    #[test]
    fn a_twentieth_of_much_traffic_and_one_a_second_of_little() {
        let minute = Duration::from_mins(1);
        assert_eq!(admitted(Duration::from_micros(500), minute), 6_000 + 1, "the first one at once");
        assert!((60..=61).contains(&admitted(Duration::from_millis(100), minute)));
        assert_eq!(admitted(Duration::from_secs(1), minute), 60);
        assert_eq!(admitted(Duration::from_secs(5), minute), 12);
    }

    #[test]
    fn one_of_those_that_ask_together_goes_through() {
        let gate = Gate::default();
        let now = Stamp::FIRST.after(Duration::from_mins(1));
        assert_eq!((0..19).filter(|_| gate.admits(now)).count(), 1);
        let earlier = Stamp::FIRST;
        assert!(gate.admits(earlier), "the twentieth");
        assert!(!gate.admits(now.after(Duration::from_micros(999_999))), "its moment did not go back");
        assert!(gate.admits(now.after(Duration::from_secs(1))));
    }
}
