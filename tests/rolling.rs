//! Two instances behind HAProxy, each drained and restarted in turn under load: nobody notices.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use support::{
    PATIENCE,
    client::{Client, empty},
    origin::{self, Origin},
    programs::{Server, finish, python, script},
    raw::Raw,
    servers::Other,
    wait_until,
    weir::{Weir, get, unused_address},
};

/// HAProxy before `weirs`, with readiness checks: by HTTP/1.1 on both sides, by HTTP/2 on both sides, and passing bytes
/// on unseen.
struct Balancer {
    haproxy: Other,
    http2: SocketAddr,
    bytes: SocketAddr,
    figures: SocketAddr,
}

impl Balancer {
    /// Waits until all three of its ways lead to an instance: before that nobody would take the other one away.
    fn wait_until_up(&self, instance: usize) {
        let name = format!("weir{instance}");
        wait_until("the balancer to use the instance", || {
            let figures = get(self.figures, "/;csv").map(|answer| answer.text()).unwrap_or_default();
            let states = figures.lines().map(|line| line.split(',').collect::<Vec<_>>());
            let states = states.filter(|fields| fields.get(1) == Some(&name.as_str()));
            states.filter(|fields| fields.get(17) == Some(&"UP")).count() == 3
        });
    }
}

fn balancer(weirs: &[Weir]) -> Balancer {
    let (http2, bytes, figures) = (unused_address(), unused_address(), unused_address());
    let servers = |more: &str| -> String {
        let line = |(i, weir): (usize, &Weir)| {
            let (at, probe) = (weir.at("inbound"), weir.at("telemetry").port());
            format!(
                "  server weir{i} {at} check inter 100ms fall 2 rise 1 port {probe} check-proto h1 {more}\n"
            )
        };
        weirs.iter().enumerate().map(line).collect()
    };
    let haproxy = Other::start("haproxy", &["-f"], |_, address| {
        format!(
            "defaults\n  mode http\n  timeout connect 1s\n  timeout client 20s\n  timeout server 20s\n  timeout tunnel \
             20s\n  timeout check 5s\n  option httpchk GET /readyz\n  option redispatch\n  retries 2\n\
             listen figures\n  bind {figures}\n  stats enable\n  stats uri /\n\
             frontend one\n  bind {address}\n  default_backend ones\nbackend ones\n{}\
             frontend two\n  bind {http2} proto h2\n  default_backend twos\nbackend twos\n{}\
             frontend bytes\n  mode tcp\n  bind {bytes}\n  default_backend raws\nbackend raws\n  mode tcp\n{}",
            servers(""),
            servers("proto h2"),
            servers("")
        )
    });
    Balancer { haproxy, http2, bytes, figures }
}

/// What all load does until it is told to stop: what it managed, and what failed.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    counts: [AtomicUsize; 3],
    failures: Mutex<Vec<String>>,
}

impl Load {
    fn count(&self, kind: usize) -> usize {
        self.counts[kind].load(Ordering::Relaxed)
    }

    /// Repeats `request` on a thread of its own; it says what went wrong.
    fn repeat(
        self: &Arc<Self>,
        kind: usize,
        mut request: impl FnMut() -> Result<(), String> + Send + 'static,
    ) -> JoinHandle<()> {
        let load = self.clone();
        std::thread::spawn(move || {
            while !load.stop.load(Ordering::Relaxed) {
                match request() {
                    Ok(()) => load.counts[kind].fetch_add(1, Ordering::Relaxed),
                    Err(what) => return load.failures.lock().unwrap().push(format!("load {kind}: {what}")),
                };
            }
        })
    }

    /// Waits for some more requests of every kind.
    fn wait_for_more(&self) {
        let before: Vec<_> = (0..3).map(|kind| self.count(kind)).collect();
        wait_until("more requests of every kind", || {
            let failures = self.failures.lock().unwrap().clone();
            assert!(failures.is_empty(), "{failures:?}");
            (0..3).all(|kind| self.count(kind) > before[kind] + 50)
        });
    }
}

/// One connection that is kept for as long as HAProxy keeps it, which is for ever.
fn http1(address: SocketAddr) -> impl FnMut() -> Result<(), String> {
    let mut raw = Raw::connect(address);
    move || {
        let body = "x".repeat(2_000);
        let request = format!("POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        raw.try_send(request).map_err(|e| e.to_string())?;
        let head = raw.head().map_err(|e| e.to_string())?;
        let answer = raw.body_of(head, true).map_err(|e| e.to_string())?;
        if answer.status() == 200 && answer.text() == body { Ok(()) } else { Err(format!("{answer:?}")) }
    }
}

fn http2_answer(client: &Client) -> Result<(), Option<String>> {
    let streaming = client.open(client.to("a.test", "GET", "/b", &[], empty()));
    // It was not sent, for the connection had said goodbye: what every client does then is to open another.
    let streaming = streaming
        .map_err(|e| if e.is_canceled() || e.is_closed() { None } else { Some(format!("{e:?}")) })?;
    let answer = streaming.collect().map_err(|e| Some(format!("{e:?}")))?;
    if answer.status == 200 { Ok(()) } else { Err(Some(answer.text())) }
}

/// One connection to HAProxy, which speaks HTTP/2 itself.
fn http2(address: SocketAddr) -> impl FnMut() -> Result<(), String> {
    let client = Client::http2(address);
    move || http2_answer(&client).map_err(|what| what.unwrap_or("the connection ended".to_owned()))
}

/// A connection to whichever instance it was passed on to; another one when that says goodbye.
fn http2_end_to_end(address: SocketAddr) -> impl FnMut() -> Result<(), String> {
    let mut client = Client::http2(address);
    move || {
        let mut answered = http2_answer(&client);
        if answered == Err(None) {
            client = Client::http2(address);
            answered = http2_answer(&client);
        }
        answered.map_err(|what| what.unwrap_or("a new connection ended".to_owned()))
    }
}

fn websocket(address: SocketAddr) -> Child {
    let mut command = Command::new(python());
    command.arg(script("ws_rolling.py")).arg(address.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn each_of_two_instances_is_drained_and_restarted_and_no_request_fails() {
    let shop = Origin::start(|request| async move {
        if request.uri().path() == "/a" {
            origin::echo_at_end(request).await
        } else {
            Ok(origin::answer(200, "ok"))
        }
    });
    let talk = Server::start("ws_server.py");
    let file = format!(
        "drain: {{ delay: 1s, grace: 15s }}\nlisteners:\n  inbound: {{ listen: \"{{{{inbound}}}}\" }}\npolicy:\n  \
         upstreams:\n    shop: {{ endpoints: [\"{}\"] }}\n    talk: {{ endpoints: [\"{}\"] }}\n  routes:\n    shop: {{ \
         upstream: shop }}\n    talk: {{ match: {{ path: /echo }}, upstream: talk }}\n",
        shop.address, talk.address
    );
    let mut weirs = [Weir::start(&file), Weir::start(&file)];
    let balancer = balancer(&weirs);
    let load = Arc::new(Load::default());
    let mut threads = Vec::new();
    for _ in 0..2 {
        threads.push(load.repeat(0, http1(balancer.haproxy.address)));
        threads.push(load.repeat(1, http2(balancer.http2)));
        threads.push(load.repeat(2, http2_end_to_end(balancer.bytes)));
    }
    let mut conversations = websocket(balancer.haproxy.address);
    load.wait_for_more();
    for turn in [0, 1, 0, 1] {
        let weir = &mut weirs[turn];
        weir.sigterm();
        assert_eq!(weir.wait_exit(), 0, "it had nothing to cut");
        assert!(!weir.stderr().contains("connections are cut"), "{}", weir.stderr());
        load.wait_for_more();
        weir.start_again();
        balancer.wait_until_up(turn);
        load.wait_for_more();
    }
    load.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    drop(conversations.stdin.take());
    let said = finish(conversations, PATIENCE * 2).ok();
    let count: usize = said.out.trim().trim_start_matches("conversations ").parse().unwrap();
    assert!(count > 12, "only {count} conversations");
    let failures = load.failures.lock().unwrap();
    assert!(failures.is_empty(), "{failures:?}");
    for weir in &weirs {
        weir.wait_metric("weir_responses_made_total", &[], 0.0);
    }
}
