//! What an outbound listener passes through although no route matches: requests by `http_proxy`, tunnels by CONNECT.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
};

use crate::support::{
    client::{self, Client},
    origin::Origin,
    raw::{Message, Raw},
    wait_until,
    weir::{Weir, unused_address},
};

/// Weir with an outbound listener that passes through, and routes for `named.test` and `*.wild.test` below /known.
fn weir(named: &Origin, fields: &str) -> Weir {
    Weir::start(&format!(
        "log: {{ access: all }}\nlisteners:\n  outbound: {{ listen: \"{{{{outbound}}}}\", unmatched: passthrough{fields} }}\n  \
         inbound: {{ listen: \"{{{{inbound}}}}\" }}\npolicy:\n  upstreams:\n    named: {{ endpoints: [\"{}\"] }}\n  \
         routes:\n    named: {{ match: {{ listener: outbound, host: [named.test, \"*.wild.test\"], path: /known/* }}, \
         upstream: named }}\n",
        named.address
    ))
}

fn ask(weir: &Weir, request: &str) -> Message {
    Raw::connect(weir.at("outbound")).send(request).answer()
}

/// A GET in absolute form.
fn fetch(weir: &Weir, url: &str) -> Message {
    let host = url.trim_start_matches("http://").split('/').next().unwrap();
    ask(weir, &format!("GET {url} HTTP/1.1\r\nhost: {host}\r\n\r\n"))
}

#[track_caller]
fn forbidden(answer: &Message) {
    assert_eq!(answer.status(), 403, "{}", answer.text());
    assert_eq!(answer.json()["reason"], "forbidden");
    assert!(answer.header("proxy-status").unwrap().contains("http_request_denied"));
}

#[test]
fn a_request_goes_to_the_host_that_it_names() {
    let (named, other) = (Origin::answering(200, "named"), Origin::echo());
    let weir = weir(&named, "");
    let port = other.address.port();
    for url in [format!("http://{}/x?y=1", other.address), format!("http://localhost:{port}/x?y=1")] {
        let answer = ask(
            &weir,
            &format!(
                "GET {url} HTTP/1.1\r\nhost: ignored.test\r\nproxy-authorization: Basic c2VjcmV0\r\nproxy-connection: \
                 keep-alive\r\nconnection: x-hop\r\nx-hop: 1\r\n\r\n"
            ),
        );
        assert_eq!(answer.status(), 200);
        assert!(answer.header("via").is_some() && answer.header("x-request-id").is_some());
        let seen = other.last();
        assert_eq!(seen.uri, "/x?y=1");
        let authority = url.trim_start_matches("http://").split('/').next().unwrap().to_owned();
        assert_eq!(seen.host(), authority, "the target's authority replaces Host");
        for gone in ["proxy-authorization", "proxy-connection", "x-hop"] {
            assert!(!seen.headers.contains_key(gone), "{gone}");
        }
        assert!(seen.headers.contains_key("via") && seen.headers.contains_key("x-forwarded-for"));
    }
    // The Host of a request in origin form does as well.
    let answer =
        ask(&weir, &format!("POST / HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-length: 2\r\n\r\nhi"));
    assert_eq!(answer.text(), "hi");
    // And HTTP/2.
    let client = Client::http2(weir.at("outbound"));
    assert_eq!(
        client.send(client.to(&other.address.to_string(), "POST", "/", &[], client::full("h2"))).text(),
        "h2"
    );
    assert_eq!(named.requests(), 0);
}

#[test]
fn what_a_route_names_goes_by_its_route_alone() {
    let (named, other) = (Origin::answering(200, "named"), Origin::answering(200, "other"));
    let weir = weir(&named, "");
    assert_eq!(fetch(&weir, "http://named.test/known/1").text(), "named");
    for url in ["http://named.test/unknown", "http://NAMED.test.:8080/unknown", "http://a.b.wild.test/"] {
        let answer = fetch(&weir, url);
        assert_eq!((answer.status(), answer.json()["reason"].as_str()), (404, Some("no_route")), "{url}");
    }
    for host in ["named.test:443", "x.wild.test:443", "NAMED.TEST:443"] {
        forbidden(&ask(&weir, &format!("CONNECT {host} HTTP/1.1\r\nhost: {host}\r\n\r\n")));
    }
    // On a listener that does not say so nothing passes through.
    let inbound = weir.at("inbound");
    assert_eq!(Raw::connect(inbound).get(&other.address.to_string(), "/").status(), 404);
    let connect = format!("CONNECT {0} HTTP/1.1\r\nhost: {0}\r\n\r\n", other.address);
    assert_eq!(Raw::connect(inbound).send(connect).answer().status(), 404);
    assert_eq!(other.requests(), 0);
}

/// Every way to write an address of this machine.
fn spellings() -> Vec<String> {
    let mut hosts: Vec<String> = [
        "127.0.0.1",
        "127.1.2.3",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:0:0]",
        "localhost",
        "LocalHost.",
        "127.1",
        "0x7f000001",
        "2130706433",
        "0",
    ]
    .map(ToOwned::to_owned)
    .to_vec();
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // Sends nothing: the system says which of its addresses it would use.
    if socket.connect("192.0.2.1:9").is_ok() {
        hosts.push(socket.local_addr().unwrap().ip().to_string());
    }
    hosts
}

#[test]
fn weirs_own_ports_are_out_of_reach_however_they_are_written() {
    let named = Origin::answering(200, "named");
    let weir = weir(&named, "");
    for host in spellings() {
        for port in ["outbound", "inbound", "admin", "telemetry"].map(|name| weir.at(name).port()) {
            forbidden(&fetch(&weir, &format!("http://{host}:{port}/metrics")));
            let connect = format!("CONNECT {host}:{port} HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n");
            forbidden(&ask(&weir, &connect));
        }
    }
    weir.wait_metric("weir_attempts_total", &[("upstream", "_passthrough"), ("outcome", "success")], 0.0);
}

#[test]
fn metadata_and_what_the_file_denies_are_out_of_reach() {
    let named = Origin::answering(200, "named");
    let defaults = weir(&named, "");
    let hosts = [
        "169.254.169.254",
        "169.254.169.254:8080",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]",
        "169.254.170.2",
        "[fd00:ec2::254]",
        "2852039166",
        "0xa9fea9fe",
    ];
    for host in hosts {
        forbidden(&fetch(&defaults, &format!("http://{host}/latest/meta-data/")));
        let target = if host.ends_with(":8080") { host.to_owned() } else { format!("{host}:80") };
        forbidden(&ask(&defaults, &format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n")));
    }
    let other = Origin::answering(200, "other");
    let strict = weir(&named, ", passthrough: { deny: [127.0.0.0/8] }");
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        forbidden(&fetch(&strict, &format!("http://{host}:{}/", other.address.port())));
    }
    assert_eq!(other.requests(), 0);
    strict.wait_metric(
        "weir_responses_made_total",
        &[("route", "_passthrough"), ("reason", "forbidden")],
        3.0,
    );
}

#[test]
fn failures_explain_themselves() {
    let named = Origin::answering(200, "named");
    let weir = weir(&named, ", passthrough: { connect_timeout: 500ms }");
    let nobody = unused_address();
    for (url, status, reasons) in [
        (format!("http://{nobody}/"), 502, &["connect_refused"][..]),
        ("http://nowhere.invalid/".to_owned(), 502, &["dns_error"]),
        ("http://127.0.0.1:0/".to_owned(), 400, &["malformed"]),
        ("https://127.0.0.1/".to_owned(), 403, &["forbidden"]),
    ] {
        let answer = fetch(&weir, &url);
        let reason = answer.json()["reason"].as_str().unwrap().to_owned();
        assert_eq!(answer.status(), status, "{url}: {reason}");
        assert!(reasons.contains(&reason.as_str()), "{url}: {reason}");
    }
    for (target, status) in [(nobody.to_string(), 502), ("nowhere.invalid:443".to_owned(), 502)] {
        let answer = ask(&weir, &format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n"));
        assert_eq!(answer.status(), status, "{target}");
        assert!(answer.header("proxy-status").is_some());
    }
    for bad in [
        "CONNECT 127.0.0.1 HTTP/1.1",
        "CONNECT / HTTP/1.1",
        "CONNECT http://a:1/ HTTP/1.1",
        "CONNECT a:0 HTTP/1.1",
    ] {
        assert_eq!(ask(&weir, &format!("{bad}\r\nhost: a\r\n\r\n")).status(), 400, "{bad}");
    }
    let body = format!("CONNECT {nobody} HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi");
    assert_eq!(ask(&weir, &body).status(), 400);
    // A listener whose queue is full takes nobody in, and says nothing.
    let silent = full_listener();
    let answer = fetch(&weir, &format!("http://{}/", silent.0));
    assert_eq!((answer.status(), answer.json()["reason"].as_str()), (504, Some("connect_timeout")));
}

/// An address that takes no connections and refuses none, and what keeps it so.
fn full_listener() -> (SocketAddr, impl Sized) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let waiting = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            waiting.set_nonblocking(true).unwrap();
            let _ = waiting.connect(&address.into());
            waiting
        })
        .collect();
    (address, (socket, waiting))
}

/// A server that sends back what it gets, and ends when its client does.
fn parrot() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut part = [0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut part) {
                    if stream.write_all(&part[..n]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn a_tunnel_carries_bytes_and_is_on_the_books() {
    let named = Origin::answering(200, "named");
    let weir = weir(&named, "");
    let parrot = parrot();
    let mut raw = Raw::connect(weir.at("outbound"));
    // The first bytes of the tunnel may come with the request.
    raw.send(format!(
        "CONNECT {parrot} HTTP/1.1\r\nhost: {parrot}\r\nproxy-authorization: Basic c2VjcmV0\r\n\r\nearly "
    ));
    let head = raw.head().unwrap();
    assert_eq!(head.status(), 200);
    assert!(
        head.header("content-length").is_none() && head.header("transfer-encoding").is_none(),
        "{head:?}"
    );
    raw.send("and late");
    assert_eq!(raw.exactly(14).unwrap(), b"early and late");
    raw.finish_sending();
    raw.expect_closed();
    wait_until("the access record", || !weir.access_records().is_empty());
    let record = &weir.access_records()[0];
    assert_eq!(
        (&record["method"], &record["status"], &record["ended"]),
        (&"CONNECT".into(), &200.into(), &"complete".into())
    );
    assert_eq!((&record["request_bytes"], &record["response_bytes"]), (&14.into(), &14.into()));
    assert_eq!(
        (&record["upstream"], &record["endpoint"]),
        (&"_passthrough".into(), &parrot.to_string().into())
    );
    let labels =
        [("listener", "outbound"), ("route", "_passthrough"), ("method", "CONNECT"), ("code", "200")];
    weir.wait_metric("weir_requests_total", &labels, 1.0);
    weir.wait_metric("weir_request_bytes_total", &[("listener", "outbound")], 14.0);
    weir.wait_metric("weir_requests_in_flight", &[("listener", "outbound")], 0.0);
}

#[test]
fn switches_and_limits_are_for_tunnels_too() {
    let named = Origin::answering(200, "named");
    let weir = Weir::start(&format!(
        "listeners:\n  outbound: {{ listen: \"{{{{outbound}}}}\", unmatched: passthrough }}\npolicy:\n  upstreams: {{ named: {{ \
         endpoints: [\"{}\"] }} }}\n  routes: {{ named: {{ match: {{ host: named.test }}, upstream: named }} }}\n  switches:\n    \
         move: {{ upstream: named, state: on, announce: on }}\n    note: {{ annotate: {{ x-a: b }}, priority: 1, state: on, \
         announce: on }}\n  limits: {{ few: {{ rate: 2/h, burst: 2, headers: always }} }}\n",
        named.address
    ));
    let parrot = parrot();
    let connect = format!("CONNECT {parrot} HTTP/1.1\r\nhost: {parrot}\r\n\r\n");
    for left in ["\"few\";r=1;", "\"few\";r=0;"] {
        let mut raw = Raw::connect(weir.at("outbound"));
        raw.send(format!("{connect}echo"));
        let head = raw.head().unwrap();
        assert_eq!(head.status(), 200);
        // It leads where its client says: nothing was moved, and nothing says so.
        assert_eq!(head.header("x-weir-switch").as_deref(), Some("\"note\";rev=0"));
        assert!(head.header("ratelimit").is_some_and(|value| value.starts_with(left)), "{head:?}");
        assert_eq!(raw.exactly(4).unwrap(), b"echo");
    }
    let refused = ask(&weir, &connect);
    assert_eq!((refused.status(), refused.json()["policy"].as_str()), (429, Some("few")));
    weir.wait_metric("weir_switch_hits_total", &[("switch", "note"), ("mode", "on")], 3.0);
    weir.wait_metric("weir_switch_hits_total", &[("switch", "move"), ("mode", "on")], 0.0);
    assert_eq!(named.requests(), 0);
}

#[test]
fn tunnels_are_bounded() {
    let named = Origin::answering(200, "named");
    let weir = weir(&named, ", passthrough: { max_tunnels: 2 }");
    let parrot = parrot();
    let connect = format!("CONNECT {parrot} HTTP/1.1\r\nhost: {parrot}\r\n\r\n");
    let mut open: Vec<_> = (0..2).map(|_| Raw::connect(weir.at("outbound"))).collect();
    for raw in &mut open {
        assert_eq!(raw.send(&connect).head().unwrap().status(), 200);
    }
    let answer = ask(&weir, &connect);
    assert_eq!((answer.status(), answer.json()["reason"].as_str()), (503, Some("pool_full")));
    drop(open.pop());
    wait_until("a place to be free", || {
        let mut raw = Raw::connect(weir.at("outbound"));
        raw.send(&connect).head().is_ok_and(|head| head.status() == 200)
    });
}

#[test]
fn a_tunnel_over_http2_is_one_stream() {
    let named = Origin::answering(200, "named");
    let weir = weir(&named, "");
    let parrot = parrot();
    let client = Client::http2(weir.at("outbound"));
    let tunnel = |authority: &str| {
        hyper::Request::builder().method("CONNECT").uri(authority.to_owned()).body(client::empty()).unwrap()
    };
    let sender = client.clone();
    let authority = parrot.to_string();
    let echoed = crate::support::driver::run(async move {
        let request = tunnel(&authority);
        let mut response = sender.exchange(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let mut io = hyper_util::rt::TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
        tokio::io::AsyncWriteExt::write_all(&mut io, b"through a stream").await.unwrap();
        let mut echoed = vec![0; 16];
        tokio::io::AsyncReadExt::read_exact(&mut io, &mut echoed).await.unwrap();
        echoed
    });
    assert_eq!(echoed, b"through a stream");
    // The connection is still there for other streams.
    let own = weir.at("admin").to_string();
    let refused = client.send(tunnel(&own));
    assert_eq!(refused.status, 403);
    assert_eq!(client.send(tunnel("named.test:443")).status, 403);
}

#[test]
fn the_number_of_destinations_is_bounded_and_so_are_the_series() {
    let named = Origin::answering(200, "named");
    let weir = weir(&named, ", passthrough: { max_destinations: 4 }");
    let origins: Vec<_> = (0..12).map(|_| Origin::answering(200, "ok")).collect();
    let mut raw = Raw::connect(weir.at("outbound"));
    // A series of requests appears with its first one.
    assert_eq!(raw.get(&origins[0].address.to_string(), "/").status(), 200);
    weir.wait_metric("weir_requests_total", &[("listener", "outbound")], 1.0);
    let before = weir.telemetry_get("/metrics").text().lines().count();
    for _ in 0..2 {
        for origin in &origins {
            assert_eq!(raw.get(&origin.address.to_string(), "/").status(), 200);
        }
    }
    // Each worker keeps its share; the connections to all others are closed.
    wait_until("the connections to forgotten destinations to be closed", || {
        origins.iter().map(Origin::open_connections).sum::<usize>() <= 4
    });
    weir.wait_metric("weir_attempts_total", &[("upstream", "_passthrough"), ("outcome", "success")], 25.0);
    let after = weir.telemetry_get("/metrics").text();
    assert_eq!(after.lines().count(), before, "series appeared: {after}");
    assert!(!after.contains("127.0.0.1"), "no label comes from a request");
    // Those that are known are used again, and the pool says so.
    let last = &origins[11];
    let connections = last.connections();
    for _ in 0..5 {
        assert_eq!(raw.get(&last.address.to_string(), "/").status(), 200);
    }
    assert_eq!(last.connections(), connections, "the connection is pooled");
    wait_until("the gauge of idle connections", || {
        weir.metrics().sum("weir_pool_connections", &[("upstream", "_passthrough"), ("state", "idle")]) >= 1.0
    });
}
