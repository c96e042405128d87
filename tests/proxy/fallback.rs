//! What callers get when an upstream cannot answer.

use std::{io, time::Duration};

use crate::{
    live::Live,
    support::{
        client::{Client, empty, full},
        origin::{self, Origin, Setup},
        wait_until,
        weir::{File, unused_address},
    },
};

const RESPOND: &str = "fallback: { respond: { status: 203, headers: { x-stale: \"1\" }, body: sorry } }";

/// An origin that reads a request and breaks off.
fn resetting() -> Origin {
    Origin::start(|_| async { Err(io::Error::other("reset")) })
}

/// `main` falls back to `spare`.
fn with_spare(main: &str, spare: &str) -> Live {
    Live::start(
        "",
        &format!(
            "  upstreams:\n    main: {{ {main}, fallback: {{ upstream: spare }} }}\n    spare: {{ {spare} }}\n  routes:\n    \
             all: {{ upstream: main }}\n"
        ),
    )
}

fn endpoints(origin: &Origin) -> String {
    format!("endpoints: [\"{}\"]", origin.address)
}

#[test]
fn a_fixed_answer_stands_in_for_an_upstream_that_is_away() {
    let weir = File::to(&[unused_address()]).upstream(RESPOND).start();
    for client in [Client::http1(weir.at("inbound")), Client::http2(weir.at("inbound"))] {
        let answer = client.get("a.test", "/");
        assert_eq!((answer.status, answer.text().as_str(), answer.header("x-stale")), (203, "sorry", "1"));
        assert!(answer.header("proxy-status").contains("connect_refused"), "{:?}", answer.headers);
        assert!(!answer.header("x-request-id").is_empty());
        let head = client.send(client.to("a.test", "HEAD", "/", &[], empty()));
        assert_eq!((head.status, head.text().as_str(), head.header("content-length")), (203, "", "5"));
        // Whatever may have become of it: what is answered is that it did not work.
        let post = client.send(client.to("a.test", "POST", "/", &[], full("x")));
        assert_eq!(post.status, 203);
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let call = client.send(client.to("a.test", "POST", "/s/m", &headers, empty()));
        assert_eq!((call.status, call.header("grpc-status")), (200, "14"));
    }
    weir.wait_metric("weir_responses_made_total", &[("reason", "connect_refused")], 8.0);
}

#[test]
fn an_answer_is_none_that_anything_stands_in_for() {
    let origin = Origin::answering(503, "busy");
    let weir = File::to(&[origin.address]).upstream(RESPOND).start();
    let answer = Client::http1(weir.at("inbound")).get("a.test", "/");
    assert_eq!((answer.status, answer.text().as_str()), (503, "busy"));
}

#[test]
fn a_time_out_and_a_full_pool_have_their_fallback() {
    let silent = Origin::silent();
    let weir = File::to(&[silent.address]).upstream(RESPOND).route("timeout: 100ms").start();
    assert_eq!(Client::http1(weir.at("inbound")).get("a.test", "/").status, 203);

    let busy = Origin::silent();
    let upstream =
        format!("{RESPOND}, pool: {{ max_connections: 1, max_pending: 1, pending_timeout: 50ms }}");
    let weir = File::to(&[busy.address]).top("workers: 1").upstream(&upstream).start();
    let first = Client::http1(weir.at("inbound"));
    let hanging = first.start(first.to("a.test", "GET", "/", &[], empty()));
    busy.wait_for_requests(1);
    let answer = Client::http1(weir.at("inbound")).get("a.test", "/");
    assert_eq!((answer.status, busy.requests()), (203, 1));
    assert!(answer.header("proxy-status").contains("pool_full"), "{:?}", answer.headers);
    hanging.abort();
}

#[test]
fn another_upstream_gets_what_the_first_cannot_have_seen_and_what_may_be_sent_twice() {
    let spare = Origin::start(origin::echo_at_end);
    // Nobody listens: nothing was sent, whatever it is.
    let away = with_spare(&format!("endpoints: [\"{}\"]", unused_address()), &endpoints(&spare));
    let client = away.client();
    for method in ["GET", "POST"] {
        let body = if method == "GET" { "" } else { "what was said" };
        let answer = client.send(client.to("a.test", method, "/x?y", &[("x-own", "7")], full(body)));
        assert_eq!((answer.status, answer.text().as_str()), (200, body));
        let seen = spare.last();
        assert_eq!((seen.uri.to_string().as_str(), seen.host().as_str()), ("/x?y", "a.test"));
        assert_eq!((seen.header("x-own"), seen.header("x-weir-attempt")), ("7".into(), "2".into()));
    }
    let labels = |upstream, outcome| [("upstream", upstream), ("outcome", outcome)];
    away.weir.wait_metric("weir_attempts_total", &labels("main", "connect_error"), 2.0);
    away.weir.wait_metric("weir_attempts_total", &labels("spare", "success"), 2.0);
    away.weir.wait_metric("weir_retries_total", &[], 0.0);

    // It was sent, and nobody knows what became of it.
    let (resets, spare) = (resetting(), Origin::start(origin::echo_at_end));
    let world = with_spare(&endpoints(&resets), &endpoints(&spare));
    let client = world.client();
    let answer = client.send(client.to("a.test", "POST", "/", &[], full("once")));
    assert_eq!((answer.status, answer.reason().as_str(), spare.requests()), (502, "upstream_reset", 0));
    for (method, body) in [("GET", ""), ("PUT", "twice")] {
        let answer = client.send(client.to("a.test", method, "/", &[], full(body)));
        assert_eq!((answer.status, answer.text().as_str()), (200, body));
    }
    assert_eq!((resets.requests(), spare.requests()), (3, 2));
}

#[test]
fn nothing_of_the_request_is_lost_on_the_way_from_http2() {
    for broken in [resetting(), Origin::with(Setup::default(), |_| async { Err(io::Error::other("no")) })] {
        for protocol in ["http1", "http2"] {
            let spare = Origin::start(origin::echo_at_end);
            let world = with_spare(
                &format!("{}, protocol: http2", endpoints(&broken)),
                &format!("{}, protocol: {protocol}", endpoints(&spare)),
            );
            for client in [world.client(), Client::http2(world.weir.at("outbound"))] {
                let headers = [("authorization", "me"), ("cookie", "a=1")];
                let answer = client.send(client.to("a.test", "PUT", "/x", &headers, full("all of it")));
                assert_eq!((answer.status, answer.text().as_str()), (200, "all of it"), "{protocol}");
                let seen = spare.last();
                assert_eq!(seen.host(), "a.test", "{protocol}");
                assert_eq!(
                    (seen.header("authorization"), seen.header("cookie")),
                    ("me".into(), "a=1".into())
                );
                assert_eq!(
                    (seen.header("x-weir-attempt"), seen.header("via").matches("weir-").count()),
                    ("2".into(), 1)
                );
            }
        }
    }
}

#[test]
fn fallbacks_follow_one_another_each_with_its_own_breaker() {
    let third = Origin::answering(200, "third");
    let policy = format!(
        "  upstreams:\n    first: {{ endpoints: [\"{}\"], fallback: {{ upstream: second }} }}\n    second: {{ endpoints: [\"{}\"], \
         breaker: open, fallback: {{ upstream: third }} }}\n    third: {{ {}, {RESPOND} }}\n  routes:\n    all: {{ upstream: first }}\n",
        unused_address(),
        unused_address(),
        endpoints(&third)
    );
    let world = Live::start("", &policy);
    let client = world.client();
    assert_eq!(client.get("a.test", "/").text(), "third");
    world.put("upstreams/third.yaml", "breaker: open");
    wait_until("the last one to be closed", || client.get("a.test", "/").status == 203);
    // It gives up the place of the others, too, where its own mode lets it.
    world.put("upstreams/third.yaml", "{breaker: open, fallback: null}");
    wait_until("nothing to be left", || client.get("a.test", "/").status == 503);
    assert_eq!(client.get("a.test", "/").json()["policy"], "third");
}

#[test]
fn what_a_route_says_takes_the_place_of_what_its_upstream_says() {
    let spare = Origin::answering(200, "spare");
    let policy = format!(
        "  upstreams:\n    main: {{ endpoints: [\"{}\"], {RESPOND} }}\n    spare: {{ {} }}\n  routes:\n    own: {{ match: {{ path: \
         /own }}, upstream: main, fallback: {{ upstream: spare }} }}\n    all: {{ upstream: main }}\n",
        unused_address(),
        endpoints(&spare)
    );
    let client = Live::start("", &policy);
    let (weir, client) = (&client.weir, client.client());
    assert_eq!(
        (client.get("a.test", "/own").text().as_str(), client.get("a.test", "/").status),
        ("spare", 203)
    );
    weir.wait_metric("weir_responses_made_total", &[("route", "own")], 0.0);
}

#[test]
fn a_time_out_is_told_of_the_upstream_that_was_asked_last() {
    let silent = Origin::silent();
    let policy = format!(
        "  upstreams:\n    main: {{ endpoints: [\"{}\"], fallback: {{ upstream: spare }} }}\n    spare: {{ {} }}\n  routes:\n    all: \
         {{ upstream: main, timeout: 200ms }}\n",
        unused_address(),
        endpoints(&silent)
    );
    let world = Live::start("", &policy);
    let answer = world.client().get("a.test", "/");
    assert_eq!((answer.status, answer.reason().as_str()), (504, "upstream_timeout"));
    assert_eq!((answer.json()["policy"].as_str(), silent.requests()), (Some("spare"), 1));
    world.wait_window("spare", 1, 1);
}

#[test]
fn a_tunnel_is_never_said_to_be_there_that_is_not() {
    let weir = File::to(&[unused_address()]).upstream(RESPOND).start();
    let client = Client::http2(weir.at("inbound"));
    let mut connect = client.to("a.test", "CONNECT", "/chat", &[], empty());
    connect.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
    let answer = client.send(connect);
    assert_eq!((answer.status, answer.reason().as_str()), (502, "connect_refused"));
}

#[test]
fn the_next_one_is_told_how_much_time_is_left() {
    let late = Origin::start(|_| async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Err(io::Error::other("reset"))
    });
    let spare = Origin::answering(200, "spare");
    let world = with_spare(&endpoints(&late), &endpoints(&spare));
    let client = world.client();
    let answer = client.send(client.to("a.test", "GET", "/", &[("x-weir-timeout-ms", "10000")], empty()));
    assert_eq!(answer.text(), "spare");
    let left = |origin: &Origin| origin.last().header("x-weir-timeout-ms").parse::<u64>().unwrap();
    // 300 ms, but for the rounding.
    assert!(left(&spare) + 299 <= left(&late), "{} {}", left(&late), left(&spare));
}
