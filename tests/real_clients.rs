//! Clients and servers that others wrote, through the finished binary: curl, h2load, wrk, gRPC, WebSocket, HTTP/2 and
//! uploads in Python. Each Python client is first held against its own server, so that a fault is Weir's.

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
    origin::{self, Origin, answer_with},
    programs::{Done, Server, run, run_script},
    weir::{File, Weir},
};

const MEBIBYTE: usize = 1 << 20;

/// An origin that shows what curl can show: by path a greeting, the body back, a range, an empty answer.
fn shop() -> Origin {
    Origin::start(|request| async move {
        Ok(match request.uri().path() {
            "/echo" => return origin::echo_at_end(request).await,
            "/empty" => origin::bare(204),
            "/unchanged" => answer_with(304, &[("etag", "\"v1\"")], support::client::empty()),
            "/range" => {
                assert_eq!(request.headers()["range"], "bytes=2-5");
                let headers = [("content-range", "bytes 2-5/10"), ("accept-ranges", "bytes")];
                answer_with(206, &headers, support::client::full("2345"))
            }
            "/version" => origin::answer(200, format!("{:?}", request.version())),
            _ => answer_with(200, &[("x-from", "origin")], support::client::full("hello")),
        })
    })
}

/// curl, silent, failing on nothing but its own faults, printing the body and then `|status|version`.
fn curl(arguments: &[&str]) -> String {
    let always = ["-sS", "--max-time", "20", "--noproxy", "", "-w", "|%{http_code}|%{http_version}"];
    let arguments: Vec<&str> = always.iter().chain(arguments).copied().collect();
    run("curl", &arguments).ok().out
}

#[test]
fn curl_speaks_http1() {
    let (origin, weir) = through(shop());
    let at = format!("http://{}", weir.at("inbound"));
    assert_eq!(curl(&[&at]), "hello|200|1.1");
    assert_eq!(curl(&[&format!("{at}/empty")]), "|204|1.1");
    assert_eq!(curl(&["-H", "If-None-Match: \"v1\"", &format!("{at}/unchanged")]), "|304|1.1");
    assert_eq!(curl(&["-r", "2-5", &format!("{at}/range")]), "2345|206|1.1");
    let head = curl(&["-I", &at]).to_lowercase();
    assert!(head.contains("content-length: 5") && head.ends_with("|200|1.1"), "{head}");
    assert_eq!(origin.last().method, "HEAD");
}

#[test]
fn curl_reuses_its_connection() {
    let (_origin, weir) = through(shop());
    let at = format!("http://{}", weir.at("inbound"));
    let said = run("curl", &["-sSv", "--noproxy", "*", &at, &at, &at]).ok();
    assert_eq!(said.out, "hellohellohello");
    assert_eq!(said.err.matches("Re-using existing connection").count(), 2, "{}", said.err);
}

#[test]
fn curl_speaks_http2_by_prior_knowledge() {
    let (_origin, weir) = through(shop());
    let at = format!("http://{}", weir.at("inbound"));
    assert_eq!(curl(&["--http2-prior-knowledge", &at]), "hello|200|2");
    assert_eq!(curl(&["--http2-prior-knowledge", &format!("{at}/empty")]), "|204|2");
    assert_eq!(curl(&["--http2-prior-knowledge", "-d", "body", &format!("{at}/echo")]), "body|200|2");
}

#[test]
fn curl_asking_for_an_upgrade_to_h2c_gets_its_answer() {
    let (_origin, weir) = through(shop());
    let said = curl(&["--http2", &format!("http://{}", weir.at("inbound"))]);
    assert!(said.starts_with("hello|200|"), "{said}");
}

#[test]
fn curl_speaks_both_versions_under_tls() {
    let certs = Certs::new();
    let origin = shop();
    let identity = certs.localhost();
    let tls = format!("tls: {{ cert: {}, key: {} }}", identity.cert.display(), identity.key.display());
    let weir = File::to(&[origin.address]).listener(&tls).start();
    let at = format!("https://localhost:{}", weir.at("inbound").port());
    let ca = certs.ca();
    let ca = ca.to_str().unwrap();
    assert_eq!(curl(&["--cacert", ca, "--http2", &at]), "hello|200|2");
    assert_eq!(curl(&["--cacert", ca, "--http1.1", &at]), "hello|200|1.1");
    assert_eq!(curl(&["--cacert", ca, "--no-alpn", &at]), "hello|200|1.1");
}

#[test]
fn curl_uses_weir_as_its_http_proxy() {
    let origin = shop();
    let weir = Weir::start(&format!(
        "listeners:\n  outbound: {{ listen: \"{{{{outbound}}}}\" }}\npolicy:\n  upstreams:\n    inventory: {{ endpoints: \
         [\"{}\"] }}\n  routes:\n    inventory: {{ listener: outbound, match: {{ host: inventory }}, upstream: inventory }}\n",
        origin.address
    ));
    let proxy = format!("http://{}", weir.at("outbound"));
    assert_eq!(curl(&["-x", &proxy, "http://inventory/stock?item=1"]), "hello|200|1.1");
    let seen = origin.last();
    assert_eq!((seen.uri.to_string().as_str(), seen.host().as_str()), ("/stock?item=1", "inventory"));
    let unknown = curl(&["-x", &proxy, "http://elsewhere/"]);
    assert!(unknown.contains("no_route") && unknown.ends_with("|404|1.1"), "{unknown}");
}

#[test]
fn curl_uploads_and_waits_for_100_continue() {
    let (origin, weir) = through(shop());
    let body = "0123456789abcdef".repeat(MEBIBYTE / 16);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("body");
    std::fs::write(&file, &body).unwrap();
    let at = format!("http://{}/echo", weir.at("inbound"));
    let upload = format!("@{}", file.display());
    for more in
        [&["-H", "Expect: 100-continue"][..], &["-H", "Expect:"], &["-H", "Transfer-Encoding: chunked"]]
    {
        let arguments: Vec<&str> = ["-v", "--expect100-timeout", "15", "--data-binary", &upload, &at]
            .into_iter()
            .chain(more.iter().copied())
            .collect();
        let started = std::time::Instant::now();
        let said = run("curl", &[&["-sS", "--noproxy", "*"], &arguments[..]].concat()).ok();
        assert!(said.out == body, "{} bytes came back for {more:?}", said.out.len());
        assert!(started.elapsed().as_secs() < 10, "curl gave up waiting for 100 Continue ({more:?})");
        if more[1].ends_with("100-continue") {
            assert!(said.err.contains("HTTP/1.1 100"), "{}", said.err);
        }
    }
    assert_eq!(origin.requests(), 3);
}

#[test]
fn curl_sees_a_problem_document_when_nobody_answers() {
    let weir = File::to(&[support::weir::unused_address()]).start();
    let said = curl(&["-i", &format!("http://{}", weir.at("inbound"))]);
    assert!(said.contains("application/problem+json") && said.contains("\"connect_refused\""), "{said}");
    assert!(said.ends_with("|502|1.1"), "{said}");
}

#[test]
fn h2load_under_load() {
    let (origin, weir) = through(shop());
    let at = format!("http://{}/", weir.at("inbound"));
    all_succeeded(&run("h2load", &["-n", "5000", "-c", "8", "-m", "20", &at]).ok(), 5000);
    all_succeeded(&run("h2load", &["--h1", "-n", "5000", "-c", "8", &at]).ok(), 5000);
    assert_eq!(origin.requests(), 10_000);
}

#[test]
fn h2load_with_bodies_under_load() {
    let (_origin, weir) = through(shop());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("body");
    std::fs::write(&file, vec![b'x'; 100_000]).unwrap();
    let at = format!("http://{}/echo", weir.at("inbound"));
    all_succeeded(
        &run("h2load", &["-n", "500", "-c", "4", "-m", "10", "-d", file.to_str().unwrap(), &at]).ok(),
        500,
    );
}

#[test]
fn h2load_over_tls_under_load() {
    let certs = Certs::new();
    let origin = shop();
    let identity = certs.localhost();
    let tls = format!("tls: {{ cert: {}, key: {} }}", identity.cert.display(), identity.key.display());
    let weir = File::to(&[origin.address]).listener(&tls).start();
    let at = format!("https://localhost:{}/", weir.at("inbound").port());
    let done = run("h2load", &["-n", "5000", "-c", "8", "-m", "20", &at]).ok();
    assert!(done.out.contains("Application protocol: h2"), "{}", done.out);
    all_succeeded(&done, 5000);
}

#[test]
fn h2load_to_an_origin_that_speaks_http2_under_load() {
    let origin = shop();
    let weir = File::to(&[origin.address]).upstream("protocol: http2").start();
    let at = format!("http://{}/version", weir.at("inbound"));
    all_succeeded(&run("h2load", &["-n", "5000", "-c", "8", "-m", "20", &at]).ok(), 5000);
    assert_eq!(curl(&[&at]), "HTTP/2.0|200|1.1");
}

fn all_succeeded(done: &Done, n: usize) {
    let wanted =
        format!("requests: {n} total, {n} started, {n} done, {n} succeeded, 0 failed, 0 errored, 0 timeout");
    assert!(done.out.contains(&wanted), "{}", done.out);
    assert!(done.out.contains(&format!("status codes: {n} 2xx")), "{}", done.out);
}

#[test]
fn wrk_under_load() {
    let (origin, weir) = through(shop());
    let done =
        run("wrk", &["-t", "1", "-c", "32", "-d", "3s", &format!("http://{}/", weir.at("inbound"))]).ok();
    assert!(!done.out.contains("Socket errors") && !done.out.contains("Non-2xx"), "{}", done.out);
    assert!(origin.requests() > 100, "{}", done.out);
}

#[test]
fn grpc_directly() {
    let server = Server::start("grpc_server.py");
    run_script("grpc_client.py", &[&server.address.to_string()]).ok();
}

#[test]
fn grpc_through_weir() {
    let server = Server::start("grpc_server.py");
    let weir = File::to(&[server.address]).start();
    run_script("grpc_client.py", &[&weir.at("inbound").to_string()]).ok();
}

#[test]
fn websocket_directly() {
    let server = Server::start("ws_server.py");
    run_script("ws_client.py", &[&server.address.to_string()]).ok();
}

#[test]
fn websocket_through_weir() {
    let server = Server::start("ws_server.py");
    let weir = File::to(&[server.address]).start();
    run_script("ws_client.py", &[&weir.at("inbound").to_string()]).ok();
}

#[test]
fn http2_odd_cases_directly() {
    let server = Server::start("h2_server.py");
    run_script("h2_client.py", &[&server.address.to_string()]).ok();
}

#[test]
fn http2_odd_cases_through_weir() {
    let server = Server::start("h2_server.py");
    let weir = File::to(&[server.address]).upstream("protocol: http2").start();
    run_script("h2_client.py", &[&weir.at("inbound").to_string(), "proxy"]).ok();
}

#[test]
fn uploads_directly() {
    let origin = Origin::echo();
    run_script("upload_client.py", &[&origin.address.to_string()]).ok();
}

#[test]
fn uploads_through_weir() {
    let (_origin, weir) = through(Origin::echo());
    run_script("upload_client.py", &[&weir.at("inbound").to_string()]).ok();
}

#[test]
fn uploads_through_weir_to_an_origin_that_speaks_http2() {
    let origin = Origin::echo();
    let weir = File::to(&[origin.address]).upstream("protocol: http2").start();
    run_script("upload_client.py", &[&weir.at("inbound").to_string()]).ok();
}

fn through(origin: Origin) -> (Origin, Weir) {
    let weir = File::to(&[origin.address]).start();
    (origin, weir)
}
