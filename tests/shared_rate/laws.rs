//! What each algorithm grants to all instances together, and what an edit keeps. Rates are so low that nothing comes
//! back while a test runs.

use std::time::Duration;

use weir::{config::policy::Algorithm, shared_rate::Answer};

use super::harness::{client, connected, count, granted, hourly, name, runtime, settings, take, url};
use crate::support::{redis::Redis, wait_until};

fn tokens(burst: u32) -> Algorithm {
    Algorithm::TokenBucket { burst }
}

#[test]
fn a_burst_is_granted_once_however_it_is_asked_for() {
    let redis = Redis::start();
    let clients = [0; 3].map(|_| connected(&url(&redis)));
    let limits = clients.each_ref().map(|client| client.limit(&name("checkout"), hourly(1, tokens(200))));
    let mut sum = 0;
    for round in 0..250 {
        sum += u32::from(granted(&limits[round % 3], None, 1));
        sum += 3 * u32::from(granted(&limits[0], None, 3));
    }
    // What an instance has leased and does not use goes back, and is another one's.
    wait_until("the last tokens to be used", || {
        sum += limits.iter().map(|limit| count(limit, None, 1)).sum::<u32>();
        assert!(sum <= 200, "{sum} of 200");
        sum == 200
    });
    assert_eq!(limits.iter().map(|limit| count(limit, None, 20)).sum::<u32>(), 0);
}

#[test]
fn windows_grant_their_count_once() {
    for algorithm in [Algorithm::FixedWindow, Algorithm::SlidingWindow] {
        let redis = Redis::start();
        let clients = [0; 3].map(|_| connected(&url(&redis)));
        let limits = clients.each_ref().map(|client| client.limit(&name("checkout"), hourly(100, algorithm)));
        let mut sum = 0;
        wait_until("the window to be used up", || {
            sum += limits.iter().map(|limit| count(limit, None, 7)).sum::<u32>();
            assert!(sum <= 100, "{algorithm:?}: {sum} of 100");
            sum == 100
        });
        assert_eq!(limits.iter().map(|limit| count(limit, None, 20)).sum::<u32>(), 0, "{algorithm:?}");
    }
}

#[test]
fn turns_are_as_far_apart_as_the_rate_says() {
    let redis = Redis::start();
    let clients = [0; 2].map(|_| connected(&url(&redis)));
    let paced = Algorithm::LeakyBucket { burst: 5, max_wait: Duration::from_hours(10) };
    let limits = clients.each_ref().map(|client| client.limit(&name("mail"), hourly(6, paced)));
    let mut waits = Vec::new();
    for turn in 0..5 {
        match runtime().block_on(take(&limits[turn % 2], None, 1)) {
            Answer::Granted { wait, .. } => waits.push(wait),
            other => panic!("{turn}: {other:?}"),
        }
    }
    // One each ten minutes, less what has passed since the first.
    for (turn, wait) in (0_u32..).zip(&waits) {
        let full = Duration::from_mins(10) * turn;
        assert!(*wait <= full && *wait + Duration::from_mins(1) > full, "{turn}: {wait:?}");
    }
    let refused = runtime().block_on(take(&limits[0], None, 1));
    let Answer::Refused { retry_after: Some(after), .. } = refused else { panic!("{refused:?}") };
    assert!(after > Duration::from_mins(9) && after <= Duration::from_mins(10), "{after:?}");
    let short = Algorithm::LeakyBucket { burst: 5, max_wait: Duration::from_mins(45) };
    let other = clients[0].limit(&name("short"), hourly(6, short));
    // At 0, 10, 20, 30 and 40 minutes.
    assert_eq!(count(&other, None, 9), 5);
    let none = Algorithm::LeakyBucket { burst: 5, max_wait: Duration::ZERO };
    assert_eq!(count(&clients[0].limit(&name("none"), hourly(6, none)), None, 9), 1);
}

#[test]
fn many_who_wait_together_get_turns_one_after_the_other() {
    let redis = Redis::start();
    let client = connected(&url(&redis));
    let paced = Algorithm::LeakyBucket { burst: 100, max_wait: Duration::from_hours(100) };
    let limit = client.limit(&name("mail"), hourly(60, paced));
    let mut waits: Vec<u64> = runtime().block_on(async {
        let asking: Vec<_> = (0..40)
            .map(|_| {
                let limit = limit.clone();
                tokio::spawn(async move { take(&limit, None, 1).await })
            })
            .collect();
        let mut waits = Vec::new();
        for asked in asking {
            if let Answer::Granted { wait, .. } = asked.await.unwrap() {
                waits.push(wait.as_secs().div_ceil(60));
            }
        }
        waits
    });
    waits.sort_unstable();
    let before = waits.len();
    waits.dedup();
    assert_eq!(waits.len(), before, "no turn is two requests': {waits:?}");
    assert!(before >= 35, "{before}: a busy machine may leave some to the even share");
}

#[test]
fn an_edit_keeps_what_was_taken() {
    let redis = Redis::start();
    let clients = [0; 2].map(|_| connected(&url(&redis)));
    let set = |count, burst| {
        clients.each_ref().map(|client| client.limit(&name("checkout"), hourly(count, tokens(burst))))
    };
    let limits = set(1, 3);
    assert_eq!(count(&limits[0], None, 2), 2);
    let again = set(2, 3);
    assert!(std::sync::Arc::ptr_eq(&limits[0], &again[0]), "the same limit");
    assert_eq!(again.iter().map(|limit| count(limit, None, 3)).sum::<u32>(), 1, "one token was left");
    // More burst does not refill: it fills at the rate.
    let more = set(2, 50);
    assert_eq!(more.iter().map(|limit| count(limit, None, 3)).sum::<u32>(), 0);
    // A rate that has grown is felt at once: two seconds' worth is 2,000,000 an hour · 2 s.
    let fast = set(200_000, 3);
    wait_until("the new rate to be felt", || granted(&fast[0], None, 1));
    // A bucket of 3 holds no more than 3, whatever it held before.
    let (full, small) = (hourly(1, tokens(100)), hourly(1, tokens(3)));
    let limit = clients[0].limit(&name("capped"), full);
    assert!(granted(&limit, None, 1));
    let limit = clients[0].limit(&name("capped"), small);
    let sum = count(&limit, None, 10);
    assert!(sum <= 4, "what is leased, and three: {sum}");
    // A window's count: what was used stays used.
    let window = |count| clients[0].limit(&name("window"), hourly(count, Algorithm::FixedWindow));
    assert_eq!(count(&window(5), None, 9), 5);
    assert_eq!(count(&window(7), None, 9), 2);
    assert_eq!(count(&window(4), None, 9), 0);
}

#[test]
fn keys_do_not_touch_each_other_and_their_text_stays_here() {
    let redis = Redis::start();
    let clients = [0; 2].map(|_| connected(&url(&redis)));
    let keyed = weir::shared_rate::Settings { max_keys: Some(100), ..hourly(1, tokens(2)) };
    let limits = clients.each_ref().map(|client| client.limit(&name("user"), keyed.clone()));
    let keys: Vec<String> = (0..30).map(|user| format!("secret-user-{user}")).collect();
    for (key, hash) in keys.iter().zip(1_u64..) {
        // The hashes of two processes differ: Redis has to bring them together by the key.
        let hash = hash << 33;
        let first = count(&limits[0], Some((key.as_bytes(), hash)), 1);
        let rest = count(&limits[1], Some((key.as_bytes(), hash ^ 0xffff_0000_0000_0000)), 3);
        assert_eq!((first, rest), (1, 1), "{key}");
    }
    let stored = redis.command(&["KEYS", "*"]);
    assert_eq!(
        stored.lines().filter(|line| line.starts_with("weir:{orders/user}:t:")).count(),
        30,
        "{stored}"
    );
    assert!(!stored.contains("secret"), "{stored}");
    for line in stored.lines().filter(|line| line.contains("user")) {
        let left: i64 = redis.command(&["PTTL", line]).parse().unwrap();
        assert!(left > 0, "a key that stays for ever: {line}");
    }
}

#[test]
fn more_keys_than_there_is_room_for_are_counted_all_the_same() {
    let redis = Redis::start();
    let client = connected(&url(&redis));
    let keyed = weir::shared_rate::Settings { max_keys: Some(8), ..hourly(1, tokens(2)) };
    let limit = client.limit(&name("user"), keyed);
    let hash = |key: u64| key.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let all = |offered| -> u32 {
        (1..=100_u64).map(|key| count(&limit, Some((&key.to_be_bytes(), hash(key))), offered)).sum()
    };
    assert_eq!(all(1), 100);
    assert_eq!(all(3), 100, "the second of each");
    assert_eq!(all(1), 0);
    assert!(limit.leases() <= 16, "{}", limit.leases());
}

#[test]
fn what_costs_more_than_there_ever_is_never_goes() {
    let redis = Redis::start();
    let client = connected(&url(&redis));
    let limit = client.limit(&name("checkout"), hourly(1, tokens(5)));
    let told = runtime().block_on(take(&limit, None, 6));
    assert!(matches!(told, Answer::Refused { retry_after: None, .. }), "{told:?}");
    assert!(granted(&limit, None, 5));
    let told = runtime().block_on(take(&limit, None, 2));
    let Answer::Refused { retry_after: Some(after), remaining: 0 } = told else { panic!("{told:?}") };
    assert!(after > Duration::from_mins(119) && after <= Duration::from_hours(2), "{after:?}");
}

#[test]
fn a_refusal_is_remembered_and_costs_redis_nothing() {
    let redis = Redis::start();
    let client = connected(&url(&redis));
    let limit = client.limit(&name("checkout"), hourly(1, tokens(5)));
    assert_eq!(count(&limit, None, 6), 5);
    let before = client.counts().calls;
    assert_eq!(count(&limit, None, 10_000), 0);
    assert_eq!(client.counts().calls, before);
}

#[test]
fn what_another_limit_refused_goes_back() {
    let redis = Redis::start();
    let clients = [0; 2].map(|_| connected(&url(&redis)));
    let limits = clients.each_ref().map(|client| client.limit(&name("checkout"), hourly(1, tokens(3))));
    assert_eq!(count(&limits[0], None, 3), 3);
    assert!(!granted(&limits[1], None, 1));
    limits[0].give_back(None, 2);
    assert!(granted(&limits[0], None, 1), "it is leased here");
    let after_an_edit = clients[1].limit(&name("checkout"), hourly(2, tokens(3)));
    wait_until("what nobody uses to be another's", || {
        clients[1].limit(&name("checkout"), hourly(1, tokens(3)));
        clients[1].limit(&name("checkout"), hourly(2, tokens(3)));
        granted(&after_an_edit, None, 1)
    });
    assert!(!granted(&limits[0], None, 1));
}

#[test]
fn what_is_leased_goes_back_at_the_end() {
    let redis = Redis::start();
    let (one, other) = (connected(&url(&redis)), connected(&url(&redis)));
    let of = |client: &weir::shared_rate::Client| client.limit(&name("checkout"), hourly(1, tokens(1000)));
    let limit = of(&one);
    let used = count(&limit, None, 60);
    assert_eq!(used, 60);
    one.stop();
    assert!(one.counts().leased - one.counts().returned == 60, "{:?}", one.counts());
    let told = runtime().block_on(take(&limit, None, 1));
    assert_eq!(told, Answer::Fallback, "it has ended");
    let left = of(&other);
    assert!(granted(&left, None, 940), "all that was not used");
    assert!(!granted(&left, None, 1));
}

#[test]
fn a_rate_fills_the_bucket() {
    let redis = Redis::start();
    let clients = [0; 2].map(|_| client(&url(&redis)));
    wait_until("both to be connected", || clients.iter().all(|client| client.status().connected));
    let limits =
        clients.each_ref().map(|client| client.limit(&name("checkout"), settings(100, tokens(10), 2)));
    let begun = std::time::Instant::now();
    let mut sum = 0;
    while sum < 100 {
        sum += limits.iter().map(|limit| count(limit, None, 1)).sum::<u32>();
        let law = 10.0 + 100.0 * begun.elapsed().as_secs_f64();
        assert!(f64::from(sum) <= law + 1.0, "{sum} after {:?}", begun.elapsed());
    }
}

#[test]
fn a_clock_that_was_set_back_closes_nothing() {
    let redis = Redis::start();
    let client = connected(&url(&redis));
    // Empty, and written an hour ahead of now.
    let seconds = |ahead: u64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_secs() + ahead
    };
    let bucket = format!("0 0 {} 0 100 1 10", seconds(3600));
    redis.command(&["SET", "weir:{orders/bucket}:t", &bucket]);
    let limit = client.limit(&name("bucket"), settings(100, tokens(10), 3));
    wait_until("the bucket to fill", || granted(&limit, None, 1));
    // A window of which all was used, in the slots of the next hour.
    let window = format!("{} {}", (seconds(3600)) * 15, ["7"; 16].join(" "));
    redis.command(&["SET", "weir:{orders/window}:s1", &window]);
    let limit = client.limit(&name("window"), settings(100, Algorithm::SlidingWindow, 3));
    assert!(!granted(&limit, None, 1), "what was used was used, now");
    wait_until("the window to pass", || granted(&limit, None, 1));
}

#[test]
fn the_largest_and_the_slowest_are_counted_exactly() {
    let redis = Redis::start();
    let client = connected(&url(&redis));
    let most = 1_000_000_000;
    let refusal = |limit: &weir::shared_rate::SharedLimit, cost: u32| match runtime()
        .block_on(take(limit, None, cost))
    {
        Answer::Refused { retry_after: Some(after), remaining } => (after, remaining),
        other => panic!("{other:?}"),
    };
    // A thousand million tokens at one per hour.
    let slow = client.limit(&name("slow"), hourly(1, tokens(most)));
    assert!(granted(&slow, None, most - 1));
    let (after, remaining) = refusal(&slow, 1001);
    let hours = Duration::from_hours(1000);
    assert!(after <= hours && after + Duration::from_mins(1) > hours, "{after:?}");
    assert_eq!(remaining, 1);
    assert!(granted(&slow, None, 1) && !granted(&slow, None, 1));
    // As many per second, in buckets of one: it is there again before anybody can ask.
    let fast = client.limit(&name("fast"), settings(u64::from(most), tokens(1), 3));
    assert_eq!(count(&fast, None, 20), 20);
    // Windows.
    for algorithm in [Algorithm::FixedWindow, Algorithm::SlidingWindow] {
        let limit = client.limit(&name("window"), hourly(u64::from(most), algorithm));
        // The end of the hour may come in between.
        wait_until("nothing to be left", || granted(&limit, None, most - 7) && count(&limit, None, 9) == 7);
        let (after, remaining) = refusal(&limit, 1);
        // A grant of a sliding window is forgotten up to a fifteenth of the unit late.
        assert!(after <= Duration::from_mins(64) && remaining == 0, "{after:?}");
    }
}
