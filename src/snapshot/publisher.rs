//! The only writer of snapshots.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use super::{CompileError, Registry, Snapshot, compile};
use crate::{
    config::Policy,
    listener::Listener,
    telemetry::{labels::UpdateResult, metrics::Metrics},
    worker::{Message, Shared},
};

/// What became of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is in force.
    Applied {
        /// The snapshot's number.
        generation: u64,
    },
    /// It says what is in force already.
    Unchanged,
}

/// Compiles policies and puts them in force, one after the other.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    registry: Registry,
    policy: Arc<Policy>,
    /// Snapshots that were in force, until nobody holds them: what is left of the last one is freed here, not by the
    /// worker whose request happens to be the last to let go of ten thousand routes.
    retired: Vec<Arc<Snapshot>>,
}

/// Compiles the first snapshot, before anything runs.
pub fn first(
    policy: &Policy,
    listeners: &[Arc<Listener>],
    registry: &mut Registry,
    metrics: &Metrics,
) -> Result<Snapshot, CompileError> {
    compile::compile(1, policy, &Snapshot::default(), listeners, registry, metrics)
}

impl Publisher {
    /// Goes on from the first snapshot, which was compiled from `policy` with `registry`.
    pub fn new(shared: Arc<Shared>, policy: Arc<Policy>, registry: Registry) -> Self {
        Self { shared, state: Mutex::new(State { registry, policy, retired: Vec::new() }) }
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).policy.clone()
    }

    /// Puts `policy` in force: every request that begins after this returns is served by it, those that run keep
    /// what they have. When it cannot be compiled, what was in force stays.
    ///
    /// `since` is when the news came that made it: what `weir_policy_apply_seconds` counts from.
    pub fn publish(&self, policy: Arc<Policy>, since: Instant) -> Result<Outcome, CompileError> {
        let metrics = &self.shared.telemetry.metrics;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *state.policy == *policy {
            return Ok(Outcome::Unchanged);
        }
        let before = self.shared.snapshot.load_full();
        let generation = before.generation + 1;
        let listeners = &self.shared.listeners;
        let compiled =
            compile::compile(generation, &policy, &before, listeners, &mut state.registry, metrics);
        let snapshot =
            compiled.inspect_err(|_| metrics.policy_updates.of(UpdateResult::Refused).increment(1))?;
        self.shared.snapshot.store(Arc::new(snapshot));
        self.shared.tell(|| Message::NewSnapshot);
        metrics.policy_apply.record(since.elapsed());
        metrics.policy_updates.of(UpdateResult::Applied).increment(1);
        state.policy = policy;
        state.retired.push(before);
        state.tidy();
        drop(state);
        Ok(Outcome::Applied { generation })
    }

    /// Frees what no request holds any more. About once a second.
    pub fn tidy(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).tidy();
    }
}

impl State {
    fn tidy(&mut self) {
        let before = self.retired.len();
        self.retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
        if self.retired.len() < before {
            self.registry.sweep();
        }
    }
}
