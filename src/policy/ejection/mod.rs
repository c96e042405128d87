//! Ejection: an endpoint that fails while others do not is left alone for a while.
//!
//! ```text
//!        failures in a row, or failure rate           long enough
//!   in ────────────────────────────────────▶ out ──────────────────▶ one probe at a time
//!   ▲                                         ▲                        │      │
//!   │                                         └── failed: twice as long ┘      │
//!   └──────────────────────── good: the balancer starts it slowly ─────────────┘
//! ```
//!
//! Every change begins a new *era* of the endpoint. A result counts when the endpoint was in as its request started, and has
//! been since: the requests that hung when it was ejected and time out after it has come back say nothing new.
//!
//! Nobody is ejected when the upstream fails as a whole ([`Group`]), when too many are out already, or when it is the last.
//! The number of those who are out is one counter that is only changed by exchange, and each endpoint that is out has
//! exactly one of it: whoever moves an endpoint's word out of or into `in` moves the counter. It is raised before and lowered
//! after, so that it is never less than what is out.
//!
//! **Orderings.** Words, counters and windows are `SeqCst`: they are changed rarely, or are atomic changes that cost the same in
//! any order on x86. What is only shown is relaxed.

mod group;
mod tally;
mod word;

#[cfg(test)]
mod tests;

use std::{
    sync::atomic::{
        AtomicU8, AtomicU64,
        Ordering::{Acquire, Relaxed, SeqCst},
    },
    time::Duration,
};

use self::{
    tally::{Tally, Totals, at},
    word::{Parts, Place},
};
use super::{
    Stamp, Verdict,
    pause::{MOST_DOUBLINGS, middle, pause},
};
use crate::config::policy::{Ejection as Settings, EjectionState};

pub use group::Group;

/// Over how long results are counted.
pub const WINDOW: Duration = Duration::from_secs(10);

/// How long a probe may take. One that is not ended by then is forgotten and makes place for the next: one request in so
/// long harms nobody, and no endpoint stays out because of something that was never ended.
pub const PROBE_LEASE: Duration = Duration::from_secs(30);

/// An endpoint, as far as its own results go. Shared by all workers.
#[derive(Debug)]
pub struct Outlier {
    /// See [`Parts`].
    word: AtomicU64,
    /// Failures in a row: 32 bits of era, 32 bits of count.
    row: AtomicU64,
    /// What decides about it: the results of this era.
    results: Tally,
    /// Those of all eras: its part of what the group has.
    part: Tally,
    since: AtomicU64,
    cause: AtomicU8,
}

/// What ejection goes by besides the endpoint itself.
#[derive(Debug, Clone, Copy)]
pub struct Among<'a> {
    /// The others.
    pub group: &'a Group,
    /// The settings of now.
    pub settings: &'a Settings,
    /// How many endpoints there are, out or not.
    pub endpoints: u32,
}

/// What an endpoint was doing when a request to it started. Taken then with [`Outlier::era`] and given back with the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Era(u16);

/// Why an endpoint is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// So many failures in a row.
    Consecutive,
    /// Such a share of failures.
    FailureRate,
    /// Its probe failed.
    Probe,
}

impl Cause {
    /// As metrics and messages have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Consecutive => "consecutive",
            Self::FailureRate => "failure_rate",
            Self::Probe => "probe",
        }
    }
}

/// What a result has changed. There is exactly one for each change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is out, or out again.
    Ejected {
        /// Why.
        cause: Cause,
        /// Until when nothing is sent to it.
        until: Stamp,
    },
    /// It would be, if ejection did not only observe. What has been seen is forgotten, so that this is said once for each time.
    Observed(Cause),
    /// It is in again because a probe was good: to be started slowly.
    Returned,
    /// It is in again because it must not be out any more: ejection was turned off, or too many were out.
    Readmitted,
}

/// Where an endpoint stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// In rotation.
    In,
    /// Not, until then.
    Out {
        /// When a probe is due.
        until: Stamp,
    },
    /// Not, and the next request to it would be the probe.
    ProbeDue,
    /// Not, and the probe is on its way.
    Probing,
}

/// Leave to send one request to an endpoint that is out. To be given back with [`Outlier::end_probe`].
#[derive(Debug)]
#[must_use = "a probe is ended with the result of its request"]
pub struct Probe {
    era: u16,
}

/// How an endpoint stands, for `/upstreams`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Where.
    pub standing: Standing,
    /// Since when: in since it was there or came back; not in since it was first ejected, however many probes have failed.
    pub since: Stamp,
    /// Why it was ejected last.
    pub cause: Option<Cause>,
    /// How often its time out has been doubled, plus one; what of it good behaviour has not worn off yet.
    pub ejections: u8,
    /// Failures in a row.
    pub consecutive: u32,
    /// Results within the window.
    pub requests: u64,
    /// The failures among them.
    pub failures: u64,
}

impl Outlier {
    /// An endpoint that is in, and of which nothing is known.
    pub fn new(now: Stamp) -> Self {
        let parts = Parts { place: Place::In, ejections: 0, era: 0, moment: now };
        Self {
            word: AtomicU64::new(parts.word()),
            row: AtomicU64::new(0),
            results: Tally::default(),
            part: Tally::default(),
            since: AtomicU64::new(now.as_micros()),
            cause: AtomicU8::new(0),
        }
    }

    /// What it is doing now, for the result of a request that starts now.
    pub fn era(&self) -> Era {
        Era(self.parts().era)
    }

    /// Where it stands: one load.
    pub fn standing(&self, now: Stamp) -> Standing {
        let parts = self.parts();
        match parts.place {
            Place::In | Place::Left => Standing::In,
            Place::Out if now < parts.moment => Standing::Out { until: parts.moment },
            Place::Probing if now < parts.moment => Standing::Probing,
            Place::Out | Place::Probing => Standing::ProbeDue,
        }
    }

    /// When it wants a probe, or another one should the one that is on its way be lost; `None` = it is in.
    pub fn next_probe(&self) -> Option<Stamp> {
        let parts = self.parts();
        matches!(parts.place, Place::Out | Place::Probing).then_some(parts.moment)
    }

    /// Takes the result of a request that was not a probe and started in that era.
    pub fn record(
        &self,
        among: &Among<'_>,
        era: Era,
        verdict: Verdict,
        now: Stamp,
        rng: &mut fastrand::Rng,
    ) -> Option<Change> {
        let parts = self.parts();
        if parts.era != era.0 || parts.place != Place::In || verdict == Verdict::Neither {
            return None;
        }
        let failure = verdict == Verdict::Failure;
        let moment = at(0, now);
        among.group.record(failure, moment);
        self.part.add(moment, failure);
        self.results.add(moment.in_epoch(era.0), failure);
        let row = self.count_row(era.0, failure);
        if among.settings.state == EjectionState::Off {
            return None;
        }
        let cause = self.reason(among.settings, row, era.0, now)?;
        if among.group.fails_together(self.part.of(moment), moment) {
            return None;
        }
        self.eject(among, era.0, cause, now, rng)
    }

    /// Takes leave to send the one probe, when it is time for it.
    pub fn try_probe(&self, now: Stamp) -> Option<Probe> {
        self.try_probe_within(PROBE_LEASE, now)
    }

    /// The same for a request that will have its answer within `lease`.
    pub fn try_probe_within(&self, lease: Duration, now: Stamp) -> Option<Probe> {
        let parts = self.parts();
        let due = matches!(parts.place, Place::Out | Place::Probing) && parts.moment <= now;
        let next = parts.moved(Place::Probing, now.after(lease));
        (due && self.swap(parts, next)).then_some(Probe { era: next.era })
    }

    /// Takes the result of a probe: good, and it is in again; bad, and it is out for twice as long; neither, and the next
    /// request may be the probe. One that was forgotten in the meantime counts for nothing.
    #[expect(clippy::needless_pass_by_value, reason = "a probe ends once")]
    pub fn end_probe(
        &self,
        probe: Probe,
        among: &Among<'_>,
        verdict: Verdict,
        now: Stamp,
        rng: &mut fastrand::Rng,
    ) -> Option<Change> {
        let parts = self.parts();
        if parts.era != probe.era || parts.place != Place::Probing {
            return None;
        }
        match verdict {
            Verdict::Neither => {
                self.swap(parts, parts.moved(Place::Out, now));
                None
            }
            Verdict::Success => self.bring_back(parts, among.group, now).then_some(Change::Returned),
            Verdict::Failure if among.settings.state != EjectionState::On => {
                self.bring_back(parts, among.group, now).then_some(Change::Readmitted)
            }
            Verdict::Failure => {
                let until = now.after(pause(
                    among.settings.base,
                    among.settings.max,
                    parts.ejections.min(MOST_DOUBLINGS),
                    rng,
                ));
                let next = Parts { ejections: parts.ejections.saturating_add(1), ..parts };
                if !self.swap(parts, next.moved(Place::Out, until)) {
                    return None;
                }
                self.cause.store(code(Cause::Probe), Relaxed);
                Some(Change::Ejected { cause: Cause::Probe, until: cut(until) })
            }
        }
    }

    /// Whether it may still be out, with what is so now. To be asked of every endpoint when the settings change or the number
    /// of endpoints falls: those who are out when ejection is not on any more, or beyond the share, are in again.
    /// One that is out is never out for longer than the `max` of now.
    pub fn review(&self, among: &Among<'_>, now: Stamp) -> Option<Change> {
        loop {
            let parts = self.parts();
            if !matches!(parts.place, Place::Out | Place::Probing) {
                return None;
            }
            let acts = among.settings.state == EjectionState::On;
            if !acts || among.group.exceeds(among.settings, among.endpoints) {
                if self.bring_back(parts, among.group, now) {
                    return Some(Change::Readmitted);
                }
                continue;
            }
            let most = now.after(among.settings.max);
            if parts.place == Place::Probing || parts.moment <= most {
                return None;
            }
            if self.swap(parts, Parts { moment: most, ..parts }) {
                return None;
            }
        }
    }

    /// It is no endpoint of the group any more. Nothing that still comes of it counts. Does nothing the second time.
    pub fn leave(&self, group: &Group) {
        loop {
            let parts = self.parts();
            if parts.place == Place::Left {
                return;
            }
            if self.swap(parts, parts.moved(Place::Left, parts.moment)) {
                if parts.place != Place::In {
                    group.release();
                }
                return;
            }
        }
    }

    /// It is one again, as if it were new.
    pub fn join(&self, now: Stamp) {
        let parts = self.parts();
        let fresh = Parts { ejections: 0, ..parts.moved(Place::In, now) };
        if parts.place == Place::Left && self.swap(parts, fresh) {
            self.since.store(now.as_micros(), Relaxed);
            self.cause.store(0, Relaxed);
        }
    }

    /// How it stands.
    pub fn shown(&self, settings: &Settings, now: Stamp) -> Shown {
        let parts = self.parts();
        let row = self.row.load(SeqCst);
        let seen = self.results.of(at(parts.era, now));
        Shown {
            standing: self.standing(now),
            since: Stamp::from_micros(self.since.load(Relaxed)),
            cause: of_code(self.cause.load(Relaxed)),
            ejections: if parts.place == Place::In {
                worn_off(parts.ejections, now.since(parts.moment), settings)
            } else {
                parts.ejections
            },
            consecutive: if row >> 32 == u64::from(parts.era) { low(row) } else { 0 },
            requests: seen.requests,
            failures: seen.failures,
        }
    }

    /// Counts failures in a row, and says how many there are.
    fn count_row(&self, era: u16, failure: bool) -> u32 {
        let fresh = u64::from(era) << 32;
        let mut seen = self.row.load(SeqCst);
        loop {
            let before = if seen >> 32 == u64::from(era) { low(seen) } else { 0 };
            let count = if failure { before.saturating_add(1) } else { 0 };
            if count == before {
                return count;
            }
            match self.row.compare_exchange_weak(seen, fresh | u64::from(count), SeqCst, SeqCst) {
                Ok(_) => return count,
                Err(now) => seen = now,
            }
        }
    }

    fn reason(&self, settings: &Settings, row: u32, era: u16, now: Stamp) -> Option<Cause> {
        if settings.consecutive > 0 && row >= settings.consecutive {
            return Some(Cause::Consecutive);
        }
        let rate = settings.failure_rate?;
        if self.results.is_quiet(at(era, now)) {
            return None;
        }
        let seen = self.results.of(at(era, now));
        let reached = seen.failures > 0
            && seen.requests >= u64::from(settings.min_requests)
            && rate.is_reached_by(seen.failures, seen.requests);
        reached.then_some(Cause::FailureRate)
    }

    fn eject(
        &self,
        among: &Among<'_>,
        era: u16,
        cause: Cause,
        now: Stamp,
        rng: &mut fastrand::Rng,
    ) -> Option<Change> {
        let (settings, group) = (among.settings, among.group);
        let parts = self.parts();
        if parts.era != era || parts.place != Place::In || group::limit(settings, among.endpoints) == 0 {
            return None;
        }
        if settings.state == EjectionState::Observe {
            // A new era, which is as old as this one: nothing has happened to the endpoint.
            return self.swap(parts, parts.moved(Place::In, parts.moment)).then_some(Change::Observed(cause));
        }
        if !group.reserve(settings, among.endpoints) {
            return None;
        }
        let ejections = worn_off(parts.ejections, now.since(parts.moment), settings);
        let until = now.after(pause(settings.base, settings.max, ejections, rng));
        let next = Parts { ejections: ejections.saturating_add(1), ..parts }.moved(Place::Out, until);
        if !self.swap(parts, next) {
            group.release();
            return None;
        }
        self.since.store(now.as_micros(), Relaxed);
        self.cause.store(code(cause), Relaxed);
        Some(Change::Ejected { cause, until: cut(until) })
    }

    fn bring_back(&self, parts: Parts, group: &Group, now: Stamp) -> bool {
        let moved = self.swap(parts, parts.moved(Place::In, now));
        if moved {
            group.release();
            self.since.store(now.as_micros(), Relaxed);
        }
        moved
    }

    fn parts(&self) -> Parts {
        Parts::of(self.word.load(Acquire))
    }

    fn swap(&self, from: Parts, to: Parts) -> bool {
        self.word.compare_exchange(from.word(), to.word(), SeqCst, Relaxed).is_ok()
    }
}

/// How many ejections still count after so long in rotation: one falls off for each time as long as it would be out
/// next, and no faster than one in each [`WINDOW`]. So what was out for a minute has to be good for a minute.
fn worn_off(mut ejections: u8, mut good: Duration, settings: &Settings) -> u8 {
    while ejections > 0 {
        let span = middle(settings.base, settings.max, ejections).max(WINDOW);
        let Some(rest) = good.checked_sub(span) else { break };
        good = rest;
        ejections -= 1;
    }
    ejections
}

/// As it is kept.
fn cut(moment: Stamp) -> Stamp {
    Stamp::from_micros(moment.as_micros() / 1000 * 1000)
}

fn low(word: u64) -> u32 {
    u32::try_from(word & 0xffff_ffff).unwrap_or(0)
}

const fn code(cause: Cause) -> u8 {
    match cause {
        Cause::Consecutive => 1,
        Cause::FailureRate => 2,
        Cause::Probe => 3,
    }
}

const fn of_code(code: u8) -> Option<Cause> {
    match code {
        1 => Some(Cause::Consecutive),
        2 => Some(Cause::FailureRate),
        3 => Some(Cause::Probe),
        _ => None,
    }
}
