//! Endpoints: how they are chosen, and how they are spoken to.

use hyper::Version;

use crate::support::{
    certs::Certs,
    client::{Client, empty},
    origin::{self, Origin, Setup},
    wait_until,
    weir::{File, Weir},
};

#[test]
fn round_robin_goes_by_weight() {
    let origins: Vec<_> = (0..3).map(|_| Origin::answering(200, "ok")).collect();
    let weir = Weir::start(&format!(
        "workers: 1\nlisteners:\n  inbound: {{ listen: \"{{{{inbound}}}}\" }}\npolicy:\n  upstreams:\n    app:\n      \
         balancer: {{ policy: round_robin }}\n      endpoints: [\"{}\", {{ address: \"{}\", weight: 3 }}, {{ address: \"{}\", weight: 0 }}]\n  \
         routes:\n    all: {{ upstream: app }}\n",
        origins[0].address, origins[1].address, origins[2].address
    ));
    let client = Client::http1(weir.at("inbound"));
    for _ in 0..40 {
        client.get("a.test", "/");
    }
    assert_eq!(origins.iter().map(Origin::requests).collect::<Vec<_>>(), [10, 30, 0]);
}

#[test]
fn the_first_tier_takes_everything_and_the_next_stands_by() {
    let (first, second) = (Origin::answering(200, "first"), Origin::answering(200, "second"));
    let file = |weight: u32| {
        format!(
            "listeners:\n  inbound: {{ listen: \"{{{{inbound}}}}\" }}\npolicy:\n  upstreams:\n    app:\n      \
             endpoints: [{{ address: \"{}\", tier: 1, weight: 9 }}, {{ address: \"{}\", weight: {weight} }}]\n  \
             routes:\n    all: {{ upstream: app }}\n",
            second.address, first.address
        )
    };
    let mut weir = Weir::start(&file(1));
    let client = Client::http1(weir.at("inbound"));
    for _ in 0..50 {
        assert_eq!(client.get("a.test", "/").text(), "first");
    }
    weir.reload(&file(0));
    wait_until("the second tier to take over", || client.get("a.test", "/").text() == "second");
    assert_eq!(client.get("a.test", "/").text(), "second");
}

#[test]
fn least_request_avoids_the_endpoint_that_is_busy() {
    let slow = Origin::silent();
    let quick = Origin::answering(200, "quick");
    let weir = File::to(&[slow.address, quick.address])
        .top("workers: 1")
        .upstream("balancer: { policy: least_request }")
        .start();
    let client = Client::http2(weir.at("inbound"));
    // As soon as one request hangs at the slow one, it is the busier of any two.
    let mut hanging = Vec::new();
    while slow.requests() == 0 {
        hanging.push(client.start(client.to("a.test", "GET", "/", &[], empty())));
        wait_until("the request to arrive", || slow.requests() + quick.requests() >= hanging.len());
    }
    let before = quick.requests();
    for _ in 0..50 {
        assert_eq!(client.get("a.test", "/").text(), "quick");
    }
    assert_eq!((quick.requests() - before, slow.requests()), (50, 1));
}

#[test]
fn the_protocol_is_http1_unless_grpc_or_the_file_asks_for_http2() {
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).start();
    for client in [Client::http1(weir.at("inbound")), Client::http2(weir.at("inbound"))] {
        client.get("a.test", "/");
        assert_eq!(origin.last().version, Version::HTTP_11);
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        client.send(client.to("a.test", "POST", "/s/m", &headers, empty()));
        assert_eq!(origin.last().version, Version::HTTP_2);
    }
    let weir = File::to(&[origin.address]).upstream("protocol: http2").start();
    Client::http1(weir.at("inbound")).get("a.test", "/");
    assert_eq!((origin.last().version, origin.last().host().as_str()), (Version::HTTP_2, "a.test"));
    let weir = File::to(&[origin.address]).upstream("protocol: http1").start();
    let client = Client::http2(weir.at("inbound"));
    client.get("a.test", "/");
    assert_eq!((origin.last().version, origin.last().host().as_str()), (Version::HTTP_11, "a.test"));
}

#[test]
fn tls_to_endpoints_agrees_on_the_protocol_by_alpn() {
    let certs = Certs::new();
    for (alpn, wanted) in [
        (&["h2", "http/1.1"][..], Version::HTTP_2),
        (&["http/1.1"][..], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        let setup = Setup { tls: Some(certs.server(&certs.localhost(), alpn, false)), ..Setup::default() };
        let origin = Origin::with(setup, |_| async { Ok(origin::answer(200, "secret")) });
        let tls = format!("tls: {{ ca: {}, server_name: localhost }}", certs.ca().display());
        let weir = File::to(&[origin.address]).upstream(&tls).start();
        assert_eq!(Client::http1(weir.at("inbound")).get("a.test", "/").text(), "secret", "{alpn:?}");
        assert_eq!(origin.last().version, wanted, "{alpn:?}");
    }
}

#[test]
fn an_endpoint_that_wants_a_certificate_gets_ours() {
    let certs = Certs::new();
    let setup =
        Setup { tls: Some(certs.server(&certs.localhost(), &["http/1.1"], true)), ..Setup::default() };
    let origin = Origin::with(setup, |_| async { Ok(origin::answer(200, "secret")) });
    let own = certs.issue("weir", &["weir.test"]);
    let with = format!(
        "tls: {{ ca: {}, cert: {}, key: {}, server_name: localhost }}",
        certs.ca().display(),
        own.cert.display(),
        own.key.display()
    );
    let without = format!("tls: {{ ca: {}, server_name: localhost }}", certs.ca().display());
    let weir = File::to(&[origin.address]).upstream(&with).start();
    assert_eq!(Client::http1(weir.at("inbound")).get("a.test", "/").text(), "secret");
    let weir = File::to(&[origin.address]).upstream(&without).start();
    assert_eq!(Client::http1(weir.at("inbound")).get("a.test", "/").status, 502);
}

#[test]
fn authorities_that_change_are_taken_and_a_broken_file_never() {
    let (certs, strangers) = (Certs::new(), Certs::new());
    let setup =
        Setup { tls: Some(certs.server(&certs.localhost(), &["http/1.1"], false)), ..Setup::default() };
    // A connection of its own for each request: one that is open keeps what it was opened with.
    let origin = Origin::with(setup, |_| async {
        Ok(origin::answer_with(200, &[("connection", "close")], crate::support::client::full("secret")))
    });
    let ca = strangers.ca().with_file_name("trusted.pem");
    let put = |content: &[u8]| {
        let fresh = ca.with_extension("new");
        std::fs::write(&fresh, content).unwrap();
        std::fs::rename(fresh, &ca).unwrap();
    };
    put(&std::fs::read(strangers.ca()).unwrap());
    let tls = format!("tls: {{ ca: {}, server_name: localhost }}", ca.display());
    let weir = File::to(&[origin.address]).upstream(&tls).start();
    let client = Client::http1(weir.at("inbound"));
    assert_eq!(client.get("a.test", "/").reason(), "upstream_tls");
    put(&std::fs::read(certs.ca()).unwrap());
    wait_until("the new authority to be trusted", || client.get("a.test", "/").status == 200);
    put(b"half of it");
    wait_until("the broken file to be told", || weir.stderr().contains("cannot be used"));
    assert_eq!(client.get("a.test", "/").text(), "secret");
}

#[test]
fn without_an_endpoint_that_has_weight_there_is_nothing_to_send_to() {
    let origin = Origin::answering(200, "ok");
    let weir = Weir::start(&format!(
        "listeners:\n  inbound: {{ listen: \"{{{{inbound}}}}\" }}\npolicy:\n  upstreams:\n    app: {{ endpoints: [{{ \
         address: \"{}\", weight: 0 }}] }}\n  routes:\n    all: {{ upstream: app }}\n",
        origin.address
    ));
    let answer = Client::http1(weir.at("inbound")).get("a.test", "/");
    assert_eq!((answer.status, answer.reason().as_str()), (503, "no_healthy_endpoint"));
    assert_eq!((answer.header("retry-after"), answer.header("x-weir-retry")), ("1", "no"));
    assert_eq!(answer.json()["policy"], "app");
    assert!(answer.header("proxy-status").contains("error=destination_unavailable"), "{:?}", answer.headers);
    assert_eq!(origin.requests(), 0);
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let certs = Certs::new();
    let setup =
        Setup { tls: Some(certs.server(&certs.localhost(), &["http/1.1"], false)), ..Setup::default() };
    let origin = Origin::with(setup, |_| async { Ok(origin::answer(200, "secret")) });
    let tls = format!("tls: {{ ca: {}, server_name: other.test }}", certs.ca().display());
    let weir = File::to(&[origin.address]).upstream(&tls).start();
    let answer = Client::http1(weir.at("inbound")).get("a.test", "/");
    assert_eq!((answer.status, answer.reason().as_str()), (502, "upstream_tls"));
}

#[test]
fn endpoints_that_come_and_go_with_the_file() {
    let (old, new) = (Origin::answering(200, "old"), Origin::answering(200, "new"));
    let mut weir = File::to(&[old.address]).start();
    let client = Client::http1(weir.at("inbound"));
    assert_eq!(client.get("a.test", "/").text(), "old");
    assert_eq!(old.open_connections(), 1);
    weir.reload(&File::to(&[new.address]).text());
    wait_until("the new endpoint to be used", || client.get("a.test", "/").text() == "new");
    wait_until("the idle connection to the old one to be closed", || old.open_connections() == 0);
}

#[test]
fn a_stream_to_a_removed_endpoint_runs_on() {
    let (feed, body) = crate::support::client::fed();
    let body = std::sync::Mutex::new(Some(body));
    let old = Origin::start(move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async { Ok(origin::answer_with(200, &[], body)) }
    });
    let new = Origin::answering(200, "new");
    let mut weir = File::to(&[old.address]).start();
    let client = Client::http1(weir.at("inbound"));
    feed.data("before");
    let mut answer = client.open(client.to("a.test", "GET", "/", &[], empty())).unwrap();
    assert_eq!(answer.next_text(), "before");
    weir.reload(&File::to(&[new.address]).text());
    let other = Client::http1(weir.at("inbound"));
    wait_until("the new endpoint to be used", || other.get("a.test", "/").text() == "new");
    feed.data("after");
    assert_eq!(answer.next_text(), "after");
    drop(feed);
    assert!(answer.next().is_none());
    wait_until("the connection to be closed after its stream", || old.open_connections() == 0);
}
