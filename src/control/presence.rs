//! What this instance says of itself in the store, under a lease; and how many instances there are.
//!
//! Written when something has changed, but not more often than the file says. Others are counted, never watched: a
//! thousand instances that watch each other would be a million events for each deployment.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use xxhash_rust::xxh3::Xxh3;

use super::{State, live::etcd_config};
use crate::{
    config::{Documents, bootstrap},
    store::{
        client::{Client, ClientError, Committed, Lease, Transaction, Write},
        presence::{self, Refusal, Report, Source},
    },
    telemetry::PolicySource,
};

/// The lease outlives so many intervals, and at least [`SHORTEST_LEASE`].
const LEASE_INTERVALS: u32 = 3;

/// A lease is not shorter than this: a store that is away for a moment is no reason to be gone.
const SHORTEST_LEASE: Duration = Duration::from_secs(15);

/// The first report comes within this time: pods that start together do not write together.
const FIRST: Duration = Duration::from_secs(1);

/// A change is written after up to this part of the interval: a change of all pods is not written by all at once.
const SPREAD: f64 = 0.2;

/// How long the end waits for the lease to be given back.
const FAREWELL: Duration = Duration::from_secs(1);

/// Keeps this instance's report up to date until `ended` says that the process ends.
pub(super) async fn keep(
    state: Arc<State>,
    etcd: bootstrap::Etcd,
    interval: Duration,
    mut changes: watch::Receiver<u64>,
    mut ended: watch::Receiver<bool>,
) {
    let client = match Client::new(etcd_config(&etcd), etcd.request_timeout) {
        Ok(client) => client,
        Err(error) => return tracing::error!(%error, "this instance cannot say what it has applied"),
    };
    let mut presence =
        Presence { state, client, root: etcd.root.to_string(), interval, lease: None, failed: false };
    let mut next = Instant::now() + FIRST.mul_f64(fastrand::f64());
    let (mut written, mut owes) = (None, true);
    loop {
        tokio::select! {
            () = async { drop(ended.wait_for(|&ended| ended).await) } => return presence.leave().await,
            () = sleep_until(next) => {}
            // Fails only when the sender is gone, and then everything is over.
            Ok(()) = changes.changed(), if !owes => {
                owes = true;
                // Soon, but not sooner after the last time than it should, and not all pods at once.
                let earliest = written.map_or_else(Instant::now, |at: Instant| (at + interval).max(Instant::now()));
                next = next.min(earliest + interval.mul_f64(SPREAD * fastrand::f64()));
                continue;
            }
        }
        let done = presence.renew(owes).await;
        presence.note(&done);
        if owes && done.is_ok() {
            written = Some(Instant::now());
        }
        owes = done.is_err();
        next = Instant::now() + interval.mul_f64(1.0 + SPREAD * fastrand::f64());
    }
}

struct Presence {
    state: Arc<State>,
    client: Client,
    root: String,
    interval: Duration,
    lease: Option<Lease>,
    failed: bool,
}

impl Presence {
    /// Keeps the lease alive, writes the report when that is owed or the lease is new, and counts the others.
    async fn renew(&mut self, owed: bool) -> Result<(), ClientError> {
        let kept = match self.lease {
            Some(lease) => self.client.keep_alive(lease).await,
            None => Err(ClientError::LeaseGone),
        };
        let new = match kept {
            Ok(()) => false,
            Err(ClientError::LeaseGone) => {
                let ttl = (self.interval * LEASE_INTERVALS).max(SHORTEST_LEASE);
                self.lease = Some(self.client.grant(ttl).await?);
                true
            }
            Err(error) => return Err(error),
        };
        if owed || new {
            let written = self.write().await;
            if written.is_err() {
                // Whether it was written or not is not known: the next one is.
                self.lease = self.lease.filter(|_| !new);
            }
            written?;
        }
        let prefix = format!("{}{}", self.root, presence::prefix(&self.state.service));
        let instances = self.client.count(&prefix).await?;
        self.state.shown().instances = Some(instances);
        #[expect(clippy::cast_precision_loss, reason = "a gauge of a few thousands at most")]
        self.state.shared.telemetry.metrics.live().instances.set(instances as f64);
        Ok(())
    }

    async fn write(&mut self) -> Result<(), ClientError> {
        let report = report(&self.state).await;
        let key = format!("{}{}", self.root, presence::key(&self.state.service, &self.state.instance));
        let put = Write::Put { key, value: report.encode(), lease: self.lease };
        match self.client.commit(&Transaction { expect: Vec::new(), writes: vec![put] }).await? {
            Committed::Done { .. } | Committed::Conflict { .. } => Ok(()),
        }
    }

    /// Says once that it fails, and once that it works again.
    fn note(&mut self, done: &Result<(), ClientError>) {
        match done {
            Ok(()) if self.failed => tracing::info!("the store knows again what this instance has applied"),
            Err(error) if !self.failed => {
                tracing::warn!(%error, "the store does not know what this instance has applied; tried again");
            }
            Ok(()) | Err(_) => {}
        }
        self.failed = done.is_err();
    }

    /// Gives the lease back, so that nobody counts on this instance any more.
    async fn leave(mut self) {
        if let Some(lease) = self.lease {
            // It ends by itself if this fails.
            let _ = timeout(FAREWELL, self.client.revoke(lease)).await;
        }
    }
}

/// What there is to be said now.
async fn report(state: &State) -> Report {
    let documents =
        state.layers.get().map(|layers| layers.lock().unwrap_or_else(PoisonError::into_inner).documents());
    let hash = match documents {
        // Ten thousand documents take their time.
        Some(documents) => tokio::task::spawn_blocking(move || hash(&documents)).await.unwrap_or_default(),
        None => String::new(),
    };
    let shown = state.shown();
    let refused = shown.effective.as_ref().map(|effective| &*effective.refused).unwrap_or_default();
    Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        service: state.service.clone(),
        instance: state.instance.clone(),
        cluster: shown.cluster().unwrap_or_default(),
        applied: shown.applied(),
        proven: shown.proven(),
        hash,
        source: match shown.source {
            PolicySource::Store => Source::Store,
            PolicySource::Cache => Source::Cache,
            PolicySource::Baseline => Source::Baseline,
        },
        refused: refused
            .iter()
            .take(presence::MAX_REFUSED)
            .map(|refused| Refusal {
                key: refused.key.to_string(),
                revision: refused.revision,
                reason: refused.reason.to_string(),
            })
            .collect(),
        refused_count: refused.len(),
        held: shown.held(),
        since: Some(Timestamp::now()),
    }
}

/// A hash of the effective documents, without where they are from: equal for equal policies.
fn hash(documents: &Documents) -> String {
    let mut hash = Xxh3::new();
    for (kind, name, node) in documents.iter() {
        hash.update(format!("{}/{name} {}\n", kind.as_str(), node.to_json()).as_bytes());
    }
    format!("{:016x}", hash.digest())
}
