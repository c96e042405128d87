mod random;
mod rules;
mod threads;

use std::time::Duration;

use super::*;

/// A breaker with a clock.
struct Rig {
    breaker: Breaker,
    settings: Settings,
    now: Stamp,
    rng: fastrand::Rng,
}

impl Rig {
    /// In automatic mode, with ten results as the least.
    fn new(edit: impl FnOnce(&mut Settings)) -> Self {
        Self::in_mode(BreakerMode::Auto, edit)
    }

    fn in_mode(mode: BreakerMode, edit: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings { min_requests: 10, ..Settings::default() };
        edit(&mut settings);
        let now = Stamp::from_micros(1_000_000_000);
        Self { breaker: Breaker::new(&settings, mode, now), settings, now, rng: fastrand::Rng::with_seed(11) }
    }

    fn wait(&mut self, span: Duration) {
        self.now = self.now.after(span);
    }

    fn admit(&mut self) -> Result<Permit, Refused> {
        self.breaker.admit(self.now, &mut self.rng)
    }

    fn end(&mut self, permit: Permit, verdict: Verdict) -> Option<Transition> {
        self.end_after(permit, verdict, Duration::from_millis(1))
    }

    fn end_after(&mut self, permit: Permit, verdict: Verdict, took: Duration) -> Option<Transition> {
        self.breaker.end(permit, verdict, took, self.now, &mut self.rng)
    }

    /// One request, which has to be admitted.
    fn send(&mut self, verdict: Verdict) -> Option<Transition> {
        let permit = self.admit().unwrap();
        self.end(permit, verdict)
    }

    fn send_many(&mut self, count: u32, verdict: Verdict) {
        for _ in 0..count {
            assert_eq!(self.send(verdict), None);
        }
    }

    fn shown(&self) -> Shown {
        self.breaker.shown(self.now)
    }

    fn edit(&mut self, mode: BreakerMode, edit: impl FnOnce(&mut Settings)) -> Option<Transition> {
        edit(&mut self.settings);
        self.breaker.configure(&self.settings, mode, self.now)
    }

    /// Ten failures.
    fn open(&mut self) -> Shown {
        self.send_many(9, Verdict::Failure);
        assert_eq!(self.send(Verdict::Failure), moved(State::Closed, State::Open, Cause::FailureRate));
        self.shown()
    }

    /// Waits until it may probe, and no longer.
    fn wait_open(&mut self) {
        self.now = self.shown().until.unwrap();
    }

    /// Opens, and waits until it may probe.
    fn half_open(&mut self) {
        self.open();
        self.wait_open();
    }

    /// How many of a thousand pass; none of them ends.
    fn pass_of_1000(&mut self) -> usize {
        (0..1000).filter(|_| self.admit().is_ok()).count()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "as it is compared with")]
fn moved(from: State, to: State, cause: Cause) -> Option<Transition> {
    Some(Transition { from, to, cause })
}
