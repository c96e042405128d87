//! How the demo ended: the last words and the exit code. Pure.

use std::{fmt::Write as _, time::Duration};

use super::{
    figures::{Totals, failed_attempts, share, sum},
    tally::{Tally, as_f64},
    text::{bytes, clock, ms, percent},
};

/// Fine.
const FINE: u8 = 0;
/// The answer is no.
const NO: u8 = 1;
/// A service that was needed is not there.
pub(super) const UNAVAILABLE: u8 = 69;

/// Why the demo ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Its time was over.
    Time,
    /// Somebody ended it, or its output was closed.
    Interrupted,
    /// Weir did not come back.
    Lost,
}

/// What is known at the end.
#[derive(Debug)]
pub(super) struct Summary<'a> {
    /// Why it ended.
    pub(super) ending: Ending,
    /// How long the load ran.
    pub(super) elapsed: Duration,
    /// What the callers saw.
    pub(super) tally: &'a Tally,
    /// What Weir said.
    pub(super) totals: &'a Totals,
    /// How Weir ended: whether it was fine, in words, and how long it took. `None` when it was not running.
    pub(super) weir: Option<(bool, String, Duration)>,
}

impl Summary<'_> {
    /// 0 when all went as it should; 1 when the time is over and nobody got a good answer, or Weir did not end in
    /// order; 69 when Weir was lost.
    pub(super) fn exit_code(&self) -> u8 {
        let unclean = self.weir.as_ref().is_some_and(|(fine, ..)| !fine);
        match self.ending {
            Ending::Lost => UNAVAILABLE,
            Ending::Time if self.tally.good() == 0 => NO,
            Ending::Time | Ending::Interrupted if unclean => NO,
            Ending::Time | Ending::Interrupted => FINE,
        }
    }

    /// The last words.
    pub(super) fn text(&self) -> String {
        let (tally, totals) = (self.tally, self.totals);
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _infallible = self.write(&mut text, tally, totals);
        text
    }

    fn write(&self, text: &mut String, tally: &Tally, totals: &Totals) -> std::fmt::Result {
        let total = as_f64(tally.total());
        writeln!(text, "After {}: {} calls.", clock(self.elapsed), tally.total())?;
        writeln!(
            text,
            "  callers  {} good ({}), {} errors of the shop, {} answers by Weir,\n           {} without an answer; p50 {}, p99 {}",
            tally.shop_good(),
            percent(share(as_f64(tally.good()), total), 1),
            tally.shop_bad(),
            tally.made_good + tally.made_bad,
            tally.silent,
            ms(tally.latency.quantile(0.5)),
            ms(tally.latency.quantile(0.99)),
        )?;
        let shares = tally.instances.iter().map(|(name, seen)| {
            let errors = percent(share(as_f64(seen.bad), as_f64(seen.total())), 1);
            format!("{name} {} (errors {errors})", percent(share(as_f64(seen.total()), total), 0))
        });
        writeln!(text, "  shop     {}", listed(shares))?;
        let requests = sum(totals.routes.values());
        let attempts = sum(totals.attempts.values());
        writeln!(
            text,
            "  Weir     {requests:.0} requests, {attempts:.0} attempts of which {:.0} failed\n  routes   {}",
            failed_attempts(&totals.attempts),
            listed(totals.routes.iter().map(|(route, n)| format!("{} {n:.0}", named(route)))),
        )?;
        let made = totals.made.iter().filter(|(_, n)| **n > 0.0);
        writeln!(
            text,
            "           answered by itself: {}",
            listed(made.map(|(reason, n)| format!("{reason} {n:.0}")))
        )?;
        let each = if requests > 0.0 { totals.cpu / requests * 1e6 } else { 0.0 };
        writeln!(
            text,
            "           CPU {:.2} s, {each:.0} µs a request{}; memory at most {}",
            totals.cpu,
            // An unoptimised build costs many times as much: nobody should take its figure for Weir's.
            if cfg!(debug_assertions) { " (a debug build)" } else { "" },
            bytes(totals.memory)
        )?;
        match &self.weir {
            Some((_, how, took)) => {
                write!(text, "           ended with {how} after {:.1} s", took.as_secs_f64())
            }
            None => write!(text, "           was not running at the end"),
        }
    }
}

fn named(route: &str) -> &str {
    if route.is_empty() { "no route" } else { route }
}

fn listed(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() { "nothing".to_owned() } else { items.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::{super::tally::Outcome, *};

    fn tally(good: u32, refused: u32) -> Tally {
        let mut tally = Tally::default();
        for _ in 0..good {
            tally.record(&Outcome::FromShop { instance: "a".into(), bad: false }, Duration::from_millis(4));
        }
        for _ in 0..refused {
            tally.record(&Outcome::FromWeir { bad: true }, Duration::from_millis(1));
        }
        tally
    }

    fn summary<'a>(ending: Ending, tally: &'a Tally, totals: &'a Totals, weir: Option<bool>) -> Summary<'a> {
        let weir = weir.map(|fine| (fine, "exit code 0".to_owned(), Duration::from_millis(1100)));
        Summary { ending, elapsed: Duration::from_secs(20), tally, totals, weir }
    }

    #[test]
    fn exit_codes() {
        let (some, none, totals) = (tally(9, 1), tally(0, 5), Totals::default());
        for (ending, tally, weir, code) in [
            (Ending::Time, &some, Some(true), 0),
            (Ending::Interrupted, &some, Some(true), 0),
            (Ending::Interrupted, &none, None, 0),
            (Ending::Time, &none, Some(true), 1),
            (Ending::Time, &some, Some(false), 1),
            (Ending::Lost, &some, None, 69),
        ] {
            assert_eq!(summary(ending, tally, &totals, weir).exit_code(), code, "{ending:?} {weir:?}");
        }
    }

    #[test]
    fn nothing_is_zero_and_not_minus_zero() {
        let text = summary(Ending::Lost, &Tally::default(), &Totals::default(), None).text();
        assert!(text.contains("0 requests, 0 attempts of which 0 failed") && !text.contains("-0"), "{text}");
    }

    #[test]
    fn the_last_words_say_what_happened() {
        let tally = tally(90, 10);
        let totals = Totals {
            routes: [("page".into(), 99.0), (String::new(), 1.0)].into(),
            made: [("connect_refused".into(), 10.0), ("no_route".into(), 0.0)].into(),
            attempts: [("success".into(), 90.0), ("connect_error".into(), 10.0)].into(),
            cpu: 0.005,
            memory: 1024.0 * 1024.0 * 12.5,
        };
        let text = summary(Ending::Time, &tally, &totals, Some(true)).text();
        for words in [
            "After 20s: 100 calls.",
            "90 good (90.0 %), 0 errors of the shop, 10 answers by Weir,\n           0 without an answer",
            "100 requests, 100 attempts of which 10 failed\n  routes   no route 1, page 99\n",
            "answered by itself: connect_refused 10\n",
            "50 µs a request",
            "12.5 MiB",
            "a 90 % (errors 0.0 %)",
            "exit code 0 after 1.1 s",
        ] {
            assert!(text.contains(words), "{words} is missing:\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
