//! Tests of latencies.

use proptest::prelude::*;

use super::*;

fn terms() -> Terms {
    Terms::of(&Balancing::default())
}

fn start() -> Stamp {
    Stamp::FIRST.after(Duration::from_mins(1))
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[track_caller]
fn about(latency: &Latency, now: Stamp, milliseconds: f64) {
    let estimate = latency.estimate(now, &terms()).as_secs_f64() * 1e3;
    assert!((estimate - milliseconds).abs() <= milliseconds * 1e-4, "{estimate} for {milliseconds}");
}

#[test]
fn before_its_first_answer_it_is_a_guess_that_the_answer_replaces() {
    let (latency, now) = (Latency::default(), start());
    assert!(!latency.is_measured());
    about(&latency, now.after(ms(60_000)), 30.0);
    latency.sample(ms(4), now, &terms());
    about(&latency, now, 4.0);
    assert!(latency.is_measured() && !latency.is_penalised());
}

#[test]
fn a_peak_counts_at_once_and_what_is_lower_slowly() {
    let (latency, now) = (Latency::default(), start());
    latency.sample(ms(10), now, &terms());
    latency.sample(ms(100), now, &terms());
    about(&latency, now, 100.0);
    latency.sample(ms(10), now, &terms());
    about(&latency, now, 100.0);
    let later = now.after(ms(10_000));
    latency.sample(ms(10), later, &terms());
    let e = std::f64::consts::E;
    about(&latency, later, 100.0 / e + 10.0 * (1.0 - 1.0 / e));
}

#[test]
fn samples_that_come_close_together_draw_it_down_as_fast_as_few() {
    let dense = Latency::default();
    let mut now = start();
    dense.sample(ms(100), now, &terms());
    for _ in 0..100_000 {
        now = now.after(Duration::from_micros(100));
        dense.sample(ms(1), now, &terms());
    }
    let e = std::f64::consts::E;
    let estimate = dense.estimate(now, &terms()).as_secs_f64() * 1e3;
    let due = 100.0 / e + 1.0 - 1.0 / e;
    assert!((estimate - due).abs() < due * 0.01, "{estimate} for {due}");
}

#[test]
fn without_samples_it_falls_towards_nothing_and_never_gets_there() {
    let (latency, now) = (Latency::default(), start());
    latency.sample(ms(100), now, &terms());
    about(&latency, now.after(ms(10_000)), 100.0 / std::f64::consts::E);
    about(&latency, now.after(ms(3_600_000)), 0.001);
    let short = Terms::of(&Balancing { decay: Duration::ZERO, ..Balancing::default() });
    assert!(latency.estimate(now.after(ms(60_000)), &short) < ms(1), "not infinite, not negative");
}

#[test]
fn a_failure_costs_five_seconds_or_what_it_took() {
    let (latency, now) = (Latency::default(), start());
    latency.sample(ms(10), now, &terms());
    latency.fail(ms(1), now, &terms());
    about(&latency, now, 5_000.0);
    assert!(latency.is_penalised());
    latency.fail(ms(15_000), now, &terms());
    about(&latency, now, 15_000.0);
    latency.fail(ms(1), now.after(ms(1_000)), &terms());
    about(&latency, now.after(ms(1_000)), 15_000.0 * (-0.1_f64).exp());

    let never_answered = Latency::default();
    never_answered.fail(ms(1), now, &terms());
    about(&never_answered, now, 5_000.0);
    assert!(never_answered.is_penalised() && never_answered.is_measured());
}

#[test]
fn only_an_answer_to_a_later_request_ends_the_matter() {
    let (latency, now) = (Latency::default(), start());
    latency.fail(ms(1), now, &terms());
    latency.sample(ms(300), now.after(ms(299)), &terms());
    assert!(latency.is_penalised(), "that one began before the failure");
    assert!(latency.estimate(now.after(ms(299)), &terms()) > ms(4_700));
    latency.sample(ms(300), now.after(ms(300)), &terms());
    assert!(!latency.is_penalised());
    about(&latency, now.after(ms(300)), 300.0);
}

#[test]
fn a_proof_is_claimed_once_a_second_by_one() {
    let (latency, now) = (Latency::default(), start());
    assert!(latency.claim(now), "one that never answered: at once");
    assert!(!latency.claim(now) && !latency.claim(now.after(ms(999))));
    assert!(latency.claim(now.after(ms(1_000))));
}

/// Each of them fails at once.
#[test]
fn who_has_just_begun_to_fail_is_asked_more_often_for_a_second() {
    let (latency, now) = (Latency::default(), start());
    let asked = |latency: &Latency, from: u64| {
        let mut asked = Vec::new();
        for after in from + 1..from + 3_500 {
            if latency.claim(now.after(ms(after))) {
                latency.fail(ms(0), now.after(ms(after)), &terms());
                asked.push(after - from);
            }
        }
        asked
    };
    latency.sample(ms(1), now, &terms());
    latency.fail(ms(1), now, &terms());
    assert!(latency.is_suspect());
    assert_eq!(asked(&latency, 0), [100, 200, 300, 400, 500, 600, 700, 800, 900, 1_000, 2_000, 3_000]);
    assert!(!latency.is_suspect());
    latency.sample(ms(1), now.after(ms(5_000)), &terms());
    latency.fail(ms(1), now.after(ms(9_999)), &terms());
    assert_eq!(asked(&latency, 9_999), [1_000, 2_000, 3_000], "it flaps");
    latency.sample(ms(1), now.after(ms(14_000)), &terms());
    latency.fail(ms(1), now.after(ms(15_000)), &terms());
    assert_eq!(asked(&latency, 15_000)[..3], [100, 200, 300], "it begins anew");
}

#[test]
fn a_passed_probe_sets_it_to_what_the_peers_need() {
    let now = start();
    let peers: Vec<_> = [50, 10, 20, 40].map(|needs| (needs, Latency::default())).into();
    for (needs, peer) in &peers {
        peer.sample(ms(*needs), now, &terms());
    }
    let (failed, new) = (Latency::default(), Latency::default());
    failed.fail(ms(1), now, &terms());
    let all = || peers.iter().map(|(_, peer)| peer).chain([&failed, &new]);
    let middle = median(all(), now, &terms()).unwrap();
    assert!(
        middle.abs_diff(ms(20)) < Duration::from_micros(5),
        "{middle:?}: the lower of the two in the middle"
    );
    let of_three = median(all().skip(1), now, &terms()).unwrap();
    assert!(of_three.abs_diff(ms(20)) < Duration::from_micros(5), "{of_three:?}");
    assert_eq!(median([&failed, &new].into_iter(), now, &terms()), None);
    failed.set(middle, now);
    assert!(!failed.is_penalised());
    about(&failed, now, 20.0);
}

#[test]
fn a_moment_from_another_thread_that_is_a_little_behind_changes_nothing() {
    let (latency, now) = (Latency::default(), start().after(ms(1_000)));
    latency.sample(ms(100), now, &terms());
    let behind = start();
    latency.sample(ms(1), behind, &terms());
    about(&latency, now, 100.0);
    latency.sample(ms(200), behind, &terms());
    about(&latency, now, 200.0);
    about(&latency, now.after(ms(10_000)), 200.0 / std::f64::consts::E);
}

#[test]
fn its_clock_may_run_over() {
    let latency = Latency::default();
    let now = Stamp::from_micros((u64::from(u32::MAX) - 4_999) * 1_000);
    latency.sample(ms(100), now, &terms());
    about(&latency, now.after(ms(10_000)), 100.0 / std::f64::consts::E);
}

#[test]
fn many_threads_never_see_half_a_sample() {
    let latency = Latency::default();
    let now = start();
    latency.sample(ms(10), now, &terms());
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let latency = &latency;
            scope.spawn(move || {
                for step in 0..crate::policy::rounds(20_000) {
                    let now = now.after(ms(step / 10));
                    latency.sample(ms(10 + (step + thread) % 10), now, &terms());
                    let estimate = latency.estimate(now, &terms());
                    assert!(estimate > ms(7) && estimate < ms(20), "{estimate:?}");
                }
            });
        }
    });
}

#[derive(Debug, Clone)]
enum Event {
    Sample(u64),
    Fail(u64),
    Set(u64),
    Wait(u64),
}

proptest! {
    #[test]
    fn an_estimate_is_never_above_the_dearest_event_nor_nothing(
        events in proptest::collection::vec(
            prop_oneof![
                (0_u64..20_000_000).prop_map(Event::Sample),
                (0_u64..20_000_000).prop_map(Event::Fail),
                (0_u64..20_000_000).prop_map(Event::Set),
                (0_u64..100_000_000).prop_map(Event::Wait),
            ],
            1..40,
        ),
    ) {
        let latency = Latency::default();
        let mut now = start();
        let mut dearest = Duration::from_millis(30);
        for event in events {
            let before = latency.estimate(now, &terms());
            match event {
                Event::Sample(took) => {
                    let took = Duration::from_micros(took);
                    dearest = dearest.max(took);
                    let measured = latency.is_measured();
                    latency.sample(took, now, &terms());
                    let after = latency.estimate(now, &terms());
                    let slack = before.max(took) / 1000;
                    if measured && !latency.is_penalised() {
                        prop_assert!(after + slack >= took.min(before));
                    }
                    prop_assert!(after + slack >= took, "a peak counts at once");
                }
                Event::Fail(took) => {
                    let cost = Duration::from_micros(took).max(Duration::from_secs(5));
                    dearest = dearest.max(cost);
                    latency.fail(Duration::from_micros(took), now, &terms());
                    prop_assert!(latency.is_penalised());
                    prop_assert!(latency.estimate(now, &terms()) + cost / 1000 >= cost);
                }
                Event::Set(to) => {
                    dearest = dearest.max(Duration::from_micros(to));
                    latency.set(Duration::from_micros(to), now);
                    prop_assert!(!latency.is_penalised());
                }
                Event::Wait(micros) => now = now.after(Duration::from_micros(micros)),
            }
            let estimate = latency.estimate(now, &terms());
            prop_assert!(estimate > Duration::ZERO && estimate <= dearest + dearest / 1000);
        }
    }
}
