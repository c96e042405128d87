//! How long something that failed is left alone.

use std::time::Duration;

/// More doublings than this are not told apart.
pub(super) const MOST_DOUBLINGS: u8 = 31;

/// `first`, doubled so many times, at most `most`; give or take a fifth, and never more than `most`.
///
/// A fifth keeps the many instances that saw the same failure from coming back in the same instant. Full jitter, which
/// draws from nothing to all, would be wrong here: it is for many who wait for one free place. This is one who waits for
/// another to recover, and a pause of nearly nothing would not be one.
pub(super) fn pause(first: Duration, most: Duration, doublings: u8, rng: &mut fastrand::Rng) -> Duration {
    let middle = middle(first, most, doublings);
    let (least, longest) = (middle / 5 * 4, (middle / 5 * 6).min(most));
    Duration::from_micros(rng.u64(micros(least)..=micros(longest).max(micros(least))))
}

/// The same before chance.
pub(super) fn middle(first: Duration, most: Duration, doublings: u8) -> Duration {
    first.saturating_mul(1 << u32::from(doublings.min(MOST_DOUBLINGS))).min(most)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_the_most_and_varies_by_a_fifth() {
        let mut rng = fastrand::Rng::with_seed(7);
        let (first, most) = (Duration::from_secs(5), Duration::from_mins(1));
        for (doublings, least, longest) in [
            (0, 4000, 6000),
            (1, 8000, 12_000),
            (3, 32_000, 48_000),
            (4, 48_000, 60_000),
            (200, 48_000, 60_000),
        ] {
            let drawn: Vec<u128> =
                (0..2000).map(|_| pause(first, most, doublings, &mut rng).as_millis()).collect();
            let (low, high) = (*drawn.iter().min().unwrap(), *drawn.iter().max().unwrap());
            let margin = (longest - least) / 50;
            assert!((least..=least + margin).contains(&low), "{doublings}: {low}");
            assert!((longest - margin..=longest).contains(&high), "{doublings}: {high}");
        }
        assert!(pause(most, first, 0, &mut rng) <= first, "the most is the most");
        assert_eq!(pause(Duration::ZERO, most, 9, &mut rng), Duration::ZERO);
    }
}
