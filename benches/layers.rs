//! What a change of live policy costs among 10,000 keys: the first read of all of them, and one change.
//!
//! `cargo bench --bench layers` prints the median of several rounds, in milliseconds.

#![expect(clippy::print_stdout, clippy::expect_used, reason = "a program that measures and prints")]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::Timestamp;
use weir::{
    config::{Env, HostFacts, Name, load},
    store::{
        Change, Content, Item,
        key::Identity,
        layers::{Baseline, Layers, World},
    },
};

const FILE: &str = "\
service: orders
listeners: { inbound: { listen: 127.0.0.1:1 } }
policy:
  upstreams: { app: { endpoints: [127.0.0.1:2] } }
  routes: { in: { upstream: app } }
";

/// How many keys of each kind there are.
const EACH: usize = 2_500;

fn main() {
    let host = HostFacts { hostname: "bench".to_owned(), cpus: 1 };
    let env = Env { vars: &|_| None, host: &host, probe: &|_, _| Ok(()) };
    let file = load("bench", FILE.as_bytes(), &env).file.expect("a file without faults");
    let name = |text: &str| Name::new(text).expect("a name");
    let identity = Identity { service: name("orders"), instance: name("pod-1") };
    let content = content();
    let probe = |_: &Path, _| Ok(());
    let world = World { now: Timestamp::UNIX_EPOCH, probe: &probe };
    let mut layers = Layers::new(&identity, Baseline::new(&file), world);
    let first = median(5, |_| {
        layers = Layers::new(&identity, Baseline::new(&file), world);
        layers.read(&content, world);
        let effective = layers.effective();
        assert!(effective.refused.is_empty(), "{:?}", effective.refused.first());
    });
    let same = median(5, |_| layers.read(&content, world));
    let one = median(101, |round| {
        let key = Arc::from(format!("orders/routes/r{}", round % EACH));
        let value = Some(Bytes::from(format!("{{timeout: {}s}}", round + 1)));
        let revision = 100_000 + i64::try_from(round).unwrap_or(0);
        layers.change(revision, &[Change { key, value, revision }], world);
        assert!(!layers.effective().policy.routes.is_empty());
    });
    println!(
        "{} keys: first read {first:.1?}, the same again {same:.1?}, one change {one:.1?}",
        content.items.len()
    );
}

fn median(rounds: usize, mut work: impl FnMut(usize)) -> Duration {
    let mut times: Vec<_> = (0..rounds)
        .map(|round| {
            let begun = Instant::now();
            work(round);
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    times.get(rounds / 2).copied().unwrap_or_default()
}

/// Upstreams, routes to them, limits of these, and an overlay of another layer over each route.
fn content() -> Content {
    let mut items = Vec::new();
    for n in 0..EACH {
        let mut put = |key: String, value: String| {
            let revision = i64::try_from(items.len()).unwrap_or(0) + 1;
            items.push(Item { key: Arc::from(key), value: Bytes::from(value), revision });
        };
        put(
            format!("_all/upstreams/u{n}"),
            format!(
                "{{\"endpoints\": [\"10.0.{}.{}:80\"], \"pool\": {{\"max_pending\": 5}}}}",
                n / 250,
                n % 250 + 1
            ),
        );
        put(
            format!("_all/routes/r{n}"),
            format!(
                "{{\"upstream\": \"u{n}\", \"match\": {{\"host\": \"h{n}.example.com\", \"path\": \"/a/*\"}}}}"
            ),
        );
        put(format!("_all/limits/l{n}"), format!("{{rate: 5/s, match: {{route: r{n}}}}}"));
        put(format!("orders/routes/r{n}"), "{timeout: 3s, by: bench}".to_owned());
    }
    Content { cluster: 1, revision: 99_999, items }
}
