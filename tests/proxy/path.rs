//! What clients and origins do at awkward moments, and what it costs the others.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use rustls::{ClientConnection, StreamOwned, pki_types::ServerName};

use crate::support::{
    PATIENCE,
    certs::Certs,
    client::{Client, empty, fed},
    origin::Origin,
    raw::Raw,
    raw_origin::RawOrigin,
    wait_for, wait_until,
    weir::{File, Weir, unused_address},
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// An origin that answers each request when it is told to.
fn answering_when_told() -> (RawOrigin, mpsc::Sender<()>) {
    let (tell, told) = mpsc::channel();
    let told = Mutex::new(told);
    let origin = RawOrigin::start(move |connection| {
        while connection.request().is_some() {
            if told.lock().unwrap().recv().is_err() || connection.raw.try_send(OK).is_err() {
                return;
            }
        }
    });
    (origin, tell)
}

/// The only access record there is.
#[track_caller]
fn record(weir: &Weir) -> serde_json::Value {
    wait_for("the access record", || weir.access_records().into_iter().next())
}

/// Calls `act` until `time` has passed.
fn meanwhile(time: Duration, mut act: impl FnMut()) {
    let begun = Instant::now();
    wait_until("time to pass", || {
        act();
        begun.elapsed() >= time
    });
}

#[test]
fn a_client_that_ends_its_half_still_gets_its_answer() {
    let (origin, tell) = answering_when_told();
    let weir = File::to(&[origin.address]).route("timeout: 0").start();
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").finish_sending();
    for _ in 0..2 {
        assert_eq!(raw.head().unwrap().status(), 100, "it is asked whether it is there");
    }
    tell.send(()).unwrap();
    assert_eq!((raw.answer().status(), origin.seen().len()), (200, 1));
    raw.expect_closed();
}

#[test]
fn a_client_that_ends_its_half_still_gets_its_answer_under_tls() {
    let (origin, tell) = answering_when_told();
    let certs = Certs::new();
    let identity = certs.localhost();
    let tls = format!("tls: {{ cert: {}, key: {} }}", identity.cert.display(), identity.key.display());
    let weir = File::to(&[origin.address]).listener(&tls).route("timeout: 0").start();
    let tcp = TcpStream::connect(weir.at("inbound")).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let session = ClientConnection::new(certs.client(None, &["http/1.1"]), name).unwrap();
    let mut stream = StreamOwned::new(session, tcp);
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    stream.conn.send_close_notify();
    stream.flush().unwrap();
    stream.sock.shutdown(Shutdown::Write).unwrap();
    let mut asked = [0; 50];
    stream.read_exact(&mut asked).unwrap();
    assert_eq!(asked.as_slice(), "HTTP/1.1 100 Continue\r\n\r\n".repeat(2).as_bytes());
    tell.send(()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 200"), "{answer:?}");
}

#[test]
fn a_client_that_closes_behind_pipelined_requests_is_noticed() {
    let origin = Origin::silent();
    let weir = File::to(&[origin.address]).route("timeout: 0, idle_timeout: 10m").start();
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send("GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\n\r\n");
    origin.wait_for_requests(1);
    drop(raw);
    wait_until("the origin to be told", || origin.running() == 0);
    weir.wait_metric("weir_requests_in_flight", &[], 0.0);
    weir.wait_metric("weir_connections", &[], 0.0);
    assert_eq!(origin.requests(), 1);
}

#[test]
fn a_client_that_breaks_off_its_upload_is_not_the_endpoints_failure() {
    let origin = Origin::silent();
    let weir = File::to(&[origin.address]).top("log: { access: all }").start();
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nxx");
    origin.wait_for_requests(1);
    drop(raw);
    let record = record(&weir);
    assert_eq!(
        (&record["ended"], &record["attempts"][0]["outcome"]),
        (&"client_gone".into(), &"cancelled".into())
    );
    let upstreams = weir.admin_get("/upstreams").json();
    assert_eq!(upstreams["app"]["endpoints"][0]["failures"], 0, "{upstreams}");
}

#[test]
fn after_an_early_answer_the_upload_goes_on_and_so_does_the_connection() {
    let got = Arc::new(Mutex::new(0));
    let count = got.clone();
    let origin = RawOrigin::start(move |connection| {
        let Some(head) = connection.head() else { return };
        connection.raw.send(OK);
        *count.lock().unwrap() = connection.raw.body_of(head, false).map_or(0, |all| all.body.len());
        connection.answer_all(OK);
    });
    // The rest of a body is no head: its bound must not count.
    let weir = File::to(&[origin.address]).listener("header_timeout: 400ms").start();
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n");
    assert_eq!(raw.answer().status(), 200);
    let mut sent = 0;
    meanwhile(Duration::from_millis(1200), || {
        if sent < 90_000 {
            raw.send([b'x'; 100]);
            sent += 100;
        }
    });
    raw.send(vec![b'x'; 100_000 - sent]);
    assert_eq!(raw.get("a", "/next").status(), 200);
    assert_eq!(*got.lock().unwrap(), 100_000);
}

#[test]
fn a_client_that_keeps_its_body_is_not_read_on() {
    let origin = RawOrigin::start(|connection| {
        connection.head();
        connection.raw.send("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno");
        // Whatever comes behind the head would be a body that nobody sent.
        assert_eq!(connection.raw.rest(), b"");
    });
    let weir = File::to(&[origin.address]).start();
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\nexpect: 100-continue\r\n\r\n");
    let answer = raw.answer();
    assert_eq!((answer.status(), answer.header("connection").as_deref()), (417, Some("close")));
    let _ = raw.try_send("GET /next HTTP/1.1\r\nhost: a\r\n\r\n");
    raw.expect_closed();
    weir.wait_metric("weir_pool_connections", &[], 0.0);
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn a_refusal_reaches_a_client_that_is_still_sending() {
    let weir = File::to(&[unused_address()]).route("max_body: 10").start();
    for _ in 0..5 {
        let mut raw = Raw::connect(weir.at("inbound"));
        raw.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3000000\r\n\r\n");
        for _ in 0..30 {
            // Not a reset before the answer was read: that would lose it.
            raw.try_send(vec![b'x'; 100_000]).unwrap();
        }
        assert_eq!(raw.answer().json()["reason"], "body_too_large");
    }
}

#[test]
fn a_client_that_takes_nothing_is_given_up_after_the_idle_timeout() {
    let origin = RawOrigin::start(|connection| {
        connection.request();
        let _ = connection.raw.try_send("HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n");
        while connection.raw.try_send(vec![b'x'; 100_000]).is_ok() {}
    });
    let weir = File::to(&[origin.address]).top("log: { access: all }").route("idle_timeout: 300ms").start();
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(record(&weir)["ended"], "timeout");
    weir.wait_metric("weir_connections", &[], 0.0);
}

#[test]
fn waiting_for_bodies_is_not_weirs_time() {
    let origin = Origin::echo();
    let weir = File::to(&[origin.address]).top("log: { access: all }").start();
    let client = Client::http1(weir.at("inbound"));
    let (feed, body) = fed();
    let answer = client.open(client.to("a", "POST", "/", &[], body)).unwrap();
    meanwhile(Duration::from_millis(400), || {
        feed.data("x");
    });
    drop(feed);
    answer.collect().unwrap();
    let record = record(&weir);
    assert!(record["duration_ms"].as_f64().unwrap() >= 400.0, "{record}");
    assert!(record["overhead_us"].as_f64().unwrap() < 200_000.0, "{record}");
}

#[test]
fn max_forwards_and_connect_end_here() {
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).start();
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send("OPTIONS / HTTP/1.1\r\nhost: a\r\nmax-forwards: 0\r\n\r\n");
    let here = raw.answer();
    assert!(here.status() == 204 && here.header("allow").is_some(), "{here:?}");
    raw.send("TRACE / HTTP/1.1\r\nhost: a\r\nmax-forwards: 0\r\n\r\n");
    assert_eq!(raw.answer().status(), 405);
    assert_eq!(origin.requests(), 0);
    raw.send("OPTIONS / HTTP/1.1\r\nhost: a\r\nmax-forwards: 3\r\n\r\n");
    assert_eq!(raw.answer().status(), 200);
    assert_eq!(origin.last().header("max-forwards"), "2");
    raw.send("CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\nnot http");
    assert_eq!(raw.answer().json()["reason"], "no_route");
    raw.expect_closed();
    assert_eq!(origin.requests(), 1);
}

#[test]
fn heads_that_are_too_large_are_refused_over_http2_too() {
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).listener("max_headers: 20, max_header_bytes: 8KiB").start();
    let client = Client::http2(weir.at("inbound"));
    let names: Vec<_> = (0..30).map(|n| format!("x-{n}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), "y")).collect();
    let long = "y".repeat(9000);
    for headers in [many.as_slice(), &[("x", long.as_str())]] {
        let answer = client.send(client.to("a", "GET", "/", headers, empty()));
        assert_eq!((answer.status, answer.reason().as_str()), (431, "header_too_large"));
    }
    assert_eq!(client.get("a", "/").status, 200);
    assert_eq!(origin.requests(), 1);
}

#[test]
fn connections_that_never_carry_a_request_are_counted_by_reason() {
    let origin = Origin::answering(200, "ok");
    let certs = Certs::new();
    let identity = certs.localhost();
    let tls = format!("tls: {{ cert: {}, key: {} }}", identity.cert.display(), identity.key.display());
    let refused = |fields: &str, says: &str, reason: &str| {
        let weir = File::to(&[origin.address]).listener(fields).start();
        let mut raw = Raw::connect(weir.at("inbound"));
        raw.send(says);
        raw.rest();
        weir.wait_metric("weir_connections_refused_total", &[("reason", reason)], 1.0);
        weir.wait_metric("weir_connections", &[], 0.0);
    };
    refused(&tls, "GET / HTTP/1.1\r\nhost: a\r\n\r\n", "tls");
    refused("header_timeout: 300ms", "", "timeout");
    refused("header_timeout: 300ms", "PRI * HT", "timeout");
    refused("protocol: http2", "GET / HTTP/1.1\r\nhost: a\r\n\r\n", "protocol");
    refused("", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n and then nothing of the kind", "protocol");
}

#[test]
fn an_application_that_does_not_end_is_told_first_and_killed_after_the_grace() {
    let origin = Origin::answering(200, "ok");
    let file = File::to(&[origin.address]).top("drain: { delay: 0s, grace: 800ms }").text();
    let script = "trap 'echo told >&2' TERM; while :; do sleep 0.05; done";
    let mut weir = Weir::start_with(&file, &["--", "sh", "-c", script]);
    // An exchange that never ends must not keep the application from being told.
    let _idle = TcpStream::connect(weir.at("inbound")).unwrap();
    weir.sigterm();
    assert_eq!(weir.wait_exit(), 128 + 9);
    assert!(weir.stderr().contains("told"), "{}", weir.stderr());
}
