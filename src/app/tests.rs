//! The whole proxy in this process, for what cannot be provoked from outside.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::*;
use crate::{
    cli::source,
    config::{
        bootstrap::{LogFormat, LogLevel},
        policy::EndpointAddress,
    },
    control::Order,
    discovery::Target,
    health::Standing,
    snapshot::Outcome,
    telemetry::{log, metrics::DEFAULT_MAX_SERIES, writer},
};

/// A proxy that runs on a thread of this process until it is dropped.
struct Running {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    state: Arc<State>,
    orders: UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(file: &str) -> Self {
        let loaded = source::load_text("test", file.as_bytes());
        let file = loaded.file.unwrap_or_else(|| panic!("{}", loaded.faults.iter().count()));
        let metrics = Metrics::new(1, DEFAULT_MAX_SERIES, "test", "test");
        let dropped = metrics.log_dropped.clone();
        let (lines, _flush) = writer::spawn("test-log", std::io::sink(), dropped).unwrap();
        let (_, handle) = log::subscriber(LogLevel::Error, LogFormat::Text, false, lines);
        let bound = App::bind(file, handle, metrics.clone()).unwrap();
        let address = bound.addresses().first().unwrap().1.socket().unwrap();
        let state = bound.state.clone();
        let (orders, receiver) = unbounded_channel();
        let thread = std::thread::spawn(move || {
            let reload = Reload {
                path: None,
                load: Box::new(|| source::load_text("test", b"")),
                report: Box::new(|_| ()),
                probe: Box::new(source::probe),
            };
            let control = Control { orders: receiver, application: None };
            bound.run(reload, control, std::future::pending()).unwrap();
        });
        Self { address, metrics, state, orders, thread: Some(thread) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Twice: now.
        let _ = self.orders.send(Order::Leave);
        let _ = self.orders.send(Order::Leave);
        let _ = self.thread.take().unwrap().join();
    }
}

/// An origin that answers every request on every connection with `ok`.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).is_ok_and(|n| n > 0) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                }
            });
        }
    });
    address
}

/// Sends one request and reads its answer, whose body says how long it is.
fn ask(stream: &mut TcpStream, extra: &str) -> String {
    write!(stream, "GET / HTTP/1.1\r\nhost: a\r\n{extra}\r\n").unwrap();
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            if body.len() >= length.parse().unwrap() {
                return text;
            }
        }
        let mut buffer = [0; 4096];
        let n = stream.read(&mut buffer).unwrap();
        assert!(n > 0, "the connection ended after {text:?}");
        answer.extend_from_slice(&buffer[..n]);
    }
}

#[test]
fn a_panic_costs_one_request_and_is_counted() {
    let file = format!(
        "service: test\nadmin: off\ntelemetry: off\nworkers: 1\nlog: {{ access: off }}\n\
         listeners: {{ inbound: {{ listen: '127.0.0.1:0' }} }}\n\
         policy:\n  upstreams: {{ app: {{ endpoints: ['{}'] }} }}\n  routes: {{ all: {{ upstream: app }} }}\n",
        origin()
    );
    let running = Running::start(&file);
    let mut stream = TcpStream::connect(running.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(ask(&mut stream, "").ends_with("\r\n\r\nok"));
    let answer = ask(&mut stream, "x-test-panic: 1\r\n");
    assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains(r#""reason":"internal""#), "{answer}");
    assert!(ask(&mut stream, "").ends_with("\r\n\r\nok"), "the same connection serves on");
    assert_eq!(running.metrics.panics.value(), 1);
}

#[test]
fn a_snapshot_that_a_request_still_holds_is_freed_by_the_publisher_and_not_by_the_request() {
    let file = |timeout: u32| {
        let text = format!(
            "service: test\nadmin: off\ntelemetry: off\nworkers: 1\nlog: {{ access: off }}\n\
             listeners: {{ inbound: {{ listen: '127.0.0.1:0' }} }}\n\
             policy:\n  upstreams: {{ app: {{ endpoints: ['127.0.0.1:1'] }} }}\n  \
             routes: {{ all: {{ upstream: app, timeout: {timeout}s }} }}\n"
        );
        source::load_text("test", text.as_bytes()).file.unwrap()
    };
    let metrics = Metrics::new(1, DEFAULT_MAX_SERIES, "test", "test");
    let (lines, _flush) = writer::spawn("test-log", std::io::sink(), metrics.log_dropped.clone()).unwrap();
    let (_, handle) = log::subscriber(LogLevel::Error, LogFormat::Text, false, lines);
    let bound = App::bind(file(1), handle, metrics).unwrap();
    let publisher = bound.publisher();
    let publish = |timeout| publisher.publish(Arc::new(file(timeout).policy), Instant::now()).unwrap();
    let held = bound.state.shared().snapshot.load_full();
    let watched = Arc::downgrade(&held);
    publish(2);
    drop(held);
    assert!(watched.upgrade().is_some(), "the request was the last but one");
    publisher.tidy();
    assert!(watched.upgrade().is_none());
    let watched = Arc::downgrade(&bound.state.shared().snapshot.load_full());
    publish(3);
    assert!(watched.upgrade().is_none(), "nobody held it");
}

/// A proxy that is bound and does not run.
fn bound(policy: &str) -> Bound {
    let metrics = Metrics::new(1, DEFAULT_MAX_SERIES, "test", "test");
    let (lines, _flush) = writer::spawn("test-log", std::io::sink(), metrics.log_dropped.clone()).unwrap();
    let (_, handle) = log::subscriber(LogLevel::Error, LogFormat::Text, false, lines);
    App::bind(file_of(policy), handle, metrics).unwrap()
}

fn file_of(policy: &str) -> File {
    let text = format!(
        "service: test\nadmin: off\ntelemetry: off\nworkers: 1\nlog: {{ access: off }}\n\
         listeners: {{ inbound: {{ listen: '127.0.0.1:0' }} }}\npolicy: {{ {policy} }}\n"
    );
    let loaded = source::load_text("test", text.as_bytes());
    loaded.file.unwrap_or_else(|| panic!("{text}: {:?}", loaded.faults))
}

#[test]
fn what_is_discovered_joins_the_upstreams_that_look_it_up_and_no_others() {
    let policy = |timeout: u32| {
        format!(
            "routes: {{ all: {{ upstream: a, timeout: {timeout}s }} }}, upstreams: {{ \
               a: {{ discover: {{ dns: 'a.test:80' }} }}, \
               b: {{ endpoints: [{{ address: '10.0.0.1:80', weight: 7 }}], discover: {{ dns: 'a.test:80' }} }}, \
               c: {{ endpoints: ['10.0.0.9:80'] }} }}"
        )
    };
    let bound = bound(&policy(1));
    let publisher = bound.publisher();
    let shown = |index: usize| -> Vec<String> {
        let snapshot = bound.state.shared().snapshot.load();
        let shown = |c: &snapshot::Candidate| {
            format!("{} {} {:?}", c.endpoint.address(), c.config.weight, c.config.source)
        };
        snapshot.upstreams[index].candidates.iter().map(shown).collect()
    };
    let at = |hosts: &[u8]| -> Arc<[SocketAddr]> {
        hosts.iter().map(|host| SocketAddr::from(([10, 0, 0, *host], 80))).collect()
    };
    let target = Target { host: "a.test".into(), port: 80 };
    assert_eq!(shown(0), [] as [&str; 0]);
    let first = bound.state.shared().snapshot.load_full();
    let applied = publisher.discovered(&target, &at(&[1, 2])).unwrap();
    assert_eq!(applied, Outcome::Applied { generation: 2 });
    assert_eq!(*publisher.generations().borrow(), 2);
    assert_eq!(shown(0), ["10.0.0.1:80 1 Dns", "10.0.0.2:80 1 Dns"]);
    assert_eq!(shown(1), ["10.0.0.1:80 7 List", "10.0.0.2:80 1 Dns"], "not twice");
    let second = bound.state.shared().snapshot.load_full();
    assert!(Arc::ptr_eq(&first.upstreams[2], &second.upstreams[2]), "that has nothing to do with it");
    assert_eq!(publisher.discovered(&target, &at(&[1, 2])).unwrap(), Outcome::Unchanged);
    let other = Target { port: 81, ..target.clone() };
    assert_eq!(publisher.discovered(&other, &at(&[5])).unwrap(), Outcome::Unchanged, "nobody looks it up");
    // A policy that comes later has them too, and its endpoints are those of before.
    let id = |snapshot: &snapshot::Snapshot| snapshot.upstreams[0].candidates[1].endpoint.id();
    publisher.publish(Arc::new(file_of(&policy(2)).policy), Instant::now()).unwrap();
    let third = bound.state.shared().snapshot.load_full();
    assert_eq!(id(&second), id(&third));
    assert!(Arc::ptr_eq(&second.upstreams[2], &third.upstreams[2]));
    publisher.discovered(&target, &at(&[2, 3])).unwrap();
    assert_eq!(shown(0), ["10.0.0.2:80 1 Dns", "10.0.0.3:80 1 Dns"]);
    assert_eq!(publisher.policy().upstreams.values().map(|u| u.endpoints.len()).sum::<usize>(), 2);
    publisher.keep_discovered(|_| false);
    publisher.publish(Arc::new(file_of(&policy(3)).policy), Instant::now()).unwrap();
    assert_eq!(shown(0), [] as [&str; 0]);
}

#[test]
fn names_are_looked_up_and_endpoints_checked_once_it_runs() {
    let origin = origin();
    let running = Running::start(&format!(
        "service: test\nadmin: off\ntelemetry: off\nworkers: 1\nlog: {{ access: off }}\n\
         listeners: {{ inbound: {{ listen: '127.0.0.1:0' }} }}\n\
         policy:\n  routes: {{ all: {{ upstream: app }} }}\n  upstreams:\n    app:\n      \
         discover: {{ dns: 'localhost:{}' }}\n      health: {{ http: /, interval: 1s, contains: ok }}\n",
        origin.port()
    ));
    let healthy = || {
        let snapshot = running.state.shared().snapshot.load();
        let candidates = &snapshot.upstreams[0].candidates;
        let wanted = EndpointAddress::Socket(origin);
        let found = candidates.iter().find(|candidate| candidate.config.address == wanted);
        found.is_some_and(|found| found.endpoint.health().standing() == Standing::Healthy)
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while !healthy() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(1));
    }
    let target = Target { host: "localhost".into(), port: origin.port() };
    let shown = running.state.discoveries().of(&target).unwrap();
    assert!(shown.addresses.contains(&origin) && shown.error.is_none());
}
