//! Instances, and what they are told.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant},
};

use weir::{
    config::{
        Name,
        bootstrap::RedisUrl,
        policy::{Algorithm, EndpointAddress},
        units::Rate,
    },
    policy::Stamp,
    shared_rate::{Answer, Client, Settings, SharedLimit, Take},
};

use crate::support::{redis::Redis, wait_until};

/// Where a Redis is, in clear.
pub fn url(redis: &Redis) -> RedisUrl {
    RedisUrl {
        tls: false,
        address: EndpointAddress::Socket(redis.address()),
        user: None,
        password: None,
        database: 0,
    }
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// One of the service's instances.
pub fn client(url: &RedisUrl) -> Arc<Client> {
    Client::start(url, &name("orders")).unwrap()
}

/// One that Redis has answered.
#[track_caller]
pub fn connected(url: &RedisUrl) -> Arc<Client> {
    let client = client(url);
    wait_until("the client to be connected", || client.status().connected);
    client
}

/// So many per second, for so many instances.
pub fn settings(count: u64, algorithm: Algorithm, instances: u32) -> Settings {
    let rate = Rate { count, per: Duration::from_secs(1) };
    Settings { rate, algorithm, max_keys: None, instances: NonZeroU32::new(instances).unwrap() }
}

pub fn hourly(count: u64, algorithm: Algorithm) -> Settings {
    Settings { rate: Rate { count, per: Duration::from_hours(1) }, ..settings(1, algorithm, 3) }
}

pub fn now() -> Stamp {
    Stamp::of(Instant::now())
}

/// A thread that requests run on.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// What one request is told in the end.
pub async fn take(limit: &SharedLimit, key: Option<(&[u8], u64)>, cost: u32) -> Answer {
    match limit.take(key, cost, now()) {
        Take::Granted { remaining, wait } => Answer::Granted { remaining, wait },
        Take::Refused { retry_after, remaining } => Answer::Refused { retry_after, remaining },
        Take::Ask(asking) => asking.answer().await,
        Take::Fallback => Answer::Fallback,
    }
}

/// Whether one request may go; it must be known.
#[track_caller]
pub fn granted(limit: &SharedLimit, key: Option<(&[u8], u64)>, cost: u32) -> bool {
    // A machine that is busy elsewhere for 20 ms lets a request fall back: that is for another test.
    for _ in 0..50 {
        match runtime().block_on(take(limit, key, cost)) {
            Answer::Granted { .. } => return true,
            Answer::Refused { .. } => return false,
            Answer::Fallback => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    panic!("Redis never answers");
}

/// How many of `offered` requests may go.
#[track_caller]
pub fn count(limit: &SharedLimit, key: Option<(&[u8], u64)>, offered: u32) -> u32 {
    (0..offered).map(|_| u32::from(granted(limit, key, 1))).sum()
}
