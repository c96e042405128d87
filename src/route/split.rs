//! Weighted choice among the upstreams of a split.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::config::Name;

/// The parts of a split, compiled.
#[derive(Debug, Clone)]
pub struct Split {
    /// In the order of the document; a weight of 0 is never chosen.
    parts: Box<[Part]>,
    /// The sum of the weights, at least 1.
    total: u64,
}

#[derive(Debug, Clone)]
struct Part {
    weight: u32,
    /// The hash of the upstream's name, which seeds this part's score of a key.
    seed: u64,
}

impl Split {
    /// Compiles a split; `None` when no weight is above 0.
    pub fn compile(parts: &[(Name, u32)]) -> Option<Self> {
        let total = parts.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let part =
            |(name, weight): &(Name, u32)| Part { weight: *weight, seed: xxh3_64(name.as_str().as_bytes()) };
        (total > 0).then(|| Self { parts: parts.iter().map(part).collect(), total })
    }

    /// The part of a request: by its key, or by chance where it has none.
    pub fn choose(&self, key: Option<u64>, rng: &mut fastrand::Rng) -> usize {
        key.map_or_else(|| self.pick(rng), |key| self.pick_sticky(key))
    }

    /// A part by chance, each with its share of the weights. The index is that of the document.
    pub fn pick(&self, rng: &mut fastrand::Rng) -> usize {
        let mut draw = rng.u64(..self.total);
        for (index, part) in self.parts.iter().enumerate() {
            match draw.checked_sub(u64::from(part.weight)) {
                Some(left) => draw = left,
                None => return index,
            }
        }
        0
    }

    /// The part of a key (see [`super::Key::hash`]), the same on every instance.
    ///
    /// Weighted rendezvous hashing (Schindelhauer and Schomaker 2005; Wang and Ravishankar 1998): every part
    /// scores the key by itself and the best wins. So each part gets its share of the keys, a part whose
    /// weight grows takes keys from the others and loses none, and one that goes gives its keys to the others
    /// and moves none among them. The order of the parts does not matter.
    pub fn pick_sticky(&self, key: u64) -> usize {
        let mut best = (f64::NEG_INFINITY, 0);
        for (index, part) in self.parts.iter().enumerate() {
            let score = part.score(key);
            if score > best.0 {
                best = (score, index);
            }
        }
        best.1
    }
}

impl Part {
    /// `ln(u) / weight` for a `u` in (0, 1) drawn by the hash of key and name; minus infinity for no weight.
    fn score(&self, key: u64) -> f64 {
        if self.weight == 0 {
            return f64::NEG_INFINITY;
        }
        let hash = xxh3_64_with_seed(&key.to_le_bytes(), self.seed);
        #[expect(clippy::cast_precision_loss, reason = "53 bits are exactly what a f64 holds")]
        let uniform = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        uniform.ln() / f64::from(self.weight)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(weights: &[u32]) -> Option<Split> {
        let name = |i| Name::new(&format!("up-{i}")).unwrap();
        Split::compile(&weights.iter().enumerate().map(|(i, w)| (name(i), *w)).collect::<Vec<_>>())
    }

    #[test]
    fn shares_follow_the_weights() {
        const N: u64 = 40_000;
        let split = split(&[0, 1, 3, 0, 6]).unwrap();
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut drawn, mut sticky) = ([0_u32; 5], [0_u32; 5]);
        for key in 0..N {
            drawn[split.pick(&mut rng)] += 1;
            sticky[split.pick_sticky(key)] += 1;
        }
        for counts in [drawn, sticky] {
            for (count, expected) in counts.iter().zip([0, 4_000, 12_000, 0, 24_000]) {
                // Six standard deviations of a binomial draw are below 600 here.
                assert!(count.abs_diff(expected) < 600 && (expected > 0 || *count == 0), "{counts:?}");
            }
        }
    }

    #[test]
    fn no_weight_is_no_split() {
        assert!(split(&[]).is_none());
        assert!(split(&[0, 0]).is_none());
    }

    #[test]
    fn the_largest_weights_do_not_overflow() {
        let split = split(&[u32::MAX; 4]).unwrap();
        let mut rng = fastrand::Rng::with_seed(1);
        let seen: std::collections::BTreeSet<_> = (0..200).map(|_| split.pick(&mut rng)).collect();
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn all_instances_agree_for_ever() {
        let split = split(&[50, 50]).unwrap();
        let picks: Vec<_> = (0..16).map(|key| split.pick_sticky(key)).collect();
        let known = [0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0, 1];
        assert_eq!(picks, known, "a change here moves every sticky client");
    }

    #[test]
    fn a_request_without_a_key_gets_a_draw() {
        let split = split(&[1, 1]).unwrap();
        let mut rng = fastrand::Rng::with_seed(2);
        let drawn: std::collections::BTreeSet<_> = (0..64).map(|_| split.choose(None, &mut rng)).collect();
        assert_eq!(drawn.len(), 2);
        assert!((0..64).all(|_| split.choose(Some(9), &mut rng) == split.pick_sticky(9)));
    }

    proptest! {
        #[test]
        fn growing_a_weight_keeps_those_already_in(
            weights in prop::collection::vec(0_u32..1000, 2..6),
            grown in any::<prop::sample::Index>(),
            by in 1_u32..1000,
            key in any::<u64>(),
        ) {
            let Some(before) = split(&weights) else { return Ok(()) };
            let grown = grown.index(weights.len());
            let mut more = weights.clone();
            more[grown] += by;
            let (old, new) = (before.pick_sticky(key), split(&more).unwrap().pick_sticky(key));
            prop_assert!(new == old || new == grown, "{} moved to {}, {} grew", old, new, grown);
        }

        #[test]
        fn never_picks_what_has_no_weight(
            weights in prop::collection::vec(0_u32..3, 1..6),
            key in any::<u64>(),
        ) {
            let Some(split) = split(&weights) else { return Ok(()) };
            prop_assert!(weights[split.pick_sticky(key)] > 0);
            prop_assert!(weights[split.pick(&mut fastrand::Rng::with_seed(key))] > 0);
        }
    }
}
