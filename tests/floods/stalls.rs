//! HTTP/2 clients that begin and do not go on: silence, heads and bodies that stand still, answers that nobody takes.

use std::time::Duration;

use crate::{
    ATTACKERS, LIMITS, Scene,
    support::{PATIENCE, frames::*, wait_until, weir::File},
};

#[test]
fn silence_after_the_preface() {
    let scene = Scene::set(LIMITS, "idle_timeout: 2s");
    scene.attack(|_, address| {
        let mut peer = Peer::connect(address);
        peer.polite = false;
        peer.send(PREFACE);
        assert_eq!(peer.end(), Some(ENHANCE_YOUR_CALM));
    });
    scene.expect_ended("header_timeout", ATTACKERS);
    scene.end();
}

/// A head drop by drop, and never to its end: the time that it takes is bounded, not the silence in it.
#[test]
fn heads_drop_by_drop() {
    let scene = Scene::set(LIMITS, "idle_timeout: 2s");
    scene.attack(|_, address| {
        let mut peer = Peer::open(address);
        peer.send(headers(1, 0, &request("GET", "/")));
        let drops = frame(CONTINUATION, 0, 1, &[0; 2_000]);
        let mut drops = drops.chunks(1);
        peer.stream().set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        // Until Weir closes; a drop every 20 ms.
        let deadline = std::time::Instant::now() + PATIENCE;
        let mut said = [0; 1024];
        loop {
            assert!(std::time::Instant::now() < deadline, "the head may take for ever");
            if let Some(drop) = drops.next() {
                let _ = peer.send(drop);
            }
            match std::io::Read::read(&mut peer.stream(), &mut said) {
                Ok(0) => break,
                Err(e)
                    if !matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
                {
                    break;
                }
                _ => {}
            }
        }
    });
    scene.expect_ended("header_timeout", ATTACKERS);
    scene.end();
}

#[test]
fn a_connection_without_a_request() {
    let scene = Scene::set(LIMITS, "idle_timeout: 2s");
    scene.attack(|_, address| {
        let mut peer = Peer::open(address);
        assert_eq!(peer.end(), Some(NO_ERROR));
    });
    scene.end();
}

/// One that is told to finish and never acknowledges it is not waited for.
#[test]
fn a_connection_that_does_not_want_to_finish() {
    let scene = Scene::set(LIMITS, "idle_timeout: 2s");
    scene.attack(|_, address| {
        let mut peer = Peer::open(address);
        peer.polite = false;
        peer.end();
    });
    scene.end();
}

/// A client that is gone without a word, or frozen, while its request runs.
#[test]
fn no_sign_of_life() {
    let limits = "http2: { ping_interval: 300ms, ping_timeout: 300ms }";
    let scene = Scene::set(limits, "timeout: 0, idle_timeout: 5m");
    scene.attack(|_, address| {
        let mut alive = Peer::open(address);
        alive.send(headers(1, WHOLE, &request("GET", "/never")));
        let mut asked = 0;
        while asked < 3 {
            asked += usize::from(alive.next().expect("the connection goes on").kind == PING);
        }
        alive.expect_alive(3);
        let mut frozen = Peer::open(address);
        frozen.polite = false;
        frozen.send(headers(1, WHOLE, &request("GET", "/never")));
        frozen.end();
    });
    // Those that were alive were asked no more, and may have been ended too since.
    let ended = || scene.weir.metrics().sum("weir_connections_ended_total", &[("reason", "ping_timeout")]);
    wait_until("the frozen ones to be ended", || ended() >= 8.0);
    scene.end();
}

/// CVE-2019-9517 and its kind: a stream whose window stays shut. The stream ends, and its connection goes on.
#[test]
fn answers_that_nobody_takes() {
    let scene = Scene::set("keepalive_timeout: 1m", "idle_timeout: 1s");
    scene.attack(|_, address| {
        let mut peer = Peer::open_with(address, &[(1, 0), (4, 0)]);
        // Some are longer than what waits for the client, some are whole long before it takes them.
        for stream in (1..41).step_by(2) {
            peer.send(headers(stream, WHOLE, &request("GET", "/large")));
        }
        for stream in (41..61).step_by(2) {
            peer.send(headers(stream, WHOLE, &request("GET", "/")));
        }
        let mut reset = 0;
        while reset < 30 {
            let frame = peer.next().expect("the connection goes on");
            reset += usize::from(frame.kind == RST_STREAM);
        }
        // With room for it, another one is served.
        peer.send([settings(&[(4, 65_535)]), headers(101, WHOLE, &request("GET", "/"))].concat());
        assert_eq!(peer.outcome(101).status(), Some(200));
    });
    let weir = scene.end();
    wait_until("the records", || {
        let records = weir.access_records();
        records.iter().filter(|r| r["path"] == "/large" && r["ended"] == "timeout").count() == 20 * ATTACKERS
    });
}

/// A window that is opened octet by octet keeps the stream alive, and takes no memory to speak of.
#[test]
fn answers_that_are_taken_octet_by_octet() {
    let scene = Scene::set("keepalive_timeout: 1m", "idle_timeout: 1s");
    scene.attack(|_, address| {
        let mut peer = Peer::open_with(address, &[(4, 1)]);
        for stream in (1..41).step_by(2) {
            peer.send(headers(stream, WHOLE, &request("GET", "/large")));
        }
        let until = std::time::Instant::now() + crate::ATTACK;
        while std::time::Instant::now() < until {
            for stream in (1..41).step_by(2) {
                peer.send(window_update(stream, 1));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    scene.end();
}

/// A client that opens its windows and does not read its socket.
#[test]
fn a_socket_that_is_not_read() {
    let scene = Scene::set("keepalive_timeout: 1s", "idle_timeout: 1s");
    let wait = scene.wait_ended("stalled");
    scene.attack(move |_, address| {
        let mut peer = Peer::open_with(address, &[(4, 0x7fff_ffff)]);
        peer.send(window_update(0, 0x7fff_0000));
        for stream in (1..41).step_by(2) {
            peer.send(headers(stream, WHOLE, &request("GET", "/large")));
        }
        wait();
        peer.end();
    });
    scene.expect_ended("stalled", ATTACKERS);
    scene.end();
}

/// A request's body that stops, before the answer and without a word: the client is told, and the endpoint is not blamed.
#[test]
fn bodies_that_stand_still() {
    let scene = Scene::set(LIMITS, "timeout: 1s, idle_timeout: 2s");
    scene.attack(|_, address| {
        let mut peers: Vec<_> = (0..10).map(|_| Peer::open(address)).collect();
        for peer in &mut peers {
            peer.send([headers(1, END_HEADERS, &request("POST", "/x")), data(1, 0, b"some")].concat());
        }
        for peer in &mut peers {
            let Outcome::Answer(answer) = peer.outcome(1) else { panic!("no answer") };
            assert_eq!(answer.status(), 408);
            assert!(answer.text().contains("body_timeout"), "{}", answer.text());
            peer.expect_alive(3);
        }
    });
    let metrics = scene.weir.metrics();
    assert!(metrics.sum("weir_attempts_total", &[("outcome", "timeout")]) < 0.5);
    assert!(metrics.sum("weir_responses_made_total", &[("reason", "body_timeout")]) > 0.5);
    scene.end();
}

/// An endpoint that does not read is to blame itself.
#[test]
fn an_endpoint_that_does_not_read_is_to_blame() {
    let origin = crate::support::origin::Origin::silent();
    let weir = File::to(&[origin.address]).route("timeout: 1s").start();
    let mut peer = Peer::open(weir.at("inbound"));
    peer.send([headers(1, END_HEADERS, &request("POST", "/x")), data(1, END_STREAM, b"all")].concat());
    assert_eq!(peer.outcome(1).status(), Some(504));
    weir.wait_metric("weir_attempts_total", &[("outcome", "timeout")], 1.0);
}
