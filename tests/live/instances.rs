//! How many instances share a limit.

use std::time::Duration;

use crate::{
    support::{
        etcd::{Etcd, Version},
        weir::Weir,
        writer::Writer,
    },
    world::{promised, within},
};

/// The longest time until everybody's share is another one.
const PROMISED: Duration = Duration::from_secs(15);

fn start(etcd: &Etcd, instance: &str, more: &str) -> Weir {
    Weir::start(&format!(
        "service: orders\ninstance: {instance}\nstore:\n  etcd: {{ endpoints: [\"{}\"], root: /weir }}\n  cache: off\n\
         listeners:\n  inbound: {{ listen: \"{{{{inbound}}}}\" }}\npolicy:\n  upstreams:\n    \
         app: {{ endpoints: [127.0.0.1:9] }}\n  routes:\n    all: {{ upstream: app }}\n  limits:\n    \
         shared: {{ rate: 600/s{more} }}\n",
        etcd.endpoint(),
    ))
}

/// Waits until each of these grants so much a second; gives how long that took.
#[track_caller]
fn share(instances: &[&Weir], rate: f64) -> Duration {
    let grants = |weir: &&Weir| {
        (weir.metrics().sum("weir_limit_effective_rate", &[("limit", "shared")]) - rate).abs() < 0.001
    };
    within(&format!("{rate} requests a second each"), || instances.iter().all(grants))
}

#[test]
fn a_service_wide_limit_is_divided_anew_when_an_instance_is_killed() {
    let etcd = Etcd::start(Version::V3_5);
    let one = start(&etcd, "pod-1", ", scope: service");
    share(&[&one], 600.0);
    let (two, three) = (start(&etcd, "pod-2", ", scope: service"), start(&etcd, "pod-3", ", scope: service"));
    promised("two more", share(&[&one, &two, &three], 200.0), PROMISED);
    // By SIGKILL: it cannot give its lease back.
    drop(three);
    promised("one was killed", share(&[&one, &two], 300.0), PROMISED);
}

#[test]
fn instances_that_begin_to_share_find_out_with_whom() {
    let etcd = Etcd::start(Version::V3_5);
    let writer = Writer::connect(etcd.endpoint());
    let (one, two) = (start(&etcd, "pod-1", ""), start(&etcd, "pod-2", ""));
    share(&[&one, &two], 600.0);
    writer.put("orders/limits/shared", "{scope: service}");
    promised("shared by a change", share(&[&one, &two], 300.0), PROMISED);
    // Its lease may still be the long one of the time when nobody shared anything.
    drop(two);
    share(&[&one], 600.0);
    writer.put("orders/limits/shared", "{scope: instance}");
    share(&[&one], 600.0);
}
