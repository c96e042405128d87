use proptest::prelude::*;

use super::{Asked, Fault, Fed, Framer, Stop};

const MAX_LINE: usize = 4096;

/// Where a framer stopped, and why.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    passed: usize,
    stop: Option<Stop>,
}

fn read(framer: &mut Framer, bytes: &[u8]) -> Read {
    let Fed { passed, stop, .. } = framer.feed(bytes);
    Read { passed, stop }
}

/// Where the framer stopped and why, when it is fed `bytes` in the pieces that `cuts` make.
fn fed(mut framer: Framer, asked: Option<Asked>, bytes: &[u8], cuts: &[usize]) -> Read {
    if let Some(asked) = asked {
        framer.expect(asked);
    }
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    for pair in cuts.windows(2) {
        let mut at = pair[0];
        while at < pair[1] {
            let Fed { passed, stop, .. } = framer.feed(&bytes[at..pair[1]]);
            at += passed;
            match stop {
                None => assert_eq!(at, pair[1], "without a reason to stop, all of it passes"),
                Some(Stop::Fork) => {}
                stop => return Read { passed: at, stop },
            }
        }
    }
    Read { passed: bytes.len(), stop: None }
}

fn request(text: &str) -> Option<Stop> {
    fed(Framer::requests(MAX_LINE), None, text.as_bytes(), &[]).stop
}

fn answer(asked: Asked, text: &str) -> Option<Stop> {
    fed(Framer::answers(MAX_LINE), Some(asked), text.as_bytes(), &[]).stop
}

const NEXT: &str = "GET /next HTTP/1.1\r\nhost: a\r\n\r\n";

#[test]
fn heads_of_requests() {
    use Fault as F;
    for (text, wanted) in [
        ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", None),
        ("GET / HTTP/1.0\r\n\r\n", None),
        ("\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", None),
        ("\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", Some(F::EmptyLines)),
        ("\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", Some(F::BareLf)),
        ("GET / HTTP/1.1\nhost: a\r\n\r\n", Some(F::BareLf)),
        ("GET / HTTP/1.1\r\nhost: a\n\r\n", Some(F::BareLf)),
        ("GET / HTTP/1.1\r\nhost: a\r\n\n", Some(F::BareLf)),
        ("GET / HTTP/1.1\r\nhost: a\r\r\n\r\n", Some(F::BareCr)),
        ("GET / HTTP/1.1\r\nx: a\rb\r\n\r\n", Some(F::BareCr)),
        ("GET /\r HTTP/1.1\r\nhost: a\r\n\r\n", Some(F::BareCr)),
        ("GET / HTTP/1.1\r\r\nhost: a\r\n\r\n", Some(F::BareCr)),
        ("GET / HTTP/1.1\r\nx: a\0b\r\n\r\n", Some(F::Control)),
        ("GET / HTTP/1.1\r\nx: a\u{7f}\r\n\r\n", Some(F::Control)),
        ("GET / HTTP/1.1\r\nx\0: a\r\n\r\n", Some(F::Control)),
        ("GET /\0 HTTP/1.1\r\nx: a\r\n\r\n", Some(F::Control)),
        ("G\0T / HTTP/1.1\r\nx: a\r\n\r\n", Some(F::Control)),
        ("GET / HTTP/1.1\r\nx: a\tb \u{e4}\r\n\r\n", None),
        ("GET / HTTP/1.1\r\nx: a\r\n b\r\n\r\n", Some(F::Folded)),
        ("GET / HTTP/1.1\r\nx: a\r\n\tb\r\n\r\n", Some(F::Folded)),
        ("GET / HTTP/1.1\r\n x: a\r\n\r\n", Some(F::Folded)),
        (" GET / HTTP/1.1\r\nx: a\r\n\r\n", Some(F::Folded)),
        ("GET / HTTP/1.1\r\nx : a\r\n\r\n", Some(F::SpaceBeforeColon)),
        ("GET / HTTP/1.1\r\nx\t: a\r\n\r\n", Some(F::SpaceBeforeColon)),
        ("GET / HTTP/1.1\r\nx y: a\r\n\r\n", Some(F::Name)),
        ("GET / HTTP/1.1\r\n: a\r\n\r\n", Some(F::Name)),
        ("GET / HTTP/1.1\r\nx\r\n\r\n", Some(F::Name)),
        ("GET / HTTP/1.1\r\nx@y: a\r\n\r\n", Some(F::Name)),
        ("GET / HTTP/1.1\r\n\u{e4}: a\r\n\r\n", Some(F::Name)),
        ("GET / HTTP/1.1\r\ncontent_length: 5\r\n\r\n", Some(F::LookAlike)),
        ("GET / HTTP/1.1\r\nTransfer_Encoding: chunked\r\n\r\n", Some(F::LookAlike)),
        ("GET / HTTP/1.1\r\ncontent-lengty: 5\r\n\r\n", None),
        ("GET  / HTTP/1.1\r\nx: a\r\n\r\n", Some(F::Target)),
        ("GET /  HTTP/1.1\r\nx: a\r\n\r\n", Some(F::Target)),
        ("GET /a b HTTP/1.1\r\nx: a\r\n\r\n", Some(F::Target)),
        ("GET /a#b HTTP/1.1\r\nx: a\r\n\r\n", Some(F::Target)),
        ("GET /\u{e4} HTTP/1.1\r\nx: a\r\n\r\n", Some(F::Target)),
        ("GET\t/ HTTP/1.1\r\nx: a\r\n\r\n", Some(F::RequestLine)),
        ("GET  HTTP/1.1\r\nx: a\r\n\r\n", Some(F::RequestLine)),
        ("GET HTTP/1.1\r\nx: a\r\n\r\n", Some(F::RequestLine)),
        ("GET /\r\nx: a\r\n\r\n", Some(F::RequestLine)),
        ("GET\r\n\r\n", Some(F::RequestLine)),
        (" / HTTP/1.1\r\n\r\n", Some(F::Folded)),
        ("G@T / HTTP/1.1\r\n\r\n", Some(F::RequestLine)),
        ("GET / HTTP/1.1 \r\n\r\n", Some(F::RequestLine)),
        ("GET / HTTP/1.2\r\n\r\n", Some(F::Version)),
        ("GET / HTTP/0.9\r\n\r\n", Some(F::Version)),
        ("GET / HTTP/2.0\r\n\r\n", Some(F::Version)),
        ("GET / HTTP/1.10\r\n\r\n", Some(F::Version)),
        ("GET / HTTP/01.1\r\n\r\n", Some(F::Version)),
        ("GET / http/1.1\r\n\r\n", Some(F::RequestLine)),
    ] {
        let stop = request(text);
        if !left_to_the_parser(false, text, stop, wanted) {
            assert_eq!(stop, wanted.map(Stop::Refuse), "{text:?}");
        }
    }
}

/// Whether a field that does not matter for framing is wrong, and the parser behind the framer says so.
fn left_to_the_parser(answers: bool, text: &str, stop: Option<Stop>, wanted: Option<Fault>) -> bool {
    use Fault as F;
    let about_text = matches!(wanted, Some(F::Control | F::BareCr | F::Name | F::SpaceBeforeColon));
    about_text && stop.is_none() && httparse_end(answers, text.as_bytes()).is_none()
}

#[test]
fn lengths_of_requests() {
    use Fault as F;
    for (fields, wanted) in [
        ("content-length: 2\r\n", None),
        ("Content-Length:2\t \r\n", None),
        ("content-length: 0\r\n", None),
        ("content-length:\r\n", Some(F::ContentLength)),
        ("content-length: +2\r\n", Some(F::ContentLength)),
        ("content-length: -2\r\n", Some(F::ContentLength)),
        ("content-length: 0x2\r\n", Some(F::ContentLength)),
        ("content-length: 2 2\r\n", Some(F::ContentLength)),
        ("content-length: 2, 2\r\n", Some(F::ContentLength)),
        ("content-length: 2\r\ncontent-length: 2\r\n", Some(F::ContentLength)),
        ("content-length: 0\r\ncontent-length: 2\r\n", Some(F::ContentLength)),
        ("content-length: 02\r\n", Some(F::ContentLength)),
        ("content-length: 9223372036854775807\r\n", None),
        ("content-length: 9223372036854775808\r\n", Some(F::ContentLength)),
        ("content-length: 99999999999999999999\r\n", Some(F::ContentLength)),
        ("content-length: \u{b2}\r\n", Some(F::ContentLength)),
        ("transfer-encoding: chunked, chunked\r\n", Some(F::TransferEncoding)),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", Some(F::TransferEncoding)),
        ("transfer-encoding: gzip, chunked\r\n", Some(F::TransferEncoding)),
        ("transfer-encoding: identity\r\n", Some(F::TransferEncoding)),
        ("transfer-encoding: xchunked\r\n", Some(F::TransferEncoding)),
        ("transfer-encoding: \"chunked\"\r\n", Some(F::TransferEncoding)),
        ("transfer-encoding: chunked;q=1\r\n", Some(F::TransferEncoding)),
        ("transfer-encoding:\r\n", Some(F::TransferEncoding)),
        ("transfer-encoding: chunked\r\ncontent-length: 2\r\n", Some(F::BothLengths)),
        ("content-length: 0\r\ntransfer-encoding: chunked\r\n", Some(F::BothLengths)),
    ] {
        let text = format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
        assert_eq!(request(&text), wanted.map(Stop::Refuse), "{fields:?}");
    }
    let old = "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n";
    assert_eq!(request(old), Some(Stop::Refuse(F::TransferEncodingVersion)));
}

#[test]
fn chunks() {
    use Fault as F;
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(Framer::MAX_EXTENSIONS + 1));
    for (body, wanted) in [
        ("0\r\n\r\n", None),
        ("5\r\nhello\r\n0\r\n\r\n", None),
        ("5;a=b;c\r\nhello\r\n000\r\nx: y\r\n\r\n", None),
        ("A\r\n0123456789\r\n0\r\n\r\n", None),
        ("\r\n0\r\n\r\n", Some(F::ChunkSize)),
        ("+5\r\nhello\r\n0\r\n\r\n", Some(F::ChunkSize)),
        ("-5\r\nhello\r\n0\r\n\r\n", Some(F::ChunkSize)),
        ("0x5\r\nhello\r\n0\r\n\r\n", Some(F::ChunkSize)),
        (" 5\r\nhello\r\n0\r\n\r\n", Some(F::ChunkSize)),
        ("5 \r\nhello\r\n0\r\n\r\n", Some(F::ChunkSize)),
        ("5 ;a\r\nhello\r\n0\r\n\r\n", Some(F::ChunkSize)),
        ("g\r\nhello\r\n0\r\n\r\n", Some(F::ChunkSize)),
        ("00000000000000005\r\nhello\r\n0\r\n\r\n", Some(F::ChunkSize)),
        ("8000000000000000\r\nhello\r\n0\r\n\r\n", Some(F::ChunkSize)),
        ("10000000000000005\r\nhello\r\n0\r\n\r\n", Some(F::ChunkSize)),
        ("5\nhello\r\n0\r\n\r\n", Some(F::BareLf)),
        ("5;a\nb\r\nhello\r\n0\r\n\r\n", Some(F::BareLf)),
        ("5;a\rb\r\nhello\r\n0\r\n\r\n", Some(F::ChunkExtension)),
        ("5;a\0\r\nhello\r\n0\r\n\r\n", Some(F::ChunkExtension)),
        (long.as_str(), Some(F::ChunkExtension)),
        ("5\r\nhello0\r\n\r\n", Some(F::ChunkEnd)),
        ("5\r\nhello\n0\r\n\r\n", Some(F::ChunkEnd)),
        ("5\r\nhello\r0\r\n\r\n", Some(F::ChunkEnd)),
        ("5\r\nhello!\r\n0\r\n\r\n", Some(F::ChunkEnd)),
        ("0\r\nx: y\n\r\n", Some(F::BareLf)),
        ("0\r\nx : y\r\n\r\n", Some(F::SpaceBeforeColon)),
        ("0\r\n x: y\r\n\r\n", Some(F::Folded)),
        ("0\r\nx: \0\r\n\r\n", Some(F::Control)),
        ("0\r\n\n", Some(F::BareLf)),
        ("0\r\nGET / HTTP/1.1\r\n\r\n", Some(F::Name)),
    ] {
        let text = format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{body}{NEXT}");
        assert_eq!(request(&text), wanted.map(Stop::Break), "{body:?}");
    }
}

#[test]
fn what_comes_after_a_message_is_the_next() {
    let posted = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";
    let broken = " / HTTP/1.1\r\n\r\n";
    let text = format!("{NEXT}{posted}\r\n{NEXT}");
    assert_eq!(request(&text), None, "an empty line after a body is an old habit");
    for good in [NEXT, posted] {
        let text = format!("{good}{broken}");
        let fed = fed(Framer::requests(MAX_LINE), None, text.as_bytes(), &[]);
        assert_eq!(fed, Read { passed: good.len(), stop: Some(Stop::Refuse(Fault::Folded)) });
    }
}

#[test]
fn a_request_that_may_end_http_stops_the_framer_once() {
    for asks in [
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        let mut framer = Framer::requests(MAX_LINE);
        let bytes = format!("{asks}{NEXT}");
        assert_eq!(read(&mut framer, bytes.as_bytes()), Read { passed: asks.len(), stop: Some(Stop::Fork) });
        assert_eq!(read(&mut framer, NEXT.as_bytes()), Read { passed: NEXT.len(), stop: None });
    }
    assert_eq!(request("GET / HTTP/1.0\r\nupgrade: x\r\n\r\n"), None, "HTTP/1.0 has no upgrades");
}

#[test]
fn answers() {
    use Fault as F;
    let (get, head, connect) = (Asked::Other, Asked::Head, Asked::Connect);
    let after = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    for (asked, text, wanted) in [
        (get, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", None),
        (get, "HTTP/1.1 200\r\ncontent-length: 02\r\n\r\nok", None),
        (get, "HTTP/1.0 200 OK\r\n\r\nanything\0\n", None),
        (get, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", None),
        (get, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", None),
        (get, "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n\0\n\0", None),
        (connect, "HTTP/1.1 200 OK\r\n\r\n\0\n\0", None),
        (connect, "HTTP/1.1 404 No\r\ncontent-length: 2\r\n\r\nno", None),
        (head, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", None),
        (head, "HTTP/1.1 304 OK\r\ntransfer-encoding: chunked\r\n\r\n", None),
        (get, "HTTP/1.1 304 OK\r\ncontent-length: 2\r\n\r\n", None),
        (get, "HTTP/1.1 204 OK\r\ncontent-length: 0\r\n\r\n", None),
        (get, "HTTP/1.1 204 OK\r\ncontent-length: 2\r\n\r\n", Some(Stop::Close)),
        (get, "HTTP/1.1 204 OK\r\ntransfer-encoding: chunked\r\n\r\n", Some(Stop::Close)),
        (get, "HTTP/1.1 304 OK\r\ntransfer-encoding: chunked\r\n\r\n", Some(Stop::Close)),
        (head, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Some(Stop::Refuse(F::Unasked))),
        (get, "HTTP/1.1 204 OK\r\n\r\nok", Some(Stop::Refuse(F::Unasked))),
        (get, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok!", Some(Stop::Refuse(F::Unasked))),
        (get, &format!("{after}{after}"), Some(Stop::Refuse(F::Unasked))),
        (get, "\r\nHTTP/1.1 200 OK\r\n\r\n", Some(Stop::Refuse(F::EmptyLines))),
        (get, "HTTP/1.1 200 OK\n\r\n", Some(Stop::Refuse(F::BareLf))),
        (get, "HTTP/1.1 200 OK\r\nx: y\n\r\n", Some(Stop::Refuse(F::BareLf))),
        (get, "HTTP/1.1 200 O\0K\r\n\r\n", Some(Stop::Refuse(F::Control))),
        (get, "HTTP/1.1 200 O\rK\r\n\r\n", Some(Stop::Refuse(F::BareCr))),
        (get, "HTTP/1.1 2000 OK\r\n\r\n", Some(Stop::Refuse(F::StatusLine))),
        (get, "HTTP/1.1 20 OK\r\n\r\n", Some(Stop::Refuse(F::StatusLine))),
        (get, "HTTP/1.1 000 OK\r\n\r\n", Some(Stop::Refuse(F::StatusLine))),
        (get, "HTTP/1.1  200 OK\r\n\r\n", Some(Stop::Refuse(F::StatusLine))),
        (get, "HTTP/1.1\t200 OK\r\n\r\n", Some(Stop::Refuse(F::Version))),
        (get, "HTTP/1.2 200 OK\r\n\r\n", Some(Stop::Refuse(F::Version))),
        (get, "HTTP/2 200\r\n\r\n", Some(Stop::Refuse(F::Version))),
        (get, "ICY 200 OK\r\n\r\n", Some(Stop::Refuse(F::StatusLine))),
        (get, "HTTP/1.1 200 OK\r\nx: y\r\n z\r\n\r\n", Some(Stop::Refuse(F::Folded))),
        (get, "HTTP/1.1 200 OK\r\nx : y\r\n\r\n", Some(Stop::Refuse(F::SpaceBeforeColon))),
        (
            get,
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            Some(Stop::Refuse(F::BothLengths)),
        ),
        (
            get,
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            Some(Stop::Refuse(F::TransferEncodingVersion)),
        ),
        (get, "HTTP/1.1 103 Hints\r\ncontent-length: 1\r\n\r\n", Some(Stop::Refuse(F::InterimLength))),
        (
            get,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\nok\r\n0\r\n\r\n",
            Some(Stop::Break(F::BareLf)),
        ),
    ] {
        let stop = answer(asked, text);
        let fault = wanted.and_then(|stop| if let Stop::Refuse(fault) = stop { Some(fault) } else { None });
        if !left_to_the_parser(true, text, stop, fault) {
            assert_eq!(stop, wanted, "{asked:?} {text:?}");
        }
    }
    let storm = "HTTP/1.1 102 Processing\r\n\r\n".repeat(Framer::MAX_INTERIM as usize);
    assert_eq!(answer(get, &format!("{storm}{after}")), None);
    let storm = format!("{storm}HTTP/1.1 103 Early Hints\r\n\r\n{after}");
    assert_eq!(answer(get, &storm), Some(Stop::Refuse(F::InterimStorm)));
}

#[test]
fn the_message_that_was_read_last_has_a_beginning() {
    let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let begun = |pieces: &[String]| {
        let mut framer = Framer::requests(MAX_LINE);
        pieces.iter().map(|piece| framer.feed(piece.as_bytes()).begun).collect::<Vec<_>>()
    };
    assert_eq!(begun(&[format!("{head}x")]), [Some(0)]);
    assert_eq!(begun(&[format!("{NEXT}{head}x")]), [Some(NEXT.len())]);
    assert_eq!(begun(&[head.to_owned(), "x".to_owned()]), [Some(0), None], "its head has passed");
    assert_eq!(begun(&[head[..30].to_owned(), head[30..].to_owned()]), [Some(0), Some(0)]);
    assert_eq!(begun(&[head.to_owned(), format!("0\r\n\r\n{head}x")]), [Some(0), Some(5)]);
}

#[test]
fn an_answer_needs_a_request_each() {
    let mut framer = Framer::answers(MAX_LINE);
    let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    assert_eq!(framer.feed(b"").stop, None);
    for _ in 0..3 {
        framer.expect(Asked::Other);
        assert_eq!(read(&mut framer, whole), Read { passed: whole.len(), stop: None });
    }
    assert_eq!(read(&mut framer, b"H"), Read { passed: 0, stop: Some(Stop::Refuse(Fault::Unasked)) });
    framer.expect(Asked::Other);
    assert_eq!(framer.feed(whole).passed, 0, "what it refused once stays refused");
}

#[test]
fn a_line_has_a_bound_however_it_comes() {
    let head = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(MAX_LINE));
    assert_eq!(request(&head), Some(Stop::Refuse(Fault::TooLong)));
    let cuts: Vec<usize> = (0..head.len()).step_by(100).collect();
    let cut = fed(Framer::requests(MAX_LINE), None, head.as_bytes(), &cuts).stop;
    assert_eq!(cut, Some(Stop::Refuse(Fault::TooLong)));
}

/// Requests and answers out of parts that are mostly right, so that all states are reached.
fn messages(first: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let fields = prop::sample::select(vec![
        "host: a\r\n",
        "x: y\r\n",
        "content-length: 3\r\n",
        "transfer-encoding: chunked\r\n",
        "x : y\r\n",
        "x: y\n",
        " x\r\n",
        "upgrade: x\r\n",
        "x: \0\r\n",
    ]);
    let body = prop::sample::select(vec![
        "",
        "abc",
        "3\r\nabc\r\n0\r\n\r\n",
        "3;x\r\nabc\r\n0\r\nt: 1\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "abcd",
        "\r\n",
    ]);
    let one = (prop::sample::select(first), prop::collection::vec(fields, 0..3), body)
        .prop_map(|(first, fields, body)| format!("{first}{}\r\n{body}", fields.concat()).into_bytes());
    let noise = prop::collection::vec(any::<u8>(), 0..20);
    prop::collection::vec(prop_oneof![9 => one, 1 => noise], 1..4).prop_map(|messages| messages.concat())
}

proptest! {
    #[test]
    fn requests_may_be_cut_anywhere(
        bytes in messages(&["GET / HTTP/1.1\r\n", "POST /x HTTP/1.1\r\n", "GET / HTTP/1.0\r\n", "CONNECT a:1 HTTP/1.1\r\n"]),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        let whole = fed(Framer::requests(MAX_LINE), None, &bytes, &[]);
        let every: Vec<usize> = (0..bytes.len()).collect();
        for cuts in [&cuts, &every] {
            let cut = fed(Framer::requests(MAX_LINE), None, &bytes, cuts);
            prop_assert_eq!(cut.stop, whole.stop);
            // What is refused in a line that was cut has partly passed by then, and never all of the line.
            prop_assert!(cut.passed >= whole.passed);
            prop_assert!(!bytes[whole.passed..cut.passed].contains(&b'\n') || cut.stop.is_none());
        }
    }

    #[test]
    fn answers_may_be_cut_anywhere(
        bytes in messages(&["HTTP/1.1 200 OK\r\n", "HTTP/1.1 204\r\n", "HTTP/1.1 100 Continue\r\n", "HTTP/1.0 304 Not\r\n", "HTTP/1.1 101 S\r\n"]),
        asked in prop::sample::select(vec![Asked::Other, Asked::Head, Asked::Connect]),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
    ) {
        let whole = fed(Framer::answers(MAX_LINE), Some(asked), &bytes, &[]);
        let every: Vec<usize> = (0..bytes.len()).collect();
        for cuts in [&cuts, &every] {
            let cut = fed(Framer::answers(MAX_LINE), Some(asked), &bytes, cuts);
            prop_assert_eq!(cut.stop, whole.stop);
            prop_assert!(cut.passed >= whole.passed);
            prop_assert!(!bytes[whole.passed..cut.passed].contains(&b'\n') || cut.stop.is_none());
        }
    }

    #[test]
    fn anything_at_all_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = fed(Framer::requests(MAX_LINE), None, &bytes, &[]);
        let _ = fed(Framer::answers(MAX_LINE), Some(Asked::Other), &bytes, &[]);
    }
}

/// What hyper's parser makes of a head: where it ends.
fn httparse_end(answers: bool, bytes: &[u8]) -> Option<usize> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let parsed = if answers {
        httparse::Response::new(&mut fields).parse(bytes)
    } else {
        httparse::Request::new(&mut fields).parse(bytes)
    };
    match parsed {
        Ok(httparse::Status::Complete(n)) => Some(n),
        _ => None,
    }
}

/// A token, and text without white space around it.
const NAME: &str = "[a-zA-Z][a-zA-Z0-9!#$%&'*+.^`|~-]{0,12}";
const TEXT: &str = "([!-~\u{e4}]([!-~ \t]{0,20}[!-~])?)?";

proptest! {
    #[test]
    fn valid_requests_end_where_hyper_has_them_end(
        method in "[A-Z]{1,8}",
        target in "/[a-zA-Z0-9/?&=%.:@!$'()*+,;~_-]{0,30}",
        minor in 0..2,
        fields in prop::collection::vec((NAME, TEXT), 0..8),
        body in prop::option::of(prop::collection::vec(any::<u8>(), 0..30)),
    ) {
        let fields = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<Vec<_>>().concat();
        prop_assume!(method != "CONNECT" && !fields.to_lowercase().contains("upgrade"));
        let length = body.as_ref().map(|body| format!("content-length: {}\r\n", body.len())).unwrap_or_default();
        let head = format!("{method} {target} HTTP/1.{minor}\r\n{fields}{length}\r\n");
        let mut bytes = head.clone().into_bytes();
        bytes.extend(body.unwrap_or_default());
        prop_assert_eq!(httparse_end(false, &bytes), Some(head.len()));
        let whole = bytes.len();
        // What comes next is refused at its first line: so the message ended right before it.
        bytes.extend(b" \r\n");
        let mut framer = Framer::requests(MAX_LINE);
        prop_assert_eq!(read(&mut framer, &bytes), Read { passed: whole, stop: Some(Stop::Refuse(Fault::Folded)) });
    }

    #[test]
    fn valid_answers_end_where_hyper_has_them_end(
        status in 200_u16..600,
        reason in "( [!-~ \t]{0,20})?",
        fields in prop::collection::vec((NAME, TEXT), 0..8),
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..5),
    ) {
        prop_assume!(status != 204 && status != 304);
        let fields = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<Vec<_>>().concat();
        let head = format!("HTTP/1.1 {status}{reason}\r\n{fields}transfer-encoding: chunked\r\n\r\n");
        let mut bytes = head.clone().into_bytes();
        for chunk in &chunks {
            bytes.extend(format!("{:x};x=y\r\n", chunk.len()).into_bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        bytes.extend(b"0\r\nx: y\r\n\r\n");
        prop_assert_eq!(httparse_end(true, &bytes), Some(head.len()));
        let whole = bytes.len();
        bytes.push(b'H');
        let mut framer = Framer::answers(MAX_LINE);
        framer.expect(Asked::Other);
        prop_assert_eq!(read(&mut framer, &bytes), Read { passed: whole, stop: Some(Stop::Refuse(Fault::Unasked)) });
    }

    #[test]
    fn what_passes_hyper_reads_to_the_same_end_or_refuses(
        bytes in messages(&["GET / HTTP/1.1\r\n", "POST /x HTTP/1.1\r\n", "GET / HTTP/1.0\r\n"]),
    ) {
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(()) };
        let mut framer = Framer::requests(MAX_LINE);
        let fed = framer.feed(&bytes[..end + 4]);
        if fed.stop.is_none() && bytes.first() != Some(&b'\r') {
            prop_assert!(httparse_end(false, &bytes[..end + 4]).is_none_or(|parsed| parsed == end + 4));
        }
    }
}
