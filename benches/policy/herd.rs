//! A thousand instances in one process, and an etcd that is killed and comes back: how hard it is hit, and how long it
//! takes until every instance is current again; beside clients as they are usually written.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::runtime::Handle;
use weir::{
    config::Name,
    store::{
        Event,
        etcd::{self, Config},
        key::Identity,
        watch::Settings,
    },
};

use crate::{
    machinery::{Etcd, fail, get, quantile, runtime},
    naive,
};

/// How many instances there are; `WEIR_BENCH_HERD` says another number.
const HERD: usize = 1_000;

/// How long lies between the starts of two: what is measured is not how one process starts a thousand.
const RAMP: Duration = Duration::from_millis(20);

/// How many keys their policy has, half of it the fleet's and half the service's.
const KEYS: usize = 1_000;

/// How long etcd is away.
const AWAY: Duration = Duration::from_secs(3);

/// How long they may take to be current again.
const PATIENCE: Duration = Duration::from_mins(1);

/// How often etcd is asked for its counts.
const SAMPLE: Duration = Duration::from_millis(100);

pub(crate) fn measure() {
    let herd = std::env::var("WEIR_BENCH_HERD").ok().and_then(|text| text.parse().ok()).unwrap_or(HERD);
    println!("\n## {herd} instances of {KEYS} keys, and an etcd that is killed and is back after {AWAY:?}\n");
    println!(
        "| client | reads | of keys and values | peak reads/s | sent by etcd | current again: p50 | the last |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for (name, trust_progress) in
        [("Weir, proofs by progress", true), ("Weir, proofs by transactions", false)]
    {
        one(name, herd, |running, n, endpoint, current| {
            instance(running, n, endpoint, current, trust_progress);
        });
    }
    one("naive", herd, |running, n, endpoint, current| {
        running.spawn(naive::follow(n, endpoint.to_owned(), current.clone()));
    });
}

/// When each instance was current last.
#[derive(Clone, Debug)]
pub(crate) struct Current(Arc<Vec<Mutex<Option<Instant>>>>);

impl Current {
    fn new(herd: usize) -> Self {
        Self(Arc::new((0..herd).map(|_| Mutex::new(None)).collect()))
    }

    /// Notes that an instance is current, unless that is known.
    pub(crate) fn note(&self, instance: usize, at: Instant) {
        if let Some(cell) = self.0.get(instance) {
            cell.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(at);
        }
    }

    fn forget(&self) {
        for cell in self.0.iter() {
            *cell.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    fn all(&self) -> Vec<Instant> {
        self.0.iter().filter_map(|cell| *cell.lock().unwrap_or_else(PoisonError::into_inner)).collect()
    }
}

fn one(name: &str, herd: usize, start: impl Fn(&Handle, usize, &str, &Current)) {
    let mut etcd = Etcd::start();
    let item = |n: usize| {
        let scope = if n.is_multiple_of(2) { "_all" } else { "orders" };
        (format!("{scope}/limits/l{n}"), format!("{{rate: {}/s, why: {}}}", n + 1, "x".repeat(200)))
    };
    runtime().block_on(etcd.fill((0..KEYS).map(item)));
    let (all, current) = (runtime(), Current::new(herd));
    let (handle, (stop, stopped)) = (all.handle().clone(), tokio::sync::oneshot::channel::<()>());
    let running = std::thread::spawn(move || all.block_on(stopped));
    for n in 0..herd {
        start(&handle, n, &etcd.endpoint(), &current);
        std::thread::sleep(RAMP);
    }
    let patient_until = Instant::now() + 2 * PATIENCE;
    while current.all().len() < herd {
        if Instant::now() > patient_until {
            println!("| {name} | {} of {herd} are current at first | | | | | |", current.all().len());
            return;
        }
        std::thread::sleep(SAMPLE);
    }
    let (count, end) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
    let watching = watch(etcd.address(), count.clone(), end.clone());
    etcd.kill();
    current.forget();
    std::thread::sleep(AWAY);
    let back = etcd.run();
    let end_of_patience = back + PATIENCE;
    while current.all().len() < herd && Instant::now() < end_of_patience {
        std::thread::sleep(SAMPLE);
    }
    std::thread::sleep(Duration::from_secs(2));
    end.store(true, Ordering::Relaxed);
    drop(stop);
    if watching.join().is_err() || running.join().is_err() {
        fail("a thread of the bench");
    }
    let missing = herd - current.all().len();
    if missing > 0 {
        println!("| {name} | {missing} are not current {PATIENCE:?} after etcd was back | | | | | |");
    }
    let mut took: Vec<_> = current.all().into_iter().map(|at| at.saturating_duration_since(back)).collect();
    took.sort_unstable();
    let counts = count.lock().unwrap_or_else(PoisonError::into_inner);
    let last = counts.last().map(|(_, counts)| *counts).unwrap_or_default();
    println!(
        "| {name} | {:.0} | {:.0} | {:.0} | {:.1} MB | {:.1?} | {:.1?} |",
        last.reads,
        last.ranges,
        peak(&counts),
        last.bytes / 1e6,
        quantile(&took, 0.5),
        took.last().copied().unwrap_or_default()
    );
}

fn instance(running: &Handle, n: usize, endpoint: &str, current: &Current, trust_progress: bool) {
    let name = |text: &str| Name::new(text).expect("a name");
    let identity = Identity { service: name("orders"), instance: name(&format!("pod-{n}")) };
    let config = Config { endpoints: vec![endpoint.to_owned()], root: "/weir".into(), ..Config::default() };
    let (_, task, mut events) =
        etcd::Etcd::new(config, &identity, Settings { trust_progress, ..Settings::default() })
            .expect("a store that can be named");
    running.spawn(task);
    let current = current.clone();
    running.spawn(async move {
        while let Some(event) = events.recv().await {
            if let Event::Proven { at, .. } = event {
                current.note(n, at);
            }
        }
    });
}

/// What etcd counts.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    /// Calls that read: Range and Txn (the proofs of Weir are transactions that only read).
    reads: f64,
    /// Calls that read values: Range alone.
    ranges: f64,
    bytes: f64,
}

/// Asks etcd again and again; what was before its end counts for nothing.
fn watch(
    address: SocketAddr,
    counts: Arc<Mutex<Vec<(Instant, Counts)>>>,
    end: Arc<AtomicBool>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut before = f64::INFINITY;
        let mut restarted = false;
        while !end.load(Ordering::Relaxed) {
            if let Some(text) = get(address, "/metrics") {
                let now = read(&text);
                restarted |= now.bytes < before;
                before = now.bytes;
                if restarted {
                    counts.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), now));
                }
            }
            std::thread::sleep(SAMPLE);
        }
    })
}

fn read(text: &str) -> Counts {
    let sum = |name: &str, label: &str| -> f64 {
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let calls = |method: &str| sum("grpc_server_started_total{", &format!("grpc_method=\"{method}\""));
    Counts {
        reads: calls("Range") + calls("Txn"),
        ranges: calls("Range"),
        bytes: sum("etcd_network_client_grpc_sent_bytes_total", ""),
    }
}

/// The most reads of any second.
fn peak(counts: &[(Instant, Counts)]) -> f64 {
    let second = Duration::from_secs(1);
    let since = |(at, now): &(Instant, Counts)| {
        let before = counts.iter().rev().find(|(other, _)| *other + second <= *at);
        now.reads - before.map_or(0.0, |(_, before)| before.reads)
    };
    counts.iter().map(since).fold(0.0, f64::max)
}
