use std::sync::{
    Barrier,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use super::*;

const THREADS: u64 = 4;

/// Runs the same on several threads, which begin together; what they granted.
fn hammer(work: impl Fn(u64) -> u64 + Sync) -> u64 {
    let start = Barrier::new(usize::try_from(THREADS).unwrap());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn({
                    let (start, work) = (&start, &work);
                    move || {
                        start.wait();
                        work(thread)
                    }
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    })
}

fn took(limiter: &Limiter, key: u64, now: u64) -> u64 {
    u64::from(matches!(limiter.take(key, 1, at(now)), Decision::Granted(_)))
}

#[test]
fn threads_get_exactly_what_there_is() {
    let tries = rounds(20_000);
    let most = u32::try_from(tries * 2).unwrap();
    for algorithm in
        [TOKEN(most), LEAKY(most, 3_600_000_000), Algorithm::FixedWindow, Algorithm::SlidingWindow]
    {
        // Leaky buckets hold what waits, so the rate is high enough that nothing waits too long.
        let limiter = limiter(settings(algorithm, u64::from(most), 3600));
        let total = hammer(|_| (0..tries).map(|_| took(&limiter, 0, START)).sum());
        assert_eq!(total, u64::from(most), "{algorithm:?}");
    }
}

#[test]
fn threads_that_see_time_go_on_get_what_comes() {
    // Time is one word that all threads move on; each request is made at what it shows, or a little before.
    let (tries, step) = (rounds(20_000), 100);
    for algorithm in [TOKEN(10), LEAKY(10, 0), Algorithm::FixedWindow, Algorithm::SlidingWindow] {
        let limiter = limiter(settings(algorithm, 1000, 1));
        let clock = AtomicU64::new(START);
        let total = hammer(|_| {
            let late = |try_: u64| clock.fetch_add(step, Relaxed) - (try_ % 3) * 100;
            (0..tries).map(|try_| took(&limiter, 0, late(try_).max(START))).sum()
        });
        let span = clock.into_inner() - START;
        let law = match algorithm {
            Algorithm::FixedWindow | Algorithm::SlidingWindow => (span / SECOND + 2) * 1000,
            _ => 10 + span / 1000 + 1,
        };
        assert!(total <= law, "{algorithm:?}: {total} of {law}");
        let least = match algorithm {
            Algorithm::SlidingWindow => span / 1000 * 15 / 16,
            Algorithm::FixedWindow => span / SECOND * 1000,
            // A turn waits for the next request, which comes within 300 microseconds of time.
            Algorithm::LeakyBucket { .. } => span / 1400,
            Algorithm::TokenBucket { .. } => span / 1000 - span / 100_000,
        };
        assert!(total >= least.saturating_sub(20), "{algorithm:?}: {total}, at least {least}");
    }
}

#[test]
fn threads_in_a_sliding_window_never_exceed_any_window() {
    // Each thread notes when it was granted, by the common clock before it asked and after.
    let limiter = limiter(settings(Algorithm::SlidingWindow, 50, 1));
    let clock = AtomicU64::new(START);
    let log = std::sync::Mutex::new(Vec::new());
    hammer(|_| {
        let mut own = Vec::new();
        for _ in 0..rounds(20_000) {
            let now = clock.fetch_add(500, Relaxed);
            if took(&limiter, 0, now) > 0 {
                own.push((now, clock.load(Relaxed)));
            }
        }
        log.lock().unwrap().extend(own);
        0
    });
    let log = log.into_inner().unwrap();
    for &(from, _) in &log {
        let inside = log.iter().filter(|(asked, done)| *asked >= from && *done < from + SECOND).count();
        assert!(inside <= 50, "{inside} within a second");
    }
}

#[test]
fn threads_that_give_back_lose_nothing() {
    for algorithm in [TOKEN(8), Algorithm::FixedWindow, Algorithm::SlidingWindow] {
        let limiter = limiter(settings(algorithm, 8, 3600));
        hammer(|_| {
            for _ in 0..rounds(20_000) {
                if let Decision::Granted(taken) = limiter.take(0, 2, at(START)) {
                    limiter.give_back(0, &taken, at(START));
                }
            }
            0
        });
        assert_eq!(burst_of(&limiter, 0, START), 8, "{algorithm:?}");
    }
}

#[test]
fn threads_that_bring_the_same_keys_at_once_share_one_bucket() {
    // Many rounds of the moment that matters: all threads bring the same new keys.
    let keys = rounds(3000);
    for algorithm in [TOKEN(3), Algorithm::SlidingWindow] {
        let limiter = keyed(settings(algorithm, 3, 3600), 100_000);
        let counts: Vec<AtomicUsize> = (0..keys).map(|_| AtomicUsize::new(0)).collect();
        let total = hammer(|_| {
            let mut total = 0;
            for (key, count) in (0_u64..).zip(&counts) {
                for _ in 0..2 {
                    let granted = took(&limiter, key.wrapping_mul(0x9E37_79B9_7F4A_7C15), START);
                    count.fetch_add(usize::try_from(granted).unwrap(), Relaxed);
                    total += granted;
                }
            }
            total
        });
        assert!(counts.iter().all(|count| count.load(Relaxed) == 3), "{algorithm:?}: {counts:?}");
        assert_eq!(total, keys * 3);
        assert_eq!(u64::try_from(limiter.keys()).unwrap(), keys);
    }
}

#[test]
fn threads_that_flood_one_set_keep_count() {
    let limiter = keyed(settings(TOKEN(1), 1, 3600), 8);
    hammer(|thread| {
        for number in 0..rounds(20_000) {
            let key = (thread << 32 | number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            took(&limiter, key, START + number * 100);
            if number % 512 == 0 {
                limiter.sweep(at(START + number * 100));
            }
        }
        0
    });
    assert_eq!(limiter.keys(), 8, "as many as there are places");
}

#[test]
fn threads_under_traffic_see_an_edit_without_a_refill() {
    let first = limiter(settings(TOKEN(1000), 1, 3600));
    let current = arc_swap::ArcSwap::from_pointee(first);
    let total = hammer(|thread| {
        if thread > 0 {
            return (0..rounds(20_000)).map(|_| took(&current.load(), 0, START)).sum();
        }
        for step in 0..rounds(200) {
            let burst = if step % 2 == 0 { 5000 } else { 1000 };
            current.store(Arc::new(current.load().edited(
                settings(TOKEN(burst), 1 + step, 3600),
                None,
                at(START),
            )));
        }
        0
    });
    assert!(total <= 1000, "{total}");
}
