//! Connections to endpoints: kept, bounded, checked and replaced.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use crate::support::{
    client::{Client, empty, fed, full},
    driver,
    origin::{self, Origin, Setup},
    raw_origin::RawOrigin,
    wait_until,
    weir::File,
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[test]
fn a_connection_is_used_again() {
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).top("workers: 1").start();
    for _ in 0..5 {
        let client = Client::http1(weir.at("inbound"));
        for _ in 0..5 {
            assert_eq!(client.get("a.test", "/").status, 200);
        }
    }
    assert_eq!((origin.requests(), origin.connections()), (25, 1));
}

#[test]
fn a_connection_whose_answer_was_not_read_to_its_end_is_not_used_again() {
    let origin = Origin::start(|request| async move {
        if request.uri().path() == "/endless" {
            let (feed, body) = fed();
            feed.data("start");
            driver::spawn(async move {
                while !feed.is_abandoned() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
            return Ok(origin::answer_with(200, &[], body));
        }
        Ok(origin::answer(200, "clean"))
    });
    let weir = File::to(&[origin.address]).top("workers: 1").start();
    let client = Client::http2(weir.at("inbound"));
    let mut answer = client.open(client.to("a.test", "GET", "/endless", &[], empty())).unwrap();
    assert_eq!(answer.next_text(), "start");
    drop((answer, client));
    wait_until("the connection to be closed", || origin.open_connections() == 0);
    assert_eq!(Client::http1(weir.at("inbound")).get("a.test", "/").text(), "clean");
}

#[test]
fn an_origin_that_asks_to_close_is_heard() {
    let origin = RawOrigin::answering("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok");
    let weir = File::to(&[origin.address]).top("workers: 1").start();
    let client = Client::http1(weir.at("inbound"));
    for _ in 0..3 {
        assert_eq!(client.get("a.test", "/").text(), "ok");
    }
    assert_eq!(origin.connections(), 3);
}

/// An origin that reads a second request on its first connection and closes without an answer.
fn dies_on_reuse() -> RawOrigin {
    RawOrigin::start(|connection| {
        if connection.number > 0 {
            return connection.answer_all(OK);
        }
        connection.request();
        connection.raw.send(OK);
        connection.request();
    })
}

#[test]
fn a_get_on_a_reused_connection_that_dies_is_sent_again() {
    let origin = dies_on_reuse();
    let weir = File::to(&[origin.address]).top("workers: 1").start();
    let client = Client::http1(weir.at("inbound"));
    for _ in 0..2 {
        assert_eq!(client.get("a.test", "/").status, 200);
    }
    assert_eq!((origin.seen().len(), origin.connections()), (3, 2));
    let attempts: Vec<_> =
        origin.seen().iter().filter_map(|request| request.header("x-weir-attempt")).collect();
    assert_eq!(attempts, ["1", "1", "2"]);
    weir.wait_metric("weir_retries_total", &[("upstream", "app")], 1.0);
}

#[test]
fn a_post_on_a_reused_connection_that_dies_is_not_sent_again() {
    let origin = dies_on_reuse();
    let weir = File::to(&[origin.address]).top("workers: 1").start();
    let client = Client::http1(weir.at("inbound"));
    assert_eq!(client.get("a.test", "/").status, 200);
    let answer = client.send(client.to("a.test", "POST", "/", &[], full("order")));
    assert_eq!((answer.status, answer.reason().as_str()), (502, "upstream_reset"));
    assert_eq!(origin.seen().len(), 2, "the origin may have acted on it: it must not come twice");
}

#[test]
fn a_get_on_a_fresh_connection_that_dies_is_not_replayed() {
    let origin = RawOrigin::start(|connection| {
        connection.request();
    });
    let weir = File::to(&[origin.address]).start();
    assert_eq!(Client::http1(weir.at("inbound")).get("a.test", "/").status, 502);
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn an_idle_connection_that_the_origin_closed_is_noticed_before_use() {
    let setup = Setup { close_idle: Some(Duration::from_millis(1)), ..Setup::default() };
    let origin = Origin::with(setup, |_| async { Ok(origin::answer(200, "ok")) });
    let weir = File::to(&[origin.address]).top("workers: 1").start();
    let client = Client::http1(weir.at("inbound"));
    for _ in 0..20 {
        let post = client.send(client.to("a.test", "POST", "/", &[], full("x")));
        assert_eq!(post.status, 200);
        wait_until("the origin to close", || origin.open_connections() == 0);
        weir.wait_metric("weir_pool_connections", &[("upstream", "app")], 0.0);
    }
}

#[test]
fn idle_connections_are_closed_in_time() {
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).upstream("pool: { idle_timeout: 200ms }").start();
    assert_eq!(Client::http1(weir.at("inbound")).get("a.test", "/").status, 200);
    assert_eq!(origin.open_connections(), 1);
    wait_until("the idle connection to be closed", || origin.open_connections() == 0);
}

#[test]
fn old_connections_take_no_more_requests() {
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).top("workers: 1").upstream("pool: { max_age: 100ms }").start();
    let client = Client::http1(weir.at("inbound"));
    wait_until("a second connection", || {
        assert_eq!(client.get("a.test", "/").status, 200);
        origin.connections() >= 2
    });
    wait_until("the first to be closed", || origin.open_connections() <= 1);
}

#[test]
fn connections_and_those_who_wait_for_one_are_bounded() {
    let origin = Origin::start(|request| async move {
        if request.uri().path() == "/stuck" {
            std::future::pending().await
        } else {
            Ok(origin::answer(200, "ok"))
        }
    });
    let weir = File::to(&[origin.address])
        .top("workers: 1")
        .upstream("pool: { max_connections: 2, max_pending: 1, pending_timeout: 300ms }")
        .start();
    let client = Client::http2(weir.at("inbound"));
    let stuck: Vec<_> =
        (0..2).map(|_| client.start(client.to("a.test", "GET", "/stuck", &[], empty()))).collect();
    origin.wait_for_requests(2);

    let waiting = client.start(client.to("a.test", "GET", "/", &[], empty()));
    // Of two that come now, one finds the queue full at once, or the first one has left it; both get the reason.
    let answers = [client.get("a.test", "/"), driver::run(waiting).unwrap().unwrap()];
    for answer in &answers {
        assert_eq!((answer.status, answer.reason().as_str()), (503, "pool_full"));
        assert_ne!(answer.header("retry-after"), "");
    }
    assert_eq!(origin.connections(), 2);

    for task in stuck {
        task.abort();
    }
    wait_until("the two to be given up", || origin.running() == 0);
    assert_eq!(client.get("a.test", "/").text(), "ok");
}

#[test]
fn one_that_waits_gets_the_connection_that_becomes_free() {
    let (feed, body) = fed();
    let body = std::sync::Mutex::new(Some(body));
    let origin = Origin::start(move |_| {
        let body = body.lock().unwrap().take();
        async {
            Ok(body.map_or_else(|| origin::answer(200, "next"), |body| origin::answer_with(200, &[], body)))
        }
    });
    let weir = File::to(&[origin.address])
        .top("workers: 1")
        .upstream("pool: { max_connections: 1, max_pending: 10, pending_timeout: 10s }")
        .start();
    let client = Client::http2(weir.at("inbound"));
    feed.data("first");
    let mut first = client.open(client.to("a.test", "GET", "/", &[], empty())).unwrap();
    assert_eq!(first.next_text(), "first");
    let waiting = client.start(client.to("a.test", "GET", "/", &[], empty()));
    drop(feed);
    assert!(first.next().is_none());
    assert_eq!(driver::run(waiting).unwrap().unwrap().text(), "next");
    assert_eq!(origin.connections(), 1);
}

#[test]
fn more_http2_connections_are_opened_when_streams_run_out() {
    static RUNNING: AtomicUsize = AtomicUsize::new(0);
    let setup = Setup { max_streams: Some(4), ..Setup::default() };
    let origin = Origin::with(setup, |_| async {
        RUNNING.fetch_add(1, Ordering::SeqCst);
        while RUNNING.load(Ordering::SeqCst) < 12 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(origin::answer(200, "ok"))
    });
    let weir = File::to(&[origin.address]).top("workers: 1").upstream("protocol: http2").start();
    let client = Client::http2(weir.at("inbound"));
    assert!(driver::run({
        let client = client.clone();
        async move {
            let running: Vec<_> =
                (0..12).map(|_| client.start(client.to("a.test", "GET", "/", &[], empty()))).collect();
            let mut all = true;
            for task in running {
                all &= task.await.unwrap().unwrap().status == 200;
            }
            all
        }
    }));
    assert!(origin.connections() >= 3, "{} connections for 12 streams of 4", origin.connections());
}
