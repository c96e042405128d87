use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[test]
fn each_key_has_its_own_bucket() {
    for algorithm in [TOKEN(3), LEAKY(3, 3_600_000), Algorithm::FixedWindow, Algorithm::SlidingWindow] {
        let limiter = keyed(settings(algorithm, 3, 3600), 1000);
        for number in 0..500 {
            assert_eq!(burst_of(&limiter, stranger(number), START), 3);
        }
        assert_eq!((0..500).map(|number| burst_of(&limiter, stranger(number), START)).sum::<u32>(), 0);
        assert_eq!((limiter.keys(), limiter.evictions()), (500, 0), "{algorithm:?}");
        let taken = granted(limiter.take(stranger(501), 3, at(START)));
        limiter.give_back(stranger(501), &taken, at(START));
        assert_eq!(burst_of(&limiter, stranger(501), START), 3);
    }
}

#[test]
fn to_ask_makes_no_bucket() {
    let limiter = keyed(settings(TOKEN(3), 3, 3600), 1000);
    granted(limiter.peek(1, 3, at(START)));
    refused(limiter.peek(1, 4, at(START)));
    refused(limiter.take(1, 4, at(START)));
    let taken = granted(self::limiter(settings(TOKEN(3), 3, 3600)).take(0, 1, at(START)));
    limiter.give_back(1, &taken, at(START));
    assert_eq!(limiter.keys(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 200 }))]

    /// Up to 16 keys: exactly the least recently used goes.
    #[test]
    fn few_keys_are_kept_exactly(max_keys in 1..=16_u32, uses in proptest::collection::vec(0..24_u64, 1..200)) {
        let limiter = keyed(settings(TOKEN(1000), 1, 3600), max_keys);
        let (mut now, mut model, mut evictions) = (START, Vec::<(u64, u32)>::new(), 0);
        for key in uses {
            now += 2000;
            let left = match model.iter().position(|(other, _)| *other == key) {
                Some(index) => model.remove(index).1,
                None => 1000,
            };
            if model.len() == usize::try_from(max_keys).unwrap() {
                model.remove(0);
                evictions += 1;
            }
            model.push((key, left - 1));
            let taken = granted(limiter.take(stranger(key), 1, at(now)));
            prop_assert_eq!(taken.remaining, left - 1);
            prop_assert_eq!((limiter.keys(), limiter.evictions()), (model.len(), evictions));
        }
    }
}

#[test]
fn a_flood_of_keys_takes_no_more_room() {
    let limiter = keyed(settings(TOKEN(1), 1, 3600), 10_000);
    let mut now = START;
    for number in 0..rounds(1_000_000) {
        now += number % 2;
        granted(limiter.take(stranger(number), 1, at(now)));
    }
    assert!(limiter.keys() <= 12_512, "{}", limiter.keys());
    if !cfg!(miri) {
        assert!(limiter.keys() > 12_400, "all places are used: {}", limiter.keys());
        assert_eq!(limiter.evictions(), 1_000_000 - u64::try_from(limiter.keys()).unwrap());
    }
}

#[test]
fn who_comes_steadily_outlasts_a_flood() {
    // An empty bucket that is asked about, and refused, is used too.
    let limiter = keyed(settings(TOKEN(5), 1, 3600), 1000);
    let steady: Vec<u64> = (0..50).map(|number| stranger(1 << 40 | number)).collect();
    let mut now = START;
    for &key in &steady {
        assert_eq!(burst_of(&limiter, key, now), 5);
    }
    for number in 0..rounds(200_000) {
        now += 5;
        granted(limiter.take(stranger(number), 1, at(now)));
        if number % 200 == 199 {
            for &key in &steady {
                refused(limiter.peek(key, 1, at(now)));
            }
        }
    }
}

#[test]
fn full_buckets_go_first_and_nothing_is_lost() {
    let limiter = keyed(settings(TOKEN(2), 1, 1), 4);
    let used = START + 10 * SECOND;
    // The oldest one is not full, a newer one is.
    granted(limiter.take(1, 1, at(START)));
    for key in 2..=4_u64 {
        granted(limiter.take(key << 1, 2, at(START + key * 3000)));
    }
    granted(limiter.take(2, 2, at(used - SECOND)));
    granted(limiter.take(5 << 1, 1, at(used)));
    assert_eq!((limiter.keys(), limiter.evictions()), (4, 0));
    assert_eq!(burst_of(&limiter, 2, used), 1, "it was there before");
}

#[test]
fn what_is_full_and_idle_is_cleared_away() {
    let limiter = keyed(settings(TOKEN(2), 1, 3600), 100);
    for key in 0..50 {
        granted(limiter.take(stranger(key), 1, at(START)));
    }
    granted(limiter.take(stranger(7), 1, at(START)));
    let full = START + HOUR;
    granted(limiter.peek(stranger(3), 1, at(full)));
    limiter.sweep(at(full - SECOND));
    assert_eq!(limiter.keys(), 50, "not full");
    limiter.sweep(at(full));
    assert_eq!((limiter.keys(), limiter.evictions()), (2, 0), "one is not full, one is not idle");
    assert_eq!(burst_of(&limiter, stranger(7), full), 1);
    assert_eq!(burst_of(&limiter, stranger(8), full), 2);
}

#[test]
fn other_max_keys_keep_the_most_recent() {
    for algorithm in [TOKEN(5), LEAKY(5, 3_600_000), Algorithm::FixedWindow, Algorithm::SlidingWindow] {
        let wide = keyed(settings(algorithm, 5, 3600), 1000);
        for key in 0..200 {
            granted(wide.take(stranger(key), 3, at(START + key * 2000)));
        }
        let end = START + SECOND;
        let narrow = wide.edited(settings(algorithm, 5, 3600), Some(16), at(end));
        assert_eq!((narrow.keys(), narrow.evictions()), (16, 184));
        for key in 184..200 {
            assert_eq!(burst_of(&narrow, stranger(key), end), 2, "{algorithm:?}");
        }
        let again = narrow.edited(settings(algorithm, 7, 3600), Some(5000), at(end));
        assert_eq!((again.keys(), again.evictions()), (16, 0));
        let unused = matches!(algorithm, Algorithm::FixedWindow | Algorithm::SlidingWindow);
        for key in 184..200 {
            assert_eq!(burst_of(&again, stranger(key), end), if unused { 2 } else { 0 }, "{algorithm:?}");
        }
    }
}

#[test]
fn another_algorithm_keeps_every_key() {
    let tokens = keyed(settings(TOKEN(10), 10, 3600), 1000);
    let mut used = HashMap::new();
    for key in 0..100 {
        let cost = u32::try_from(key % 10).unwrap() + 1;
        granted(tokens.take(stranger(key), cost, at(START)));
        used.insert(key, cost);
    }
    let window = tokens.edited(settings(Algorithm::SlidingWindow, 20, 60), Some(1000), at(START));
    for (key, cost) in used {
        assert_eq!(burst_of(&window, stranger(key), START), 2 * (10 - cost));
    }
}

#[test]
fn one_bucket_for_all_says_nothing_of_keys() {
    let one = limiter(settings(TOKEN(5), 1, 3600));
    assert_eq!(burst_of(&one, 0, START), 5);
    let keyed = one.edited(settings(TOKEN(5), 1, 3600), Some(10), at(START));
    assert_eq!(burst_of(&keyed, 1, START), 5);
    assert_eq!(burst_of(&keyed.edited(settings(TOKEN(5), 1, 3600), None, at(START)), 1, START), 5);
}

#[test]
fn secrets_differ() {
    let (one, other) = (Secret::new(), Secret::new());
    assert_eq!(one.hash(b"client"), one.clone().hash(b"client"));
    assert_ne!(one.hash(b"client"), one.hash(b"clienu"));
    assert!((0..8_u8).any(|byte| one.hash(&[byte]) != other.hash(&[byte])));
}
