//! A rate that a service has together: even shares that follow the number of instances, or Redis; and what holds while the
//! store or Redis is away.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    support::{
        load::{Load, Sample, quantile, tally},
        redis::Redis,
        unruly::Unruly,
        wait_until,
        weir::Weir,
    },
    world::{World, promised, strict},
};

/// What all may have together, a second.
const TARGET: u32 = 600;

/// What all are offered together.
const OFFERED: u32 = 780;

fn policy(origin: &Unruly, share: &str) -> String {
    format!(
        "  upstreams: {{ app: {{ endpoints: [\"{}\"] }} }}\n  routes: {{ all: {{ upstream: app }} }}\n  limits:\n    all: {{ rate: {TARGET}/s, burst: {}, scope: service{share} }}\n",
        origin.address,
        TARGET / 5
    )
}

fn effective(weir: &Weir) -> f64 {
    weir.metrics().sum("weir_limit_effective_rate", &[("limit", "all")])
}

/// Waits until each of them has the same part of the rate; says how long that took.
#[track_caller]
fn divided(weirs: &[Weir]) -> Duration {
    let (since, share) = (Instant::now(), f64::from(TARGET) / weirs.len() as f64);
    for weir in weirs {
        wait_until(&format!("a share of {share}, it is {}", effective(weir)), || {
            (effective(weir) - share).abs() < 0.01
        });
    }
    since.elapsed()
}

fn pass(time: Duration) {
    let since = Instant::now();
    wait_until("time to pass", || since.elapsed() >= time);
}

/// How long is measured.
fn window() -> Duration {
    Duration::from_secs(if strict() { 10 } else { 5 })
}

/// How many requests one grants a second, at least and at most, from the first of these refusals to the last: at both its
/// bucket is empty, so what lies between is its share however late requests are. A decision falls somewhere between a
/// request and its answer.
fn granted(samples: &[Sample]) -> (f64, f64) {
    let got = |sample: &Sample| sample.at + sample.took;
    let refused: Vec<_> = samples.iter().filter(|sample| sample.status == 429).collect();
    let first = refused.iter().min_by_key(|sample| sample.at).expect("refusals");
    let last = refused.iter().max_by_key(|sample| sample.at).expect("refusals");
    let good = || samples.iter().filter(|sample| sample.is_good());
    let surely = good().filter(|sample| sample.at >= got(first) && got(sample) <= last.at).count();
    let perhaps = good().filter(|sample| got(sample) >= first.at && sample.at <= got(last)).count();
    let span = (last.at - first.at).as_secs_f64();
    assert!(span > 1.0, "too few refusals: {:?}", tally(samples));
    (surely as f64 / span, perhaps as f64 / span)
}

/// Offers each of them its part, and holds what they grant together to the target.
#[track_caller]
fn holds_the_target(weirs: &[Weir]) {
    let part = OFFERED / u32::try_from(weirs.len()).unwrap();
    let loads: Vec<_> = weirs.iter().map(|weir| Load::start(weir.at("inbound"), "a", "/", part)).collect();
    for load in &loads {
        wait_until("a refusal", || load.samples().iter().any(|sample| sample.status == 429));
    }
    let since = Instant::now();
    pass(window());
    let all: Vec<_> = loads
        .into_iter()
        .map(|load| {
            let all = load.end();
            assert!(all.iter().all(|sample| [200, 429].contains(&sample.status)), "{:?}", tally(&all));
            granted(&all.into_iter().filter(|sample| sample.at >= since).collect::<Vec<_>>())
        })
        .collect();
    let (least, most) = all.iter().fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let target = f64::from(TARGET);
    eprintln!("{} instances grant {least:.1} to {most:.1} a second, of {target}", weirs.len());
    assert!(least <= 1.1 * target && most >= 0.9 * target, "{least} to {most}: {all:?}");
}

#[test]
fn an_even_share_follows_the_number_of_instances() {
    let (world, [origin]) = (World::start(), ["a"].map(Unruly::start));
    let file = policy(&origin, "");
    let start = |n: usize| world.weir(&format!("pod-{n}"), "", &file);
    let mut weirs: Vec<_> = (0..3).map(start).collect();
    promised("three share", divided(&weirs), Duration::from_secs(15));
    holds_the_target(&weirs);
    weirs.extend((3..12).map(start));
    promised("twelve share", divided(&weirs), Duration::from_secs(15));
    holds_the_target(&weirs);
    // Dropping one kills it without a warning.
    weirs.truncate(5);
    promised("five share", divided(&weirs), Duration::from_secs(15));
    holds_the_target(&weirs);
}

#[test]
fn the_last_share_stays_while_the_store_is_away_and_over_a_restart() {
    let (mut world, [origin]) = (World::start(), ["a"].map(Unruly::start));
    let caches = TempDir::new().unwrap();
    let file = policy(&origin, "");
    let mut weirs: Vec<_> = (0..3)
        .map(|n| {
            let cache = caches.path().join(format!("{n}/policy.cache"));
            let store = format!("  cache: \"{}\"\n  boot_wait: 500ms", cache.display());
            world.weir(&format!("pod-{n}"), &store, &file)
        })
        .collect();
    world.put(&weirs.iter().collect::<Vec<_>>(), "orders/limits/all", "{why: something to keep}");
    divided(&weirs);
    world.etcd.kill();
    for weir in &weirs {
        wait_until("the store to be away", || weir.metrics().sum("weir_store_connected", &[]) < 0.5);
    }
    let kept = |weirs: &[Weir]| {
        assert!(weirs.iter().all(|weir| (effective(weir) - 200.0).abs() < 0.01));
    };
    // Longer than any lease lasts.
    let since = Instant::now();
    wait_until("leases to end", || {
        kept(&weirs);
        since.elapsed() > Duration::from_secs(12)
    });
    weirs[0].signal(Signal::KILL);
    weirs[0].wait_exit();
    weirs[0].start_again();
    wait_until("the share that was kept", || (effective(&weirs[0]) - 200.0).abs() < 0.01);
    holds_the_target(&weirs);
    world.etcd.run();
    world.etcd.answers();
    for weir in &weirs {
        wait_until("the store to be back", || weir.metrics().sum("weir_store_connected", &[]) > 0.5);
    }
    // Whoever comes back first does not take everything.
    let since = Instant::now();
    wait_until("shares to be as they were", || {
        assert!(weirs.iter().all(|weir| effective(weir) < 201.0));
        since.elapsed() > Duration::from_secs(8)
    });
    divided(&weirs);
}

#[test]
fn redis_makes_it_exact_and_its_death_makes_it_even() {
    let (world, [origin], mut redis) = (World::start(), ["a"].map(Unruly::start), Redis::start());
    let top = format!("redis: {{ url: \"redis://{}\" }}", redis.address());
    let file = policy(&origin, ", share: redis");
    let weirs: Vec<_> = (0..3).map(|n| world.weir(&format!("pod-{n}"), &top, &file)).collect();
    for weir in &weirs {
        wait_until("all to be counted", || {
            weir.admin_get("/limits").json()["all"]["instances"].as_u64() == Some(3)
        });
    }
    // One gets four fifths of it.
    let parts = [OFFERED * 8 / 10, OFFERED / 10, OFFERED / 10];
    let loads: Vec<_> =
        weirs.iter().zip(parts).map(|(weir, part)| Load::start(weir.at("inbound"), "a", "/", part)).collect();
    let falls_back = |on: bool| {
        for weir in &weirs {
            wait_until(&format!("weir_limit_fallback = {}", u8::from(on)), || {
                (weir.metrics().sum("weir_limit_fallback", &[("limit", "all")]) > 0.5) == on
            });
        }
    };
    let measure = || {
        pass(Duration::from_secs(1)); // what is in flight, and what was taken ahead
        let since = Instant::now();
        pass(window());
        let span = since.elapsed();
        let samples: Vec<_> = loads
            .iter()
            .flat_map(Load::samples)
            .filter(|sample| sample.at >= since && sample.at < since + span)
            .collect();
        let good = samples.iter().filter(|sample| sample.is_good()).count();
        assert!(samples.iter().all(|sample| [200, 429].contains(&sample.status)), "{:?}", tally(&samples));
        (good as f64 / span.as_secs_f64(), samples)
    };
    let target = f64::from(TARGET);
    let exact = |what: &str, rate: f64| {
        eprintln!("{what}: {rate:.1} a second, of {target}");
        // The burst, and what waits for its answer, may fall into one side of the window.
        let off = if strict() { 0.02 } else { 0.1 };
        assert!(rate <= (1.0 + off) * target, "{what}: {rate}");
        assert!(!strict() || rate >= (1.0 - off) * target, "{what}: {rate}");
    };
    wait_until("refusals", || loads[0].samples().iter().any(|sample| sample.status == 429));
    falls_back(false);
    let (rate, before) = measure();
    exact("with Redis", rate);

    // Killed, it refuses connections; frozen, it does not answer.
    for frozen in [false, true] {
        let death = Instant::now();
        if frozen {
            redis.freeze();
        } else {
            redis.kill();
        }
        falls_back(true);
        let (rate, _) = measure();
        // The one that gets most has a third, the others what they are offered.
        eprintln!("without Redis: {rate:.1} a second");
        assert!(rate <= 1.05 * target, "{rate}");
        for weir in &weirs {
            assert!((effective(weir) - target / 3.0).abs() < 0.01, "{}", effective(weir));
        }
        let during: Vec<_> = loads.iter().flat_map(|load| load.since(death)).collect();
        assert!(during.iter().all(|sample| [200, 429].contains(&sample.status)), "{:?}", tally(&during));
        let usual = quantile(&before, 0.999);
        let most = quantile(&during, 1.0);
        promised("the longest request without Redis", most, usual + Duration::from_millis(21));

        if frozen {
            redis.thaw();
        } else {
            redis.run();
        }
        redis.answers();
        falls_back(false);
        let (rate, _) = measure();
        exact("with Redis again", rate);
    }
}
