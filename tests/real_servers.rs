//! Servers and proxies that others wrote, on either side of the finished binary: nginx behind it, HAProxy in front.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::fs;

use support::{
    raw::Raw,
    servers::Other,
    weir::{File, Weir},
};

/// nginx with a folder of files and little patience for idle connections.
fn nginx() -> Other {
    let nginx = Other::start("nginx", &["-g", "daemon off;", "-c"], |folder, address| {
        fs::create_dir(format!("{folder}/www")).unwrap();
        fs::write(format!("{folder}/www/index.html"), "a page of ten thousand words\n".repeat(1_000))
            .unwrap();
        format!(
            "worker_processes 1; master_process off; pid {folder}/pid; error_log stderr;
             events {{ worker_connections 256; }}
             http {{
               access_log off; keepalive_requests 7; gzip on; gzip_types *; gzip_proxied any; default_type text/plain;
               client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
               uwsgi_temp_path {folder}; scgi_temp_path {folder};
               server {{ listen {address}; root {folder}/www; location = /put {{ return 405; }} }}
             }}"
        )
    });
    assert!(nginx.folder.path().join("www/index.html").exists());
    nginx
}

fn ask(raw: &mut Raw, request: &str) -> support::raw::Message {
    raw.send(request);
    raw.answer()
}

#[test]
fn nginx_serves_files_through_weir() {
    let nginx = nginx();
    let weir = File::to(&[nginx.address]).start();
    let mut raw = Raw::connect(weir.at("inbound"));
    let whole = raw.get("a.test", "/index.html");
    assert_eq!((whole.status(), whole.text().len()), (200, 29_000));
    let tag = whole.header("etag").unwrap();
    let fresh =
        ask(&mut raw, &format!("GET /index.html HTTP/1.1\r\nhost: a\r\nif-none-match: {tag}\r\n\r\n"));
    assert_eq!(fresh.status(), 304);
    let part = ask(&mut raw, "GET /index.html HTTP/1.1\r\nhost: a\r\nrange: bytes=2-5\r\n\r\n");
    assert_eq!((part.status(), part.text().as_str()), (206, "page"));
    let packed = ask(&mut raw, "GET /index.html HTTP/1.1\r\nhost: a\r\naccept-encoding: gzip\r\n\r\n");
    assert_eq!(packed.header("content-encoding").as_deref(), Some("gzip"));
    assert_eq!(packed.header("transfer-encoding").as_deref(), Some("chunked"));
    // nginx closes each of its connections after seven requests.
    for _ in 0..50 {
        assert_eq!(raw.get("a.test", "/").status(), 200);
    }
    assert_eq!(raw.get("a.test", "/nowhere").status(), 404);
    let refused = ask(&mut raw, "POST /put HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello");
    assert_eq!(refused.status(), 405);
    weir.wait_metric("weir_responses_made_total", &[], 0.0);
}

/// HAProxy that balances over `weirs` and asks each `/readyz`.
fn haproxy(weirs: &[&Weir]) -> Other {
    let servers: Vec<_> = weirs
        .iter()
        .enumerate()
        .map(|(i, weir)| {
            let probe = weir.at("telemetry");
            let (at, probe_port) = (weir.at("inbound"), probe.port());
            format!("  server weir{i} {at} check inter 50ms fall 1 rise 1 port {probe_port}\n")
        })
        .collect();
    let servers = servers.concat();
    Other::start("haproxy", &["-f"], |_, address| {
        format!(
            "defaults\n  mode http\n  timeout connect 1s\n  timeout check 5s\n  timeout client 10s\n  timeout server 10s\n\
             frontend in\n  bind {address}\n  default_backend weirs\n\
             backend weirs\n  option httpchk GET /readyz\n  option redispatch\n  retries 2\n{servers}"
        )
    })
}

#[test]
fn haproxy_in_front_sees_readiness_and_loses_no_request_when_an_instance_leaves() {
    let origin = support::origin::Origin::answering(200, "ok");
    let file = File::to(&[origin.address]).top("drain: { delay: 500ms, grace: 5s }");
    let (mut first, second) = (file.start(), file.start());
    let haproxy = haproxy(&[&first, &second]);
    let mut raw = Raw::connect(haproxy.address);
    for _ in 0..20 {
        assert_eq!(raw.get("a.test", "/").status(), 200);
    }
    let served = |weir: &Weir| weir.metrics().sum("weir_requests_total", &[("listener", "inbound")]);
    assert!(served(&first) > 0.0 && served(&second) > 0.0, "both are used");
    first.sigterm();
    let mut sent = 0;
    while first.is_running() {
        assert_eq!(raw.get("a.test", "/").status(), 200, "request {sent} after the signal");
        sent += 1;
    }
    assert_eq!(first.wait_exit(), 0);
    assert!(sent > 0, "no request was sent while it left");
    assert_eq!(raw.get("a.test", "/").status(), 200);
}
