//! Live policy: from what a store tells to the snapshot that requests read.
//!
//! `store event → guard → layers → publisher`. The guard says what is to be applied, the layers what that makes of the
//! policy and what is refused of it, the publisher compiles it and swaps it in. Whatever comes, what is in force stays in
//! force until there is something better.

mod boot;
mod source;
mod view;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;

pub(super) use self::{
    boot::{boot, expiry, next},
    source::{Source, etcd_config},
    view::Shown,
};
use super::{State, headcount::has_shared_limits};
use crate::{
    config::{Bootstrap, File, PemKind},
    snapshot::{CompileError, Outcome},
    store::{
        Event, Item,
        cache::{Kept, Writer},
        guard::{Guard, Note},
        key::Identity,
        layers::{Baseline, Effective, Layers, Refused, World},
    },
    telemetry::{
        PolicyKind, PolicySource, UpdateResult,
        labels::{Label as _, Stage},
        metrics::PolicyMetrics,
    },
};

/// How often what is refused because of something outside of policy (a certificate that is not there) is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// How long the end waits for the cache to be written.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// Checks a file that policy names.
pub type Probe = Box<dyn Fn(&Path, PemKind) -> Result<(), String>>;

/// Keeps the policy in force up to date.
pub(super) struct Live {
    state: Arc<State>,
    identity: Identity,
    /// Shared with the admin interface, which asks now and then what the documents are; on one thread.
    layers: Arc<Mutex<Layers>>,
    guard: Guard,
    probe: Probe,
    cache: Option<Writer>,
    /// Something has changed that the cache does not have.
    unkept: bool,
    /// Among how many instances limits are divided, as the cache has it.
    instances: Option<u64>,
    /// The clock at the last look, and when what is refused was tried last.
    clock: Timestamp,
    tried: Instant,
    next_expiry: Option<Timestamp>,
}

impl Live {
    /// Begins with the file alone, which is in force already.
    pub(super) fn new(state: &Arc<State>, bootstrap: &Bootstrap, file: &File, probe: Probe) -> Self {
        let identity = Identity { service: bootstrap.service.clone(), instance: bootstrap.instance.clone() };
        let now = Timestamp::now();
        let layers = Layers::new(&identity, Baseline::new(file), World { now, probe: &probe });
        let layers = state.layers.get_or_init(|| Arc::new(Mutex::new(layers))).clone();
        Self {
            state: state.clone(),
            guard: Guard::new(&identity),
            identity,
            layers,
            probe,
            cache: None,
            unkept: false,
            instances: None,
            clock: now,
            tried: Instant::now(),
            next_expiry: None,
        }
    }

    fn layers(&self) -> MutexGuard<'_, Layers> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn world(probe: &Probe) -> World<'_> {
        World { now: Timestamp::now(), probe }
    }

    /// Takes what a cache kept, before anything of the store: it is in force once it is published.
    fn restore(&mut self, kept: Kept) {
        self.layers().restore(&kept.items, kept.memory.revision, Self::world(&self.probe));
        if let Some(instances) = kept.instances {
            self.state.restore_instances(instances);
        }
        let in_force: Vec<Item> = kept.items;
        self.guard = Guard::restore(&self.identity, in_force, kept.memory);
    }

    /// Takes what the store tells.
    pub(super) fn take(&mut self, event: &Event) {
        let metrics = self.state.shared.telemetry.metrics.live();
        note(event, metrics);
        self.state.shown().take(event);
        let held = self.guard.held_count();
        let outcome = self.guard.take(event, Timestamp::now());
        outcome.notes.iter().for_each(say);
        metrics.held.set(count(self.guard.held_count()));
        if held != self.guard.held_count() || !outcome.notes.is_empty() {
            self.unkept = true;
            self.state.shown().holdings = self.guard.holdings();
            self.state.has_news();
        }
        if let Some(batch) = &outcome.batch {
            self.layers().change(batch.revision, &batch.changes, Self::world(&self.probe));
            self.unkept = true;
        }
        match event {
            // Also when nothing changes: until now something else may have been in force than the store.
            Event::Read { at, .. } => drop(self.publish(*at, Some(PolicySource::Store))),
            Event::Changed { at, .. } if outcome.batch.is_some() => {
                drop(self.publish(*at, Some(PolicySource::Store)));
            }
            _ => {}
        }
        self.show_revisions();
    }

    /// Puts another file beneath the live layers.
    pub(super) fn rebase(&mut self, file: &File) -> Result<Outcome, CompileError> {
        self.layers().rebase(Baseline::new(file), Self::world(&self.probe));
        self.publish(Instant::now(), None)
    }

    /// Sees what the clock has to say, and keeps what is to be kept. About once a second, and at [`Live::next`].
    pub(super) fn tick(&mut self) {
        let now = Timestamp::now();
        let jumped_back = now < self.clock;
        let expired = self.next_expiry.is_some_and(|at| at <= now);
        self.clock = now;
        let retry = self.tried.elapsed() >= RETRY;
        if retry {
            self.tried = Instant::now();
            self.layers().retry(Self::world(&self.probe));
        }
        if jumped_back || expired || retry && self.state.shown().is_troubled() {
            self.layers().tick(Self::world(&self.probe));
            drop(self.publish(Instant::now(), None));
            self.unkept = true;
        }
        self.keep();
        self.show_revisions();
    }

    /// How long until the next overlay expires.
    pub(super) fn next(&self) -> Option<Duration> {
        let left = self.next_expiry?.duration_since(Timestamp::now());
        Some(Duration::try_from(left).unwrap_or_default())
    }

    /// Writes what has changed to the cache; the writer sees to it that this is not too often.
    fn keep(&mut self) {
        let Some(cache) = &self.cache else { return };
        // Whoever shares nothing need not write because others come and go.
        let shares = has_shared_limits(&self.state.publisher.policy());
        let instances = shares.then(|| self.state.publisher.instances_known()).flatten();
        if std::mem::take(&mut self.unkept) || instances != self.instances {
            self.instances = instances;
            let (items, memory) = (self.layers().last_good(), self.guard.memory().clone());
            cache.give(Arc::new(Kept { identity: self.identity.clone(), items, memory, instances }));
        }
        self.state.shown().cache = Some(cache.status());
    }

    /// Keeps what is to be kept, and ends.
    pub(super) fn end(mut self) {
        self.keep();
        if let Some(cache) = self.cache.take() {
            cache.close(LAST_WRITE);
        }
    }

    /// Puts in force what the layers make of everything. `since` is when the news came.
    fn publish(&mut self, since: Instant, source: Option<PolicySource>) -> Result<Outcome, CompileError> {
        let effective = self.layers().effective();
        self.next_expiry = effective.next_expiry;
        let metrics = &self.state.shared.telemetry.metrics;
        for kind in PolicyKind::ALL.iter().filter(|kind| **kind != PolicyKind::File) {
            let refused = effective.refused.iter().filter(|refused| refused.kind == kind.text()).count();
            metrics.policy_refused.of(*kind).set(count(refused));
        }
        if self.state.shown().store.is_some() {
            metrics.live().bypass.set(f64::from(u8::from(effective.policy.bypass)));
        }
        let published = self.state.publisher.publish(effective.policy.clone(), since);
        let revision = effective.revision;
        match &published {
            Ok(Outcome::Applied { generation }) => {
                super::bring_gauges_up_to_date(&self.state);
                let took_ms = since.elapsed().as_millis();
                tracing::info!(generation, revision, took_ms, "policy is in force");
            }
            Ok(Outcome::Unchanged) => metrics.policy_updates.of(UpdateResult::Unchanged).increment(1),
            Err(error) => {
                tracing::error!(%error, revision, "the policy cannot be used: what was in force stays");
            }
        }
        let mut shown = self.state.shown();
        say_refusals(shown.effective.as_ref(), &effective);
        shown.failed = published.as_ref().err().map(ToString::to_string);
        shown.effective = Some(effective);
        if let Some(source) = source
            && shown.source != source
        {
            shown.source = source;
            metrics.set_policy_source(source);
            tracing::info!(source = source.text(), "where the policy comes from");
        }
        drop(shown);
        self.state.has_news();
        published
    }

    fn show_revisions(&self) {
        let shown = self.state.shown();
        if shown.store.is_none() {
            return;
        }
        let metrics = self.state.shared.telemetry.metrics.live();
        let stages = [Stage::Observed, Stage::Proven, Stage::Applied];
        for (stage, revision) in stages.into_iter().zip(shown.revisions()) {
            #[expect(clippy::cast_precision_loss, reason = "a gauge; exact up to 2⁵³")]
            metrics.revision.of(stage).set(revision as f64);
        }
        metrics.sync_age.set(shown.sync_age(Instant::now()).as_secs_f64());
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge of a few thousands at most")]
fn count(n: usize) -> f64 {
    n as f64
}

/// Counts and logs what an event says of the store.
fn note(event: &Event, metrics: &PolicyMetrics) {
    match event {
        Event::Read { content, cause, .. } => {
            metrics.reads.of(*cause).increment(1);
            let (revision, keys) = (content.revision, content.items.len());
            tracing::info!(cause = cause.as_str(), revision, keys, "the store was read");
        }
        Event::Connected { endpoint } => {
            metrics.connected.set(1.0);
            tracing::info!(endpoint, "the store answers");
        }
        Event::Disconnected { cause, error } => {
            metrics.connected.set(0.0);
            metrics.reconnects.of(*cause).increment(1);
            tracing::warn!(cause = cause.as_str(), error, "the store is away: what is in force stays");
        }
        Event::Faults { faults } => {
            for (key, why) in faults {
                tracing::warn!(key = &**key, why, "cannot be read: its last value stays");
            }
        }
        Event::Changed { .. } | Event::Proven { .. } => {}
    }
}

fn say(note: &Note) {
    match note {
        Note::Held { .. } | Note::ConfirmIgnored { .. } => tracing::warn!("{note}"),
        Note::Released { .. } | Note::Confirmed { .. } => tracing::info!("{note}"),
    }
}

/// Logs what is refused now and was not before, and what is mended.
fn say_refusals(before: Option<&Effective>, now: &Effective) {
    let revisions = |refused: &[Refused]| -> HashMap<Arc<str>, i64> {
        refused.iter().map(|one| (Arc::clone(&one.key), one.revision)).collect()
    };
    let known = revisions(before.map(|before| &*before.refused).unwrap_or_default());
    for refused in now.refused.iter().filter(|one| known.get(&one.key) != Some(&one.revision)) {
        let (key, reason, revision) = (&*refused.key, &*refused.reason, refused.revision);
        tracing::warn!(key, revision, in_use = refused.in_use, reason, "refused");
    }
    let still = revisions(&now.refused);
    for key in known.keys().filter(|key| !still.contains_key(*key)) {
        tracing::info!(key = &**key, "no longer refused");
    }
}
