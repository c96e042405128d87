//! The unruly origins and the load held against themselves, without Weir between: a fault here would be taken for one
//! of Weir's.

use std::time::{Duration, Instant};

use crate::{
    load::{Load, quantile, share, tally},
    origins::{Mode, Unruly},
    support::{
        client::{Client, empty},
        raw::Raw,
        wait_until,
    },
    world::origins,
};

const SLOW: Duration = Duration::from_millis(300);

#[test]
fn origins_misbehave_as_they_are_told() {
    let [origin] = origins(["a"]);
    let status = |mode| {
        origin.set(mode);
        Raw::connect(origin.address).get("x", "/").status()
    };
    assert_eq!((status(Mode::Good), status(Mode::Status(500))), (200, 500));
    let began = Instant::now();
    assert_eq!(status(Mode::Slow(SLOW)), 200);
    assert!(began.elapsed() >= SLOW);
    for mode in [Mode::Reset, Mode::HalfHead] {
        origin.set(mode);
        let mut raw = Raw::connect(origin.address);
        raw.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
        assert!(raw.head().is_err(), "{mode:?}");
    }
    origin.set(Mode::HalfBody);
    let mut raw = Raw::connect(origin.address);
    raw.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    let head = raw.head().unwrap();
    assert!(raw.body_of(head, true).is_err());
    assert_eq!((origin.requests(), origin.checks()), (6, 0));
    origin.set(Mode::Good);
    assert_eq!(Raw::connect(origin.address).get("x", "/healthz").status(), 200);
    assert_eq!((origin.requests(), origin.checks()), (6, 1));
}

#[test]
fn one_that_refuses_comes_back_on_the_same_port() {
    let [origin] = origins(["a"]);
    let mut open = Raw::connect(origin.address);
    assert_eq!(open.get("x", "/").status(), 200);
    origin.set(Mode::Refuse);
    open.expect_closed();
    wait_until("nobody to listen", || std::net::TcpStream::connect(origin.address).is_err());
    origin.set(Mode::Good);
    wait_until("somebody to listen", || std::net::TcpStream::connect(origin.address).is_ok());
    assert_eq!(Raw::connect(origin.address).get("x", "/").status(), 200);
}

#[test]
fn one_that_is_silent_counts_who_waits() {
    let [origin] = origins(["a"]);
    origin.set(Mode::Silent);
    let mut raw = Raw::connect(origin.address);
    raw.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    wait_until("a request to hang", || origin.hanging() == 1);
    origin.set(Mode::Good);
    assert_eq!(Raw::connect(origin.address).get("x", "/").status(), 200);
    assert_eq!(origin.hanging(), 1, "what hangs goes on hanging");
    drop(raw);
    wait_until("nothing to hang", || origin.hanging() == 0);
}

#[test]
fn grpc_fails_in_trailers() {
    let [origin] = origins(["a"]);
    let client = Client::http2(origin.address);
    for (mode, code) in [(Mode::Good, "0"), (Mode::Grpc(14), "14")] {
        origin.set(mode);
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let answer = client.send(client.to("x", "POST", "/a.B/C", &headers, empty()));
        assert_eq!((answer.status, answer.trailers["grpc-status"].to_str().unwrap()), (200, code));
    }
}

#[test]
fn flapping_is_both() {
    let [origin] = origins(["a"]);
    origin.set(Mode::Flapping(Duration::from_millis(50)));
    let mut raw = Raw::connect(origin.address);
    for wanted in [200, 500, 200] {
        wait_until(&format!("a {wanted}"), || raw.get("x", "/").status() == wanted);
    }
}

#[test]
fn a_load_does_not_wait_for_answers() {
    let [origin] = origins(["a"]);
    let load = Load::start(origin.address, "x", "/", 100);
    let good = load.more(20);
    assert!(good.iter().all(|sample| sample.is_good() && sample.origin == "a"), "{:?}", tally(&good));
    assert!((share(&good, "a") - 1.0).abs() < 1e-9);
    origin.set(Mode::Slow(SLOW));
    // At 100/s and 300 ms each some thirty are under way at once: far more than one after the other.
    wait_until("requests side by side", || origin.connections() > 10);
    let slow = load.more(10);
    assert!(quantile(&slow, 0.5) >= SLOW, "{:?}", quantile(&slow, 0.5));
    origin.set(Mode::Refuse);
    wait_until("failures", || load.samples().iter().any(|sample| sample.status == 0));
    let all: Vec<_> = load.end();
    assert!(all.iter().filter(|sample| sample.is_good()).count() >= 30);
    let _: &Unruly = &origin;
}
