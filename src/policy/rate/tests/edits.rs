use super::*;

const FIXED: Algorithm = Algorithm::FixedWindow;
const SLIDING: Algorithm = Algorithm::SlidingWindow;

#[test]
fn a_first_burst_and_then_the_rate() {
    let limiter = limiter(settings(TOKEN(5), 10, 1));
    assert_eq!(burst_of(&limiter, 0, START), 5);
    assert_eq!(burst_of(&limiter, 0, START + SECOND / 10), 1);
    assert_eq!(burst_of(&limiter, 0, START + HOUR), 5);
    assert_eq!((limiter.most(), limiter.unit()), (5, Duration::from_millis(500)));
    assert!((limiter.rate_per_second() - 10.0).abs() < 1e-9);
}

#[test]
fn all_of_a_burst_goes_at_once_and_a_whole_second_is_a_whole_second() {
    // Whatever part of a unit the clock leaves out: not one of a burst is held back, and no wait is a second longer.
    for (count, per, step) in [(1, 1, SECOND), (10, 1, SECOND / 10), (1, 3600, HOUR), (1, 60, 60 * SECOND)] {
        for burst in [1, 5, 1000] {
            let limiter = limiter(settings(TOKEN(burst), count, per));
            let queue = self::limiter(settings(LEAKY(burst, 4_000_000_000), count, per));
            let least = Duration::from_micros(step - step.div_ceil(1 << 20) - 1);
            let mut now = START;
            for _ in 0..20 {
                assert_eq!(burst_of(&limiter, 0, now), burst);
                let after = refused(limiter.take(0, 1, at(now))).retry_after.unwrap();
                assert!(least <= after && after <= Duration::from_micros(step), "{after:?} of {step} us");
                assert_eq!(burst_of(&queue, 0, now), burst);
                now += u64::from(burst) * HOUR + 7_777_777;
            }
        }
    }
}

#[test]
fn what_costs_more_than_ever_fits_is_never_granted() {
    for algorithm in [TOKEN(5), LEAKY(5, 1000), FIXED, SLIDING] {
        let limiter = limiter(settings(algorithm, 5, 1));
        let refusal = refused(limiter.take(0, 6, at(START)));
        assert_eq!(refusal.retry_after, None, "{algorithm:?}");
        assert_eq!(refused(limiter.take(0, u32::MAX, at(START))).retry_after, None);
        assert_eq!(granted(limiter.take(0, 5, at(START))).cost, 5, "a refusal takes nothing: {algorithm:?}");
    }
}

#[test]
fn the_rate_grows_and_no_bucket_is_refilled() {
    let slow = limiter(settings(TOKEN(10), 1, 3600));
    assert_eq!(burst_of(&slow, 0, START), 10);
    let fast = slow.edited(settings(TOKEN(10), 1000, 1), None, at(START));
    assert_eq!(burst_of(&fast, 0, START), 0, "an edit fills nothing");
    assert_eq!(burst_of(&fast, 0, START + 5000), 5, "it is felt at once");
    let again = fast.edited(settings(TOKEN(10), 1, 3600), None, at(START + 8000));
    assert_eq!(burst_of(&again, 0, START + 8000), 3, "what had come by then stays");
    assert_eq!(burst_of(&again, 0, START + SECOND), 0);
}

#[test]
fn a_smaller_burst_cuts_and_a_larger_one_fills_nothing() {
    let first = limiter(settings(TOKEN(10), 1, 1));
    for _ in 0..3 {
        granted(first.take(0, 1, at(START)));
    }
    let small = first.edited(settings(TOKEN(5), 1, 1), None, at(START));
    assert_eq!(granted(small.peek(0, 1, at(START))).remaining, 4);
    let large = small.edited(settings(TOKEN(100), 1, 1), None, at(START));
    assert_eq!(granted(large.peek(0, 1, at(START))).remaining, 4, "5 stay 5");
    let later = START + 10 * SECOND;
    assert_eq!(granted(large.peek(0, 1, at(later))).remaining, 14, "and fill at the rate");
    let shut = large.edited(settings(TOKEN(3), 1, 1), None, at(later));
    assert_eq!(burst_of(&shut, 0, later), 3);
    let back = shut.edited(settings(TOKEN(10), 1, 1), None, at(later));
    assert_eq!(burst_of(&back, 0, later), 0);
    assert_eq!(burst_of(&back, 0, later + 4 * SECOND), 4);
    assert_eq!(burst_of(&back, 0, later + HOUR), 10, "up to the burst");
}

#[test]
fn keys_that_were_never_seen_get_no_more_either() {
    let small = keyed(settings(TOKEN(5), 1, 1), 100);
    let large = small.edited(settings(TOKEN(50), 1, 1), Some(100), at(START));
    assert_eq!(burst_of(&large, stranger(7), START), 5);
    assert_eq!(burst_of(&large, stranger(8), START + 3 * SECOND), 8);
    assert_eq!(burst_of(&large, stranger(9), START + HOUR), 50);
}

#[test]
fn a_share_divides_and_never_to_nothing() {
    let one = limiter(settings(TOKEN(10), 100, 1));
    let three = one.shared_by(NonZeroU32::new(3).unwrap(), at(START));
    assert!((three.rate_per_second() - 100.0 / 3.0).abs() < 1e-9);
    assert_eq!(three.most(), 4, "rounded up");
    assert_eq!(burst_of(&three, 0, START), 4);
    assert_eq!(burst_of(&three, 0, START + 30_000), 1, "33.3 a second");
    assert_eq!(one.shared_by(NonZeroU32::new(99).unwrap(), at(START)).most(), 1);
    let dear = Settings { fixed_cost: 5, ..settings(TOKEN(10), 100, 1) };
    assert_eq!(limiter(shared(dear, 4)).most(), 5, "what one request costs");
    for algorithm in [FIXED, SLIDING] {
        let most = |count, share| limiter(shared(settings(algorithm, count, 1), share)).most();
        assert_eq!((most(10, 4), most(10, 3), most(9, 4), most(1, 9)), (3, 3, 2, 1), "to the nearest");
    }
}

#[test]
fn windows_keep_what_was_used() {
    for algorithm in [FIXED, SLIDING] {
        let first = limiter(settings(algorithm, 10, 3600));
        for _ in 0..6 {
            granted(first.take(0, 1, at(START)));
        }
        let more = first.edited(settings(algorithm, 8, 3600), None, at(START));
        assert_eq!(burst_of(&more, 0, START), 2, "{algorithm:?}");
        let less = more.edited(settings(algorithm, 3, 3600), None, at(START));
        assert_eq!(refused(less.peek(0, 1, at(START))).remaining, 0);
        let longer = less.edited(settings(algorithm, 20, 60), None, at(START));
        assert_eq!(burst_of(&longer, 0, START), 12, "8 are used, whatever the unit: {algorithm:?}");
        assert_eq!(burst_of(&longer, 0, START + 64 * SECOND), 20);
    }
}

#[test]
fn another_algorithm_keeps_the_share_that_is_used() {
    let algorithms = [TOKEN(40), LEAKY(40, 3_600_000), FIXED, SLIDING];
    for from in algorithms {
        for to in algorithms.into_iter().filter(|to| *to != from) {
            let old = limiter(settings(from, 40, 3600));
            for _ in 0..30 {
                granted(old.take(0, 1, at(START)));
            }
            let new = old.edited(settings(to, 40, 3600), None, at(START));
            let left = granted(new.peek(0, 1, at(START))).remaining + 1;
            assert!((9..=10).contains(&left), "{from:?} to {to:?}: {left}");
        }
    }
    let half = limiter(settings(TOKEN(10), 10, 3600));
    for _ in 0..5 {
        granted(half.take(0, 1, at(START)));
    }
    let window = half.edited(settings(FIXED, 1000, 3600), None, at(START));
    assert_eq!(burst_of(&window, 0, START), 500);
}

#[test]
fn what_waits_feels_the_new_rate() {
    let slow = limiter(settings(LEAKY(10, 20_000), 1, 1));
    assert_eq!(granted(slow.take(0, 1, at(START))).wait, Duration::ZERO);
    let second = granted(slow.take(0, 1, at(START)));
    let third = granted(slow.take(0, 1, at(START)));
    assert_eq!((second.wait, third.wait), (Duration::from_secs(1), Duration::from_secs(2)));
    assert_eq!(slow.wait_of(&third, at(START + SECOND)), Duration::from_secs(1));
    let fast = slow.edited(settings(LEAKY(10, 20_000), 100, 1), None, at(START + SECOND));
    assert_eq!(fast.wait_of(&second, at(START + SECOND)), Duration::ZERO);
    assert_eq!(fast.wait_of(&third, at(START + SECOND)), Duration::from_millis(10));
    let crawls = slow.edited(settings(LEAKY(10, 500), 1, 3600), None, at(START));
    assert_eq!(crawls.wait_of(&third, at(START)), Duration::from_millis(500), "never longer than `max_wait`");
    let other = slow.edited(settings(TOKEN(10), 1, 1), None, at(START));
    assert_eq!(other.wait_of(&third, at(START)), Duration::ZERO);
}

#[test]
fn a_leaky_bucket_paces_and_queues_up_to_its_burst() {
    let none = limiter(settings(LEAKY(10, 0), 10, 1));
    assert_eq!(burst_of(&none, 0, START), 1, "whatever would have to wait is refused");
    assert_eq!(refused(none.peek(0, 1, at(START))).retry_after, Some(Duration::from_millis(100)));
    let long = limiter(settings(LEAKY(4, 60_000), 10, 1));
    assert_eq!(granted(long.peek(0, 1, at(START))).remaining, 3);
    assert_eq!(burst_of(&long, 0, START), 4);
    assert_eq!(refused(long.peek(0, 1, at(START))).retry_after, Some(Duration::from_millis(100)));
    let short = limiter(settings(LEAKY(100, 250), 10, 1));
    assert_eq!(granted(short.peek(0, 1, at(START))).remaining, 2, "at 100 and 200 ms");
    assert_eq!(burst_of(&short, 0, START), 3);
    assert_eq!(refused(short.peek(0, 1, at(START))).retry_after, Some(Duration::from_millis(50)));
    let dear = limiter(settings(LEAKY(4, 0), 1, 1));
    granted(dear.take(0, 4, at(START)));
    assert_eq!(refused(dear.take(0, 1, at(START))).retry_after, Some(Duration::from_secs(4)));
}

#[test]
fn windows_begin_by_the_clock_on_the_wall() {
    for per in [1, 60, 3600] {
        let limiter = limiter(settings(FIXED, 3, per));
        let unit = per * SECOND;
        let left = unit - whole(UNIX) % unit;
        assert_eq!(burst_of(&limiter, 0, START), 3);
        let refusal = refused(limiter.peek(0, 1, at(START)));
        assert_eq!(refusal.retry_after, Some(Duration::from_micros(left)));
        assert_eq!(burst_of(&limiter, 0, START + left - 1), 0);
        assert_eq!(burst_of(&limiter, 0, START + left), 3);
    }
}

#[test]
fn what_is_given_back_is_there_again() {
    for algorithm in [TOKEN(5), FIXED, SLIDING, LEAKY(5, 3_600_000)] {
        let limiter = limiter(settings(algorithm, 5, 3600));
        let first = granted(limiter.take(0, 2, at(START)));
        let second = granted(limiter.take(0, 3, at(START)));
        refused(limiter.take(0, 1, at(START)));
        limiter.give_back(0, &second, at(START));
        assert_eq!(granted(limiter.peek(0, 3, at(START))).remaining, 0, "{algorithm:?}");
        limiter.give_back(0, &first, at(START));
        assert_eq!(granted(limiter.peek(0, 5, at(START))).remaining, 0, "{algorithm:?}");
    }
}

#[test]
fn a_turn_is_given_back_only_if_nobody_came_after() {
    let limiter = limiter(settings(LEAKY(5, 60_000), 1, 1));
    let first = granted(limiter.take(0, 1, at(START)));
    let second = granted(limiter.take(0, 1, at(START)));
    limiter.give_back(0, &first, at(START));
    assert_eq!(granted(limiter.peek(0, 1, at(START))).wait, Duration::from_secs(2), "it is lost");
    limiter.give_back(0, &second, at(START));
    assert_eq!(granted(limiter.peek(0, 1, at(START))).wait, Duration::from_secs(1));
}

#[test]
fn a_window_that_has_passed_gets_nothing_back() {
    for algorithm in [FIXED, SLIDING] {
        let limiter = limiter(settings(algorithm, 5, 1));
        let old = granted(limiter.take(0, 5, at(START)));
        let later = START + 16 * SECOND.div_ceil(15);
        granted(limiter.take(0, 5, at(later)));
        limiter.give_back(0, &old, at(later));
        refused(limiter.take(0, 1, at(later)));
        // Nor more than it holds, for one that was in a table and is forgotten.
        limiter.give_back(0, &granted_again(later, algorithm), at(later));
    }
}

/// A grant of another bucket at the same time.
fn granted_again(now: u64, algorithm: Algorithm) -> Taken {
    granted(limiter(settings(algorithm, 9, 1)).take(0, 9, at(now)))
}

#[test]
fn what_is_given_back_to_a_sealed_slot_counts() {
    let limiter = limiter(settings(SLIDING, 5, 1));
    let old = granted(limiter.take(0, 4, at(START)));
    granted(limiter.take(0, 1, at(START + SECOND / 2)));
    limiter.give_back(0, &old, at(START + SECOND / 2));
    assert_eq!(burst_of(&limiter, 0, START + SECOND / 2), 4);
}

#[test]
fn years_without_a_request_are_no_future() {
    // The largest rate: virtual time comes round every five hours.
    for algorithm in [TOKEN(1_000_000_000), LEAKY(1_000_000_000, 1000)] {
        let limiter = keyed(settings(algorithm, 1_000_000_000, 1), 10);
        let mut now = START;
        granted(limiter.take(stranger(1), 1_000_000_000, at(now)));
        for _ in 0..2000 {
            now += HOUR - 17;
            // One that is used now and then, one that is not.
            limiter.sweep(at(now));
            assert_eq!(granted(limiter.take(stranger(1), 1_000_000_000, at(now))).wait, Duration::ZERO);
            assert_eq!(granted(limiter.peek(stranger(2), 1_000_000_000, at(now))).wait, Duration::ZERO);
        }
        let alone = Limiter::new(settings(algorithm, 1_000_000_000, 1), None, at(START), UNIX);
        let mut now = START;
        granted(alone.take(0, 1_000_000_000, at(now)));
        for _ in 0..2000 {
            now += HOUR - 17;
            alone.sweep(at(now));
            assert_eq!(granted(alone.peek(0, 1_000_000_000, at(now))).wait, Duration::ZERO);
        }
    }
}

#[test]
fn a_burst_that_grew_long_ago_is_forgotten() {
    let small = limiter(settings(TOKEN(1), 1_000_000_000, 1));
    let large = small.edited(settings(TOKEN(1_000_000_000), 1_000_000_000, 1), None, at(START));
    let mut now = START;
    for _ in 0..100 {
        now += HOUR - 17;
        large.sweep(at(now));
        granted(large.take(0, 1_000_000_000, at(now)));
    }
}

#[test]
fn a_thread_whose_clock_is_late_gets_nothing_extra() {
    for algorithm in [TOKEN(5), LEAKY(5, 0), FIXED, SLIDING] {
        let limiter = limiter(settings(algorithm, 5, 1));
        let later = START + SECOND;
        let granted = burst_of(&limiter, 0, later);
        assert!(granted > 0);
        assert_eq!(burst_of(&limiter, 0, START + SECOND / 2), 0, "{algorithm:?}");
        assert_eq!(burst_of(&limiter, 0, later), 0, "{algorithm:?}");
    }
}

#[test]
fn the_same_settings_change_nothing() {
    let first = limiter(settings(TOKEN(5), 1, 3600));
    granted(first.take(0, 5, at(START)));
    let mut same = first.clone();
    for step in 0..10_000 {
        same = same.edited(*first.settings(), None, at(START + step * 360_000));
    }
    assert_eq!(burst_of(&same, 0, START + HOUR - HOUR / (1 << 20) - 2), 0);
    assert_eq!(burst_of(&same, 0, START + HOUR), 1, "not a microsecond is lost");
}
