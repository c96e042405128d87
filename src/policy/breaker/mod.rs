//! The circuit breaker: stops sending requests to what does not answer them.
//!
//! ```text
//!             failures or slow answers ≥ rate              open long enough
//!   closed ─────────────────────────────────────▶ open ────────────────────▶ half-open
//!     ▲                                             ▲                        │      │
//!     │                                             └──── a probe failed ────┘      │
//!     └────────── all the probes were good: 10 % to 100 % over the ramp ────────────┘
//! ```
//!
//! Every change of state begins a new *generation*, and a result counts only for the generation in which its request
//! began: what was on its way when the breaker opened neither opens it again nor closes it.
//!
//! **Nothing waits, nothing is cleared.** Mode, state, generation and the time that goes with them are one word, which is
//! changed by compare-and-exchange; whoever wins the exchange is the one who reports the change. Everybody else either sees
//! the old word or the new one. Windows and probes' places carry the generation that they are about.
//!
//! **Orderings.** The word is read with `Acquire` and changed with `AcqRel`: it publishes nothing but itself, but who sees a
//! new generation must not find the settings from before. Windows and places are `SeqCst`, as they say. What is only shown
//! (`since`, `cause`, what was seen when it opened) is relaxed, and may be of the change before for the blink of an eye.

mod leases;
mod plan;
mod word;
mod words;

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicU8, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    time::Duration,
};

use arc_swap::ArcSwap;

use self::{
    leases::{Lease, Leases},
    plan::{Memo, Plan, probes, share, window},
    word::{Machine, Parts, Word},
    words::Hold,
};
use super::{
    Stamp, Verdict,
    pause::pause,
    window::{Outcome, Totals, Window},
};
use crate::config::policy::{Breaker as Settings, BreakerMode, BreakerWindow, Percent};

pub use words::{Cause, Permit, Refused, Shown, State, Transition, Why};

/// How long a probe may take until it counts as failed, unless the caller says otherwise: twice the default timeout of a
/// route.
pub const PROBE_LEASE: Duration = Duration::from_secs(30);

/// What is refused for the moment only is told to come back after this long.
const SOON: Duration = Duration::from_secs(1);

/// The breaker of an upstream, or of a route's use of it. Shared by all workers; see the module.
#[derive(Debug)]
pub struct Breaker {
    word: AtomicU64,
    plan: ArcSwap<Plan>,
    leases: Leases,
    memo: Memo,
}

impl Breaker {
    /// A closed breaker that has seen nothing. `mode` is in place of the settings' own, which may leave it open.
    pub fn new(settings: &Settings, mode: BreakerMode, now: Stamp) -> Self {
        let leases = Leases::default();
        leases.grow(probes(settings));
        let parts =
            Parts { mode, machine: Machine::Closed, openings: 0, generation: 0, moment: Stamp::FIRST };
        Self {
            word: AtomicU64::new(parts.word().0),
            plan: ArcSwap::from_pointee(Plan {
                settings: settings.clone(),
                window: Arc::new(window(settings.window)),
            }),
            leases,
            memo: Memo {
                since: AtomicU64::new(now.as_micros()),
                cause: AtomicU8::new(0),
                requests: AtomicU64::new(0),
                failures: AtomicU64::new(0),
                slow: AtomicU64::new(0),
            },
        }
    }

    /// Takes other settings, and keeps its state and what it has seen. New rates are compared at the next result; a new
    /// window begins with what the one before had seen; it is open for no longer than the new `max_open` from now.
    ///
    /// A mode that is set by hand leaves the machine as it is. Only a half-open one goes back to open, and done with
    /// waiting: nobody would end its probes. Back in `auto` it probes anew.
    ///
    /// For one caller at a time.
    pub fn configure(&self, settings: &Settings, mode: BreakerMode, now: Stamp) -> Option<Transition> {
        let before = self.plan.load_full();
        let kept = if before.settings.window == settings.window {
            Arc::clone(&before.window)
        } else {
            let fresh = window(settings.window);
            let epoch = self.now_is().generation();
            fresh.seed(epoch, before.window.totals(epoch, now), now);
            Arc::new(fresh)
        };
        self.leases.grow(probes(settings));
        self.plan.store(Arc::new(Plan { settings: settings.clone(), window: kept }));
        loop {
            let word = self.now_is();
            let mut next = Parts { mode, ..word.parts() };
            let interrupted = next.machine == Machine::HalfOpen && !next.runs();
            if interrupted {
                next = next.moved(Machine::Open, now);
            } else if next.machine == Machine::Open {
                next.moment = next.moment.min(now.after(settings.max_open));
            }
            if self.swap(word, next) {
                return interrupted
                    .then(|| self.note(Machine::HalfOpen, Machine::Open, Cause::Interrupted, now));
            }
        }
    }

    /// Asks for leave to send a request; see [`Self::admit_within`]. A probe has [`PROBE_LEASE`].
    ///
    /// # Errors
    ///
    /// [`Refused`] while it is open, half-open with all the probes on their way, forced open, or, by chance, while it ramps.
    pub fn admit(&self, now: Stamp, rng: &mut fastrand::Rng) -> Result<Permit, Refused> {
        self.admit_within(PROBE_LEASE, now, rng)
    }

    /// Asks for leave to send a request that will have its answer within `lease`. A probe that is not ended by then counts
    /// as failed: silence is what a dependency that hangs answers with, and what somebody forgot to end must not keep the
    /// breaker half-open for ever. It costs one more time of being open, so what hangs gets `half_open` requests in each of
    /// these times and never more. Routes with a long timeout should say so, with room to spare.
    ///
    /// # Errors
    ///
    /// As [`Self::admit`].
    pub fn admit_within(
        &self,
        lease: Duration,
        now: Stamp,
        rng: &mut fastrand::Rng,
    ) -> Result<Permit, Refused> {
        let word = self.now_is();
        if word.is_plainly_closed() {
            return Ok(permit(word.generation(), Hold::Window));
        }
        self.admit_slowly(lease, now, rng)
    }

    /// Takes the result of a request: what it says, and how long its answer's head took. What says nothing counts for nothing,
    /// and a probe that says nothing makes place for another.
    pub fn end(
        &self,
        permit: Permit,
        verdict: Verdict,
        took: Duration,
        now: Stamp,
        rng: &mut fastrand::Rng,
    ) -> Option<Transition> {
        match permit.hold {
            Hold::Nothing => None,
            Hold::Window => self.end_counted(permit.generation, verdict, took, now, rng),
            Hold::Probe(lease) => {
                if self.now_is().generation() != permit.generation {
                    return None;
                }
                let plan = self.plan.load();
                match verdict {
                    Verdict::Neither => {
                        self.leases.release(&lease);
                        None
                    }
                    Verdict::Success | Verdict::Failure if lease.deadline() <= now => {
                        let lost = (Cause::ProbeLost, lease.deadline());
                        self.reopen(permit.generation, lost, &plan.settings, now, rng)
                    }
                    Verdict::Success if !plan.is_slow(took) => {
                        if !self.leases.pass(&lease) {
                            return None;
                        }
                        self.close_if_passed(permit.generation, &plan.settings, now)
                    }
                    Verdict::Success | Verdict::Failure => {
                        self.reopen(permit.generation, (Cause::ProbeFailed, now), &plan.settings, now, rng)
                    }
                }
            }
        }
    }

    /// How it stands.
    pub fn shown(&self, now: Stamp) -> Shown {
        let parts = self.now_is().parts();
        let plan = self.plan.load();
        let (state, share, until) = match parts.machine {
            Machine::Closed => (State::Closed, Percent::ALL, None),
            Machine::Ramping => {
                let share = share(parts.moment, plan.settings.ramp, now);
                let until = (share < Percent::ALL).then(|| parts.moment.after(plan.settings.ramp));
                (State::Closed, share, until)
            }
            Machine::Open if now < parts.moment => (State::Open, Percent::new(0), Some(parts.moment)),
            Machine::Open | Machine::HalfOpen => (State::HalfOpen, Percent::new(0), None),
        };
        let waited = parts.machine == Machine::Open && state == State::HalfOpen;
        let probes = match parts.machine {
            Machine::HalfOpen => self.leases.count(parts.generation, 0, now),
            _ => leases::Count::default(),
        };
        let forced = parts.mode == BreakerMode::Closed;
        let seen = if state == State::Closed || forced {
            plan.window.totals(parts.generation, now)
        } else {
            self.memo.seen()
        };
        Shown {
            mode: parts.mode,
            state,
            cause: if waited { Some(Cause::Waited) } else { Cause::of_code(self.memo.cause.load(Relaxed)) },
            since: if waited { parts.moment } else { Stamp::from_micros(self.memo.since.load(Relaxed)) },
            until,
            share,
            openings: if state == State::Closed && share == Percent::ALL { 0 } else { parts.openings },
            probes_out: probes.out + probes.lost,
            probes_good: probes.good,
            requests: seen.requests,
            failures: seen.failures,
            slow: seen.slow,
        }
    }

    /// Every case but the plain one.
    #[cold]
    fn admit_slowly(&self, lease: Duration, now: Stamp, rng: &mut fastrand::Rng) -> Result<Permit, Refused> {
        let plan = self.plan.load();
        let mut transition = None;
        // Every turn but the last was lost to a change that somebody else made, or was such a change itself.
        loop {
            let word = self.now_is();
            let parts = word.parts();
            let generation = parts.generation;
            match (parts.mode, parts.machine) {
                (BreakerMode::Off, _) => return Ok(permit(generation, Hold::Nothing)),
                (BreakerMode::Open, _) => {
                    return Err(Refused {
                        retry_after: plan.settings.open_for,
                        why: Why::Forced,
                        transition,
                    });
                }
                (BreakerMode::Closed, _) | (_, Machine::Closed) => {
                    return Ok(Permit { transition, ..permit(generation, Hold::Window) });
                }
                (_, Machine::Ramping) => {
                    let share = share(parts.moment, plan.settings.ramp, now);
                    if share == Percent::ALL {
                        // The same generation: what was seen on the ramp stays. Whether or not somebody else was faster:
                        let full = Parts { machine: Machine::Closed, openings: 0, ..parts };
                        self.swap(word, full);
                    } else if rng.u16(..Percent::ALL.points()) >= share.points() {
                        return refuse(parts, SOON, Why::Ramping, transition);
                    }
                    return Ok(Permit { transition, ..permit(generation, Hold::Window) });
                }
                (_, Machine::Open) if now < parts.moment => {
                    return refuse(parts, parts.moment.since(now), Why::Open, transition);
                }
                (_, Machine::Open) => {
                    if self.swap(word, parts.moved(Machine::HalfOpen, now)) {
                        transition = Some(self.note(Machine::Open, Machine::HalfOpen, Cause::Waited, now));
                    }
                }
                (_, Machine::HalfOpen) => match self.probe(word, lease, &plan.settings, now, rng) {
                    Probed::Taken(lease) => {
                        return Ok(Permit { transition, ..permit(generation, Hold::Probe(lease)) });
                    }
                    Probed::NoneLeft => return refuse(parts, SOON, Why::Probing, transition),
                    Probed::Moved(moved) => transition = moved.or(transition),
                },
            }
        }
    }

    /// Takes a place among the probes, if there is one.
    fn probe(
        &self,
        word: Word,
        lease: Duration,
        settings: &Settings,
        now: Stamp,
        rng: &mut fastrand::Rng,
    ) -> Probed {
        let (generation, size) = (word.generation(), probes(settings));
        let count = self.leases.count(generation, size, now);
        if let Some(lost) = count.lost_at {
            // As of then: when nobody has asked since, the time to wait has passed too.
            return Probed::Moved(self.reopen(generation, (Cause::ProbeLost, lost), settings, now, rng));
        }
        if count.good >= size {
            // Fewer are wanted than when they were sent.
            return Probed::Moved(self.close_if_passed(generation, settings, now));
        }
        if count.good + count.out >= size {
            return Probed::NoneLeft;
        }
        let Some(lease) = self.leases.take(count, generation, now.after(lease)) else {
            return Probed::Moved(None);
        };
        // Whoever took it as the state changed is no probe of the new one.
        if self.now_is().generation() != generation {
            self.leases.release(&lease);
            return Probed::Moved(None);
        }
        Probed::Taken(lease)
    }

    fn end_counted(
        &self,
        generation: u16,
        verdict: Verdict,
        took: Duration,
        now: Stamp,
        rng: &mut fastrand::Rng,
    ) -> Option<Transition> {
        let word = self.now_is();
        if word.generation() != generation || verdict == Verdict::Neither {
            return None;
        }
        let plan = self.plan.load();
        let outcome = Outcome { failure: verdict == Verdict::Failure, slow: plan.is_slow(took) };
        plan.window.record(generation, outcome, now);
        if plan.window.is_quiet(generation, now) {
            return None;
        }
        let seen = plan.window.totals(generation, now);
        let cause = plan.reason_to_open(seen)?;
        self.open(generation, cause, seen, &plan.settings, now, rng)
    }

    /// Opens, if it is still the one whose results these are.
    fn open(
        &self,
        generation: u16,
        cause: Cause,
        seen: Totals,
        settings: &Settings,
        now: Stamp,
        rng: &mut fastrand::Rng,
    ) -> Option<Transition> {
        loop {
            let word = self.now_is();
            let mut parts = word.parts();
            let closed = matches!(parts.machine, Machine::Closed | Machine::Ramping);
            if parts.generation != generation || !closed || !parts.runs() {
                return None;
            }
            if parts.machine == Machine::Ramping && share(parts.moment, settings.ramp, now) == Percent::ALL {
                parts.openings = 0;
            }
            let until = now.after(pause(settings.open_for, settings.max_open, parts.openings, rng));
            let next =
                Parts { openings: parts.openings.saturating_add(1), ..parts }.moved(Machine::Open, until);
            if self.swap(word, next) {
                self.memo.see(seen);
                return Some(self.note(parts.machine, Machine::Open, cause, now));
            }
        }
    }

    /// Opens again, for twice as long, as of the moment when it failed. When that long has passed already, it is half-open
    /// at once, with nobody's leave to probe.
    fn reopen(
        &self,
        generation: u16,
        (cause, failed): (Cause, Stamp),
        settings: &Settings,
        now: Stamp,
        rng: &mut fastrand::Rng,
    ) -> Option<Transition> {
        loop {
            let word = self.now_is();
            let parts = word.parts();
            if parts.generation != generation || parts.machine != Machine::HalfOpen {
                return None;
            }
            let until = failed.after(pause(settings.open_for, settings.max_open, parts.openings, rng));
            let to = if until <= now { Machine::HalfOpen } else { Machine::Open };
            let next = Parts { openings: parts.openings.saturating_add(1), ..parts }.moved(to, until);
            if self.swap(word, next) {
                return Some(self.note(Machine::HalfOpen, to, cause, now));
            }
        }
    }

    /// Closes, when as many probes as are wanted were good.
    fn close_if_passed(&self, generation: u16, settings: &Settings, now: Stamp) -> Option<Transition> {
        loop {
            let word = self.now_is();
            let parts = word.parts();
            if parts.generation != generation || parts.machine != Machine::HalfOpen {
                return None;
            }
            if self.leases.count(generation, 0, now).good < probes(settings) {
                return None;
            }
            let next = if settings.ramp.is_zero() {
                Parts { openings: 0, ..parts.moved(Machine::Closed, now) }
            } else {
                parts.moved(Machine::Ramping, now)
            };
            if self.swap(word, next) {
                return Some(self.note(Machine::HalfOpen, next.machine, Cause::ProbesPassed, now));
            }
        }
    }

    fn now_is(&self) -> Word {
        Word(self.word.load(Acquire))
    }

    fn swap(&self, from: Word, to: Parts) -> bool {
        self.word.compare_exchange(from.0, to.word().0, AcqRel, Relaxed).is_ok()
    }

    /// Notes a change that was made, for those who look at it.
    fn note(&self, from: Machine, to: Machine, cause: Cause, now: Stamp) -> Transition {
        self.memo.since.store(now.as_micros(), Relaxed);
        self.memo.cause.store(cause.code(), Relaxed);
        Transition { from: state(from), to: state(to), cause }
    }
}

/// What came of asking for a place among the probes.
enum Probed {
    /// It has one.
    Taken(Lease),
    /// All are on their way.
    NoneLeft,
    /// The state changed; here, or elsewhere. To be asked again.
    Moved(Option<Transition>),
}

fn permit(generation: u16, hold: Hold) -> Permit {
    Permit { generation, would_refuse: false, transition: None, hold }
}

/// Refuses, or only says so.
fn refuse(
    parts: Parts,
    retry_after: Duration,
    why: Why,
    transition: Option<Transition>,
) -> Result<Permit, Refused> {
    if parts.mode == BreakerMode::Observe {
        Ok(Permit { would_refuse: true, transition, ..permit(parts.generation, Hold::Nothing) })
    } else {
        Err(Refused { retry_after, why, transition })
    }
}

fn state(machine: Machine) -> State {
    match machine {
        Machine::Closed | Machine::Ramping => State::Closed,
        Machine::Open => State::Open,
        Machine::HalfOpen => State::HalfOpen,
    }
}
