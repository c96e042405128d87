//! Callers that wait for their answers, on a clock of their own.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::*;

/// What an endpoint does with a request.
#[derive(Debug, Clone, Copy)]
struct Behaviour {
    milliseconds: u64,
    /// Of so many requests one is answered; 1 = all, 0 = none.
    answers: u64,
}

const fn answers_after(milliseconds: u64) -> Behaviour {
    Behaviour { milliseconds, answers: 1 }
}

const fn fails_after(milliseconds: u64) -> Behaviour {
    Behaviour { milliseconds, answers: 0 }
}

/// Callers of an upstream. Each sends its next request some time after its last answer.
struct Callers {
    upstream: Upstream,
    /// When which caller does something next, and the request that ends then.
    next: BinaryHeap<Reverse<(Stamp, usize, Option<Request>)>>,
    pause: Duration,
    sent: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Request {
    to: usize,
    began: Stamp,
    fails: bool,
}

impl Callers {
    fn new(callers: usize, pause: Duration, upstream: Upstream) -> Self {
        let next = (0..callers).map(|caller| Reverse((upstream.now, caller, None))).collect();
        Self { upstream, next, pause, sent: 0 }
    }

    /// How many requests went to each within the time.
    fn run(&mut self, time: Duration, behaviours: &[Behaviour]) -> Vec<u64> {
        let end = self.upstream.now.after(time);
        let terms = *self.upstream.rota.terms();
        let mut counts = vec![0; behaviours.len()];
        while self.next.peek().is_some_and(|Reverse((moment, ..))| *moment < end) {
            let Reverse((now, caller, request)) = self.next.pop().unwrap();
            self.upstream.now = now;
            if let Some(Request { to, began, fails }) = request {
                let in_flight = &self.upstream.in_flight[to];
                in_flight.set(in_flight.get() - 1);
                let latency = &self.upstream.latencies[to];
                if fails {
                    latency.fail(now.since(began), now, &terms);
                } else {
                    latency.sample(now.since(began), now, &terms);
                }
                self.next.push(Reverse((now.after(self.pause), caller, None)));
                continue;
            }
            let to = self.upstream.pick().endpoint().unwrap();
            counts[to] += 1;
            self.sent += 1;
            self.upstream.in_flight[to].set(self.upstream.in_flight[to].get() + 1);
            let behaviour = behaviours[to];
            let fails = !self.sent.is_multiple_of(behaviour.answers);
            // Times vary by a quarter either way.
            let micros = behaviour.milliseconds * 1_000;
            let took = self.upstream.rng.u64(micros * 3 / 4..=micros * 5 / 4);
            let ends = now.after(Duration::from_micros(took));
            self.next.push(Reverse((ends, caller, Some(Request { to, began: now, fails }))));
        }
        self.upstream.now = end;
        counts
    }
}

const NO_PAUSE: Duration = Duration::ZERO;

fn part(counts: &[u64], index: usize) -> f64 {
    let count = |count: u64| f64::from(u32::try_from(count).unwrap());
    count(counts[index]) / count(counts.iter().sum())
}

fn equal(endpoints: usize) -> Upstream {
    Upstream::weighted(BalancerPolicy::PeakEwma, &vec![1; endpoints])
}

#[test]
fn equal_endpoints_get_equal_parts() {
    for callers in [1, 4, 64] {
        let mut callers = Callers::new(callers, NO_PAUSE, equal(3));
        let counts = callers.run(Duration::from_mins(2), &[answers_after(10); 3]);
        assert!((0..3).all(|index| (part(&counts, index) - 1.0 / 3.0).abs() < 0.1), "{counts:?}");
    }
}

#[test]
fn one_of_three_that_is_twenty_times_slower_gets_less_than_a_tenth() {
    let behaviours = [answers_after(100), answers_after(5), answers_after(5)];
    for callers in [1, 4, 16] {
        let mut callers = Callers::new(callers, NO_PAUSE, equal(3));
        let counts = callers.run(Duration::from_mins(1), &behaviours);
        assert!(part(&counts, 0) < 0.1, "{counts:?}");
        assert!(counts[0] > 0, "it is not forgotten");
        callers.run(Duration::from_mins(1), &[answers_after(5); 3]);
        let well = callers.run(Duration::from_mins(1), &[answers_after(5); 3]);
        assert!(part(&well, 0) > 0.25, "and has its part again: {well:?}");
    }
    let mut blind = Callers::new(16, NO_PAUSE, Upstream::weighted(BalancerPolicy::RoundRobin, &[1, 1, 1]));
    assert!(part(&blind.run(Duration::from_mins(1), &behaviours), 0) > 0.3, "which says what the test sees");
}

#[test]
fn one_that_becomes_slow_loses_its_part_within_a_second() {
    let mut callers = Callers::new(8, NO_PAUSE, equal(3));
    callers.run(Duration::from_secs(20), &[answers_after(5); 3]);
    let behaviours = [answers_after(100), answers_after(5), answers_after(5)];
    let counts = callers.run(Duration::from_secs(1), &behaviours);
    assert!(part(&counts, 0) < 0.1, "{counts:?}");
}

#[test]
fn one_that_fails_fast_attracts_nothing_but_proves_itself_once_a_second() {
    let behaviours = [fails_after(1), answers_after(20), answers_after(20)];
    for callers in [2, 8, 32] {
        let mut callers = Callers::new(callers, NO_PAUSE, equal(3));
        callers.run(Duration::from_secs(5), &behaviours);
        let counts = callers.run(Duration::from_mins(2), &behaviours);
        assert!((90..=125).contains(&counts[0]), "about one a second: {counts:?}");
        callers.run(Duration::from_secs(5), &[answers_after(20); 3]);
        let well = callers.run(Duration::from_secs(10), &[answers_after(20); 3]);
        assert!(part(&well, 0) > 0.2, "it has proved itself: {well:?}");
    }
}

#[test]
fn one_that_fails_half_the_time_gets_little() {
    let half = Behaviour { milliseconds: 5, answers: 2 };
    let mut callers = Callers::new(8, NO_PAUSE, equal(3));
    let counts = callers.run(Duration::from_mins(2), &[half, answers_after(20), answers_after(20)]);
    assert!(part(&counts, 0) < 0.1, "{counts:?}");
}

#[test]
fn with_little_traffic_proofs_take_no_more_than_an_eighth() {
    for endpoints in [2, 3, 8] {
        let mut behaviours = vec![answers_after(20); endpoints];
        behaviours[0] = fails_after(1);
        let mut callers = Callers::new(1, Duration::from_millis(980), equal(endpoints));
        let counts = callers.run(Duration::from_hours(1), &behaviours);
        let part = part(&counts, 0);
        assert!((0.08..0.17).contains(&part), "{endpoints}: {counts:?}");
    }
}

#[test]
fn where_all_fail_nobody_is_left_out() {
    let mut callers = Callers::new(8, NO_PAUSE, equal(3));
    let counts = callers.run(Duration::from_mins(1), &[fails_after(20); 3]);
    assert!((0..3).all(|index| part(&counts, index) > 0.2), "{counts:?}");
}

#[test]
fn one_that_hangs_gets_no_more_than_it_can_hold() {
    let mut callers = Callers::new(64, NO_PAUSE, equal(3));
    let counts =
        callers.run(Duration::from_secs(30), &[answers_after(600_000), answers_after(10), answers_after(10)]);
    assert!(counts[0] <= 26, "its part of the first ones, and hardly more: {counts:?}");
}

#[test]
fn a_new_one_is_asked_soon_though_its_guess_is_dear() {
    let mut callers = Callers::new(4, NO_PAUSE, equal(4));
    callers.upstream.change(|members| members[3].weight = 0);
    callers.run(Duration::from_secs(30), &[answers_after(1); 4]);
    callers.upstream.change(|members| members[3].weight = 1);
    let counts = callers.run(Duration::from_secs(10), &[answers_after(1); 4]);
    assert!(part(&counts, 3) > 0.15, "{counts:?}");
}
