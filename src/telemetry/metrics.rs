//! All metrics of the process: where handles come from when a snapshot is compiled, and what keeps them up
//! to date.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use tokio::runtime::RuntimeMetrics;

use super::{
    cells::{Counter, Gauge, Histogram},
    labels::{DropCause, Label, PerLabel, PolicyKind, PolicySource, ReloadResult, Stage, UpdateResult},
    names,
    process::ProcessGauges,
    registry::Registry,
    resources::{
        BreakerMetrics, LimitMetrics, ListenerMetrics, OTHER, PlanMetrics, Release, RouteMetrics,
        SwitchMetrics, UpstreamMetrics,
    },
};
use crate::{
    config::Name,
    error::Reason,
    store::{Lost, ReadCause},
};

/// How many lines are exported by default before resources are merged.
pub const DEFAULT_MAX_SERIES: usize = 2_000;

/// How long the series of a resource stay after it has left the policy, so that the last scrape gets what
/// happened since the one before. Gauges are at 0 by then.
pub const LINGER: Duration = Duration::from_mins(2);

/// All metrics of the process.
///
/// Resolve handles while a snapshot is compiled; on the request path use nothing but handles.
pub struct Metrics {
    registry: Arc<Registry>,
    resources: Mutex<Resources>,
    watched: Mutex<Watched>,
    process: ProcessGauges,
    _build_info: Gauge,
    series_overflow: Counter,
    /// Panics that were caught, one request each.
    pub panics: Counter,
    /// What became of each attempt to take a new policy.
    pub policy_updates: PerLabel<UpdateResult, Counter>,
    /// How long it took from a changed policy to the snapshot.
    pub policy_apply: Histogram,
    /// Set by [`Self::set_policy_source`].
    policy_source: PerLabel<PolicySource, Gauge>,
    /// How many documents of each kind are refused at present.
    pub policy_refused: PerLabel<PolicyKind, Gauge>,
    /// Set when there is a store.
    live: OnceLock<PolicyMetrics>,
    /// Access records that were not written.
    pub access_dropped: Arc<PerLabel<DropCause, Counter>>,
    /// Log lines that were not written.
    pub log_dropped: Counter,
    /// Answers that Weir made where no route had matched.
    made_without_route: Arc<PerLabel<Reason, Counter>>,
}

/// How live policy and its store stand.
#[derive(Debug)]
pub struct PolicyMetrics {
    /// The store's revisions.
    pub revision: PerLabel<Stage, Gauge>,
    /// Seconds since the last proof of being current.
    pub sync_age: Gauge,
    /// Keys that are held.
    pub held: Gauge,
    /// Live instances of the service.
    pub instances: Gauge,
    /// Whether every protection is off.
    pub bypass: Gauge,
    /// Whether the store answers.
    pub connected: Gauge,
    /// Connections that ended, by cause.
    pub reconnects: PerLabel<Lost, Counter>,
    /// Whole reads, by cause.
    pub reads: PerLabel<ReadCause, Counter>,
}

impl PolicyMetrics {
    fn new(registry: &Registry) -> Self {
        Self {
            revision: PerLabel::new(|stage| registry.resolve(&names::POLICY_REVISION, &[stage])),
            sync_age: registry.resolve(&names::POLICY_SYNC_AGE, &[]),
            held: registry.resolve(&names::POLICY_HELD, &[]),
            instances: registry.resolve(&names::POLICY_INSTANCES, &[]),
            bypass: registry.resolve(&names::POLICY_BYPASS, &[]),
            connected: registry.resolve(&names::STORE_CONNECTED, &[]),
            reconnects: PerLabel::new(|cause| registry.resolve(&names::STORE_RECONNECTS, &[cause])),
            reads: PerLabel::new(|cause| registry.resolve(&names::STORE_READS, &[cause])),
        }
    }
}

#[derive(Default)]
struct Resources {
    listeners: BTreeMap<Name, Kept<ListenerMetrics>>,
    routes: BTreeMap<(Name, Name), Kept<RouteMetrics>>,
    /// By listener.
    other_routes: BTreeMap<Name, Kept<RouteMetrics>>,
    upstreams: BTreeMap<Name, Kept<UpstreamMetrics>>,
    /// Breakers of routes, by upstream and route.
    breakers: BTreeMap<(Name, Name), Kept<BreakerMetrics>>,
    limits: BTreeMap<Name, Kept<LimitMetrics>>,
    switches: BTreeMap<Name, Kept<SwitchMetrics>>,
    plans: BTreeMap<Name, Kept<PlanMetrics>>,
}

#[derive(Default)]
struct Watched {
    last: Option<Instant>,
    workers: Vec<Worker>,
}

struct Worker {
    runtime: RuntimeMetrics,
    busy_before: Duration,
    ratio: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("lines", &self.registry.lines()).finish_non_exhaustive()
    }
}

impl Metrics {
    /// Metrics for a process with so many workers.
    ///
    /// `max_series` bounds the exported lines (default [`DEFAULT_MAX_SERIES`]); `version` and `commit` go
    /// into `weir_build_info`.
    pub fn new(workers: usize, max_series: usize, version: &str, commit: &str) -> Arc<Self> {
        let registry = Arc::new(Registry::new(workers, max_series));
        let build_info = registry.resolve(&names::BUILD_INFO, &[version, commit]);
        build_info.set(1.0);
        let made = PerLabel::new(|reason| registry.resolve(&names::RESPONSES_MADE, &["", reason]));
        let dropped = PerLabel::new(|cause| registry.resolve(&names::ACCESS_DROPPED, &[cause]));
        Arc::new(Self {
            resources: Mutex::default(),
            watched: Mutex::default(),
            process: ProcessGauges::new(&registry),
            _build_info: build_info,
            series_overflow: registry.resolve(&names::SERIES_OVERFLOW, &[]),
            panics: registry.resolve(&names::PANICS, &[]),
            policy_updates: PerLabel::new(|result| registry.resolve(&names::POLICY_UPDATES, &[result])),
            policy_apply: registry.resolve(&names::POLICY_APPLY, &[]),
            policy_source: PerLabel::new(|source| registry.resolve(&names::POLICY_SOURCE, &[source])),
            policy_refused: PerLabel::new(|kind| registry.resolve(&names::POLICY_REFUSED, &[kind])),
            live: OnceLock::new(),
            access_dropped: Arc::new(dropped),
            log_dropped: registry.resolve(&names::LOG_DROPPED, &[]),
            made_without_route: Arc::new(made),
            registry,
        })
    }

    /// The handles of a listener. Listeners are fixed for the life of the process and never merged.
    pub fn listener(&self, listener: &Name) -> Arc<ListenerMetrics> {
        let mut resources = self.resources();
        let made = &self.made_without_route;
        let new = || Arc::new(ListenerMetrics::new(&self.registry, &self.series_overflow, listener, made));
        resources.listeners.entry(listener.clone()).or_insert_with(|| Kept::new(new())).touch()
    }

    /// The handles of a route on a listener; when the limit of series is reached those of `_other`, which
    /// all such routes of the listener share until a later call finds room.
    ///
    /// The same names give the same handles for as long as anybody holds them, and [`LINGER`] longer.
    pub fn route(&self, listener: &Name, route: &Name) -> Arc<RouteMetrics> {
        let new = |label: &str| {
            Kept::new(Arc::new(RouteMetrics::new(&self.registry, &self.series_overflow, listener, label)))
        };
        let mut resources = self.resources();
        let key = (listener.clone(), route.clone());
        if let Some(known) = resources.routes.get_mut(&key) {
            return known.touch();
        }
        match self.label_or_other(route, RouteMetrics::lines()) {
            OTHER => resources.other_routes.entry(listener.clone()).or_insert_with(|| new(OTHER)).touch(),
            own => resources.routes.entry(key).or_insert_with(|| new(own)).touch(),
        }
    }

    /// The handles of an upstream; `_other`'s when the limit of series is reached.
    pub fn upstream(&self, upstream: &Name) -> Arc<UpstreamMetrics> {
        let mut resources = self.resources();
        let new = || {
            let label = self.label_or_other(upstream, UpstreamMetrics::lines());
            Arc::new(UpstreamMetrics::new(&self.registry, label))
        };
        resources.upstreams.entry(upstream.clone()).or_insert_with(|| Kept::new(new())).touch()
    }

    /// The handles of the breaker that a route has for its use of an upstream; those of the route `_other` when the limit of
    /// series is reached.
    pub fn breaker(&self, upstream: &Name, route: &Name) -> Arc<BreakerMetrics> {
        let mut resources = self.resources();
        let new = || {
            let route = self.label_or_other(route, BreakerMetrics::lines());
            let upstream = if route == OTHER { OTHER } else { upstream.as_str() };
            Arc::new(BreakerMetrics::new(&self.registry, upstream, route))
        };
        let key = (upstream.clone(), route.clone());
        resources.breakers.entry(key).or_insert_with(|| Kept::new(new())).touch()
    }

    /// The handles of a limit; `_other`'s when the limit of series is reached.
    pub fn limit(&self, limit: &Name) -> Arc<LimitMetrics> {
        let mut resources = self.resources();
        let new = || {
            let label = self.label_or_other(limit, LimitMetrics::lines());
            Arc::new(LimitMetrics::new(&self.registry, label))
        };
        resources.limits.entry(limit.clone()).or_insert_with(|| Kept::new(new())).touch()
    }

    /// The handles of a switch; `_other`'s when the limit of series is reached.
    pub fn switch(&self, switch: &Name) -> Arc<SwitchMetrics> {
        let mut resources = self.resources();
        let new = || {
            let label = self.label_or_other(switch, SwitchMetrics::lines());
            Arc::new(SwitchMetrics::new(&self.registry, label))
        };
        resources.switches.entry(switch.clone()).or_insert_with(|| Kept::new(new())).touch()
    }

    /// The handles of a plan; `_other`'s when the limit of series is reached.
    pub fn plan(&self, plan: &Name) -> Arc<PlanMetrics> {
        let mut resources = self.resources();
        let new = || {
            let label = self.label_or_other(plan, PlanMetrics::lines());
            Arc::new(PlanMetrics::new(&self.registry, label))
        };
        resources.plans.entry(plan.clone()).or_insert_with(|| Kept::new(new())).touch()
    }

    /// The counters of certificate reloads of a listener with TLS.
    pub fn tls_reloads(&self, listener: &Name) -> PerLabel<ReloadResult, Counter> {
        PerLabel::new(|result| self.registry.resolve(&names::TLS_RELOADS, &[listener.as_str(), result]))
    }

    /// Says where the policy in force came from.
    pub fn set_policy_source(&self, source: PolicySource) {
        for other in PolicySource::ALL {
            self.policy_source.of(*other).set(f64::from(u8::from(*other == source)));
        }
    }

    /// The handles of live policy; they are there from the first call on.
    pub fn live(&self) -> &PolicyMetrics {
        self.live.get_or_init(|| PolicyMetrics::new(&self.registry))
    }

    /// From now on reports how busy worker number `index` is.
    ///
    /// The worker's runtime must be a current-thread (or local) one.
    pub fn watch_worker(&self, index: usize, runtime: RuntimeMetrics) {
        let ratio = self.registry.resolve(&names::WORKER_BUSY, &[&index.to_string()]);
        let busy_before = runtime.worker_total_busy_duration(0);
        lock(&self.watched).workers.push(Worker { runtime, busy_before, ratio });
    }

    /// Brings the worker gauges up to date and forgets what has left the policy. For the control thread,
    /// once a second.
    pub fn upkeep(&self, now: Instant) {
        lock(&self.watched).measure(now);
        let mut resources = self.resources();
        let Resources { listeners, routes, other_routes, upstreams, breakers, limits, switches, plans } =
            &mut *resources;
        listeners.retain(|_, kept| kept.stays(now));
        routes.retain(|_, kept| kept.stays(now));
        other_routes.retain(|_, kept| kept.stays(now));
        upstreams.retain(|_, kept| kept.stays(now));
        breakers.retain(|_, kept| kept.stays(now));
        limits.retain(|_, kept| kept.stays(now));
        switches.retain(|_, kept| kept.stays(now));
        plans.retain(|_, kept| kept.stays(now));
        drop(resources);
        self.registry.prune();
    }

    /// Everything in the Prometheus text format 0.0.4, the process's own figures read at this moment.
    pub fn render(&self) -> String {
        self.process.refresh();
        self.registry.render()
    }

    fn label_or_other<'a>(&self, name: &'a Name, lines: usize) -> &'a str {
        if self.registry.has_room(lines) {
            return name.as_str();
        }
        self.series_overflow.increment(1);
        OTHER
    }

    fn resources(&self) -> MutexGuard<'_, Resources> {
        lock(&self.resources)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The maps and gauges behind these locks hold no invariant that a panic could break.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watched {
    fn measure(&mut self, now: Instant) {
        let passed = self.last.map(|last| now.saturating_duration_since(last));
        if passed.is_some_and(|passed| passed.is_zero()) {
            return;
        }
        self.last = Some(now);
        for worker in &mut self.workers {
            let busy = worker.runtime.worker_total_busy_duration(0);
            let spent = busy.saturating_sub(worker.busy_before);
            worker.busy_before = busy;
            if let Some(passed) = passed {
                // A long poll is added when it ends, so a short interval can seem more than full.
                worker.ratio.set(spent.div_duration_f64(passed).min(1.0));
            }
        }
    }
}

/// The handles of a resource, and since when nobody but this map holds them.
struct Kept<T> {
    handles: Arc<T>,
    unused_since: Option<Instant>,
}

impl<T> Kept<T> {
    fn new(handles: Arc<T>) -> Self {
        Self { handles, unused_since: None }
    }

    fn touch(&mut self) -> Arc<T> {
        self.unused_since = None;
        self.handles.clone()
    }
}

impl<T: Release> Kept<T> {
    fn stays(&mut self, now: Instant) -> bool {
        if Arc::strong_count(&self.handles) > 1 {
            self.unused_since = None;
            return true;
        }
        let since = *self.unused_since.get_or_insert_with(|| {
            self.handles.release();
            now
        });
        now.saturating_duration_since(since) < LINGER
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    use http::{Method, StatusCode};

    use super::*;
    use crate::telemetry::labels::{EndpointState, LimitDecision, Outcome, SwitchMode};

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn metrics(max_series: usize) -> Arc<Metrics> {
        Metrics::new(2, max_series, "1.2.3", "abc")
    }

    /// The value of the line that begins with `series`.
    fn value(text: &str, series: &str) -> Option<f64> {
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    fn busy() -> (Arc<Metrics>, [Arc<dyn std::any::Any + Send + Sync>; 3]) {
        let metrics = metrics(DEFAULT_MAX_SERIES);
        let listener = metrics.listener(&name("in"));
        let route = metrics.route(&name("in"), &name("all"));
        let upstream = metrics.upstream(&name("app"));
        for (method, status) in [(Method::GET, 200), (Method::GET, 200), (Method::POST, 503)] {
            route.finished(&method, StatusCode::from_u16(status).unwrap(), Duration::from_millis(3));
        }
        route.made(Reason::ConnectRefused);
        listener.made.of(Reason::NoRoute).increment(1);
        listener.overhead.record(Duration::from_micros(40));
        upstream.attempts.of(Outcome::ConnectError).increment(4);
        upstream.endpoints.of(EndpointState::Unknown).set(3);
        metrics.set_policy_source(PolicySource::Baseline);
        let handles: [Arc<dyn std::any::Any + Send + Sync>; 3] = [listener, route, upstream];
        (metrics, handles)
    }

    #[test]
    fn what_was_counted_is_what_is_scraped() {
        let (metrics, _handles) = busy();
        let text = metrics.render();
        for (series, expected) in [
            ("weir_requests_total{listener=\"in\",route=\"all\",method=\"GET\",code=\"200\"}", 2.0),
            ("weir_requests_total{listener=\"in\",route=\"all\",method=\"POST\",code=\"503\"}", 1.0),
            ("weir_request_duration_seconds_count{listener=\"in\",route=\"all\"}", 3.0),
            ("weir_request_duration_seconds_sum{listener=\"in\",route=\"all\"}", 0.009),
            ("weir_responses_made_total{route=\"all\",reason=\"connect_refused\"}", 1.0),
            ("weir_responses_made_total{route=\"\",reason=\"no_route\"}", 1.0),
            ("weir_responses_made_total{route=\"\",reason=\"malformed\"}", 0.0),
            ("weir_attempts_total{upstream=\"app\",outcome=\"connect_error\"}", 4.0),
            ("weir_attempts_total{upstream=\"app\",outcome=\"success\"}", 0.0),
            ("weir_endpoints{upstream=\"app\",state=\"unknown\"}", 3.0),
            ("weir_policy_source{source=\"baseline\"}", 1.0),
            ("weir_policy_source{source=\"store\"}", 0.0),
            ("weir_build_info{version=\"1.2.3\",commit=\"abc\"}", 1.0),
        ] {
            assert_eq!(value(&text, series), Some(expected), "{series} in\n{text}");
        }
        assert_eq!(text.lines().filter(|l| !l.starts_with('#')).count(), metrics.registry.lines());
    }

    #[test]
    fn every_histogram_is_cumulative_and_complete() {
        let (metrics, _handles) = busy();
        // One series of each: what no route had matched has its own.
        let routed = |line: &&str| !line.contains("route=\"\"");
        let text = metrics.render().lines().filter(routed).collect::<Vec<_>>().join("\n");
        let mut histograms = 0;
        for spec in names::ALL.iter().filter(|spec| spec.kind == names::Kind::Histogram) {
            let bucket = format!("{}_bucket{{", spec.name);
            let counts: Vec<(f64, f64)> = text
                .lines()
                .filter(|line| line.starts_with(&bucket))
                .map(|line| {
                    let (series, value) = line.rsplit_once(' ').unwrap();
                    let le = series.split("le=\"").nth(1).unwrap().trim_end_matches("\"}");
                    (le.replace("+Inf", "inf").parse().unwrap(), value.parse().unwrap())
                })
                .collect();
            assert_eq!(counts.len(), spec.buckets.len() + 1, "{}", spec.name);
            assert!(counts.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{}: {counts:?}", spec.name);
            let (last, total) = *counts.last().unwrap();
            assert!(last.is_infinite());
            let count = text.lines().find(|l| l.starts_with(&format!("{}_count", spec.name))).unwrap();
            assert!(count.ends_with(&format!(" {total}")));
            assert!(text.contains(&format!("{}_sum", spec.name)));
            histograms += 1;
        }
        assert_eq!(histograms, 4);
    }

    /// Needs `promtool` (Debian: prometheus).
    #[test]
    fn promtool_has_nothing_to_say() {
        let (metrics, _handles) = busy();
        let tool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut tool = tool.expect("promtool is needed: apt-get install prometheus");
        tool.stdin.take().unwrap().write_all(metrics.render().as_bytes()).unwrap();
        let output = tool.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.trim().is_empty(), "{said}");
    }

    #[test]
    fn equal_names_share_handles_across_snapshots() {
        let metrics = metrics(DEFAULT_MAX_SERIES);
        let before = metrics.route(&name("in"), &name("all"));
        before.finished(&Method::GET, StatusCode::OK, Duration::ZERO);
        let after = metrics.route(&name("in"), &name("all"));
        drop(before);
        metrics.upkeep(Instant::now());
        after.finished(&Method::GET, StatusCode::OK, Duration::ZERO);
        assert_eq!(
            value(&metrics.render(), "weir_request_duration_seconds_count{listener=\"in\",route=\"all\"}"),
            Some(2.0)
        );
    }

    #[test]
    fn what_left_the_policy_lingers_at_zero_and_then_goes() {
        let metrics = metrics(DEFAULT_MAX_SERIES);
        let start = Instant::now();
        let upstream = metrics.upstream(&name("app"));
        upstream.endpoints.of(EndpointState::Healthy).set(2);
        upstream.attempts.of(Outcome::Success).increment(7);
        metrics.upkeep(start);
        let (endpoints, attempts) = (
            "weir_endpoints{upstream=\"app\",state=\"healthy\"}",
            "weir_attempts_total{upstream=\"app\",outcome=\"success\"}",
        );
        assert_eq!(value(&metrics.render(), endpoints), Some(2.0));
        drop(upstream);
        metrics.upkeep(start);
        assert_eq!(value(&metrics.render(), endpoints), Some(0.0));
        assert_eq!(value(&metrics.render(), attempts), Some(7.0));
        metrics.upkeep(start + LINGER);
        assert!(!metrics.render().contains("\"app\""));
    }

    #[test]
    fn past_the_limit_resources_merge_and_are_counted() {
        let fixed = metrics(DEFAULT_MAX_SERIES).registry.lines();
        let metrics = metrics(fixed + 2 * UpstreamMetrics::lines());
        let upstreams: Vec<_> = (0..5).map(|n| metrics.upstream(&name(&format!("u{n}")))).collect();
        for upstream in &upstreams {
            upstream.attempts.of(Outcome::Success).increment(1);
            upstream.endpoints.of(EndpointState::Unknown).set(2);
        }
        let text = metrics.render();
        for (upstream, attempts) in
            [("u0", Some(1.0)), ("u1", Some(1.0)), ("u2", None), ("_other", Some(3.0))]
        {
            let series = format!("weir_attempts_total{{upstream=\"{upstream}\",outcome=\"success\"}}");
            assert_eq!(value(&text, &series), attempts, "{series}");
        }
        assert_eq!(value(&text, "weir_endpoints{upstream=\"_other\",state=\"unknown\"}"), Some(6.0));
        assert_eq!(value(&text, "weir_series_overflow_total"), Some(3.0));
    }

    #[test]
    fn merged_limits_and_switches_still_know_what_they_did_themselves() {
        let fixed = metrics(DEFAULT_MAX_SERIES).registry.lines();
        let metrics = metrics(fixed);
        let [a, b] = ["a", "b"].map(|limit| metrics.limit(&name(limit)));
        a.decisions.of(LimitDecision::Refused).increment(2);
        b.decisions.of(LimitDecision::Refused).increment(3);
        let of = |limit: &LimitMetrics| limit.decisions.of(LimitDecision::Refused).value();
        assert_eq!((of(&a), of(&b)), (2, 3));
        let [a, b] = ["a", "b"].map(|switch| metrics.switch(&name(switch)));
        a.hits.of(SwitchMode::On).increment(1);
        b.hits.of(SwitchMode::On).increment(1);
        assert_eq!((a.hits.of(SwitchMode::On).value(), b.hits.of(SwitchMode::On).value()), (1, 1));
        let text = metrics.render();
        let refused = "weir_limit_decisions_total{limit=\"_other\",decision=\"refused\"}";
        assert_eq!(value(&text, refused), Some(5.0));
        assert_eq!(value(&text, "weir_switch_hits_total{switch=\"_other\",mode=\"on\"}"), Some(2.0));
    }

    #[test]
    fn a_merged_route_gets_its_own_series_once_there_is_room() {
        let fixed = metrics(DEFAULT_MAX_SERIES).registry.lines();
        let metrics = metrics(fixed + RouteMetrics::lines());
        let count = |route: &str| {
            let series = format!("weir_request_duration_seconds_count{{listener=\"in\",route=\"{route}\"}}");
            value(&metrics.render(), &series)
        };
        let [a, b, c] = ["a", "b", "c"].map(|route| metrics.route(&name("in"), &name(route)));
        for route in [&a, &b, &c] {
            route.duration.record(Duration::from_millis(1));
        }
        assert!(Arc::ptr_eq(&b, &c), "merged routes take no memory each");
        assert_eq!((count("a"), count("b"), count("_other")), (Some(1.0), None, Some(2.0)));
        drop([a, b, c]);
        let start = Instant::now();
        metrics.upkeep(start);
        metrics.upkeep(start + LINGER);
        let b = metrics.route(&name("in"), &name("b"));
        b.duration.record(Duration::from_millis(1));
        assert_eq!((count("a"), count("b"), count("_other")), (None, Some(1.0), None));
    }

    #[test]
    fn an_upstream_that_makes_up_statuses_cannot_make_series() {
        let metrics = metrics(400);
        let route = metrics.route(&name("in"), &name("all"));
        for status in 100..1000 {
            for method in ["GET", "POST", "PUT", "DELETE", "X"] {
                let method = Method::from_bytes(method.as_bytes()).unwrap();
                route.finished(&method, StatusCode::from_u16(status).unwrap(), Duration::ZERO);
            }
        }
        assert!(metrics.registry.lines() <= 400 + 6, "{} lines", metrics.registry.lines());
        let text = metrics.render();
        let total: u64 = text
            .lines()
            .filter(|l| l.starts_with("weir_requests_total{"))
            .map(|l| l.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
            .sum();
        assert_eq!(total, 900 * 5, "merged, not lost");
        assert!(text.contains("route=\"_other\",method=\"other\",code=\"5xx\""));
    }

    #[test]
    fn workers_report_how_busy_they_are() {
        let metrics = metrics(DEFAULT_MAX_SERIES);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        metrics.watch_worker(0, runtime.metrics());
        let start = Instant::now();
        metrics.upkeep(start);
        runtime.block_on(async {
            tokio::spawn(async {
                let busy = Instant::now();
                while busy.elapsed() < Duration::from_millis(20) {}
            })
            .await
            .unwrap();
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        });
        // As if a second had passed: the 20 ms above are at least 2 % of it.
        metrics.upkeep(start + Duration::from_secs(1));
        let ratio = value(&metrics.render(), "weir_worker_busy_ratio{worker=\"0\"}").unwrap();
        assert!((0.02..=1.0).contains(&ratio), "{ratio}");
    }
}
