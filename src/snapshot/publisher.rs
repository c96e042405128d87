//! The only writer of snapshots.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::watch;

use super::{
    CompileError, Limit, Registry, Snapshot, compile,
    join::{Discovered, join},
    settle,
};
use crate::{
    config::{Policy, policy::LimitScope},
    discovery::Target,
    listener::Listener,
    policy::Stamp,
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
    /// The newest snapshot's number.
    generation: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    registry: Registry,
    /// As it was given, without what was discovered.
    policy: Arc<Policy>,
    discovered: Discovered,
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
        let generation = watch::Sender::new(shared.snapshot.load().generation);
        let discovered = Discovered::new();
        let state = State { registry, policy, discovered, retired: Vec::new() };
        Self { shared, state: Mutex::new(state), generation }
    }

    /// The policy in force, without what was discovered for it.
    pub fn policy(&self) -> Arc<Policy> {
        self.lock().policy.clone()
    }

    /// The number of the newest snapshot, as it changes.
    pub fn generations(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Puts `policy` in force: every request that begins after this returns is served by it, those that run keep
    /// what they have. When it cannot be compiled, what was in force stays. What was discovered joins it.
    ///
    /// `since` is when the news came that made it: what `weir_policy_apply_seconds` counts from.
    pub fn publish(&self, policy: Arc<Policy>, since: Instant) -> Result<Outcome, CompileError> {
        let metrics = &self.shared.telemetry.metrics;
        let mut state = self.lock();
        if *state.policy == *policy {
            return Ok(Outcome::Unchanged);
        }
        let generation = self
            .put_in_force(&mut state, &policy)
            .inspect_err(|_| metrics.policy_updates.of(UpdateResult::Refused).increment(1))?;
        metrics.policy_apply.record(since.elapsed());
        metrics.policy_updates.of(UpdateResult::Applied).increment(1);
        state.policy = policy;
        Ok(Outcome::Applied { generation })
    }

    /// Puts in force that these are the addresses of `target`, for every upstream that has it looked up, and for policies
    /// to come. When that cannot be compiled, what was in force stays; the same addresses may be given again. It is no
    /// change of policy, and is not counted as one.
    pub fn discovered(
        &self,
        target: &Target,
        addresses: &Arc<[SocketAddr]>,
    ) -> Result<Outcome, CompileError> {
        let mut state = self.lock();
        if state.discovered.get(target) == Some(addresses) {
            return Ok(Outcome::Unchanged);
        }
        let before = join(&state.policy, &state.discovered);
        let known = state.discovered.insert(target.clone(), addresses.clone());
        let after = join(&state.policy, &state.discovered);
        if before.upstreams == after.upstreams {
            return Ok(Outcome::Unchanged);
        }
        let policy = state.policy.clone();
        let generation = self.put_in_force(&mut state, &policy);
        if generation.is_err() {
            match known {
                Some(known) => drop(state.discovered.insert(target.clone(), known)),
                None => drop(state.discovered.remove(target)),
            }
        }
        generation.map(|generation| Outcome::Applied { generation })
    }

    /// Divides what is shared by the service among so many live instances. It is no change of policy, and is not counted as
    /// one.
    pub fn instances(&self, instances: NonZeroU32) -> Result<Outcome, CompileError> {
        let mut state = self.lock();
        if !state.registry.know_instances(instances) {
            return Ok(Outcome::Unchanged);
        }
        let shared = |limit: &Arc<Limit>| limit.config.scope == LimitScope::Service;
        if !self.shared.snapshot.load().limits.iter().any(shared) {
            return Ok(Outcome::Unchanged);
        }
        let policy = state.policy.clone();
        let generation = self.put_in_force(&mut state, &policy)?;
        Ok(Outcome::Applied { generation })
    }

    /// Among how many live instances what is shared by the service is divided; `None` = nobody has said, and this one has
    /// all of it.
    pub fn instances_known(&self) -> Option<u64> {
        self.lock().registry.instances_known()
    }

    /// Forgets the addresses of all targets that are not wanted any more. For those that no policy names.
    pub fn keep_discovered(&self, wanted: impl Fn(&Target) -> bool) {
        self.lock().discovered.retain(|target, _| wanted(target));
    }

    /// Compiles `policy` with what was discovered, and swaps it in.
    fn put_in_force(&self, state: &mut State, policy: &Arc<Policy>) -> Result<u64, CompileError> {
        let metrics = &self.shared.telemetry.metrics;
        let before = self.shared.snapshot.load_full();
        let generation = before.generation + 1;
        let listeners = &self.shared.listeners;
        let joined = join(policy, &state.discovered);
        let snapshot =
            compile::compile(generation, &joined, &before, listeners, &mut state.registry, metrics)?;
        let snapshot = Arc::new(snapshot);
        let now = Stamp::of(Instant::now());
        settle::settle(&before, &snapshot, now);
        self.shared.snapshot.store(snapshot);
        self.shared.tell(|| Message::NewSnapshot);
        state.retired.push(before);
        state.tidy();
        self.generation.send_replace(generation);
        Ok(generation)
    }

    /// Frees what no request holds any more. About once a second.
    pub fn tidy(&self) {
        self.lock().tidy();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
