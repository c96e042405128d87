//! The PROXY protocol on listeners, and unix sockets on either side.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use rustix::process::Signal;

use crate::support::{
    PATIENCE,
    certs::Certs,
    client::{self, Client},
    origin::Origin,
    raw::Raw,
    raw_origin::RawOrigin,
    wait_until,
    weir::{File, Weir, binary},
};

const V1: &str = "PROXY TCP4 203.0.113.9 10.0.0.1 56324 443\r\n";
const REQUEST: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

/// A header of version 2: 203.0.113.9 over TCP, and extensions.
fn v2(extensions: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    bytes.extend(u16::try_from(12 + extensions.len()).unwrap().to_be_bytes());
    bytes.extend([203, 0, 113, 9, 10, 0, 0, 1, 0xdc, 4, 1, 0xbb]);
    bytes.extend(extensions);
    bytes
}

fn answered(weir: &Weir, bytes: &[u8]) -> u16 {
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send(bytes).answer().status()
}

/// Sends, and expects that the connection ends without a byte.
fn refused(weir: &Weir, bytes: &[u8]) {
    let mut raw = Raw::connect(weir.at("inbound"));
    // Weir may have closed by then.
    let _ = raw.try_send(bytes);
    raw.expect_closed();
}

fn refusals(weir: &Weir, count: f64) {
    weir.wait_metric("weir_connections_refused_total", &[("reason", "proxy_protocol")], count);
}

#[test]
fn the_client_that_the_balancer_names_is_the_peer_everywhere() {
    let origin = Origin::echo();
    let weir = Weir::start(&format!(
        "log: {{ access: all }}\nlisteners:\n  inbound: {{ listen: \"{{{{inbound}}}}\", proxy_protocol: required }}\npolicy:\n  \
         upstreams:\n    app: {{ endpoints: [\"{}\"] }}\n  routes:\n    known: {{ match: {{ client: 203.0.113.0/24 }}, \
         upstream: app }}\n",
        origin.address
    ));
    for header in [V1.as_bytes().to_vec(), v2(b""), v2(&[4, 0, 2, 9, 9])] {
        let forged = "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 10.9.9.9\r\nconnection: close\r\n\r\n";
        assert_eq!(answered(&weir, &[&header[..], forged.as_bytes()].concat()), 200);
        let seen = origin.last();
        assert_eq!(seen.headers["x-forwarded-for"], "203.0.113.9", "what a stranger said is gone");
    }
    wait_until("the access records", || weir.access_records().len() == 3);
    assert!(weir.access_records().iter().all(|record| record["client"] == "203.0.113.9"));
    // Other clients have no route; and headers without a client leave the balancer's own address.
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
    for header in ["PROXY TCP6 2001:db8::1 ::1 1 2\r\n".as_bytes(), b"PROXY UNKNOWN\r\n", local] {
        assert_eq!(answered(&weir, &[header, REQUEST.as_bytes()].concat()), 404);
    }
    refusals(&weir, 0.0);
}

#[test]
fn a_header_may_come_in_any_pieces_and_on_every_protocol() {
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).listener("proxy_protocol: required").start();
    for header in [V1.as_bytes().to_vec(), v2(&[&[0x20, 2, 0][..], &[7; 512]].concat())] {
        for size in [1, 7, 300] {
            let whole = [&header[..], REQUEST.as_bytes()].concat();
            let mut raw = Raw::connect(weir.at("inbound"));
            for piece in whole.chunks(size) {
                raw.send(piece);
            }
            assert_eq!(raw.answer().status(), 200, "{size} bytes at a time");
        }
    }
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send([V1.as_bytes(), preface].concat());
    assert_eq!(raw.exactly(9).unwrap()[3], 4, "SETTINGS");
}

#[test]
fn what_is_no_header_is_refused_and_counted() {
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).listener("proxy_protocol: required").start();
    let with = |header: &[u8]| [header, REQUEST.as_bytes()].concat();
    let wrong_checksum = v2(&[3, 0, 4, 1, 2, 3, 4]);
    let bad: [&[u8]; 7] = [
        b"",
        b"PROXY TCP4 203.0.113.9 10.0.0.1 56324\r\n",
        b"PROXY TCP4 203.0.113.9 10.0.0.1 56324 443\n",
        b"PROXY UDP4 203.0.113.9 10.0.0.1 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\x00\x00",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        &wrong_checksum,
    ];
    for header in bad {
        refused(&weir, &with(header));
    }
    refusals(&weir, 7.0);
    // One that says nothing is a probe.
    drop(Raw::connect(weir.at("inbound")));
    // Half a header, and then nothing more.
    let mut half = Raw::connect(weir.at("inbound"));
    half.send("PROXY TC").finish_sending();
    half.expect_closed();
    refusals(&weir, 8.0);
    assert_eq!(origin.requests(), 0);
    assert_eq!(answered(&weir, &with(V1.as_bytes())), 200);
}

#[test]
fn a_header_that_does_not_come_ends_with_the_header_timeout() {
    let origin = Origin::answering(200, "ok");
    let weir =
        File::to(&[origin.address]).listener("proxy_protocol: optional, header_timeout: 300ms").start();
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send("PROXY TCP4 203.0");
    raw.expect_closed();
    weir.wait_metric("weir_connections_refused_total", &[("reason", "timeout")], 1.0);
}

#[test]
fn an_optional_header_may_be_left_out() {
    let origin = Origin::echo();
    let weir = File::to(&[origin.address]).listener("proxy_protocol: optional").start();
    assert_eq!(answered(&weir, REQUEST.as_bytes()), 200);
    assert_eq!(origin.last().headers["x-forwarded-for"], "127.0.0.1");
    assert_eq!(answered(&weir, &[V1, REQUEST].concat().into_bytes()), 200);
    assert_eq!(origin.last().headers["x-forwarded-for"], "203.0.113.9");
    // A method that begins like a header, in pieces.
    let mut raw = Raw::connect(weir.at("inbound"));
    for piece in ["P", "RO", "PFIND / HTTP/1.1\r\nhost: a\r\n", "\r\n"] {
        raw.send(piece);
    }
    assert_eq!(raw.answer().status(), 200);
    assert_eq!(origin.last().method, "PROPFIND");
}

#[test]
fn a_header_of_a_stranger_is_never_believed() {
    let origin = Origin::answering(200, "ok");
    let with = |mode: &str| {
        let fields = format!("proxy_protocol: {mode}, proxy_protocol_from: [192.0.2.0/24]");
        File::to(&[origin.address]).listener(&fields).start()
    };
    let weir = with("optional");
    assert_eq!(answered(&weir, REQUEST.as_bytes()), 200);
    assert_eq!(answered(&weir, &[V1, REQUEST].concat().into_bytes()), 400);
    assert_eq!(answered(&weir, &[&v2(b"")[..], REQUEST.as_bytes()].concat()), 400);
    let weir = with("required");
    refused(&weir, [V1, REQUEST].concat().as_bytes());
    refused(&weir, REQUEST.as_bytes());
    refusals(&weir, 2.0);
    // Switched off, a header is no HTTP.
    let weir = File::to(&[origin.address]).start();
    assert_eq!(answered(&weir, &[V1, REQUEST].concat().into_bytes()), 400);
    assert_eq!(origin.requests(), 1);
}

#[test]
fn the_header_comes_before_tls() {
    let certs = Certs::new();
    let origin = Origin::echo();
    let identity = certs.localhost();
    let fields = format!(
        "proxy_protocol: optional, tls: {{ cert: {}, key: {} }}",
        identity.cert.display(),
        identity.key.display()
    );
    let weir = File::to(&[origin.address]).listener(&fields).start();
    let at = format!("https://localhost:{}/", weir.at("inbound").port());
    let (ca, at) = (certs.ca().to_str().unwrap().to_owned(), at.as_str());
    for (more, client) in [(&["--haproxy-protocol"][..], "127.0.0.1"), (&[], "127.0.0.1")] {
        let arguments = [&["-sS", "--noproxy", "*", "--cacert", &ca, at][..], more].concat();
        crate::support::programs::run("curl", &arguments).ok();
        assert_eq!(origin.last().headers["x-forwarded-for"], client);
        assert_eq!(origin.last().headers["x-forwarded-proto"], "https");
    }
    // The beginning of a header that then is none is no beginning of TLS.
    let mut raw = Raw::connect(weir.at("inbound"));
    raw.send("PRO");
    raw.send("PFIND / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(!String::from_utf8_lossy(&raw.rest()).contains("HTTP/1.1 2"));
    assert_eq!(origin.requests(), 2);
}

/// Weir with its listener on a unix socket.
fn on_socket(path: &Path, origin: &Origin, more: &str) -> String {
    format!(
        "listeners:\n  inbound: {{ listen: \"unix:{}\"{more} }}\npolicy:\n  upstreams:\n    app: {{ endpoints: [\"{}\"] }}\n  \
         routes:\n    all: {{ upstream: app }}\n",
        path.display(),
        origin.address
    )
}

fn ask_socket(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_listener_on_a_unix_socket_serves_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.sock");
    let origin = Origin::echo();
    // Two workers, so that connections are handed over.
    let file =
        format!("workers: 2\nlog: {{ access: all }}\n{}", on_socket(&path, &origin, ", socket_mode: 0600"));
    let mut weir = Weir::start(&file);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let forwarded = "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 203.0.113.9\r\nconnection: close\r\n\r\n";
    let kept: Vec<_> = (0..4).map(|_| UnixStream::connect(&path).unwrap()).collect();
    for _ in 0..8 {
        assert!(ask_socket(&path, forwarded).starts_with("HTTP/1.1 200"));
        // It is on this machine, and so it is believed as others there are.
        assert_eq!(origin.last().headers["x-forwarded-for"], "203.0.113.9, 127.0.0.1");
    }
    drop(kept);
    let socket = path.to_str().unwrap();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let arguments = ["-sS", "--unix-socket", socket, version, "-d", "body", "http://a.test/"];
        assert_eq!(crate::support::programs::run("curl", &arguments).ok().out, "body");
        assert_eq!(origin.last().headers["x-forwarded-for"], "127.0.0.1");
    }
    wait_until("the access records", || weir.access_records().len() == 10);
    assert_eq!(weir.access_records()[9]["client"], "127.0.0.1");
    assert!(weir.admin_get("/status").text().contains(&format!("unix:{socket}")));
    weir.sigterm();
    assert_eq!(weir.wait_exit(), 0);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn a_live_socket_is_not_stolen_and_a_stale_one_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.sock");
    let origin = Origin::answering(200, "ok");
    let file = on_socket(&path, &origin, "");
    let mut first = Weir::start(&file);
    let mut second = Weir::spawn(&file, &[]);
    assert_eq!(second.wait_exit(), 69);
    wait_until("what it says", || second.stderr().contains("another instance listens there"));
    assert!(ask_socket(&path, REQUEST).starts_with("HTTP/1.1 200"), "the first one still serves");
    first.signal(Signal::KILL);
    first.wait_exit();
    assert!(path.exists(), "a killed process leaves its file");
    let mut third = Weir::start(&file);
    assert!(ask_socket(&path, REQUEST).starts_with("HTTP/1.1 200"));
    third.sigterm();
    third.wait_exit();
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    let mut fourth = Weir::spawn(&file, &[]);
    assert_eq!(fourth.wait_exit(), 69);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_leaving_instance_gives_its_socket_up_as_soon_as_it_accepts_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.sock");
    let origin = Origin::start(|request| async move {
        if request.uri().path() == "/never" {
            std::future::pending::<()>().await;
        }
        Ok(crate::support::origin::answer(200, "ok"))
    });
    let file = on_socket(&path, &origin, "");
    let mut first = Weir::start(&file);
    let mut slow = UnixStream::connect(&path).unwrap();
    slow.write_all(b"GET /never HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    wait_until("the request to arrive", || origin.requests() == 1);
    first.sigterm();
    wait_until("the socket to be given up", || !path.exists());
    let _second = Weir::start(&file);
    assert!(ask_socket(&path, REQUEST).starts_with("HTTP/1.1 200"));
    assert!(first.is_running(), "and it still finishes what it had begun");
}

#[test]
fn admin_and_telemetry_may_be_unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let (admin, telemetry) = (folder.path().join("admin.sock"), folder.path().join("telemetry.sock"));
    let mut weir = Weir::spawn(
        &format!(
            "admin: {{ listen: \"unix:{}\" }}\ntelemetry: {{ listen: \"unix:{}\" }}\nlisteners:\n  inbound: {{ listen: \
             \"{{{{inbound}}}}\" }}\n",
            admin.display(),
            telemetry.display()
        ),
        &[],
    );
    wait_until("both sockets", || admin.exists() && telemetry.exists());
    let probe = "GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    wait_until("readiness", || ask_socket(&telemetry, probe).starts_with("HTTP/1.1 200"));
    let mode = |path| {
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions()) & 0o777
    };
    assert_eq!((mode(&admin), mode(&telemetry)), (0o600, 0o660));
    let at = format!("unix:{}", admin.display());
    let said = crate::support::programs::run(&binary(), &["status", "--admin", &at]).ok();
    assert!(said.out.contains("service"), "{}", said.out);
    // By the file, and a call that changes something.
    let file = weir.path();
    crate::support::programs::run(&binary(), &["drain", "-c", file.to_str().unwrap()]).ok();
    wait_until("the drain", || ask_socket(&telemetry, probe).starts_with("HTTP/1.1 503"));
    weir.sigterm();
    assert_eq!(weir.wait_exit(), 0);
    assert!(!admin.exists() && !telemetry.exists());
}

#[test]
fn an_endpoint_may_be_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let weir = Weir::start(&format!(
        "listeners:\n  inbound: {{ listen: \"{{{{inbound}}}}\" }}\npolicy:\n  upstreams:\n    app: {{ endpoints: \
         [\"unix:{}\"] }}\n  routes:\n    all: {{ upstream: app }}\n",
        path.display()
    ));
    let mut raw = Raw::connect(weir.at("inbound"));
    assert_eq!(raw.get("a.test", "/").json()["reason"], "connect_refused", "nobody is there yet");
    // An instance of Weir that listens there, with an origin behind it, is a server like any other.
    let origin = Origin::answering(200, "ok");
    let _app = Weir::start(&on_socket(&path, &origin, ""));
    for _ in 0..3 {
        assert_eq!(raw.get("a.test", "/").text(), "ok");
    }
    assert_eq!(origin.last().host(), "a.test");
    weir.wait_metric("weir_attempts_total", &[("upstream", "app"), ("outcome", "success")], 3.0);
    let upstreams = weir.admin_get("/upstreams").json();
    assert_eq!(upstreams["app"]["endpoints"][0]["address"], format!("unix:{}", path.display()));
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: \
                       13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn an_upgrade_goes_to_an_http2_endpoint_as_extended_connect() {
    // The second Weir speaks HTTP/2 towards the first, and shows its origin what came.
    let origin = RawOrigin::answering(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-protocol: p\r\n\r\n",
    );
    let second = File::to(&[origin.address]).listener("protocol: http2").start();
    let first = File::to(&[second.at("inbound")]).upstream("protocol: http2").start();
    let mut raw = Raw::connect(first.at("inbound"));
    raw.send(UPGRADE);
    let head = raw.head().unwrap();
    assert_eq!(head.status(), 101);
    // RFC 6455 §1.3 has this pair: the endpoint never saw the client's key.
    assert_eq!(head.header("sec-websocket-accept").as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(head.header("upgrade").as_deref(), Some("websocket"));
    assert_eq!(head.header("sec-websocket-protocol").as_deref(), Some("p"));
    assert!(head.header("content-length").is_none() && head.header("transfer-encoding").is_none());
    let seen = &origin.seen()[0];
    assert!(seen.start.starts_with("GET /chat "), "{}", seen.start);
    assert_ne!(seen.header("sec-websocket-key").as_deref(), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    assert_eq!(seen.header("host").as_deref(), Some("a"));
    // A client that speaks extended CONNECT itself.
    let client = Client::http2(first.at("inbound"));
    let mut request =
        hyper::Request::builder().method("CONNECT").uri("http://a/chat").body(client::empty()).unwrap();
    request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
    let answer = client.open(request).unwrap();
    assert_eq!(answer.status(), 200);
    first.wait_metric("weir_responses_made_total", &[], 0.0);
}

#[test]
fn an_http2_endpoint_that_takes_no_extended_connect_is_a_502_that_says_so() {
    let origin = Origin::answering(200, "ok");
    let weir = Weir::start(&format!(
        "log: {{ access: all }}\n{}",
        File::to(&[origin.address]).upstream("protocol: http2").text()
    ));
    let mut raw = Raw::connect(weir.at("inbound"));
    let answer = raw.send(UPGRADE).answer();
    assert_eq!((answer.status(), answer.json()["reason"].as_str()), (502, Some("upstream_protocol")));
    wait_until("the access record", || !weir.access_records().is_empty());
    let record = weir.access_records()[0].to_string();
    assert!(record.contains("RFC 8441"), "{record}");
    // The connection was left alone, and serves.
    assert_eq!(raw.get("a", "/").status(), 200);
    assert_eq!((origin.requests(), origin.connections()), (1, 1));
}

#[test]
fn an_http2_endpoint_may_refuse_an_upgrade() {
    let origin = Origin::answering(403, "no");
    let second = File::to(&[origin.address]).listener("protocol: http2").start();
    let first = File::to(&[second.at("inbound")]).upstream("protocol: http2").start();
    let mut raw = Raw::connect(first.at("inbound"));
    let answer = raw.send(UPGRADE).answer();
    assert_eq!((answer.status(), answer.text().as_str()), (403, "no"));
    // One that ignores it answers as to any request, which is no success of a CONNECT.
    let origin = Origin::answering(200, "what?");
    let second = File::to(&[origin.address]).listener("protocol: http2").start();
    let first = File::to(&[second.at("inbound")]).upstream("protocol: http2").start();
    assert_eq!(Raw::connect(first.at("inbound")).send(UPGRADE).answer().status(), 502);
}
