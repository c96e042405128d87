//! Every wait is bounded, and whoever set the bound that ran out is named.

use std::time::{Duration, Instant};

use crate::support::{
    client::{Client, empty, fed},
    origin::{self, Origin},
    raw::Raw,
    wait_until,
    weir::File,
};

#[test]
fn the_routes_timeout_bounds_the_time_to_the_answer() {
    let origin = Origin::silent();
    let weir = File::to(&[origin.address]).route("timeout: 200ms").start();
    let started = Instant::now();
    let answer = Client::http1(weir.at("inbound")).get("a.test", "/");
    assert_eq!((answer.status, answer.reason().as_str()), (504, "upstream_timeout"));
    assert!(started.elapsed() >= Duration::from_millis(200));
    wait_until("the origin to be told", || origin.running() == 0);
}

#[test]
fn the_routes_timeout_does_not_bound_the_body() {
    let (feed, body) = fed();
    let body = std::sync::Mutex::new(Some(body));
    let origin = Origin::start(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async { Ok(origin::answer_with(200, &[], body)) }
    });
    let weir = File::to(&[origin.address]).route("timeout: 200ms").start();
    let client = Client::http1(weir.at("inbound"));
    feed.data("one");
    let started = Instant::now();
    let mut answer = client.open(client.to("a.test", "GET", "/", &[], empty())).unwrap();
    assert_eq!(answer.next_text(), "one");
    wait_until("the timeout to pass", || started.elapsed() > Duration::from_millis(400));
    feed.data("two");
    assert_eq!(answer.next_text(), "two");
    drop(feed);
    assert!(answer.next().is_none());
}

#[test]
fn the_clients_deadline_is_told_apart_from_the_routes() {
    let origin = Origin::silent();
    let weir = File::to(&[origin.address]).start();
    let client = Client::http1(weir.at("inbound"));
    let answer = client.send(client.to("a.test", "GET", "/", &[("x-weir-timeout-ms", "150")], empty()));
    assert_eq!((answer.status, answer.reason().as_str()), (504, "deadline_exceeded"));
    let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "150m")];
    let client = Client::http2(weir.at("inbound"));
    let answer = client.send(client.to("a.test", "POST", "/s/m", &headers, empty()));
    assert_eq!((answer.status, answer.header("grpc-status")), (200, "4"));
    wait_until("the origin to be told", || origin.running() == 0);
}

#[test]
fn the_clients_deadline_bounds_the_body_too() {
    let (feed, body) = fed();
    let body = std::sync::Mutex::new(Some(body));
    let origin = Origin::start(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async { Ok(origin::answer_with(200, &[], body)) }
    });
    let weir = File::to(&[origin.address]).start();
    let client = Client::http2(weir.at("inbound"));
    feed.data("one");
    let request = client.to("a.test", "GET", "/", &[("x-weir-timeout-ms", "300")], empty());
    let mut answer = client.open(request).unwrap();
    assert_eq!(answer.next_text(), "one");
    assert!(answer.next().expect("the stream's end is no clean one").is_err());
    wait_until("the origin to be told", || feed.is_abandoned());
}

#[test]
fn deadlines_are_passed_on_reduced() {
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).route("timeout: 5s").start();
    let client = Client::http1(weir.at("inbound"));
    client.send(client.to("a.test", "GET", "/", &[("x-weir-timeout-ms", "3000")], empty()));
    let left: u64 = origin.last().header("x-weir-timeout-ms").parse().unwrap();
    assert!((1000..=3000).contains(&left), "{left} ms are left");
    let client = Client::http2(weir.at("inbound"));
    let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "3S")];
    client.send(client.to("a.test", "POST", "/s/m", &headers, empty()));
    let left = origin.last().header("grpc-timeout");
    let (amount, unit) = left.split_at(left.len() - 1);
    let unit = match unit {
        "S" => 1e3,
        "m" => 1.0,
        "u" => 1e-3,
        "n" => 1e-6,
        other => panic!("{other} in {left}"),
    };
    let left = amount.parse::<f64>().unwrap() * unit;
    assert!((1000.0..=3000.0).contains(&left), "{left} ms are left");
}

#[test]
fn a_silent_exchange_ends_after_the_idle_timeout() {
    let (feed, body) = fed();
    let body = std::sync::Mutex::new(Some(body));
    let origin = Origin::start(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async { Ok(origin::answer_with(200, &[], body)) }
    });
    let weir = File::to(&[origin.address]).route("idle_timeout: 300ms").start();
    let client = Client::http1(weir.at("inbound"));
    feed.data("one");
    let mut answer = client.open(client.to("a.test", "GET", "/", &[], empty())).unwrap();
    assert_eq!(answer.next_text(), "one");
    assert!(answer.next().expect("an end that is no clean one").is_err());
    wait_until("the origin to be told", || feed.is_abandoned());
}

#[test]
fn a_head_that_does_not_come_ends_the_connection() {
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).listener("header_timeout: 300ms").start();
    for part in ["GET / HTTP/1.1\r\nhost: a", "G", "PRI * HTTP/2.0\r\n"] {
        let mut raw = Raw::connect(weir.at("inbound"));
        let said = raw.send(part).rest();
        let said = String::from_utf8_lossy(&said);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    }
    assert_eq!(origin.requests(), 0);
}

#[test]
fn a_connection_without_a_request_is_closed() {
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).listener("keepalive_timeout: 300ms").start();
    Raw::connect(weir.at("inbound")).expect_closed();
    let mut raw = Raw::connect(weir.at("inbound"));
    assert_eq!(raw.get("a.test", "/").status(), 200);
    raw.expect_closed();
}

#[test]
fn connecting_is_bounded() {
    // A socket whose queue is full: the kernel drops further attempts to connect.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut filling = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        filling.push(stream);
        assert!(filling.len() < 64, "the queue does not fill");
    }
    let weir = File::to(&[address]).upstream("connect_timeout: 200ms").start();
    let answer = Client::http1(weir.at("inbound")).get("a.test", "/");
    assert_eq!((answer.status, answer.reason().as_str()), (504, "connect_timeout"));
    let weir = File::to(&[address]).upstream("connect_timeout: 1m").start();
    let client = Client::http1(weir.at("inbound"));
    let waiting = client.start(client.to("a.test", "GET", "/", &[], empty()));
    weir.wait_metric("weir_pool_connections", &[("state", "connecting")], 1.0);
    weir.wait_metric("weir_pool_connections", &[], 1.0);
    waiting.abort();
}
