//! What a signal shows at one moment.

use std::fmt::Write;

use super::meter::Tally;
use crate::config::{
    policy::{Signal, When},
    units::{show_duration, show_size},
};

/// With fewer results than this in the window no share is known: two of three are an accident.
pub const MIN_RESULTS: u64 = 20;

/// One slow result alone is no percentile: with few results in the window it would be more than a hundredth of them.
const MIN_SLOW: u64 = 2;

/// What a signal shows at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reading {
    /// It cannot be said: fewer than [`MIN_RESULTS`] in the window, or there is no such thing.
    ///
    /// It counts as not above the threshold. While the switch is off, that is caution. While it is on, the switch may
    /// itself be why there are no results: a refusal in front of an upstream leaves nothing to measure. Waiting for
    /// results would then be waiting for ever; instead it goes off after `hold`, as a trial, and comes back when the
    /// signal does.
    #[default]
    Unknown,
    /// So many of so many: failures, results over the threshold of the percentile, refusals.
    Share(Tally),
    /// A number: requests in flight, bytes.
    Level(u64),
    /// Whether it is so: a breaker that is open.
    Fact(bool),
}

impl Reading {
    /// A share; unknown where it is one of too few.
    pub const fn share(tally: Tally) -> Self {
        if tally.of < MIN_RESULTS { Self::Unknown } else { Self::Share(tally) }
    }

    /// Whether the signal is above its threshold. A reading that is not one of this signal is not.
    pub fn is_above(self, signal: &Signal) -> bool {
        match (self, signal) {
            (Self::Share(tally), Signal::FailureRate(_, above) | Signal::RefusalShare(_, above)) => {
                is_more_than(tally, u64::from(*above))
            }
            // Exact: the 99th percentile is above the threshold when more than a hundredth of the results is.
            (Self::Share(tally), Signal::P99(..)) => tally.hits >= MIN_SLOW && is_more_than(tally, 100),
            (Self::Level(level), Signal::InFlight(_, above)) => level > u64::from(*above),
            (Self::Level(level), Signal::Memory(above)) => level > *above,
            (Self::Fact(is_so), Signal::BreakerOpen(_)) => is_so,
            _ => false,
        }
    }

    /// For people: what is seen against what is allowed, such as `failure_rate of inventory 62 % > 50 %`.
    pub fn describe(self, signal: &Signal) -> String {
        let sign = if self.is_above(signal) { '>' } else { '≤' };
        let mut text = subject(signal);
        // Writing to a string does not fail.
        let _ = match (self, signal) {
            (Self::Share(tally), Signal::FailureRate(_, above) | Signal::RefusalShare(_, above)) => {
                write!(text, " {} % {sign} {} %", percent(share(tally)), percent(f64::from(*above) / 100.0))
            }
            (Self::Share(tally), Signal::P99(_, above)) => {
                let (Tally { hits, of }, above) = (tally, show_duration(*above));
                write!(text, " {sign} {above} ({hits} of {of} results took longer)")
            }
            (Self::Level(level), Signal::InFlight(_, above)) => write!(text, " {level} {sign} {above}"),
            (Self::Level(level), Signal::Memory(above)) => {
                write!(text, " {} {sign} {}", mebibytes(level), show_size(*above))
            }
            (Self::Fact(is_so), Signal::BreakerOpen(_)) => {
                write!(text, " is {}", if is_so { "not closed" } else { "closed" })
            }
            (_, Signal::FailureRate(..) | Signal::P99(..) | Signal::RefusalShare(..)) => {
                write!(text, ": fewer than {MIN_RESULTS} results to go by")
            }
            _ => write!(text, ": not known"),
        };
        text
    }
}

/// What a signal is about, as the file says it.
fn subject(signal: &Signal) -> String {
    match signal {
        Signal::FailureRate(of, _) => format!("failure_rate of {of}"),
        Signal::P99(of, _) => format!("p99 of {of}"),
        Signal::BreakerOpen(of) => format!("breaker of {of}"),
        Signal::InFlight(of, _) => format!("in_flight of {of}"),
        Signal::RefusalShare(of, _) => format!("refusal_share of {of}"),
        Signal::Memory(_) => "memory".to_owned(),
    }
}

/// Whether two signals look at the same thing, whatever their thresholds. Another percentile's threshold is another
/// count: what was slow by one says nothing of the other.
pub fn is_same_subject(one: &When, other: &When) -> bool {
    match (&one.signal, &other.signal) {
        (Signal::P99(one, above), Signal::P99(other, other_above)) => one == other && above == other_above,
        (one, other) => subject(one) == subject(other),
    }
}

/// Whether more than so many hundredths of a percent are hits.
fn is_more_than(tally: Tally, above: u64) -> bool {
    u128::from(tally.hits) * 10_000 > u128::from(tally.of) * u128::from(above)
}

/// In percent. Two counters that are read one after the other may differ by what came in between.
#[expect(clippy::cast_precision_loss, reason = "for people; exact up to 2⁵³")]
fn share(tally: Tally) -> f64 {
    (tally.hits as f64 / tally.of.max(1) as f64 * 100.0).min(100.0)
}

/// Whole above ten, so that it is read at a glance; with what is needed to tell small ones apart below.
fn percent(percent: f64) -> String {
    let digits = if percent >= 10.0 { 1 } else { 2 };
    let text = format!("{percent:.digits$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Rounded down: nobody reads bytes.
fn mebibytes(bytes: u64) -> String {
    format!("{}MiB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Name;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn tally(hits: u64, of: u64) -> Tally {
        Tally { hits, of }
    }

    #[test]
    fn a_share_of_too_few_is_not_known() {
        let rate = Signal::FailureRate(name("inventory"), 5000);
        assert_eq!(Reading::share(tally(19, 19)), Reading::Unknown);
        assert!(!Reading::Unknown.is_above(&rate));
        assert!(Reading::share(tally(20, 20)).is_above(&rate));
    }

    #[test]
    fn thresholds_are_exact_and_not_above_themselves() {
        let rate = Signal::FailureRate(name("inventory"), 3333);
        assert!(!Reading::share(tally(3333, 10_000)).is_above(&rate));
        assert!(Reading::share(tally(3334, 10_000)).is_above(&rate));
        let slow = Signal::P99(name("inventory"), Duration::from_millis(250));
        assert!(!Reading::share(tally(10, 1000)).is_above(&slow));
        assert!(Reading::share(tally(11, 1000)).is_above(&slow));
        assert!(!Reading::share(tally(1, 20)).is_above(&slow), "one slow result is no percentile");
        assert!(Reading::share(tally(2, 20)).is_above(&slow));
        let refused = Signal::RefusalShare(name("checkout"), 0);
        assert!(!Reading::share(tally(0, 40)).is_above(&refused));
        assert!(Reading::share(tally(1, 40)).is_above(&refused));
        assert!(!Reading::Level(100).is_above(&Signal::InFlight(name("inventory"), 100)));
        assert!(Reading::Level(101).is_above(&Signal::InFlight(name("inventory"), 100)));
        assert!(Reading::Level(1025).is_above(&Signal::Memory(1024)));
        assert!(Reading::Fact(true).is_above(&Signal::BreakerOpen(name("inventory"))));
        // The largest numbers that there are.
        assert!(Reading::Share(tally(u64::MAX, u64::MAX)).is_above(&rate));
    }

    #[test]
    fn a_reading_of_another_signal_says_nothing() {
        let signals = [
            Signal::FailureRate(name("a"), 0),
            Signal::P99(name("a"), Duration::ZERO),
            Signal::BreakerOpen(name("a")),
            Signal::InFlight(name("a"), 0),
            Signal::RefusalShare(name("a"), 0),
            Signal::Memory(0),
        ];
        let readings =
            [Reading::Share(tally(99, 99)), Reading::Level(99), Reading::Fact(true), Reading::Unknown];
        let above: Vec<Vec<bool>> = readings
            .iter()
            .map(|reading| signals.iter().map(|signal| reading.is_above(signal)).collect())
            .collect();
        assert_eq!(
            above,
            [
                [true, true, false, false, true, false],
                [false, false, false, true, false, true],
                [false, false, true, false, false, false],
                [false; 6],
            ]
        );
    }

    #[test]
    fn it_says_what_it_sees() {
        let rate = Signal::FailureRate(name("inventory"), 5000);
        let said = [
            Reading::share(tally(62, 100)).describe(&rate),
            Reading::share(tally(1, 300)).describe(&rate),
            Reading::Unknown.describe(&rate),
            Reading::share(tally(14, 500))
                .describe(&Signal::P99(name("inventory"), Duration::from_millis(250))),
            Reading::Fact(true).describe(&Signal::BreakerOpen(name("inventory"))),
            Reading::Fact(false).describe(&Signal::BreakerOpen(name("inventory"))),
            Reading::Level(130).describe(&Signal::InFlight(name("inventory"), 100)),
            Reading::share(tally(25, 200)).describe(&Signal::RefusalShare(name("checkout"), 1000)),
            Reading::Level(80 << 20).describe(&Signal::Memory(64 << 20)),
            Reading::Unknown.describe(&Signal::Memory(64 << 20)),
        ];
        assert_eq!(
            said,
            [
                "failure_rate of inventory 62 % > 50 %",
                "failure_rate of inventory 0.33 % ≤ 50 %",
                "failure_rate of inventory: fewer than 20 results to go by",
                "p99 of inventory > 250ms (14 of 500 results took longer)",
                "breaker of inventory is not closed",
                "breaker of inventory is closed",
                "in_flight of inventory 130 > 100",
                "refusal_share of checkout 12.5 % > 10 %",
                "memory 80MiB > 64MiB",
                "memory: not known",
            ]
        );
    }
}
