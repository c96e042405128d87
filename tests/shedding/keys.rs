//! A flood of keys at one keyed limit: what it remembers is bounded, and who is refused stays refused.

use std::{fmt::Write, time::Instant};

use crate::{
    support::{raw::Raw, unruly::Unruly},
    world::{World, strict},
};

/// How many requests are under way at once on one connection.
const BATCH: usize = 100;

const MAX_KEYS: f64 = 10_000.0;

fn keys() -> usize {
    let default = if strict() { 1_000_000 } else { 200_000 };
    std::env::var("WEIR_SHEDDING_KEYS").map_or(default, |number| number.parse().expect("a number"))
}

#[test]
fn a_flood_of_them_is_forgotten_but_not_who_is_refused() {
    let (world, [origin]) = (World::start(), ["a"].map(Unruly::start));
    // Who is granted meets an upstream that is not called: this is about the limit.
    let weir = world.weir(
        "pod-1",
        "",
        &format!(
            "  upstreams: {{ app: {{ endpoints: [\"{}\"], breaker: open }} }}\n  routes: {{ all: {{ match: {{ listener: outbound }}, upstream: app }} }}\n  limits:\n    each: {{ key: header:x-user, rate: 1/h, burst: 1, max_keys: {MAX_KEYS} }}\n",
            origin.address
        ),
    );
    let resident = || weir.metrics().sum("process_resident_memory_bytes", &[]);
    let known = || weir.metrics().sum("weir_limit_keys", &[("limit", "each")]);
    let one = |text: &mut String, user: &str| {
        write!(text, "GET / HTTP/1.1\r\nhost: a\r\nx-user: {user}\r\n\r\n").unwrap();
    };
    let mut raw = Raw::connect(weir.at("outbound"));
    let mut batch = |from: usize| {
        let mut text = String::new();
        one(&mut text, "steady");
        (from..from + BATCH).for_each(|user| one(&mut text, &format!("user-{user}")));
        raw.send(&text);
        let statuses: Vec<_> = (0..=BATCH).map(|_| raw.answer().status()).collect();
        (statuses[0], statuses[1..].iter().filter(|status| **status == 503).count())
    };
    assert_eq!(batch(0), (503, BATCH), "the first request of each is granted");
    assert_eq!(batch(0), (429, 0), "the second of none");
    // Full once, and what it needs is there.
    let warm = 20_000;
    (BATCH..warm).step_by(BATCH).for_each(|from| assert_eq!(batch(from), (429, BATCH)));
    let (before, began) = (resident(), Instant::now());
    let mut most = 0.0_f64;
    for from in (warm..warm + keys()).step_by(BATCH) {
        assert_eq!(batch(from), (429, BATCH), "a new key is granted, the steady one is not forgotten");
        if from % 10_000 == 0 {
            most = most.max(known());
        }
    }
    let grown = resident() - before;
    eprintln!(
        "{} keys in {:?}: {most} remembered at most, resident {:.1} MiB and {:.2} MiB more after it",
        keys(),
        began.elapsed(),
        before / 1048576.0,
        grown / 1048576.0
    );
    assert!(most <= MAX_KEYS * 1.25 + 1.0, "{most}");
    // Not a byte a key: noise of the allocator.
    assert!(grown < 8.0 * 1048576.0, "{grown}");
    assert_eq!(origin.requests(), 0);
    // Who has just been here is known still.
    assert_eq!(batch(warm + keys() - BATCH), (429, 0));
}
