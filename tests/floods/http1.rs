//! Floods and slow clients over HTTP/1.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::{
    ATTACK, ATTACKERS, LIMITS, MANY, Scene,
    support::{PATIENCE, raw::Raw, wait_until},
};

/// Sends a drop every 20 ms until Weir closes; gives what it said.
fn drip(raw: &mut TcpStream, drops: impl IntoIterator<Item = Vec<u8>>) -> String {
    raw.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let (mut drops, mut said, deadline) = (drops.into_iter(), Vec::new(), Instant::now() + PATIENCE);
    let mut part = [0; 4096];
    loop {
        assert!(Instant::now() < deadline, "the connection may be held for ever");
        if let Some(drop) = drops.next() {
            let _ = raw.write_all(&drop);
        }
        match raw.read(&mut part) {
            Ok(0) => break,
            Ok(n) => said.extend_from_slice(&part[..n]),
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// Sends `part` again and again until Weir closes: it may read on for a moment, and has to end then.
fn pour(raw: &mut TcpStream, part: &[u8]) {
    raw.set_write_timeout(Some(PATIENCE)).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while raw.write_all(part).is_ok() {
        assert!(Instant::now() < deadline, "the connection takes what it gets for ever");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn connect(address: std::net::SocketAddr) -> TcpStream {
    TcpStream::connect_timeout(&address, PATIENCE).unwrap()
}

/// Slowloris.
#[test]
fn heads_drop_by_drop() {
    let scene = Scene::set(LIMITS, "idle_timeout: 2s");
    scene.attack(|_, address| {
        let mut raw = connect(address);
        raw.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\n").unwrap();
        let said = drip(&mut raw, (0..).map(|n| format!("x-{n}: 1\r\n").into_bytes()));
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    });
    scene.expect_ended("header_timeout", ATTACKERS);
    scene.end();
}

#[test]
fn bodies_that_stand_still() {
    let scene = Scene::set(LIMITS, "timeout: 1s, idle_timeout: 2s");
    scene.attack(|_, address| {
        let mut raw = connect(address);
        raw.write_all(b"POST /x HTTP/1.1\r\nhost: a.test\r\ncontent-length: 100\r\n\r\nsome").unwrap();
        let said = drip(&mut raw, []);
        assert!(said.starts_with("HTTP/1.1 408") && said.contains("body_timeout"), "{said}");
        assert!(said.to_lowercase().contains("connection: close"), "{said}");
    });
    let metrics = scene.weir.metrics();
    assert!(metrics.sum("weir_attempts_total", &[("outcome", "timeout")]) < 0.5);
    scene.end();
}

/// Drops that come all the time: the route's `timeout` bounds them.
#[test]
fn bodies_drop_by_drop() {
    let scene = Scene::set(LIMITS, "timeout: 1s, idle_timeout: 2s");
    scene.attack(|_, address| {
        let mut raw = connect(address);
        raw.write_all(b"POST /x HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        let said = drip(&mut raw, (0..).map(|_| b"1\r\nx\r\n".to_vec()));
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    });
    scene.end();
}

#[test]
fn answers_that_nobody_takes() {
    let scene = Scene::set(LIMITS, "idle_timeout: 1s");
    let wait = scene.wait_ended("stalled");
    scene.attack(move |_, address| {
        let mut raw = connect(address);
        raw.write_all(b"GET /large HTTP/1.1\r\nhost: a.test\r\n\r\n").unwrap();
        wait();
        let mut taken = Vec::new();
        let _ = raw.read_to_end(&mut taken);
        assert!(taken.len() < 8 << 20, "it was given all the same");
    });
    scene.expect_ended("stalled", ATTACKERS);
    scene.end();
}

#[test]
fn silent_connections() {
    let scene = Scene::set(LIMITS, "idle_timeout: 2s");
    scene.attack(|_, address| {
        let mut silent: Vec<_> = (0..50).map(|_| connect(address)).collect();
        let mut idle: Vec<_> = (0..20).map(|_| Raw::connect(address)).collect();
        for raw in &mut idle {
            assert_eq!(raw.get("a.test", "/").status(), 200);
        }
        for raw in &mut silent {
            assert_eq!(drip(raw, []), "");
        }
        idle.iter_mut().for_each(Raw::expect_closed);
    });
    scene.end();
}

/// More connections than there may be: those beyond are closed at once, and those that are there go on.
#[test]
fn connections_beyond_the_bound() {
    let scene =
        Scene::set("max_connections: 100, keepalive_timeout: 1m, header_timeout: 1m", "idle_timeout: 2s");
    // These leave their clients no place; the others of this scene have to have theirs before.
    let mut kept = Raw::connect(scene.address());
    assert_eq!(kept.get("a.test", "/").status(), 200);
    let mut scene = scene;
    scene.others.end();
    let held: Vec<_> = (0..300).map(|_| connect(scene.address())).collect();
    wait_until("refusals", || {
        scene.weir.metrics().sum("weir_connections_refused_total", &[("reason", "limit")]) >= 190.0
    });
    assert_eq!(kept.get("a.test", "/").status(), 200);
    drop(held);
    wait_until("places to be free", || {
        crate::support::weir::get(scene.address(), "/").is_some_and(|answer| answer.status() == 200)
    });
    scene.end();
}

/// Requests without end on one connection, whose answers nobody takes: one is handled at a time.
#[test]
fn pipelines() {
    let scene = Scene::set(LIMITS, "idle_timeout: 1s");
    scene.attack(|_, address| {
        let mut raw = connect(address);
        raw.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        let requests = b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n".repeat(1_000);
        let until = Instant::now() + ATTACK;
        for _ in 0..MANY / 1_000 {
            if Instant::now() > until || raw.write_all(&requests).is_err() {
                break;
            }
        }
    });
    scene.end();
}

#[test]
fn huge_heads() {
    let scene = Scene::set(LIMITS, "idle_timeout: 2s");
    scene.attack(|n, address| {
        let mut raw = connect(address);
        raw.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\n").unwrap();
        // One field without end, or fields without end.
        let part: &[u8] = if n % 2 == 0 { &[b'x'; 4096] } else { &b"x-a: 1\r\n".repeat(512) };
        pour(&mut raw, part);
    });
    scene.end();
}

/// Chunks of one octet, whose extensions are as long as they like.
#[test]
fn extensions_of_chunks() {
    let scene = Scene::set(LIMITS, "timeout: 3s, idle_timeout: 2s");
    scene.attack(|_, address| {
        let mut raw = connect(address);
        raw.write_all(b"POST /x HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        let chunk = [b"1;a=".to_vec(), vec![b'x'; 1_000], b"\r\nx\r\n".to_vec()].concat();
        pour(&mut raw, &chunk);
    });
    scene.end();
}

#[test]
fn trailers_without_end() {
    let scene = Scene::set(LIMITS, "timeout: 3s, idle_timeout: 2s");
    scene.attack(|_, address| {
        let mut raw = connect(address);
        raw.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
        raw.write_all(
            b"POST /x HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n",
        )
        .unwrap();
        let part = b"x-t: 1\r\n".repeat(500);
        pour(&mut raw, &part);
    });
    scene.end();
}
