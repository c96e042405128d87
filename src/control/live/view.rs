//! What is known of live policy, for `/status` and `/policy`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    store::{Event, Lost, cache::Status, guard::Holding, layers::Effective},
    telemetry::{PolicySource, labels::Label as _},
};

/// What the admin interface may see. Written by the task of live policy alone.
#[derive(Debug)]
pub(in crate::control) struct Shown {
    /// What is in force, and what is refused of it; `None` until live policy is looked at for the first time.
    pub(in crate::control) effective: Option<Effective>,
    pub(in crate::control) source: PolicySource,
    /// Why the newest policy could not be put in force.
    pub(super) failed: Option<String>,
    pub(super) store: Option<StoreView>,
    pub(super) holdings: Vec<Holding>,
    pub(super) cache: Option<Status>,
    faults: Vec<(Arc<str>, String)>,
    /// The newest change that was told, and the newest revision that was proven; with the time of the proof.
    observed: i64,
    proven: i64,
    applied: i64,
    proof: Instant,
    /// How many instances there are, as the store counts them.
    pub(in crate::control) instances: Option<u64>,
}

/// The store.
#[derive(Debug)]
pub(super) struct StoreView {
    pub(super) kind: &'static str,
    pub(super) place: String,
    pub(super) endpoint: Option<String>,
    pub(super) error: Option<(Lost, String, Timestamp)>,
    pub(super) cluster: Option<u64>,
}

impl Shown {
    pub(in crate::control) fn new() -> Self {
        Self {
            effective: None,
            source: PolicySource::Baseline,
            failed: None,
            store: None,
            holdings: Vec::new(),
            cache: None,
            faults: Vec::new(),
            observed: 0,
            proven: 0,
            applied: 0,
            proof: Instant::now(),
            instances: None,
        }
    }

    /// Notes what an event says of the store.
    pub(super) fn take(&mut self, event: &Event) {
        match event {
            Event::Read { content, at, .. } => {
                (self.observed, self.applied) = (content.revision, content.revision);
                (self.proven, self.proof) = (content.revision, *at);
                if let Some(store) = &mut self.store {
                    store.cluster = Some(content.cluster);
                }
            }
            Event::Changed { revision, .. } => (self.observed, self.applied) = (*revision, *revision),
            Event::Proven { revision, at } => {
                // The store's own revision may be ahead of what concerns us: up to there, all of ours is in force.
                self.proven = *revision;
                self.observed = self.observed.max(*revision);
                self.applied = self.applied.max(*revision);
                self.proof = *at;
            }
            Event::Faults { faults } => self.faults.clone_from(faults),
            Event::Connected { endpoint } => {
                if let Some(store) = &mut self.store {
                    store.endpoint = Some(endpoint.clone());
                    store.error = None;
                }
            }
            Event::Disconnected { cause, error } => {
                if let Some(store) = &mut self.store {
                    store.endpoint = None;
                    let since = store.error.take().map_or_else(Timestamp::now, |(_, _, since)| since);
                    store.error = Some((*cause, error.clone(), since));
                }
            }
        }
    }

    /// Observed, proven, applied.
    pub(super) fn revisions(&self) -> [i64; 3] {
        [self.observed, self.proven, self.applied]
    }

    pub(super) fn sync_age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.proof)
    }

    pub(in crate::control) fn cluster(&self) -> Option<u64> {
        self.store.as_ref()?.cluster
    }

    pub(in crate::control) fn applied(&self) -> i64 {
        self.applied
    }

    pub(in crate::control) fn proven(&self) -> i64 {
        self.proven
    }

    /// How many keys are held.
    pub(in crate::control) fn held(&self) -> usize {
        self.holdings.iter().map(|holding| holding.keys.len()).sum()
    }

    /// Whether something is refused.
    pub(super) fn is_troubled(&self) -> bool {
        self.failed.is_some()
            || self.effective.as_ref().is_some_and(|effective| !effective.refused.is_empty())
    }

    /// Adds to `/status` what is about live policy.
    pub(in crate::control) fn add_to(&self, status: &mut Value) {
        let [observed, proven, applied] = self.revisions();
        let revision = |revision: i64| if self.store.is_some() { json!(revision) } else { Value::Null };
        let effective = self.effective.as_ref();
        if let Some(policy) = status.get_mut("policy") {
            add(
                policy,
                json!({
                    "source": self.source.text(),
                    "failed": self.failed,
                    "bypass": effective.is_some_and(|effective| effective.policy.bypass),
                    "refused": effective.map(refused).unwrap_or_default(),
                    "warnings": effective.map(warnings).unwrap_or_default(),
                    "masked": effective.map(masked).unwrap_or_default(),
                    "next_expiry": effective.and_then(|e| e.next_expiry).map(|at| at.to_string()),
                    "unreadable": self.faults.iter().map(unreadable).collect::<Vec<_>>(),
                }),
            );
        }
        add(
            status,
            json!({
                "revisions": { "observed": revision(observed), "proven": revision(proven), "applied": revision(applied) },
                "sync_age_seconds": self.store.as_ref().map(|_| self.sync_age(Instant::now()).as_secs_f64()),
                "held": self.holdings.iter().map(holding).collect::<Vec<_>>(),
                "store": self.store.as_ref().map(StoreView::to_json),
                "cache": self.cache.as_ref().map(|cache| json!({
                    "written": cache.written.map(|at| at.to_string()),
                    "revision": cache.revision,
                    "error": cache.error,
                })),
                "instances": self.instances,
            }),
        );
    }
}

/// Adds the entries of `more` to those of `object`.
fn add(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more);
    }
}

fn unreadable((key, why): &(Arc<str>, String)) -> Value {
    json!({ "key": &**key, "why": why })
}

impl StoreView {
    fn to_json(&self) -> Value {
        json!({
            "kind": self.kind,
            "place": self.place,
            "connected": self.endpoint.is_some(),
            "endpoint": self.endpoint,
            // JavaScript's numbers do not hold it.
            "cluster": self.cluster.map(|id| id.to_string()),
            "error": self.error.as_ref().map(|(cause, error, since)| json!({
                "cause": cause.as_str(),
                "message": error,
                "since": since.to_string(),
            })),
        })
    }
}

fn refused(effective: &Effective) -> Vec<Value> {
    let one = |refused: &crate::store::layers::Refused| {
        json!({
            "key": &*refused.key,
            "kind": refused.kind,
            "revision": refused.revision,
            "since": refused.since.to_string(),
            "reason": &*refused.reason,
            "in_use": refused.in_use,
        })
    };
    effective.refused.iter().map(one).collect()
}

fn warnings(effective: &Effective) -> Vec<Value> {
    let one = |warning: &crate::store::layers::Warning| json!({ "key": &*warning.key, "revision": warning.revision, "message": warning.message });
    effective.warnings.iter().map(one).collect()
}

fn masked(effective: &Effective) -> Vec<Value> {
    let one = |masked: &crate::store::layers::Masked| json!({ "key": &*masked.key, "plan": masked.plan.as_str(), "fields": masked.fields });
    effective.masked.iter().map(one).collect()
}

fn holding(holding: &Holding) -> Value {
    json!({
        "scope": holding.scope.as_str(),
        "why": holding.why.as_str(),
        "revision": holding.revision,
        "since": holding.since.to_string(),
        "keys": holding.keys.iter().map(|key| &**key).collect::<Vec<_>>(),
    })
}
