//! Accepting connections: protocols, TLS, bounds.

use std::{
    fs,
    net::TcpStream,
    time::{Duration, Instant},
};

use hyper::Version;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::support::{
    certs::{Certs, Identity},
    client::Client,
    metrics::Metrics,
    origin::Origin,
    raw::Raw,
    wait_for, wait_until,
    weir::{File, Weir},
};

fn tls(identity: &Identity) -> String {
    format!("tls: {{ cert: {}, key: {} }}", identity.cert.display(), identity.key.display())
}

#[test]
fn one_port_speaks_both_versions() {
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).start();
    assert_eq!(Client::http1(weir.at("inbound")).get("a.test", "/").version, Version::HTTP_11);
    assert_eq!(Client::http2(weir.at("inbound")).get("a.test", "/").version, Version::HTTP_2);
}

#[test]
fn the_preface_may_come_in_pieces() {
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).start();
    let mut raw = Raw::connect(weir.at("inbound"));
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0" {
        raw.send([*byte]);
    }
    let frame = raw.exactly(9).unwrap();
    assert_eq!(frame[3], 4, "the server's preface is a SETTINGS frame (RFC 9113 section 3.4)");
    let mut raw = Raw::connect(weir.at("inbound"));
    for byte in b"PRINT / HTTP/1.1\r\nhost: a.test\r\n\r\n" {
        raw.send([*byte]);
    }
    assert_eq!(raw.answer().status(), 200, "a method that begins like the preface");
}

#[test]
fn tls_agrees_by_alpn() {
    let certs = Certs::new();
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).listener(&tls(&certs.localhost())).start();
    for (alpn, wanted) in [(&["h2", "http/1.1"][..], Version::HTTP_2), (&["http/1.1"][..], Version::HTTP_11)]
    {
        let client = Client::tls(weir.at("inbound"), certs.client(None, alpn)).unwrap();
        assert_eq!(client.get("localhost", "/").version, wanted);
        assert_eq!(origin.last().header("x-forwarded-proto"), "https");
    }
    let clear = Raw::connect(weir.at("inbound")).send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").rest();
    assert!(!clear.starts_with(b"HTTP/1.1 2"), "clear text on a TLS port");
}

#[test]
fn clients_must_show_a_certificate_where_the_file_says_so() {
    let certs = Certs::new();
    let origin = Origin::answering(200, "ok");
    let identity = certs.localhost();
    let fields = format!(
        "tls: {{ cert: {}, key: {}, client_ca: {} }}",
        identity.cert.display(),
        identity.key.display(),
        certs.ca().display()
    );
    let weir = File::to(&[origin.address]).listener(&fields).start();
    let own = certs.issue("client", &["client.test"]);
    let client = Client::tls(weir.at("inbound"), certs.client(Some(&own), &["http/1.1"])).unwrap();
    assert_eq!(client.get("localhost", "/").status, 200);
    let others = Certs::new();
    let stranger = others.issue("stranger", &["client.test"]);
    for identity in [None, Some(&stranger)] {
        // In TLS 1.3 the client learns of the refusal only with its first read.
        let Ok(client) = Client::tls(weir.at("inbound"), certs.client(identity, &["http/1.1"])) else {
            continue;
        };
        let request = client.to("localhost", "GET", "/", &[], crate::support::client::empty());
        assert!(client.open(request).is_err(), "a client without a good certificate got an answer");
    }
    assert_eq!(origin.requests(), 1);
}

#[test]
fn a_new_certificate_is_taken_and_half_a_pair_never() {
    let certs = Certs::new();
    let origin = Origin::answering(200, "ok");
    let identity = certs.localhost();
    let weir = File::to(&[origin.address]).listener(&tls(&identity)).start();
    let reaches = |weir: &Weir, certs: &Certs| {
        Client::tls(weir.at("inbound"), certs.client(None, &["http/1.1"]))
            .is_ok_and(|c| c.get("localhost", "/").status == 200)
    };
    assert!(reaches(&weir, &certs));
    let other = Certs::new();
    let fresh = other.localhost();
    std::fs::copy(&fresh.cert, &identity.cert).unwrap(); // the key still belongs to the old certificate
    wait_until("the bad pair to be noticed", || {
        weir.metrics().sum("weir_tls_reloads_total", &[("listener", "inbound"), ("result", "failure")]) >= 1.0
    });
    assert!(reaches(&weir, &certs), "the old pair stays in force while the new one does not fit");
    std::fs::copy(&fresh.key, &identity.key).unwrap();
    wait_until("the new pair to be in force", || reaches(&weir, &other));
}

#[test]
fn connections_over_the_bound_are_refused() {
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).listener("max_connections: 3").start();
    let mut open: Vec<Raw> = (0..3).map(|_| Raw::connect(weir.at("inbound"))).collect();
    for raw in &mut open {
        assert_eq!(raw.get("a.test", "/").status(), 200);
    }
    weir.wait_metric("weir_connections", &[("listener", "inbound")], 3.0);
    let mut fourth = Raw::connect(weir.at("inbound"));
    let _ = fourth.try_send("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n");
    let said = fourth.rest();
    assert!(!said.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&said));
    open.pop();
    let mut next = wait_for("a free place", || {
        let mut raw = Raw::over(TcpStream::connect(weir.at("inbound")).ok()?);
        raw.try_send("GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").ok()?;
        (raw.head().ok()?.status() == 200).then_some(raw)
    });
    next.stream().set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert_eq!(next.exactly(2).unwrap(), b"ok");
    weir.wait_metric("weir_connections", &[("listener", "inbound")], 3.0);
}

/// An HTTP/2 frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The head of `GET /` for the host `a`, in HPACK (RFC 7541 §6).
const HEAD: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;

/// Sends what `next` makes until the connection ends, which must happen within 20,000 frames.
fn flood(weir: &crate::support::weir::Weir, mut next: impl FnMut(u32) -> Vec<u8>) {
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").send(frame(SETTINGS, 0, 0, &[]));
    let ended = (0..20_000).any(|n| raw.try_send(next(n)).is_err());
    assert!(ended, "20,000 frames of a flood were taken");
}

#[test]
fn floods_of_resets_and_continuations_end_the_connection() {
    let origin = Origin::silent();
    let weir = File::to(&[origin.address]).start();
    flood(&weir, |n| {
        let stream = 2 * n + 1;
        [frame(HEADERS, 0x5, stream, HEAD), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    });
    // The head never ends.
    flood(&weir, |n| {
        if n == 0 {
            frame(HEADERS, 0x1, 1, HEAD)
        } else {
            frame(CONTINUATION, 0, 1, &[0x40, 0x01, b'x', 0x01, b'y'])
        }
    });
    weir.wait_metric("weir_connections", &[], 0.0);
    weir.wait_metric("weir_requests_in_flight", &[], 0.0);
}

#[test]
fn a_listener_speaks_only_what_it_is_told() {
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).listener("protocol: http1").start();
    assert_eq!(Client::http1(weir.at("inbound")).get("a.test", "/").status, 200);
    let said =
        Raw::connect(weir.at("inbound")).send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").rest();
    assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 4") || said.starts_with(b"HTTP/1.1 5"));
    let weir = File::to(&[origin.address]).listener("protocol: http2").start();
    assert_eq!(Client::http2(weir.at("inbound")).get("a.test", "/").status, 200);
    let said = Raw::connect(weir.at("inbound")).send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").rest();
    assert!(!said.starts_with(b"HTTP/1.1 2"));
}

/// Bounds the open files of a running Weir.
fn limit_open_files(weir: &Weir, files: u64) {
    let pid = Pid::from_raw(weir.pid().try_into().unwrap());
    let limit = prlimit(pid, Resource::Nofile, Rlimit { current: Some(files), maximum: None });
    limit.unwrap_or_else(|_| {
        prlimit(pid, Resource::Nofile, Rlimit { current: Some(files), maximum: Some(20_000) }).unwrap()
    });
}

#[test]
fn without_files_accepting_slows_down_and_comes_back() {
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).top("workers: 1").start();
    let (mut traffic, mut scrape) = (Raw::connect(weir.at("inbound")), Raw::connect(weir.at("telemetry")));
    assert_eq!(traffic.get("a.test", "/").status(), 200);
    let mut errors = || {
        let text = scrape.get("weir", "/metrics").text();
        Metrics::parse(&text).sum("weir_accept_errors_total", &[("listener", "inbound")])
    };
    assert!(errors() < 1.0);
    let open = fs::read_dir(format!("/proc/{}/fd", weir.pid())).unwrap().count();
    limit_open_files(&weir, u64::try_from(open).unwrap());
    let waiting = TcpStream::connect(weir.at("inbound")).unwrap();
    let begun = Instant::now();
    wait_until("accept errors that are counted", || errors() >= 4.0);
    assert_eq!(traffic.get("a.test", "/").status(), 200, "a connection that is there goes on");
    // The pauses double from 5 ms up to a second: a loop without them would count thousands in this time.
    let most = 10.0 + begun.elapsed().as_secs_f64();
    let counted = errors();
    assert!(counted <= most, "{counted} errors, at most {most} expected");
    limit_open_files(&weir, 1_000);
    let mut waiting = Raw::over(waiting);
    assert_eq!(waiting.get("a.test", "/").status(), 200, "the connection that waited is served");
}
