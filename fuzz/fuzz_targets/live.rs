//! Live policy: whatever a store holds, it is merged without a panic, and what is not in force is refused with a reason.
//!
//! The input is a list of `key value` pairs: each pair ends with a NUL, key and value are parted by the first space.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::{
    config::{Env, HostFacts, Name, load},
    store::{
        Change,
        key::Identity,
        layers::{Baseline, Layers, World},
    },
};

const FILE: &str = "service: orders
instance: pod
listeners: { in: { listen: 127.0.0.1:1 } }
policy:
  upstreams: { app: { endpoints: [127.0.0.1:2] }, other: { endpoints: [127.0.0.1:3] } }
  routes: { all: { upstream: app } }
  limits: { checkout: { rate: 5/s } }
  switches: { off: { reject: { status: 503 } } }
  plans: { sale: { switches: { off: on } } }
";

fuzz_target!(|bytes: &[u8]| {
    let host = HostFacts { hostname: "fuzz".to_owned(), cpus: 2 };
    let env = Env { vars: &|_| None, host: &host, probe: &|_, _| Ok(()) };
    let Some(file) = load("weir.yaml", FILE.as_bytes(), &env).file else { return };
    let Some((service, instance)) = Name::new("orders").zip(Name::new("pod")) else { return };
    let now = "2026-01-01T00:00:00Z".parse().unwrap_or_default();
    let world = World { now, probe: &|_, _| Ok(()) };
    let mut layers = Layers::new(&Identity { service, instance }, Baseline::new(&file), world);
    let changes: Vec<_> = bytes
        .split(|&byte| byte == 0)
        .zip(2_i64..)
        .map(|(pair, revision)| {
            let cut = pair.iter().position(|&byte| byte == b' ');
            let (key, value) = pair.split_at(cut.unwrap_or(pair.len()));
            let value = cut.map(|_| bytes_of(value));
            Change { key: String::from_utf8_lossy(key).into(), value, revision }
        })
        .collect();
    let last = changes.last().map_or(1, |change| change.revision);
    layers.change(last, &changes, world);
    let effective = layers.effective();
    assert!(effective.refused.iter().all(|refused| !refused.reason.is_empty()));
    let _ = layers.documents().to_json();
});

fn bytes_of(value: &[u8]) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(value.get(1..).unwrap_or_default())
}
