//! HTTP/1 connections.

use std::time::{Duration, Instant};

use tokio::{io::AsyncReadExt, task::spawn_local};

use super::harness::*;
use crate::upstream::{CheckoutError, ConnectError, connector::Alpn, limits::Limits};

#[test]
fn the_newest_idle_connection_is_used_first_and_the_oldest_goes() {
    run(async {
        let origin = Origin::http1().await;
        let lane = lane_to(origin.address, Alpn::Http1, limits());
        let (first, second) = (
            lane.checkout(Instant::now(), false).await.unwrap(),
            lane.checkout(Instant::now(), false).await.unwrap(),
        );
        exchange(first).await.unwrap();
        let mark = Instant::now();
        exchange(second).await.unwrap();
        assert_eq!(counts(&lane), (2, 2, 0));
        for _ in 0..5 {
            request(&lane).await.unwrap();
        }
        assert_eq!(origin.accepted.get(), 2);
        // As seen from a minute after the first came back, only the second is in use still.
        lane.maintain(mark + limits().idle_timeout);
        until("the oldest to be closed", || counts(&lane) == (1, 1, 0)).await;
        lane.maintain(Instant::now() + limits().idle_timeout);
        until("the other to be closed", || counts(&lane) == (0, 0, 0) && origin.open.get() == 0).await;
    });
}

#[test]
fn an_idle_connection_is_not_used_past_its_time_between_two_ticks() {
    run(async {
        let origin = Origin::http1().await;
        let lane = lane_to(origin.address, Alpn::Http1, Limits { idle_timeout: Duration::ZERO, ..limits() });
        for expected in 1..4 {
            request(&lane).await.unwrap();
            assert_eq!(origin.accepted.get(), expected);
        }
    });
}

#[test]
fn a_connection_that_outlives_no_request_still_serves_one() {
    run(async {
        let origin = Origin::http1().await;
        let lane = lane_to(origin.address, Alpn::Http1, Limits { max_age: Duration::ZERO, ..limits() });
        for expected in 1..4 {
            request(&lane).await.unwrap();
            assert_eq!(origin.accepted.get(), expected);
        }
        until("all to be closed", || counts(&lane) == (0, 0, 0)).await;
    });
}

#[test]
fn idle_connections_that_the_origin_closed_are_dropped_at_the_next_tick_and_never_used() {
    run(async {
        let origin = Origin::http1().await;
        let lane = lane_to(origin.address, Alpn::Http1, limits());
        request(&lane).await.unwrap();
        origin.kill();
        until("the count to come down", || {
            lane.maintain(Instant::now());
            counts(&lane) == (0, 0, 0)
        })
        .await;
        request(&lane).await.unwrap();
        assert_eq!(origin.accepted.get(), 2);
        origin.kill();
        until("the origin to be gone", || origin.open.get() == 0).await;
        request(&lane).await.unwrap();
        assert_eq!((origin.accepted.get(), counts(&lane)), (3, (1, 1, 0)));
    });
}

#[test]
fn connections_and_waiters_are_bounded_and_served_in_order() {
    run(async {
        let origin = Origin::http1().await;
        let lane =
            lane_to(origin.address, Alpn::Http1, Limits { max_connections: 1, max_pending: 2, ..limits() });
        let first = lane.checkout(Instant::now(), false).await.unwrap();
        let (second, third) = (waiting(&lane), waiting(&lane));
        until("two to wait", || lane.queue().len() == 2).await;
        assert!(matches!(lane.checkout(Instant::now(), false).await, Err(CheckoutError::Full)));
        exchange(first).await.unwrap();
        let second = second.await.unwrap().unwrap();
        assert!(!third.is_finished());
        assert!(second.reused());
        exchange(second).await.unwrap();
        exchange(third.await.unwrap().unwrap()).await.unwrap();
        assert_eq!((origin.accepted.get(), counts(&lane)), (1, (1, 1, 0)));
    });
}

#[test]
fn nobody_waits_when_nobody_may() {
    run(async {
        let origin = Origin::http1().await;
        let lane =
            lane_to(origin.address, Alpn::Http1, Limits { max_connections: 1, max_pending: 0, ..limits() });
        let lease = lane.checkout(Instant::now(), false).await.unwrap();
        assert!(matches!(lane.checkout(Instant::now(), false).await, Err(CheckoutError::Full)));
        exchange(lease).await.unwrap();
        request(&lane).await.unwrap();
    });
}

#[test]
fn those_who_wait_too_long_leave_nothing_behind() {
    run(async {
        let origin = Origin::http1().await;
        let limits = Limits { max_connections: 1, pending_timeout: Duration::from_millis(5), ..limits() };
        let lane = lane_to(origin.address, Alpn::Http1, limits);
        let lease = lane.checkout(Instant::now(), false).await.unwrap();
        for _ in 0..20 {
            assert!(matches!(lane.checkout(Instant::now(), false).await, Err(CheckoutError::Full)));
        }
        assert_eq!(lane.queue().len(), 0);
        exchange(lease).await.unwrap();
        assert_eq!(counts(&lane), (1, 1, 0));
    });
}

#[test]
fn one_that_waits_takes_the_place_of_a_connection_that_was_given_up() {
    run(async {
        let origin = Origin::http1().await;
        let lane = lane_to(origin.address, Alpn::Http1, Limits { max_connections: 1, ..limits() });
        let unfinished = lane.checkout(Instant::now(), false).await.unwrap();
        let next = waiting(&lane);
        until("one to wait", || lane.queue().len() == 1).await;
        drop(unfinished);
        let next = next.await.unwrap().unwrap();
        assert!(!next.reused());
        exchange(next).await.unwrap();
        assert_eq!((origin.accepted.get(), counts(&lane)), (2, (1, 1, 0)));
    });
}

#[test]
fn a_connection_given_to_one_who_left_goes_to_the_next() {
    run(async {
        let origin = Origin::http1().await;
        let lane = lane_to(origin.address, Alpn::Http1, Limits { max_connections: 1, ..limits() });
        let mut first = lane.checkout(Instant::now(), false).await.unwrap();
        let (leaves, stays) = (waiting(&lane), waiting(&lane));
        until("two to wait", || lane.queue().len() == 2).await;
        ask(&mut first).await.unwrap();
        until("the connection to be ready again", || counts(&lane).2 == 1).await;
        first.finish(Instant::now());
        // The connection is in its hands or on the way there; it never looks.
        leaves.abort();
        exchange(stays.await.unwrap().unwrap()).await.unwrap();
        assert_eq!((origin.accepted.get(), counts(&lane)), (1, (1, 1, 0)));
    });
}

#[test]
fn a_request_that_left_while_its_connection_was_made_leaves_it_to_others() {
    run(async {
        let origin = Origin::http1().await;
        let lane = lane_to(origin.address, Alpn::Http1, limits());
        let mut leaves = Box::pin(lane.checkout(Instant::now(), false));
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(leaves.as_mut().poll(cx))).await;
        assert!(polled.is_pending());
        assert_eq!((counts(&lane).0, lane.queue().len()), (1, 1));
        drop(leaves);
        until("the connection to be idle", || counts(&lane) == (1, 1, 0)).await;
        request(&lane).await.unwrap();
        assert_eq!(origin.accepted.get(), 1);
    });
}

#[test]
fn each_who_waits_hears_of_a_refusal_once_and_nothing_is_retried_behind_their_backs() {
    run(async {
        let origin = Origin::http1().await;
        origin.refuse().await;
        let lane = lane_to(origin.address, Alpn::Http1, Limits { max_connections: 2, ..limits() });
        let all: Vec<_> = (0..5).map(|_| waiting(&lane)).collect();
        for one in all {
            let refused = one.await.unwrap();
            assert!(matches!(refused, Err(CheckoutError::Connect(ConnectError::Refused(_)))), "{refused:?}");
        }
        until("nothing to be left", || counts(&lane) == (0, 0, 0) && lane.queue().is_empty()).await;
    });
}

#[test]
fn a_fresh_connection_is_none_that_another_request_has_just_given_back() {
    run(async {
        let origin = Origin::http1().await;
        let lane = lane_to(origin.address, Alpn::Http1, limits());
        let (used, ask) = (lane.checkout(Instant::now(), false).await.unwrap(), lane.clone());
        let asking = spawn_local(async move { ask.checkout(Instant::now(), true).await });
        exchange(used).await.unwrap();
        let fresh = asking.await.unwrap().unwrap();
        assert!(!fresh.reused());
        assert_eq!(origin.accepted.get(), 2);
    });
}

#[test]
fn a_fresh_connection_is_none_of_the_idle_ones_even_when_there_is_no_room() {
    run(async {
        let origin = Origin::http1().await;
        let lane =
            lane_to(origin.address, Alpn::Http1, Limits { max_connections: 1, max_pending: 0, ..limits() });
        request(&lane).await.unwrap();
        let lease = lane.checkout(Instant::now(), true).await.unwrap();
        assert!(!lease.reused());
        exchange(lease).await.unwrap();
        assert_eq!((origin.accepted.get(), counts(&lane)), (2, (1, 1, 0)));
    });
}

#[test]
fn a_floor_of_idle_connections_is_kept_and_a_dead_endpoint_is_left_in_peace() {
    run(async {
        let origin = Origin::http1().await;
        let lane = lane_to(origin.address, Alpn::Http1, Limits { min_idle: 3, ..limits() });
        let mut now = Instant::now();
        lane.maintain(now);
        until("the floor", || counts(&lane) == (3, 3, 0)).await;
        now += limits().idle_timeout;
        lane.maintain(now);
        assert_eq!(counts(&lane), (3, 3, 0), "idle for long, but needed");
        origin.kill();
        until("them to be gone", || {
            lane.one_ended();
            counts(&lane) == (0, 0, 0)
        })
        .await;
        origin.refuse().await;
        let mut begun = 0;
        for _ in 0..150 {
            now += Duration::from_millis(200);
            lane.maintain(now);
            begun += counts(&lane).0;
            until("the attempts to fail", || counts(&lane).0 == 0).await;
        }
        assert!((3..=18).contains(&begun), "{begun} attempts in 30 s");
    });
}

#[test]
fn a_lowered_limit_closes_idle_connections() {
    run(async {
        let origin = Origin::http1().await;
        let lane = lane_to(origin.address, Alpn::Http1, limits());
        let leases = [
            lane.checkout(Instant::now(), false).await,
            lane.checkout(Instant::now(), false).await,
            lane.checkout(Instant::now(), false).await,
        ];
        for lease in leases {
            exchange(lease.unwrap()).await.unwrap();
        }
        lane.set_limits(&Limits { max_connections: 1, ..limits() });
        lane.maintain(Instant::now());
        until("two to be closed", || counts(&lane) == (1, 1, 0)).await;
        lane.set_limits(&limits());
        let (one, two) = (
            lane.checkout(Instant::now(), false).await.unwrap(),
            lane.checkout(Instant::now(), false).await.unwrap(),
        );
        assert_eq!(counts(&lane), (2, 0, 2));
        drop((one, two));
        until("all to be closed", || counts(&lane) == (0, 0, 0)).await;
    });
}

#[test]
fn a_removed_endpoint_keeps_only_what_is_in_use_and_serves_who_waits() {
    run(async {
        let origin = Origin::http1().await;
        let lane = lane_to(origin.address, Alpn::Http1, Limits { max_connections: 2, ..limits() });
        let (busy, idle) = (
            lane.checkout(Instant::now(), false).await.unwrap(),
            lane.checkout(Instant::now(), false).await.unwrap(),
        );
        exchange(idle).await.unwrap();
        lane.retire();
        until("the idle one to be closed", || counts(&lane) == (1, 0, 1)).await;
        let other = lane.checkout(Instant::now(), false).await.unwrap();
        let waits = waiting(&lane);
        until("one to wait", || lane.queue().len() == 1).await;
        exchange(busy).await.unwrap();
        exchange(waits.await.unwrap().unwrap()).await.unwrap();
        exchange(other).await.unwrap();
        until("all to be closed", || counts(&lane) == (0, 0, 0) && origin.open.get() == 0).await;
    });
}

#[test]
fn an_exchange_that_is_given_up_closes_its_connection_though_its_body_never_ends() {
    run(async {
        let origin = Origin::start(|mut stream| async move {
            let mut buffer = [0; 1024];
            while let Ok(1..) = stream.read(&mut buffer).await {}
        })
        .await;
        let lane = lane_to(origin.address, Alpn::Http1, limits());
        let mut lease = lane.checkout(Instant::now(), false).await.unwrap();
        let sending = spawn_local(async move { ask(&mut lease).await });
        until("the connection", || origin.open.get() == 1).await;
        sending.abort();
        until("it to be closed", || counts(&lane) == (0, 0, 0) && origin.open.get() == 0).await;
    });
}

#[test]
fn a_runtime_that_ends_with_everything_under_way_ends() {
    let lane = run(async {
        let origin = Origin::http1().await;
        let lane = lane_to(origin.address, Alpn::Http1, Limits { max_connections: 2, ..limits() });
        request(&lane).await.unwrap();
        let busy = lane.checkout(Instant::now(), false).await.unwrap();
        let other = lane.checkout(Instant::now(), false).await.unwrap();
        spawn_local(async move {
            let _held = (busy, other);
            std::future::pending::<()>().await;
        });
        let _waits = (waiting(&lane), waiting(&lane));
        until("them to wait", || lane.queue().len() == 2).await;
        lane
    });
    assert_eq!(counts(&lane), (0, 0, 0));
    assert!(lane.queue().is_empty());
}
