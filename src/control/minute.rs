//! What counters have counted in the last minute.

use std::collections::{BTreeMap, VecDeque};

use crate::config::Name;

/// How many samples, a second apart, are kept.
const SAMPLES: usize = 60;

/// Totals of some counters by the name of their resource, as they were in each of the last sixty seconds.
#[derive(Debug)]
pub(super) struct LastMinute<const N: usize>(BTreeMap<Name, VecDeque<[u64; N]>>);

impl<const N: usize> Default for LastMinute<N> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<const N: usize> LastMinute<N> {
    /// Takes the totals of this second. What is not among them is forgotten.
    pub(super) fn sample<'n>(&mut self, totals: impl Iterator<Item = (&'n Name, [u64; N])>) {
        let mut before = std::mem::take(&mut self.0);
        for (name, totals) in totals {
            let mut samples = before.remove(name).unwrap_or_default();
            if samples.len() == SAMPLES {
                samples.pop_front();
            }
            samples.push_back(totals);
            self.0.insert(name.clone(), samples);
        }
    }

    /// What has come to `totals` in the last minute, or since the first sample.
    pub(super) fn since(&self, name: &Name, totals: [u64; N]) -> [u64; N] {
        let oldest = self.0.get(name).and_then(VecDeque::front).copied().unwrap_or(totals);
        std::array::from_fn(|at| {
            let of = |totals: &[u64; N]| totals.get(at).copied().unwrap_or_default();
            of(&totals).saturating_sub(of(&oldest))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_is_sixty_samples_and_what_is_gone_is_forgotten() {
        let (a, b) = (Name::new("a").unwrap(), Name::new("b").unwrap());
        let mut minute = LastMinute::default();
        assert_eq!(minute.since(&a, [5]), [0]);
        for second in 0..100 {
            minute.sample([(&a, [second * 10]), (&b, [7])].into_iter());
        }
        assert_eq!(minute.since(&a, [1000]), [600]);
        assert_eq!(minute.since(&b, [7]), [0]);
        minute.sample([(&a, [1000])].into_iter());
        assert_eq!(minute.since(&b, [9]), [0]);
        assert_eq!(minute.0.len(), 1);
    }
}
