//! What all workers know of one endpoint.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use super::Vitals;
use crate::{
    balance::{Latency, MemberState},
    config::policy::EndpointAddress,
    health::HealthState,
    policy::{
        Stamp,
        ejection::{self, Outlier},
    },
};

/// One endpoint of one upstream. It lives as long as a snapshot or a connection names it, so that its counts
/// outlast policy changes.
#[derive(Debug)]
pub struct Endpoint {
    id: u64,
    address: EndpointAddress,
    in_flight: AtomicU32,
    /// Those that are being opened included.
    connections: AtomicU32,
    connecting: AtomicU32,
    idle: AtomicU32,
    requests: AtomicU64,
    failures: AtomicU64,
    /// What its active checks have found.
    health: HealthState,
    /// What its own results say of it.
    outlier: Outlier,
    latency: Latency,
    /// When its slow start begins, in microseconds; 0 = it was there from the beginning.
    back_since: AtomicU64,
    vitals: Arc<Vitals>,
}

impl Endpoint {
    /// A new endpoint, with an id that no other of this process has.
    pub fn new(address: EndpointAddress, vitals: Arc<Vitals>, now: Stamp) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let health = HealthState::default();
        health.count_changes_in(vitals.changes());
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            address,
            in_flight: AtomicU32::new(0),
            connections: AtomicU32::new(0),
            connecting: AtomicU32::new(0),
            idle: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            health,
            outlier: Outlier::new(now),
            latency: Latency::default(),
            back_since: AtomicU64::new(0),
            vitals,
        }
    }

    /// Unique in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where it is.
    pub fn address(&self) -> &EndpointAddress {
        &self.address
    }

    /// What its active checks have found.
    pub fn health(&self) -> &HealthState {
        &self.health
    }

    /// What its own results say of it.
    pub fn outlier(&self) -> &Outlier {
        &self.outlier
    }

    /// What it was seen to need for an answer.
    pub fn latency(&self) -> &Latency {
        &self.latency
    }

    /// The upstream that it belongs to.
    pub fn vitals(&self) -> &Vitals {
        &self.vitals
    }

    /// Its slow start begins now: it has come back, or joins others that were there before.
    pub(crate) fn starts_slowly(&self, now: Stamp) {
        self.back_since.store(now.as_micros(), Ordering::Relaxed);
    }

    /// When its slow start began; `None` = it has none.
    pub fn back_since(&self) -> Option<Stamp> {
        let own = self.back_since.load(Ordering::Relaxed);
        let own = (own > 0).then(|| Stamp::from_micros(own));
        own.max(self.health.recovered())
    }

    /// Whether requests may go to it. With `bypass` its own results do not matter.
    pub fn member_state(&self, now: Stamp, bypass: bool) -> MemberState {
        if !self.health.serves() {
            MemberState::Unhealthy
        } else if bypass || self.outlier.standing(now) == ejection::Standing::In {
            MemberState::Ready
        } else {
            MemberState::Ejected
        }
    }

    /// Requests that were sent to it and have not ended.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Open connections to it, those in use included.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed).saturating_sub(self.connecting())
    }

    /// Connections to it that are being opened.
    pub fn connecting(&self) -> u32 {
        self.connecting.load(Ordering::Relaxed)
    }

    /// Open connections to it that no request uses.
    pub fn idle(&self) -> u32 {
        self.idle.load(Ordering::Relaxed).min(self.connections())
    }

    /// Requests that were sent to it, ever.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Those of them that failed.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// One more request is on its way to it, until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.request_begins();
        InFlight(self.clone())
    }

    /// As [`Self::begin`], where something that holds the endpoint anyway says when it ends.
    pub(super) fn request_begins(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn request_ends(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Of the idle connections, one owner had `before` and has `now`.
    pub(super) fn idle_changed(&self, before: usize, now: usize) {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        if now > before {
            self.idle.fetch_add(count(now - before), Ordering::Relaxed);
        } else if before > now {
            self.idle.fetch_sub(count(before - now), Ordering::Relaxed);
        }
    }

    pub(crate) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_open(self: &Arc<Self>) -> Counted {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Counted { endpoint: self.clone(), which: |endpoint| &endpoint.connections }
    }

    pub(super) fn count_connecting(self: &Arc<Self>) -> Counted {
        self.connecting.fetch_add(1, Ordering::Relaxed);
        Counted { endpoint: self.clone(), which: |endpoint| &endpoint.connecting }
    }

    pub(super) fn count_idle(self: &Arc<Self>) -> Counted {
        self.idle.fetch_add(1, Ordering::Relaxed);
        Counted { endpoint: self.clone(), which: |endpoint| &endpoint.idle }
    }
}

/// A request in flight to an endpoint.
#[derive(Debug)]
pub struct InFlight(Arc<Endpoint>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.request_ends();
    }
}

/// One unit of one of an endpoint's counts.
#[derive(Debug)]
pub(super) struct Counted {
    endpoint: Arc<Endpoint>,
    which: fn(&Endpoint) -> &AtomicU32,
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.which)(&self.endpoint).fetch_sub(1, Ordering::Relaxed);
    }
}
