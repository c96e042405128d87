//! Ambiguous messages are refused, whoever sends them.

use crate::support::{
    client::Client,
    origin::Origin,
    raw::Raw,
    raw_origin::RawOrigin,
    weir::{File, Weir},
};

/// Sends bytes; gives the status of the answer, 0 when the connection is closed without one.
fn status_of(weir: &Weir, bytes: &str) -> u16 {
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send(bytes);
    raw.head().map_or(0, |head| head.status())
}

#[test]
fn ambiguous_requests_are_refused_and_reach_nobody() {
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).start();
    let body = "\r\n0\r\n\r\n";
    let bad = [
        (
            "chunked twice",
            format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, chunked\r\n{body}"),
        ),
        (
            "chunked in two lines",
            format!(
                "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n{body}"
            ),
        ),
        (
            "a coding before chunked",
            format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n{body}"),
        ),
        (
            "a coding after chunked",
            format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n{body}"),
        ),
        ("an unknown coding", format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n{body}")),
        (
            "a coding in HTTP/1.0",
            format!("POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n{body}"),
        ),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".into(),
        ),
        ("a list of lengths", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 2\r\n\r\nab".into()),
        ("a signed length", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\na".into()),
        ("no host", "GET / HTTP/1.1\r\nx: y\r\n\r\n".into()),
        ("two hosts", "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".into()),
        ("a list of hosts", "GET / HTTP/1.1\r\nhost: a, b\r\n\r\n".into()),
        ("a host with a path", "GET / HTTP/1.1\r\nhost: a/b\r\n\r\n".into()),
        ("a host with credentials", "GET / HTTP/1.1\r\nhost: u@a\r\n\r\n".into()),
        ("a target without a slash", "GET x HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("a path above the root", "GET /../x HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("an escaped path above the root", "GET /%2e%2e/x HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("a bad escape", "GET /%zz HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("an escaped NUL", "GET /%00 HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("a space before the colon", "GET / HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n".into()),
        ("a folded line", "GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n z\r\n\r\n".into()),
        ("a NUL in a value", "GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n".into()),
        ("a bare CR in a value", "GET / HTTP/1.1\r\nhost: a\r\nx: a\rb\r\n\r\n".into()),
        ("a bad method", "G@T / HTTP/1.1\r\nhost: a\r\n\r\n".into()),
        ("no version", "GET /\r\nhost: a\r\n\r\n".into()),
        ("an unknown version", "GET / HTTP/1.7\r\nhost: a\r\n\r\n".into()),
    ];
    let mut wrong = Vec::new();
    for (what, bytes) in &bad {
        let status = status_of(&weir, bytes);
        if !matches!(status, 0 | 400 | 505) || origin.requests() > 0 {
            let forwarded: Vec<_> = origin.seen().iter().map(|seen| seen.headers.clone()).collect();
            wrong.push(format!("{what}: {status}, the origin got {forwarded:?} so far"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// RFC 9112 section 6.3: a message with both may be read by its Transfer-Encoding, if the length is not passed on and
/// the connection is closed after it. Whether it is that or refused, nothing behind it may be taken for a request.
#[test]
fn a_request_with_both_lengths_ends_its_connection() {
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).start();
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send(
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n\
         0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n",
    );
    let answer = raw.answer();
    assert!(matches!(answer.status(), 200 | 400), "{answer:?}");
    assert_eq!(answer.header("connection").as_deref(), Some("close"));
    raw.expect_closed();
    for seen in origin.seen() {
        assert_eq!((seen.uri.path(), seen.header("content-length").as_str()), ("/", ""));
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::echo();
    let weir = File::to(&[origin.address]).start();
    let mut raw = Raw::connect(weir.at("inbound"));
    let post = |body: &str| {
        format!("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    raw.send(["one", "two", "three"].map(post).concat());
    for wanted in ["one", "two", "three"] {
        assert_eq!(raw.answer().text(), wanted);
    }
}

#[test]
fn an_ambiguous_answer_is_a_fault_of_the_upstream() {
    for bad in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nsurprise",
        "hello, this is no HTTP\r\n\r\n",
    ] {
        let origin = RawOrigin::answering(bad);
        let weir = File::to(&[origin.address]).start();
        let answer = Client::http1(weir.at("inbound")).get("a.test", "/");
        assert_eq!((answer.status, answer.reason().as_str()), (502, "upstream_protocol"), "{bad:?}");
        weir.wait_metric("weir_responses_made_total", &[("reason", "upstream_protocol")], 1.0);
    }
}

#[test]
fn heads_that_are_too_large_are_refused() {
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).listener("max_header_bytes: 8KiB, max_headers: 20").start();
    let large = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(10_000));
    let many = (0..30).map(|n| format!("x-{n}: y\r\n")).collect::<Vec<_>>().concat();
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n");
    assert_eq!((status_of(&weir, &large), status_of(&weir, &many)), (431, 431));
    let fine = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(4000));
    assert_eq!(status_of(&weir, &fine), 200);
    assert_eq!(origin.requests(), 1);
}
