//! When the cache is written. Pure.

use std::time::{Duration, Instant};

/// The shortest time between two writes.
pub(super) const GAP: Duration = Duration::from_secs(1);

/// The longest time until a failed write is tried again.
pub(super) const LONGEST: Duration = Duration::from_mins(1);

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing, until something changes.
    Rest,
    /// Nothing before this time.
    Wait(Instant),
    /// It is to be written now.
    Write,
}

/// What is worth saying of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// Nothing: it goes on as before.
    Nothing,
    /// It fails from now on.
    Fails,
    /// It works again.
    Works,
}

/// At most one write a second; after a failure the wait doubles up to a minute.
#[derive(Debug, Clone, Default)]
pub struct Schedule {
    changed: bool,
    not_before: Option<Instant>,
    failures: u32,
}

impl Schedule {
    /// There is something new to write.
    pub fn changed(&mut self) {
        self.changed = true;
    }

    /// What is to be done at `now`.
    pub fn decide(&self, now: Instant) -> Decision {
        match self.not_before {
            _ if !self.changed => Decision::Rest,
            Some(time) if time > now => Decision::Wait(time),
            _ => Decision::Write,
        }
    }

    /// A write began; what changes from here on is for the next one.
    pub fn began(&mut self, now: Instant) {
        self.changed = false;
        self.not_before = now.checked_add(GAP);
    }

    /// It ended.
    pub fn ended(&mut self, worked: bool, now: Instant) -> Say {
        if worked {
            let failed = std::mem::take(&mut self.failures) > 0;
            return if failed { Say::Works } else { Say::Nothing };
        }
        self.changed = true;
        let wait = GAP.saturating_mul(1 << self.failures.min(6)).min(LONGEST);
        self.not_before = now.checked_add(wait);
        self.failures = self.failures.saturating_add(1);
        if self.failures == 1 { Say::Fails } else { Say::Nothing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_one_write_a_second_and_none_without_a_change() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut schedule = Schedule::default();
        assert_eq!(schedule.decide(at(0)), Decision::Rest);
        let mut writes = Vec::new();
        for ms in (0..5000).step_by(10) {
            if ms < 3500 {
                schedule.changed();
            }
            if schedule.decide(at(ms)) == Decision::Write {
                schedule.began(at(ms));
                assert_eq!(schedule.ended(true, at(ms + 3)), Say::Nothing);
                writes.push(ms);
            }
        }
        assert_eq!(writes, [0, 1000, 2000, 3000, 4000]);
        assert_eq!(schedule.decide(at(9000)), Decision::Rest);
    }

    #[test]
    fn failures_are_said_once_and_tried_again_ever_more_rarely() {
        let mut now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.changed();
        let mut waits = Vec::new();
        for n in 0..9 {
            assert_eq!(schedule.decide(now), Decision::Write);
            schedule.began(now);
            assert_eq!(schedule.ended(false, now), if n == 0 { Say::Fails } else { Say::Nothing });
            let Decision::Wait(time) = schedule.decide(now) else { panic!("{:?}", schedule.decide(now)) };
            waits.push((time - now).as_secs());
            now = time;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        schedule.began(now);
        assert_eq!(schedule.ended(true, now), Say::Works);
        assert_eq!(schedule.decide(now), Decision::Rest);
    }

    #[test]
    fn what_changes_during_a_write_is_written_next() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.changed();
        schedule.began(now);
        schedule.changed();
        schedule.ended(true, now);
        assert_eq!(schedule.decide(now), Decision::Wait(now + GAP));
    }
}
