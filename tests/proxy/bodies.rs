//! Bodies, streams, trailers, interim answers and upgrades pass as they are.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    PATIENCE,
    client::{Body, Client, empty, fed, full},
    driver,
    origin::{self, Origin},
    raw::Raw,
    raw_origin::RawOrigin,
    wait_for, wait_until,
    weir::File,
};

/// The four ways through: the client's version and the upstream's `protocol`.
fn each_way(origin: &Origin, mut check: impl FnMut(&str, Client)) {
    for protocol in ["http1", "http2"] {
        let weir = File::to(&[origin.address]).upstream(&format!("protocol: {protocol}")).start();
        check(&format!("http1 to {protocol}"), Client::http1(weir.at("inbound")));
        check(&format!("http2 to {protocol}"), Client::http2(weir.at("inbound")));
    }
}

#[test]
fn every_piece_passes_both_ways_as_it_comes() {
    let origin = Origin::echo();
    each_way(&origin, |way, client| {
        let (feed, body) = fed();
        feed.data("piece 0");
        let mut answer = client.open(client.to("a.test", "POST", "/", &[], body)).unwrap();
        assert_eq!(answer.next_text(), "piece 0", "{way}");
        for number in 1..20 {
            let piece = format!("piece {number}");
            feed.data(piece.clone());
            assert_eq!(answer.next_text(), piece, "{way}");
        }
        drop(feed);
        assert!(answer.next().is_none(), "{way}: the body ends with the request's");
    });
}

#[test]
fn a_megabyte_comes_back_unchanged() {
    let origin = Origin::echo();
    let body: Vec<u8> = (0..1_500_000_u32).map(|n| (n % 251) as u8).collect();
    each_way(&origin, |way, client| {
        let answer = client.send(client.to("a.test", "POST", "/", &[], full(body.clone())));
        assert!(answer.body == body, "{way}: {} bytes", answer.body.len());
    });
}

#[test]
fn lengths_are_kept_where_they_are_known() {
    let origin =
        Origin::start(|request| async move { Ok(origin::answer(200, format!("{:?}", request.headers()))) });
    each_way(&origin, |way, client| {
        let answer = client.send(client.to("a.test", "POST", "/", &[], full("12345")));
        assert_eq!(origin.last().header("content-length"), "5", "{way}");
        assert_eq!(origin.last().header("transfer-encoding"), "", "{way}");
        assert_eq!(answer.header("content-length"), answer.body.len().to_string(), "{way}");
        client.get("a.test", "/");
        assert_eq!(origin.last().header("transfer-encoding"), "", "{way}: a GET without a body stays one");
    });
}

#[test]
fn trailers_pass_both_ways() {
    let origin = Origin::echo();
    each_way(&origin, |way, client| {
        let (feed, body) = fed();
        feed.data("body");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "4".parse().unwrap());
        feed.trailers(trailers);
        drop(feed);
        let headers = [("te", "trailers"), ("trailer", "x-sum")];
        let answer =
            client.open(client.to("a.test", "POST", "/", &headers, body)).unwrap().collect().unwrap();
        assert_eq!(answer.text(), "body", "{way}");
        assert_eq!(origin.last().header("te"), "trailers", "{way}");
        assert_eq!(answer.trailers.get("x-sum").map(|v| v.to_str().unwrap()), Some("4"), "{way}");
    });
    let origin = Origin::start(|_| async { Ok(origin::with_trailers(200, "body", &[("x-sum", "4")])) });
    each_way(&origin, |way, client| {
        let answer = client.send(client.to("a.test", "GET", "/", &[("te", "trailers")], empty()));
        assert_eq!(answer.trailers.get("x-sum").map(|v| v.to_str().unwrap()), Some("4"), "{way}");
    });
}

#[test]
fn head_204_and_304_have_no_body_and_keep_their_headers() {
    let origin = RawOrigin::start(|connection| {
        while let Some(request) = connection.request() {
            let answer = match request.start.split(' ').nth(1) {
                Some("/204") => "HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n",
                Some("/304") => "HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\nx-a: 1\r\n\r\n",
                _ => "HTTP/1.1 200 OK\r\ncontent-length: 1234567\r\nx-a: 1\r\n\r\n",
            };
            connection.raw.send(answer);
        }
    });
    let weir = File::to(&[origin.address]).start();
    for client in [Client::http1(weir.at("inbound")), Client::http2(weir.at("inbound"))] {
        let head = client.send(client.to("a.test", "HEAD", "/", &[], empty()));
        assert_eq!((head.status, head.header("content-length"), head.header("x-a")), (200, "1234567", "1"));
        for status in [204, 304] {
            let answer = client.get("a.test", &format!("/{status}"));
            assert_eq!((answer.status, answer.body.len(), answer.header("x-a")), (status, 0, "1"));
        }
    }
}

#[test]
fn an_answer_that_ends_with_its_connection_passes() {
    let origin = RawOrigin::start(|connection| {
        connection.request();
        connection.raw.send("HTTP/1.1 200 OK\r\n\r\nuntil the end");
    });
    let weir = File::to(&[origin.address]).start();
    let mut raw = Raw::connect(weir.at("inbound"));
    assert_eq!(raw.get("a.test", "/").text(), "until the end");
    assert_eq!(raw.get("a.test", "/").text(), "until the end", "the client's connection lives on");
    let client = Client::http2(weir.at("inbound"));
    assert_eq!(client.get("a.test", "/").text(), "until the end");
}

#[test]
fn a_client_of_http10_gets_an_answer_it_understands() {
    let origin = Origin::start(|_| async {
        let (feed, body) = fed();
        feed.data("of unknown length");
        Ok(origin::answer_with(200, &[], body))
    });
    let weir = File::to(&[origin.address]).start();
    let mut raw = Raw::connect(weir.at("inbound"));
    let answer = raw.send("GET / HTTP/1.0\r\nhost: a.test\r\n\r\n").answer();
    assert_eq!((answer.text().as_str(), answer.header("transfer-encoding")), ("of unknown length", None));
}

#[test]
fn an_answer_broken_off_never_looks_complete() {
    let origin = Origin::start(|_| async { Ok(origin::broken_off("half")) });
    each_way(&origin, |way, client| {
        let answer = client.open(client.to("a.test", "GET", "/", &[], empty())).unwrap();
        assert!(answer.collect().is_err(), "{way}");
    });
}

#[test]
fn a_request_broken_off_never_looks_complete() {
    let (tell, told) = std::sync::mpsc::channel();
    let origin = RawOrigin::start(move |connection| tell.send(connection.request().is_some()).unwrap());
    let weir = File::to(&[origin.address]).start();
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send("POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n");
    wait_until("the origin to have a connection", || origin.connections() == 1);
    raw.reset();
    let looked_complete = told.recv_timeout(PATIENCE).expect("the origin's connection to end");
    assert!(!looked_complete, "the origin read a complete request");
}

#[test]
fn one_hundred_continue_passes_end_to_end() {
    let origin = RawOrigin::start(|connection| {
        let head = connection.head().unwrap();
        assert_eq!(head.header("expect").as_deref(), Some("100-continue"));
        connection.raw.send("HTTP/1.1 100 Continue\r\n\r\n");
        let body = connection.raw.body_of(head, false).unwrap().text();
        connection.raw.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
    });
    let weir = File::to(&[origin.address]).start();
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n");
    assert_eq!(raw.head().unwrap().status(), 100);
    assert_eq!(raw.send("body").answer().text(), "body");
}

#[test]
fn an_expectation_that_the_origin_refuses_costs_no_body() {
    let origin = RawOrigin::start(|connection| {
        connection.head();
        connection.raw.send("HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno");
        connection.raw.rest();
    });
    let weir = File::to(&[origin.address]).start();
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1000000\r\nexpect: 100-continue\r\n\r\n");
    let answer = raw.answer();
    assert_eq!((answer.status(), answer.text().as_str()), (401, "no"));
}

#[test]
fn early_hints_pass() {
    let origin = RawOrigin::answering(
        "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n\
         HTTP/1.1 103 Early Hints\r\nlink: </b.css>; rel=preload\r\n\r\n\
         HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    );
    let weir = File::to(&[origin.address]).start();
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n");
    for wanted in ["/a.css", "/b.css"] {
        let hint = raw.head().unwrap();
        assert_eq!(hint.status(), 103);
        assert!(hint.header("link").unwrap().contains(wanted));
    }
    assert_eq!(raw.answer().text(), "ok");
}

#[test]
fn an_answer_may_come_before_the_request_is_over() {
    let origin = Origin::start(|_| async { Ok(origin::answer(413, "too much")) });
    each_way(&origin, |way, client| {
        let (feed, body) = fed();
        feed.data(vec![b'x'; 10_000]);
        let answer = client.open(client.to("a.test", "POST", "/", &[], body)).unwrap().collect().unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (413, "too much"), "{way}");
        drop(feed);
    });
}

#[test]
fn an_answer_passes_although_its_origin_reads_no_more_of_the_request() {
    let origin = RawOrigin::start(|connection| {
        connection.head();
        connection.raw.send("HTTP/1.1 413 No\r\ncontent-length: 8\r\n\r\ntoo much");
        std::thread::park();
    });
    let weir = File::to(&[origin.address]).start();
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1000000000\r\n\r\n");
    let mut sending = Raw::over(raw.stream().try_clone().unwrap());
    let sender = std::thread::spawn(move || while sending.try_send([b'x'; 4096]).is_ok() {});
    let answer = raw.answer();
    assert_eq!((answer.status(), answer.text().as_str()), (413, "too much"));
    let _ = raw.stream().shutdown(std::net::Shutdown::Both);
    sender.join().unwrap();
}

#[test]
fn neither_direction_waits_for_the_other() {
    const SIZE: usize = 24 << 20;
    let received = Arc::new(AtomicUsize::new(0));
    let count = received.clone();
    let origin = RawOrigin::start(move |connection| {
        connection.head();
        connection.raw.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n"));
        let mut answering = connection.raw.stream().try_clone().unwrap();
        let answerer = std::thread::spawn(move || answering.write_all(&vec![b'y'; SIZE]).unwrap());
        for _ in 0..SIZE / 4096 {
            connection.raw.exactly(4096).unwrap();
            count.fetch_add(4096, Ordering::SeqCst);
        }
        answerer.join().unwrap();
    });
    let weir = File::to(&[origin.address]).start();
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send(format!("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: {SIZE}\r\n\r\n"));
    // The client reads nothing before all of it is sent; the answer, long since on its way, has to stand still.
    raw.send(vec![b'x'; SIZE]);
    wait_until("all of the request to arrive", || received.load(Ordering::SeqCst) == SIZE);
    assert_eq!(raw.answer().body.len(), SIZE);
}

#[test]
fn a_slow_reader_holds_the_origin_back() {
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let origin = RawOrigin::start(move |connection| {
        connection.request();
        connection.raw.send("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n");
        let part = vec![b'x'; 64 * 1024];
        while connection.raw.stream().write_all(&part).is_ok() {
            count.fetch_add(part.len(), Ordering::SeqCst);
        }
    });
    let weir = File::to(&[origin.address]).start();
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").head().unwrap();
    let mut last = (0, Instant::now());
    let stalled_at = wait_for("the origin to be held back", || {
        let now = written.load(Ordering::SeqCst);
        if now != last.0 {
            last = (now, Instant::now());
        }
        (now > 0 && last.1.elapsed() > Duration::from_millis(500)).then_some(now)
    });
    assert!(
        stalled_at < 32 << 20,
        "{stalled_at} bytes were taken from the origin although nobody reads them"
    );
}

#[test]
fn a_slow_origin_holds_the_client_back() {
    let deaf = RawOrigin::start(|connection| {
        connection.head();
        std::thread::park(); // reads nothing more
    });
    let weir = File::to(&[deaf.address]).start();
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1000000000\r\n\r\n");
    raw.stream().set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let part = vec![b'x'; 64 * 1024];
    let mut taken = 0;
    while taken < 64 << 20 && raw.try_send(&part).is_ok() {
        taken += part.len();
    }
    assert!(taken < 32 << 20, "{taken} bytes were taken from the client although nobody reads them");
}

#[test]
fn a_client_that_goes_away_ends_the_work_behind() {
    let origin = Origin::silent();
    for (protocol, http2) in [("http1", false), ("http1", true), ("http2", false), ("http2", true)] {
        // No other bound may end it.
        let weir = File::to(&[origin.address])
            .upstream(&format!("protocol: {protocol}"))
            .route("timeout: 0, idle_timeout: 10m")
            .start();
        let address = weir.at("inbound");
        let client = if http2 { Client::http2(address) } else { Client::http1(address) };
        let way = format!("{} to {protocol}", if http2 { "http2" } else { "http1" });
        let before = origin.requests();
        let waiting = client.start(client.to("a.test", "GET", "/", &[], empty()));
        origin.wait_for_requests(before + 1);
        waiting.abort();
        drop(client); // HTTP/1.1 has no other way to say it
        wait_until(&format!("{way}: the origin to be told"), || origin.running() == 0);
        weir.wait_metric("weir_requests_in_flight", &[], 0.0);
    }
}

#[test]
fn any_upgrade_passes_with_half_closes() {
    let origin = RawOrigin::start(|connection| {
        let head = connection.head().unwrap();
        assert_eq!(head.header("upgrade").as_deref(), Some("chess/2"));
        assert!(head.header("connection").unwrap().eq_ignore_ascii_case("upgrade"));
        connection
            .raw
            .send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chess/2\r\n\r\ne4");
        let words = connection.raw.rest();
        connection.raw.send(format!("you said {}", String::from_utf8(words).unwrap()));
    });
    let weir = File::to(&[origin.address]).start();
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send("GET / HTTP/1.1\r\nhost: a.test\r\nconnection: Upgrade\r\nupgrade: chess/2\r\n\r\n");
    let head = raw.head().unwrap();
    assert_eq!((head.status(), head.header("upgrade").as_deref()), (101, Some("chess/2")));
    assert_eq!(raw.exactly(2).unwrap(), b"e4");
    raw.send("e5 and ").send("resigns").finish_sending();
    assert_eq!(raw.rest(), b"you said e5 and resigns");
    weir.wait_metric("weir_requests_in_flight", &[], 0.0);
}

/// An extended `CONNECT` (RFC 8441) for `protocol`.
fn extended_connect(client: &Client, path: &str, protocol: &'static str) -> Request<Body> {
    let headers = [("sec-websocket-version", "13"), ("x-request-id", "tunnel")];
    let mut request = client.to("a.test", "CONNECT", path, &headers, empty());
    request.extensions_mut().insert(hyper::ext::Protocol::from_static(protocol));
    request
}

#[test]
fn an_extended_connect_over_http2_becomes_an_upgrade() {
    let origin = RawOrigin::start(|connection| {
        while let Some(head) = connection.head() {
            if head.header("upgrade").is_none() {
                connection.raw.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                continue;
            }
            assert!(head.start.starts_with("GET /chat HTTP/1.1"), "{}", head.start);
            assert_eq!(head.header("upgrade").as_deref(), Some("websocket"));
            assert!(head.header("connection").unwrap().eq_ignore_ascii_case("upgrade"));
            assert_eq!(head.header("sec-websocket-version").as_deref(), Some("13"));
            assert_eq!(head.header("sec-websocket-key").map(|key| key.len()), Some(24));
            connection.raw.send(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-accept: x\r\nsec-websocket-protocol: chat\r\n\r\nhello, ",
            );
            let words = connection.raw.rest();
            connection.raw.send(format!("you said {}", String::from_utf8(words).unwrap()));
            return;
        }
    });
    let weir = File::to(&[origin.address]).top("log: { access: all }").start();
    let client = Client::http2(weir.at("inbound"));
    assert_eq!(client.get("a.test", "/").text(), "ok");
    let request = extended_connect(&client, "/chat", "websocket");
    let connected = client.clone();
    let (head, said) = driver::run(async move {
        let mut response = connected.exchange(request).await.unwrap();
        let mut tunnel = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
        tunnel.write_all(b"e5 and ").await.unwrap();
        tunnel.write_all(b"resigns").await.unwrap();
        tunnel.shutdown().await.unwrap();
        let mut said = String::new();
        tunnel.read_to_string(&mut said).await.unwrap();
        (response.into_parts().0, said)
    });
    assert_eq!((head.status.as_u16(), said.as_str()), (200, "hello, you said e5 and resigns"));
    assert_eq!(head.headers["sec-websocket-protocol"], "chat");
    for gone in ["upgrade", "connection", "sec-websocket-accept"] {
        assert!(!head.headers.contains_key(gone), "{gone}: {:?}", head.headers);
    }
    weir.wait_metric("weir_requests_in_flight", &[], 0.0);
    assert_eq!(client.get("a.test", "/").text(), "ok", "the connection lives on");
    let record = wait_for("the record of the tunnel", || {
        weir.access_records().into_iter().find(|record| record["request_id"] == "tunnel")
    });
    assert_eq!((&record["ended"], &record["request_bytes"]), (&"complete".into(), &14.into()), "{record}");
}

#[test]
fn an_extended_connect_that_the_origin_declines_never_looks_accepted() {
    let origin = Origin::start(|request| async move {
        Ok(origin::answer(if request.uri().path() == "/no" { 403 } else { 200 }, "no upgrade here"))
    });
    let weir = File::to(&[origin.address]).start();
    let client = Client::http2(weir.at("inbound"));
    assert_eq!(client.get("a.test", "/").status, 200);
    let declined = client.send(extended_connect(&client, "/no", "websocket"));
    assert_eq!((declined.status, declined.text().as_str()), (403, "no upgrade here"));
    let ignored = client.send(extended_connect(&client, "/ignored", "websocket"));
    assert_eq!((ignored.status, ignored.reason().as_str()), (502, "upstream_protocol"));
    let http = client.send(extended_connect(&client, "/", "h2c"));
    assert_eq!((http.status, http.reason().as_str()), (404, "no_route"));
}

#[test]
fn an_upgrade_that_the_origin_declines_is_a_plain_answer() {
    let origin = Origin::answering(200, "no upgrade here");
    let weir = File::to(&[origin.address]).start();
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send("GET / HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: chess/2\r\n\r\n");
    assert_eq!(raw.answer().text(), "no upgrade here");
    assert_eq!(raw.get("a.test", "/").status(), 200, "the connection lives on");
}

#[test]
fn many_streams_share_one_connection_without_waiting_for_each_other() {
    let origin = Origin::start(|request| async move {
        if request.uri().path() == "/never" {
            std::future::pending().await
        } else {
            Ok(origin::answer(200, "quick"))
        }
    });
    let weir = File::to(&[origin.address]).start();
    let client = Client::http2(weir.at("inbound"));
    let stuck: Vec<_> =
        (0..20).map(|_| client.start(client.to("a.test", "GET", "/never", &[], empty()))).collect();
    origin.wait_for_requests(20);
    assert_eq!(client.get("a.test", "/").text(), "quick");
    for waiting in stuck {
        waiting.abort();
    }
    wait_until("the origin to be told", || origin.running() == 0);
}
