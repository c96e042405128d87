use std::mem::size_of;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn it_opens_at_the_rate_and_not_below_it() {
    let mut rig = Rig::new(|_| {});
    rig.send_many(6, Verdict::Success);
    rig.send_many(5, Verdict::Failure);
    assert_eq!(rig.shown().state, State::Closed, "5 of 11 are not a half");
    assert_eq!(rig.send(Verdict::Failure), moved(State::Closed, State::Open, Cause::FailureRate));
    let shown = rig.shown();
    assert_eq!((shown.state, shown.requests, shown.failures), (State::Open, 12, 6));
    assert_eq!(shown.cause, Some(Cause::FailureRate));
    assert_eq!(shown.since, rig.now);
}

#[test]
fn it_takes_the_least_of_results_and_a_good_one_may_be_the_last_of_them() {
    let mut rig = Rig::new(|_| {});
    rig.send_many(9, Verdict::Failure);
    assert_eq!(rig.send(Verdict::Success), moved(State::Closed, State::Open, Cause::FailureRate));
    let mut rig = Rig::new(|settings| settings.window = BreakerWindow::Calls(10));
    rig.send_many(5, Verdict::Failure);
    rig.send_many(4, Verdict::Success);
    assert_eq!(rig.send(Verdict::Success), moved(State::Closed, State::Open, Cause::FailureRate));
}

#[test]
fn what_says_nothing_is_not_counted() {
    let mut rig = Rig::new(|_| {});
    rig.send_many(9, Verdict::Failure);
    rig.send_many(50, Verdict::Neither);
    assert_eq!(rig.shown().requests, 9);
    assert!(rig.send(Verdict::Failure).is_some());
}

#[test]
fn failures_that_are_too_old_do_not_count() {
    let mut rig = Rig::new(|_| {});
    rig.send_many(9, Verdict::Failure);
    rig.wait(10 * SECOND);
    rig.send_many(9, Verdict::Failure);
    rig.wait(SECOND * 19 / 2);
    assert!(rig.send(Verdict::Failure).is_some(), "19 of 20 slots later they do");
}

#[test]
fn old_successes_leave_the_window_too() {
    let mut rig = Rig::new(|_| {});
    rig.send_many(50, Verdict::Success);
    rig.wait(5 * SECOND);
    rig.send_many(9, Verdict::Failure);
    rig.wait(5 * SECOND);
    assert!(rig.send(Verdict::Success).is_some(), "9 of 10 are left");
}

#[test]
fn a_window_of_calls_opens_at_its_boundary() {
    let mut rig = Rig::new(|settings| settings.window = BreakerWindow::Calls(10));
    rig.send_many(4, Verdict::Failure);
    rig.send_many(10, Verdict::Success);
    rig.send_many(4, Verdict::Failure);
    assert_eq!(rig.shown().failures, 4, "the first four have left");
    assert!(rig.send(Verdict::Failure).is_some());
    assert_eq!((rig.shown().requests, rig.shown().failures), (10, 5));
}

#[test]
fn slow_is_longer_than_allowed_and_failures_can_be_slow_too() {
    let mut rig = Rig::new(|settings| {
        settings.slow_rate = Some(Percent::whole(80));
        settings.slow_after = Some(SECOND);
        settings.failure_rate = None;
    });
    for (verdict, took) in [(Verdict::Success, 1_000_000), (Verdict::Failure, 1)] {
        let permit = rig.admit().unwrap();
        assert_eq!(rig.end_after(permit, verdict, Duration::from_micros(took)), None);
    }
    for turn in 0..8 {
        let permit = rig.admit().unwrap();
        let verdict = if turn % 2 == 0 { Verdict::Success } else { Verdict::Failure };
        let ended = rig.end_after(permit, verdict, Duration::from_micros(1_000_001));
        let expected = if turn == 7 { moved(State::Closed, State::Open, Cause::SlowRate) } else { None };
        assert_eq!(ended, expected, "{turn}");
    }
    assert_eq!((rig.shown().requests, rig.shown().slow, rig.shown().failures), (10, 8, 5));
    rig.wait_open();
    let permit = rig.admit().unwrap();
    let ended = rig.end_after(permit, Verdict::Success, 2 * SECOND);
    assert_eq!(ended, moved(State::HalfOpen, State::Open, Cause::ProbeFailed), "slow is not good");
}

#[test]
fn rates_that_are_off_do_not_open_it() {
    let mut rig = Rig::new(|settings| {
        settings.failure_rate = None;
        settings.slow_after = Some(SECOND);
    });
    for _ in 0..100 {
        let permit = rig.admit().unwrap();
        assert_eq!(rig.end_after(permit, Verdict::Failure, 5 * SECOND), None);
    }
    assert_eq!((rig.shown().failures, rig.shown().slow), (100, 0));
}

#[test]
fn open_refuses_until_the_moment_that_it_says() {
    let mut rig = Rig::new(|_| {});
    let until = rig.open().until.unwrap();
    let open_for = until.since(rig.now);
    assert!((4 * SECOND..=6 * SECOND).contains(&open_for), "{open_for:?}");
    let refused = rig.admit().unwrap_err();
    assert_eq!((refused.why, refused.retry_after, refused.transition), (Why::Open, open_for, None));
    rig.now = Stamp::from_micros(until.as_micros() - 1);
    assert_eq!(rig.admit().unwrap_err().retry_after, Duration::from_micros(1));
    assert_eq!(rig.shown().state, State::Open);
    rig.now = until;
    let shown = rig.shown();
    assert_eq!(
        (shown.state, shown.since, shown.cause),
        (State::HalfOpen, until, Some(Cause::Waited)),
        "nobody has asked"
    );
    let permit = rig.admit().unwrap();
    assert!(permit.is_probe());
    assert_eq!(permit.transition(), moved(State::Open, State::HalfOpen, Cause::Waited));
    assert_eq!(rig.shown().state, State::HalfOpen);
}

#[test]
fn it_is_open_for_twice_as_long_each_time_but_never_for_longer_than_the_most() {
    let mut rig = Rig::new(|_| {});
    let mut shown = rig.open();
    for (turn, middle) in [5_u32, 10, 20, 40, 60, 60, 60].into_iter().enumerate() {
        let span = shown.until.unwrap().since(rig.now);
        assert!(span >= SECOND * middle * 4 / 5, "{turn}: {span:?}");
        assert!(span <= (SECOND * middle * 6 / 5).min(60 * SECOND), "{turn}: {span:?}");
        assert_eq!(usize::from(shown.openings), turn + 1);
        rig.wait_open();
        assert_eq!(rig.send(Verdict::Failure), moved(State::HalfOpen, State::Open, Cause::ProbeFailed));
        shown = rig.shown();
    }
}

#[test]
fn only_so_many_probes_and_all_of_them_good_close_it() {
    let mut rig = Rig::new(|_| {});
    rig.half_open();
    let mut probes: Vec<Permit> = (0..3).map(|_| rig.admit().unwrap()).collect();
    let refused = rig.admit().unwrap_err();
    assert_eq!((refused.why, refused.retry_after), (Why::Probing, SECOND));
    assert_eq!(rig.shown().probes_out, 3);
    let last = probes.pop().unwrap();
    for probe in probes {
        assert_eq!(rig.end(probe, Verdict::Success), None);
        assert_eq!(rig.admit().unwrap_err().why, Why::Probing, "good ones do not make place for more");
    }
    assert_eq!((rig.shown().probes_out, rig.shown().probes_good), (1, 2));
    assert_eq!(rig.end(last, Verdict::Success), moved(State::HalfOpen, State::Closed, Cause::ProbesPassed));
    assert_eq!(rig.shown().state, State::Closed);
    assert_eq!(rig.shown().requests, 0, "the window begins anew");
}

#[test]
fn one_bad_probe_opens_it_and_the_others_count_for_nothing() {
    let mut rig = Rig::new(|_| {});
    rig.half_open();
    let (one, two, three) = (rig.admit().unwrap(), rig.admit().unwrap(), rig.admit().unwrap());
    assert_eq!(rig.end(one, Verdict::Success), None);
    assert_eq!(rig.end(two, Verdict::Failure), moved(State::HalfOpen, State::Open, Cause::ProbeFailed));
    assert_eq!(rig.end(three, Verdict::Failure), None);
    assert_eq!(rig.shown().openings, 2);
    rig.wait_open();
    for _ in 0..2 {
        assert_eq!(rig.send(Verdict::Success), None, "the good one of before does not count");
    }
    assert!(rig.send(Verdict::Success).is_some());
}

#[test]
fn a_probe_that_is_cancelled_makes_place_for_another() {
    let mut rig = Rig::new(|settings| settings.half_open = 1);
    rig.half_open();
    for _ in 0..100 {
        let probe = rig.admit().unwrap();
        assert!(rig.admit().is_err());
        assert_eq!(rig.end(probe, Verdict::Neither), None);
    }
    assert!(rig.send(Verdict::Success).is_some());
}

#[test]
fn a_probe_that_is_never_ended_opens_it_at_its_deadline() {
    let mut rig = Rig::new(|settings| settings.half_open = 2);
    rig.half_open();
    drop(rig.admit().unwrap());
    assert_eq!(rig.send(Verdict::Success), None);
    rig.wait(Duration::from_millis(29_999));
    assert_eq!(rig.admit().unwrap_err().why, Why::Probing);
    rig.wait(Duration::from_millis(1));
    let refused = rig.admit().unwrap_err();
    assert_eq!(refused.why, Why::Open);
    assert_eq!(refused.transition, moved(State::HalfOpen, State::Open, Cause::ProbeLost));
    assert!(refused.retry_after >= 8 * SECOND, "twice as long");
}

#[test]
fn a_probe_that_was_lost_long_ago_costs_no_more_time() {
    let mut rig = Rig::new(|_| {});
    rig.half_open();
    let leaked = rig.admit().unwrap();
    rig.wait(Duration::from_hours(1));
    let probe = rig.admit().unwrap();
    assert_eq!(probe.transition(), moved(State::HalfOpen, State::HalfOpen, Cause::ProbeLost));
    assert_eq!(rig.shown().openings, 2);
    assert_eq!(rig.end(leaked, Verdict::Failure), None, "it is of another generation");
    rig.end(probe, Verdict::Success);
    assert_eq!(rig.shown().probes_good, 1);
}

#[test]
fn a_probe_that_ends_too_late_is_lost_whatever_it_says() {
    for verdict in [Verdict::Success, Verdict::Failure] {
        let mut rig = Rig::new(|_| {});
        rig.half_open();
        let probe = rig.admit().unwrap();
        rig.wait(PROBE_LEASE);
        assert_eq!(rig.end(probe, verdict), moved(State::HalfOpen, State::Open, Cause::ProbeLost));
    }
}

#[test]
fn a_request_may_have_a_longer_lease() {
    let mut rig = Rig::new(|settings| settings.half_open = 1);
    rig.half_open();
    let probe = rig.breaker.admit_within(100 * SECOND, rig.now, &mut rig.rng).unwrap();
    rig.wait(99 * SECOND);
    assert_eq!(rig.admit().unwrap_err().why, Why::Probing);
    assert!(rig.end(probe, Verdict::Success).is_some());
}

#[test]
fn results_of_requests_from_before_do_not_count() {
    let mut rig = Rig::new(|settings| settings.half_open = 1);
    let late: Vec<Permit> = (0..30).map(|_| rig.admit().unwrap()).collect();
    rig.half_open();
    let mut late = late.into_iter();
    let mut ten = |rig: &mut Rig, verdict| {
        for permit in late.by_ref().take(10) {
            assert_eq!(rig.end(permit, verdict), None);
        }
    };
    ten(&mut rig, Verdict::Failure);
    let probe = rig.admit().unwrap();
    ten(&mut rig, Verdict::Success);
    assert_eq!(rig.shown().state, State::HalfOpen, "neither closes it");
    assert!(rig.end(probe, Verdict::Success).is_some());
    ten(&mut rig, Verdict::Failure);
    assert_eq!((rig.shown().state, rig.shown().requests), (State::Closed, 0), "nor opens it again");
}

#[test]
fn it_ramps_from_a_tenth_to_all() {
    let mut rig = Rig::new(|settings| settings.half_open = 1);
    rig.half_open();
    assert!(rig.send(Verdict::Success).is_some());
    assert_eq!(rig.shown().until, Some(rig.now.after(10 * SECOND)));
    for (seconds, expected) in [(0, 100_usize), (5, 550), (4, 910)] {
        rig.wait(SECOND * seconds);
        let passed = rig.pass_of_1000();
        assert!(passed.abs_diff(expected) < 50, "{passed} of 1000, not about {expected}");
        assert_eq!(usize::from(rig.shown().share.points()), expected * 10);
    }
    let refused = std::iter::from_fn(|| Some(rig.admit())).find_map(Result::err).unwrap();
    assert_eq!((refused.why, refused.retry_after), (Why::Ramping, SECOND));
    assert_eq!(rig.shown().openings, 1);
    rig.wait(SECOND);
    assert_eq!((rig.shown().share, rig.shown().until, rig.shown().openings), (Percent::ALL, None, 0));
    assert_eq!(rig.pass_of_1000(), 1000);
}

#[test]
fn failures_on_the_ramp_open_it_for_longer_and_after_the_ramp_it_starts_from_the_beginning() {
    for (wait, openings) in [(9_999, 2), (10_000, 1)] {
        let mut rig = Rig::new(|settings| settings.half_open = 1);
        rig.half_open();
        assert!(rig.send(Verdict::Success).is_some());
        let permits: Vec<Permit> = std::iter::from_fn(|| Some(rig.admit())).flatten().take(10).collect();
        rig.wait(Duration::from_millis(wait));
        let ended: Vec<_> =
            permits.into_iter().filter_map(|permit| rig.end(permit, Verdict::Failure)).collect();
        assert_eq!(ended, [Transition { from: State::Closed, to: State::Open, cause: Cause::FailureRate }]);
        assert_eq!(rig.shown().openings, openings, "after {wait} ms");
    }
}

#[test]
fn what_is_seen_on_the_ramp_still_counts_after_it() {
    let mut rig = Rig::new(|settings| (settings.half_open, settings.ramp) = (1, 2 * SECOND));
    rig.half_open();
    assert!(rig.send(Verdict::Success).is_some());
    rig.wait(SECOND * 19 / 10);
    let permits: Vec<Permit> = std::iter::from_fn(|| Some(rig.admit())).flatten().take(9).collect();
    for permit in permits {
        assert_eq!(rig.end(permit, Verdict::Failure), None);
    }
    rig.wait(SECOND);
    assert!(rig.send(Verdict::Failure).is_some());
}

#[test]
fn without_a_ramp_it_is_closed_at_once() {
    let mut rig = Rig::new(|settings| (settings.half_open, settings.ramp) = (1, Duration::ZERO));
    rig.half_open();
    assert!(rig.send(Verdict::Success).is_some());
    assert_eq!(rig.pass_of_1000(), 1000);
    assert_eq!(rig.open().openings, 1);
}

#[test]
fn forced_open_refuses_all_and_forgets_nothing() {
    let mut rig = Rig::new(|_| {});
    rig.send_many(9, Verdict::Failure);
    assert_eq!(rig.edit(BreakerMode::Open, |_| {}), None);
    let refused = rig.admit().unwrap_err();
    assert_eq!((refused.why, refused.retry_after), (Why::Forced, 5 * SECOND));
    assert_eq!(rig.shown().label(), "forced_open");
    assert_eq!(rig.edit(BreakerMode::Auto, |_| {}), None);
    assert!(rig.send(Verdict::Failure).is_some());
}

#[test]
fn forced_closed_refuses_nothing_and_counts() {
    let mut rig = Rig::in_mode(BreakerMode::Closed, |_| {});
    rig.send_many(100, Verdict::Failure);
    assert_eq!((rig.shown().failures, rig.shown().label()), (100, "forced_closed"));
    rig.edit(BreakerMode::Auto, |_| {});
    assert!(rig.send(Verdict::Failure).is_some(), "back in automatic mode it goes by what it saw");
    rig.edit(BreakerMode::Closed, |_| {});
    rig.send_many(10, Verdict::Success);
    assert_eq!((rig.shown().requests, rig.shown().failures), (10, 0), "it counts while the machine is open");
    rig.edit(BreakerMode::Auto, |_| {});
    assert_eq!(rig.admit().unwrap_err().why, Why::Open, "the machine is where it was");
}

#[test]
fn off_neither_refuses_nor_counts() {
    let mut rig = Rig::in_mode(BreakerMode::Off, |_| {});
    rig.send_many(100, Verdict::Failure);
    assert_eq!((rig.shown().requests, rig.shown().label()), (0, "off"));
    rig.edit(BreakerMode::Auto, |_| {});
    rig.open();
    rig.edit(BreakerMode::Off, |_| {});
    assert_eq!(rig.pass_of_1000(), 1000);
}

#[test]
fn a_mode_set_by_hand_interrupts_the_probes_and_they_begin_anew() {
    for mode in [BreakerMode::Open, BreakerMode::Closed, BreakerMode::Off] {
        let mut rig = Rig::new(|_| {});
        rig.half_open();
        let probe = rig.admit().unwrap();
        assert_eq!(rig.edit(mode, |_| {}), moved(State::HalfOpen, State::Open, Cause::Interrupted));
        assert_eq!(rig.end(probe, Verdict::Failure), None);
        rig.edit(BreakerMode::Auto, |_| {});
        assert_eq!(rig.shown().openings, 1, "that was no failure");
        for _ in 0..2 {
            assert_eq!(rig.send(Verdict::Success), None);
        }
        assert!(rig.send(Verdict::Success).is_some());
    }
}

#[test]
fn observing_runs_the_machine_and_refuses_nothing() {
    let mut rig = Rig::in_mode(BreakerMode::Observe, |settings| settings.half_open = 1);
    rig.open();
    let shown = rig.shown();
    assert_eq!((shown.label(), shown.requests), ("open", 10));
    let permit = rig.admit().unwrap();
    assert!(permit.would_refuse() && !permit.is_probe());
    assert_eq!(rig.end(permit, Verdict::Success), None);
    rig.wait_open();
    let probe = rig.admit().unwrap();
    assert!(probe.is_probe() && !probe.would_refuse());
    assert!(rig.admit().unwrap().would_refuse(), "the probe is on its way");
    assert!(rig.end(probe, Verdict::Success).is_some());
    let refused = (0..1000).filter(|_| rig.admit().unwrap().would_refuse()).count();
    assert!(refused.abs_diff(900) < 50, "{refused}");
    rig.wait(10 * SECOND);
    assert!((0..1000).all(|_| !rig.admit().unwrap().would_refuse()));
    rig.edit(BreakerMode::Auto, |_| {});
    assert_eq!(rig.open().state, State::Open);
}

#[test]
fn a_new_threshold_neither_closes_nor_opens_before_the_next_result() {
    let mut rig = Rig::new(|_| {});
    rig.send_many(9, Verdict::Failure);
    assert_eq!(rig.edit(BreakerMode::Auto, |settings| settings.min_requests = 5), None);
    assert_eq!(rig.shown().state, State::Closed);
    assert!(rig.send(Verdict::Success).is_some(), "9 of 10 at the next result");
    rig.edit(BreakerMode::Auto, |settings| settings.failure_rate = Some(Percent::ALL));
    assert_eq!(rig.shown().state, State::Open, "an open one stays open");
}

#[test]
fn a_new_window_begins_with_what_was_seen() {
    for window in [BreakerWindow::Calls(100), BreakerWindow::Time(SECOND), BreakerWindow::Calls(10)] {
        let mut rig = Rig::new(|_| {});
        rig.send_many(9, Verdict::Failure);
        rig.edit(BreakerMode::Auto, |settings| settings.window = window);
        assert_eq!((rig.shown().requests, rig.shown().failures), (9, 9));
        assert!(rig.send(Verdict::Failure).is_some());
        rig.wait_open();
        for _ in 0..3 {
            rig.send(Verdict::Success);
        }
        assert_eq!((rig.shown().state, rig.shown().requests), (State::Closed, 0));
    }
}

#[test]
fn a_shorter_most_shortens_what_is_open() {
    let mut rig = Rig::new(|settings| (settings.open_for, settings.max_open) = (60 * SECOND, 60 * SECOND));
    let until = rig.open().until;
    rig.edit(BreakerMode::Auto, |settings| settings.max_open = Duration::from_mins(5));
    assert_eq!(rig.shown().until, until, "a longer one does not lengthen it");
    rig.edit(BreakerMode::Auto, |settings| settings.max_open = SECOND);
    rig.wait(SECOND);
    assert!(rig.admit().is_ok());
}

#[test]
fn more_or_fewer_probes_hold_for_those_that_are_on_their_way() {
    let mut rig = Rig::new(|_| {});
    rig.half_open();
    let (one, two) = (rig.admit().unwrap(), rig.admit().unwrap());
    rig.edit(BreakerMode::Auto, |settings| settings.half_open = 40);
    let more: Vec<Permit> = std::iter::from_fn(|| rig.admit().ok()).take(100).collect();
    assert_eq!(more.len(), 38);
    rig.end(one, Verdict::Success);
    rig.end(two, Verdict::Success);
    for probe in more.into_iter().take(20) {
        rig.end(probe, Verdict::Neither);
    }
    rig.edit(BreakerMode::Auto, |settings| settings.half_open = 3);
    assert_eq!(rig.admit().unwrap_err().why, Why::Probing, "2 are good, 18 on their way");
    rig.edit(BreakerMode::Auto, |settings| settings.half_open = 2);
    let moves: Vec<Transition> = std::iter::from_fn(|| match rig.admit() {
        Ok(permit) => Some(permit.transition()),
        Err(refused) => Some(refused.transition),
    })
    .take(1)
    .flatten()
    .collect();
    assert_eq!(moves, [Transition { from: State::HalfOpen, to: State::Closed, cause: Cause::ProbesPassed }]);
}

#[test]
fn one_that_begins_with_a_clock_behind_is_no_trouble() {
    let mut rig = Rig::new(|settings| settings.half_open = 1);
    rig.half_open();
    assert!(rig.send(Verdict::Success).is_some());
    rig.now = Stamp::from_micros(rig.now.as_micros() - 1_000_000);
    assert_eq!(rig.shown().share, Percent::whole(10));
    assert!(rig.pass_of_1000() < 200);
}

#[test]
fn a_permit_is_small() {
    assert!(size_of::<Result<Permit, Refused>>() <= 40, "{}", size_of::<Result<Permit, Refused>>());
}
