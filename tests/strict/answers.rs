//! Answers of an endpoint that two parsers could read differently, and what becomes of its connection.
//!
//! The first connection that Weir makes gets the hostile bytes, every later one answers `fresh`. Each case sends one
//! request, then a second one; the second must get `fresh`, and nothing that the first connection said beyond its
//! answer may ever reach a client.

use std::sync::{Arc, Mutex};

use crate::support::{
    PATIENCE,
    raw::{Message, Raw},
    raw_origin::RawOrigin,
    weir::{File, Weir},
};

/// What must become of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// 502 `upstream_protocol`; the connection to the endpoint is not used again.
    Refused,
    /// The client gets this status and body, whole; the connection to the endpoint is not used again.
    Last(u16, &'static str),
    /// The same, and the connection is used again.
    Passed(u16, &'static str),
}
use Outcome::{Last, Passed, Refused};

/// What a smuggler wants to have shown.
const EVIL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nx-evil: 1\r\n\r\nevil";
const FRESH: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfresh";

struct Play {
    weir: Weir,
    origin: RawOrigin,
}

impl Play {
    /// The first connection gets `bytes` for its first request, and `then` for those that follow.
    fn start(bytes: String) -> Self {
        let origin = RawOrigin::start(move |connection| {
            let first = connection.number == 0;
            let mut answers = 0;
            while connection.request().is_some() {
                answers += 1;
                let sent = match (first, answers) {
                    (true, 1) => connection.raw.try_send(&bytes),
                    (true, _) => {
                        connection.raw.try_send("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nreused")
                    }
                    (false, _) => connection.raw.try_send(FRESH),
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        let weir = File::to(&[origin.address]).top("workers: 1").start();
        Self { weir, origin }
    }

    fn ask(&self, method: &str) -> Result<Message, String> {
        let mut raw = Raw::connect(self.weir.at("inbound"));
        raw.stream().set_read_timeout(Some(PATIENCE)).unwrap();
        raw.send(format!("{method} / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n"));
        let mut head = raw.head().map_err(|e| format!("no answer: {e}"))?;
        while head.status() < 200 {
            head = raw.head().map_err(|e| format!("no answer after an interim one: {e}"))?;
        }
        if method == "HEAD" || matches!(head.status(), 204 | 304) {
            // Whatever came would be a body that must not be there.
            head.body = raw.rest();
            return Ok(head);
        }
        let answer = raw.body_of(head, true).map_err(|e| format!("broken off: {e}"))?;
        let rest = raw.rest();
        if rest.is_empty() { Ok(answer) } else { Err(format!("more: {:?}", String::from_utf8_lossy(&rest))) }
    }
}

fn judge(method: &str, bytes: &str, wanted: Outcome) -> Result<(), String> {
    let play = Play::start(bytes.to_owned());
    let first = play.ask(method);
    let second = play.ask("GET");
    let fine = match (&first, wanted) {
        (Ok(answer), Refused) => {
            answer.status() == 502 && (method == "HEAD" || answer.json()["reason"] == "upstream_protocol")
        }
        (Ok(answer), Last(status, body) | Passed(status, body)) => {
            answer.status() == status && answer.text() == body
        }
        _ => false,
    };
    if !fine || format!("{first:?}").contains("evil") {
        return Err(format!("the client got {first:?}"));
    }
    let next = if matches!(wanted, Passed(..)) { "reused" } else { "fresh" };
    let answer = second.map_err(|e| format!("the next request: {e}"))?;
    if (answer.status(), answer.text().as_str()) != (200, next) {
        return Err(format!("the next request got {answer:?}"));
    }
    if play.origin.seen().len() == 2 { Ok(()) } else { Err(format!("{} requests", play.origin.seen().len())) }
}

#[track_caller]
fn run(class: &str, cases: &[(&str, &str, &str, Outcome)]) {
    let wrong = Arc::new(Mutex::new(Vec::new()));
    // Two at a time: each waits for its own Weir most of the time.
    std::thread::scope(|scope| {
        for half in cases.chunks(cases.len().div_ceil(2)) {
            let wrong = wrong.clone();
            scope.spawn(move || {
                for (what, method, bytes, wanted) in half {
                    if let Err(error) = judge(method, bytes, *wanted) {
                        wrong.lock().unwrap().push(format!("{class}: {what} ({wanted:?}): {error}"));
                    }
                }
            });
        }
    });
    let wrong = wrong.lock().unwrap();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn heads() {
    run(
        "heads",
        &[
            ("as it should be", "GET", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Passed(200, "ok")),
            ("no HTTP", "GET", "hello\r\n\r\n", Refused),
            ("an empty line first", "GET", "\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Refused),
            ("LF after the status line", "GET", "HTTP/1.1 200 OK\ncontent-length: 2\r\n\r\nok", Refused),
            ("LF after a field", "GET", "HTTP/1.1 200 OK\r\nx: y\ncontent-length: 2\r\n\r\nok", Refused),
            ("LF ends the head", "GET", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\nok", Refused),
            ("CR in a value", "GET", "HTTP/1.1 200 OK\r\nx: a\rb\r\ncontent-length: 2\r\n\r\nok", Refused),
            ("NUL in a value", "GET", "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 2\r\n\r\nok", Refused),
            ("NUL in the reason", "GET", "HTTP/1.1 200 O\0K\r\ncontent-length: 2\r\n\r\nok", Refused),
            (
                "a folded field",
                "GET",
                "HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 2\r\n\r\nok",
                Refused,
            ),
            ("a space before the colon", "GET", "HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\nok", Refused),
            ("no colon", "GET", "HTTP/1.1 200 OK\r\nx\r\ncontent-length: 2\r\n\r\nok", Refused),
            ("no name", "GET", "HTTP/1.1 200 OK\r\n: x\r\ncontent-length: 2\r\n\r\nok", Refused),
            ("HTTP/1.2", "GET", "HTTP/1.2 200 OK\r\ncontent-length: 2\r\n\r\nok", Refused),
            ("HTTP/2.0", "GET", "HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nok", Refused),
            ("a status of two digits", "GET", "HTTP/1.1 20 OK\r\ncontent-length: 2\r\n\r\nok", Refused),
            ("a status of four digits", "GET", "HTTP/1.1 2000 OK\r\ncontent-length: 2\r\n\r\nok", Refused),
            ("a status that is none", "GET", "HTTP/1.1 abc OK\r\ncontent-length: 2\r\n\r\nok", Refused),
            ("no reason is fine", "GET", "HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok", Passed(200, "ok")),
        ],
    );
}

#[test]
fn lengths() {
    run(
        "lengths",
        &[
            (
                "both",
                "GET",
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
                Refused,
            ),
            (
                "both, the other way round",
                "GET",
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
                Refused,
            ),
            (
                "repeated",
                "GET",
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok",
                Refused,
            ),
            ("a list", "GET", "HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nok", Refused),
            ("a sign", "GET", "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok", Refused),
            ("no number", "GET", "HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\nok", Refused),
            (
                "a coding before chunked",
                "GET",
                "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
                Refused,
            ),
            (
                "chunked twice",
                "GET",
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
                Refused,
            ),
            ("identity", "GET", "HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nok", Refused),
            (
                "a coding in HTTP/1.0",
                "GET",
                "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
                Refused,
            ),
            (
                "both of HEAD",
                "HEAD",
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
                Refused,
            ),
        ],
    );
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

/// Bodies that are none.
const BAD_CHUNKS: &[(&str, &str)] = &[
    ("LF after a size", "2\nok\r\n0\r\n\r\n"),
    ("LF after the data", "2\r\nok\n0\r\n\r\n"),
    ("a sign", "+2\r\nok\r\n0\r\n\r\n"),
    ("0x", "0x2\r\nok\r\n0\r\n\r\n"),
    ("a space", "2 \r\nok\r\n0\r\n\r\n"),
    ("too large", "ffffffffffffffff\r\nok\r\n0\r\n\r\n"),
    ("data too long", "2\r\nokay\r\n0\r\n\r\n"),
    ("LF in an extension", "2;a\nb\r\nok\r\n0\r\n\r\n"),
    ("LF in a trailer", "2\r\nok\r\n0\r\nx: y\n\r\n"),
    ("NUL in a trailer", "2\r\nok\r\n0\r\nx: \0\r\n\r\n"),
    ("an answer where the trailers are", "2\r\nok\r\n0\r\nHTTP/1.1 200 OK\r\n\r\n"),
];

#[test]
fn chunks() {
    let whole: Vec<String> = BAD_CHUNKS.iter().map(|(_, body)| format!("{CHUNKED}{body}{EVIL}")).collect();
    let cases: Vec<_> =
        BAD_CHUNKS.iter().zip(&whole).map(|((what, _), all)| (*what, "GET", all.as_str(), Refused)).collect();
    run("chunks", &cases);
    let good = format!("{CHUNKED}2;x=y\r\nok\r\n0\r\nx: y\r\n\r\n");
    run("chunks", &[("as they should be", "GET", &good, Passed(200, "ok"))]);
}

/// The client has the beginning of the answer already: all that is left is to have it see that the end is missing.
#[test]
fn chunks_that_go_wrong_later() {
    for (what, bad) in BAD_CHUNKS {
        let (tell, told) = std::sync::mpsc::channel();
        let told = Mutex::new(told);
        let origin = RawOrigin::start(move |connection| {
            if connection.number > 0 {
                return connection.answer_all(FRESH);
            }
            connection.request();
            connection.raw.send(format!("{CHUNKED}5\r\nhello\r\n"));
            let _ = told.lock().unwrap().recv_timeout(PATIENCE);
            connection.raw.send(format!("{bad}{EVIL}"));
            connection.raw.rest();
        });
        let weir = File::to(&[origin.address]).top("workers: 1").start();
        let mut raw = Raw::connect(weir.at("inbound"));
        raw.send("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n");
        assert_eq!(raw.head().unwrap().status(), 200, "{what}");
        assert_eq!(raw.chunk().unwrap(), b"hello", "{what}");
        tell.send(()).unwrap();
        let rest = String::from_utf8_lossy(&raw.rest()).into_owned();
        assert!(!rest.contains("0\r\n\r\n") && !rest.contains("evil"), "{what}: {rest:?}");
        assert_eq!(Raw::connect(weir.at("inbound")).get("a.test", "/").text(), "fresh", "{what}");
    }
}

#[test]
fn what_comes_after_an_answer() {
    let after = |answer: &str| format!("{answer}{EVIL}");
    let (sized, chunked, none, head, unchanged) = (
        after("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        after("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        after("HTTP/1.1 204 No Content\r\n\r\n"),
        after("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"),
        after("HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\n"),
    );
    let empty = after("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    run(
        "after an answer",
        &[
            ("an answer after a length", "GET", &sized, Last(200, "ok")),
            ("an answer after chunks", "GET", &chunked, Last(200, "ok")),
            ("an answer after 204", "GET", &none, Last(204, "")),
            ("an answer after 304", "GET", &unchanged, Last(304, "")),
            ("an answer after that of HEAD", "HEAD", &head, Last(200, "")),
            ("an answer after an empty one", "GET", &empty, Last(200, "")),
            ("a byte more", "GET", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok!", Last(200, "ok")),
            (
                "an empty line more",
                "GET",
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok\r\n",
                Last(200, "ok"),
            ),
            ("a body of HEAD", "HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", Last(200, "")),
            (
                "a body of 204",
                "GET",
                "HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\nevil",
                Last(204, ""),
            ),
            (
                "chunks of 204",
                "GET",
                "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
                Last(204, ""),
            ),
            (
                "a body of 304",
                "GET",
                "HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n\r\nevil",
                Last(304, ""),
            ),
            (
                "204 that says that it has one",
                "GET",
                "HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\n",
                Last(204, ""),
            ),
            (
                "204 that says that it has none",
                "GET",
                "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
                Passed(204, ""),
            ),
            ("HEAD as it should be", "HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", Passed(200, "")),
        ],
    );
}

#[test]
fn interim_answers() {
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let few = format!("{}{ok}", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(5));
    let storm = format!("{}{ok}", "HTTP/1.1 102 Processing\r\n\r\n".repeat(1_000));
    let length = format!("HTTP/1.1 103 Early Hints\r\ncontent-length: 4\r\n\r\nevil{ok}");
    let chunked =
        format!("HTTP/1.1 103 Early Hints\r\ntransfer-encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n{ok}");
    let lf = format!("HTTP/1.1 103 Early Hints\nx: y\r\n\r\n{ok}");
    let switch =
        format!("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n{EVIL}");
    run(
        "interim answers",
        &[
            ("a few", "GET", &few, Passed(200, "ok")),
            ("a storm", "GET", &storm, Refused),
            ("a length", "GET", &length, Refused),
            ("a coding", "GET", &chunked, Refused),
            ("a bare LF", "GET", &lf, Refused),
            ("a switch that nobody asked for", "GET", &switch, Refused),
        ],
    );
}

/// Bytes that come while the connection is idle: the next request must not take them for its answer.
#[test]
fn what_an_idle_connection_says_ends_it() {
    let (tell, told) = std::sync::mpsc::channel();
    let go = Arc::new(Mutex::new(told));
    let (said, heard) = std::sync::mpsc::channel();
    let origin = RawOrigin::start(move |connection| {
        if connection.number > 0 {
            return connection.answer_all(FRESH);
        }
        connection.request();
        connection.raw.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        let _ = go.lock().unwrap().recv_timeout(PATIENCE);
        connection.raw.send(EVIL);
        said.send(()).unwrap();
        connection.raw.rest();
    });
    let weir = File::to(&[origin.address]).top("workers: 1").start();
    let mut raw = Raw::connect(weir.at("inbound"));
    assert_eq!(raw.get("a.test", "/").text(), "ok");
    tell.send(()).unwrap();
    heard.recv_timeout(PATIENCE).unwrap();
    for _ in 0..3 {
        assert_eq!(raw.get("a.test", "/").text(), "fresh");
    }
    assert_eq!(origin.connections(), 2);
}
