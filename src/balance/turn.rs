//! The order of round robin.

/// The longest round. Weights whose round would be longer are scaled down to fit, though none of them to nothing.
const LONGEST_ROUND: u64 = 4096;

/// One round of smooth weighted round robin, as nginx does it: heavy endpoints come often, never in a row when
/// that can be avoided. Positions of `weights`; empty when none of them is above 0.
///
/// Its time is the length of the round times the number of endpoints, unless all weights are the same.
pub(super) fn smooth_round(weights: &[u64]) -> Vec<u32> {
    let mut reduced = reduce(weights);
    if reduced.iter().all(|&weight| weight == 1) {
        return (0..).take(reduced.len()).collect();
    }
    let total: i64 = reduced.iter().sum();
    let longest = i64::try_from(LONGEST_ROUND).unwrap_or(i64::MAX);
    if total > longest {
        for weight in reduced.iter_mut().filter(|weight| **weight > 0) {
            *weight = (weight.saturating_mul(longest) / total).max(1);
        }
    }
    let total: i64 = reduced.iter().sum();
    let mut current = vec![0_i64; reduced.len()];
    let mut round = Vec::new();
    for _ in 0..total {
        for (now, weight) in current.iter_mut().zip(&reduced) {
            *now += weight;
        }
        // Of equals the first.
        let heaviest = current.iter().enumerate().rev().max_by_key(|(_, now)| **now).map(|(index, _)| index);
        if let Some(index) = heaviest {
            if let Some(now) = current.get_mut(index) {
                *now -= total;
            }
            round.extend(u32::try_from(index).ok());
        }
    }
    round
}

/// The smallest whole numbers in the same proportion.
fn reduce(weights: &[u64]) -> Vec<i64> {
    let divisor = weights.iter().copied().filter(|&weight| weight > 0).fold(0, gcd).max(1);
    // No sum of reasonable weights comes near the largest number; unreasonable ones are taken as large.
    let most = i64::MAX / (1 << 20);
    weights.iter().map(|&weight| i64::try_from(weight / divisor).map_or(most, |w| w.min(most))).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_follows_weights_exactly_and_smoothly() {
        assert_eq!(smooth_round(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(smooth_round(&[10, 10]), [0, 1]);
        assert_eq!(smooth_round(&[0, 7, 7]), [1, 2]);
        assert!(smooth_round(&[0, 0]).is_empty() && smooth_round(&[]).is_empty());
    }

    #[test]
    fn a_round_never_grows_too_long_and_leaves_nobody_out() {
        let round = smooth_round(&[65_535, 65_534, 1]);
        assert!(u64::try_from(round.len()).unwrap() <= LONGEST_ROUND + 3);
        assert_eq!(round.iter().filter(|&&index| index == 2).count(), 1);
        let halves = round.iter().filter(|&&index| index == 0).count();
        assert!((2_040..=2_056).contains(&halves), "{halves}");
        let huge = smooth_round(&[u64::MAX, 1]);
        assert_eq!(huge.iter().filter(|&&index| index == 1).count(), 1);
    }
}
