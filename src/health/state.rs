//! What the active checks of one endpoint have found.
//!
//! One task judges an endpoint; everybody else only reads. Readers load one word; what people want to see beside it is
//! behind a lock that no request takes.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::policy::Stamp;

/// What the checks say of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Standing {
    /// Nothing: it is not checked, or was not checked yet. Counts as healthy.
    #[default]
    Unknown,
    /// It does its work.
    Healthy,
    /// It does not.
    Unhealthy,
}

impl Standing {
    /// Whether requests may go to it.
    pub const fn serves(self) -> bool {
        !matches!(self, Self::Unhealthy)
    }

    /// Its word in metrics and on the admin interface.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }

    const fn code(self) -> u64 {
        match self {
            Self::Unknown => 0,
            Self::Healthy => 1,
            Self::Unhealthy => 2,
        }
    }

    const fn of_code(code: u64) -> Self {
        match code {
            1 => Self::Healthy,
            2 => Self::Unhealthy,
            _ => Self::Unknown,
        }
    }
}

/// The health of one endpoint, for as long as the endpoint lives.
#[derive(Debug, Default)]
pub struct HealthState {
    /// Bits 0 and 1: the standing. The rest: since when, as a [`Stamp`]; 0 = ever since.
    word: AtomicU64,
    /// When it last became healthy after it had been unhealthy, as a [`Stamp`]; 0 = never.
    recovered: AtomicU64,
    /// A request has failed since the last check.
    suspect: AtomicBool,
    /// Counted up whenever the standing changes; shared by the endpoints of an upstream.
    version: OnceLock<Arc<AtomicU64>>,
    last: Mutex<Option<LastCheck>>,
}

const STANDING: u64 = 0b11;

impl HealthState {
    /// Whether requests may go to the endpoint. One relaxed load.
    pub fn serves(&self) -> bool {
        self.standing().serves()
    }

    /// What the checks say at present.
    pub fn standing(&self) -> Standing {
        Standing::of_code(self.word.load(Ordering::Relaxed) & STANDING)
    }

    /// What the checks say, and since when; `None` = it was never otherwise.
    pub fn standing_since(&self) -> (Standing, Option<Stamp>) {
        // After the version, which is counted up later than this is stored.
        let word = self.word.load(Ordering::Acquire);
        let since = word >> 2;
        (Standing::of_code(word & STANDING), (since > 0).then(|| Stamp::from_micros(since)))
    }

    /// When it last became healthy after it had been unhealthy.
    pub fn recovered(&self) -> Option<Stamp> {
        let at = self.recovered.load(Ordering::Relaxed);
        (at > 0).then(|| Stamp::from_micros(at))
    }

    /// The newest result, for people. Takes a lock: not for the request path.
    pub fn last(&self) -> Option<LastCheck> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on changes of the standing are counted there. Only the first call means anything.
    pub fn count_changes_in(&self, version: &Arc<AtomicU64>) {
        self.version.get_or_init(|| version.clone());
    }

    /// A request to the endpoint has failed: it is checked again at once, though not more than once a second. Does
    /// nothing where it is not checked. Two relaxed operations at most.
    pub fn suspect(&self) {
        // Failures come in crowds: most find it said already, and leave the cache line where it is.
        if !self.suspect.load(Ordering::Relaxed) {
            self.suspect.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it was suspected since the last call.
    pub fn take_suspicion(&self) -> bool {
        self.suspect.load(Ordering::Relaxed) && self.suspect.swap(false, Ordering::Relaxed)
    }

    /// Takes a result. Returns the new standing when it changes by it. For the one task that checks the endpoint, which
    /// keeps `course`.
    pub fn take(&self, course: &mut Course, rules: Rules, check: LastCheck) -> Option<Standing> {
        let (good, now) = (check.fault.is_none(), check.at);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(check);
        let before = self.standing();
        let after = course.judge(before, rules, good);
        (after != before).then(|| {
            self.set(after, now);
            after
        })
    }

    /// It is not checked any more: nothing is known of it. Returns whether something was.
    pub fn forget(&self, now: Stamp) -> bool {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let known = self.standing() != Standing::Unknown;
        if known {
            self.set(Standing::Unknown, now);
        }
        known
    }

    fn set(&self, standing: Standing, now: Stamp) {
        if standing == Standing::Healthy && self.standing() == Standing::Unhealthy {
            self.recovered.store(now.as_micros(), Ordering::Relaxed);
        }
        // 62 bits of microseconds are 146,000 years.
        self.word.store(now.as_micros() << 2 | standing.code(), Ordering::Release);
        if let Some(version) = self.version.get() {
            version.fetch_add(1, Ordering::Release);
        }
    }
}

/// One result, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastCheck {
    /// When it was there.
    pub at: Stamp,
    /// How long it took.
    pub took: Duration,
    /// What was wrong; `None` = it was good.
    pub fault: Option<Arc<str>>,
}

/// How many results in a row change the standing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Good ones, from unhealthy to healthy. 0 counts as 1.
    pub rise: u32,
    /// Bad ones, from healthy to unhealthy. 0 counts as 1.
    pub fall: u32,
}

/// How the results went lately; owned by the task that checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Course {
    /// Whether there was any.
    begun: bool,
    /// Results in a row that speak against the standing.
    against: u32,
}

impl Course {
    /// The standing that comes of one more result. The first one decides by itself: until then nothing is known, and
    /// after a change of what is checked what was known is of another check.
    fn judge(&mut self, before: Standing, rules: Rules, good: bool) -> Standing {
        let says = if good { Standing::Healthy } else { Standing::Unhealthy };
        let first = !std::mem::replace(&mut self.begun, true);
        if says == before {
            self.against = 0;
            return before;
        }
        self.against = self.against.saturating_add(1);
        let needed = if good { rules.rise } else { rules.fall };
        if first || before == Standing::Unknown || self.against >= needed {
            self.against = 0;
            return says;
        }
        before
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Rules = Rules { rise: 2, fall: 3 };

    fn at(micros: u64) -> Stamp {
        Stamp::from_micros(micros)
    }

    fn result(good: bool, now: u64) -> LastCheck {
        let fault = (!good).then(|| Arc::from("status 500"));
        LastCheck { at: at(now), took: Duration::from_millis(1), fault }
    }

    /// Gives the results, `+` or `-`, and shows the standing after each: `H` or `U`.
    fn course(rules: Rules, results: &str) -> String {
        let (health, mut course) = (HealthState::default(), Course::default());
        let mut stand = |result_: char| {
            health.take(&mut course, rules, result(result_ == '+', 7));
            match health.standing() {
                Standing::Unknown => '?',
                Standing::Healthy => 'H',
                Standing::Unhealthy => 'U',
            }
        };
        results.chars().map(&mut stand).collect()
    }

    #[test]
    fn the_first_result_decides_and_then_it_takes_rise_or_fall_in_a_row() {
        assert_eq!(course(RULES, "+--+---+-++"), "HHHHHHUUUUH");
        assert_eq!(course(RULES, "-+-++--+---"), "UUUUHHHHHHU");
        assert_eq!(course(Rules { rise: 1, fall: 1 }, "+-+-"), "HUHU");
        assert_eq!(course(Rules { rise: 0, fall: 0 }, "+-+-"), "HUHU", "as if it were 1");
    }

    #[test]
    fn unknown_serves_and_what_is_forgotten_is_unknown_again() {
        let (health, version) = (HealthState::default(), Arc::new(AtomicU64::new(0)));
        health.count_changes_in(&version);
        assert_eq!((health.standing_since(), health.serves()), ((Standing::Unknown, None), true));
        assert!(!health.forget(at(1)), "nothing was known");
        let mut course = Course::default();
        assert_eq!(health.take(&mut course, RULES, result(false, 5)), Some(Standing::Unhealthy));
        assert_eq!(health.standing_since(), (Standing::Unhealthy, Some(at(5))));
        assert_eq!(health.last(), Some(result(false, 5)));
        assert!(!health.serves());
        assert_eq!(health.take(&mut course, RULES, result(false, 6)), None);
        assert_eq!(health.standing_since(), (Standing::Unhealthy, Some(at(5))), "since the first");
        assert_eq!(version.load(Ordering::Relaxed), 1, "only changes count");
        assert!(health.forget(at(9)));
        assert_eq!(health.standing_since(), (Standing::Unknown, Some(at(9))));
        assert_eq!((health.last(), version.load(Ordering::Relaxed)), (None, 2));
    }

    #[test]
    fn the_first_result_of_another_check_decides() {
        let health = HealthState::default();
        health.take(&mut Course::default(), RULES, result(false, 1));
        assert_eq!(health.take(&mut Course::default(), RULES, result(true, 2)), Some(Standing::Healthy));
    }

    #[test]
    fn a_suspicion_is_taken_once() {
        let health = HealthState::default();
        assert!(!health.take_suspicion());
        health.suspect();
        health.suspect();
        assert!(health.take_suspicion() && !health.take_suspicion());
    }

    proptest! {
        /// The standing is that of the last run of results that was long enough.
        #[test]
        fn the_standing_is_what_the_last_long_enough_run_says(
            rise in 1_u32..5, fall in 1_u32..5, results in prop::collection::vec(any::<bool>(), 1..60),
        ) {
            let (health, mut course) = (HealthState::default(), Course::default());
            let (mut expected, mut run) = (results[0], 0);
            let mut previous = results[0];
            for (i, good) in results.into_iter().enumerate() {
                health.take(&mut course, Rules { rise, fall }, result(good, 3));
                run = if good == previous { run + 1 } else { 1 };
                previous = good;
                if i > 0 && run >= if good { rise } else { fall } {
                    expected = good;
                }
                prop_assert_eq!(health.serves(), expected);
            }
        }
    }
}
