//! What this instance says of itself in the store, under a lease; and how many instances there are.
//!
//! Written when something has changed, but not more often than the file says. Others are counted, never watched: a
//! thousand instances that watch each other would be a million events for each deployment. While instances share a limit,
//! leases are short and counts frequent, so that an instance that was killed is missed within seconds.

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

use super::{State, headcount::Pace, live::etcd_config};
use crate::{
    config::{Documents, bootstrap},
    store::{
        client::{Client, ClientError, Committed, Lease, Transaction, Write},
        presence::{self, Refusal, Report, Source},
    },
    telemetry::PolicySource,
};

/// The first report comes within this time: pods that start together do not write together.
const FIRST: Duration = Duration::from_secs(1);

/// The same where instances share a limit.
const FIRST_OF_SHARED: Duration = Duration::from_millis(50);

/// A change is written after up to this part of the interval: a change of all pods is not written by all at once.
const SPREAD: f64 = 0.2;

/// How long the end waits for the lease to be given back.
const FAREWELL: Duration = Duration::from_secs(1);

/// A renewal that failed is tried again within this time, once: the lease runs on.
const RETRY: Duration = Duration::from_secs(1);

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
    let mut generations = state.publisher.generations();
    let mut presence = Presence::new(state, client, &etcd, interval);
    // Until it has counted the others, all of what they share is its own.
    let first = if presence.pace.shared { FIRST_OF_SHARED } else { FIRST };
    let mut next = Instant::now() + first.mul_f64(fastrand::f64());
    let (mut written, mut report_at) = (None, Some(next));
    loop {
        tokio::select! {
            () = async { drop(ended.wait_for(|&ended| ended).await) } => return presence.leave().await,
            () = sleep_until(report_at.map_or(next, |at| at.min(next))) => {}
            // Fails only when the sender is gone, and then everything is over.
            Ok(()) = changes.changed(), if report_at.is_none() => {
                // Soon, but not sooner after the last time than it should, and not all pods at once.
                let earliest = written.map_or_else(Instant::now, |at: Instant| (at + interval).max(Instant::now()));
                report_at = Some(earliest + interval.mul_f64(SPREAD * fastrand::f64()));
                continue;
            }
            Ok(()) = generations.changed() => {
                if presence.repace() {
                    // Whoever begins to share something wants to know with how many.
                    next = next.min(Instant::now() + presence.pace.interval.mul_f64(fastrand::f64()));
                }
                continue;
            }
        }
        let owed = report_at.is_some_and(|at| at <= Instant::now());
        let failed_before = presence.failed;
        let done = presence.renew(owed).await;
        presence.note(&done);
        next = match &done {
            Err(_) if !failed_before && presence.pace.shared => {
                Instant::now() + RETRY.mul_f64(jitter(0.5, 0.5))
            }
            _ => Instant::now() + presence.pace.interval.mul_f64(jitter(1.0, SPREAD)),
        };
        match done {
            Ok(()) if owed => (written, report_at) = (Some(Instant::now()), None),
            // What was owed is still owed; what was not may be after that.
            Err(_) => report_at = Some(next),
            Ok(()) => {}
        }
    }
}

/// At least so much, and up to `spread` more.
fn jitter(least: f64, spread: f64) -> f64 {
    least + spread * fastrand::f64()
}

struct Presence {
    state: Arc<State>,
    client: Client,
    root: String,
    /// What the file says: the time between two reports, and the longest time for a call.
    configured: (Duration, Duration),
    pace: Pace,
    lease: Option<Lease>,
    /// How long the lease was asked for: the store may give a longer one.
    asked: Duration,
    /// A lease of another pace, which is of no use once the report stands under the new one.
    outdated: Option<Lease>,
    /// When the others are counted next.
    count_at: Instant,
    failed: bool,
}

impl Presence {
    fn new(state: Arc<State>, client: Client, etcd: &bootstrap::Etcd, interval: Duration) -> Self {
        let configured = (interval, etcd.request_timeout);
        let pace = Pace::new(&state.publisher.policy(), configured.0, configured.1);
        let mut presence = Self {
            state,
            client,
            root: etcd.root.to_string(),
            configured,
            pace,
            lease: None,
            asked: Duration::ZERO,
            outdated: None,
            count_at: Instant::now(),
            failed: false,
        };
        presence.client.set_timeout(pace.timeout);
        presence
    }

    /// Takes the pace that the policy in force wants; says whether it is another one.
    fn repace(&mut self) -> bool {
        let pace = Pace::new(&self.state.publisher.policy(), self.configured.0, self.configured.1);
        if pace == self.pace {
            return false;
        }
        self.pace = pace;
        self.client.set_timeout(pace.timeout);
        self.count_at = Instant::now();
        true
    }

    /// Keeps the lease alive, writes the report when that is owed or the lease is new, and counts the others.
    async fn renew(&mut self, owed: bool) -> Result<(), ClientError> {
        let new = self.hold_lease().await?;
        if owed || new {
            let written = self.write().await;
            if written.is_err() {
                // Whether it was written or not is not known: the next one is.
                self.lease = self.lease.filter(|_| !new);
            }
            written?;
        }
        if let Some(outdated) = self.outdated.take() {
            // Nothing stands under it any more. It ends by itself if this fails.
            let _ = self.client.revoke(outdated).await;
        }
        if Instant::now() < self.count_at {
            return Ok(());
        }
        // This one is among them: its report has been written.
        let prefix = format!("{}{}", self.root, presence::prefix(&self.state.service));
        let instances = self.client.count(&prefix).await?;
        self.state.counted(instances);
        // Half a renewal earlier, so that it is at a renewal whatever chance does to that.
        let (interval, least) = (self.pace.count_interval(instances), self.pace.interval / 2);
        self.count_at = Instant::now() + interval.saturating_sub(least);
        Ok(())
    }

    /// Keeps the lease alive, or takes another one; says whether it did.
    async fn hold_lease(&mut self) -> Result<bool, ClientError> {
        if let Some(lease) = self.lease.filter(|_| self.asked == self.pace.lease) {
            match self.client.keep_alive(lease).await {
                Ok(()) => return Ok(false),
                // If this one's has ended, those of others may have.
                Err(ClientError::LeaseGone) => self.state.headcount().missed(),
                Err(error) => return Err(error),
            }
        } else if let Some(lease) = self.lease.take() {
            self.outdated = Some(lease);
        }
        self.lease = Some(self.client.grant(self.pace.lease).await?);
        self.asked = self.pace.lease;
        Ok(true)
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
        if done.is_err() {
            self.state.headcount().missed();
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
