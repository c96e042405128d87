//! Answers that Weir makes explain themselves, to people, programs and gRPC clients.

use crate::support::{
    certs::Certs,
    client::{Answer, Client, empty},
    origin::{Origin, Setup},
    raw_origin::RawOrigin,
    weir::{File, Weir, unused_address},
};

/// What every such answer has.
#[track_caller]
fn explains(weir: &Weir, answer: &Answer, status: u16, reason: &str, proxy_status: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("content-type"), "application/problem+json");
    let problem = answer.json();
    assert_eq!(problem["reason"], reason);
    assert_eq!(problem["status"], status);
    assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{problem}");
    assert_eq!(problem["request_id"], answer.header("x-request-id"), "{problem}");
    assert!(answer.header("proxy-status").contains(&format!("error={proxy_status}")), "{:?}", answer.headers);
    weir.wait_metric("weir_responses_made_total", &[("reason", reason)], 1.0);
}

#[test]
fn no_route() {
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).route("match: { path: /only }").start();
    let answer = Client::http1(weir.at("inbound")).get("a.test", "/other");
    explains(&weir, &answer, 404, "no_route", "destination_not_found");
    assert_eq!(origin.requests(), 0);
}

#[test]
fn connection_refused() {
    let weir = File::to(&[unused_address()]).start();
    let answer = Client::http2(weir.at("inbound")).get("a.test", "/");
    explains(&weir, &answer, 502, "connect_refused", "connection_refused");
    assert_eq!(answer.json()["policy"], "app");
    weir.wait_metric("weir_attempts_total", &[("upstream", "app")], 1.0);
}

#[test]
fn nothing_inside_is_told_to_clients() {
    let nobody = unused_address();
    let weir = File::to(&[nobody]).start();
    let answer = Client::http1(weir.at("inbound")).get("a.test", "/");
    let said = format!("{:?} {}", answer.headers, answer.text());
    assert!(!said.contains(&nobody.port().to_string()), "the endpoint's address is told: {said}");
    assert!(!said.to_lowercase().contains("os error"), "{said}");
}

#[test]
fn an_unknown_name() {
    let weir = Weir::start(
        "listeners:\n  inbound: { listen: \"{{inbound}}\" }\npolicy:\n  upstreams:\n    app: { endpoints: [\"nothing.invalid:80\"] }\n  \
         routes:\n    all: { upstream: app }\n",
    );
    let answer = Client::http1(weir.at("inbound")).get("a.test", "/");
    explains(&weir, &answer, 502, "dns_error", "dns_error");
}

#[test]
fn a_reset_before_the_answer() {
    let origin = RawOrigin::start(|connection| {
        connection.request();
    });
    let weir = File::to(&[origin.address]).start();
    let answer = Client::http1(weir.at("inbound")).get("a.test", "/");
    explains(&weir, &answer, 502, "upstream_reset", "connection_terminated");
}

#[test]
fn tls_that_fails() {
    let (trusted, other) = (Certs::new(), Certs::new());
    let setup =
        Setup { tls: Some(other.server(&other.localhost(), &["h2", "http/1.1"], false)), ..Setup::default() };
    let origin = Origin::with(setup, |_| async { Ok(crate::support::origin::answer(200, "ok")) });
    let tls = format!("tls: {{ ca: {}, server_name: localhost }}", trusted.ca().display());
    let weir = File::to(&[origin.address]).upstream(&tls).start();
    let answer = Client::http1(weir.at("inbound")).get("a.test", "/");
    explains(&weir, &answer, 502, "upstream_tls", "tls_protocol_error");
    assert_eq!(origin.requests(), 0);
}

#[test]
fn a_body_that_is_too_large() {
    let origin = Origin::echo();
    let weir = File::to(&[origin.address]).route("max_body: 1KiB").start();
    let client = Client::http1(weir.at("inbound"));
    let large = crate::support::client::full(vec![b'x'; 2000]);
    let answer = client.send(client.to("a.test", "POST", "/", &[], large));
    explains(&weir, &answer, 413, "body_too_large", "http_request_error");
    assert_eq!(origin.requests(), 0, "the length was known: nothing is sent");

    let client = Client::http2(weir.at("inbound"));
    let (feed, body) = crate::support::client::fed();
    for _ in 0..4 {
        feed.data(vec![b'x'; 500]);
    }
    drop(feed);
    // Of unknown length: the answer is 413, or broken off where the origin had begun to answer; never a whole 200.
    let answer = client.open(client.to("a.test", "POST", "/", &[], body)).map(|answer| answer.collect());
    let whole = matches!(&answer, Ok(Ok(answer)) if answer.status == 200);
    assert!(!whole, "2,000 bytes passed a limit of 1 KiB");
    let small =
        client.send(client.to("a.test", "POST", "/", &[], crate::support::client::full("x".repeat(1024))));
    assert_eq!((small.status, small.body.len()), (200, 1024));
}

#[test]
fn a_head_request_gets_the_headers_alone() {
    let weir = File::to(&[unused_address()]).start();
    let client = Client::http1(weir.at("inbound"));
    let answer = client.send(client.to("a.test", "HEAD", "/", &[], empty()));
    assert_eq!((answer.status, answer.body.len()), (502, 0));
    assert_eq!(client.get("a.test", "/").status, 502, "the connection lives on");
}

#[test]
fn grpc_clients_get_trailers_only() {
    let weir = File::to(&[unused_address()]).route("match: { path: /test.Echo/* }").start();
    for client in [Client::http1(weir.at("inbound")), Client::http2(weir.at("inbound"))] {
        for (path, status) in [("/test.Echo/Unary", "14"), ("/test.Nothing/Unary", "12")] {
            let headers = [("content-type", "application/grpc+proto"), ("te", "trailers")];
            let answer = client.send(client.to("a.test", "POST", path, &headers, empty()));
            assert_eq!((answer.status, answer.header("grpc-status")), (200, status));
            assert!(answer.header("content-type").starts_with("application/grpc"));
            assert_ne!(answer.header("grpc-message"), "");
            assert!(answer.body.is_empty() && answer.trailers.is_empty());
        }
    }
}

#[test]
fn a_refusal_by_weir_behind_is_passed_on_as_it_is() {
    let inner = File::to(&[unused_address()]).start();
    let outer = File::to(&[inner.at("inbound")]).top("instance: outer").start();
    let answer = Client::http1(outer.at("inbound")).get("a.test", "/");
    assert_eq!((answer.status, answer.reason().as_str()), (502, "connect_refused"));
    let hops: Vec<_> = answer.headers.get_all("via").iter().map(|via| via.to_str().unwrap()).collect();
    assert_eq!(hops.join(", ").matches("weir-").count(), 2, "{hops:?}");
    assert!(
        !outer.metrics().has("weir_responses_made_total", &[("reason", "connect_refused")])
            || outer.metrics().sum("weir_responses_made_total", &[("reason", "connect_refused")]) == 0.0
    );
}

#[test]
fn the_weir_in_front_is_told_whether_to_try_again() {
    let weir = Weir::start(&format!(
        "listeners:\n  inbound: {{ listen: \"{{{{inbound}}}}\" }}\n  outbound: {{ listen: \"{{{{outbound}}}}\" }}\npolicy:\n  \
         upstreams:\n    app: {{ endpoints: [\"{}\"] }}\n  routes:\n    all: {{ upstream: app, match: {{ path: /a }} }}\n",
        unused_address()
    ));
    let inbound = Client::http1(weir.at("inbound"));
    assert_eq!(inbound.get("a.test", "/a").header("x-weir-retry"), "", "another instance may well answer");
    assert_eq!(inbound.get("a.test", "/b").header("x-weir-retry"), "no", "refused");
    let outbound = Client::http1(weir.at("outbound"));
    assert_eq!(outbound.get("a.test", "/a").header("x-weir-retry"), "no", "given up on");
}
