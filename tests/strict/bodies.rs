//! Bodies: chunks, trailers, and messages that come cut, pipelined or broken off.

use crate::{
    cases::{
        Outcome::{self, Broken, Closed, Passed, Refused},
        SMUGGLED, Stage, run, wait_begun,
    },
    support::raw::Raw,
};

type Case = (&'static str, &'static str, Outcome);

const CHUNKED: &str = "POST / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n";

#[track_caller]
fn run_chunked(class: &str, cases: &[Case]) {
    let whole: Vec<String> = cases.iter().map(|(_, body, _)| format!("{CHUNKED}{body}")).collect();
    let cases: Vec<_> =
        cases.iter().zip(&whole).map(|((what, _, wanted), bytes)| (*what, bytes.as_str(), *wanted)).collect();
    run(class, &mut Stage::start(), &cases);
}

#[test]
fn sizes_of_chunks() {
    run_chunked(
        "sizes of chunks",
        &[
            ("plain", "5\r\nhello\r\n0\r\n\r\n", Passed("hello")),
            ("in capitals", "A\r\n0123456789\r\n0\r\n\r\n", Passed("0123456789")),
            ("leading zeros", "0005\r\nhello\r\n000\r\n\r\n", Passed("hello")),
            ("plus", "+5\r\nhello\r\n0\r\n\r\n", Broken),
            ("minus", "-5\r\nhello\r\n0\r\n\r\n", Broken),
            ("0x", "0x5\r\nhello\r\n0\r\n\r\n", Broken),
            ("a space before", " 5\r\nhello\r\n0\r\n\r\n", Broken),
            ("a space after", "5 \r\nhello\r\n0\r\n\r\n", Broken),
            ("a tab after", "5\t\r\nhello\r\n0\r\n\r\n", Broken),
            ("a space after the last", "5\r\nhello\r\n0 \r\n\r\n", Broken),
            ("empty", "\r\nhello\r\n0\r\n\r\n", Broken),
            ("no digit", "g\r\nhello\r\n0\r\n\r\n", Broken),
            ("an underscore", "0_5\r\nhello\r\n0\r\n\r\n", Broken),
            ("over 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n", Broken),
            ("over 63 bits", "ffffffffffffffff\r\nhello\r\n0\r\n\r\n", Broken),
            ("many zeros", "00000000000000000000000000005\r\nhello\r\n0\r\n\r\n", Broken),
            ("NUL", "5\0\r\nhello\r\n0\r\n\r\n", Broken),
            ("a comma", "5,5\r\nhello\r\n0\r\n\r\n", Broken),
        ],
    );
}

#[test]
fn ends_of_lines_in_chunks() {
    run_chunked(
        "lines in chunks",
        &[
            ("LF after the size", "5\nhello\r\n0\r\n\r\n", Broken),
            ("LF after the last size", "5\r\nhello\r\n0\n\r\n", Broken),
            ("LF after the data", "5\r\nhello\n0\r\n\r\n", Broken),
            ("CR after the data", "5\r\nhello\r0\r\n\r\n", Broken),
            ("nothing after the data", "5\r\nhello0\r\n\r\n", Broken),
            ("data too long", "5\r\nhello!\r\n0\r\n\r\n", Broken),
            ("data too short", "5\r\nhell\r\n0\r\n\r\n", Broken),
            ("CR twice after the size", "5\r\r\nhello\r\n0\r\n\r\n", Broken),
            ("LF ends the body", "5\r\nhello\r\n0\r\n\n", Broken),
            ("LF everywhere", "5\nhello\n0\n\n", Broken),
            ("CR and something else", "5\rXhello\r\n0\r\n\r\n", Broken),
        ],
    );
}

#[test]
fn extensions_of_chunks() {
    let long = format!("{CHUNKED}5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(300));
    let endless = format!("{CHUNKED}5;{}", "x".repeat(200_000));
    run_chunked(
        "extensions",
        &[
            ("are dropped", "5;a=b;c=\"d e\"\r\nhello\r\n0;x\r\n\r\n", Passed("hello")),
            ("LF within", "5;a\nb\r\nhello\r\n0\r\n\r\n", Broken),
            ("LF at the end", "5;a\nhello\r\n0\r\n\r\n", Broken),
            ("CR within", "5;a\rb\r\nhello\r\n0\r\n\r\n", Broken),
            ("NUL within", "5;a\0\r\nhello\r\n0\r\n\r\n", Broken),
            ("a space before", "5 ;a\r\nhello\r\n0\r\n\r\n", Broken),
        ],
    );
    let cases = [("long", long.as_str(), Broken), ("endless", endless.as_str(), Broken)];
    run("extensions", &mut Stage::start(), &cases);
}

#[test]
fn trailers() {
    run_chunked(
        "trailers",
        &[
            ("are dropped unless announced", "5\r\nhello\r\n0\r\nx: y\r\n\r\n", Passed("hello")),
            ("a length", "5\r\nhello\r\n0\r\ncontent-length: 40\r\n\r\n", Passed("hello")),
            ("LF after one", "5\r\nhello\r\n0\r\nx: y\n\r\n", Broken),
            ("LF hides one", "5\r\nhello\r\n0\r\nx: y\nz: a\r\n\r\n", Broken),
            ("folded", "5\r\nhello\r\n0\r\nx: y\r\n z\r\n\r\n", Broken),
            ("a space before the colon", "5\r\nhello\r\n0\r\nx : y\r\n\r\n", Broken),
            ("NUL", "5\r\nhello\r\n0\r\nx: \0\r\n\r\n", Broken),
            ("no colon", "5\r\nhello\r\n0\r\nx\r\n\r\n", Broken),
            // The request that waits behind it takes the place of the trailers.
            ("a request", "5\r\nhello\r\n0\r\n", Broken),
            ("look-alikes", "5\r\nhello\r\n0\r\ntransfer_encoding: chunked\r\n\r\n", Broken),
        ],
    );
}

/// A parser that looks for the end of a quoted extension finds it in another line than one that does not.
#[test]
fn a_quoted_extension_ends_with_its_line() {
    let mut stage = Stage::start();
    let mut raw = Raw::connect(stage.weir.at("inbound"));
    raw.send(format!("{CHUNKED}5;a=\"\r\nhello\r\n0\r\n\r\n\"\r\n0\r\n\r\n{SMUGGLED}"));
    assert_eq!(raw.answer().status(), 200);
    assert_eq!(raw.answer().status(), 400);
    raw.expect_closed();
    let seen = stage.take().unwrap();
    assert_eq!((seen.whole.len(), seen.whole[0].body.as_slice()), (1, &b"hello"[..]));
}

#[test]
fn a_refused_request_waits_for_its_turn() {
    let good = "GET /good HTTP/1.1\r\nhost: a.test\r\n\r\n";
    for (what, bad) in [
        ("LF", "GET /bad HTTP/1.1\nhost: a.test\r\n\r\n"),
        (
            "both lengths",
            "POST /bad HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        ),
        ("NUL", "\0"),
        ("a space", " GET /bad HTTP/1.1\r\n\r\n"),
    ] {
        let mut stage = Stage::start();
        let mut raw = Raw::connect(stage.weir.at("inbound"));
        raw.send(format!("{good}{good}{bad}{SMUGGLED}"));
        for _ in 0..2 {
            let answer = raw.answer();
            assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"), "{what}");
        }
        let answer = raw.answer();
        assert_eq!((answer.status(), answer.json()["reason"].as_str()), (400, Some("malformed")), "{what}");
        raw.expect_closed();
        let seen = stage.take().unwrap();
        let lines: Vec<_> = seen.whole.iter().map(|request| request.line.as_str()).collect();
        assert_eq!(lines, ["GET /good HTTP/1.1", "GET /good HTTP/1.1"], "{what}");
    }
}

#[test]
fn a_message_may_come_in_any_pieces() {
    let mut stage = Stage::start();
    let good = format!("{CHUNKED}5;x\r\nhello\r\n0\r\n\r\n");
    let bad = "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n";
    for (bytes, status) in [(good.as_str(), 200), (bad, 400)] {
        for step in [1, 7, 40] {
            let mut raw = Raw::connect(stage.weir.at("inbound"));
            for piece in bytes.as_bytes().chunks(step) {
                // Weir may have heard enough before the end.
                let _ = raw.try_send(piece);
                std::thread::yield_now();
            }
            assert_eq!(raw.answer().status(), status, "{step}");
            let seen = stage.take().unwrap();
            assert_eq!(seen.whole.len(), usize::from(status == 200), "{step}: {seen:?}");
        }
    }
}

#[test]
fn a_body_refused_in_the_middle_never_looks_complete() {
    for (what, start, bad) in [
        ("a bad size", format!("{CHUNKED}5\r\nhello\r\n"), "x\r\n"),
        ("a bad end", format!("{CHUNKED}5\r\nhello"), "0\r\n\r\n"),
        ("a bad trailer", format!("{CHUNKED}5\r\nhello\r\n0\r\n"), "x\n\r\n"),
    ] {
        let mut stage = Stage::start();
        let mut raw = Raw::connect(stage.weir.at("inbound"));
        raw.send(start);
        wait_begun(&stage);
        raw.send(format!("{bad}{SMUGGLED}"));
        assert_eq!(raw.answer().status(), 400, "{what}");
        raw.expect_closed();
        let seen = stage.take().unwrap();
        assert!(seen.whole.is_empty() && seen.rest.starts_with(b"POST / HTTP/1.1"), "{what}: {seen:?}");
    }
}

#[test]
fn a_request_that_ends_its_connection_is_the_last() {
    let cases: &[Case] = &[
        ("close", "GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n", Closed("")),
        ("close among others", "GET / HTTP/1.1\r\nhost: a.test\r\nconnection: x, close\r\n\r\n", Closed("")),
        (
            "close and keep-alive",
            "GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\nconnection: keep-alive\r\n\r\n",
            Closed(""),
        ),
        (
            "close with a body",
            "POST / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\ncontent-length: 2\r\n\r\nab",
            Closed("ab"),
        ),
        (
            "too little is not enough",
            "POST / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\ncontent-length: -1\r\n\r\n",
            Refused,
        ),
    ];
    run("the last request", &mut Stage::start(), cases);
}
