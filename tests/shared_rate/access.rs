//! Users, passwords, databases, TLS, and scripts that are flushed.

use std::sync::Arc;

use weir::{
    config::{
        bootstrap::RedisUrl,
        policy::{Algorithm, EndpointAddress},
    },
    shared_rate::{Client, StartError, Trust},
};

use super::harness::{client, connected, count, granted, hourly, name, url};
use crate::support::{certs::Certs, redis::Redis, wait_for, wait_until};

const TOKENS: Algorithm = Algorithm::TokenBucket { burst: 5 };

fn used_up(client: &Client) {
    assert_eq!(count(&client.limit(&name("checkout"), hourly(1, TOKENS)), None, 7), 5);
}

#[test]
fn a_password_opens_and_a_wrong_one_does_not_and_is_not_told() {
    let redis = Redis::with_password("s3cret");
    let with = |password: &str| RedisUrl { password: Some(Arc::from(password)), ..url(&redis) };
    used_up(&connected(&with("s3cret")));
    let wrong = client(&with("wr0ng"));
    let error = wait_for("the client to be turned away", || wrong.status().error);
    assert!(!error.contains("wr0ng") && error.to_lowercase().contains("password"), "{error}");
    let none = client(&url(&redis));
    let error = wait_for("the client to be turned away", || none.status().error);
    assert!(error.to_lowercase().contains("auth"), "{error}");
}

#[test]
fn a_user_needs_scripts_and_its_own_keys_and_no_more() {
    let redis = Redis::start();
    redis.command(&[
        "ACL",
        "SETUSER",
        "weir",
        "on",
        ">s3cret",
        "resetkeys",
        "~weir:*",
        "-@all",
        "+evalsha",
        "+script|load",
        "+time",
        "+get",
        "+set",
        "+select",
        "+ping",
    ]);
    redis.command(&[
        "ACL",
        "SETUSER",
        "reader",
        "on",
        ">s3cret",
        "~weir:*",
        "-@all",
        "+evalsha",
        "+script|load",
        "+time",
        "+get",
    ]);
    let user = |user: &str| RedisUrl {
        user: Some(Arc::from(user)),
        password: Some(Arc::from("s3cret")),
        ..url(&redis)
    };
    used_up(&connected(&user("weir")));
    let reader = client(&user("reader"));
    let error = wait_for("the client to be turned away", || reader.status().error);
    assert!(error.contains("can't run this command"), "{error}");
    assert!(!reader.status().connected);
}

#[test]
fn databases_are_apart() {
    let redis = Redis::start();
    let other = RedisUrl { database: 3, ..url(&redis) };
    used_up(&connected(&url(&redis)));
    used_up(&connected(&other));
    assert!(redis.command(&["-n", "3", "KEYS", "*"]).contains("weir:{orders/checkout}:t"));
}

#[test]
fn flushed_scripts_come_back_by_themselves() {
    let redis = Redis::start();
    let client = connected(&url(&redis));
    let limit = client.limit(&name("checkout"), hourly(1, TOKENS));
    assert_eq!(count(&limit, None, 2), 2);
    redis.command(&["SCRIPT", "FLUSH"]);
    assert_eq!(count(&limit, None, 7), 3);
    assert_eq!(client.counts().outages, 0);
}

#[test]
fn tls_is_spoken_with_those_who_are_trusted() {
    let certs = Certs::new();
    let redis = Redis::with_tls(&certs.localhost(), &certs.ca());
    let secure = RedisUrl { tls: true, ..url(&redis) };
    let start =
        |url: &RedisUrl, trust: Trust<'_>| Client::start_trusting(url, &name("orders"), trust).unwrap();
    let trusting = start(&secure, Trust::File(&certs.ca()));
    wait_until("the client to be connected", || trusting.status().connected);
    used_up(&trusting);
    let by_name = RedisUrl {
        address: EndpointAddress::Host(Arc::from("localhost"), redis.address().port()),
        ..secure.clone()
    };
    let named = start(&by_name, Trust::File(&certs.ca()));
    wait_until("the client to be connected", || named.status().connected);
    assert!(!granted(&named.limit(&name("checkout"), hourly(1, TOKENS)), None, 1), "the same count");
    let others = Certs::new();
    let wary = start(&secure, Trust::File(&others.ca()));
    let error = wait_for("the client to turn away", || wary.status().error);
    assert!(error.contains("TLS"), "{error}");
    let absent = Client::start_trusting(&secure, &name("orders"), Trust::File("/nowhere.pem".as_ref()));
    assert!(matches!(absent, Err(StartError::Tls(_))));
}
