//! What an endpoint was seen to need.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{config::policy::Balancing, policy::Stamp};

/// No estimate is below this (1 µs, in seconds): what is in flight has to count with those, too, that have long been
/// idle.
const LEAST: f32 = 1e-6;

/// How far back a moment may be and still be taken as one from another thread, not as one that is weeks ahead, in
/// milliseconds.
const BACKWARD: u32 = 60_000;

/// An endpoint that has something to prove is asked after so long.
const PROOF: Duration = Duration::from_secs(1);

/// One that has just begun to fail is asked sooner, for as long as [`PROOF`], so that ejection sees within a second
/// whether it was a single failure.
const FIRST_PROOF: Duration = Duration::from_millis(100);

/// Who begins to fail again before this is over has not just begun: it flaps.
const FLAPS: Duration = Duration::from_secs(10);

/// What estimates go by: the settings of a balancer, ready for reckoning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terms {
    /// The part of an estimate's exponent that one millisecond is.
    per_milli: f32,
    /// In seconds.
    first: f32,
    /// In seconds.
    failure: f32,
}

impl Terms {
    /// Those of these settings.
    pub fn of(balancing: &Balancing) -> Self {
        Self {
            // The shortest decay that means anything here is the resolution of the moments.
            per_milli: -0.001 / balancing.decay.max(Duration::from_millis(1)).as_secs_f32(),
            first: seconds(balancing.first_estimate),
            failure: seconds(balancing.failure_cost),
        }
    }
}

/// What one endpoint is taken to need for an answer: a peak EWMA, as in Finagle and Linkerd.
///
/// A sample above the estimate replaces it at once; a lower one draws it down by `exp(-dt / decay)`; and without
/// samples it falls towards nothing at the same rate, so that an endpoint that was slow once is tried again. What is
/// in flight is not in it; see [`Rota::pick`](super::Rota::pick).
///
/// Two things are not as there. The first answer replaces the first estimate, which is a guess. And a failure counts as
/// an answer that took the `failure_cost`, and leaves the endpoint with something to *prove*: it is offered one
/// request a second (and up to nine in the first one), whatever it costs ([`Self::claim`]), and the first answer to a request that began after the failure
/// ends the matter, with the time that it took as the estimate. Answers to older ones do not: they were on their way
/// while it still worked.
///
/// Shared by all workers, lock-free and relaxed: of two samples at the same instant one may be lost, none is ever
/// seen in half.
#[derive(Debug, Default)]
pub struct Latency {
    /// See [`State`].
    state: AtomicU64,
    /// When it last failed, in microseconds; 0 = never.
    failed: AtomicU64,
    /// When it was last asked for its proof, in microseconds; 0 = never.
    asked: AtomicU64,
    /// When it began to fail, in microseconds; 0 = it never did.
    fails_since: AtomicU64,
}

/// What is known, in 64 bits so that it changes in one piece: above the estimate, in seconds, negative while there is
/// something to prove; below the moment that it is from, in milliseconds.
///
/// That moment wraps after 49 days. The estimate of an endpoint that was idle for just so long has fallen less than it
/// should have: which is soon mended, and better than a wider field.
#[derive(Debug, Clone, Copy)]
enum State {
    /// There was no answer yet: 0.
    Unmeasured,
    /// There was.
    Measured { estimate: f32, at: u32, penalised: bool },
}

impl Latency {
    /// An answer came that took so long; not for failures.
    pub fn sample(&self, took: Duration, now: Stamp, terms: &Terms) {
        let sample = seconds(took);
        let began = now.as_micros().saturating_sub(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        self.update(|state| match state {
            State::Unmeasured => State::Measured { estimate: sample, at: millis(now), penalised: false },
            State::Measured { penalised: true, .. } if began >= self.failed.load(Ordering::Relaxed) => {
                State::Measured { estimate: sample, at: millis(now), penalised: false }
            }
            State::Measured { estimate, at, penalised } => {
                let rest = rest(at, now, terms);
                let fallen = estimate * rest;
                let estimate = if sample >= fallen { sample } else { fallen + sample * (1.0 - rest) };
                State::Measured { estimate, at: later(at, now), penalised }
            }
        });
    }

    /// A request failed after so long. That counts as the failure's cost, or as the time when that was longer.
    pub fn fail(&self, took: Duration, now: Stamp, terms: &Terms) {
        if !self.is_penalised() {
            let since = self.fails_since.load(Ordering::Relaxed);
            if since == 0 || now.since(Stamp::from_micros(since)) >= FLAPS {
                self.fails_since.store(now.as_micros(), Ordering::Relaxed);
            }
        }
        self.failed.fetch_max(now.as_micros(), Ordering::Relaxed);
        let cost = terms.failure.max(seconds(took));
        self.update(|state| match state {
            State::Unmeasured => State::Measured { estimate: cost, at: millis(now), penalised: true },
            State::Measured { estimate, at, .. } => State::Measured {
                estimate: cost.max(estimate * rest(at, now, terms)),
                at: later(at, now),
                penalised: true,
            },
        });
    }

    /// Sets the estimate, and takes everything as proven: a probe was passed. See [`median`].
    pub fn set(&self, estimate: Duration, now: Stamp) {
        self.update(|_| State::Measured { estimate: seconds(estimate), at: millis(now), penalised: false });
    }

    /// The estimate as it is now.
    pub fn estimate(&self, now: Stamp, terms: &Terms) -> Duration {
        Duration::try_from_secs_f32(self.read(now, terms).0).unwrap_or(Duration::MAX)
    }

    /// Whether it failed, and has not answered since.
    pub fn is_penalised(&self) -> bool {
        matches!(self.state(), State::Measured { penalised: true, .. })
    }

    /// Whether it has answered or failed at all, or was [set](Self::set).
    pub fn is_measured(&self) -> bool {
        matches!(self.state(), State::Measured { .. })
    }

    /// Takes the request that it is offered while it has something to prove: `true` for one caller, who has to send it a
    /// request now.
    pub fn claim(&self, now: Stamp) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        let last = self.last(asked);
        let due = last == 0 || now.since(Stamp::from_micros(last)) >= self.pace(last);
        due && self
            .asked
            .compare_exchange(asked, now.as_micros(), Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Whether it has begun to fail so lately that it is asked more often than once a second.
    pub fn is_suspect(&self) -> bool {
        let last = self.last(self.asked.load(Ordering::Relaxed));
        self.is_penalised() && self.pace(last) < PROOF
    }

    /// When it was last heard of, or asked.
    fn last(&self, asked: u64) -> u64 {
        asked.max(self.failed.load(Ordering::Relaxed))
    }

    /// How long after `last` it is asked.
    fn pace(&self, last: u64) -> Duration {
        let since = self.fails_since.load(Ordering::Relaxed);
        let just_begun = since > 0 && Duration::from_micros(last.saturating_sub(since)) < PROOF;
        if just_begun { FIRST_PROOF } else { PROOF }
    }

    /// The estimate in seconds, and whether there is something to prove: it failed, or never answered.
    pub(super) fn read(&self, now: Stamp, terms: &Terms) -> (f32, bool) {
        match self.state() {
            State::Unmeasured => (terms.first, true),
            State::Measured { estimate, at, penalised } => {
                ((estimate * rest(at, now, terms)).max(LEAST), penalised)
            }
        }
    }

    fn state(&self) -> State {
        State::from_bits(self.state.load(Ordering::Relaxed))
    }

    fn update(&self, change: impl Fn(State) -> State) {
        let changed = |bits| Some(change(State::from_bits(bits)).into_bits());
        // Never an error: there always is a next state.
        let _ = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
    }
}

impl State {
    fn from_bits(bits: u64) -> Self {
        if bits == 0 {
            return Self::Unmeasured;
        }
        let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(0);
        let estimate = f32::from_bits(half(bits >> 32));
        Self::Measured { estimate: estimate.abs(), at: half(bits), penalised: estimate.is_sign_negative() }
    }

    fn into_bits(self) -> u64 {
        match self {
            Self::Unmeasured => 0,
            Self::Measured { estimate, at, penalised } => {
                let estimate = estimate.max(LEAST);
                let signed = if penalised { -estimate } else { estimate };
                u64::from(signed.to_bits()) << 32 | u64::from(at)
            }
        }
    }
}

/// The middle one of the estimates of those that have answered and have nothing to prove; of an even number the lower
/// of the two in the middle. `None` when there are none.
pub fn median<'a>(peers: impl Iterator<Item = &'a Latency>, now: Stamp, terms: &Terms) -> Option<Duration> {
    let proven =
        |peer: &Latency| (peer.is_measured() && !peer.is_penalised()).then(|| peer.estimate(now, terms));
    let mut estimates: Vec<_> = peers.filter_map(proven).collect();
    estimates.sort_unstable();
    estimates.get(estimates.len().saturating_sub(1) / 2).copied()
}

/// What is left of an estimate of that moment now, as a part of 1.
fn rest(at: u32, now: Stamp, terms: &Terms) -> f32 {
    let since = millis(now).wrapping_sub(at);
    if since == 0 || since > u32::MAX - BACKWARD {
        return 1.0;
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "a part of 2^24 is exact enough for a time in milliseconds"
    )]
    let since = since as f32;
    (since * terms.per_milli).exp()
}

/// The later of the two moments, where only another thread can be ahead.
fn later(at: u32, now: Stamp) -> u32 {
    let now = millis(now);
    if now.wrapping_sub(at) > u32::MAX - BACKWARD { at } else { now }
}

/// The moment in milliseconds, which wrap.
fn millis(moment: Stamp) -> u32 {
    u32::try_from(moment.as_micros() / 1000 % (1 << 32)).unwrap_or(0)
}

fn seconds(span: Duration) -> f32 {
    span.as_secs_f32().max(LEAST)
}

#[cfg(test)]
mod tests;
