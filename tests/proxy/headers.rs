//! Which headers pass, which go, and which Weir adds.

use crate::support::{
    client::{Client, empty},
    origin::{self, Origin},
    raw::Raw,
    raw_origin::RawOrigin,
    weir::{File, Weir},
};

fn with_origin() -> (Origin, Weir) {
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).start();
    (origin, weir)
}

#[test]
fn hop_by_hop_headers_of_requests_go() {
    let origin = RawOrigin::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let weir = File::to(&[origin.address]).start();
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send(
        "GET / HTTP/1.1\r\nhost: a.test\r\nconnection: keep-alive, x-named\r\nx-named: 1\r\nkeep-alive: timeout=5\r\n\
         proxy-connection: keep-alive\r\nte: trailers, deflate\r\nupgrade-insecure-requests: 1\r\nx-kept: 1\r\n\r\n",
    )
    .answer();
    let seen = origin.seen().pop().unwrap();
    for gone in ["x-named", "keep-alive", "proxy-connection"] {
        assert_eq!(seen.header(gone), None, "{gone} in {:?}", seen.headers);
    }
    assert!(!seen.header("connection").unwrap_or_default().contains("x-named"), "{:?}", seen.headers);
    assert_eq!(seen.header("x-kept").as_deref(), Some("1"));
    assert_eq!(seen.header("upgrade-insecure-requests").as_deref(), Some("1"));
    assert_eq!(seen.header("te").as_deref(), Some("trailers"), "of TE only trailers may stay");
}

#[test]
fn hop_by_hop_headers_of_answers_go() {
    let origin = RawOrigin::answering(
        "HTTP/1.1 200 OK\r\nconnection: x-named\r\nx-named: 1\r\nkeep-alive: timeout=5\r\nproxy-connection: a\r\n\
         upgrade: h2c\r\nx-kept: 1\r\ncontent-length: 0\r\n\r\n",
    );
    let weir = File::to(&[origin.address]).start();
    for client in [Client::http1(weir.at("inbound")), Client::http2(weir.at("inbound"))] {
        let answer = client.get("a.test", "/");
        for gone in ["x-named", "keep-alive", "proxy-connection", "upgrade"] {
            assert_eq!(answer.header(gone), "", "{gone} in {:?}", answer.headers);
        }
        assert_eq!(answer.header("x-kept"), "1");
    }
}

#[test]
fn connection_cannot_name_away_what_others_rely_on() {
    let (origin, weir) = with_origin();
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send(
        "GET / HTTP/1.1\r\nhost: a.test\r\nauthorization: Bearer x\r\ncookie: a=b\r\n\
         connection: authorization, cookie, x-forwarded-for, x-request-id, host\r\n\r\n",
    )
    .answer();
    let seen = origin.last();
    assert_eq!((seen.header("authorization").as_str(), seen.header("cookie").as_str()), ("Bearer x", "a=b"));
    assert_eq!((seen.header("x-forwarded-for").as_str(), seen.host().as_str()), ("127.0.0.1", "a.test"));
    assert_ne!(seen.header("x-request-id"), "");
}

#[test]
fn via_names_weir_in_both_directions() {
    let (origin, weir) = with_origin();
    let client = Client::http1(weir.at("inbound"));
    let answer = client.send(client.to("a.test", "GET", "/", &[("via", "1.1 edge")], empty()));
    let via = origin.last().header("via");
    assert!(via.starts_with("1.1 edge, 1.1 weir-"), "{via}");
    assert!(answer.header("via").starts_with("1.1 weir-"), "{}", answer.header("via"));
}

#[test]
fn a_request_that_comes_back_is_a_loop() {
    let weir = Weir::start(
        "listeners:\n  inbound: { listen: \"{{inbound}}\" }\npolicy:\n  upstreams:\n    self: { endpoints: [\"{{inbound}}\"] }\n  \
         routes:\n    all: { upstream: self }\n",
    );
    let answer = Client::http1(weir.at("inbound")).get("a.test", "/");
    assert_eq!((answer.status, answer.reason().as_str()), (508, "loop"));
    assert!(weir.metrics().sum("weir_responses_made_total", &[("reason", "loop")]) >= 1.0);
}

#[test]
fn forwarded_headers_of_a_trusted_peer_are_continued() {
    let (origin, weir) = with_origin();
    let client = Client::http1(weir.at("inbound"));
    let headers = [
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example"),
        ("x-request-id", "from-the-edge"),
    ];
    let answer = client.send(client.to("a.test", "GET", "/", &headers, empty()));
    let seen = origin.last();
    assert_eq!(seen.header("x-forwarded-for"), "203.0.113.7, 127.0.0.1");
    assert_eq!(seen.header("x-request-id"), "from-the-edge");
    assert_eq!(answer.header("x-request-id"), "from-the-edge");
    assert!(seen.header("x-forwarded-proto").starts_with("https"), "{}", seen.header("x-forwarded-proto"));
    assert!(
        seen.header("x-forwarded-host").starts_with("shop.example"),
        "{}",
        seen.header("x-forwarded-host")
    );
}

#[test]
fn the_attempt_is_told_and_not_what_the_client_says_of_it() {
    let (origin, weir) = with_origin();
    let client = Client::http1(weir.at("inbound"));
    for headers in [&[][..], &[("x-weir-attempt", "9")]] {
        client.send(client.to("a.test", "GET", "/", headers, empty()));
        assert_eq!(origin.last().header("x-weir-attempt"), "1");
    }
}

#[test]
fn forwarded_headers_of_others_are_replaced() {
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).listener("trust: [\"192.0.2.0/24\"]").start();
    let client = Client::http1(weir.at("inbound"));
    let headers = [
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
        ("x-request-id", "forged"),
    ];
    let answer = client.send(client.to("a.test", "GET", "/", &headers, empty()));
    let seen = origin.last();
    assert_eq!(seen.header("x-forwarded-for"), "127.0.0.1");
    assert_eq!(seen.header("x-forwarded-proto"), "http");
    assert_eq!(seen.header("x-forwarded-host"), "a.test");
    let id = seen.header("x-request-id");
    assert_eq!(id, answer.header("x-request-id"));
    assert_eq!((id.len(), id.as_bytes()[14]), (36, b'7'), "{id} is no UUIDv7");
}

#[test]
fn cookie_crumbs_are_joined_for_http1() {
    let (origin, weir) = with_origin();
    let client = Client::http2(weir.at("inbound"));
    client.send(client.to("a.test", "GET", "/", &[("cookie", "a=1"), ("cookie", "b=2")], empty()));
    let cookies: Vec<_> = origin.last().headers.get_all("cookie").iter().cloned().collect();
    assert_eq!(cookies, ["a=1; b=2"]);
}

#[test]
fn headers_of_the_application_pass_untouched() {
    let origin = Origin::start(|_| async {
        let headers = [
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("server", "mine"),
            ("date", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ];
        Ok(origin::answer_with(200, &headers, empty()))
    });
    let weir = File::to(&[origin.address]).start();
    let answer = Client::http1(weir.at("inbound")).get("a.test", "/");
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().cloned().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    assert_eq!(answer.header("server"), "mine");
    let dates: Vec<_> = answer.headers.get_all("date").iter().cloned().collect();
    assert_eq!(dates, ["Thu, 01 Jan 1970 00:00:00 GMT"], "the origin's date, once");
}

#[test]
fn trace_context_is_carried_through() {
    let (origin, weir) = with_origin();
    let client = Client::http1(weir.at("inbound"));
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    client.send(client.to("a.test", "GET", "/", &[("traceparent", parent), ("tracestate", "a=b")], empty()));
    let seen = origin.last();
    assert_eq!((seen.header("traceparent").as_str(), seen.header("tracestate").as_str()), (parent, "a=b"));
}

#[test]
fn the_target_is_forwarded_in_origin_form_with_the_host_of_the_target() {
    let (origin, weir) = with_origin();
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send("GET http://a.test:81/x?q=%20 HTTP/1.1\r\nhost: other.test\r\n\r\n").answer();
    let seen = origin.last();
    assert_eq!((seen.uri.to_string().as_str(), seen.host().as_str()), ("/x?q=%20", "a.test:81"));
}
