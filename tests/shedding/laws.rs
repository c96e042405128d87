//! What each algorithm grants to 64 connections on two workers is what its law says, whatever the machine does meanwhile:
//! a decision falls somewhere between a request and its answer, and at a refusal nothing is left.

use std::time::{Duration, Instant, SystemTime};

use crate::{
    hammer::{Hammer, Shot, get},
    support::{unruly::Unruly, wait_until},
    world::{World, strict},
};

const CONNECTIONS: usize = 64;
const RATE: f64 = 1000.0;
const BURST: f64 = 100.0;

/// All that 64 connections saw, in the order of their answers.
fn under(limit: &str) -> Vec<Shot<u16>> {
    let (world, [origin]) = (World::start(), ["a"].map(Unruly::start));
    let policy = format!(
        "  upstreams: {{ app: {{ endpoints: [\"{}\"] }} }}\n  routes: {{ all: {{ upstream: app }} }}\n  limits:\n    l: {{ rate: {RATE}/s, {limit} }}\n",
        origin.address
    );
    let weir = world.weir("pod-1", "", &policy);
    let hammer = Hammer::start(
        weir.at("inbound"),
        CONNECTIONS,
        Duration::from_millis(10),
        &get("/", &[]),
        crate::support::raw::Message::status,
    );
    let since = Instant::now();
    wait_until("time to pass", || since.elapsed() > Duration::from_secs(if strict() { 10 } else { 4 }));
    let all = hammer.end();
    assert!(all.iter().all(|shot| [200, 429].contains(&shot.seen)));
    all
}

fn granted(all: &[Shot<u16>]) -> impl Iterator<Item = &Shot<u16>> {
    all.iter().filter(|shot| shot.seen == 200)
}

fn refused(all: &[Shot<u16>]) -> impl Iterator<Item = &Shot<u16>> {
    all.iter().filter(|shot| shot.seen == 429)
}

/// A strict run wants what was granted within a hundredth of the law, from the first request to the last refusal.
#[track_caller]
fn close(what: &str, granted: f64, law: f64) {
    eprintln!("{what}: {granted} granted, {law:.0} by the law: {:+.2} %", (granted / law - 1.0) * 100.0);
    assert!(!strict() || (granted / law - 1.0).abs() <= 0.01, "{what}: {granted}, not {law}");
}

/// A bucket that fills at the rate: from the first request on it never gave more than it held and got, and had given all
/// of that at each refusal.
#[track_caller]
fn bucket(what: &str, all: &[Shot<u16>], burst: f64) {
    let (sent, got) = (all.iter().map(|shot| shot.sent).min().unwrap(), all[0].got);
    let end = all.iter().map(|shot| shot.got).max().unwrap();
    let total = granted(all).count() as f64;
    let most = burst + RATE * (end - sent).as_secs_f64() + 1.0;
    assert!(total <= most, "{what}: {total} granted, {most} at most");
    let mut refusals: Vec<_> = refused(all).collect();
    assert!(!refusals.is_empty(), "{what}: nobody was refused");
    refusals.sort_by_key(|shot| shot.sent);
    for refusal in refusals.iter().step_by(refusals.len().div_ceil(200)).chain(refusals.last()) {
        let until = granted(all).filter(|shot| shot.sent <= refusal.got).count() as f64;
        let least = burst + RATE * refusal.sent.saturating_duration_since(got).as_secs_f64() - 1.0;
        assert!(until >= least, "{what}: {until} granted until a refusal, {least} at least");
    }
    let end = refusals[refusals.len() - 1].sent;
    let until = granted(all).filter(|shot| shot.sent <= end).count() as f64;
    close(what, until, burst + RATE * (end - sent).as_secs_f64());
}

#[test]
fn a_token_bucket() {
    bucket("token bucket", &under("burst: 100"), BURST);
}

#[test]
fn a_leaky_bucket() {
    // Fewer may wait than there are connections: the others are refused.
    bucket("leaky bucket", &under("burst: 20, algorithm: leaky_bucket, max_wait: 1s"), 20.0);
}

#[test]
fn a_sliding_window() {
    let all = under("algorithm: sliding_window");
    let good: Vec<_> = granted(&all).collect();
    // Each window of one second from an answer on: what was surely decided in it.
    for begin in good.iter().step_by(20) {
        let end = begin.got + Duration::from_secs(1);
        let inside = good.iter().filter(|shot| shot.sent >= begin.got && shot.got < end).count() as f64;
        assert!(inside <= RATE, "{inside} in one window");
    }
    // What is refused found a full window: of what was granted until then nothing is remembered for longer than 1 1/15.
    let memory = Duration::from_secs(16) / 15;
    let refusals: Vec<_> = refused(&all).collect();
    assert!(!refusals.is_empty(), "nobody was refused");
    for refusal in refusals.iter().step_by(refusals.len().div_ceil(200)) {
        let inside =
            good.iter().filter(|shot| shot.sent <= refusal.got && shot.got + memory >= refusal.sent).count();
        assert!(inside as f64 >= RATE, "{inside} in a window that refuses");
    }
    eprintln!("sliding window: {} granted, {} refused", good.len(), refusals.len());
}

#[test]
fn a_fixed_window() {
    let all = under("algorithm: fixed_window");
    // The windows are those of the clock; that of a process may be set by the time at which it began.
    let (now, clock) = (Instant::now(), SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap());
    let at = |moment: Instant| clock.as_secs_f64() - now.saturating_duration_since(moment).as_secs_f64();
    let skew = 0.05;
    let (first, last) = (at(all[0].sent).floor(), at(all[all.len() - 1].got).floor());
    let windows =
        std::iter::successors(Some(first), |window| Some(window + 1.0)).take_while(|it| *it <= last);
    let (mut exact, mut count) = (0, 0.0);
    for begin in windows {
        count += 1.0;
        let end = begin + 1.0;
        let surely = granted(&all)
            .filter(|shot| at(shot.sent) >= begin + skew && at(shot.got) < end - skew)
            .count() as f64;
        assert!(surely <= RATE, "{surely} in one window");
        let full = refused(&all).any(|shot| at(shot.sent) >= begin + skew && at(shot.got) < end - skew);
        let perhaps =
            granted(&all).filter(|shot| at(shot.sent) < end + skew && at(shot.got) >= begin - skew).count();
        if full {
            assert!(perhaps as f64 >= RATE, "{perhaps} in a window that refuses");
            exact += 1;
        }
    }
    assert!(exact >= 2, "no window was full");
    let total = granted(&all).count() as f64;
    assert!(total <= RATE * count, "{total} in {count} windows");
    eprintln!("fixed window: {total} granted in {count} windows, {exact} of them full");
}
