//! The edges against programs that others wrote: HAProxy that sends the PROXY protocol, nginx on both sides of a unix
//! socket, curl and Python that use Weir as their proxy.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use support::{
    certs::Certs,
    origin::{self, Origin, Setup},
    programs::{Server, run, run_script},
    servers::Other,
    wait_until,
    weir::{File, Weir},
};

#[test]
fn haproxy_says_who_its_client_is() {
    let origin = Origin::echo();
    let weir = File::to(&[origin.address]).listener("proxy_protocol: required").start();
    for sends in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"] {
        for mode in ["http", "tcp"] {
            let haproxy = Other::start("haproxy", &["-f"], |_, address| {
                format!(
                    "defaults\n  mode {mode}\n  timeout connect 5s\n  timeout client 10s\n  timeout server 10s\n\
                     listen in\n  bind {address}\n  unique-id-format %{{+X}}o%ci_%cp\n  server weir {} {sends}\n",
                    weir.at("inbound")
                )
            });
            let at = format!("http://{}/", haproxy.address);
            let said =
                run("curl", &["-sS", "--noproxy", "*", "--interface", "127.0.0.77", "-d", "hi", &at]).ok();
            assert_eq!(said.out, "hi", "{sends} in mode {mode}");
            assert_eq!(origin.last().headers["x-forwarded-for"], "127.0.0.77", "{sends} in mode {mode}");
        }
    }
    weir.wait_metric("weir_connections_refused_total", &[("reason", "proxy_protocol")], 0.0);
}

#[test]
fn haproxy_looks_whether_weir_is_there_with_a_local_header() {
    let origin = Origin::echo();
    let weir = File::to(&[origin.address]).listener("proxy_protocol: required").start();
    let haproxy = Other::start("haproxy", &["-f"], |_, address| {
        format!(
            "defaults\n  mode http\n  timeout connect 5s\n  timeout client 10s\n  timeout server 10s\n\
             listen in\n  bind {address}\n  option httpchk GET /check\n  server weir {} send-proxy-v2 \
             check-send-proxy check inter 100ms\n",
            weir.at("inbound")
        )
    });
    wait_until("some checks", || origin.seen().iter().filter(|seen| seen.uri.path() == "/check").count() > 2);
    let said =
        run("curl", &["-sS", "--noproxy", "*", "-d", "hi", &format!("http://{}/", haproxy.address)]).ok();
    assert_eq!(said.out, "hi");
}

#[test]
fn nginx_stands_on_both_sides_of_unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (inbound, app) = (path("in.sock"), path("app.sock"));
    let file = format!(
        "listeners:\n  inbound: {{ listen: \"unix:{inbound}\", socket_mode: 0666 }}\npolicy:\n  upstreams:\n    app: {{ \
         endpoints: [\"unix:{app}\"] }}\n  routes:\n    all: {{ upstream: app }}\n"
    );
    let weir = Weir::start(&file);
    let nginx = Other::start("nginx", &["-g", "daemon off;", "-c"], |folder, address| {
        format!(
            "worker_processes 1; master_process off; pid {folder}/pid; error_log stderr;
             events {{ worker_connections 256; }}
             http {{
               access_log off; default_type text/plain; keepalive_requests 5;
               client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
               uwsgi_temp_path {folder}; scgi_temp_path {folder};
               server {{ listen unix:{app}; return 200 \"$http_x_forwarded_for $http_host\"; }}
               upstream weir {{ server unix:{inbound}; keepalive 4; }}
               server {{ listen {address};
                 location / {{ proxy_pass http://weir; proxy_http_version 1.1; proxy_set_header Connection ''; \
                   proxy_set_header Host a.test; proxy_set_header X-Forwarded-For $remote_addr; }} }}
             }}"
        )
    });
    let at = format!("http://{}/", nginx.address);
    // More than one of its connections lasts, on either side.
    for _ in 0..20 {
        let said = run("curl", &["-sS", "--noproxy", "*", "--interface", "127.0.0.66", &at]).ok();
        assert_eq!(said.out, "127.0.0.66, 127.0.0.1 a.test");
    }
    weir.wait_metric("weir_attempts_total", &[("outcome", "reset")], 0.0);
}

/// Weir in front of an endpoint that is spoken to by HTTP/2 alone.
fn over_http2(endpoint: std::net::SocketAddr) -> Weir {
    File::to(&[endpoint]).upstream("protocol: http2").start()
}

#[test]
fn websocket_by_extended_connect_to_haproxy() {
    let server = Server::start("ws_server.py");
    let haproxy = Other::start("haproxy", &["-f"], |_, address| {
        format!(
            "defaults\n  mode http\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n  timeout tunnel 20s\n\
             listen in\n  bind {address}\n  server ws {}\n",
            server.address
        )
    });
    let weir = over_http2(haproxy.address);
    run_script("ws_client.py", &[&weir.at("inbound").to_string()]).ok();
    weir.wait_metric("weir_responses_made_total", &[], 0.0);
}

#[test]
fn websocket_by_extended_connect_from_weir_to_weir() {
    let server = Server::start("ws_server.py");
    let second = File::to(&[server.address]).listener("protocol: http2").start();
    let first = over_http2(second.at("inbound"));
    run_script("ws_client.py", &[&first.at("inbound").to_string()]).ok();
    assert!(second.metrics().sum("weir_requests_total", &[("method", "CONNECT"), ("code", "200")]) > 10.0);
}

/// An origin in clear, one under TLS, and Weir as the proxy to both.
struct Proxied {
    certs: Certs,
    plain: Origin,
    secure: Origin,
    weir: Weir,
}

fn proxied() -> Proxied {
    let certs = Certs::new();
    let tls = certs.server(&certs.localhost(), &["h2", "http/1.1"], false);
    let secure = Origin::with(Setup { tls: Some(tls), ..Setup::default() }, |_| async {
        Ok(origin::answer(200, "secure"))
    });
    let plain = Origin::answering(200, "plain");
    let weir = Weir::start("listeners:\n  outbound: { listen: \"{{outbound}}\", unmatched: passthrough }\n");
    Proxied { certs, plain, secure, weir }
}

#[test]
fn curl_reaches_everything_through_weir() {
    let proxied = proxied();
    let (ca, proxy) = (proxied.certs.ca(), format!("http://{}", proxied.weir.at("outbound")));
    let always =
        ["-sS", "--noproxy", "", "-x", &proxy, "--proxy-user", "me:secret", "--cacert", ca.to_str().unwrap()];
    let curl = |more: &[&str]| run("curl", &[&always[..], more].concat()).ok().out;
    let plain = format!("http://{}/", proxied.plain.address);
    let secure = format!("https://localhost:{}/", proxied.secure.address.port());
    assert_eq!(curl(&[&plain]), "plain");
    assert!(!proxied.plain.last().headers.contains_key("proxy-authorization"));
    assert_eq!(curl(&["--proxytunnel", &plain]), "plain");
    assert!(!proxied.plain.last().headers.contains_key("via"), "a tunnel adds nothing");
    for version in ["--http1.1", "--http2"] {
        assert_eq!(curl(&[version, "-w", "|%{http_connect}", &secure]), "secure|200");
        assert!(!proxied.secure.last().headers.contains_key("proxy-authorization"));
    }
    let own = format!("https://localhost:{}/", proxied.weir.at("admin").port());
    let refused = run("curl", &[&always[..], &["-w", "%{http_connect}", &own]].concat());
    assert_eq!((refused.code, refused.out.as_str()), (56, "403"), "{}", refused.err);
    proxied.weir.wait_metric("weir_requests_total", &[("method", "CONNECT"), ("code", "200")], 3.0);
    proxied.weir.wait_metric("weir_requests_total", &[("method", "CONNECT"), ("code", "403")], 1.0);
}

#[test]
fn python_reaches_everything_with_http_proxy_set() {
    let proxied = proxied();
    let ca = proxied.certs.ca();
    let arguments = [
        proxied.weir.at("outbound").to_string(),
        proxied.plain.address.to_string(),
        format!("localhost:{}", proxied.secure.address.port()),
        ca.display().to_string(),
        format!("localhost:{}", proxied.weir.at("telemetry").port()),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    run_script("http_proxy.py", &arguments).ok();
}
