//! What Weir says about its traffic and itself: metrics, access records, probes, the admin interface, logs.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use crate::support::{
    client::{Client, empty, full},
    origin::{self, Origin},
    raw::Raw,
    wait_for, wait_until,
    weir::{File, Weir, unused_address},
};

fn with_origin() -> (Origin, Weir) {
    let origin = Origin::start(|request| async move {
        let status = request.uri().path().trim_start_matches('/').parse().unwrap_or(200);
        Ok(if request.method() == "POST" { origin::echo(request) } else { origin::answer(status, "ok") })
    });
    let weir = File::to(&[origin.address]).top("log: { access: all }").start();
    (origin, weir)
}

#[test]
fn requests_are_counted_by_route_method_and_code() {
    let (_origin, weir) = with_origin();
    let client = Client::http1(weir.at("inbound"));
    for path in ["/", "/", "/404", "/503"] {
        client.get("a.test", path);
    }
    client.send(client.to("a.test", "POST", "/", &[], full("12345")));
    client.send(client.to("a.test", "BREW", "/", &[], empty()));
    let labels = |code| [("listener", "inbound"), ("route", "all"), ("method", "GET"), ("code", code)];
    weir.wait_metric("weir_requests_total", &[], 6.0);
    let metrics = weir.metrics();
    for (code, count) in [("200", 2.0), ("404", 1.0), ("503", 1.0)] {
        assert!((metrics.sum("weir_requests_total", &labels(code)) - count).abs() < 1e-9, "{code}");
    }
    assert!(!metrics.has("weir_requests_total", &[("method", "BREW")]), "labels come from closed sets only");
    let requests = [("listener", "inbound"), ("route", "all")];
    weir.wait_metric("weir_request_duration_seconds_count", &requests, 6.0);
    weir.wait_metric("weir_upstream_duration_seconds_count", &[("upstream", "app")], 6.0);
    weir.wait_metric("weir_overhead_seconds_count", &[("listener", "inbound")], 6.0);
    weir.wait_metric("weir_request_bytes_total", &[("listener", "inbound")], 5.0);
    weir.wait_metric("weir_response_bytes_total", &[("listener", "inbound")], 15.0);
    weir.wait_metric("weir_attempts_total", &[("upstream", "app")], 6.0);
    weir.wait_metric("weir_requests_in_flight", &[("listener", "inbound")], 0.0);
    weir.wait_metric("weir_connections", &[("listener", "inbound")], 1.0);
    weir.wait_metric("weir_connections_total", &[("listener", "inbound")], 1.0);
    drop(client);
    weir.wait_metric("weir_connections", &[("listener", "inbound")], 0.0);
}

#[test]
fn what_policy_names_is_there_before_the_first_request() {
    let (_origin, weir) = with_origin();
    let metrics = weir.metrics();
    for (name, labels) in [
        ("weir_requests_in_flight", ("listener", "inbound")),
        ("weir_connections", ("listener", "inbound")),
        ("weir_request_duration_seconds_count", ("route", "all")),
        ("weir_upstream_duration_seconds_count", ("upstream", "app")),
        ("weir_endpoints", ("upstream", "app")),
        ("weir_pool_connections", ("upstream", "app")),
        ("weir_policy_updates_total", ("result", "applied")),
        ("weir_policy_source", ("source", "baseline")),
    ] {
        assert!(metrics.has(name, &[labels]), "{name} {labels:?}");
    }
    for name in [
        "weir_panics_total",
        "weir_build_info",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
    ] {
        assert!(metrics.has(name, &[]), "{name}");
    }
    assert!(!metrics.has("weir_requests_total", &[]), "appears on first use");
    assert!((metrics.sum("weir_endpoints", &[("upstream", "app")]) - 1.0).abs() < 1e-9);
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    let (_origin, weir) = with_origin();
    Client::http1(weir.at("inbound")).get("a.test", "/");
    weir.wait_metric("weir_requests_total", &[], 1.0);
    let scrape = weir.telemetry_get("/metrics");
    assert!(scrape.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is there; `make setup-test` gets it");
    promtool.stdin.take().unwrap().write_all(&scrape.body).unwrap();
    let done = crate::support::programs::finish(promtool, crate::support::PATIENCE).ok();
    assert_eq!((done.out.as_str(), done.err.as_str()), ("", ""));
}

/// The access record of the request with this id, once it is written.
#[track_caller]
fn record(weir: &Weir, id: &str) -> serde_json::Value {
    wait_for("the access record", || {
        weir.access_records().into_iter().find(|record| record["request_id"] == id)
    })
}

#[test]
fn an_access_record_tells_the_whole_exchange() {
    let (origin, weir) = with_origin();
    let client = Client::http1(weir.at("inbound"));
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [("x-request-id", "r1"), ("traceparent", parent)];
    client.send(client.to("a.test", "POST", "/orders?secret=1", &headers, full("12345")));
    let record = record(&weir, "r1");
    for (field, wanted) in [
        ("listener", "inbound"),
        ("method", "POST"),
        ("host", "a.test"),
        ("path", "/orders"),
        ("route", "all"),
        ("upstream", "app"),
        ("ended", "complete"),
        ("scheme", "http"),
        ("trace_id", "0af7651916cd43dd8448eb211c80319c"),
    ] {
        assert_eq!(record[field], wanted, "{field} in {record}");
    }
    assert_eq!(record["endpoint"], origin.address.to_string());
    assert_eq!(
        (&record["status"], &record["request_bytes"], &record["response_bytes"]),
        (&200.into(), &5.into(), &5.into())
    );
    assert_eq!(record["attempts"].as_array().map(Vec::len), Some(1), "{record}");
    assert_eq!(record["client"], "127.0.0.1");
    assert!(record["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{record}");
    assert!(record["duration_ms"].as_f64().is_some() && record["upstream_ms"].as_f64().is_some(), "{record}");
    assert!(!record.to_string().contains("secret"), "the query is no one's business");
}

#[test]
fn an_access_record_names_the_client_that_a_trusted_peer_names() {
    let (_origin, weir) = with_origin();
    let client = Client::http1(weir.at("inbound"));
    let headers = [("x-request-id", "far"), ("x-forwarded-for", "203.0.113.7")];
    client.send(client.to("a.test", "GET", "/", &headers, empty()));
    let record = record(&weir, "far");
    assert_eq!(record["client"], "203.0.113.7", "{record}");
    assert!(record["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{record}");
}

#[test]
fn an_access_record_has_the_status_of_a_grpc_call_from_its_trailers() {
    let origin = Origin::start(|_| async { Ok(origin::with_trailers(200, "body", &[("grpc-status", "5")])) });
    let weir = File::to(&[origin.address]).top("log: { access: all }").start();
    let client = Client::http2(weir.at("inbound"));
    let headers = [("x-request-id", "call"), ("content-type", "application/grpc"), ("te", "trailers")];
    client.send(client.to("a.test", "POST", "/shop.Orders/Get", &headers, full("x")));
    let record = record(&weir, "call");
    assert_eq!((&record["grpc_status"], &record["status"]), (&5.into(), &200.into()), "{record}");
}

#[test]
fn requests_without_a_route_are_counted_too() {
    let origin = Origin::answering(200, "ok");
    let weir = File::to(&[origin.address]).route("match: { path: /known }").start();
    let client = Client::http1(weir.at("inbound"));
    client.get("a.test", "/known");
    client.get("a.test", "/unknown");
    let unrouted = [("listener", "inbound"), ("route", ""), ("method", "GET"), ("code", "404")];
    weir.wait_metric("weir_requests_total", &unrouted, 1.0);
    weir.wait_metric("weir_requests_total", &[], 2.0);
    weir.wait_metric("weir_request_duration_seconds_count", &[("route", "")], 1.0);
    weir.wait_metric("weir_responses_made_total", &[("route", ""), ("reason", "no_route")], 1.0);
}

#[test]
fn access_records_name_reasons_and_how_exchanges_ended() {
    let weir = File::to(&[unused_address()]).top("log: { access: errors }").start();
    let client = Client::http1(weir.at("inbound"));
    client.send(client.to("a.test", "GET", "/", &[("x-request-id", "refused")], empty()));
    let refused = record(&weir, "refused");
    assert_eq!((&refused["reason"], &refused["status"]), (&"connect_refused".into(), &502.into()));

    let origin = Origin::start(|request| async move {
        if request.uri().path() == "/silent" {
            std::future::pending().await
        } else {
            Ok(origin::broken_off("half"))
        }
    });
    let weir = File::to(&[origin.address]).top("log: { access: errors }").route("timeout: 0").start();
    let client = Client::http1(weir.at("inbound"));
    let broken =
        client.open(client.to("a.test", "GET", "/", &[("x-request-id", "broken")], empty())).unwrap();
    assert!(broken.collect().is_err());
    assert_eq!(record(&weir, "broken")["ended"], "upstream_reset");
    let client = Client::http1(weir.at("inbound"));
    let gone = client.start(client.to("a.test", "GET", "/silent", &[("x-request-id", "gone")], empty()));
    origin.wait_for_requests(2);
    gone.abort();
    drop(client);
    assert_eq!(record(&weir, "gone")["ended"], "client_gone");
}

#[test]
fn probes_say_how_things_are() {
    let (_origin, weir) = with_origin();
    for path in ["/livez", "/readyz", "/startupz"] {
        assert_eq!(weir.telemetry_get(path).status(), 200, "{path}");
        assert_eq!(weir.admin_get(path).status(), 200, "{path}");
    }
    assert_eq!(weir.telemetry_get("/status").status(), 404, "the telemetry address tells nothing else");
    assert_eq!(weir.telemetry_get("/policy").status(), 404);
    assert_eq!(weir.admin_get("/nothing").status(), 404);
}

#[test]
fn the_admin_interface_shows_status_policy_and_upstreams() {
    let (origin, weir) = with_origin();
    Client::http1(weir.at("inbound")).get("a.test", "/");
    let status = weir.admin_get("/status").json();
    assert_eq!(status["service"], "test", "{status}");
    assert_eq!(status["draining"], false, "{status}");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"), "{status}");
    assert_eq!(status["policy"]["source"], "baseline", "{status}");
    for (field, inside) in [("revisions", "applied"), ("revisions", "observed"), ("revisions", "proven")] {
        assert_eq!(
            status[field].get(inside),
            Some(&serde_json::Value::Null),
            "no store, no revision: {status}"
        );
    }
    for field in ["store", "sync_age_seconds", "cache", "instances"] {
        assert_eq!(status.get(field), Some(&serde_json::Value::Null), "{field} in {status}");
    }
    assert_eq!(status["held"], serde_json::json!([]), "{status}");
    let policy = weir.admin_get("/policy").json();
    assert!(policy.to_string().contains(&origin.address.to_string()), "{policy}");
    let upstreams = weir.admin_get("/upstreams").json();
    let text = upstreams.to_string();
    assert!(text.contains("\"app\"") && text.contains(&origin.address.to_string()), "{upstreams}");
}

#[test]
fn writing_calls_of_the_admin_interface_refuse_other_sites() {
    let (_origin, mut weir) = with_origin();
    let admin = weir.at("admin");
    let post = |headers: &str| {
        let mut raw = Raw::connect(admin);
        raw.send(format!(
            "POST /drain HTTP/1.1\r\n{headers}content-length: 2\r\nconnection: close\r\n\r\n{{}}"
        ))
        .answer()
        .status()
    };
    let json = "content-type: application/json\r\n";
    for (what, headers) in [
        ("a foreign host (DNS rebinding)", format!("host: evil.example\r\n{json}")),
        ("a foreign origin", format!("host: {admin}\r\norigin: http://evil.example\r\n{json}")),
        ("a cross-site fetch", format!("host: {admin}\r\nsec-fetch-site: cross-site\r\n{json}")),
        ("a form", format!("host: {admin}\r\ncontent-type: application/x-www-form-urlencoded\r\n")),
    ] {
        assert!((400..500).contains(&post(&headers)), "{what} is let in");
    }
    assert_eq!(weir.admin_get("/drain").status(), 405, "GET changes nothing");
    assert!(weir.is_running());
    assert_eq!(weir.telemetry_get("/readyz").status(), 200);
}

#[test]
fn the_log_level_changes_at_run_time() {
    let (origin, mut weir) = with_origin();
    let client = Client::http1(weir.at("inbound"));
    let reload_with = |weir: &mut Weir, mark: &str| {
        weir.reload(
            &File::to(&[origin.address])
                .route(&format!("response_headers: {{ set: {{ x-mark: {mark} }} }}"))
                .text(),
        );
        wait_until("the file to be in force", || client.get("a.test", "/").header("x-mark") == mark);
    };
    let set = |weir: &Weir, level: &str| {
        weir.admin_send("PUT", "/log", &format!("{{\"level\": \"{level}\"}}")).status()
    };
    assert!((200..300).contains(&set(&weir, "error")));
    let before = weir.stderr();
    reload_with(&mut weir, "quiet");
    assert!((200..300).contains(&set(&weir, "info")));
    reload_with(&mut weir, "loud");
    wait_until("the second reload to be told", || weir.stderr().len() > before.len());
    let told = weir.stderr()[before.len()..].matches("applied").count();
    assert!(told <= 1, "the first reload was told at level error: {}", weir.stderr());
    assert!((400..500).contains(&set(&weir, "deafening")));
}

#[test]
fn recent_refusals_are_listed() {
    let weir = File::to(&[unused_address()]).start();
    let client = Client::http1(weir.at("inbound"));
    let id = client.get("a.test", "/x").header("x-request-id").to_owned();
    wait_until("the request to be listed", || weir.admin_get("/requests").text().contains(&id));
    assert!(weir.admin_get("/requests").text().contains("connect_refused"));
}
