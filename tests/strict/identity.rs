//! Whom a request is for, who sent it, and what a client cannot have Weir say or hide.

use crate::{
    cases::{
        Outcome::{self, Passed, Refused},
        SMUGGLED, Stage, run,
    },
    recorder::Request,
    support::raw::Raw,
};

type Case = (&'static str, &'static str, Outcome);

#[test]
fn hosts() {
    let cases: &[Case] = &[
        ("missing", "GET / HTTP/1.1\r\nx: y\r\n\r\n", Refused),
        ("repeated", "GET / HTTP/1.1\r\nhost: a.test\r\nhost: a.test\r\n\r\n", Refused),
        ("contradicting", "GET / HTTP/1.1\r\nhost: a.test\r\nhost: b.test\r\n\r\n", Refused),
        ("a list", "GET / HTTP/1.1\r\nhost: a.test, b.test\r\n\r\n", Refused),
        ("a path", "GET / HTTP/1.1\r\nhost: a.test/x\r\n\r\n", Refused),
        ("a query", "GET / HTTP/1.1\r\nhost: a.test?x\r\n\r\n", Refused),
        ("credentials", "GET / HTTP/1.1\r\nhost: b.test@a.test\r\n\r\n", Refused),
        ("a space", "GET / HTTP/1.1\r\nhost: a.test b.test\r\n\r\n", Refused),
        ("a port that is none", "GET / HTTP/1.1\r\nhost: a.test:x\r\n\r\n", Refused),
        ("a port too large", "GET / HTTP/1.1\r\nhost: a.test:99999\r\n\r\n", Refused),
        ("a port and no host", "GET / HTTP/1.1\r\nhost: :80\r\n\r\n", Refused),
        ("an escape", "GET / HTTP/1.1\r\nhost: a%2etest\r\n\r\n", Refused),
        ("half an IPv6 address", "GET / HTTP/1.1\r\nhost: [::1\r\n\r\n", Refused),
        ("beyond ASCII", "GET / HTTP/1.1\r\nhost: \u{e4}.test\r\n\r\n", Refused),
        (
            "malformed beside a target that has one",
            "GET http://a.test/ HTTP/1.1\r\nhost: b c\r\n\r\n",
            Refused,
        ),
        ("missing beside a target that has one", "GET http://a.test/ HTTP/1.1\r\nx: y\r\n\r\n", Refused),
        (
            "repeated beside a target that has one",
            "GET http://a.test/ HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
            Refused,
        ),
    ];
    run("hosts", &mut Stage::start(), cases);
}

/// What the endpoint got for one request.
#[track_caller]
fn got(stage: &mut Stage, bytes: &str, wanted: Outcome) -> Request {
    let seen = stage.judge(bytes.as_bytes(), wanted).unwrap_or_else(|e| panic!("{bytes:?}: {e}"));
    seen.whole.into_iter().find(|request| !request.line.contains("/smuggled")).unwrap()
}

#[test]
fn the_target_in_absolute_form_replaces_host() {
    let mut stage = Stage::start();
    let bytes = "GET http://b.test:81/x?y HTTP/1.1\r\nhost: a.test\r\n\r\n";
    let seen = got(&mut stage, bytes, Passed(""));
    assert_eq!((seen.line.as_str(), seen.all("host")), ("GET /x?y HTTP/1.1", vec!["b.test:81"]));
    let bytes = "OPTIONS * HTTP/1.1\r\nhost: a.test\r\n\r\n";
    assert_eq!(got(&mut stage, bytes, Passed("")).line, "OPTIONS * HTTP/1.1");
}

#[test]
fn connection_removes_nothing_that_weir_adds_or_needs() {
    let mut stage = Stage::start();
    let names = "x-forwarded-for, X-Forwarded-Proto, x-forwarded-host, x-request-id, via, host, traceparent, \
                 x-weir-attempt, x-weir-timeout-ms, content-length, cookie, authorization, forwarded";
    let bytes = format!(
        "POST / HTTP/1.1\r\nhost: a.test\r\nconnection: {names}, x-hop\r\ncontent-length: 2\r\nx-hop: 1\r\n\
         cookie: c=1\r\nauthorization: basic x\r\n\
         traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\nab"
    );
    let seen = got(&mut stage, &bytes, Passed("ab"));
    for (name, value) in [
        ("host", "a.test"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "a.test"),
        ("x-weir-attempt", "1"),
        ("cookie", "c=1"),
        ("authorization", "basic x"),
        ("content-length", "2"),
    ] {
        assert_eq!(seen.all(name), [value], "{name}");
    }
    for name in ["x-request-id", "via", "traceparent"] {
        assert_eq!(seen.all(name).len(), 1, "{name} in {seen:?}");
    }
    assert!(seen.all("x-hop").is_empty(), "{seen:?}");
    assert!(!seen.all("connection").iter().any(|line| line.contains("x-")), "{seen:?}");
}

#[test]
fn weirs_own_names_are_not_taken_from_strangers() {
    let mut stage = Stage::with(|file| file.listener("trust: []"));
    let bytes = "GET / HTTP/1.1\r\nhost: a.test\r\nx-forwarded-for: 9.9.9.9\r\nx_forwarded_for: 9.9.9.9\r\n\
                 X_Forwarded-Proto: https\r\nx-forwarded-anything: 1\r\nx-forwarded-host: evil\r\nforwarded: for=9.9.9.9\r\n\
                 x-real-ip: 9.9.9.9\r\nx_real_ip: 9.9.9.9\r\nx-request-id: mine\r\nx_request_id: mine\r\n\
                 x-weir-attempt: 9\r\nX_Weir_Attempt: 9\r\nx-weir-retry: no\r\nx_weir_retry: no\r\nx-weir-x: 1\r\nx-kept: 1\r\n\r\n";
    let seen = got(&mut stage, bytes, Passed(""));
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.all("x-forwarded-host"), ["a.test"]);
    assert_eq!(seen.all("x-weir-attempt"), ["1"]);
    assert_eq!(seen.all("x-kept"), ["1"]);
    let id = seen.all("x-request-id");
    assert!(id.len() == 1 && id[0] != "mine", "{id:?}");
    for name in [
        "x_forwarded_for",
        "x_forwarded-proto",
        "x-forwarded-anything",
        "forwarded",
        "x-real-ip",
        "x_real_ip",
        "x_request_id",
        "x_weir_attempt",
        "x-weir-retry",
        "x_weir_retry",
        "x-weir-x",
    ] {
        assert!(seen.all(name).is_empty(), "{name} in {seen:?}");
    }
}

#[test]
fn an_upgrade_to_http2_is_never_passed_on() {
    let mut stage = Stage::start();
    for (what, fields) in [
        (
            "h2c",
            "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
        ),
        (
            "settings that Connection does not name",
            "connection: upgrade\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n",
        ),
        (
            "in capitals",
            "connection: Upgrade, HTTP2-Settings\r\nupgrade: H2C\r\nHTTP2-Settings: AAMAAABk\r\n",
        ),
        ("h2", "connection: upgrade\r\nupgrade: h2\r\n"),
        ("not named by Connection", "upgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"),
        ("settings alone", "http2-settings: AAMAAABk\r\n"),
        ("TLS", "connection: upgrade\r\nupgrade: TLS/1.2\r\n"),
    ] {
        // The reader of the recorder fails on any of these fields.
        let bytes = format!("GET / HTTP/1.1\r\nhost: a.test\r\n{fields}\r\n");
        let seen = got(&mut stage, &bytes, Passed(""));
        assert!(
            !seen.all("connection").iter().any(|line| line.to_lowercase().contains("upgrade")),
            "{what}: {seen:?}"
        );
    }
}

#[test]
fn http10() {
    let cases: &[Case] = &[
        ("closes", "GET / HTTP/1.0\r\nhost: a.test\r\n\r\n", Outcome::Status(200)),
        ("closes without a host", "GET / HTTP/1.0\r\n\r\n", Outcome::Status(200)),
        (
            "closes after a body",
            "POST / HTTP/1.0\r\nhost: a.test\r\ncontent-length: 2\r\n\r\nab",
            Outcome::Status(200),
        ),
        (
            "closes when it says so twice",
            "GET / HTTP/1.0\r\nhost: a.test\r\nconnection: keep-alive, close\r\n\r\n",
            Outcome::Status(200),
        ),
        (
            "upgrades nothing",
            "GET / HTTP/1.0\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            Outcome::Status(200),
        ),
        (
            "expects nothing",
            "POST / HTTP/1.0\r\nhost: a.test\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\nab",
            Outcome::Status(200),
        ),
        (
            "has no codings",
            "POST / HTTP/1.0\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused,
        ),
        ("has one host at most", "GET / HTTP/1.0\r\nhost: a.test\r\nhost: a.test\r\n\r\n", Refused),
    ];
    let mut stage = Stage::start();
    for (what, bytes, wanted) in cases {
        let mut raw = Raw::connect(stage.weir.at("inbound"));
        let _ = raw.try_send(format!("{bytes}{SMUGGLED}"));
        let answer = raw.answer();
        assert_eq!(answer.status(), if *wanted == Refused { 400 } else { 200 }, "{what}");
        raw.expect_closed();
        let seen = stage.take().unwrap_or_else(|e| panic!("{what}: {e}"));
        let lines: Vec<_> = seen.whole.iter().map(|request| &request.line).collect();
        assert_eq!(lines.len(), usize::from(*wanted != Refused), "{what}: {lines:?}");
        assert!(!lines.iter().any(|line| line.contains("smuggled")), "{what}: {lines:?}");
    }
    let kept = "GET / HTTP/1.0\r\nhost: a.test\r\nconnection: keep-alive\r\n\r\n";
    let mut raw = Raw::connect(stage.weir.at("inbound"));
    for _ in 0..2 {
        assert_eq!(raw.send(kept).answer().status(), 200, "kept alive by name");
    }
}

#[test]
fn trailers_say_nothing_that_a_head_may_not_say() {
    let mut stage = Stage::with(|file| file.listener("trust: []"));
    let bytes = "POST / HTTP/1.1\r\nhost: a.test\r\ntrailer: x-forwarded-for, x_weir_attempt, host, x-request-id\r\n\
                 transfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx-forwarded-for: 9.9.9.9\r\nx_weir_attempt: 9\r\n\
                 host: evil\r\nx-request-id: mine\r\n\r\n";
    // The reader of the recorder fails on any trailer.
    assert_eq!(got(&mut stage, bytes, Passed("ab")).all("x-weir-attempt"), ["1"]);
}
