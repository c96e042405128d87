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
    config::bootstrap::{LogFormat, LogLevel},
    control::Order,
    telemetry::{log, metrics::DEFAULT_MAX_SERIES, writer},
};

/// A proxy that runs on a thread of this process until it is dropped.
struct Running {
    address: SocketAddr,
    metrics: Arc<Metrics>,
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
        Self { address, metrics, orders, thread: Some(thread) }
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
