//! Checks as policy comes and goes, against origins on the same runtime.

use std::{
    fmt::Write as _,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{
    config::{
        self, Env, HostFacts, Policy,
        policy::{EndpointAddress, Health, HealthCheck},
    },
    snapshot::{self, Registry},
    telemetry::Metrics,
};

const NEVER: Duration = Duration::from_hours(1);

/// Waits for a condition, with a deadline.
#[track_caller]
fn until(what: &str, condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < deadline, "{caller}: waited in vain for {what}");
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Answers `/ok`, and everything else while it is well.
#[derive(Debug)]
struct Origin {
    address: EndpointAddress,
    well: AtomicBool,
    /// Answers nothing at all.
    hangs: AtomicBool,
    /// When it was asked.
    asked: Mutex<Vec<Instant>>,
    open: AtomicU64,
}

impl Origin {
    async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = Arc::new(Self {
            address: EndpointAddress::Socket(listener.local_addr().unwrap()),
            well: AtomicBool::new(true),
            hangs: AtomicBool::new(false),
            asked: Mutex::default(),
            open: AtomicU64::new(0),
        });
        let this = origin.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let this = this.clone();
                tokio::spawn(async move {
                    this.open.fetch_add(1, Ordering::Relaxed);
                    let mut head = [0; 1024];
                    let length = stream.read(&mut head).await.unwrap_or(0);
                    this.asked.lock().unwrap().push(Instant::now());
                    let good = head[..length].starts_with(b"GET /ok ") || this.well.load(Ordering::Relaxed);
                    let status = if good { "200 OK" } else { "503 Not Now" };
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                    if !this.hangs.load(Ordering::Relaxed) {
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                    while stream.read(&mut head).await.unwrap_or(0) > 0 {}
                    this.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        origin
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn health(path: &str, interval: Duration) -> Health {
    Health {
        check: HealthCheck::Http {
            method: ::http::Method::GET,
            path: path.into(),
            host: None,
            expect: vec![200..=299],
            contains: None,
        },
        port: None,
        interval,
        timeout: Duration::from_secs(10),
        rise: 2,
        fall: 3,
    }
}

/// Compiles snapshots one after the other.
struct World {
    registry: Registry,
    metrics: Arc<Metrics>,
}

impl World {
    fn new() -> Self {
        Self { registry: Registry::default(), metrics: Metrics::new(1, 1000, "0", "0") }
    }

    /// One upstream for each of these.
    fn snapshot(&mut self, upstreams: &[(&Origin, Option<Health>)], weight: u32) -> Snapshot {
        let mut text =
            "service: s\nlisteners: { in: { listen: 127.0.0.1:1 } }\npolicy:\n  routes: {}\n  upstreams:\n"
                .to_owned();
        for (index, (origin, _)) in upstreams.iter().enumerate() {
            let address = &origin.address;
            let _ = writeln!(
                text,
                "    u{index}: {{ endpoints: [{{ address: '{address}', weight: {weight} }}] }}"
            );
        }
        let host = HostFacts { hostname: "h".into(), cpus: 1 };
        let env = Env { vars: &|_| None, host: &host, probe: &|_, _| Ok(()) };
        let loaded = config::load("weir.yaml", text.as_bytes(), &env);
        let mut policy: Policy = loaded.file.unwrap_or_else(|| panic!("{:?}", loaded.faults)).policy;
        for (upstream, (_, health)) in policy.upstreams.values_mut().zip(upstreams) {
            Arc::make_mut(upstream).health = health.clone();
        }
        let policy = Arc::new(policy);
        snapshot::first(&policy, &[], &mut self.registry, &self.metrics).unwrap()
    }
}

fn endpoint(snapshot: &Snapshot) -> Arc<Endpoint> {
    snapshot.upstreams[0].candidates[0].endpoint.clone()
}

fn is(endpoint: &Arc<Endpoint>, standing: Standing) -> impl Fn() -> bool {
    let endpoint = endpoint.clone();
    move || endpoint.health().standing() == standing
}

#[tokio::test]
async fn it_takes_fall_bad_ones_and_rise_good_ones() {
    let (origin, mut world, mut checks) = (Origin::start().await, World::new(), Checks::default());
    let snapshot = world.snapshot(&[(&origin, Some(health("/", Duration::from_millis(5))))], 1);
    let endpoint = endpoint(&snapshot);
    let version = endpoint.vitals().version();
    checks.follow(&snapshot);
    until("the first result", is(&endpoint, Standing::Healthy)).await;
    origin.well.store(false, Ordering::Relaxed);
    let before = origin.asked();
    until("falling", is(&endpoint, Standing::Unhealthy)).await;
    // One may have been under way.
    assert!(origin.asked() + 1 >= before + 3);
    let last = endpoint.health().last().unwrap();
    assert_eq!(last.fault.as_deref(), Some("status 503"));
    origin.well.store(true, Ordering::Relaxed);
    until("rising", is(&endpoint, Standing::Healthy)).await;
    assert_eq!(endpoint.vitals().version(), version + 3);
    let checks = &snapshot.upstreams[0].metrics.checks;
    assert!(checks.of(HealthResult::Failure).value() >= 3 && checks.of(HealthResult::Success).value() >= 3);
}

#[tokio::test]
async fn an_endpoint_has_one_task_however_many_snapshots_name_it() {
    let (origin, other) = (Origin::start().await, Origin::start().await);
    let (mut world, mut checks) = (World::new(), Checks::default());
    let first = world.snapshot(&[(&origin, Some(health("/", NEVER)))], 1);
    checks.follow(&first);
    until("the first result", is(&endpoint(&first), Standing::Healthy)).await;
    let second =
        world.snapshot(&[(&origin, Some(health("/", NEVER))), (&other, Some(health("/", NEVER)))], 5);
    assert_eq!(endpoint(&first).id(), endpoint(&second).id());
    checks.follow(&second);
    checks.follow(&second);
    drop(first);
    assert_eq!(checks.len(), 2);
    let of_other = second.upstreams[1].candidates[0].endpoint.clone();
    until("the other", is(&of_other, Standing::Healthy)).await;
    assert_eq!((origin.asked(), other.asked()), (1, 1));
}

#[tokio::test]
async fn a_suspected_endpoint_is_checked_at_once_but_not_twice_a_second() {
    let (origin, mut world, mut checks) = (Origin::start().await, World::new(), Checks::default());
    let snapshot = world.snapshot(&[(&origin, Some(health("/", NEVER)))], 1);
    let endpoint = endpoint(&snapshot);
    checks.follow(&snapshot);
    until("the first result", is(&endpoint, Standing::Healthy)).await;
    let suspected = || {
        endpoint.health().suspect();
        checks.sweep();
        origin.asked()
    };
    until("three checks", || suspected() >= 3).await;
    let asked = origin.asked.lock().unwrap().clone();
    for (earlier, later) in asked.iter().zip(&asked[1..]) {
        // The origin sees a check later than it begins.
        assert!(*later - *earlier > RECHECK.mul_f64(0.9), "{:?}", *later - *earlier);
    }
}

#[tokio::test]
async fn what_leaves_the_policy_is_not_checked_any_more_and_nothing_is_known_of_it() {
    let (origin, mut world, mut checks) = (Origin::start().await, World::new(), Checks::default());
    let checked = Some(health("/", Duration::from_millis(5)));
    let snapshot = world.snapshot(&[(&origin, checked.clone())], 1);
    let endpoint = endpoint(&snapshot);
    origin.well.store(false, Ordering::Relaxed);
    checks.follow(&snapshot);
    until("the first result", is(&endpoint, Standing::Unhealthy)).await;
    // Neither a check that is under way says anything afterwards.
    origin.hangs.store(true, Ordering::Relaxed);
    until("one that hangs", || origin.open.load(Ordering::Relaxed) == 1 && origin.asked() > 1).await;
    let without = world.snapshot(&[(&origin, None)], 1);
    assert_eq!(endpoint.id(), super::tests::endpoint(&without).id());
    checks.follow(&without);
    assert!(checks.is_empty());
    assert_eq!((endpoint.health().standing(), endpoint.health().last()), (Standing::Unknown, None));
    until("its connection to be closed", || origin.open.load(Ordering::Relaxed) == 0).await;
    // And it is checked again when that is wanted again.
    origin.hangs.store(false, Ordering::Relaxed);
    checks.follow(&world.snapshot(&[(&origin, checked)], 1));
    until("the first result", is(&endpoint, Standing::Unhealthy)).await;
}

#[tokio::test]
async fn the_first_result_of_another_check_decides() {
    let (origin, mut world, mut checks) = (Origin::start().await, World::new(), Checks::default());
    origin.well.store(false, Ordering::Relaxed);
    let snapshot = world.snapshot(&[(&origin, Some(health("/wrong", NEVER)))], 1);
    let endpoint = endpoint(&snapshot);
    checks.follow(&snapshot);
    until("the first result", is(&endpoint, Standing::Unhealthy)).await;
    let mended = world.snapshot(&[(&origin, Some(health("/ok", NEVER)))], 1);
    checks.follow(&mended);
    until("the first result of the other", is(&endpoint, Standing::Healthy)).await;
    assert_eq!(origin.asked(), 2, "at once, and one is enough");
    // Other rules for the same check are no other check.
    let patient = Health { fall: 9, ..health("/ok", NEVER) };
    checks.follow(&world.snapshot(&[(&origin, Some(patient))], 1));
    until("it to be asked", || origin.asked() == 3).await;
    assert_eq!(endpoint.health().standing(), Standing::Healthy);
}

#[test]
fn intervals_are_jittered_by_a_fifth() {
    let mut rng = fastrand::Rng::with_seed(1);
    let waits: Vec<_> = (0..1000).map(|_| jittered(Duration::from_secs(5), &mut rng).as_secs_f64()).collect();
    assert!(waits.iter().all(|wait| (4.0..=6.0).contains(wait)));
    assert!(waits.iter().any(|wait| *wait < 4.1) && waits.iter().any(|wait| *wait > 5.9));
}
