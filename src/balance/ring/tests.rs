//! Tests of the ring.

use super::*;

fn names(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("10.0.0.{i}:8080")).collect()
}

fn ring(members: &[(&str, u32)]) -> Ring {
    Ring::build(members.iter().copied())
}

fn even(names: &[String]) -> Ring {
    Ring::build(names.iter().map(|name| (name.as_str(), 1)))
}

fn keys() -> impl Iterator<Item = u64> {
    (0..20_000_u64).map(|key| xxh3_64_with_seed(&key.to_le_bytes(), 42))
}

fn owner(ring: &Ring, hash: u64) -> usize {
    ring.walk(hash).next().unwrap()
}

#[test]
fn keys_have_the_same_owner_on_every_instance_and_in_every_release() {
    let ring = ring(&[("10.0.0.1:8080", 1), ("10.0.0.2:8080", 1), ("10.0.0.3:8080", 2)]);
    let owners: Vec<_> = (0..12_u64).map(|i| owner(&ring, i << 60 | 0x0123_4567_89ab_cdef)).collect();
    assert_eq!(owners, [1, 2, 1, 0, 2, 2, 0, 2, 0, 2, 2, 2]);
}

#[test]
fn one_that_goes_takes_only_its_own_keys_along() {
    let names = names(7);
    let all = even(&names);
    let mut fewer = names.clone();
    fewer.remove(3);
    let without = even(&fewer);
    let mut moved = 0;
    for key in keys() {
        let before = &names[owner(&all, key)];
        let after = &fewer[owner(&without, key)];
        if *before == names[3] {
            moved += 1;
            // It goes where it would go, too, while that one is only out.
            assert_eq!(all.walk(key).find(|&index| index != 3).map(|index| &names[index]), Some(after));
        } else {
            assert_eq!(before, after);
        }
    }
    assert!((2_200..3_600).contains(&moved), "{moved}: about a seventh");
}

#[test]
fn shares_follow_weights() {
    let ring = ring(&[("a", 1), ("b", 2), ("c", 4), ("d", 0)]);
    let mut counts = [0_u32; 4];
    for key in keys() {
        counts[owner(&ring, key)] += 1;
    }
    for (count, weight) in counts.into_iter().zip([1, 2, 4, 0]) {
        let due = 20_000 * weight / 7;
        assert!(count.abs_diff(due) <= due * 15 / 100, "{counts:?}");
    }
}

#[test]
fn the_order_of_members_does_not_matter() {
    let names = names(5);
    let turned: Vec<_> = names.iter().rev().cloned().collect();
    let (ring, other) = (even(&names), even(&turned));
    for key in keys().take(1_000) {
        assert_eq!(names[owner(&ring, key)], turned[owner(&other, key)]);
    }
}

#[test]
fn there_are_enough_points_and_never_too_many() {
    assert_eq!(ring(&[("a", 1), ("b", 3)]).points(), 256 * 4);
    assert_eq!(ring(&[("a", 100), ("b", 100)]).points(), 2 * 400, "heavy ones do not make a bigger ring");
    assert_eq!(ring(&[("a", 3)]).points(), 384);
    assert_eq!(even(&names(256)).points(), 65_536);
    let crowded = even(&names(257));
    assert_eq!(crowded.points(), 257 * 128);
    let skewed = ring(&[("a", 1), ("b", 65_535)]);
    assert!(skewed.points() <= 65_536 && skewed.walk(0).any(|owner| owner == 0));
    assert_eq!(even(&names(70_000)).points(), 70_000);
    let huge = ring(&[("a", u32::MAX), ("b", u32::MAX), ("c", 1)]);
    assert!(huge.points() <= 65_536 && huge.walk(0).any(|owner| owner == 2));
}

#[test]
fn a_walk_goes_once_around_from_the_key() {
    let ring = even(&names(3));
    let whole: Vec<_> = ring.walk(0).collect();
    assert_eq!(whole.len(), ring.points());
    let mut from_the_middle: Vec<_> = ring.walk(u64::MAX / 2).collect();
    let before = ring.hashes.iter().filter(|&&hash| hash < u64::MAX / 2).count();
    from_the_middle.rotate_right(before);
    assert_eq!(from_the_middle, whole);
    let exactly = ring.hashes[5];
    assert_eq!(owner(&ring, exactly), whole[5], "a point's own hash is its own");
    assert_eq!(owner(&ring, u64::MAX), whole[0], "past the last point the first one follows");
    assert_eq!(Ring::build([("a", 0)].into_iter()).walk(7).count(), 0);
}
