use proptest::prelude::*;

use super::*;
use crate::http::fields;

const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-authentication-info",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Names and values, sorted.
fn lines(headers: &HeaderMap) -> Vec<(&str, &str)> {
    let mut lines: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn hop_by_hop_fields_go() {
    let mut headers = fields(&[
        ("connection", "keep-alive, X-Hop , upgrade"),
        ("connection", "x-other"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authenticate", "Basic"),
        ("proxy-authorization", "Basic x"),
        ("proxy-authentication-info", "x"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABkAAQAAP__"),
        ("te", "gzip, Trailers"),
        ("trailer", "x-sum"),
        ("x-hop", "1"),
        ("x-other", "1"),
        ("x-stays", "1"),
    ]);
    remove_hop_by_hop(&mut headers);
    assert_eq!(lines(&headers), [("te", "trailers"), ("trailer", "x-sum"), ("x-stays", "1")]);
}

#[test]
fn connection_cannot_remove_what_is_end_to_end() {
    let kept = [
        ("authorization", "Bearer x"),
        ("content-length", "3"),
        ("content-type", "text/plain"),
        ("cookie", "a=b"),
        ("forwarded", "for=1.2.3.4"),
        ("host", "h"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-request-id", "r"),
        ("x-weir-timeout-ms", "5"),
    ];
    let mut headers = fields(&kept);
    for (name, _) in kept {
        headers.append(CONNECTION, HeaderValue::from_static(name));
    }
    remove_hop_by_hop(&mut headers);
    assert_eq!(lines(&headers), kept);
}

#[test]
fn te_keeps_nothing_but_trailers() {
    for (value, kept) in [
        ("trailers", true),
        ("deflate;q=0.5, TRAILERS", true),
        ("gzip", false),
        ("trailers;q=1", false),
        ("", false),
    ] {
        let mut headers = fields(&[("te", value), ("connection", "te")]);
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers.get(TE).is_some_and(|v| v == "trailers"), kept, "{value}");
        assert_eq!(headers.contains_key(TE), kept);
    }
}

#[test]
fn te_is_named_by_connection_towards_http1() {
    let mut headers = fields(&[("te", "trailers"), ("connection", "upgrade")]);
    for_http1(&mut headers);
    assert_eq!(lines(&headers), [("connection", "te"), ("connection", "upgrade"), ("te", "trailers")]);
    let mut plain = fields(&[("accept", "*/*")]);
    for_http1(&mut plain);
    assert_eq!(lines(&plain), [("accept", "*/*")]);
}

#[test]
fn http2_has_neither_host_nor_connection() {
    let mut headers =
        fields(&[("host", "h"), ("connection", "te"), ("te", "trailers"), ("transfer-encoding", "chunked")]);
    for_http2(&mut headers);
    assert_eq!(lines(&headers), [("te", "trailers")]);
}

#[test]
fn cookie_crumbs_become_one_line() {
    let mut headers = fields(&[("cookie", "a=1"), ("cookie", "b=2; c=3"), ("cookie", "d=4")]);
    join_cookies(&mut headers);
    assert_eq!(lines(&headers), [("cookie", "a=1; b=2; c=3; d=4")]);
    let mut single = fields(&[("cookie", "a=1")]);
    join_cookies(&mut single);
    assert_eq!(lines(&single), [("cookie", "a=1")]);
}

#[test]
fn trailers_say_nothing_that_belongs_in_front() {
    let mut trailers = fields(&[
        ("grpc-status", "0"),
        ("x-sum", "1"),
        ("content-length", "5"),
        ("transfer-encoding", "chunked"),
        ("host", "evil"),
        ("authorization", "x"),
        ("connection", "grpc-status"),
    ]);
    clean_trailers(&mut trailers);
    assert_eq!(lines(&trailers), [("grpc-status", "0"), ("x-sum", "1")]);
}

#[test]
fn one_field_that_must_not_be_there_is_enough_to_clean_trailers() {
    for (name, value) in [
        ("connection", "x-sum"),
        ("proxy-connection", "x"),
        ("transfer-encoding", "chunked"),
        ("te", "deflate"),
        ("content-length", "1"),
        ("authorization", "x"),
        ("x-weir-attempt", "1"),
        ("x_request_id", "r"),
        ("forwarded", "for=1.2.3.4"),
    ] {
        let mut trailers = fields(&[("grpc-status", "0"), (name, value)]);
        clean_trailers(&mut trailers);
        assert_eq!(lines(&trailers), [("grpc-status", "0")], "{name}");
    }
}

#[test]
fn strangers_cannot_speak_for_a_proxy() {
    let mut headers = fields(&[
        ("x-weir-timeout-ms", "1"),
        ("x_weir_attempt", "1"),
        ("x-weir_retry", "1"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-prefix", "/admin"),
        ("x_forwarded-host", "h"),
        ("x-request-id", "r"),
        ("x_request_id", "r"),
        ("x-real-ip", "1.2.3.4"),
        ("forwarded", "for=1.2.3.4"),
        ("x-weird", "stays"),
        ("x-request-idx", "stays"),
        ("x", "stays"),
    ]);
    strip_untrusted(&mut headers);
    assert_eq!(lines(&headers), [("x", "stays"), ("x-request-idx", "stays"), ("x-weird", "stays")]);
}

proptest! {
    #[test]
    fn never_leaves_a_hop_by_hop_name(
        fields in prop::collection::vec(
            (
                prop_oneof![
                    prop::sample::select(HOP_BY_HOP.to_vec()).prop_map(HeaderName::from_static),
                    Just(TE),
                    Just(header::HOST),
                    "[a-z]{1,4}".prop_map(|n| HeaderName::try_from(n).unwrap()),
                ],
                "[ -~]{0,12}",
            ),
            0..16,
        ),
        named in prop::collection::vec("[a-zA-Z]{1,4}", 0..4),
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in &fields {
            headers.append(name, HeaderValue::try_from(value.as_str()).unwrap());
        }
        headers.append(CONNECTION, HeaderValue::try_from(named.join(",")).unwrap());
        let hosts = headers.get_all(header::HOST).iter().count();
        remove_hop_by_hop(&mut headers);
        for name in HOP_BY_HOP {
            prop_assert!(!headers.contains_key(name));
        }
        for name in &named {
            let name = HeaderName::try_from(name.as_str()).unwrap();
            prop_assert!(end_to_end(&name) || name == TE || !headers.contains_key(&name), "{}", name);
        }
        prop_assert_eq!(headers.get_all(header::HOST).iter().count(), hosts);
        prop_assert!(headers.get_all(TE).iter().all(|v| v == "trailers"));
        let before = headers.clone();
        remove_hop_by_hop(&mut headers);
        prop_assert_eq!(headers, before);
    }
}

#[test]
fn what_is_known_of_a_message_changes_nothing_of_what_is_removed() {
    for lines in [
        &[("a", "1")][..],
        &[("connection", "keep-alive"), ("a", "1")],
        &[("connection", "Close")],
        &[("connection", "a"), ("a", "1")],
        &[("connection", "keep-alive, a"), ("a", "1")],
        &[("connection", "close"), ("connection", "a"), ("a", "1")],
        &[("connection", "close"), ("keep-alive", "timeout=5")],
        &[("connection", "close"), ("te", "trailers, gzip")],
        &[("te", "gzip")],
        &[("upgrade", "h2c"), ("http2-settings", "x")],
        &[("proxy-connection", "keep-alive"), ("proxy-authorization", "x"), ("transfer-encoding", "chunked")],
    ] {
        let (mut all, mut known) = (fields(lines), fields(lines));
        remove_hop_by_hop(&mut all);
        remove_hop_by_hop_of(Census::of(&fields(lines)), &mut known);
        assert_eq!(all, known, "{lines:?}");
    }
}
