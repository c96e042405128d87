//! Tests of who may be chosen from.

use super::*;

const READY: MemberState = MemberState::Ready;
const UNHEALTHY: MemberState = MemberState::Unhealthy;
const EJECTED: MemberState = MemberState::Ejected;

fn member(weight: u32, tier: u8, state: MemberState) -> Member {
    Member { weight, tier, zone: Zone::Unknown, state, back_since: None }
}

fn tiers(members: &[(u8, MemberState)]) -> Vec<Member> {
    members.iter().map(|&(tier, state)| member(1, tier, state)).collect()
}

fn now() -> Stamp {
    Stamp::FIRST.after(Duration::from_mins(10))
}

fn build_with(members: &[Member], policy: BalancerPolicy, min_healthy: u8) -> Rota {
    let balancing = Balancing { policy, ..Balancing::default() };
    let slow_start = SlowStart::default();
    let min_healthy = Percent::whole(min_healthy);
    Rota::build(
        members,
        &Rules { balancing: &balancing, slow_start: &slow_start, min_healthy, ring: None },
        now(),
    )
}

fn build(members: &[Member]) -> Rota {
    build_with(members, BalancerPolicy::PeakEwma, 50)
}

fn candidates(rota: &Rota) -> Vec<usize> {
    (0..rota.burden.len()).filter(|&index| rota.is_candidate(index)).collect()
}

#[track_caller]
fn serves(members: &[Member], tier: u8, expected: &[usize]) {
    let rota = build(members);
    assert_eq!(rota.standing(), Standing::Serving { tier });
    assert_eq!(candidates(&rota), expected);
}

#[test]
fn later_tiers_stand_by_while_the_first_one_holds() {
    serves(&tiers(&[(0, READY), (1, READY), (0, READY)]), 0, &[0, 2]);
    serves(&tiers(&[(2, READY), (1, READY)]), 1, &[1]);
    let half = [(0, READY), (0, UNHEALTHY), (0, READY), (0, EJECTED), (1, READY)];
    serves(&tiers(&half), 0, &[0, 2]);
}

#[test]
fn below_its_share_a_tier_is_helped_by_the_next_one_and_still_used() {
    let two_of_five = [
        (0, READY),
        (0, UNHEALTHY),
        (0, READY),
        (0, EJECTED),
        (0, EJECTED),
        (1, READY),
        (1, EJECTED),
        (2, READY),
    ];
    serves(&tiers(&two_of_five), 1, &[0, 2, 5]);
    serves(&tiers(&[(0, UNHEALTHY), (1, READY)]), 1, &[1]);
    serves(&tiers(&[(0, UNHEALTHY), (1, EJECTED), (3, READY)]), 3, &[2]);
}

#[test]
fn endpoints_are_counted_and_not_weighed() {
    // What ejection may take of two is the heavier one, too.
    serves(&[member(10, 0, EJECTED), member(1, 0, READY)], 0, &[1]);
    // Those of weight 0 are not there: here one of one is ready, there none of one.
    serves(&[member(1, 0, READY), member(0, 0, EJECTED), member(0, 0, EJECTED)], 0, &[0]);
    let rota = build(&[member(1, 0, UNHEALTHY), member(0, 0, READY)]);
    assert_eq!(rota.standing(), Standing::Panic);
    assert_eq!(candidates(&rota), [0]);
    serves(&[member(0, 0, READY), member(1, 1, READY)], 1, &[1]);
}

#[test]
fn panic_is_when_no_tier_holds_and_makes_all_of_them_candidates() {
    for members in [
        tiers(&[(0, UNHEALTHY)]),
        tiers(&[(0, READY), (0, UNHEALTHY), (0, UNHEALTHY)]),
        tiers(&[(0, READY), (0, UNHEALTHY), (0, EJECTED), (1, READY), (1, UNHEALTHY), (1, UNHEALTHY)]),
    ] {
        let rota = build(&members);
        assert_eq!(rota.standing(), Standing::Panic, "{members:?}");
        assert_eq!(candidates(&rota).len(), members.len());
    }
    assert_eq!(build(&[]).standing(), Standing::Empty);
    assert_eq!(build(&[member(0, 0, READY)]).standing(), Standing::Empty);
}

#[test]
fn the_share_is_exact_and_none_ready_is_never_enough() {
    let third = tiers(&[(0, READY), (0, EJECTED), (0, EJECTED)]);
    let standing = |min_healthy| build_with(&third, BalancerPolicy::Random, min_healthy).standing();
    assert_eq!(standing(33), Standing::Serving { tier: 0 });
    assert_eq!(standing(34), Standing::Panic);
    assert_eq!(standing(0), Standing::Serving { tier: 0 });
    let none = tiers(&[(0, EJECTED), (1, READY)]);
    assert_eq!(build_with(&none, BalancerPolicy::Random, 0).standing(), Standing::Serving { tier: 1 });
    let nobody = tiers(&[(0, EJECTED), (0, UNHEALTHY)]);
    assert_eq!(build_with(&nobody, BalancerPolicy::Random, 0).standing(), Standing::Panic);
    let all = tiers(&[(0, READY), (0, READY), (0, EJECTED)]);
    assert_eq!(build_with(&all, BalancerPolicy::Random, 100).standing(), Standing::Panic);
}

fn zoned(members: &[(u32, Zone, MemberState)]) -> Vec<Member> {
    let of = |&(weight, zone, state)| Member { weight, tier: 0, zone, state, back_since: None };
    members.iter().map(of).collect()
}

#[test]
fn ones_own_zone_is_preferred_while_enough_of_its_weight_is_ready() {
    let near = |members: &[(u32, Zone, MemberState)]| -> (Vec<usize>, Vec<usize>) {
        let rota = build(&zoned(members));
        (rota.near.members().collect(), rota.far.members().collect())
    };
    let (same, other) = (Zone::Same, Zone::Other);
    assert_eq!(
        near(&[(1, same, READY), (1, other, READY), (1, Zone::Unknown, READY)]),
        (vec![0], vec![1, 2])
    );
    let half = [(1, same, READY), (1, same, EJECTED), (1, other, READY)];
    assert_eq!(near(&half), (vec![0], vec![2]));
    let less = [(2, same, READY), (3, same, EJECTED), (1, other, READY)];
    assert_eq!(near(&less), (vec![0, 2], vec![]), "all together");
    assert_eq!(near(&[(1, other, READY), (1, Zone::Unknown, READY)]), (vec![0, 1], vec![]));
    assert_eq!(near(&[(1, same, READY), (1, same, READY)]), (vec![0, 1], vec![]));
    assert_eq!(near(&[(0, same, READY), (1, other, READY)]), (vec![1], vec![]));
}

#[test]
fn the_ring_and_panic_know_no_zones_and_a_tier_goes_before_a_zone() {
    let (same, other) = (Zone::Same, Zone::Other);
    let members = zoned(&[(1, same, READY), (1, other, READY)]);
    assert!(build_with(&members, BalancerPolicy::RingHash, 50).far.is_empty());
    let members = zoned(&[(1, same, READY), (1, other, EJECTED), (1, other, EJECTED)]);
    assert_eq!(build(&members).near.len(), 3);
    let tiered =
        [Member { zone: other, ..member(1, 0, READY) }, Member { zone: same, ..member(1, 1, READY) }];
    serves(&tiered, 0, &[0]);
}

fn back(seconds_ago: &[Option<u64>]) -> Vec<Member> {
    let since = |ago: &u64| Stamp::from_micros(now().as_micros() - ago * 1_000_000);
    let of = |ago: &Option<u64>| Member { back_since: ago.as_ref().map(since), ..member(1, 0, READY) };
    seconds_ago.iter().map(of).collect()
}

#[test]
fn one_that_is_back_is_brought_up_linearly() {
    for (ago, part) in [(0, 0.1), (10, 0.4), (15, 0.55), (29, 0.97), (30, 1.0), (31, 1.0)] {
        let rota = build(&back(&[None, Some(ago)]));
        let came = rota.part(1) / rota.part(0);
        assert!((came - part).abs() < 1e-9, "after {ago} s: {came} for {part}");
        assert!((rota.part(0) + rota.part(1) - 1.0).abs() < 1e-9);
    }
}

#[test]
fn a_rota_holds_for_a_step_of_the_slow_start_and_then_for_ever() {
    let until = |members: &[Member]| build(members).valid_until().map(|until| until.since(now()));
    assert_eq!(until(&back(&[None, Some(5)])), Some(Duration::from_millis(300)));
    let mut nearly = back(&[None, Some(30)]);
    nearly[1].back_since = nearly[1].back_since.map(|since| since.after(Duration::from_millis(40)));
    assert_eq!(until(&nearly), Some(Duration::from_millis(40)), "it ends on time");
    assert_eq!(until(&back(&[None, Some(30)])), None);
    assert_eq!(until(&back(&[None, None])), None);
}

#[test]
fn where_all_are_new_nobody_is_slow() {
    let rota = build(&back(&[Some(3), Some(3), Some(3)]));
    assert!((0..3).all(|index| (rota.part(index) - 1.0 / 3.0).abs() < 1e-9));
    assert_eq!(rota.valid_until(), None);
    let alone = build(&back(&[Some(0)]));
    assert!((alone.part(0) - 1.0).abs() < 1e-9);
    // One after the other: the newest has less than the others, and together they have it all.
    let rota = build(&back(&[Some(20), Some(0)]));
    assert!((rota.part(1) / rota.part(0) - 0.1 / 0.7).abs() < 1e-9);
    assert!(rota.valid_until().is_some());
}

#[test]
fn slow_start_knows_only_candidates_and_nobody_in_panic() {
    let mut members = back(&[Some(3), None, None]);
    members[0].state = EJECTED;
    assert_eq!(build(&members).valid_until(), None, "it does not bring up who is out");
    members[1].state = EJECTED;
    members[2].back_since = Some(now());
    let rota = build(&members);
    assert_eq!((rota.standing(), rota.valid_until()), (Standing::Panic, None));
    assert!((rota.part(2) - 1.0 / 3.0).abs() < 1e-9);
}

#[test]
fn a_slow_start_from_nothing_or_without_time_leads_up_as_well() {
    let balancing = Balancing::default();
    let members = back(&[None, Some(0)]);
    let part = |slow_start: &SlowStart| {
        let rules = Rules { balancing: &balancing, slow_start, min_healthy: Percent::whole(50), ring: None };
        let rota = Rota::build(&members, &rules, now());
        rota.part(1) / rota.part(0)
    };
    let nothing = part(&SlowStart { window: Duration::from_secs(30), from: Percent::new(0) });
    assert!((nothing - 0.01).abs() < 1e-9);
    let at_once = part(&SlowStart { window: Duration::ZERO, from: Percent::whole(10) });
    assert!((at_once - 1.0).abs() < 1e-9);
}
