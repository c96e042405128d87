//! Who is checked, and when.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    select,
    sync::{Notify, Semaphore, watch},
    task::AbortHandle,
    time::{sleep, sleep_until},
};

use super::{
    Course, LastCheck, Rules, Standing,
    check::{Fault, Question},
};
use crate::{
    config::Name,
    policy::Stamp,
    snapshot::{Snapshot, Upstream},
    telemetry::{UpstreamMetrics, labels::HealthResult},
    upstream::Endpoint,
};

/// So many checks run at a time: enough for over a thousand endpoints that all hang, each for a second of every five.
const AT_ONCE: usize = 256;

/// The first check of an endpoint comes within this: a policy that brings a thousand of them asks them one after the
/// other.
const FIRST: Duration = Duration::from_millis(100);

/// An endpoint that is suspected is not checked more often than this.
const RECHECK: Duration = Duration::from_secs(1);

/// The active health checks of this instance: one task for each endpoint that is to be checked, on the runtime of
/// whoever calls [`Checks::follow`]. They end when it is dropped.
#[derive(Debug)]
pub struct Checks {
    /// By the endpoints' ids.
    checkers: HashMap<u64, Checker>,
    slots: Arc<Semaphore>,
}

impl Default for Checks {
    fn default() -> Self {
        Self { checkers: HashMap::new(), slots: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

/// An endpoint that is checked, until dropped: then nothing is known of it.
#[derive(Debug)]
struct Checker {
    endpoint: Arc<Endpoint>,
    plan: watch::Sender<Arc<Plan>>,
    suspected: Arc<Notify>,
    task: AbortHandle,
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.task.abort();
        self.endpoint.health().forget(Stamp::of(Instant::now()));
    }
}

/// How an endpoint is checked.
#[derive(Debug)]
struct Plan {
    upstream: Name,
    question: Question,
    metrics: Arc<UpstreamMetrics>,
}

impl Plan {
    fn of(upstream: &Upstream) -> Option<Self> {
        Some(Self {
            upstream: upstream.name().clone(),
            question: Question {
                config: upstream.config.health.clone()?,
                protocol: upstream.config.protocol,
                connector: upstream.connector.clone(),
            },
            metrics: upstream.metrics.clone(),
        })
    }

    /// Whether nothing needs to be told to those who go by the other.
    fn is_as(&self, other: &Self) -> bool {
        self.asks_as(other)
            && self.question.config == other.question.config
            && Arc::ptr_eq(&self.metrics, &other.metrics)
    }

    /// Whether the other's results say the same as this one's.
    fn asks_as(&self, other: &Self) -> bool {
        let (one, two) = (&self.question, &other.question);
        one.config.check == two.config.check
            && one.config.port == two.config.port
            && one.protocol == two.protocol
            && Arc::ptr_eq(&one.connector, &two.connector)
    }

    fn rules(&self) -> Rules {
        let config = &self.question.config;
        Rules { rise: config.rise, fall: config.fall }
    }
}

impl Checks {
    /// From now on checks the endpoints of `snapshot` whose upstreams say so, and no others: what has left the policy is
    /// not checked any more, whatever its health. What was checked before goes on, with what has changed in how.
    pub fn follow(&mut self, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.checkers);
        for upstream in &snapshot.upstreams {
            let Some(plan) = Plan::of(upstream).map(Arc::new) else { continue };
            for candidate in &upstream.candidates {
                let endpoint = &candidate.endpoint;
                let checker = match before.remove(&endpoint.id()) {
                    Some(known) => {
                        known.plan.send_if_modified(|going_by| {
                            let changed = !going_by.is_as(&plan);
                            if changed {
                                *going_by = plan.clone();
                            }
                            changed
                        });
                        known
                    }
                    None => self.begin(endpoint, &plan),
                };
                self.checkers.insert(endpoint.id(), checker);
            }
        }
    }

    /// Has those checked soon that requests have failed at since the last call. Cheap; to be called often.
    pub fn sweep(&self) {
        for checker in self.checkers.values() {
            let health = checker.endpoint.health();
            // That one is unhealthy is known.
            if health.take_suspicion() && health.standing() != Standing::Unhealthy {
                checker.suspected.notify_one();
            }
        }
    }

    /// How many endpoints are checked.
    pub fn len(&self) -> usize {
        self.checkers.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.checkers.is_empty()
    }

    fn begin(&self, endpoint: &Arc<Endpoint>, plan: &Arc<Plan>) -> Checker {
        let (sender, receiver) = watch::channel(plan.clone());
        let suspected = Arc::new(Notify::new());
        // What was said before it was checked is old.
        endpoint.health().take_suspicion();
        let task = tokio::spawn(check(endpoint.clone(), receiver, suspected.clone(), self.slots.clone()));
        Checker { endpoint: endpoint.clone(), plan: sender, suspected, task: task.abort_handle() }
    }
}

/// Checks one endpoint for as long as somebody holds the other end of `plans`.
async fn check(
    endpoint: Arc<Endpoint>,
    mut plans: watch::Receiver<Arc<Plan>>,
    suspected: Arc<Notify>,
    slots: Arc<Semaphore>,
) {
    let mut rng = fastrand::Rng::new();
    let mut course = Course::default();
    let mut before: Option<Arc<Plan>> = None;
    sleep(FIRST.mul_f64(rng.f64())).await;
    loop {
        let plan = plans.borrow_and_update().clone();
        if before.is_some_and(|before| !before.asks_as(&plan)) {
            course = Course::default();
        }
        before = Some(plan.clone());
        let begun;
        {
            // Never closed.
            let _slot = slots.acquire().await;
            begun = Instant::now();
            let result = plan.question.ask(endpoint.address()).await;
            // What was asked by a plan that has been replaced says nothing; the new one asks at once.
            if !plans.has_changed().unwrap_or(true) {
                note(&endpoint, &plan, &mut course, result, begun);
            }
        }
        let mut next = begun + jittered(plan.question.config.interval, &mut rng);
        loop {
            select! {
                () = sleep_until(next.into()) => break,
                changed = plans.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    break;
                }
                () = suspected.notified() => next = next.min(begun + RECHECK),
            }
        }
    }
}

fn jittered(interval: Duration, rng: &mut fastrand::Rng) -> Duration {
    interval.mul_f64(0.8 + 0.4 * rng.f64())
}

/// Counts a result, and says what changes by it.
fn note(endpoint: &Endpoint, plan: &Plan, course: &mut Course, result: Result<(), Fault>, begun: Instant) {
    let now = Instant::now();
    let fault = result.err();
    plan.metrics.checks.of(fault.as_ref().map_or(HealthResult::Success, |fault| fault.result)).increment(1);
    let reason = fault.map(|fault| Arc::<str>::from(fault.text));
    let last = LastCheck { at: Stamp::of(now), took: now - begun, fault: reason.clone() };
    let (upstream, address) = (&plan.upstream, endpoint.address());
    match endpoint.health().take(course, plan.rules(), last) {
        None | Some(Standing::Unknown) => {}
        Some(Standing::Healthy) => {
            let took_ms = (now - begun).as_millis();
            tracing::info!(%upstream, endpoint = %address, took_ms, "is healthy");
        }
        Some(Standing::Unhealthy) => {
            let reason = reason.as_deref().unwrap_or_default();
            tracing::warn!(%upstream, endpoint = %address, reason, "is unhealthy");
        }
    }
}

#[cfg(test)]
mod tests;
