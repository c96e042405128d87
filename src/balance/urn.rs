//! Drawing by weight.

/// Members that are drawn by weight: in constant time where all weights are the same, else by binary search.
#[derive(Debug, Default)]
pub(super) struct Urn {
    members: Vec<u32>,
    /// Running totals of the weights; empty when they are all the same.
    totals: Vec<u64>,
}

impl Urn {
    /// Takes members with their weights. Those of weight 0 are left out.
    pub(super) fn new(members: impl Iterator<Item = (usize, u64)>) -> Self {
        let mut urn = Self::default();
        let mut total = 0_u64;
        for (member, weight) in members.filter(|(_, weight)| *weight > 0) {
            if let Ok(member) = u32::try_from(member) {
                total = total.saturating_add(weight);
                urn.members.push(member);
                urn.totals.push(total);
            }
        }
        let first = urn.totals.first().copied().unwrap_or(0);
        let same = |(upto, rank): (&u64, u64)| first.checked_mul(rank) == Some(*upto);
        if urn.totals.iter().zip(1..).all(same) {
            urn.totals = Vec::new();
        }
        urn
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// All members.
    pub(super) fn members(&self) -> impl Iterator<Item = usize> {
        self.members.iter().filter_map(|&member| usize::try_from(member).ok())
    }

    /// The member at a place that was drawn.
    pub(super) fn member(&self, place: usize) -> Option<usize> {
        self.members.get(place).and_then(|&member| usize::try_from(member).ok())
    }

    /// Draws a place by weight; `None` of nothing.
    pub(super) fn draw(&self, rng: &mut fastrand::Rng) -> Option<usize> {
        match self.totals.last() {
            Some(&total) => Some(self.place_of(rng.u64(..total))),
            None if self.members.is_empty() => None,
            None => Some(rng.usize(..self.members.len())),
        }
    }

    /// Draws another place than `first`, by weight; `None` when there is no other.
    pub(super) fn draw_other(&self, rng: &mut fastrand::Rng, first: usize) -> Option<usize> {
        let others = self.members.len().checked_sub(1).filter(|&others| others > 0)?;
        let Some(&total) = self.totals.last() else {
            let drawn = rng.usize(..others);
            return Some(if drawn < first { drawn } else { drawn + 1 });
        };
        // As if the stretch of the first were cut out.
        let before = first.checked_sub(1).and_then(|place| self.totals.get(place)).copied().unwrap_or(0);
        let upto = self.totals.get(first).copied().unwrap_or(before);
        let left = total - (upto - before);
        let drawn = if left == 0 { 0 } else { rng.u64(..left) };
        Some(self.place_of(if drawn < before { drawn } else { drawn + (upto - before) }))
    }

    fn place_of(&self, drawn: u64) -> usize {
        self.totals.partition_point(|&upto| upto <= drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urn(weights: &[u64]) -> Urn {
        Urn::new(weights.iter().copied().enumerate())
    }

    #[test]
    fn equal_weights_need_no_totals() {
        assert!(urn(&[7, 7, 7]).totals.is_empty());
        assert!(urn(&[0, 7, 0, 7]).totals.is_empty());
        assert_eq!(urn(&[1, 2]).totals, [1, 3]);
        assert_eq!(urn(&[2, 1, 1]).totals, [2, 3, 4]);
        assert_eq!(urn(&[0, 3, 0, 3]).members().collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn one_is_drawn_by_weight_and_the_other_by_what_is_left() {
        for weights in [&[1, 2, 5][..], &[4, 4, 4]] {
            let urn = urn(weights);
            let total = f64::from(u32::try_from(weights.iter().sum::<u64>()).unwrap());
            let mut rng = fastrand::Rng::with_seed(7);
            let mut pairs = [[0_u32; 3]; 3];
            for _ in 0..80_000 {
                let first = urn.draw(&mut rng).unwrap();
                let second = urn.draw_other(&mut rng, first).unwrap();
                pairs[first][second] += 1;
            }
            for (first, seconds) in pairs.iter().enumerate() {
                assert_eq!(seconds[first], 0);
                for (second, count) in seconds.iter().enumerate().filter(|(second, _)| *second != first) {
                    let weight = |i: usize| f64::from(u32::try_from(weights[i]).unwrap());
                    let due = weight(first) / total * weight(second) / (total - weight(first));
                    let came = f64::from(*count) / 80_000.0;
                    assert!((came - due).abs() < 0.006, "{weights:?} {first} {second}: {came} for {due}");
                }
            }
        }
    }

    #[test]
    fn of_one_there_is_no_other_and_of_nothing_none() {
        let mut rng = fastrand::Rng::with_seed(7);
        assert_eq!(urn(&[0, 9]).draw(&mut rng), Some(0));
        assert_eq!(urn(&[0, 9]).member(0), Some(1));
        assert_eq!(urn(&[0, 9]).draw_other(&mut rng, 0), None);
        assert_eq!(urn(&[0]).draw(&mut rng), None);
        assert!(urn(&[0]).is_empty());
    }
}
