//! Floods and slow clients against the finished binary. While each runs, other clients make requests on connections of
//! their own: none of them may fail. Weir's memory stays within a bound, and the attacker's connection ends where it
//! has to. Every attack is bounded in time and in what it sends, and goes nowhere but to this machine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod http1;
mod http2;
mod stalls;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use support::{
    metrics::Metrics,
    raw::Raw,
    raw_origin::RawOrigin,
    wait_until,
    weir::{File, Weir},
};

/// How long an attack lasts at most.
const ATTACK: Duration = Duration::from_secs(3);
/// How many frames or messages it sends at most.
const MANY: usize = 100_000;
/// How many attackers there are at a time.
const ATTACKERS: usize = 8;
/// By how much an attack may make Weir's resident memory grow, in bytes: for all its attackers together. The windows
/// of that many connections are 8 MiB; the rest is buffers and the allocator's.
const GROWTH: u64 = 48 << 20;

/// The bounds of time are short, so that their tests are.
const LIMITS: &str = "header_timeout: 1s, keepalive_timeout: 2s";

/// A Weir under attack, and those who only want to be served.
struct Scene {
    weir: Weir,
    origin: RawOrigin,
    before: u64,
    others: Others,
}

impl Scene {
    /// An application that answers each path alike, but for those that a test is about: `/large` has 8 MiB, `/never`
    /// is not answered and its body is not read.
    fn set(listener: &str, route: &str) -> Self {
        let origin = RawOrigin::start(|connection| {
            while let Some(head) = connection.head() {
                let path = head.start.split(' ').nth(1).unwrap_or_default().to_owned();
                if path.starts_with("/never") {
                    // Until Weir gives up.
                    connection.raw.stream().set_read_timeout(Some(ATTACK * 10)).unwrap();
                    let mut socket = connection.raw.stream();
                    let mut byte = [0];
                    while let Ok(1..) = std::io::Read::read(&mut socket, &mut byte) {
                        std::thread::park_timeout(ATTACK * 10);
                    }
                    return;
                }
                if connection.raw.body_of(head, false).is_err() {
                    return;
                }
                let body = if path.starts_with("/large") { vec![b'x'; 8 << 20] } else { b"ok".to_vec() };
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                if connection.raw.try_send([head.as_bytes(), &body].concat()).is_err() {
                    return;
                }
            }
        });
        let weir = File::to(&[origin.address]).listener(listener).route(route).start();
        // What the first requests need of memory is no growth.
        Raw::connect(weir.at("inbound")).get("a.test", "/");
        let others = Others::start(weir.at("inbound"));
        wait_until("the others to be served", || others.served.load(Ordering::SeqCst) > 20);
        let before = resident(weir.pid());
        Self { weir, origin, before, others }
    }

    fn address(&self) -> SocketAddr {
        self.weir.at("inbound")
    }

    /// Runs `attack` in [`ATTACKERS`] threads, and holds Weir's memory to its bound meanwhile.
    fn attack(&self, attack: impl Fn(usize, SocketAddr) + Send + Sync + 'static) {
        let attack = Arc::new(attack);
        let address = self.address();
        let attackers: Vec<_> = (0..ATTACKERS)
            .map(|n| {
                let attack = attack.clone();
                std::thread::spawn(move || attack(n, address))
            })
            .collect();
        let mut most = 0;
        while attackers.iter().any(|attacker| !attacker.is_finished()) {
            most = most.max(resident(self.weir.pid()));
            std::thread::sleep(Duration::from_millis(10));
        }
        for attacker in attackers {
            attacker.join().expect("the attack goes as it should");
        }
        let grown = most.saturating_sub(self.before);
        assert!(grown <= GROWTH, "Weir grew by {} KiB", grown >> 10);
    }

    /// For an attacker: waits until all of them were ended for `reason`.
    fn wait_ended(&self, reason: &'static str) -> impl Fn() + Send + Sync + 'static {
        let telemetry = self.weir.at("telemetry");
        move || {
            wait_until("all attackers to be ended", || {
                let scrape = support::weir::get(telemetry, "/metrics").expect("metrics");
                let ended =
                    Metrics::parse(&scrape.text()).sum("weir_connections_ended_total", &[("reason", reason)]);
                ended > f64::from(u32::try_from(ATTACKERS).unwrap()) - 0.5
            });
        }
    }

    /// Waits until so many connections were ended for `reason`.
    fn expect_ended(&self, reason: &str, count: usize) {
        let count = f64::from(u32::try_from(count).unwrap());
        self.weir.wait_metric("weir_connections_ended_total", &[("reason", reason)], count);
    }

    /// The others were served all the time, and nothing is left of the attack.
    fn end(mut self) -> Weir {
        let served = self.others.end();
        assert!(served > 20, "the others were served {served} times");
        self.weir.wait_metric("weir_requests_in_flight", &[], 0.0);
        assert!(self.weir.is_running());
        let metrics = self.weir.metrics();
        assert!(metrics.sum("weir_panics_total", &[]) < 0.5);
        drop(self.origin);
        self.weir
    }
}

/// Clients with connections of their own, one after the other request.
struct Others {
    served: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Others {
    fn start(address: SocketAddr) -> Self {
        let (served, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let clients = (0..2)
            .map(|n| {
                let (served, stop) = (served.clone(), stop.clone());
                std::thread::spawn(move || {
                    while !stop.load(Ordering::SeqCst) {
                        // Some requests share a connection, and new ones are taken all the time.
                        let mut raw = Raw::connect(address);
                        for request in 0..10 {
                            let answer = raw.get("a.test", &format!("/other/{n}/{request}"));
                            assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"));
                            served.fetch_add(1, Ordering::SeqCst);
                        }
                        std::thread::sleep(Duration::from_millis(5));
                    }
                })
            })
            .collect();
        Self { served, stop, clients }
    }

    fn end(&mut self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients.drain(..) {
            client.join().expect("another client's request failed");
        }
        self.served.load(Ordering::SeqCst)
    }
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}
