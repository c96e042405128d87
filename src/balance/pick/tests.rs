//! Tests of choosing.

use std::{cell::Cell, sync::Arc, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    balance::{Member, MemberState, Ring, Rules, Zone},
    config::policy::{Balancing, Percent, SlowStart},
};

mod simulation;

/// Endpoints with their loads.
struct Upstream {
    members: Vec<Member>,
    balancing: Balancing,
    latencies: Vec<Latency>,
    in_flight: Vec<Cell<u32>>,
    memory: Memory,
    rota: Rota,
    now: Stamp,
    rng: fastrand::Rng,
    /// How often somebody asked for a load.
    asked: Cell<usize>,
}

impl Upstream {
    fn new(policy: BalancerPolicy, members: Vec<Member>) -> Self {
        let now = Stamp::FIRST.after(Duration::from_mins(10));
        let balancing = Balancing { policy, ..Balancing::default() };
        Self {
            latencies: members.iter().map(|_| Latency::default()).collect(),
            in_flight: members.iter().map(|_| Cell::new(0)).collect(),
            memory: Memory::default(),
            rota: rota(&members, &balancing, now),
            now,
            rng: fastrand::Rng::with_seed(7),
            asked: Cell::new(0),
            members,
            balancing,
        }
    }

    fn weighted(policy: BalancerPolicy, weights: &[u32]) -> Self {
        Self::new(policy, weights.iter().map(|&weight| Member { weight, ..READY }).collect())
    }

    /// All of them have answered, and needed so much.
    fn needing(self, milliseconds: &[u64]) -> Self {
        for (latency, needs) in self.latencies.iter().zip(milliseconds) {
            latency.set(Duration::from_millis(*needs), self.now);
        }
        self
    }

    fn busy(self, in_flight: &[u32]) -> Self {
        for (cell, &count) in self.in_flight.iter().zip(in_flight) {
            cell.set(count);
        }
        self
    }

    fn change(&mut self, change: impl Fn(&mut [Member])) {
        change(&mut self.members);
        self.rota = rota(&self.members, &self.balancing, self.now);
    }

    fn pick(&mut self) -> Pick {
        self.ask(None, |_| false)
    }

    fn ask(&mut self, hash: Option<u64>, tried: impl Fn(usize) -> bool) -> Pick {
        let ask = Ask { memory: &self.memory, now: self.now, hash };
        let load = |index: usize| {
            self.asked.set(self.asked.get() + 1);
            Load { in_flight: self.in_flight[index].get(), latency: &self.latencies[index] }
        };
        self.rota.pick(&ask, &mut self.rng, load, tried)
    }

    /// How often each was picked, while nothing changes.
    fn counts(&mut self, picks: usize) -> Vec<usize> {
        let mut counts = vec![0; self.members.len()];
        for _ in 0..picks {
            counts[self.pick().endpoint().unwrap()] += 1;
        }
        counts
    }
}

const READY: Member =
    Member { weight: 1, tier: 0, zone: Zone::Unknown, state: MemberState::Ready, back_since: None };

fn rota(members: &[Member], balancing: &Balancing, now: Stamp) -> Rota {
    let names: Vec<_> = (0..members.len()).map(|index| format!("10.0.0.{index}:8080")).collect();
    let ring = Ring::build(names.iter().map(String::as_str).zip(members.iter().map(|member| member.weight)));
    let slow_start = SlowStart::default();
    let ring = Arc::new(ring);
    let min_healthy = Percent::whole(50);
    Rota::build(members, &Rules { balancing, slow_start: &slow_start, min_healthy, ring: Some(&ring) }, now)
}

const ALL: [BalancerPolicy; 5] = [
    BalancerPolicy::PeakEwma,
    BalancerPolicy::LeastRequest,
    BalancerPolicy::RoundRobin,
    BalancerPolicy::Random,
    BalancerPolicy::RingHash,
];

#[test]
fn round_robin_follows_weights_exactly_and_goes_on_where_it_was() {
    let mut upstream = Upstream::weighted(BalancerPolicy::RoundRobin, &[3, 1, 0]);
    assert_eq!(upstream.counts(400), [300, 100, 0]);
    let mut upstream = Upstream::weighted(BalancerPolicy::RoundRobin, &[1, 1, 1]);
    assert_eq!((upstream.pick(), upstream.pick()), (Pick::One(0), Pick::One(1)));
    upstream.change(|_| ());
    assert_eq!(upstream.pick(), Pick::One(2), "another rota is no new start");
}

#[test]
fn draws_follow_weights() {
    for (policy, picks, slack) in [
        (BalancerPolicy::Random, 40_000, 1_000),
        (BalancerPolicy::LeastRequest, 40_000, 1_000),
        (BalancerPolicy::RingHash, 40_000, 1_000),
    ] {
        let counts = Upstream::weighted(policy, &[3, 1, 0]).counts(picks);
        assert!(counts[0].abs_diff(picks * 3 / 4) < slack, "{policy:?} {counts:?}");
        assert_eq!(counts[2], 0);
    }
    let equals = Upstream::weighted(BalancerPolicy::PeakEwma, &[3, 1]).needing(&[5, 5]).counts(40_000);
    assert!(equals[0].abs_diff(30_000) < 1_000, "{equals:?}");
}

#[test]
fn of_two_the_idle_one_is_taken() {
    let mut upstream = Upstream::weighted(BalancerPolicy::LeastRequest, &[1, 1, 1]).busy(&[9, 0, 9]);
    let counts = upstream.counts(9_000);
    // It is drawn for two of three requests.
    assert!(counts[1].abs_diff(6_000) < 300, "{counts:?}");
}

#[test]
fn of_two_the_faster_one_is_taken_unless_it_has_more_to_do() {
    let mut upstream = Upstream::weighted(BalancerPolicy::PeakEwma, &[1, 1]).needing(&[10, 30]);
    assert_eq!(upstream.counts(100), [100, 0]);
    assert_eq!(upstream.busy(&[1, 0]).counts(100), [100, 0]);
    let mut upstream = Upstream::weighted(BalancerPolicy::PeakEwma, &[1, 1]).needing(&[10, 30]).busy(&[3, 0]);
    assert_eq!(upstream.counts(100), [0, 100]);
}

#[test]
fn what_is_in_flight_spreads_by_weight() {
    for policy in [BalancerPolicy::LeastRequest, BalancerPolicy::PeakEwma] {
        for weights in [[2, 1], [200, 100]] {
            let mut upstream = Upstream::weighted(policy, &weights).needing(&[5, 5]);
            for _ in 0..300 {
                let index = upstream.pick().endpoint().unwrap();
                upstream.in_flight[index].set(upstream.in_flight[index].get() + 1);
            }
            let [heavy, light] = [upstream.in_flight[0].get(), upstream.in_flight[1].get()];
            assert!(heavy.abs_diff(2 * light) <= 4, "{policy:?} {weights:?}: {heavy} {light}");
        }
    }
}

#[test]
fn in_the_common_case_two_costs_are_looked_at() {
    for policy in [BalancerPolicy::PeakEwma, BalancerPolicy::LeastRequest] {
        let mut upstream = Upstream::weighted(policy, &[1, 2, 3, 4, 5]).needing(&[1, 2, 3, 4, 5]);
        upstream.counts(100);
        assert_eq!(upstream.asked.get(), 200);
    }
    let mut alone = Upstream::weighted(BalancerPolicy::PeakEwma, &[1]);
    assert_eq!((alone.pick(), alone.asked.get()), (Pick::One(0), 0));
}

#[test]
fn tried_ones_are_taken_when_there_is_no_other() {
    for policy in ALL {
        let mut upstream = Upstream::weighted(policy, &[1, 1, 1, 0]).needing(&[1, 90, 50]).busy(&[0, 3, 2]);
        for hash in 0..200_u64 {
            let hash = Some(hash << 56);
            assert_eq!(upstream.ask(hash, |index| index != 1), Pick::One(1), "{policy:?}");
            assert_ne!(upstream.ask(hash, |index| index == 0), Pick::One(0), "{policy:?}");
            let any = upstream.ask(hash, |_| true).endpoint().unwrap();
            assert!(any < 3, "{policy:?}");
        }
    }
}

fn in_zones(policy: BalancerPolicy, own: usize, others: usize) -> Upstream {
    let zone = |index| if index < own { Zone::Same } else { Zone::Other };
    Upstream::new(policy, (0..own + others).map(|index| Member { zone: zone(index), ..READY }).collect())
}

#[test]
fn ones_own_zone_is_left_when_it_is_twice_as_strained() {
    let policy = BalancerPolicy::PeakEwma;
    assert_eq!(in_zones(policy, 1, 1).needing(&[19, 10]).counts(100), [100, 0]);
    assert_eq!(in_zones(policy, 1, 1).needing(&[21, 10]).counts(100), [0, 100]);
    assert_eq!(in_zones(policy, 1, 1).needing(&[10, 10]).busy(&[4, 0]).counts(100), [100, 0]);
    assert_eq!(in_zones(policy, 1, 1).needing(&[10, 10]).busy(&[5, 0]).counts(100), [0, 100]);
    let policy = BalancerPolicy::LeastRequest;
    assert_eq!(in_zones(policy, 1, 2).busy(&[4, 0, 0]).counts(100), [100, 0, 0]);
    assert_eq!(in_zones(policy, 1, 1).busy(&[5, 0]).counts(100), [0, 100]);
    assert_eq!(in_zones(policy, 1, 1).busy(&[14, 5]).counts(100), [100, 0]);
    for policy in [BalancerPolicy::Random, BalancerPolicy::RoundRobin] {
        assert_eq!(in_zones(policy, 2, 2).busy(&[90, 90]).counts(100)[2..], [0, 0]);
    }
}

#[test]
fn a_retry_stays_in_ones_own_zone_while_somebody_there_was_not_tried() {
    for policy in [BalancerPolicy::PeakEwma, BalancerPolicy::LeastRequest, BalancerPolicy::Random] {
        let mut upstream = in_zones(policy, 3, 2).needing(&[5, 5, 5, 5, 5]);
        for _ in 0..100 {
            assert_eq!(upstream.ask(None, |index| index < 2), Pick::One(2), "{policy:?}");
            assert!(upstream.ask(None, |index| index < 3).endpoint().unwrap() >= 3, "{policy:?}");
            assert_eq!(upstream.ask(None, |index| index != 3), Pick::One(3), "{policy:?}");
        }
    }
}

#[test]
fn in_panic_a_few_find_out_and_the_rest_is_refused() {
    for policy in ALL {
        // What they cost does not matter: all of them are tried.
        let mut upstream = Upstream::weighted(policy, &[1, 1, 1, 0]).needing(&[1, 90, 5_000, 1]);
        upstream.change(|members| members[..2].iter_mut().for_each(|m| m.state = MemberState::Unhealthy));
        let mut probes = [0_u32; 4];
        let mut refused = 0;
        for _ in 0..60_000 {
            match upstream.pick() {
                Pick::Probe(index) => probes[index] += 1,
                Pick::Refused => refused += 1,
                other => panic!("{other:?}"),
            }
            upstream.now = upstream.now.after(Duration::from_millis(1));
        }
        assert_eq!(refused + probes.iter().sum::<u32>(), 60_000);
        assert!((56_900..=57_000).contains(&refused), "{refused}");
        assert!(probes[..3].iter().all(|&count| count.abs_diff(1_000) < 150), "{policy:?} {probes:?}");
        assert_eq!(probes[3], 0);
        upstream.now = upstream.now.after(Duration::from_secs(1));
        assert_eq!(upstream.ask(None, |index| index != 1), Pick::Probe(1));
    }
}

#[test]
fn one_of_one_that_is_unhealthy_is_probed() {
    let mut upstream = Upstream::weighted(BalancerPolicy::PeakEwma, &[1]);
    upstream.change(|members| members[0].state = MemberState::Unhealthy);
    assert_eq!((upstream.pick(), upstream.pick()), (Pick::Probe(0), Pick::Refused));
    upstream.change(|members| members[0].state = MemberState::Ready);
    assert_eq!(upstream.pick(), Pick::One(0));
    upstream.change(|members| members[0].weight = 0);
    assert_eq!(upstream.pick(), Pick::Nobody);
}

fn key(number: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&number.to_le_bytes())
}

#[test]
fn an_endpoint_that_is_out_takes_nobody_elses_keys_along_and_has_its_own_again() {
    let mut upstream = Upstream::weighted(BalancerPolicy::RingHash, &[1; 5]);
    let owners = |upstream: &mut Upstream| -> Vec<_> {
        (0..3_000).map(|number| upstream.ask(Some(key(number)), |_| false).endpoint().unwrap()).collect()
    };
    let before = owners(&mut upstream);
    upstream.change(|members| members[2].state = MemberState::Ejected);
    let during = owners(&mut upstream);
    assert!(before.iter().zip(&during).all(|(&before, &during)| before == during || before == 2));
    for heir in [0, 1, 3, 4] {
        let inherits = before.iter().zip(&during).any(|(&before, &during)| before == 2 && during == heir);
        assert!(inherits, "{heir}: its keys are spread");
    }
    assert!(!during.contains(&2));
    upstream.change(|members| members[2].state = MemberState::Ready);
    assert_eq!(owners(&mut upstream), before);
}

#[test]
fn the_load_of_each_is_bounded_on_the_ring() {
    let mut upstream = Upstream::weighted(BalancerPolicy::RingHash, &[1, 1, 2]);
    for count in 1..=1_000_u32 {
        let index = upstream.ask(Some(key(1)), |_| false).endpoint().unwrap();
        upstream.in_flight[index].set(upstream.in_flight[index].get() + 1);
        for (in_flight, part) in upstream.in_flight.iter().zip([0.25, 0.25, 0.5]) {
            let most = (1.25 * f64::from(count) * part).ceil();
            assert!(f64::from(in_flight.get()) <= most, "{} of {count}", in_flight.get());
        }
    }
    let first = Upstream::weighted(BalancerPolicy::RingHash, &[1, 1, 2]).ask(Some(key(1)), |_| false);
    let first = first.endpoint().unwrap();
    let share = [313, 313, 625][first];
    assert_eq!(upstream.in_flight[first].get(), share, "the key's own one takes all that it may");
}

#[test]
fn the_bound_counts_the_request_itself() {
    let mut upstream = Upstream::weighted(BalancerPolicy::RingHash, &[1, 1]);
    let own = upstream.ask(Some(key(1)), |_| false).endpoint().unwrap();
    upstream.in_flight[own].set(1);
    assert_eq!(upstream.ask(Some(key(1)), |_| false), Pick::One(own), "two, and 1.25 each");
    upstream.in_flight[own].set(2);
    assert_eq!(upstream.ask(Some(key(1)), |_| false), Pick::One(1 - own), "three, and 1.875 each");
}

#[test]
fn a_request_without_a_key_is_drawn() {
    let counts = Upstream::weighted(BalancerPolicy::RingHash, &[1; 4]).counts(4_000);
    assert!(counts.iter().all(|count| count.abs_diff(1_000) < 150), "{counts:?}");
}

#[test]
fn one_that_comes_back_gets_a_tenth_first() {
    for policy in [BalancerPolicy::Random, BalancerPolicy::RoundRobin, BalancerPolicy::LeastRequest] {
        let mut upstream = Upstream::weighted(policy, &[1, 1]);
        let now = upstream.now;
        upstream.change(|members| members[1].back_since = Some(now));
        let counts = upstream.counts(11_000);
        assert!(counts[1].abs_diff(1_000) < 150, "{policy:?} {counts:?}");
    }
}

prop_compose! {
    fn member()(
        weight in prop_oneof![Just(0_u32), Just(1), 1_u32..10, Just(u32::MAX)],
        tier in 0_u8..3,
        zone in prop_oneof![Just(Zone::Same), Just(Zone::Other), Just(Zone::Unknown)],
        state in prop_oneof![
            3 => Just(MemberState::Ready),
            1 => Just(MemberState::Unhealthy),
            1 => Just(MemberState::Ejected)
        ],
        back in proptest::option::of(0_u64..60),
    ) -> Member {
        let back_since = back.map(|ago| Stamp::from_micros((600 - ago) * 1_000_000));
        Member { weight, tier, zone, state, back_since }
    }
}

proptest! {
    #[test]
    fn what_is_picked_may_be_picked(
        members in proptest::collection::vec(member(), 0..9),
        tried in proptest::collection::vec(any::<bool>(), 9),
        loads in proptest::collection::vec((0_u32..20, proptest::option::of((0_u64..9_000, any::<bool>()))), 9),
        hash in proptest::option::of(any::<u64>()),
        seed in any::<u64>(),
    ) {
        for policy in ALL {
            let mut upstream = Upstream::new(policy, members.clone());
            upstream.rng = fastrand::Rng::with_seed(seed);
            for (index, (in_flight, latency)) in loads.iter().enumerate().take(members.len()) {
                upstream.in_flight[index].set(*in_flight);
                if let Some((needs, fails)) = latency {
                    let (needs, terms) = (Duration::from_millis(*needs), *upstream.rota.terms());
                    let before = Stamp::from_micros(upstream.now.as_micros() - 2_000_000);
                    if *fails {
                        upstream.latencies[index].fail(needs, before, &terms);
                    } else {
                        upstream.latencies[index].sample(needs, before, &terms);
                    }
                }
            }
            let candidates: Vec<_> =
                (0..members.len()).filter(|&index| upstream.rota.is_candidate(index)).collect();
            let weighty = members.iter().any(|member| member.weight > 0);
            for _ in 0..4 {
                let pick = upstream.ask(hash, |index| tried[index]);
                if let Some(index) = pick.endpoint() {
                    prop_assert!(members[index].weight > 0, "{policy:?} {pick:?}");
                    prop_assert!(candidates.contains(&index), "{policy:?} {pick:?}");
                    prop_assert!(!tried[index] || candidates.iter().all(|&other| tried[other]));
                }
                match (pick, upstream.rota.standing()) {
                    (Pick::One(index), Standing::Serving { tier }) => {
                        prop_assert_eq!(members[index].state, MemberState::Ready);
                        prop_assert!(members[index].tier <= tier);
                    }
                    (Pick::Probe(_) | Pick::Refused, Standing::Panic) => {}
                    (Pick::Nobody, Standing::Empty) => prop_assert!(!weighty),
                    wrong => prop_assert!(false, "{:?}", wrong),
                }
            }
            if weighty {
                let whole: f64 = (0..members.len()).map(|index| upstream.rota.part(index)).sum();
                prop_assert!((whole - 1.0).abs() < 1e-6, "{}", whole);
            }
        }
    }
}
