//! Everything that is not traffic: live policy, reloads, certificates, gauges, the drain. One task on the control thread.

mod certificates;
mod discovery;
mod drain;
mod headcount;
mod health;
mod live;
mod minute;
mod presence;
mod reload;
mod rules;
mod upstreams;
mod view;

use std::{
    num::NonZeroU32,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::{Notify, mpsc, watch},
    time::{MissedTickBehavior, interval, sleep},
};

pub use self::live::Probe;
use self::{
    certificates::{Certificate, Upstreams},
    headcount::{Headcount, has_shared_limits},
    live::{Live, Shown, Source},
    rules::Rules,
};
use crate::{
    config::{Bootstrap, Documents, File, Loaded, Name, bootstrap::StoreSource},
    discovery::Discoveries,
    listener::{Fingerprint, Listener},
    memory,
    policy::Stamp,
    readiness::Readiness,
    shared_rate,
    snapshot::{Outcome, Publisher},
    store::layers::Layers,
    telemetry::{BreakerState, LogHandle, PoolState},
    upstream::Endpoint,
    worker::Shared,
};

/// How often gauges are brought up to date, free memory is given back, and the file and the certificates are looked at.
const UPKEEP: Duration = Duration::from_secs(1);

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
    /// Checks a file that live policy names.
    pub probe: Probe,
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
    /// What is known of the names that upstreams have looked up.
    discoveries: Arc<Discoveries>,
    readiness: Arc<Readiness>,
    log: LogHandle,
    baseline: Mutex<Baseline>,
    shown: Mutex<Shown>,
    rules: Mutex<Rules>,
    /// All layers of policy, once there are any.
    layers: OnceLock<Arc<Mutex<Layers>>>,
    /// Counts what others are told of live policy.
    news: watch::Sender<u64>,
    headcount: Mutex<Headcount>,
    /// Where limits are counted for all instances together.
    redis: Option<Arc<shared_rate::Client>>,
    drain_inbound: Notify,
    /// When the inbound side began to leave.
    leaving_since: OnceLock<Instant>,
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
        redis: Option<Arc<shared_rate::Client>>,
    ) -> Self {
        let now = SystemTime::now();
        Self {
            service: bootstrap.service.clone(),
            instance: bootstrap.instance.clone(),
            zone: bootstrap.zone.clone(),
            started: now,
            shared,
            publisher,
            discoveries: Arc::default(),
            readiness,
            log,
            baseline: Mutex::new(Baseline { documents, loaded: now, refused: None }),
            shown: Mutex::new(Shown::new()),
            rules: Mutex::default(),
            layers: OnceLock::new(),
            news: watch::Sender::new(0),
            headcount: Mutex::default(),
            redis,
            drain_inbound: Notify::new(),
            leaving_since: OnceLock::new(),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn readiness(&self) -> &Arc<Readiness> {
        &self.readiness
    }

    pub(crate) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// What is known of the names that upstreams have looked up.
    pub(crate) fn discoveries(&self) -> &Arc<Discoveries> {
        &self.discoveries
    }

    /// Something has changed that others are told.
    fn has_news(&self) {
        self.news.send_modify(|count| *count += 1);
    }

    /// The store counts so many instances.
    fn counted(&self, instances: u64) {
        self.shown().instances = Some(instances);
        #[expect(clippy::cast_precision_loss, reason = "a gauge of a few thousands at most")]
        self.shared.telemetry.metrics.live().instances.set(instances as f64);
        let taken_for = self.headcount().counted(instances, Instant::now());
        self.divide(taken_for);
    }

    /// A cache kept that there were so many.
    fn restore_instances(&self, kept: u64) {
        let taken_for = self.headcount().restore(kept);
        self.divide(taken_for);
    }

    /// Service-wide limits are divided by so many from now on.
    fn divide(&self, instances: u64) {
        let instances = u32::try_from(instances).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
        match self.publisher.instances(instances) {
            Ok(Outcome::Applied { .. }) => {
                tracing::info!(instances, "service-wide limits are divided among the instances");
            }
            Ok(Outcome::Unchanged) => {}
            Err(error) => tracing::error!(%error, "service-wide limits are divided as before"),
        }
    }

    fn headcount(&self) -> std::sync::MutexGuard<'_, Headcount> {
        self.headcount.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rules(&self) -> std::sync::MutexGuard<'_, Rules> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn baseline(&self) -> std::sync::MutexGuard<'_, Baseline> {
        self.baseline.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The control side, before the first request is served.
pub(crate) struct Begun {
    live: Live,
    source: Option<Source>,
    /// What was ordered meanwhile.
    order: Option<Order>,
    bootstrap: Bootstrap,
    reload: Reload,
    control: Control,
}

/// Finds the first policy: the store's, when it answers in time. What the file says is in force until then, for nobody.
pub(crate) async fn begin(
    state: &Arc<State>,
    file: &File,
    mut reload: Reload,
    mut control: Control,
) -> Begun {
    let bootstrap = file.bootstrap.clone();
    let probe = std::mem::replace(&mut reload.probe, Box::new(|_, _| Ok(())));
    let mut live = Live::new(state, &bootstrap, file, probe);
    discovery::begin(state);
    health::begin(state);
    let (source, order) = match &bootstrap.store {
        Some(store) => live::boot(&mut live, store, &mut control.orders).await,
        None => (None, None),
    };
    if order.is_none() {
        discovery::first_look_ups(state).await;
    }
    Begun { live, source, order, bootstrap, reload, control }
}

/// Carries the control side until the drain is over.
pub(crate) async fn run(state: Arc<State>, certificates: Vec<(Arc<Listener>, Fingerprint)>, begun: Begun) {
    let Begun { mut live, mut source, order, bootstrap, reload, mut control } = begun;
    let (ending, ended) = watch::channel(false);
    let presence = tell_of_oneself(&state, &bootstrap, ended);
    let mut seen = reload.path.as_deref().and_then(contents);
    let mut upkeep = interval(UPKEEP);
    upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut certificates: Vec<_> =
        certificates.into_iter().map(|(listener, known)| Certificate::new(listener, known)).collect();
    let inbound_drain = drain::inbound_when_asked(&state, bootstrap.drain.delay);
    let mut inbound_drain = std::pin::pin!(inbound_drain);
    let mut upstreams = Upstreams::default();
    let mut alone = Alone::default();
    let mut ignored = false;
    let order = loop {
        if let Some(order) = order {
            break order;
        }
        tokio::select! {
            order = control.orders.recv() => match order {
                Some(Order::Reload) => {
                    seen = reload.path.as_deref().and_then(contents);
                    reload::baseline(&mut live, &state, &bootstrap, &reload);
                }
                Some(order) => break order,
                None if ignored => sleep(UPKEEP).await,
                None => ignored = true,
            },
            event = live::next(source.as_mut()) => live.take(&event),
            () = live::expiry(&live) => live.tick(),
            () = &mut inbound_drain => {}
            _ = upkeep.tick() => {
                live.tick();
                alone.look(&state);
                bring_gauges_up_to_date(&state);
                state.rules().refresh(&state.shared.snapshot.load(), Instant::now());
                state.publisher.tidy();
                memory::give_back();
                for certificate in &mut certificates {
                    certificate.refresh(&state.shared.telemetry.metrics);
                }
                upstreams.refresh(&state.shared.snapshot.load());
                let now = reload.path.as_deref().and_then(contents);
                if now.is_some() && now != seen {
                    seen = now;
                    reload::baseline(&mut live, &state, &bootstrap, &reload);
                }
            }
        }
    };
    // Policy still changes while the last requests run.
    let leaving = drain::leave(&state, &bootstrap, order, &mut control);
    let mut leaving = std::pin::pin!(leaving);
    loop {
        tokio::select! {
            () = &mut leaving => break,
            event = live::next(source.as_mut()) => live.take(&event),
            _ = upkeep.tick() => live.tick(),
        }
    }
    ending.send_replace(true);
    if let Some(presence) = presence {
        // Fails only when it panicked.
        let _ = presence.await;
    }
    if let Some(redis) = &state.redis {
        redis.stop();
    }
    live.end();
}

/// Begins to say in the store what this instance has applied, where that is wanted.
fn tell_of_oneself(
    state: &Arc<State>,
    bootstrap: &Bootstrap,
    ended: watch::Receiver<bool>,
) -> Option<tokio::task::JoinHandle<()>> {
    let store = bootstrap.store.as_ref()?;
    let StoreSource::Etcd(etcd) = &store.source else { return None };
    let changes = state.news.subscribe();
    let kept = presence::keep(state.clone(), etcd.clone(), store.presence?, changes, ended);
    Some(tokio::spawn(kept))
}

/// Says once that a service-wide limit is divided by nobody.
#[derive(Debug, Default)]
struct Alone {
    /// How many looks in a row found it so.
    looks: u32,
}

impl Alone {
    /// The store has so many seconds to count the instances.
    const PATIENCE: u32 = 5;

    /// About once a second.
    fn look(&mut self, state: &State) {
        let known = state.publisher.instances_known().is_some();
        if known || !has_shared_limits(&state.publisher.policy()) {
            self.looks = 0;
            return;
        }
        self.looks = self.looks.saturating_add(1);
        if self.looks == Self::PATIENCE {
            tracing::warn!(
                "a limit is for the whole service, but no store has said how many instances there are: until one does, this \
                 one has all of it"
            );
        }
    }
}

fn contents(path: &std::path::Path) -> Option<Vec<u8>> {
    // A file that cannot be read now (an editor that is between its two steps) is looked at again.
    std::fs::read(path).ok()
}

/// Sets the gauges that nobody keeps up to date as things happen.
pub(crate) fn bring_gauges_up_to_date(state: &State) {
    let now = Instant::now();
    state.shared.telemetry.metrics.upkeep(now);
    let (snapshot, now) = (state.shared.snapshot.load(), Stamp::of(now));
    for upstream in &snapshot.upstreams {
        upstream.show_endpoints(now);
        upstream.metrics.breaker.show(BreakerState::of(&upstream.vitals.breaker.shown(now)));
        let sum = |of: fn(&Endpoint) -> u32| upstream.candidates.iter().map(|c| of(&c.endpoint)).sum::<u32>();
        let (open, idle, connecting) =
            (sum(Endpoint::connections), sum(Endpoint::idle), sum(Endpoint::connecting));
        upstream.pool.of(PoolState::Idle).set(i64::from(idle));
        upstream.pool.of(PoolState::Connecting).set(i64::from(connecting));
        upstream.pool.of(PoolState::Active).set(i64::from(open.saturating_sub(idle)));
    }
    rules::show(&snapshot);
    for own in snapshot.routes.iter().flat_map(|route| &route.breakers) {
        own.metrics.show(BreakerState::of(&own.breaker.shown(now)));
    }
}
