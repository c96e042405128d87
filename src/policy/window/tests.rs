use std::{thread, time::Duration};

use proptest::prelude::*;

use super::*;

const BAD: Outcome = Outcome { failure: true, slow: false };
const SLOW: Outcome = Outcome { failure: false, slow: true };
const GOOD: Outcome = Outcome { failure: false, slow: false };

fn at(millis: u64) -> Stamp {
    Stamp::from_micros(millis * 1000)
}

fn totals(requests: u64, failures: u64, slow: u64) -> Totals {
    Totals { requests, failures, slow }
}

#[test]
fn a_window_of_time_keeps_a_result_for_twenty_slots_and_not_for_one_more() {
    let window = Window::time(Duration::from_secs(10));
    window.record(3, BAD, at(60_000));
    window.record(3, SLOW, at(60_499));
    window.record(3, GOOD, at(60_500));
    assert_eq!(window.totals(3, at(60_500)), totals(3, 1, 1));
    assert_eq!(window.totals(3, at(69_999)), totals(3, 1, 1), "the first slot is the oldest of twenty");
    assert!(!window.is_quiet(3, at(69_999)));
    assert_eq!(window.totals(3, at(70_000)), totals(1, 0, 0), "and then it is the twenty-first");
    assert!(window.is_quiet(3, at(70_000)));
    assert_eq!(window.totals(3, at(70_499)), totals(1, 0, 0));
    assert_eq!(window.totals(3, at(70_500)), totals(0, 0, 0));
}

#[test]
fn a_result_whose_clock_is_a_little_ahead_counts_and_one_that_comes_far_too_late_does_not() {
    let window = Window::time(Duration::from_secs(10));
    window.record(3, BAD, at(60_600));
    assert_eq!(window.totals(3, at(60_400)).failures, 1, "whoever evaluates last sees all");
    window.record(3, BAD, at(50_600));
    assert_eq!(window.totals(3, at(60_600)), totals(1, 1, 0), "its cell belongs to something newer");
}

#[test]
fn a_new_epoch_begins_with_nothing_and_the_old_one_cannot_disturb_it() {
    for window in [Window::time(Duration::from_secs(10)), Window::calls(10)] {
        for _ in 0..5 {
            window.record(3, BAD, at(60_000));
        }
        assert_eq!(window.totals(4, at(60_000)), totals(0, 0, 0));
        window.record(4, GOOD, at(60_000));
        window.record(3, BAD, at(60_000));
        assert_eq!(window.totals(4, at(60_000)), totals(1, 0, 0));
        window.record(4, BAD, at(60_000));
        assert_eq!(window.totals(4, at(60_000)), totals(2, 1, 0));
        assert_eq!(window.totals(3, at(60_000)).failures, 0);
    }
}

#[test]
fn epochs_and_slots_come_round_without_harm() {
    for window in [Window::time(Duration::from_secs(1)), Window::calls(10)] {
        // Idle for a year, and as many epochs as there are numbers.
        for (epoch, now) in
            [(u16::MAX, at(60_000)), (0, at(60_000)), (1, at(31_536_060_000)), (1, at(31_536_060_010))]
        {
            let before = window.totals(epoch, now);
            window.record(epoch, BAD, now);
            assert_eq!(window.totals(epoch, now).failures, before.failures + 1, "epoch {epoch}");
        }
    }
}

#[test]
fn a_count_stays_at_the_most_that_it_can_say() {
    let column = Column::default();
    let moment = Moment::new(1, at(60_000), 500_000);
    column.add(moment, 1 << 40);
    column.add(moment, 1);
    assert_eq!(column.sum(moment), (1 << 24) - 1);
    assert_eq!(column.sum(Moment::new(1, at(60_500), 500_000)), (1 << 24) - 1, "and does not spill over");
}

#[test]
fn a_window_of_calls_has_the_last_so_many() {
    let window = Window::calls(3);
    for (outcome, expected) in [
        (BAD, totals(1, 1, 0)),
        (GOOD, totals(2, 1, 0)),
        (SLOW, totals(3, 1, 1)),
        (GOOD, totals(3, 0, 1)),
        (BAD, totals(3, 1, 1)),
        (BAD, totals(3, 2, 0)),
        (BAD, totals(3, 3, 0)),
        (BAD, totals(3, 3, 0)),
        (GOOD, totals(3, 2, 0)),
        (GOOD, totals(3, 1, 0)),
        (GOOD, totals(3, 0, 0)),
    ] {
        window.record(9, outcome, at(1));
        assert_eq!(window.totals(9, at(1)), expected);
        assert_eq!(window.is_quiet(9, at(1)), expected.failures + expected.slow == 0);
    }
}

#[test]
fn what_was_seen_fits_into_another_shape() {
    let time = Window::time(Duration::from_secs(5));
    time.seed(2, totals(40, 10, 3), at(60_000));
    assert_eq!(time.totals(2, at(60_000)), totals(40, 10, 3));
    assert!(!time.is_quiet(2, at(60_000)));

    let calls = Window::calls(100);
    calls.seed(2, totals(40, 10, 3), at(60_000));
    assert_eq!(calls.totals(2, at(60_000)), totals(40, 10, 3));

    let small = Window::calls(10);
    small.seed(2, totals(1000, 501, 0), at(60_000));
    assert_eq!(small.totals(2, at(60_000)), totals(10, 6, 0), "a half and a bit stays more than a half");
    let none = Window::calls(10);
    none.seed(2, Totals::default(), at(60_000));
    assert_eq!(none.totals(2, at(60_000)), Totals::default());
}

#[test]
fn threads_lose_nothing() {
    const EACH: u64 = crate::policy::rounds(5000) / 20 * 20;
    for window in [Window::time(Duration::from_secs(10)), Window::calls(100_000), Window::calls(7)] {
        thread::scope(|scope| {
            for worker in 0..4 {
                let window = &window;
                scope.spawn(move || {
                    for turn in 0..EACH {
                        let outcome = Outcome { failure: turn % 4 == 0, slow: turn % 5 == worker };
                        window.record(1, outcome, at(60_000 + turn / 1000 * 500));
                    }
                });
            }
        });
        let seen = window.totals(1, at(62_500));
        match &window {
            Window::Calls(ring) if seen.requests == 7 => {
                assert!(seen.failures <= 7 && seen.slow <= 7);
                for _ in 0..7 {
                    ring.record(1, GOOD);
                }
                assert_eq!(window.totals(1, at(1)), totals(7, 0, 0), "the counts are those of the ring");
                for _ in 0..7 {
                    ring.record(1, BAD);
                }
                assert_eq!(window.totals(1, at(1)), totals(7, 7, 0), "the counts are those of the ring");
            }
            _ => assert_eq!(seen, totals(4 * EACH, EACH, 4 * EACH / 5)),
        }
    }
}

proptest! {
    #[test]
    fn a_window_is_what_a_list_would_be(
        results in prop::collection::vec((0_u64..3000, any::<bool>(), any::<bool>()), 1..200),
        size in 1_u32..40,
    ) {
        let (time, calls) = (Window::time(Duration::from_secs(10)), Window::calls(size));
        let mut list = Vec::new();
        let mut now = 60_000;
        for (pause, failure, slow) in results {
            now += pause;
            let outcome = Outcome { failure, slow };
            list.push((now, outcome));
            time.record(1, outcome, at(now));
            calls.record(1, outcome, at(now));
            let sum = |kept: &mut dyn Iterator<Item = &(u64, Outcome)>| {
                kept.fold(Totals::default(), |sum, (_, one)| totals(
                    sum.requests + 1,
                    sum.failures + u64::from(one.failure),
                    sum.slow + u64::from(one.slow),
                ))
            };
            let by_time = sum(&mut list.iter().filter(|(then, _)| now / 500 - then / 500 < 20));
            prop_assert_eq!(time.totals(1, at(now)), by_time);
            prop_assert_eq!(time.is_quiet(1, at(now)), by_time.failures + by_time.slow == 0);
            let by_number = sum(&mut list.iter().rev().take(size as usize));
            prop_assert_eq!(calls.totals(1, at(now)), by_number);
        }
    }
}
