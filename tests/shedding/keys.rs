//! A flood of keys at one keyed limit: what it remembers is bounded, and who is refused stays refused.

use std::{fmt::Write, time::Instant};

use crate::{
    support::{raw::Raw, unruly::Unruly},
    world::{World, strict},
};

/// How many requests are under way at once on one connection.
const BATCH: usize = 100;

const MAX_KEYS: f64 = 10_000.0;

const MIB: f64 = 1_048_576.0;

/// What a key is granted.
const BURST: usize = 10;

/// So few keys that all are remembered.
const FEW: usize = 5_000;

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
            "  upstreams: {{ app: {{ endpoints: [\"{}\"], breaker: open }} }}\n  routes: {{ all: {{ match: {{ listener: outbound }}, upstream: app }} }}\n  limits:\n    each: {{ key: header:x-user, rate: {BURST}/h, burst: {BURST}, max_keys: {MAX_KEYS} }}\n",
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
    for _ in 0..BURST {
        assert_eq!(batch(0), (503, BATCH), "these are granted");
    }
    assert_eq!(batch(0), (429, 0), "and no more");
    // A few keys, again and again: what the path costs without a flood.
    let few = FEW..FEW * 2;
    few.clone().step_by(BATCH).for_each(|from| assert_eq!(batch(from), (429, BATCH)));
    let began = Instant::now();
    for _ in 1..BURST {
        few.clone().step_by(BATCH).for_each(|from| assert_eq!(batch(from), (429, BATCH)));
    }
    let usual = began.elapsed() / u32::try_from(FEW * (BURST - 1)).unwrap();
    // Full once, and what it needs is there.
    let warm = 40_000;
    (FEW * 2..warm).step_by(BATCH).for_each(|from| assert_eq!(batch(from), (429, BATCH)));
    let (before, began) = (resident(), Instant::now());
    let mut most = 0.0_f64;
    for from in (warm..warm + keys()).step_by(BATCH) {
        assert_eq!(batch(from), (429, BATCH), "a new key is granted, the steady one is not forgotten");
        if from % 10_000 == 0 {
            most = most.max(known());
        }
    }
    let each = began.elapsed() / u32::try_from(keys()).unwrap();
    let grown = resident() - before;
    eprintln!("a request takes {usual:?} with few keys and {each:?} in the flood");
    // That is promised of an optimised binary.
    let optimised = std::env::var_os("WEIR_TEST_BINARY").is_some();
    assert!(!strict() || !optimised || each <= usual + usual / 10, "{each:?}, and {usual:?} without a flood");
    eprintln!(
        "{} keys in {:?}: {most} remembered at most, resident {:.1} MiB and {:.2} MiB more after it",
        keys(),
        began.elapsed(),
        before / MIB,
        grown / MIB
    );
    // A quarter more, and up to a whole set of sixteen.
    assert!(most <= MAX_KEYS * 1.25 + 16.0, "{most}");
    // Not a byte a key: noise of the allocator.
    assert!(grown < 8.0 * MIB, "{grown}");
    assert_eq!(origin.requests(), 0);
    // Who has just been here is known still.
    let last = warm + keys() - BATCH;
    for _ in 1..BURST {
        assert_eq!(batch(last), (429, BATCH));
    }
    assert_eq!(batch(last), (429, 0));
}
