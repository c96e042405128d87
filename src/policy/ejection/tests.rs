use std::thread;

use proptest::prelude::*;

use super::*;
use crate::{config::policy::Percent, policy::rounds};

const SECOND: Duration = Duration::from_secs(1);

/// An upstream with a clock.
struct Rig {
    group: Group,
    settings: Settings,
    /// In the group now.
    members: Vec<Outlier>,
    now: Stamp,
    rng: fastrand::Rng,
}

impl Rig {
    fn new(endpoints: usize, edit: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        edit(&mut settings);
        let now = Stamp::from_micros(1_000_000_000);
        Self {
            group: Group::new(),
            settings,
            members: (0..endpoints).map(|_| Outlier::new(now)).collect(),
            now,
            rng: fastrand::Rng::with_seed(11),
        }
    }

    fn among(&self) -> Among<'_> {
        Among {
            group: &self.group,
            settings: &self.settings,
            endpoints: u32::try_from(self.members.len()).unwrap(),
        }
    }

    fn wait(&mut self, span: Duration) {
        self.now = self.now.after(span);
    }

    fn record(&mut self, which: usize, era: Era, verdict: Verdict) -> Option<Change> {
        let mut rng = self.rng.fork();
        self.members[which].record(&self.among(), era, verdict, self.now, &mut rng)
    }

    /// One request, from its start to its end.
    fn send(&mut self, which: usize, verdict: Verdict) -> Option<Change> {
        self.record(which, self.members[which].era(), verdict)
    }

    fn send_many(&mut self, which: usize, count: u32, verdict: Verdict) {
        for turn in 0..count {
            assert_eq!(self.send(which, verdict), None, "{turn}");
        }
    }

    fn end_probe(&mut self, which: usize, probe: Probe, verdict: Verdict) -> Option<Change> {
        let mut rng = self.rng.fork();
        self.members[which].end_probe(probe, &self.among(), verdict, self.now, &mut rng)
    }

    fn standing(&self, which: usize) -> Standing {
        self.members[which].standing(self.now)
    }

    fn shown(&self, which: usize) -> Shown {
        self.members[which].shown(&self.settings, self.now)
    }

    fn review(&self, which: usize) -> Option<Change> {
        self.members[which].review(&self.among(), self.now)
    }

    /// Five failures in a row.
    fn eject(&mut self, which: usize) -> Stamp {
        self.send_many(which, 4, Verdict::Failure);
        match self.send(which, Verdict::Failure) {
            Some(Change::Ejected { cause: Cause::Consecutive, until }) => until,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the probe is due, and takes it.
    fn probe(&mut self, which: usize) -> Probe {
        let Standing::Out { until } = self.standing(which) else { panic!("{:?}", self.standing(which)) };
        self.now = until;
        self.members[which].try_probe(self.now).unwrap()
    }

    fn not_in(&self) -> usize {
        self.members.iter().filter(|one| one.standing(self.now) != Standing::In).count()
    }
}

#[test]
fn so_many_failures_in_a_row_and_not_one_less() {
    let mut rig = Rig::new(3, |_| {});
    rig.send_many(0, 4, Verdict::Failure);
    rig.send_many(0, 1, Verdict::Success);
    rig.send_many(0, 4, Verdict::Failure);
    rig.send_many(0, 3, Verdict::Neither);
    assert_eq!(rig.shown(0).consecutive, 4, "what says nothing breaks no row");
    let Some(Change::Ejected { cause: Cause::Consecutive, until }) = rig.send(0, Verdict::Failure) else {
        panic!()
    };
    assert_eq!(rig.standing(0), Standing::Out { until });
    assert!(until.since(rig.now) >= Duration::from_millis(799));
    assert!(until.since(rig.now) <= SECOND * 6 / 5);
    assert_eq!(rig.group.out(), 1);
    let shown = rig.shown(0);
    assert_eq!((shown.cause, shown.since, shown.ejections), (Some(Cause::Consecutive), rig.now, 1));
}

#[test]
fn a_rate_of_failures_with_the_least_of_results_and_not_below_it() {
    let mut rig = Rig::new(3, |settings| settings.consecutive = 0);
    rig.send_many(1, 20, Verdict::Success);
    rig.send_many(0, 6, Verdict::Success);
    rig.send_many(0, 5, Verdict::Failure);
    assert_eq!(rig.standing(0), Standing::In, "5 of 11 are not a half");
    let change = rig.send(0, Verdict::Failure);
    assert!(matches!(change, Some(Change::Ejected { cause: Cause::FailureRate, .. })), "{change:?}");

    let mut rig = Rig::new(3, |settings| settings.consecutive = 0);
    rig.send_many(0, 9, Verdict::Failure);
    let change = rig.send(0, Verdict::Success);
    assert!(matches!(change, Some(Change::Ejected { cause: Cause::FailureRate, .. })), "{change:?}");
}

#[test]
fn rates_look_back_for_ten_seconds() {
    let mut rig = Rig::new(3, |settings| settings.consecutive = 0);
    rig.send_many(0, 9, Verdict::Failure);
    rig.wait(10 * SECOND);
    rig.send_many(0, 9, Verdict::Failure);
    rig.wait(SECOND * 19 / 2);
    assert!(rig.send(0, Verdict::Failure).is_some());
}

#[test]
fn what_is_off_does_not_count() {
    let mut rig = Rig::new(3, |settings| (settings.consecutive, settings.failure_rate) = (0, None));
    rig.send_many(0, 50, Verdict::Failure);
    let mut rig = Rig::new(3, |settings| settings.state = EjectionState::Off);
    rig.send_many(0, 50, Verdict::Failure);
    assert_eq!(rig.shown(0).failures, 50, "but it is seen");
    rig.settings.state = EjectionState::On;
    assert!(rig.send(0, Verdict::Failure).is_some());
}

#[test]
fn at_most_the_share_and_never_the_last() {
    for (endpoints, share, limit) in [
        (1, 100, 0),
        (2, 50, 1),
        (2, 100, 1),
        (3, 50, 1),
        (3, 100, 2),
        (4, 50, 2),
        (5, 50, 2),
        (9, 50, 4),
        (9, 1, 1),
        (9, 0, 1),
    ] {
        let mut rig = Rig::new(endpoints, |settings| settings.max_share = Percent::whole(share));
        // So that never all fail together.
        rig.members.push(Outlier::new(rig.now));
        rig.send_many(endpoints, 1000, Verdict::Success);
        rig.members.pop();
        for which in 0..endpoints {
            for _ in 0..20 {
                rig.send(which, Verdict::Failure);
            }
        }
        assert_eq!(rig.not_in(), limit, "{endpoints} {share}%");
        assert_eq!(rig.group.out() as usize, limit);
    }
}

#[test]
fn nobody_is_ejected_when_all_fail_together() {
    for endpoints in 2..=9 {
        let mut rig = Rig::new(endpoints, |_| {});
        for _ in 0..50 {
            for which in 0..endpoints {
                assert_eq!(rig.send(which, Verdict::Failure), None);
            }
        }
        assert_eq!(rig.group.out(), 0);
    }
}

#[test]
fn sixty_percent_are_not_more_than_sixty_percent() {
    // Of a hundred results before the last two, so many fail, and not at the first endpoint only.
    for (failures, ejected) in [(60, true), (61, false)] {
        let mut rig = Rig::new(3, |settings| (settings.consecutive, settings.failure_rate) = (5, None));
        let others = failures - 5;
        for (verdict, count) in [(Verdict::Success, 100 - failures), (Verdict::Failure, others)] {
            for turn in 0..count {
                // Never five in a row for the other two.
                if verdict == Verdict::Failure && turn % 4 == 0 {
                    rig.members[1] = Outlier::new(rig.now);
                }
                rig.group.record(verdict == Verdict::Failure, at(0, rig.now));
            }
        }
        rig.send_many(0, 4, Verdict::Failure);
        assert_eq!(rig.send(0, Verdict::Failure).is_some(), ejected, "{failures} of 100");
    }
}

#[test]
fn who_has_most_of_the_traffic_does_not_make_it_everybodys_fault() {
    // Who fails fast gets more, where a balancer goes by load.
    let mut rig = Rig::new(2, |_| {});
    rig.send_many(1, 10, Verdict::Success);
    for _ in 0..10 {
        rig.send(0, Verdict::Failure);
    }
    rig.now = rig.now.after(SECOND);
    let probe = rig.members[0].try_probe(rig.now.after(SECOND)).unwrap();
    assert_eq!(rig.end_probe(0, probe, Verdict::Success), Some(Change::Returned));
    rig.eject(0);

    // The others' share decides: 3 of 10 are theirs alone, 4 of 10 are common.
    for (failures, ejected) in [(3, true), (4, false)] {
        let mut rig = Rig::new(2, |_| {});
        rig.settings.state = EjectionState::Off;
        rig.send_many(0, 100, Verdict::Failure);
        rig.send_many(1, 10 - failures, Verdict::Success);
        rig.send_many(1, failures, Verdict::Failure);
        rig.settings.state = EjectionState::On;
        assert_eq!(rig.send(0, Verdict::Failure).is_some(), ejected, "{failures}");
    }
}

#[test]
fn a_few_results_say_nothing_of_all() {
    // Of the others: 2 or 3; of all: 7 or 8.
    for (own, others, ejected) in [(6, 2, true), (5, 3, false), (5, 2, true), (4, 3, true)] {
        let mut rig = Rig::new(3, |settings| settings.consecutive = own);
        rig.send_many(1, others, Verdict::Failure);
        rig.send_many(0, own - 1, Verdict::Failure);
        assert_eq!(rig.send(0, Verdict::Failure).is_some(), ejected, "{own} {others}");
    }
}

#[test]
fn what_it_did_before_it_was_ejected_is_not_held_against_the_others() {
    let mut rig = Rig::new(3, |_| {});
    rig.send_many(1, 4, Verdict::Success);
    for _ in 0..3 {
        rig.eject(0);
        let probe = rig.probe(0);
        assert_eq!(rig.end_probe(0, probe, Verdict::Success), Some(Change::Returned));
    }
}

#[test]
fn one_probe_at_a_time_when_it_is_due() {
    let mut rig = Rig::new(3, |_| {});
    let until = rig.eject(0);
    rig.now = Stamp::from_micros(until.as_micros() - 1);
    assert!(rig.members[0].try_probe(rig.now).is_none());
    rig.now = until;
    assert_eq!(rig.standing(0), Standing::ProbeDue);
    let probe = rig.members[0].try_probe(rig.now).unwrap();
    assert_eq!(rig.standing(0), Standing::Probing);
    assert!(rig.members[0].try_probe(rig.now).is_none());
    assert_eq!(rig.end_probe(0, probe, Verdict::Success), Some(Change::Returned));
    assert_eq!((rig.standing(0), rig.group.out()), (Standing::In, 0));
    assert_eq!((rig.shown(0).since, rig.shown(0).requests), (rig.now, 0), "it begins with nothing");
    assert!(rig.members[0].try_probe(rig.now).is_none());
    assert!(rig.members[1].try_probe(rig.now).is_none(), "who is in needs none");
}

#[test]
fn a_bad_probe_doubles_the_time_up_to_the_most() {
    let mut rig = Rig::new(3, |_| {});
    rig.eject(0);
    let since = rig.now;
    for (turn, middle) in [2_u32, 4, 8, 16, 32, 60, 60].into_iter().enumerate() {
        let probe = rig.probe(0);
        let Some(Change::Ejected { cause: Cause::Probe, until }) = rig.end_probe(0, probe, Verdict::Failure)
        else {
            panic!("{turn}")
        };
        let span = until.since(rig.now) + Duration::from_millis(1);
        assert!(span >= SECOND * middle * 4 / 5, "{turn}: {span:?}");
        assert!(until.since(rig.now) <= (SECOND * middle * 6 / 5).min(60 * SECOND), "{turn}: {span:?}");
        assert_eq!((rig.group.out(), rig.standing(0)), (1, Standing::Out { until }));
    }
    assert_eq!((rig.shown(0).since, rig.shown(0).cause), (since, Some(Cause::Probe)));
}

#[test]
fn a_probe_that_is_cancelled_makes_place_for_the_next_one() {
    let mut rig = Rig::new(3, |_| {});
    rig.eject(0);
    let probe = rig.probe(0);
    assert_eq!(rig.end_probe(0, probe, Verdict::Neither), None);
    assert_eq!((rig.standing(0), rig.group.out()), (Standing::ProbeDue, 1));
    let probe = rig.members[0].try_probe(rig.now).unwrap();
    assert_eq!(rig.end_probe(0, probe, Verdict::Success), Some(Change::Returned));
    assert_eq!(rig.shown(0).ejections, 1, "that was no failure");
}

#[test]
fn a_probe_that_is_never_ended_is_forgotten_at_its_deadline() {
    let mut rig = Rig::new(3, |_| {});
    rig.eject(0);
    let lost = rig.probe(0);
    rig.wait(Duration::from_millis(29_999));
    assert_eq!(rig.standing(0), Standing::Probing);
    assert!(rig.members[0].try_probe(rig.now).is_none());
    rig.wait(Duration::from_millis(1));
    assert_eq!(rig.standing(0), Standing::ProbeDue);
    let probe = rig.members[0].try_probe(rig.now).unwrap();
    assert_eq!(rig.end_probe(0, lost, Verdict::Success), None);
    assert_eq!(rig.standing(0), Standing::Probing, "it is the other one's turn");
    assert_eq!(rig.end_probe(0, probe, Verdict::Success), Some(Change::Returned));
}

#[test]
fn ejections_wear_off_with_time_in_rotation() {
    let base = Settings::default();
    for (ejections, seconds, left) in [
        (1, 9, 1),
        (1, 10, 0),
        (3, 9, 3),
        (3, 10, 2),
        (3, 19, 2),
        (3, 20, 1),
        (3, 1000, 0),
        (5, 31, 5),
        (5, 32, 4),
        (20, 59, 20),
        (20, 60, 19),
    ] {
        assert_eq!(worn_off(ejections, SECOND * seconds, &base), left, "{ejections} after {seconds} s");
    }
    let mut rig = Rig::new(3, |_| {});
    for wait in [5, 5, 0, 26] {
        rig.eject(0);
        let probe = rig.probe(0);
        rig.end_probe(0, probe, Verdict::Success);
        rig.wait(SECOND * wait);
    }
    assert_eq!(rig.shown(0).ejections, 2, "of four, one in 16 s and one in 10 s");
    let until = rig.eject(0);
    assert!(until.since(rig.now) >= Duration::from_millis(3199), "the third of 1, 2, 4");
    assert!(until.since(rig.now) <= SECOND * 24 / 5);
}

#[test]
fn results_of_requests_from_before_do_not_count() {
    let mut rig = Rig::new(3, |_| {});
    let era = rig.members[0].era();
    rig.eject(0);
    let out = rig.members[0].era();
    for _ in 0..10 {
        assert_eq!(rig.record(0, era, Verdict::Failure), None);
        assert_eq!(rig.record(0, out, Verdict::Failure), None, "who is out is not ejected");
    }
    let probe = rig.probe(0);
    rig.end_probe(0, probe, Verdict::Success);
    for _ in 0..10 {
        assert_eq!(rig.record(0, era, Verdict::Failure), None);
        assert_eq!(rig.record(0, out, Verdict::Failure), None);
    }
    assert_eq!((rig.shown(0).requests, rig.shown(0).consecutive), (0, 0));
    // Neither do they take away from what counts.
    rig.send_many(0, 4, Verdict::Failure);
    assert_eq!(rig.record(0, era, Verdict::Failure), None);
    assert_eq!(rig.record(0, out, Verdict::Success), None);
    assert!(matches!(rig.send(0, Verdict::Failure), Some(Change::Ejected { .. })));
}

#[test]
fn observing_says_it_once_for_each_time_and_ejects_nobody() {
    let mut rig = Rig::new(3, |settings| settings.state = EjectionState::Observe);
    for _ in 0..3 {
        rig.send_many(0, 4, Verdict::Failure);
        assert_eq!(rig.send(0, Verdict::Failure), Some(Change::Observed(Cause::Consecutive)));
        assert_eq!((rig.standing(0), rig.group.out()), (Standing::In, 0));
    }
    let mut rig = Rig::new(1, |settings| settings.state = EjectionState::Observe);
    rig.send_many(0, 50, Verdict::Failure);
}

#[test]
fn who_is_out_when_it_is_turned_off_is_in_at_once() {
    for state in [EjectionState::Off, EjectionState::Observe] {
        for probing in [false, true] {
            let mut rig = Rig::new(3, |_| {});
            rig.eject(0);
            let probe = probing.then(|| rig.probe(0));
            assert_eq!(rig.review(0), None);
            rig.settings.state = state;
            assert_eq!(rig.review(0), Some(Change::Readmitted));
            assert_eq!((rig.standing(0), rig.group.out()), (Standing::In, 0));
            assert_eq!(rig.review(0), None);
            if let Some(probe) = probe {
                assert_eq!(rig.end_probe(0, probe, Verdict::Failure), None);
            }
        }
        let mut rig = Rig::new(3, |_| {});
        rig.eject(0);
        let probe = rig.probe(0);
        rig.settings.state = state;
        assert_eq!(rig.end_probe(0, probe, Verdict::Failure), Some(Change::Readmitted), "nor out again");
        assert_eq!(rig.group.out(), 0);
    }
}

#[test]
fn who_is_out_when_there_are_fewer_is_in_when_it_would_be_too_many() {
    let mut rig = Rig::new(4, |_| {});
    rig.send_many(3, 20, Verdict::Success);
    rig.eject(0);
    rig.eject(1);
    rig.members.truncate(3);
    assert_eq!(rig.review(0), Some(Change::Readmitted), "one of three");
    assert_eq!(rig.review(1), None);
    assert_eq!((rig.not_in(), rig.group.out()), (1, 1));
    rig.members.remove(0);
    assert_eq!(rig.review(0), None, "one of two");
    rig.members.truncate(1);
    assert_eq!(rig.review(0), Some(Change::Readmitted), "the last");
    assert_eq!(rig.group.out(), 0);
}

#[test]
fn a_shorter_most_shortens_what_is_out() {
    let mut rig = Rig::new(3, |settings| (settings.base, settings.max) = (60 * SECOND, 60 * SECOND));
    rig.eject(0);
    rig.settings.max = SECOND;
    assert_eq!(rig.review(0), None);
    rig.wait(SECOND);
    assert_eq!(rig.standing(0), Standing::ProbeDue);
}

#[test]
fn who_leaves_takes_its_place_with_it_and_nothing_of_it_counts_any_more() {
    for probing in [false, true] {
        let mut rig = Rig::new(3, |_| {});
        let era = rig.members[1].era();
        rig.eject(0);
        let probe = probing.then(|| rig.probe(0));
        rig.members[0].leave(&rig.group);
        rig.members[0].leave(&rig.group);
        rig.members[1].leave(&rig.group);
        assert_eq!(rig.group.out(), 0);
        if let Some(probe) = probe {
            assert_eq!(rig.end_probe(0, probe, Verdict::Failure), None);
        }
        for _ in 0..10 {
            assert_eq!(rig.record(1, era, Verdict::Failure), None);
            assert_eq!(rig.send(1, Verdict::Failure), None, "not even what starts now");
        }
        assert_eq!(rig.review(0), None);
        assert_eq!(rig.group.out(), 0);
        rig.members[0].join(rig.now);
        assert_eq!((rig.shown(0).ejections, rig.shown(0).cause), (0, None), "as if it were new");
        rig.eject(0);
        rig.members[0].join(rig.now);
        assert_eq!(rig.group.out(), 1, "it had joined already");
    }
}

#[test]
fn every_part_of_a_word_comes_back() {
    for place in [Place::In, Place::Out, Place::Probing, Place::Left] {
        for (ejections, era, millis) in [(0, 0, 1), (31, u16::MAX, (1 << 38) - 1), (5, 300, 7)] {
            let parts = Parts { place, ejections, era, moment: Stamp::from_micros(millis * 1000) };
            assert_eq!(Parts::of(parts.word()), parts);
        }
    }
}

#[test]
fn threads_never_eject_more_than_may_be_and_the_count_is_right() {
    for round in 0..rounds(200) {
        let mut rig = Rig::new(4, |settings| settings.max_share = Percent::ALL);
        rig.members.push(Outlier::new(rig.now));
        rig.send_many(4, if cfg!(miri) { 300 } else { 1000 }, Verdict::Success);
        rig.members.pop();
        let (ejected, left): (usize, usize) = thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|worker| {
                    let rig = &rig;
                    scope.spawn(move || {
                        let mut rng = fastrand::Rng::with_seed(round * 4 + worker);
                        let (mut ejected, mut left) = (0, 0);
                        for turn in 0..40 {
                            let one = &rig.members[rng.usize(..4)];
                            let change =
                                one.record(&rig.among(), one.era(), Verdict::Failure, rig.now, &mut rng);
                            ejected += usize::from(matches!(change, Some(Change::Ejected { .. })));
                            assert!(rig.group.out() <= 3);
                            if round % 2 == 0 && turn == 39 && worker == 0 {
                                one.leave(&rig.group);
                                left += 1;
                            }
                        }
                        (ejected, left)
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap())
                .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
        });
        assert_eq!(rig.not_in(), rig.group.out() as usize);
        assert!(ejected >= rig.not_in() && ejected <= rig.not_in() + left, "{ejected}");
        assert!(left > 0 || ejected == 3);
    }
}

#[test]
fn of_many_threads_one_gets_the_probe() {
    for _ in 0..rounds(200) {
        let mut rig = Rig::new(3, |_| {});
        rig.now = rig.eject(0);
        let taken: usize = thread::scope(|scope| {
            let workers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| rig.members[0].try_probe(rig.now).map_or(0, |_| 1))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(taken, 1);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Start(usize),
    End(usize, Verdict),
    Probe(usize),
    EndProbe(usize, Verdict),
    LeakProbe(usize),
    Wait(u64),
    Join,
    Leave(usize),
    Edit(Box<Settings>),
}

fn step() -> impl Strategy<Value = Step> {
    let verdict =
        || prop_oneof![2 => Just(Verdict::Success), 3 => Just(Verdict::Failure), 1 => Just(Verdict::Neither)];
    let which = any::<usize>;
    let settings =
        (0_u32..6, prop::option::of(1_u8..=100), 1_u32..10, 100_u64..5000, 1_u32..20, 0_u8..=100, 0_u8..5)
            .prop_map(|(consecutive, rate, min_requests, base, factor, share, state)| Settings {
                state: match state {
                    0 => EjectionState::Off,
                    1 => EjectionState::Observe,
                    _ => EjectionState::On,
                },
                consecutive,
                failure_rate: rate.map(Percent::whole),
                min_requests,
                base: Duration::from_millis(base),
                max: Duration::from_millis(base) * factor,
                max_share: Percent::whole(share),
            });
    prop_oneof![
        30 => which().prop_map(Step::Start),
        30 => (which(), verdict()).prop_map(|(which, verdict)| Step::End(which, verdict)),
        6 => which().prop_map(Step::Probe),
        4 => (which(), verdict()).prop_map(|(which, verdict)| Step::EndProbe(which, verdict)),
        1 => which().prop_map(Step::LeakProbe),
        6 => prop_oneof![Just(0_u64), 1_u64..1500, 1500_u64..40_000].prop_map(Step::Wait),
        1 => Just(Step::Join),
        1 => which().prop_map(Step::Leave),
        1 => settings.prop_map(|settings| Step::Edit(Box::new(settings))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_count_is_right_the_last_stays_in_and_nobody_stays_out(
        endpoints in 1_usize..6,
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let mut rig = Rig::new(endpoints, |_| {});
        rig.rng = fastrand::Rng::with_seed(seed);
        // By address, since who leaves makes the others move up.
        let mut names: Vec<u32> = (0..u32::try_from(endpoints).unwrap()).collect();
        let mut next = 100;
        let mut requests: Vec<(u32, Era)> = Vec::new();
        let mut probes: Vec<(u32, Probe)> = Vec::new();
        for step in steps {
            let many = rig.members.len();
            let place = |names: &[u32], name: u32| names.iter().position(|one| *one == name);
            match step {
                Step::Start(which) => requests.push((names[which % many], rig.members[which % many].era())),
                Step::End(which, verdict) if !requests.is_empty() => {
                    let (name, era) = requests.swap_remove(which % requests.len());
                    if let Some(which) = place(&names, name) {
                        let before = rig.standing(which);
                        let change = rig.record(which, era, verdict);
                        if matches!(change, Some(Change::Ejected { .. })) {
                            prop_assert_eq!(before, Standing::In);
                            prop_assert_eq!(rig.settings.state, EjectionState::On);
                            prop_assert!(rig.group.out() <= group::limit(&rig.settings, rig.among().endpoints));
                        } else {
                            prop_assert_eq!(rig.standing(which), before);
                        }
                    }
                }
                Step::Probe(which) => {
                    let which = which % many;
                    let before = rig.standing(which);
                    let probe = rig.members[which].try_probe(rig.now);
                    prop_assert_eq!(probe.is_some(), before == Standing::ProbeDue);
                    probes.extend(probe.map(|probe| (names[which], probe)));
                }
                Step::EndProbe(which, verdict) if !probes.is_empty() => {
                    let (name, probe) = probes.swap_remove(which % probes.len());
                    if let Some(which) = place(&names, name) {
                        rig.end_probe(which, probe, verdict);
                    }
                }
                Step::LeakProbe(which) if !probes.is_empty() => {
                    drop(probes.swap_remove(which % probes.len()));
                }
                Step::Wait(millis) => rig.wait(Duration::from_millis(millis)),
                Step::Join if many < 8 => {
                    rig.members.push(Outlier::new(rig.now));
                    names.push(next);
                    next += 1;
                }
                Step::Leave(which) if many > 1 => {
                    let left = rig.members.remove(which % many);
                    names.remove(which % many);
                    left.leave(&rig.group);
                    for which in 0..many - 1 {
                        rig.review(which);
                    }
                }
                Step::Edit(settings) => {
                    rig.settings = *settings;
                    for which in 0..many {
                        rig.review(which);
                        if let Standing::Out { until } = rig.standing(which) {
                            prop_assert!(until <= rig.now.after(rig.settings.max));
                        }
                    }
                }
                _ => {}
            }
            prop_assert_eq!(rig.not_in(), rig.group.out() as usize);
            prop_assert!(rig.not_in() < rig.members.len(), "never the last");
            prop_assert!(rig.settings.state == EjectionState::On || rig.not_in() == 0);
            prop_assert!(rig.group.out() <= group::limit(&rig.settings, rig.among().endpoints));
        }
        rig.wait(rig.settings.max.max(PROBE_LEASE));
        for which in 0..rig.members.len() {
            if let Some(probe) = rig.members[which].try_probe(rig.now) {
                prop_assert_eq!(rig.end_probe(which, probe, Verdict::Success), Some(Change::Returned));
            }
        }
        prop_assert_eq!((rig.not_in(), rig.group.out()), (0, 0));
    }
}
