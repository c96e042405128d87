//! From the answer to a Put to the first request under the new policy: the finished binary, a real etcd, a client that
//! sends one request after the other on one connection, and a route that leads here or there by turns.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use etcd_client::Client;
use tempfile::TempDir;

use crate::machinery::{Client1, Etcd, fail, free, origin, quantile, runtime, weir};

/// How many changes are measured in each way.
const CHANGES: usize = 1_000;

/// How long nothing changes before a change "after quiet": longer than a burst is gathered.
const QUIET: Duration = Duration::from_millis(40);

pub(crate) fn measure() {
    println!("\n## From a Put's answer to the first request under the new policy, {CHANGES} changes\n");
    println!("| keys | changes | p50 | p99 | longest |\n|---:|---|---:|---:|---:|");
    few();
    many();
}

fn few() {
    with(1, Vec::new());
}

fn many() {
    let each = 2_500;
    let mut items = Vec::new();
    for n in 0..each {
        items.push((format!("_all/upstreams/u{n}"), format!("{{endpoints: [\"10.0.0.1:{}\"]}}", n + 1)));
        items.push((
            format!("_all/routes/r{n}"),
            format!("{{upstream: u{n}, match: {{host: h{n}.example.com, path: /a/*}}}}"),
        ));
        items.push((format!("_all/limits/l{n}"), format!("{{rate: 5/s, match: {{route: r{n}}}}}")));
        items.push((format!("orders/routes/r{n}"), "{timeout: 3s}".to_owned()));
    }
    with(items.len(), items);
}

fn with(keys: usize, items: Vec<(String, String)>) {
    let (etcd, folder, listen) = (Etcd::start(), TempDir::new().expect("a folder"), free());
    let runtime = runtime();
    runtime.block_on(etcd.fill(items));
    let file = format!(
        "service: orders\ninstance: pod-1\nworkers: 1\nadmin: {{ listen: {admin} }}\ntelemetry: {{ listen: {telemetry} }}\n\
         log: {{ access: off }}\n\
         store: {{ etcd: {{ endpoints: [{etcd}] }}, boot_wait: 60s, cache: {cache} }}\n\
         listeners: {{ inbound: {{ listen: {listen} }} }}\n\
         policy:\n  upstreams: {{ a: {{ endpoints: [{a}] }}, b: {{ endpoints: [{b}] }} }}\n  routes: {{ all: {{ upstream: a }} }}\n",
        admin = free(),
        telemetry = free(),
        etcd = etcd.endpoint(),
        cache = folder.path().join("policy.cache").display(),
        a = origin("a"),
        b = origin("b"),
    );
    let _weir = weir(folder.path(), &file, listen, &[]);
    for (what, pause) in [("after quiet", QUIET), ("one directly after the other", Duration::ZERO)] {
        let seen = Seen::of(listen);
        let mut delays = runtime.block_on(changes(&etcd.endpoint(), &seen, pause));
        delays.sort_unstable();
        println!(
            "| {keys} | {what} | {:.1?} | {:.1?} | {:.1?} |",
            quantile(&delays, 0.5),
            quantile(&delays, 0.99),
            delays.last().copied().unwrap_or_default()
        );
    }
}

async fn changes(endpoint: &str, seen: &Seen, pause: Duration) -> Vec<Duration> {
    let mut client = Client::connect([endpoint], None).await.expect("a client");
    let mut rng = fastrand::Rng::with_seed(1);
    let mut delays = Vec::with_capacity(CHANGES);
    for round in 0..CHANGES {
        let to = if round.is_multiple_of(2) { "b" } else { "a" };
        // The proofs that Weir asks for every few seconds must not meet every change at the same moment.
        tokio::time::sleep(pause.mul_f64(1.0 + rng.f64())).await;
        let value = format!("{{upstream: {to}}}");
        client.put("/weir/policy/orders/routes/all", value, None).await.expect("a put");
        let answered = Instant::now();
        delays.push(seen.first(to).saturating_duration_since(answered));
    }
    delays
}

/// What a client sees that asks again and again.
struct Seen {
    changes: mpsc::Receiver<(Vec<u8>, Instant)>,
    end: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Seen {
    fn of(listen: std::net::SocketAddr) -> Self {
        let (tell, changes) = mpsc::channel();
        let end = Arc::new(AtomicBool::new(false));
        let ended = end.clone();
        let mut client = Client1::connect(listen);
        // Before anything is changed.
        let mut last = client.get("any", "/");
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let body = client.get("any", "/");
                if body != last {
                    last.clone_from(&body);
                    let _ = tell.send((body, Instant::now()));
                }
            }
        });
        Self { changes, end, thread: Some(thread) }
    }

    /// When the first answer from `to` had come.
    fn first(&self, to: &str) -> Instant {
        match self.changes.recv_timeout(Duration::from_secs(20)) {
            Ok((body, at)) if body == to.as_bytes() => at,
            other => fail(&format!("no answer from {to}, but {other:?}")),
        }
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        // Before Weir goes.
        drop(self.thread.take().map(std::thread::JoinHandle::join));
    }
}
