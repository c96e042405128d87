//! HTTP/2 connections.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::task::{JoinHandle, spawn_local};

use super::harness::*;
use crate::upstream::{CheckoutError, ConnectError, Failure, Lane, connector::Alpn, limits::Limits};

fn start(lane: &Rc<Lane>) -> JoinHandle<Result<(), String>> {
    let lane = lane.clone();
    spawn_local(async move { request(&lane).await })
}

#[test]
fn requests_share_the_first_connection() {
    run(async {
        let server = Http2Origin::start(50).await;
        let lane = lane_to(server.origin.address, Alpn::Http2, limits());
        let all: Vec<_> = (0..20).map(|_| start(&lane)).collect();
        until("all to run", || server.running.get() == 20).await;
        assert_eq!((server.origin.accepted.get(), counts(&lane)), (1, (1, 0, 20)));
        server.go();
        for one in all {
            one.await.unwrap().unwrap();
        }
        assert_eq!(counts(&lane), (1, 1, 0), "idle is counted for HTTP/2 too");
        lane.maintain(Instant::now() + limits().idle_timeout);
        until("it to be closed", || counts(&lane) == (0, 0, 0)).await;
    });
}

#[test]
fn when_streams_run_out_there_is_another_connection_up_to_the_limit() {
    run(async {
        let server = Http2Origin::start(4).await;
        let lane = lane_to(server.origin.address, Alpn::Http2, Limits { max_connections: 3, ..limits() });
        let all: Vec<_> = (0..14).map(|_| start(&lane)).collect();
        until("three connections to be full", || server.running.get() == 12).await;
        assert_eq!((counts(&lane), lane.queue().len()), ((3, 0, 12), 2));
        server.go();
        for one in all {
            one.await.unwrap().unwrap();
        }
        assert_eq!((server.origin.accepted.get(), counts(&lane)), (3, (3, 3, 0)));
    });
}

#[test]
fn a_connection_that_goes_away_finishes_its_streams_and_takes_no_more() {
    run(async {
        let server = Http2Origin::start(50).await;
        let lane = lane_to(server.origin.address, Alpn::Http2, limits());
        let running = start(&lane);
        until("it to run", || server.running.get() == 1).await;
        server.go_away();
        // Whoever is first to use it after that learns of it, and is told that nothing was sent.
        let told = async {
            loop {
                let mut lease = lane.checkout(Instant::now(), false).await.unwrap();
                let sent = tokio::time::timeout(Duration::from_millis(50), lease.send_http2(get())).await;
                if let Ok(Err(failure)) = sent {
                    return failure;
                }
                assert_eq!(server.origin.accepted.get(), 1, "a new connection although nobody was told");
            }
        };
        let failure = told.await;
        assert!(failure.connection_died(), "{failure:?}");
        assert!(matches!(failure, Failure::NotSent(..)), "{failure:?}");
        server.go();
        let fresh = lane.checkout(Instant::now(), true).await.unwrap();
        exchange(fresh).await.unwrap();
        running.await.unwrap().unwrap();
        assert_eq!(server.origin.accepted.get(), 2);
        until("the first to be gone", || counts(&lane) == (1, 1, 0)).await;
    });
}

#[test]
fn a_short_life_serves_a_request_at_least() {
    run(async {
        let server = Http2Origin::start(50).await;
        server.go();
        let lane =
            lane_to(server.origin.address, Alpn::Http2, Limits { max_age: Duration::ZERO, ..limits() });
        for expected in 1..4 {
            request(&lane).await.unwrap();
            assert_eq!(server.origin.accepted.get(), expected);
        }
        lane.maintain(Instant::now());
        until("all to be closed", || counts(&lane) == (0, 0, 0)).await;
    });
}

#[test]
fn a_stream_given_to_one_who_left_goes_to_the_next() {
    run(async {
        let server = Http2Origin::start(1).await;
        let lane = lane_to(server.origin.address, Alpn::Http2, Limits { max_connections: 1, ..limits() });
        let holds = lane.checkout(Instant::now(), false).await.unwrap();
        let (leaves, stays) = (waiting(&lane), waiting(&lane));
        until("two to wait", || lane.queue().len() == 2).await;
        drop(holds);
        leaves.abort();
        server.go();
        exchange(stays.await.unwrap().unwrap()).await.unwrap();
        assert_eq!((server.origin.accepted.get(), counts(&lane)), (1, (1, 1, 0)));
    });
}

#[test]
fn all_who_wait_for_one_connection_hear_that_it_failed() {
    run(async {
        let origin = Origin::http1().await;
        origin.refuse().await;
        let lane = lane_to(origin.address, Alpn::Http2, limits());
        for one in (0..5).map(|_| waiting(&lane)).collect::<Vec<_>>() {
            let refused = one.await.unwrap();
            assert!(matches!(refused, Err(CheckoutError::Connect(ConnectError::Refused(_)))), "{refused:?}");
        }
        assert_eq!((counts(&lane), lane.queue().len()), ((0, 0, 0), 0));
    });
}

#[test]
fn those_who_wait_for_a_stream_do_not_suffer_from_a_second_connection_that_fails() {
    run(async {
        let server = Http2Origin::start(1).await;
        let lane = lane_to(server.origin.address, Alpn::Http2, limits());
        let holds = lane.checkout(Instant::now(), false).await.unwrap();
        server.origin.refuse().await;
        let all: Vec<_> = (0..3).map(|_| waiting(&lane)).collect();
        until("them to wait, and a second connection to fail", || {
            lane.queue().len() == 3 && counts(&lane).0 == 1
        })
        .await;
        assert_eq!(lane.queue().len(), 3);
        server.go();
        exchange(holds).await.unwrap();
        for one in all {
            exchange(one.await.unwrap().unwrap()).await.unwrap();
        }
        assert_eq!(counts(&lane), (1, 1, 0));
    });
}

#[test]
fn an_origin_that_does_not_speak_it_is_found_out_before_a_request_is_sent() {
    run(async {
        let origin = Origin::http1().await;
        let lane = lane_to(origin.address, Alpn::Http2, limits());
        let failed = lane.checkout(Instant::now(), false).await;
        assert!(matches!(failed, Err(CheckoutError::Connect(ConnectError::Handshake(_)))), "{failed:?}");
        until("nothing to be left", || counts(&lane) == (0, 0, 0)).await;
    });
}

#[test]
fn a_dead_peer_is_noticed_while_requests_are_on_it() {
    run(async {
        // Says hello, and nothing ever after.
        let origin = Origin::start(|mut stream| async move {
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
            std::future::pending::<()>().await;
        })
        .await;
        let keep_alive = Duration::from_millis(100);
        let lane = lane_to(origin.address, Alpn::Http2, Limits { keep_alive, ..limits() });
        let lease = lane.checkout(Instant::now(), false).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(20), exchange(lease)).await.unwrap();
        assert!(ended.unwrap_err().connection_died());
        until("it to be gone", || counts(&lane) == (0, 0, 0)).await;
    });
}

#[test]
fn a_removed_endpoint_finishes_its_streams() {
    run(async {
        let server = Http2Origin::start(50).await;
        let lane = lane_to(server.origin.address, Alpn::Http2, limits());
        let running = start(&lane);
        until("it to run", || server.running.get() == 1).await;
        lane.retire();
        assert_eq!(counts(&lane), (1, 0, 1));
        server.go();
        running.await.unwrap().unwrap();
        until("it to be closed", || counts(&lane) == (0, 0, 0)).await;
    });
}
