//! What a switch does to streams, upgrades, gRPC and tunnels: it never looks like a tunnel that stands, and what is past
//! it runs on.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
};

use crate::{
    support::{
        client::{Client, empty, fed},
        driver,
        origin::Origin,
        raw::Raw,
        raw_origin::RawOrigin,
        weir::Weir,
    },
    world::World,
};

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const KEY: &str = "orders/switches/x";

/// One that rejects, and one that answers well.
const ACTIONS: [&str; 2] = ["{state: on, reject: {}}", "{state: on, respond: {status: 200, body: calm}}"];

fn policy(origin: SocketAddr, matches: &str) -> String {
    format!(
        "  upstreams: {{ app: {{ endpoints: [\"{origin}\"] }} }}\n  routes: {{ all: {{ match: {{ listener: inbound }}, upstream: app }} }}\n  switches:\n    x: {{ match: {{ {matches} }}, reject: {{}}, state: off }}\n"
    )
}

/// An origin that takes upgrades and then sends back what it gets.
fn chatty() -> RawOrigin {
    RawOrigin::start(|connection| {
        while let Some(head) = connection.head() {
            if head.header("upgrade").is_none() {
                connection.raw.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                continue;
            }
            connection.raw.send(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            );
            while let Ok(part) = connection.raw.exactly(4) {
                if connection.raw.try_send(part).is_err() {
                    return;
                }
            }
            return;
        }
    })
}

#[test]
fn an_upgrade_is_refused_before_it_happens_and_left_alone_after() {
    let (world, origin) = (World::start(), chatty());
    let weir = world.weir("pod-1", "", &policy(origin.address, "path: /chat"));
    let mut open = Raw::connect(weir.at("inbound"));
    assert_eq!(open.send(UPGRADE).head().unwrap().status(), 101);
    assert_eq!(open.send("ping").exactly(4).unwrap(), b"ping");
    for action in ACTIONS {
        world.put(&[&weir], KEY, action);
        let before = origin.seen().len();
        let mut raw = Raw::connect(weir.at("inbound"));
        let refused = raw.send(UPGRADE).answer();
        // To a request for an upgrade a plain answer is a refusal, whatever it says.
        if action == ACTIONS[0] {
            assert_eq!((refused.status(), refused.json()["policy"].as_str()), (503, Some("x")));
        } else {
            assert_eq!((refused.status(), refused.text().as_str()), (200, "calm"));
        }
        assert!(refused.header("upgrade").is_none() && refused.header("sec-websocket-accept").is_none());
        // The connection is one for requests still.
        assert_eq!(raw.get("a.test", "/").text(), "ok");
        assert_eq!(origin.seen().len(), before + 1);
        assert_eq!(open.send("more").exactly(4).unwrap(), b"more", "what is open stays open");
        world.delete(&[&weir], KEY);
        let mut again = Raw::connect(weir.at("inbound"));
        assert_eq!(again.send(UPGRADE).head().unwrap().status(), 101);
    }
}

#[test]
fn an_extended_connect_never_looks_accepted() {
    let (world, origin) = (World::start(), chatty());
    let weir = world.weir("pod-1", "", &policy(origin.address, "path: /chat"));
    let client = Client::http2(weir.at("inbound"));
    assert_eq!(client.get("a.test", "/").status, 200);
    let connect = || {
        let headers = [("sec-websocket-version", "13")];
        let mut request = client.to("a.test", "CONNECT", "/chat", &headers, empty());
        request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
        request
    };
    for action in ACTIONS {
        world.put(&[&weir], KEY, action);
        let refused = client.send(connect());
        assert_eq!((refused.status, refused.json()["policy"].as_str()), (503, Some("x")), "{action}");
        world.delete(&[&weir], KEY);
        assert_eq!(client.open(connect()).unwrap().status(), 200, "{action}");
    }
}

#[test]
fn streams_that_are_past_it_run_on() {
    let (world, origin) = (World::start(), Origin::echo());
    let weir = world.weir("pod-1", "", &policy(origin.address, "methods: [POST]"));
    for (client, grpc) in [
        (Client::http1(weir.at("inbound")), false),
        (Client::http2(weir.at("inbound")), false),
        (Client::http2(weir.at("inbound")), true),
    ] {
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let headers = if grpc { &headers[..] } else { &[] };
        let (feed, body) = fed();
        feed.data("before ");
        let mut stream = client.open(client.to("a.test", "POST", "/s", headers, body)).unwrap();
        assert_eq!(stream.next_text(), "before ");
        world.put(&[&weir], KEY, "on");
        let new = Client::http2(weir.at("inbound"));
        let refused = new.send(new.to("a.test", "POST", "/s", headers, empty()));
        if grpc {
            // Trailers only: the status is in the head, and nothing follows.
            assert_eq!((refused.status, refused.header("grpc-status")), (200, "14"));
            assert!(refused.body.is_empty() && refused.trailers.is_empty(), "{refused:?}");
            assert_eq!(refused.header("content-type"), "application/grpc");
            assert!(refused.header("grpc-message").contains("(x)"), "{refused:?}");
        } else {
            assert_eq!(refused.status, 503);
        }
        assert!(feed.data("and after"));
        assert_eq!(stream.next_text(), "and after");
        drop(feed);
        assert!(stream.collect().is_ok(), "it ends well");
        world.delete(&[&weir], KEY);
    }
}

/// A server that sends back what it gets.
fn parrot() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
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

/// The status that a CONNECT over HTTP/2 gets.
fn connect2(weir: &Weir, target: SocketAddr) -> u16 {
    let client = Client::http2(weir.at("outbound"));
    let request = hyper::Request::builder().method("CONNECT").uri(target.to_string()).body(empty()).unwrap();
    driver::run(async move { client.exchange(request).await.unwrap().status().as_u16() })
}

#[test]
fn a_tunnel_is_refused_before_it_stands_and_left_alone_after() {
    let (world, origin, parrot) = (World::start(), Origin::answering(200, "ok"), parrot());
    let weir = world.weir("pod-1", "", &policy(origin.address, "listener: outbound"));
    let connect = format!("CONNECT {parrot} HTTP/1.1\r\nhost: {parrot}\r\n\r\n");
    let mut open = Raw::connect(weir.at("outbound"));
    assert_eq!(open.send(&connect).head().unwrap().status(), 200);
    assert_eq!(open.send("ping").exactly(4).unwrap(), b"ping");
    for action in ACTIONS {
        world.put(&[&weir], KEY, action);
        let refused = Raw::connect(weir.at("outbound")).send(&connect).answer();
        assert_eq!((refused.status(), refused.json()["policy"].as_str()), (503, Some("x")), "{action}");
        assert_eq!(connect2(&weir, parrot), 503, "{action}");
        assert_eq!(open.send("more").exactly(4).unwrap(), b"more", "what is open stays open");
        world.delete(&[&weir], KEY);
        assert_eq!(Raw::connect(weir.at("outbound")).send(&connect).head().unwrap().status(), 200);
        assert_eq!(connect2(&weir, parrot), 200);
    }
    // Those that act and go on do not stand in the way.
    world.put(&[&weir], KEY, "{state: on, annotate: {x-calm: \"1\"}}");
    let mut raw = Raw::connect(weir.at("outbound"));
    assert_eq!(raw.send(&connect).head().unwrap().status(), 200);
    assert_eq!(raw.send("ping").exactly(4).unwrap(), b"ping");
}
