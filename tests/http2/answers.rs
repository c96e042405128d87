//! Answers of an HTTP/2 endpoint that are not as they must be: the client gets 502, or the end of its stream where
//! the answer had begun; its connection goes on, and so do other requests to the endpoint.

use crate::support::{
    frames::*,
    metrics::Metrics,
    weir::{File, Weir},
};

/// What the client gets.
#[derive(Debug, PartialEq, Eq)]
enum Gets {
    /// 502 with this reason.
    Error(&'static str),
    /// The answer's head, and then `RST_STREAM`.
    BrokenOff,
    /// This status and body, cleaned.
    Clean(u16, &'static str),
}

fn ok_with(stream: u32, flags: u8, more: &[(&str, &str)]) -> Vec<u8> {
    let mut fields = vec![(":status", "200")];
    fields.extend_from_slice(more);
    headers(stream, flags, &fields)
}

fn check(
    what: &str,
    gets: &Gets,
    answer: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static,
) -> Result<(), String> {
    check_method("GET", what, gets, answer)
}

fn check_method(
    method: &str,
    what: &str,
    gets: &Gets,
    answer: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static,
) -> Result<(), String> {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let origin =
        FrameOrigin::answering(move |stream| match count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => answer(stream),
            _ => headers(stream, WHOLE, &[(":status", "200")]),
        });
    let weir = File::to(&[origin.address]).upstream("protocol: http2").start();
    let mut peer = Peer::open(weir.at("inbound"));
    peer.send(headers(1, WHOLE, &request(method, "/x")));
    let outcome = peer.outcome(1);
    let fine = match (gets, &outcome) {
        (Gets::Error(reason), Outcome::Answer(answer)) => {
            answer.status() == 502 && (method == "HEAD" || answer.text().contains(reason))
        }
        (Gets::BrokenOff, Outcome::Reset(_)) => true,
        (Gets::Clean(status, body), Outcome::Answer(answer)) => {
            answer.status() == *status
                && answer.text() == *body
                && answer.headers.iter().chain(&answer.trailers).all(|(name, _)| {
                    !["connection", "keep-alive", "transfer-encoding", "upgrade"].contains(&name.as_str())
                })
                && answer.trailers.iter().all(|(name, _)| !name.starts_with(':'))
        }
        _ => false,
    };
    peer.expect_alive(3);
    if fine { Ok(()) } else { Err(format!("{what}: should get {gets:?}, got {outcome:?}")) }
}

fn all_fine(results: impl IntoIterator<Item = Result<(), String>>) {
    let wrong: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const PROTOCOL: Gets = Gets::Error("upstream_protocol");

#[test]
fn heads() {
    all_fine([
        check("no :status", &PROTOCOL, |s| headers(s, WHOLE, &[("x-a", "1")])),
        check("a :status that is no number", &PROTOCOL, |s| headers(s, WHOLE, &[(":status", "abc")])),
        check("a :status of four digits", &PROTOCOL, |s| headers(s, WHOLE, &[(":status", "2000")])),
        check("a :status below 100", &PROTOCOL, |s| headers(s, WHOLE, &[(":status", "099")])),
        check(":status twice", &PROTOCOL, |s| headers(s, WHOLE, &[(":status", "200"), (":status", "200")])),
        check(":status after a field", &PROTOCOL, |s| headers(s, WHOLE, &[("x-a", "1"), (":status", "200")])),
        check("a pseudo-field of requests", &Gets::Clean(200, ""), |s| ok_with(s, WHOLE, &[(":path", "/")])),
        check("an unknown pseudo-field", &PROTOCOL, |s| ok_with(s, WHOLE, &[(":x", "1")])),
        check("a name in capitals", &PROTOCOL, |s| ok_with(s, WHOLE, &[("X-A", "1")])),
        check("connection", &PROTOCOL, |s| ok_with(s, WHOLE, &[("connection", "close")])),
        check("transfer-encoding", &PROTOCOL, |s| ok_with(s, WHOLE, &[("transfer-encoding", "chunked")])),
        check("upgrade", &PROTOCOL, |s| ok_with(s, WHOLE, &[("upgrade", "h2c")])),
        check("a value with a line end", &PROTOCOL, |s| {
            ok_with(s, WHOLE, &[("x-a", "1\r\nset-cookie: evil")])
        }),
        check("a value that begins with a space", &PROTOCOL, |s| ok_with(s, WHOLE, &[("x-a", " 1")])),
        check("101", &PROTOCOL, |s| headers(s, WHOLE, &[(":status", "101")])),
        check("an interim answer that ends the stream", &PROTOCOL, |s| {
            headers(s, WHOLE, &[(":status", "103")])
        }),
        check("more fields than max_headers", &PROTOCOL, |s| {
            let many: Vec<_> = (0..150).map(|n| (format!("x-{n}"), "1")).collect();
            let many: Vec<_> = many.iter().map(|(n, v)| (n.as_str(), *v)).collect();
            ok_with(s, WHOLE, &many)
        }),
        check("a head beyond max_header_bytes", &PROTOCOL, |s| {
            let block = block(&[(":status", "200"), ("x-a", &"x".repeat(70 << 10))]);
            let parts: Vec<_> = block.chunks(16_000).collect();
            let last = parts.len() - 1;
            let mut bytes = frame(HEADERS, END_STREAM, s, parts[0]);
            for (n, part) in parts.iter().enumerate().skip(1) {
                bytes.extend(frame(CONTINUATION, if n == last { END_HEADERS } else { 0 }, s, part));
            }
            bytes
        }),
    ]);
}

#[test]
fn bodies() {
    all_fine([
        check("a length that is no number", &PROTOCOL, |s| ok_with(s, WHOLE, &[("content-length", "x")])),
        check("two lengths", &PROTOCOL, |s| {
            ok_with(s, WHOLE, &[("content-length", "1"), ("content-length", "2")])
        }),
        check("a length and no body", &PROTOCOL, |s| ok_with(s, WHOLE, &[("content-length", "5")])),
        check("DATA before the head", &PROTOCOL, |s| data(s, END_STREAM, b"early")),
        check("shorter than its length", &Gets::BrokenOff, |s| {
            [ok_with(s, END_HEADERS, &[("content-length", "9")]), data(s, END_STREAM, b"short")].concat()
        }),
        check("a second head", &Gets::BrokenOff, |s| {
            [ok_with(s, END_HEADERS, &[]), data(s, 0, b"x"), ok_with(s, END_HEADERS, &[])].concat()
        }),
        check("reset in the middle", &Gets::BrokenOff, |s| {
            [ok_with(s, END_HEADERS, &[]), data(s, 0, b"x"), reset(s, INTERNAL_ERROR)].concat()
        }),
        check("a pseudo-field in trailers", &Gets::Clean(200, "x"), |s| {
            [
                ok_with(s, END_HEADERS, &[]),
                data(s, 0, b"x"),
                headers(s, WHOLE, &[(":status", "500"), ("x-t", "1")]),
            ]
            .concat()
        }),
        check("after the end", &Gets::Clean(200, "x"), |s| {
            [
                ok_with(s, END_HEADERS, &[("content-length", "1")]),
                data(s, END_STREAM, b"x"),
                data(s, END_STREAM, b"y"),
            ]
            .concat()
        }),
        check("204 with a body", &Gets::BrokenOff, |s| {
            [headers(s, END_HEADERS, &[(":status", "204")]), data(s, END_STREAM, b"x")].concat()
        }),
        check("304 with a body", &Gets::BrokenOff, |s| {
            [headers(s, END_HEADERS, &[(":status", "304")]), data(s, END_STREAM, b"x")].concat()
        }),
        check_method("HEAD", "HEAD with a body", &Gets::BrokenOff, |s| {
            [ok_with(s, END_HEADERS, &[]), data(s, END_STREAM, b"x")].concat()
        }),
        check_method("HEAD", "HEAD with the length of what a GET would get", &Gets::Clean(200, ""), |s| {
            ok_with(s, WHOLE, &[("content-length", "9")])
        }),
    ]);
}

#[test]
fn the_endpoints_connection() {
    all_fine([
        check("PUSH_PROMISE, which is turned off", &Gets::Error("upstream_"), |s| {
            let promise = [&2_u32.to_be_bytes()[..], &block(&request("GET", "/pushed"))].concat();
            frame(PUSH_PROMISE, END_HEADERS, s, &promise)
        }),
        check("a frame larger than it may be", &Gets::Error("upstream_"), |s| {
            frame(HEADERS, WHOLE, s, &vec![0; 17_000])
        }),
        check("a head that HPACK cannot read", &Gets::Error("upstream_"), |s| {
            frame(HEADERS, WHOLE, s, &[0x80])
        }),
        check("an answer on a stream that nobody began", &Gets::Error("upstream_"), |s| {
            headers(s + 100, WHOLE, &[(":status", "200")])
        }),
        check("a head that never ends", &Gets::Error("upstream_"), |s| {
            let mut bytes = frame(HEADERS, 0, s, &block(&[(":status", "200")]));
            for _ in 0..2_000 {
                bytes.extend(frame(CONTINUATION, 0, s, &block(&[("x-a", "1")])));
            }
            bytes
        }),
        check("GOAWAY that has not seen the request", &Gets::Error("upstream_"), |_| {
            frame(GOAWAY, 0, 0, &[[0; 4], INTERNAL_ERROR.to_be_bytes()].concat())
        }),
    ]);
}

/// An endpoint's broken answer is its own failure, and is counted as what it is.
#[test]
fn a_broken_answer_is_counted() {
    let origin = FrameOrigin::answering(|s| headers(s, WHOLE, &[(":status", "200"), ("x-a", " 1")]));
    let weir: Weir = File::to(&[origin.address]).upstream("protocol: http2").start();
    let mut peer = Peer::open(weir.at("inbound"));
    peer.send(headers(1, WHOLE, &request("GET", "/x")));
    assert_eq!(peer.outcome(1).status(), Some(502));
    weir.wait_metric("weir_attempts_total", &[("outcome", "protocol_error")], 1.0);
    let metrics: Metrics = weir.metrics();
    assert!(
        (metrics.sum("weir_responses_made_total", &[("reason", "upstream_protocol")]) - 1.0).abs() < 1e-9
    );
    assert_eq!(origin.seen().len(), 1);
}
