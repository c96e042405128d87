//! Requests that are malformed, ambiguous or hostile. Of each: what the application's socket saw, what the client got,
//! and that the other streams of its connection go on.

use crate::support::{
    frames::*,
    raw::Message,
    raw_origin::RawOrigin,
    weir::{File, Weir},
};

/// What a client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gets {
    /// An answer of this status.
    Status(u16),
    /// The stream is reset with this code; the connection goes on.
    Reset(u32),
    /// The connection ends with this code.
    GoAway(u32),
    /// The connection ends, and nothing is said.
    Closed,
}

/// What the application's socket saw of it.
enum Sees {
    Nothing,
    /// A whole request of which this holds.
    Clean(fn(&Message) -> bool),
}

struct Case {
    what: &'static str,
    /// Sent on stream 1.
    bytes: Vec<u8>,
    gets: Gets,
    sees: Sees,
}

fn app() -> RawOrigin {
    RawOrigin::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
}

/// Holds a whole table against one Weir, each case on a connection of its own.
fn check(cases: Vec<Case>) {
    let origin = app();
    let weir = File::to(&[origin.address]).start();
    let mut wrong = Vec::new();
    let mut known = 0;
    for Case { what, bytes, gets, sees } in cases {
        let mut peer = Peer::open(weir.at("inbound"));
        peer.send(&bytes);
        let outcome = peer.outcome_or_nothing(1);
        let got = match &outcome {
            Outcome::Answer(answer) => Some(Gets::Status(answer.status())),
            Outcome::Reset(code) => Some(Gets::Reset(*code)),
            Outcome::GoAway(code) => Some(Gets::GoAway(*code)),
            Outcome::Closed => Some(Gets::Closed),
            Outcome::Nothing => None,
        };
        // A PING may overtake an answer, never an error.
        let got = got.or_else(|| {
            matches!(gets, Gets::Status(_)).then(|| peer.outcome(1).status().map(Gets::Status)).flatten()
        });
        if got != Some(gets) {
            wrong.push(format!("{what}: the client should get {gets:?}; it got {outcome:?}"));
        }
        if matches!(got, Some(Gets::Status(_) | Gets::Reset(_))) {
            peer.expect_alive(101);
        }
        // Weir closes the connection to the application where a message broke off: what it saw is complete then.
        let seen: Vec<_> = origin.seen().drain(known..).filter(|m| !m.start.contains("/alive")).collect();
        known = origin.seen().len();
        match (sees, seen.as_slice()) {
            (Sees::Nothing, []) => {}
            (Sees::Clean(holds), [message]) if holds(message) => {}
            _ => wrong.push(format!("{what}: the application saw {seen:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn whole(what: &'static str, fields: &[(&str, &str)], gets: Gets) -> Case {
    Case { what, bytes: headers(1, WHOLE, fields), gets, sees: Sees::Nothing }
}

/// h2 finds these while it reads the head's block, and ends the connection: an endpoint may treat any error of a stream
/// as one of the connection (RFC 9113 §5.4.1).
fn fatal(what: &'static str, fields: &[(&str, &str)]) -> Case {
    whole(what, fields, Gets::GoAway(PROTOCOL_ERROR))
}

const fn malformed() -> Gets {
    Gets::Reset(PROTOCOL_ERROR)
}

#[test]
fn pseudo_fields_are_those_of_a_request_once_and_first() {
    const M: (&str, &str) = (":method", "GET");
    const S: (&str, &str) = (":scheme", "http");
    const A: (&str, &str) = (":authority", "a.test");
    const P: (&str, &str) = (":path", "/x");
    check(vec![
        whole("no :method", &[S, A, P], malformed()),
        whole("no :scheme", &[M, A, P], malformed()),
        whole("no :path", &[M, S, A], malformed()),
        whole("no host at all", &[M, S, P], Gets::Status(400)),
        whole("an empty :authority", &[M, S, (":authority", ""), P], malformed()),
        whole(":method twice", &[M, M, S, A, P], malformed()),
        whole(":scheme twice", &[M, S, S, A, P], malformed()),
        whole(":path twice", &[M, S, A, P, (":path", "/y")], malformed()),
        whole(":authority twice", &[M, S, A, (":authority", "b.test"), P], malformed()),
        whole(":path after a field", &[M, S, A, ("x-a", "1"), P], malformed()),
        fatal("an unknown pseudo-field", &[M, S, A, P, (":tenant", "b")]),
        whole(":status in a request", &[M, S, A, P, (":status", "200")], malformed()),
        whole(":protocol without CONNECT", &[M, S, A, P, (":protocol", "websocket")], malformed()),
        fatal("a pseudo-field in capitals", &[(":Method", "GET"), S, A, P]),
    ]);
}

#[test]
fn targets_are_paths_of_http() {
    let target = |path| request("GET", path).into_iter().collect::<Vec<_>>();
    let authority =
        |authority| vec![(":method", "GET"), (":scheme", "http"), (":authority", authority), (":path", "/")];
    let scheme =
        |scheme| vec![(":method", "GET"), (":scheme", scheme), (":authority", "a.test"), (":path", "/")];
    check(vec![
        whole("an empty :path", &target(""), malformed()),
        whole(":path without a slash", &target("x"), malformed()),
        whole(":path with a host", &target("http://b.test/x"), malformed()),
        whole("`*` for a GET", &target("*"), Gets::Status(400)),
        whole("a space in :path", &target("/a b"), malformed()),
        whole("a line end in :path", &target("/a\r\nx-evil: 1"), malformed()),
        whole("a NUL in :path", &target("/a\0"), malformed()),
        Case {
            what: "a fragment in :path, which is cut off",
            bytes: headers(1, WHOLE, &target("/a#b")),
            gets: Gets::Status(200),
            sees: Sees::Clean(|m| m.start == "GET /a HTTP/1.1"),
        },
        whole("a broken escape in :path", &target("/%zz"), Gets::Status(400)),
        fatal("a method with a space", &request("GET /x HTTP/1.1\r\nx:", "/")),
        fatal("an empty method", &request("", "/")),
        whole("another scheme", &scheme("ftp"), Gets::Status(400)),
        whole("a broken scheme", &scheme("ht tp"), malformed()),
        whole("an authority with a user", &authority("user@a.test"), Gets::Status(400)),
        whole("an authority with a path", &authority("a.test/x"), malformed()),
        whole("an authority with a broken port", &authority("a.test:0x50"), Gets::Status(400)),
        whole("two authorities", &authority("a.test, b.test"), malformed()),
        whole(
            ":authority and Host differ",
            &request_with("GET", "/", &[("host", "b.test")]),
            Gets::Status(400),
        ),
        whole(
            "Host twice",
            &request_with("GET", "/", &[("host", "a.test"), ("host", "a.test")]),
            Gets::Status(400),
        ),
        Case {
            what: "`*` for OPTIONS",
            bytes: headers(1, WHOLE, &request("OPTIONS", "*")),
            gets: Gets::Status(200),
            sees: Sees::Clean(|m| m.start == "OPTIONS * HTTP/1.1"),
        },
        Case {
            what: ":authority and Host agree",
            bytes: headers(1, WHOLE, &request_with("GET", "/x", &[("host", "A.test:80")])),
            gets: Gets::Status(200),
            sees: Sees::Clean(|m| m.header("host").as_deref() == Some("a.test")),
        },
    ]);
}

#[test]
fn fields_are_those_of_http2() {
    let with = |name, value| request_with("GET", "/x", &[(name, value)]);
    check(vec![
        fatal("a name in capitals", &with("X-A", "1")),
        fatal("an empty name", &with("", "1")),
        fatal("a name with a space", &with("x a", "1")),
        fatal("a name with a colon", &with("x:a", "1")),
        fatal("a name with a line end", &with("x\r\ny", "1")),
        whole("connection", &with("connection", "x-a"), malformed()),
        whole("connection: close", &with("connection", "close"), malformed()),
        whole("keep-alive", &with("keep-alive", "timeout=5"), malformed()),
        whole("proxy-connection", &with("proxy-connection", "close"), malformed()),
        whole("transfer-encoding", &with("transfer-encoding", "chunked"), malformed()),
        whole("upgrade", &with("upgrade", "websocket"), malformed()),
        whole("te: gzip", &with("te", "gzip"), malformed()),
        whole("te: trailers, gzip", &with("te", "trailers, gzip"), malformed()),
        fatal("a value with a line end", &with("x-a", "1\r\nx-evil: 1")),
        fatal("a value with a bare LF", &with("x-a", "1\nx-evil: 1")),
        fatal("a value with a NUL", &with("x-a", "1\0")),
        fatal("a value with a control character", &with("x-a", "\x01")),
        fatal("a value with DEL", &with("x-a", "\x7f")),
        whole("a value that begins with a space", &with("x-a", " 1"), Gets::Status(400)),
        whole("a value that ends with a space", &with("x-a", "1 "), Gets::Status(400)),
        whole("a value that begins with a tab", &with("x-a", "\t1"), Gets::Status(400)),
        Case {
            what: "te: trailers",
            bytes: headers(1, WHOLE, &with("te", "trailers")),
            gets: Gets::Status(200),
            sees: Sees::Clean(|m| m.header("te").as_deref() == Some("trailers")),
        },
        Case {
            what: "cookie crumbs",
            bytes: headers(
                1,
                WHOLE,
                &request_with(
                    "GET",
                    "/x",
                    &[("cookie", "a=1"), ("x-a", "1"), ("cookie", "b=2"), ("cookie", "c=3")],
                ),
            ),
            gets: Gets::Status(200),
            sees: Sees::Clean(|m| {
                m.headers.iter().filter(|(n, _)| n == "cookie").count() == 1
                    && m.header("cookie").as_deref() == Some("a=1; b=2; c=3")
            }),
        },
    ]);
}

#[test]
fn lengths_are_true() {
    let post = |length, flags: u8, rest: &[Vec<u8>]| {
        let head = headers(1, flags, &request_with("POST", "/x", &[("content-length", length)]));
        [head, rest.concat()].concat()
    };
    let case = |what, bytes, gets| Case { what, bytes, gets, sees: Sees::Nothing };
    check(vec![
        case("a length and no body", post("5", WHOLE, &[]), malformed()),
        case("a length that is no number", post("x", WHOLE, &[]), malformed()),
        case("a length with a sign", post("+2", END_HEADERS, &[data(1, END_STREAM, b"ab")]), malformed()),
        case("a negative length", post("-1", END_HEADERS, &[data(1, END_STREAM, b"")]), malformed()),
        case("a list of lengths", post("2, 2", END_HEADERS, &[data(1, END_STREAM, b"ab")]), malformed()),
        case(
            "two lengths",
            [
                headers(
                    1,
                    END_HEADERS,
                    &request_with("POST", "/x", &[("content-length", "2"), ("content-length", "3")]),
                ),
                data(1, END_STREAM, b"ab"),
            ]
            .concat(),
            malformed(),
        ),
        case(
            "the same length twice",
            [
                headers(
                    1,
                    END_HEADERS,
                    &request_with("POST", "/x", &[("content-length", "2"), ("content-length", "2")]),
                ),
                data(1, END_STREAM, b"ab"),
            ]
            .concat(),
            Gets::Status(400),
        ),
        Case {
            what: "a true length",
            bytes: post("4", END_HEADERS, &[data(1, 0, b"ab"), data(1, END_STREAM, b"cd")]),
            gets: Gets::Status(200),
            sees: Sees::Clean(|m| m.body == b"abcd" && m.header("content-length").as_deref() == Some("4")),
        },
        Case {
            what: "no length",
            bytes: [headers(1, END_HEADERS, &request("POST", "/x")), data(1, END_STREAM, b"ab")].concat(),
            gets: Gets::Status(200),
            sees: Sees::Clean(|m| m.body == b"ab" && m.header("content-length").is_none()),
        },
    ]);
}

/// The body's fault is seen when the request is on its way already: the application gets a message that is broken off,
/// never one that ends too early or too late.
#[test]
fn a_body_that_is_not_as_long_as_it_says_is_broken_off() {
    let origin = app();
    let weir = File::to(&[origin.address]).start();
    for (what, length, parts) in [
        ("shorter", "9", vec![data(1, END_STREAM, b"short")]),
        ("longer", "3", vec![data(1, 0, b"lo"), data(1, END_STREAM, b"nger")]),
        ("longer in one", "3", vec![data(1, 0, b"longer")]),
        ("longer than nothing", "0", vec![data(1, END_STREAM, b"x")]),
        ("shorter before trailers", "9", vec![data(1, 0, b"short"), headers(1, WHOLE, &[("x-t", "1")])]),
    ] {
        let mut peer = Peer::open(weir.at("inbound"));
        let head = headers(1, END_HEADERS, &request_with("POST", "/x", &[("content-length", length)]));
        peer.send([head, parts.concat()].concat());
        assert_eq!(peer.outcome(1), Outcome::Reset(PROTOCOL_ERROR), "{what}");
        peer.expect_alive(3);
    }
    assert!(origin.seen().iter().all(|m| m.start.contains("/alive")), "{:#?}", origin.seen());
}

#[test]
fn trailers_bring_fields_and_nothing_else() {
    let post = |trailers: &[(&str, &str)], flags| {
        [
            headers(1, END_HEADERS, &request_with("POST", "/x", &[("trailer", "x-t")])),
            data(1, 0, b"body"),
            headers(1, flags, trailers),
        ]
        .concat()
    };
    check(vec![
        Case {
            what: "trailers",
            bytes: post(&[("x-t", "1")], WHOLE),
            gets: Gets::Status(200),
            sees: Sees::Clean(|m| m.body == b"body" && m.trailer("x-t").as_deref() == Some("1")),
        },
        Case {
            what: "a pseudo-field of requests in trailers",
            bytes: post(&[(":path", "/admin"), ("x-t", "1")], WHOLE),
            gets: Gets::Status(200),
            sees: Sees::Clean(|m| m.start == "POST /x HTTP/1.1" && m.trailers.len() == 1),
        },
        Case {
            what: "framing and routing in trailers",
            bytes: post(
                &[("content-length", "99"), ("host", "b.test"), ("authorization", "x"), ("x-t", "1")],
                WHOLE,
            ),
            gets: Gets::Status(200),
            sees: Sees::Clean(|m| m.trailers.len() == 1 && m.trailer("x-t").as_deref() == Some("1")),
        },
    ]);
    let origin = app();
    let weir = File::to(&[origin.address]).start();
    for (what, trailers, flags) in [
        ("trailers that do not end the stream", vec![("x-t", "1")], END_HEADERS),
        ("a field of the connection", vec![("transfer-encoding", "chunked")], WHOLE),
        ("a pseudo-field after a field", vec![("x-t", "1"), (":path", "/")], WHOLE),
    ] {
        let mut peer = Peer::open(weir.at("inbound"));
        peer.send(post(&trailers, flags));
        assert_eq!(peer.outcome(1), Outcome::Reset(PROTOCOL_ERROR), "{what}");
        peer.expect_alive(3);
    }
}

#[test]
fn connect_has_the_form_that_it_is_for() {
    let extended = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":authority", "a.test"),
        (":path", "/chat"),
    ];
    let without = |name: &str| extended.iter().copied().filter(|(n, _)| *n != name).collect::<Vec<_>>();
    check(vec![
        whole("CONNECT with :scheme and :path", &without(":protocol"), malformed()),
        whole(
            "CONNECT with :path",
            &[(":method", "CONNECT"), (":authority", "a.test:1"), (":path", "/")],
            malformed(),
        ),
        whole("CONNECT without an authority", &[(":method", "CONNECT")], Gets::Status(400)),
        whole(
            "CONNECT without a port",
            &[(":method", "CONNECT"), (":authority", "a.test")],
            Gets::Status(400),
        ),
        whole("extended CONNECT without :scheme", &without(":scheme"), malformed()),
        whole("extended CONNECT without :path", &without(":path"), malformed()),
        whole("extended CONNECT without an authority", &without(":authority"), Gets::Status(400)),
    ]);
}

#[test]
fn heads_within_bounds() {
    let large = "x".repeat(70 << 10);
    let many: Vec<(String, String)> = (0..120).map(|n| (format!("x-{n}"), "1".into())).collect();
    let crumbs: Vec<(&str, &str)> = vec![("cookie", "a=1"); 120];
    let mut numerous = request("GET", "/x");
    numerous.extend(many.iter().map(|(n, v)| (n.as_str(), v.as_str())));
    let split = |fields: &[(&str, &str)]| {
        let block = block(fields);
        let parts: Vec<_> = block.chunks(16_000).collect();
        let mut bytes = frame(HEADERS, END_STREAM, 1, parts[0]);
        for (n, part) in parts.iter().enumerate().skip(1) {
            let flags = if n + 1 == parts.len() { END_HEADERS } else { 0 };
            bytes.extend(frame(CONTINUATION, flags, 1, part));
        }
        bytes
    };
    let too_large = |what, bytes| Case { what, bytes, gets: Gets::Status(431), sees: Sees::Nothing };
    check(vec![
        too_large("a value beyond max_header_bytes", split(&request_with("GET", "/x", &[("x-a", &large)]))),
        too_large(
            "a path beyond max_header_bytes",
            split(&request_with("GET", &format!("/{}", "y".repeat(60_000)), &[("x-a", &"x".repeat(8_000))])),
        ),
        too_large("more fields than max_headers", headers(1, WHOLE, &numerous)),
        too_large("more crumbs than max_headers", headers(1, WHOLE, &request_with("GET", "/x", &crumbs))),
        too_large(
            "a value beyond twice the bound",
            split(&request_with("GET", "/x", &[("x-a", &large.repeat(2))])),
        ),
    ]);
}

/// A body beyond `max_body` is refused by its length, or where it passes the bound; other streams go on.
#[test]
fn a_body_within_bounds() {
    let origin = app();
    let weir = File::to(&[origin.address]).route("max_body: 10").start();
    let mut peer = Peer::open(weir.at("inbound"));
    peer.send(headers(1, END_HEADERS, &request_with("POST", "/x", &[("content-length", "11")])));
    assert_eq!(peer.outcome(1).status(), Some(413));
    peer.send(headers(3, END_HEADERS, &request("POST", "/x")));
    peer.send([data(3, 0, b"12345678"), data(3, END_STREAM, b"90123")].concat());
    assert_eq!(peer.outcome(3).status(), Some(413));
    peer.expect_alive(5);
    assert!(origin.seen().iter().all(|m| m.start.contains("/alive")), "{:#?}", origin.seen());
}

/// hyper takes a CONNECT with a length for a reason to drop the whole connection. No other stream is harmed silently:
/// all of them see the end.
#[test]
fn connect_with_a_length_ends_its_connection() {
    let origin = app();
    let weir: Weir = File::to(&[origin.address]).start();
    let mut peer = Peer::open(weir.at("inbound"));
    let fields = [(":method", "CONNECT"), (":authority", "a.test:1"), ("content-length", "5")];
    peer.send(headers(1, END_HEADERS, &fields));
    assert!(matches!(peer.outcome(1), Outcome::Closed | Outcome::Reset(_)));
    assert_eq!(origin.seen().len(), 0);
    Peer::open(weir.at("inbound")).expect_alive(1);
}
