//! Floods over HTTP/2.

use crate::{ATTACK, ATTACKERS, LIMITS, MANY, Scene, support::frames::*};

/// The attackers send `bytes` again and again; each is told to calm down, or finds its connection closed while it is
/// still writing. `ended` is what it is counted as.
fn flood_with(ended: &str, opening: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static, each: usize) {
    let scene = Scene::set(LIMITS, "idle_timeout: 2s");
    scene.attack(move |_, address| {
        let mut peer = Peer::open(address);
        let mut bytes = Vec::new();
        for n in 0..u32::try_from(each).unwrap() {
            bytes.extend(opening(n));
        }
        flood(&mut peer, &bytes, MANY / each, ATTACK);
        // Its last words may be lost in the reset that what it still sends provokes.
        assert!(matches!(peer.end(), None | Some(ENHANCE_YOUR_CALM)));
    });
    scene.expect_ended(ended, ATTACKERS);
    scene.end();
}

#[test]
fn pings() {
    flood_with("control_flood", |_| ping(*b"flooding"), 100);
}

#[test]
fn ping_acknowledgements() {
    flood_with("control_flood", |_| frame(PING, ACK, 0, b"flooding"), 100);
}

#[test]
fn settings_again_and_again() {
    flood_with("control_flood", |_| settings(&[(3, 100)]), 100);
}

#[test]
fn priorities() {
    flood_with("control_flood", |n| frame(PRIORITY, 0, 1 + 2 * n, &[0, 0, 0, 0, 9]), 100);
}

#[test]
fn windows_octet_by_octet() {
    flood_with("control_flood", |_| window_update(0, 1), 100);
}

#[test]
fn frames_of_unknown_types() {
    flood_with("control_flood", |_| frame(0xbe, 0, 0, b"x"), 100);
}

#[test]
fn going_away_again_and_again() {
    let scene = Scene::set(LIMITS, "idle_timeout: 2s");
    scene.attack(|_, address| {
        let mut peer = Peer::open(address);
        flood(&mut peer, &frame(GOAWAY, 0, 0, &[0; 8]), MANY, ATTACK);
        peer.end();
    });
    scene.end();
}

/// CVE-2023-44487 as it was: a request and its reset in one go. h2 counts what was reset before it was taken.
#[test]
fn rapid_resets() {
    let scene = Scene::set(LIMITS, "idle_timeout: 2s");
    scene.attack(|_, address| {
        let mut peer = Peer::open(address);
        let mut stream = 1;
        for _ in 0..MANY / 100 {
            let mut bytes = Vec::new();
            for _ in 0..100 {
                bytes.extend(headers(stream, WHOLE, &request("GET", "/")));
                bytes.extend(reset(stream, CANCEL));
                stream += 2;
            }
            if !peer.send(bytes) {
                break;
            }
        }
        assert!(matches!(peer.end(), None | Some(ENHANCE_YOUR_CALM)));
    });
    scene.expect_ended("frame_flood", ATTACKERS);
    // Hardly one of the requests reached the application.
    assert!(scene.origin.seen().iter().filter(|m| m.start.starts_with("GET / ")).count() < 1_000);
    scene.end();
}

/// The same with time for Weir to take each request: h2 does not count those.
#[test]
fn resets_of_requests_that_run() {
    let scene = Scene::set(&format!("{LIMITS}, http2: {{ max_resets: 100 }}"), "idle_timeout: 2s");
    scene.attack(|_, address| {
        let mut peer = Peer::open(address);
        for n in 0..300 {
            peer.send(headers(1 + 2 * n, WHOLE, &request("GET", "/never")));
            // The answer to a PING says that Weir has taken it.
            peer.send(ping(*b"taken???"));
            loop {
                match peer.next() {
                    Some(frame) if frame.kind == PING => break,
                    Some(frame) if frame.kind == GOAWAY => {
                        assert_eq!(code_of(&frame.payload[4..]), ENHANCE_YOUR_CALM);
                        return;
                    }
                    Some(_) => {}
                    None => return,
                }
            }
            peer.send(reset(1 + 2 * n, CANCEL));
        }
        panic!("300 resets went through");
    });
    scene.expect_ended("reset_flood", ATTACKERS);
    scene.end();
}

/// CVE-2025-8671: the client never resets anything, and makes Weir do so.
#[test]
fn resets_that_errors_provoke() {
    let scene = Scene::set(&format!("{LIMITS}, http2: {{ max_stream_errors: 100 }}"), "idle_timeout: 2s");
    scene.attack(|_, address| {
        let mut peer = Peer::open(address);
        for n in 0..300 {
            let stream = 1 + 2 * n;
            peer.send(headers(stream, END_HEADERS, &request("POST", "/never")));
            // Beyond 2^31-1: an error of the stream.
            if !peer.send(window_update(stream, 0x7fff_ffff)) {
                break;
            }
        }
        let said = peer.end();
        assert!(matches!(said, None | Some(ENHANCE_YOUR_CALM)), "{said:?}");
    });
    scene.expect_ended("frame_flood", ATTACKERS);
    scene.end();
}

/// CVE-2024-27316.
#[test]
fn heads_that_never_end() {
    let scene = Scene::set(LIMITS, "idle_timeout: 2s");
    scene.attack(|_, address| {
        let mut peer = Peer::open(address);
        peer.send(headers(1, 0, &request("GET", "/")));
        flood(&mut peer, &frame(CONTINUATION, 0, 1, &block(&[("x-a", "flooding")])), MANY, ATTACK);
        assert!(matches!(peer.end(), None | Some(ENHANCE_YOUR_CALM | COMPRESSION_ERROR)));
    });
    scene.weir.wait_metric("weir_requests_in_flight", &[], 0.0);
    scene.end();
}

#[test]
fn empty_continuations() {
    let scene = Scene::set(LIMITS, "idle_timeout: 2s");
    scene.attack(|_, address| {
        let mut peer = Peer::open(address);
        peer.send(headers(1, 0, &request("GET", "/")));
        flood(&mut peer, &frame(CONTINUATION, 0, 1, b""), MANY, ATTACK);
        assert!(matches!(peer.end(), None | Some(ENHANCE_YOUR_CALM)));
    });
    scene.expect_ended("frame_flood", ATTACKERS);
    scene.end();
}

/// CVE-2019-9518.
#[test]
fn empty_data() {
    let scene = Scene::set(LIMITS, "idle_timeout: 2s");
    scene.attack(|_, address| {
        let mut peer = Peer::open(address);
        peer.send(headers(1, END_HEADERS, &request("POST", "/never")));
        flood(&mut peer, &data(1, 0, b""), MANY, ATTACK);
        assert!(matches!(peer.end(), None | Some(ENHANCE_YOUR_CALM)));
    });
    scene.end();
}

/// Each octet in a frame of its own takes hundreds in memory while nobody reads it.
#[test]
fn data_octet_by_octet_that_nobody_reads() {
    let scene = Scene::set(LIMITS, "idle_timeout: 2s, timeout: 4s");
    scene.attack(|_, address| {
        let mut peer = Peer::open(address);
        peer.send(headers(1, END_HEADERS, &request("POST", "/never")));
        flood(&mut peer, &data(1, 0, b"x").repeat(100), MANY / 100, ATTACK);
        assert!(matches!(peer.end(), None | Some(ENHANCE_YOUR_CALM | NO_ERROR)));
    });
    scene.end();
}

/// A block of a few octets that means megabytes: one large field in the table, named again and again.
#[test]
fn hpack_bombs() {
    let scene = Scene::set(LIMITS, "idle_timeout: 2s");
    scene.attack(|_, address| {
        let mut peer = Peer::open(address);
        let mut large = block(&request("GET", "/"));
        large.push(0x40);
        string(b"x-a", &mut large);
        string(&[b'x'; 3_900], &mut large);
        peer.send(frame(HEADERS, WHOLE, 1, &large));
        for n in 1..200 {
            let bomb = [block(&request("GET", "/")), vec![0x80 | 0x3e; 10_000]].concat();
            if !peer.send(frame(HEADERS, WHOLE, 1 + 2 * n, &bomb)) {
                break;
            }
        }
        assert!(matches!(peer.end(), None | Some(ENHANCE_YOUR_CALM)));
    });
    scene.expect_ended("frame_flood", ATTACKERS);
    scene.end();
}

#[test]
fn cookie_crumbs() {
    let scene = Scene::set(LIMITS, "idle_timeout: 2s");
    scene.attack(|_, address| {
        let mut peer = Peer::open(address);
        for n in 0..50 {
            // `cookie` is 32 in the static table.
            let crumbs = [0x0f, 17, 1, b'a'].repeat(3_000);
            let block = [block(&request("GET", "/")), crumbs].concat();
            peer.send(frame(HEADERS, WHOLE, 1 + 2 * n, &block));
            assert_eq!(peer.outcome(1 + 2 * n).status(), Some(431));
        }
    });
    scene.end();
}

/// More streams than are allowed, none of which ends.
#[test]
fn streams_beyond_the_bound() {
    let scene = Scene::set(LIMITS, "idle_timeout: 2s, timeout: 4s");
    scene.attack(|_, address| {
        let mut peer = Peer::open(address);
        for n in 0..1_000 {
            peer.send(headers(1 + 2 * n, END_HEADERS, &request("POST", "/never")));
        }
        assert_eq!(peer.outcome(1 + 2 * 999), Outcome::Reset(REFUSED_STREAM));
    });
    assert!(scene.origin.seen().iter().filter(|m| m.start.contains("/never")).count() <= 100 * ATTACKERS);
    scene.end();
}
