//! Everything that is not traffic: reloads, certificates, gauges, the drain. One task on the control thread.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};
use tokio::{
    sync::{Notify, mpsc},
    time::{MissedTickBehavior, interval, sleep, sleep_until},
};

use crate::{
    admin::AdminView,
    config::{
        Bootstrap, Documents, Loaded, Name,
        bootstrap::{Direction, LogLevel},
    },
    drain::Phase,
    listener::{Fingerprint, Listener},
    readiness::Readiness,
    snapshot::{Outcome, Publisher},
    telemetry::{EndpointState, LogHandle, ReloadResult, UpdateResult},
    worker::{Message, Shared},
};

/// How often gauges are brought up to date, and the file and the certificates are looked at.
const UPKEEP: Duration = Duration::from_secs(1);
/// How often a drain looks whether everything has ended.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// What the control side is told from outside.
#[derive(Debug)]
pub struct Control {
    /// The next order; when the sender is gone, none comes any more.
    pub orders: mpsc::UnboundedReceiver<Order>,
    /// Tells the wrapped application to end, where there is one.
    pub application: Option<Arc<Notify>>,
}

/// An order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Read the file again (SIGHUP).
    Reload,
    /// Leave (SIGTERM); the second time: now.
    Leave,
    /// The wrapped application has ended: leave, and wait for nobody to notice.
    ApplicationGone,
}

/// Where the baseline comes from.
pub struct Reload {
    /// The file, when there is one that may change.
    pub path: Option<PathBuf>,
    /// Reads and checks it.
    pub load: Box<dyn Fn() -> Loaded>,
    /// Shows the faults of a file that was refused.
    pub report: Box<dyn Fn(&Loaded)>,
}

impl std::fmt::Debug for Reload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reload").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What the control side knows, and shows to the admin interface.
#[derive(Debug)]
pub struct State {
    service: Name,
    instance: Name,
    zone: Option<Name>,
    started: SystemTime,
    shared: Arc<Shared>,
    publisher: Publisher,
    readiness: Arc<Readiness>,
    log: LogHandle,
    baseline: Mutex<Baseline>,
    drain_inbound: Notify,
}

#[derive(Debug)]
struct Baseline {
    documents: Documents,
    loaded: SystemTime,
    /// Why the newest file is not in force.
    refused: Option<String>,
}

impl State {
    pub(crate) fn new(
        bootstrap: &Bootstrap,
        shared: Arc<Shared>,
        publisher: Publisher,
        readiness: Arc<Readiness>,
        log: LogHandle,
        documents: Documents,
    ) -> Self {
        let now = SystemTime::now();
        Self {
            service: bootstrap.service.clone(),
            instance: bootstrap.instance.clone(),
            zone: bootstrap.zone.clone(),
            started: now,
            shared,
            publisher,
            readiness,
            log,
            baseline: Mutex::new(Baseline { documents, loaded: now, refused: None }),
            drain_inbound: Notify::new(),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn readiness(&self) -> &Arc<Readiness> {
        &self.readiness
    }

    fn baseline(&self) -> std::sync::MutexGuard<'_, Baseline> {
        self.baseline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the listeners of a direction (`None` = all) on to `phase`.
    fn advance(&self, direction: Option<Direction>, phase: Phase) {
        for (index, listener) in self.shared.listeners.iter().enumerate() {
            let meant = direction.is_none_or(|direction| listener.config.direction == direction);
            if meant && listener.phase.advance(phase) {
                self.shared.tell(|| Message::Drain(index));
            }
        }
    }

    fn open(&self, direction: Option<Direction>) -> usize {
        let meant = |listener: &&Arc<Listener>| direction.is_none_or(|d| listener.config.direction == d);
        self.shared.listeners.iter().filter(meant).map(|listener| listener.open()).sum()
    }
}

/// Carries the control side until the drain is over.
pub(crate) async fn run(
    state: Arc<State>,
    mut certificates: Vec<(Arc<Listener>, Fingerprint)>,
    bootstrap: Bootstrap,
    reload: Reload,
    mut control: Control,
) {
    let mut seen = reload.path.as_deref().and_then(contents);
    let mut upkeep = interval(UPKEEP);
    upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let inbound_drain = drain_inbound_when_asked(&state, bootstrap.drain.delay);
    let mut inbound_drain = std::pin::pin!(inbound_drain);
    let mut ignored = false;
    let order = loop {
        tokio::select! {
            order = control.orders.recv() => match order {
                Some(Order::Reload) => {
                    seen = reload.path.as_deref().and_then(contents);
                    reload_baseline(&state, &bootstrap, &reload);
                }
                Some(order) => break order,
                None if ignored => sleep(UPKEEP).await,
                None => ignored = true,
            },
            () = &mut inbound_drain, if !state.readiness.draining() => {}
            _ = upkeep.tick() => {
                bring_gauges_up_to_date(&state);
                refresh_certificates(&state, &mut certificates);
                let now = reload.path.as_deref().and_then(contents);
                if now.is_some() && now != seen {
                    seen = now;
                    reload_baseline(&state, &bootstrap, &reload);
                }
            }
        }
    };
    leave(&state, &bootstrap, order, &mut control).await;
}

fn contents(path: &std::path::Path) -> Option<Vec<u8>> {
    // A file that cannot be read now (an editor that is between its two steps) is looked at again.
    std::fs::read(path).ok()
}

/// `POST /drain`: the inbound side leaves, the outbound side stays for the application's last calls.
async fn drain_inbound_when_asked(state: &State, delay: Duration) {
    state.drain_inbound.notified().await;
    tracing::info!(delay_ms = delay.as_millis(), "the inbound side drains");
    state.advance(Some(Direction::Inbound), Phase::Leaving);
    sleep(delay).await;
    state.advance(Some(Direction::Inbound), Phase::Closing);
    std::future::pending::<()>().await;
}

/// SIGTERM: every listener leaves. See "Limits of the process" in the reference.
async fn leave(state: &State, bootstrap: &Bootstrap, order: Order, control: &mut Control) {
    let begun = Instant::now();
    let drain = &bootstrap.drain;
    state.readiness.drain();
    let served = |listener: &Arc<Listener>| {
        listener.config.direction == Direction::Inbound
            && listener.served.load(std::sync::atomic::Ordering::Relaxed)
    };
    let noticed = order == Order::ApplicationGone || !state.shared.listeners.iter().any(served);
    let delay = if noticed { Duration::ZERO } else { drain.delay };
    tracing::info!(delay_ms = delay.as_millis(), grace_ms = drain.grace.as_millis(), "leaving");
    state.advance(None, Phase::Leaving);
    let end = begun + drain.grace;
    let application = control.application.take().filter(|_| order != Order::ApplicationGone);
    let gone = Notify::new();
    let finish = async {
        tokio::select! {
            () = sleep(delay) => {}
            () = gone.notified() => gone.notify_one(),
        }
        state.advance(Some(Direction::Inbound), Phase::Closing);
        // What the inbound side still has to do may need the outbound side.
        while state.open(Some(Direction::Inbound)) > 0 {
            sleep(DRAIN_LOOK).await;
        }
        if let Some(application) = &application {
            // It may still call out, so the outbound side stays until it has ended.
            application.notify_one();
            gone.notified().await;
        }
        state.advance(None, Phase::Closing);
        while state.open(None) > 0 {
            sleep(DRAIN_LOOK).await;
        }
    };
    let hurried = async {
        loop {
            match control.orders.recv().await {
                Some(Order::Leave) => return,
                Some(Order::ApplicationGone) => gone.notify_one(),
                Some(Order::Reload) => {}
                None => std::future::pending().await,
            }
        }
    };
    let cut = tokio::select! {
        () = finish => None,
        () = sleep_until(end.into()) => Some("drain.grace is over"),
        () = hurried => Some("told to hurry"),
    };
    if let Some(why) = cut {
        let open = state.open(None);
        tracing::warn!(open, why, "connections are cut");
        state.advance(None, Phase::Cut);
        // Long enough for the workers to hear of it; they are stopped right after.
        sleep(DRAIN_LOOK).await;
    }
    tracing::info!(took_ms = begun.elapsed().as_millis(), "gone");
}

/// Reads the file again. What is wrong is said, and what ran goes on running.
fn reload_baseline(state: &State, bootstrap: &Bootstrap, reload: &Reload) {
    let loaded = (reload.load)();
    let updates = &state.shared.telemetry.metrics.policy_updates;
    let Some(file) = loaded.file.clone() else {
        (reload.report)(&loaded);
        updates.of(UpdateResult::Refused).increment(1);
        tracing::error!("the file has faults: what was in force stays");
        state.baseline().refused = Some("the file has faults; `weir check` lists them".to_owned());
        return;
    };
    if file.bootstrap != *bootstrap {
        tracing::warn!("the file changes more than policy: that takes effect at the next start");
    }
    match state.publisher.publish(Arc::new(file.policy)) {
        Ok(outcome) => {
            let mut baseline = state.baseline();
            baseline.documents = file.documents;
            baseline.loaded = SystemTime::now();
            baseline.refused = None;
            match outcome {
                Outcome::Applied { generation } => {
                    tracing::info!(generation, "the file's policy is in force");
                }
                Outcome::Unchanged => {
                    updates.of(UpdateResult::Unchanged).increment(1);
                    tracing::info!("the file was read again: its policy is the same");
                }
            }
        }
        Err(error) => {
            tracing::error!(%error, "the file's policy cannot be used: what was in force stays");
            state.baseline().refused = Some(error.to_string());
        }
    }
}

fn refresh_certificates(state: &State, certificates: &mut [(Arc<Listener>, Fingerprint)]) {
    for (listener, known) in certificates {
        let Some(tls) = &listener.tls else { continue };
        let name = &listener.config.name;
        let reloads = state.shared.telemetry.metrics.tls_reloads(name);
        match tls.refresh(known) {
            Ok(None) => {}
            Ok(Some(fingerprint)) => {
                *known = fingerprint;
                reloads.of(ReloadResult::Success).increment(1);
                tracing::info!(listener = %name, "the certificate has changed");
            }
            Err(error) => {
                // Seen once a second while it lasts, said once a minute.
                reloads.of(ReloadResult::Failure).increment(1);
                tracing::warn!(listener = %name, %error, "the certificate cannot be used: the old one stays");
            }
        }
    }
}

fn bring_gauges_up_to_date(state: &State) {
    state.shared.telemetry.metrics.upkeep(Instant::now());
    for upstream in &state.shared.snapshot.load().upstreams {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        upstream.metrics.endpoints.of(EndpointState::Unknown).set(count(upstream.candidates.len()));
        let total: u32 = upstream.candidates.iter().map(|c| c.endpoint.connections()).sum();
        let idle: u32 = upstream.candidates.iter().map(|c| c.endpoint.idle()).sum();
        upstream.pool_idle.set(i64::from(idle));
        upstream.pool_active.set(i64::from(total.saturating_sub(idle)));
    }
}

impl AdminView for State {
    fn status(&self) -> Value {
        let baseline = self.baseline();
        let snapshot = self.shared.snapshot.load();
        let listeners: Vec<_> = self
            .shared
            .listeners
            .iter()
            .map(|listener| {
                json!({
                    "name": listener.config.name.as_str(),
                    "address": listener.address.to_string(),
                    "direction": format!("{:?}", listener.config.direction).to_lowercase(),
                    "tls": listener.tls.is_some(),
                    "connections": listener.open(),
                    "phase": format!("{:?}", listener.phase.get()).to_lowercase(),
                })
            })
            .collect();
        json!({
            "service": self.service.as_str(),
            "instance": self.instance.as_str(),
            "zone": self.zone.as_ref().map(Name::as_str),
            "version": env!("CARGO_PKG_VERSION"),
            "started": timestamp(self.started),
            "workers": self.shared.loads.len(),
            "draining": self.readiness.draining(),
            "ready": self.readiness.ready().err().map_or(json!(true), |reasons| json!(reasons)),
            "policy": {
                "source": "baseline",
                "generation": snapshot.generation,
                "loaded": timestamp(baseline.loaded),
                "refused": baseline.refused,
                "routes": snapshot.routes.len(),
                "upstreams": snapshot.upstreams.len(),
            },
            "store": Value::Null,
            "listeners": listeners,
        })
    }

    fn policy(&self) -> Value {
        self.baseline().documents.to_json()
    }

    fn upstreams(&self) -> Value {
        let snapshot = self.shared.snapshot.load();
        let upstreams = snapshot.upstreams.iter().map(|upstream| {
            let endpoints: Vec<_> = upstream
                .candidates
                .iter()
                .map(|candidate| {
                    let endpoint = &candidate.endpoint;
                    json!({
                        "address": endpoint.address().to_string(),
                        "weight": candidate.config.weight,
                        "zone": candidate.config.zone.as_ref().map(Name::as_str),
                        "tier": candidate.config.tier,
                        "health": "unknown",
                        "in_flight": endpoint.in_flight(),
                        "connections": endpoint.connections(),
                        "idle": endpoint.idle(),
                        "requests": endpoint.requests(),
                        "failures": endpoint.failures(),
                    })
                })
                .collect();
            (upstream.name().to_string(), json!({ "endpoints": endpoints }))
        });
        Value::Object(upstreams.collect())
    }

    fn requests(&self) -> Value {
        self.shared.telemetry.recent.list()
    }

    fn ready(&self) -> Result<(), Vec<&'static str>> {
        self.readiness.ready()
    }

    fn live(&self) -> Result<(), Vec<String>> {
        self.readiness.live(Instant::now())
    }

    fn started(&self) -> bool {
        self.readiness.started()
    }

    fn drain(&self) {
        self.drain_inbound.notify_one();
    }

    fn set_log_level(&self, level: LogLevel) -> bool {
        self.log.set_level(level)
    }
}

fn timestamp(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map(|t| format!("{t:.3}")).unwrap_or_default()
}
