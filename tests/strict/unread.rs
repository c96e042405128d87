//! An answer that Weir makes while the request's body is unread never lets the rest of it be read as a request.

use crate::{
    cases::{SMUGGLED, Stage},
    support::raw::Raw,
};

/// Sends a head, waits for the answer, and only then what the body should be: a request.
fn late_body(stage: &mut Stage, head: &str, status: u16) {
    for (what, early) in [("nothing of the body", ""), ("some of the body", "0123456789")] {
        let mut raw = Raw::connect(stage.weir.at("inbound"));
        raw.send(format!("{head}{early}"));
        assert_eq!(raw.answer().status(), status, "{what}");
        // The connection may be closed by now.
        let _ = raw.try_send(SMUGGLED.repeat(3));
        let rest = raw.rest();
        assert!(rest.is_empty(), "{what}: {:?}", String::from_utf8_lossy(&rest));
        let seen = stage.take().unwrap();
        assert!(seen.whole.is_empty(), "{what}: {seen:?}");
    }
}

#[test]
fn when_no_route_matches() {
    let mut stage = Stage::with(|file| file.route("match: { host: a.test }"));
    late_body(&mut stage, "POST / HTTP/1.1\r\nhost: b.test\r\ncontent-length: 500\r\n\r\n", 404);
    late_body(
        &mut stage,
        "POST / HTTP/1.1\r\nhost: b.test\r\ntransfer-encoding: chunked\r\n\r\n1f4\r\n",
        404,
    );
    late_body(
        &mut stage,
        "POST / HTTP/1.1\r\nhost: b.test\r\ncontent-length: 500\r\nexpect: 100-continue\r\n\r\n",
        404,
    );
}

#[test]
fn when_the_body_is_too_large() {
    let mut stage = Stage::with(|file| file.route("max_body: 100"));
    late_body(&mut stage, "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 500\r\n\r\n", 413);
}

#[test]
fn when_the_request_is_malformed_after_its_head_was_read() {
    let mut stage = Stage::start();
    late_body(&mut stage, "POST / HTTP/1.1\r\nhost: a b\r\ncontent-length: 500\r\n\r\n", 400);
}

#[test]
fn a_body_that_is_there_already_is_passed_over() {
    let mut stage = Stage::with(|file| file.route("match: { host: a.test }"));
    let mut raw = Raw::connect(stage.weir.at("inbound"));
    let body = SMUGGLED;
    raw.send(format!(
        "POST / HTTP/1.1\r\nhost: b.test\r\ncontent-length: {}\r\n\r\n{body}GET /next HTTP/1.1\r\nhost: a.test\r\n\r\n",
        body.len()
    ));
    assert_eq!(raw.answer().status(), 404);
    let next = raw.head().map(|head| head.status());
    assert!(matches!(next, Ok(200) | Err(_)), "the next request or the end: {next:?}");
    let seen = stage.take().unwrap();
    assert!(seen.whole.iter().all(|request| request.line == "GET /next HTTP/1.1"), "{seen:?}");
}
