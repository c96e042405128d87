//! Redis is killed, stands still, starts again empty, answers late, or answers nonsense.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use weir::{
    config::{
        bootstrap::RedisUrl,
        policy::{Algorithm, EndpointAddress},
    },
    shared_rate::{Answer, Client, PATIENCE, SharedLimit, Take},
};

use super::harness::{client, connected, count, granted, hourly, name, now, runtime, settings, take, url};
use crate::support::{redis::Redis, wait_for, wait_until, weir::unused_address};

/// What a busy machine may take for what takes no time.
const SLACK: Duration = Duration::from_millis(500);

const TOKENS: Algorithm = Algorithm::TokenBucket { burst: 1000 };

fn limit(client: &Client) -> Arc<SharedLimit> {
    client.limit(&name("checkout"), settings(1000, TOKENS, 1))
}

/// Falls back at once, without asking.
fn falls_back(limit: &SharedLimit) -> bool {
    matches!(limit.take(None, 1, now()), Take::Fallback)
}

/// Takes until Redis is seen to be away; no request waits longer than it may.
#[track_caller]
fn until_away(limit: &SharedLimit) -> u32 {
    let (deadline, mut asked) = (Instant::now() + Duration::from_secs(10), 0);
    let runtime = runtime();
    while Instant::now() < deadline {
        let begun = Instant::now();
        match limit.take(None, 1, now()) {
            Take::Fallback => {
                assert!(begun.elapsed() < SLACK);
                return asked;
            }
            Take::Ask(asking) => {
                asked += 1;
                let told = runtime.block_on(asking.answer());
                assert!(begun.elapsed() < PATIENCE + SLACK, "{told:?} after {:?}", begun.elapsed());
            }
            Take::Granted { .. } | Take::Refused { .. } => {}
        }
    }
    panic!("nobody has seen it");
}

#[test]
fn killed_it_falls_back_at_once_and_recovers_by_itself() {
    let mut redis = Redis::start();
    let client = connected(&url(&redis));
    let limit = limit(&client);
    assert!(granted(&limit, None, 1));
    let connected_since = client.status().since;
    redis.kill();
    until_away(&limit);
    wait_until("the client to say so", || !client.status().connected);
    let status = client.status();
    assert!(status.error.is_some() && status.since >= connected_since, "{status:?}");
    assert_eq!(client.counts().outages, 1);
    let before = client.counts().fallbacks;
    assert!((0..100).all(|_| falls_back(&limit)), "nobody waits");
    assert_eq!(client.counts().fallbacks, before + 100);
    redis.run();
    wait_until("the client to come back", || client.status().connected);
    assert!(granted(&limit, None, 1));
    assert_eq!((client.status().error, client.counts().outages), (None, 1));
}

#[test]
fn standing_still_it_keeps_nobody_waiting_and_what_is_leased_is_not_used_then() {
    let redis = Redis::start();
    let client = connected(&url(&redis));
    let limit = limit(&client);
    assert!(count(&limit, None, 200) > 0);
    redis.freeze();
    // Whether anybody asks or not: a connection that nobody uses is tried.
    until_away(&limit);
    assert!((0..100).all(|_| falls_back(&limit)));
    let error = wait_for("an attempt to fail", || client.status().error);
    assert!(!error.is_empty());
    redis.thaw();
    wait_until("the client to come back", || client.status().connected);
    assert!(granted(&limit, None, 1));
}

#[test]
fn an_outage_is_seen_without_any_request() {
    let mut redis = Redis::start();
    let client = connected(&url(&redis));
    redis.freeze();
    wait_until("the silence to be noticed", || !client.status().connected);
    redis.thaw();
    wait_until("the client to come back", || client.status().connected);
    redis.kill();
    wait_until("the end to be noticed", || !client.status().connected);
}

#[test]
fn a_key_that_is_not_ours_or_is_garbled_begins_anew() {
    let redis = Redis::start();
    let client = connected(&url(&redis));
    redis.command(&["RPUSH", "weir:{orders/list}:t", "a"]);
    redis.command(&["SET", "weir:{orders/text}:t", "not a bucket 1 2"]);
    redis.command(&["SET", "weir:{orders/window}:f3600", "x"]);
    let small = Algorithm::TokenBucket { burst: 3 };
    for limit in ["list", "text"] {
        assert_eq!(count(&client.limit(&name(limit), hourly(1, small)), None, 5), 3, "{limit}");
    }
    let window = client.limit(&name("window"), hourly(3, Algorithm::FixedWindow));
    assert_eq!(count(&window, None, 5), 3);
    assert_eq!(client.counts().outages, 0);
}

#[test]
fn what_may_not_be_written_is_an_outage_and_not_a_grant() {
    let redis = Redis::start();
    let client = connected(&url(&redis));
    let limit = client.limit(&name("checkout"), hourly(1, Algorithm::TokenBucket { burst: 100 }));
    assert!(granted(&limit, None, 1));
    // A replica that lost its primary, or was promoted away: it answers, and takes no writes.
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
    wait_until("writes to be refused", || {
        matches!(runtime().block_on(take(&limit, None, 1)), Answer::Fallback)
    });
    wait_until("the client to say so", || !client.status().connected && client.status().error.is_some());
    assert!(falls_back(&limit));
    redis.command(&["REPLICAOF", "NO", "ONE"]);
    wait_until("the client to come back", || client.status().connected);
    assert!(granted(&limit, None, 1));
}

/// A server that says the same to everything, so much later.
fn server(answer: &'static [u8], delay: Duration) -> (RedisUrl, Arc<AtomicBool>) {
    let address = unused_address();
    let (listener, over) = (TcpListener::bind(address).unwrap(), Arc::new(AtomicBool::new(false)));
    let told = over.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), told) = (stream, told.clone()) else { return };
            std::thread::spawn(move || {
                let mut part = [0; 4096];
                while let Ok(1..) = stream.read(&mut part) {
                    std::thread::sleep(delay);
                    if told.load(Relaxed) || stream.write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let url = RedisUrl {
        tls: false,
        address: EndpointAddress::Socket(address),
        user: None,
        password: None,
        database: 0,
    };
    (url, over)
}

#[test]
fn nonsense_is_an_outage() {
    for answer in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"+OK\r\n",
        b":7\r\n",
        b"*-1\r\n$-1\r\n",
        b"*5\r\n:-1\r\n:0\r\n:0\r\n:0\r\n:0\r\n",
        b"*2\r\n:1\r\n:2\r\n",
        b"-ERR no\r\n-ERR no\r\n",
        b"\x16\x03\x01\0\0",
        b"$99999999999999999999\r\n",
        b"*1000000000\r\n",
        b"",
    ] {
        let (url, over) = server(answer, Duration::ZERO);
        let client = client(&url);
        let limit = limit(&client);
        let shown = String::from_utf8_lossy(answer);
        let error = wait_for("the client to turn away", || client.status().error);
        assert!(!error.is_empty() && !client.status().connected, "{shown}");
        assert!(falls_back(&limit), "{shown}");
        over.store(true, Relaxed);
    }
}

#[test]
fn one_that_answers_too_late_is_away() {
    // It answers everything with what fits a script's answer, but slowly.
    let (url, over) = server(b"*5\r\n:1\r\n:0\r\n:5\r\n:0\r\n:0\r\n", Duration::from_millis(200));
    let client = client(&url);
    let limit = limit(&client);
    let error = wait_for("the client to turn away", || client.status().error);
    assert!(error.contains("within"), "{error}");
    assert!(falls_back(&limit));
    over.store(true, Relaxed);
}

#[test]
fn nobody_there_is_nothing_that_anybody_waits_for() {
    let address = unused_address();
    let url = RedisUrl {
        tls: false,
        address: EndpointAddress::Socket(address),
        user: None,
        password: None,
        database: 0,
    };
    let client = client(&url);
    let limit = limit(&client);
    assert!((0..1000).all(|_| falls_back(&limit)));
    let error = wait_for("an error", || client.status().error);
    assert!(error.contains(&address.to_string()), "{error}");
    assert_eq!(client.counts().outages, 0, "it never was there");
}

#[test]
fn a_request_that_goes_home_takes_nothing_with_it() {
    let redis = Redis::start();
    let client = connected(&url(&redis));
    let limit = client.limit(&name("checkout"), hourly(1, Algorithm::TokenBucket { burst: 20 }));
    for _ in 0..50 {
        match limit.take(None, 4, now()) {
            Take::Ask(asking) => drop(asking),
            // What the one before did not want is here now.
            Take::Granted { .. } => limit.give_back(None, 4),
            other => panic!("{other:?}"),
        }
        // Its answer has come before the next one's.
        assert!(!granted(&client.limit(&name("other"), hourly(1, TOKENS)), None, 1001));
    }
    // Not one of those fifty requests of 4 has gone.
    let mut sum = 0;
    wait_until("all to be there", || {
        sum += count(&limit, None, 1);
        assert!(sum <= 20);
        sum == 20
    });
}
