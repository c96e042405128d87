//! From the start to the end of the process: files, reloads, drains, signals, the wrapped application.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::support::{
    PATIENCE,
    client::{Client, empty, fed},
    origin::{self, Origin},
    programs::finish,
    raw::Raw,
    wait_until,
    weir::{File, Weir, binary, command, unused_address},
};

/// An origin whose answers begin with "start" and end when the feed is dropped.
fn streaming() -> (Origin, crate::support::client::Feed) {
    let (feed, body) = fed();
    feed.data("start");
    let body = std::sync::Mutex::new(Some(body));
    let origin = Origin::start(move |_| {
        let body = body.lock().unwrap().take();
        async {
            Ok(body.map_or_else(|| origin::answer(200, "ok"), |body| origin::answer_with(200, &[], body)))
        }
    });
    (origin, feed)
}

#[test]
fn an_idle_instance_leaves_at_once() {
    let origin = Origin::answering(200, "ok");
    let mut weir = File::to(&[origin.address]).top("drain: { delay: 10s, grace: 15s }").start();
    let started = Instant::now();
    weir.sigterm();
    assert_eq!(weir.wait_exit(), 0);
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "inbound never served a request: there is nothing to wait for"
    );
}

#[test]
fn draining_goes_in_order_and_loses_nothing() {
    let (origin, feed) = streaming();
    let mut weir = File::to(&[origin.address]).top("drain: { delay: 1s, grace: 15s }").start();
    let client = Client::http2(weir.at("inbound"));
    let mut running = client.open(client.to("a.test", "GET", "/", &[], empty())).unwrap();
    assert_eq!(running.next_text(), "start");

    let signalled = Instant::now();
    weir.sigterm();
    wait_until("readiness to be off", || weir.telemetry_get("/readyz").status() == 503);
    let mut late = Raw::connect(weir.at("inbound"));
    let answer = late.get("a.test", "/");
    assert_eq!(
        (answer.status(), answer.header("connection").as_deref()),
        (200, Some("close")),
        "still served, for the last time"
    );
    assert_eq!(weir.admin_get("/status").json()["draining"], true);

    wait_until("the listener to be closed", || std::net::TcpStream::connect(weir.at("inbound")).is_err());
    assert!(signalled.elapsed() >= Duration::from_secs(1), "connections are accepted during drain.delay");
    assert!(weir.is_running(), "an exchange still runs");
    feed.data(" end");
    assert_eq!(running.next_text(), " end");
    drop(feed);
    assert!(running.next().is_none());
    assert_eq!(weir.wait_exit(), 0);
    assert!(signalled.elapsed() < Duration::from_secs(14), "idle after the delay: leaves at once");
}

#[test]
fn what_runs_longer_than_the_grace_is_cut() {
    let (origin, _feed) = streaming();
    let mut weir = File::to(&[origin.address]).top("drain: { delay: 0s, grace: 500ms }").start();
    let client = Client::http1(weir.at("inbound"));
    let mut running = client.open(client.to("a.test", "GET", "/", &[], empty())).unwrap();
    assert_eq!(running.next_text(), "start");
    weir.sigterm();
    assert!(running.next().expect("no clean end").is_err());
    weir.wait_exit();
}

#[test]
fn a_second_sigterm_cuts_now() {
    let (origin, _feed) = streaming();
    let mut weir = File::to(&[origin.address]).top("drain: { delay: 0s, grace: 100s }").start();
    let client = Client::http1(weir.at("inbound"));
    let mut running = client.open(client.to("a.test", "GET", "/", &[], empty())).unwrap();
    assert_eq!(running.next_text(), "start");
    weir.sigterm();
    wait_until("the first to be heard", || std::net::TcpStream::connect(weir.at("inbound")).is_err());
    weir.sigterm();
    weir.wait_exit();
}

#[test]
fn idle_connections_are_told_to_leave() {
    let origin = Origin::answering(200, "ok");
    let mut weir = File::to(&[origin.address]).start();
    let mut idle = Raw::connect(weir.at("inbound"));
    assert_eq!(idle.get("a.test", "/").status(), 200);
    weir.sigterm();
    idle.expect_closed();
    assert_eq!(weir.wait_exit(), 0);
}

#[test]
fn post_drain_drains_inbound_alone() {
    let origin = Origin::answering(200, "ok");
    let mut weir = Weir::start(&format!(
        "listeners:\n  inbound: {{ listen: \"{{{{inbound}}}}\" }}\n  outbound: {{ listen: \"{{{{outbound}}}}\" }}\npolicy:\n  \
         upstreams:\n    app: {{ endpoints: [\"{}\"] }}\n  routes:\n    all: {{ upstream: app }}\n",
        origin.address
    ));
    assert_eq!(Client::http1(weir.at("inbound")).get("a.test", "/").status, 200);
    let answer = weir.admin_send("POST", "/drain", "{}");
    assert!((200..300).contains(&answer.status()), "{}", answer.text());
    wait_until("readiness to be off", || weir.telemetry_get("/readyz").status() == 503);
    wait_until("inbound to be closed", || std::net::TcpStream::connect(weir.at("inbound")).is_err());
    assert_eq!(
        Client::http1(weir.at("outbound")).get("a.test", "/").status,
        200,
        "the application's last calls"
    );
    assert!(weir.is_running());
    weir.sigterm();
    assert_eq!(weir.wait_exit(), 0);
}

#[test]
fn a_changed_file_is_taken_without_a_signal() {
    let origin = Origin::answering(200, "ok");
    let mut weir = File::to(&[origin.address]).start();
    let client = Client::http1(weir.at("inbound"));
    assert_eq!(client.get("a.test", "/").header("x-new"), "");
    weir.write_file(&File::to(&[origin.address]).route("response_headers: { set: { x-new: \"1\" } }").text());
    wait_until("the new file to be in force", || client.get("a.test", "/").header("x-new") == "1");
}

#[test]
fn a_bad_file_is_refused_and_the_old_one_stays() {
    let origin = Origin::answering(200, "ok");
    let mut weir = File::to(&[origin.address]).start();
    let client = Client::http1(weir.at("inbound"));
    weir.reload(&File::to(&[origin.address]).route("timeuot: 1s").text());
    wait_until("the refusal to be counted", || {
        weir.metrics().sum("weir_policy_updates_total", &[("result", "refused")]) >= 1.0
    });
    assert_eq!(client.get("a.test", "/").status, 200);
    wait_until("the reason to be told", || weir.stderr().contains("timeuot"));
    weir.wait_metric("weir_policy_refused", &[("kind", "file")], 1.0);
    let refused = weir.admin_get("/status").json()["policy"]["file_refused"].clone();
    assert!(refused.as_str().is_some_and(|why| why.contains("timeuot")), "{refused}");
    weir.reload(&File::to(&[origin.address]).route("response_headers: { set: { x-new: \"1\" } }").text());
    wait_until("the mended file to be in force", || client.get("a.test", "/").header("x-new") == "1");
    weir.wait_metric("weir_policy_refused", &[], 0.0);
    assert!(weir.admin_get("/status").json()["policy"]["file_refused"].is_null());
}

#[test]
fn routes_come_and_go_with_the_file() {
    let origin = Origin::answering(200, "ok");
    let mut weir = File::to(&[origin.address]).route("match: { path: /old }").start();
    let client = Client::http2(weir.at("inbound"));
    assert_eq!((client.get("a.test", "/old").status, client.get("a.test", "/new").status), (200, 404));
    weir.reload(&File::to(&[origin.address]).route("match: { path: /new }").text());
    wait_until("the new route", || client.get("a.test", "/new").status == 200);
    assert_eq!(client.get("a.test", "/old").status, 404);
}

#[test]
fn a_bad_file_at_the_start_binds_nothing_and_exits_with_64() {
    let mut weir = Weir::spawn(&File::to(&[unused_address()]).route("timeuot: 1s, upstream: ap").text(), &[]);
    assert_eq!(weir.wait_exit(), 64);
    wait_until("the faults to be told", || weir.stderr().contains("timeuot"));
    let said = weir.stderr();
    assert!(said.contains("weir.yaml:") && said.contains("timeout"), "position and nearest name: {said}");
}

#[test]
fn an_address_in_use_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let file =
        File::to(&[unused_address()]).text().replace("{{inbound}}", &taken.local_addr().unwrap().to_string());
    let mut weir = Weir::spawn(&file, &[]);
    assert_ne!(weir.wait_exit(), 0);
    let port = taken.local_addr().unwrap().port().to_string();
    wait_until("the address to be told", || weir.stderr().contains(&port));
}

#[test]
fn check_says_what_is_wrong_and_exits_accordingly() {
    let good = "service: a\nlisteners: { inbound: { listen: 127.0.0.1:8080 } }\npolicy:\n  upstreams: { app: { endpoints: [127.0.0.1:3000] } }\n  \
                routes: { all: { upstream: app } }\n";
    let done = command(&["check"], good);
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    let done = command(&["check"], &good.replace("upstream: app", "upstream: ap"));
    let said = done.out + &done.err;
    assert_eq!(done.code, 64, "{said}");
    assert!(said.contains("weir.yaml:5:") && said.contains("app"), "{said}");
    let done = command(&["check", "-o", "json"], &good.replace("upstream: app", "upstream: ap, x: 1"));
    let faults: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    let errors = faults.as_array().unwrap().iter().filter(|fault| fault["severity"] == "error").count();
    assert_eq!(errors, 2, "{faults}");
}

#[test]
fn usage_errors_exit_with_2() {
    let done = crate::support::programs::run(&binary(), &["chekc"]);
    assert_eq!(done.code, 2);
    assert!(done.err.contains("check"), "{}", done.err);
}

#[test]
fn a_wrapped_application_gets_its_port_and_gives_its_exit_code() {
    let port = unused_address();
    let weir = Weir::spawn(&File::to(&[port]).text(), &["--", "sh", "-c", "echo \"port=$PORT\"; exit 7"]);
    let mut weir = weir;
    assert_eq!(weir.wait_exit(), 7);
    wait_until("the application's words", || weir.stdout().contains(&format!("port={}", port.port())));
}

#[test]
fn a_wrapped_application_gets_the_signal_and_ends_with_weir() {
    let origin = Origin::answering(200, "ok");
    let script = "trap 'echo bye; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let mut weir = Weir::start_with(&File::to(&[origin.address]).text(), &["--", "sh", "-c", script]);
    wait_until("the application to be up", || weir.stdout().contains("ready"));
    weir.sigterm();
    assert_eq!(weir.wait_exit(), 9);
    wait_until("the application's last words", || weir.stdout().contains("bye"));
}

#[test]
fn a_wrapped_application_that_cannot_be_started_is_told() {
    let mut weir = Weir::spawn(&File::to(&[unused_address()]).text(), &["--", "/no/such/program"]);
    assert_ne!(weir.wait_exit(), 0);
    wait_until("the name to be told", || weir.stderr().contains("/no/such/program"));
}

#[test]
fn the_demo_ends_by_itself_with_a_summary() {
    let child = Command::new(binary())
        .args(["demo", "--for", "3s"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let done = finish(child, 3 * PATIENCE).ok();
    assert!(!done.out.contains('\x1b'), "no escape codes where there is no terminal");
    assert!(done.out.lines().count() >= 3, "{}", done.out);
}

#[test]
fn open_files_are_raised_to_the_hard_limit() {
    let weir = File::to(&[unused_address()]).start();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", weir.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<_> = line.split_whitespace().filter(|word| word.parse::<u64>().is_ok()).collect();
    assert_eq!(numbers[0], numbers[1], "{line}");
    assert!(weir.metrics().has("process_max_fds", &[]));
}
