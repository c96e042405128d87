//! What happened in the last seconds, from numbers that only grow.

use std::{collections::VecDeque, time::Duration};

use crate::policy::Stamp;

/// How far back shares look: as far as a breaker's window and ejection do by default, so that `/switches` and
/// `/upstreams` speak of the same seconds.
pub const WINDOW: Duration = Duration::from_secs(10);

/// Two looks that are kept are at least so far apart, which bounds how many of them there are.
const SPACING: Duration = Duration::from_millis(200);

/// So many of so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Tally {
    /// Those that are meant: failures, slow results, refusals.
    pub hits: u64,
    /// All.
    pub of: u64,
}

impl Tally {
    /// What has come since `earlier`.
    const fn since(self, earlier: Self) -> Self {
        Self { hits: self.hits.saturating_sub(earlier.hits), of: self.of.saturating_sub(earlier.of) }
    }

    /// Whether this cannot be what became of `earlier`.
    const fn is_less_than(self, earlier: Self) -> bool {
        self.hits < earlier.hits || self.of < earlier.of
    }
}

/// Looks at a [`Tally`] that only grows, and says what has come in the last [`WINDOW`].
#[derive(Debug, Clone, Default)]
pub struct Meter {
    /// The looks, the oldest first. At most one of them is older than the window: where the window begins.
    looks: VecDeque<(Stamp, Tally)>,
}

impl Meter {
    /// What has come in the last [`WINDOW`], or since the first look where that is later. Numbers that are smaller than
    /// before are those of something new: the first look is then this one.
    pub fn over(&mut self, total: Tally, now: Stamp) -> Tally {
        if self.looks.back().is_some_and(|(_, last)| total.is_less_than(*last)) {
            self.looks.clear();
        }
        while self.looks.get(1).is_some_and(|(at, _)| now.since(*at) >= WINDOW) {
            self.looks.pop_front();
        }
        if self.looks.back().is_none_or(|(at, _)| now.since(*at) >= SPACING) {
            self.looks.push_back((now, total));
        }
        self.looks.front().map_or(total, |(_, begin)| total.since(*begin))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Stamp {
        Stamp::from_micros(1_000_000 + ms * 1000)
    }

    fn tally(hits: u64, of: u64) -> Tally {
        Tally { hits, of }
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let mut meter = Meter::default();
        assert_eq!(
            meter.over(tally(500, 900), at(0)),
            tally(0, 0),
            "what was before the first look is not known"
        );
        assert_eq!(meter.over(tally(510, 920), at(5_000)), tally(10, 20));
        assert_eq!(meter.over(tally(510, 930), at(10_000)), tally(10, 30));
        assert_eq!(meter.over(tally(510, 940), at(15_000)), tally(0, 20), "since the look at five seconds");
        assert_eq!(meter.over(tally(510, 940), at(60_000)), tally(0, 0));
    }

    #[test]
    fn numbers_that_shrink_are_those_of_something_new() {
        let mut meter = Meter::default();
        meter.over(tally(50, 90), at(0));
        assert_eq!(meter.over(tally(3, 7), at(250)), tally(0, 0));
        assert_eq!(meter.over(tally(5, 17), at(500)), tally(2, 10));
    }

    proptest! {
        #[test]
        fn it_is_the_sum_of_what_came_since_the_look_that_begins_the_window(
            steps in prop::collection::vec((0_u64..700, 0_u64..5, 0_u64..9), 1..400),
        ) {
            let mut meter = Meter::default();
            let (mut now, mut total, mut known) = (0, Tally::default(), Vec::new());
            for (wait, hits, others) in steps {
                now += wait;
                total = tally(total.hits + hits, total.of + hits + others);
                let seen = meter.over(total, at(now));
                known.push((now, total));
                prop_assert!(meter.looks.len() <= 52, "{}", meter.looks.len());
                // Never less than what came within the window; never more than what came in a look before it.
                let within = known.iter().rev().take_while(|(time, _)| now - time < 10_000).last().unwrap();
                let before = known.iter().rev().find(|(time, _)| now - time >= 11_000).unwrap_or(&known[0]);
                let (least, most) = (total.since(within.1), total.since(before.1));
                prop_assert!(seen.of >= least.of && seen.hits >= least.hits, "{seen:?} {least:?}");
                prop_assert!(seen.of <= most.of && seen.hits <= most.hits, "{seen:?} {most:?}");
            }
        }
    }
}
