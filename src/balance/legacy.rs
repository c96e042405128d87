//! Choosing among endpoints of which nothing but the weight is known.

use std::sync::atomic::{AtomicU64, Ordering};

use super::turn::smooth_round;
use crate::config::policy::BalancerPolicy;

/// Chooses among the endpoints of one upstream, by their position.
#[derive(Debug)]
pub struct Balancer {
    policy: BalancerPolicy,
    /// Running totals of the weights: the endpoint of a drawn number is found by binary search.
    totals: Vec<u64>,
    /// Where round robin is; shared by all workers.
    turn: AtomicU64,
    /// The order of round robin, one round.
    round: Vec<u32>,
}

/// The weights of endpoints given as (tier, weight), with those of all tiers but the first put to 0: an endpoint of a
/// later tier stands by. The first tier is the lowest one that has any weight.
pub fn first_tier(endpoints: &[(u8, u32)]) -> Vec<u32> {
    let first = endpoints.iter().filter(|(_, weight)| *weight > 0).map(|(tier, _)| *tier).min();
    endpoints.iter().map(|(tier, weight)| if Some(*tier) == first { *weight } else { 0 }).collect()
}

impl Balancer {
    /// Prepares `policy` for endpoints of these weights.
    pub fn new(policy: BalancerPolicy, weights: &[u32]) -> Self {
        let mut total = 0;
        let totals = weights
            .iter()
            .map(|&weight| {
                total += u64::from(weight);
                total
            })
            .collect();
        let round = if policy == BalancerPolicy::RoundRobin {
            smooth_round(&weights.iter().map(|&weight| u64::from(weight)).collect::<Vec<_>>())
        } else {
            Vec::new()
        };
        Self { policy, totals, turn: AtomicU64::new(0), round }
    }

    /// Picks an endpoint; `None` when there is none with a weight. `load` says how many requests an endpoint has
    /// in flight, `skip` which ones are not wanted (they were tried): one of those is picked only when there is no
    /// other.
    pub fn pick(
        &self,
        rng: &mut fastrand::Rng,
        load: impl Fn(usize) -> u32,
        skip: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        if self.totals.len() == 1 {
            // The application behind an inbound listener, usually: nothing to choose.
            return Some(0);
        }
        let first = match self.policy {
            BalancerPolicy::RoundRobin => self.next_in_turn(),
            BalancerPolicy::Random => self.draw(rng),
            // Until they are here, the one that knows most.
            BalancerPolicy::LeastRequest | BalancerPolicy::PeakEwma | BalancerPolicy::RingHash => {
                self.lesser_of_two(rng, &load, &skip)
            }
        }?;
        if !skip(first) {
            return Some(first);
        }
        let others = (0..self.totals.len()).filter(|&i| self.weight(i) > 0 && !skip(i));
        others.min_by_key(|&i| (load(i), rng.u32(..))).or(Some(first))
    }

    fn total(&self) -> u64 {
        self.totals.last().copied().unwrap_or(0)
    }

    fn weight(&self, index: usize) -> u64 {
        let upto = |i: usize| self.totals.get(i).copied().unwrap_or(0);
        upto(index) - if index == 0 { 0 } else { upto(index - 1) }
    }

    fn draw(&self, rng: &mut fastrand::Rng) -> Option<usize> {
        let drawn = rng.u64(0..self.total());
        let index = self.totals.partition_point(|&upto| upto <= drawn);
        (index < self.totals.len()).then_some(index)
    }

    fn next_in_turn(&self) -> Option<usize> {
        let length = u64::try_from(self.round.len()).ok().filter(|&n| n > 0)?;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % length;
        let index = *self.round.get(usize::try_from(turn).ok()?)?;
        usize::try_from(index).ok()
    }

    /// Power of two choices (Mitzenmacher, 2001): of two drawn at random the one with the lesser load for its weight.
    fn lesser_of_two(
        &self,
        rng: &mut fastrand::Rng,
        load: &impl Fn(usize) -> u32,
        skip: &impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let first = self.draw(rng)?;
        let mut second = self.draw(rng)?;
        if second == first {
            // With few endpoints the same one is drawn twice often; its neighbour makes it a choice again.
            second = (1..self.totals.len())
                .map(|step| (first + step) % self.totals.len())
                .find(|&i| self.weight(i) > 0)
                .unwrap_or(first);
        }
        // a/wa < b/wb, without a division. The request itself does not count: with nothing in flight the draw decides,
        // and that goes by weight already.
        let cost = |i: usize, other: usize| u64::from(load(i)) * self.weight(other);
        let second_wins = skip(first) || cost(second, first) < cost(first, second);
        Some(if second_wins && !skip(second) { second } else { first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(policy: BalancerPolicy, weights: &[u32], draws: usize) -> Vec<usize> {
        let balancer = Balancer::new(policy, weights);
        let mut rng = fastrand::Rng::with_seed(7);
        let mut counts = vec![0; weights.len()];
        for _ in 0..draws {
            counts[balancer.pick(&mut rng, |_| 0, |_| false).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn later_tiers_stand_by() {
        assert_eq!(first_tier(&[(0, 1), (1, 5), (0, 2)]), [1, 0, 2]);
        assert_eq!(first_tier(&[(2, 3), (1, 4)]), [0, 4]);
        assert_eq!(first_tier(&[(0, 0), (1, 4)]), [0, 4], "a tier without weight is no tier");
        assert_eq!(first_tier(&[(0, 0)]), [0]);
        assert!(first_tier(&[]).is_empty());
    }

    #[test]
    fn round_robin_follows_weights_exactly_and_smoothly() {
        assert_eq!(counts(BalancerPolicy::RoundRobin, &[3, 1, 0], 400), [300, 100, 0]);
    }

    #[test]
    fn random_follows_weights() {
        let counts = counts(BalancerPolicy::Random, &[3, 1, 0], 40_000);
        assert!((29_000..31_000).contains(&counts[0]), "{counts:?}");
        assert_eq!(counts[2], 0);
    }

    #[test]
    fn least_request_prefers_the_idle_one() {
        let balancer = Balancer::new(BalancerPolicy::LeastRequest, &[1, 1, 1]);
        let mut rng = fastrand::Rng::with_seed(7);
        let loads = [9, 0, 9];
        let mut picked = [0; 3];
        for _ in 0..3_000 {
            picked[balancer.pick(&mut rng, |i| loads[i], |_| false).unwrap()] += 1;
        }
        // The idle one wins whenever it is drawn: with three endpoints in at least 5 of 9 draws.
        assert!(picked[1] > 1_600, "{picked:?}");
    }

    #[test]
    fn least_request_spreads_load_by_weight() {
        let balancer = Balancer::new(BalancerPolicy::LeastRequest, &[2, 1]);
        let mut rng = fastrand::Rng::with_seed(7);
        let loads = std::cell::RefCell::new([0_u32; 2]);
        for _ in 0..300 {
            let pick = balancer.pick(&mut rng, |i| loads.borrow()[i], |_| false).unwrap();
            loads.borrow_mut()[pick] += 1;
        }
        let [heavy, light] = *loads.borrow();
        assert!(heavy.abs_diff(2 * light) <= 3, "{heavy} {light}");
    }

    #[test]
    fn least_request_follows_weights_when_nothing_is_in_flight() {
        let counts = counts(BalancerPolicy::LeastRequest, &[3, 1], 4_000);
        assert!((2_800..3_200).contains(&counts[0]), "{counts:?}");
    }

    proptest! {
        #[test]
        fn never_a_weightless_one_and_never_a_skipped_one_while_there_is_another(
            weights in proptest::collection::vec(0_u32..5, 1..8),
            skipped in proptest::collection::vec(any::<bool>(), 8),
            seed in any::<u64>(),
            policy in prop_oneof![
                Just(BalancerPolicy::RoundRobin),
                Just(BalancerPolicy::Random),
                Just(BalancerPolicy::LeastRequest)
            ],
        ) {
            let balancer = Balancer::new(policy, &weights);
            let mut rng = fastrand::Rng::with_seed(seed);
            let picked = balancer.pick(&mut rng, |i| u32::try_from(i).unwrap(), |i| skipped[i]);
            let usable = |i: usize| weights[i] > 0 && !skipped[i];
            match picked {
                None => prop_assert!(weights.iter().all(|&w| w == 0)),
                Some(i) => {
                    prop_assert!(weights[i] > 0);
                    prop_assert!(!skipped[i] || !(0..weights.len()).any(usable));
                }
            }
        }
    }
}
