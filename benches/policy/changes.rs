//! 10,000 keys: the first read of all of them, and one change among them, step by step: the guard, the layers, and
//! the publisher, which compiles a snapshot and swaps it in.

use std::{
    fmt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::Timestamp;
use weir::{
    app::{App, Bound},
    config::{Env, File, HostFacts, Name, load},
    store::{
        Change, Content, Event, Item, ReadCause,
        guard::Guard,
        key::Identity,
        layers::{Baseline, Layers, World},
    },
    telemetry::{Metrics, log},
};

const FILE: &str = "\
service: orders
instance: pod-1
admin: { listen: 127.0.0.1:0 }
telemetry: { listen: 127.0.0.1:0 }
listeners: { inbound: { listen: 127.0.0.1:0 } }
policy:
  upstreams: { app: { endpoints: [127.0.0.1:2] } }
  routes: { in: { upstream: app } }
";

/// How many keys there are.
const KEYS: usize = 10_000;

/// How many changes are measured of each sort.
const ROUNDS: usize = 101;

pub(crate) fn measure() {
    println!("## {KEYS} keys, in process: median (longest)\n");
    println!("| what | guard | layers | compile and swap | together |\n|---|---:|---:|---:|---:|");
    mixed();
    routes_alone();
    refused();
}

/// Upstreams, routes to them, limits of these, and an overlay of another layer over each route.
fn mixed() {
    let each = KEYS / 4;
    let mut items = Vec::with_capacity(KEYS);
    for n in 0..each {
        let address = format!("10.0.{}.{}:80", n / 250, n % 250 + 1);
        for (key, value) in [
            (
                format!("_all/upstreams/u{n}"),
                format!("{{\"endpoints\": [\"{address}\"], \"pool\": {{\"max_pending\": 5}}}}"),
            ),
            (
                format!("_all/routes/r{n}"),
                format!(
                    "{{\"upstream\": \"u{n}\", \"match\": {{\"host\": \"h{n}.example.com\", \"path\": \"/a/*\"}}}}"
                ),
            ),
            (format!("_all/limits/l{n}"), format!("{{rate: 5/s, match: {{route: r{n}}}}}")),
            (format!("orders/routes/r{n}"), "{timeout: 3s, by: bench}".to_owned()),
        ] {
            items.push((key, value));
        }
    }
    let mut bench = Bench::read("a quarter each: upstreams, routes, limits, overlays of routes", items);
    bench.changes("a route's timeout", |n| {
        (format!("orders/routes/r{}", n % each), format!("{{timeout: {}s}}", n + 4))
    });
    bench.changes("a route's match", |n| {
        (format!("orders/routes/r{}", n % each), format!("{{match: {{path: /changed/{n}}}}}"))
    });
    bench.changes("an upstream", |n| {
        (format!("orders/upstreams/u{}", n % each), format!("{{pool: {{max_pending: {}}}}}", n + 6))
    });
    bench.changes("a new upstream, before all others", |n| {
        (format!("orders/upstreams/a{n}"), format!("{{endpoints: [\"10.1.0.1:{}\"]}}", n + 1))
    });
}

/// Nothing but routes of one upstream.
fn routes_alone() {
    let route = |n: usize| {
        (
            format!("_all/routes/r{n}"),
            format!("{{upstream: app, match: {{host: h{n}.example.com, path: /a/*}}}}"),
        )
    };
    let mut bench = Bench::read("routes alone", (0..KEYS).map(route).collect());
    bench.changes("a route's timeout", |n| {
        (format!("orders/routes/r{n}"), format!("{{timeout: {}s}}", n + 4))
    });
    bench.changes("a route's match", |n| {
        (format!("orders/routes/r{n}"), format!("{{match: {{path: /changed/{n}}}}}"))
    });
    bench.changes("the upstream of all of them", |n| {
        ("orders/upstreams/app".to_owned(), format!("{{pool: {{max_pending: {}}}}}", n + 6))
    });
}

/// Nothing that can be taken.
fn refused() {
    let wrong = |n: usize| (format!("_all/routes/r{n}"), format!("{{upstream: nobody-{n}}}"));
    let mut bench = Bench::read("routes to nowhere, all of them refused", (0..KEYS).map(wrong).collect());
    bench.changes("an upstream", |n| {
        ("orders/upstreams/app".to_owned(), format!("{{pool: {{max_pending: {}}}}}", n + 6))
    });
}

/// One instance with its file, and everything of a store in it.
struct Bench {
    bound: Bound,
    guard: Guard,
    layers: Layers,
    revision: i64,
}

impl Bench {
    /// Reads everything once, and says what that took.
    fn read(what: &str, items: Vec<(String, String)>) -> Self {
        let file = file();
        let name = |text: &str| Name::new(text).expect("a name");
        let identity = Identity { service: name("orders"), instance: name("pod-1") };
        let layers = Layers::new(&identity, Baseline::new(&file), world());
        let mut items: Vec<_> = (1..)
            .zip(items)
            .map(|(revision, (key, value))| Item { key: Arc::from(key), value: Bytes::from(value), revision })
            .collect();
        items.sort_by(|a, b| a.key.cmp(&b.key));
        let revision = i64::try_from(items.len()).expect("a few thousand");
        let (metrics, log) = (Metrics::new(1, 2_000, "0", "0"), log());
        let bound = App::bind(file, log, metrics).expect("free ports");
        let mut bench = Self { bound, guard: Guard::new(&identity), layers, revision };
        let content = Content { cluster: 1, revision, items };
        let read = Event::Read { content, cause: ReadCause::Start, at: Instant::now() };
        Row { what: &format!("first read: {what}"), times: vec![bench.take(&read)] }.print();
        bench
    }

    /// Makes changes, one after the other.
    fn changes(&mut self, what: &str, change: impl Fn(usize) -> (String, String)) {
        let mut one = |round| {
            let (key, value) = change(round);
            self.revision += 1;
            let revision = self.revision;
            let changes = vec![Change { key: Arc::from(key), value: Some(Bytes::from(value)), revision }];
            self.take(&Event::Changed { revision, changes, at: Instant::now() })
        };
        Row { what, times: (0..ROUNDS).map(&mut one).collect() }.print();
    }

    /// What an instance does with an event, and how long each step takes.
    fn take(&mut self, event: &Event) -> [Duration; 3] {
        let begun = Instant::now();
        let batch = self.guard.take(event, Timestamp::now()).batch.expect("a change");
        let guarded = Instant::now();
        self.layers.change(batch.revision, &batch.changes, world());
        let effective = self.layers.effective();
        let merged = Instant::now();
        let publisher = self.bound.publisher();
        publisher.publish(effective.policy.clone(), begun).expect("a policy that compiles");
        let done = Instant::now();
        [guarded - begun, merged - guarded, done - merged]
    }
}

/// A row of the table.
struct Row<'a> {
    what: &'a str,
    times: Vec<[Duration; 3]>,
}

impl Row<'_> {
    fn print(&self) {
        let column = |of: &dyn Fn(&[Duration; 3]) -> Duration| {
            let mut times: Vec<_> = self.times.iter().map(of).collect();
            times.sort_unstable();
            Middle(times)
        };
        let [guard, layers, publish] = [0, 1, 2].map(|step: usize| {
            column(&move |steps: &[Duration; 3]| steps.get(step).copied().unwrap_or_default())
        });
        let together = column(&|steps: &[Duration; 3]| steps.iter().sum());
        println!("| {} | {guard} | {layers} | {publish} | {together} |", self.what);
    }
}

/// The median of sorted times, and the longest where there are several.
struct Middle(Vec<Duration>);

impl fmt::Display for Middle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let median = self.0.get(self.0.len() / 2).copied().unwrap_or_default();
        write!(f, "{median:.2?}")?;
        match self.0.as_slice() {
            [_, .., last] => write!(f, " ({last:.2?})"),
            _ => Ok(()),
        }
    }
}

fn world() -> World<'static> {
    World { now: Timestamp::now(), probe: &|_: &Path, _| Ok(()) }
}

fn file() -> File {
    let host = HostFacts { hostname: "bench".to_owned(), cpus: 1 };
    let env = Env { vars: &|_| None, host: &host, probe: &|_, _| Ok(()) };
    load("bench", FILE.as_bytes(), &env).file.expect("a file without faults")
}

/// A log that nobody reads.
fn log() -> log::LogHandle {
    use weir::{
        config::bootstrap::{LogFormat, LogLevel},
        telemetry::{metrics::DEFAULT_MAX_SERIES, writer},
    };
    let dropped = Metrics::new(1, DEFAULT_MAX_SERIES, "0", "0").log_dropped.clone();
    let (lines, _flush) = writer::spawn("bench-log", std::io::sink(), dropped).expect("a thread");
    log::subscriber(LogLevel::Error, LogFormat::Json, false, lines).1
}
