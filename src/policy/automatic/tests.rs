use proptest::prelude::*;

use super::*;
use crate::config::{Env, HostFacts, load};

const HALF: u16 = 5000;

fn at(ms: u64) -> Stamp {
    Stamp::from_micros(1_000_000 + ms * 1000)
}

fn failures(after: u64, hold: u64) -> When {
    When {
        signal: Signal::FailureRate(Name::new("inventory").unwrap(), HALF),
        after: Duration::from_millis(after),
        hold: Duration::from_millis(hold),
    }
}

fn storm() -> Reading {
    Reading::share(Tally { hits: 62, of: 100 })
}

fn calm() -> Reading {
    Reading::share(Tally { hits: 3, of: 100 })
}

/// Looks four times a second, and says when what changed.
fn run(
    automatic: &mut Automatic,
    when: &When,
    readings: impl Iterator<Item = (u64, Reading)>,
) -> Vec<(u64, bool)> {
    readings
        .filter_map(|(ms, reading)| automatic.observe(when, reading, at(ms)).map(|change| (ms, change.on)))
        .collect()
}

fn from_to(from: u64, to: u64, reading: Reading) -> impl Iterator<Item = (u64, Reading)> {
    (from..to).step_by(250).map(move |ms| (ms, reading))
}

#[test]
fn it_is_on_after_for_and_off_after_hold_and_says_why() {
    let (when, mut automatic) = (failures(5000, 30_000), Automatic::default());
    for ms in (0..5000).step_by(250) {
        assert_eq!(automatic.observe(&when, storm(), at(ms)), None, "{ms}");
        assert!(!automatic.is_on());
    }
    let on = automatic.observe(&when, storm(), at(5000)).unwrap();
    assert_eq!(on, Change { on: true, reason: "failure_rate of inventory 62 % > 50 % for 5s".to_owned() });
    assert!(automatic.is_on());
    assert_eq!(run(&mut automatic, &when, from_to(5250, 35_250, calm())), []);
    assert!(automatic.is_on());
    let off = automatic.observe(&when, calm(), at(35_250)).unwrap();
    assert_eq!(off, Change { on: false, reason: "failure_rate of inventory 3 % ≤ 50 % for 30s".to_owned() });
    assert!(!automatic.is_on());
}

#[test]
fn a_signal_that_flickers_begins_anew() {
    let (when, mut automatic) = (failures(5000, 30_000), Automatic::default());
    // Above for four and a half seconds, back for a moment, over and over.
    let flicker =
        (0..200_000_u64).step_by(250).map(|ms| (ms, if ms % 4750 == 4500 { calm() } else { storm() }));
    assert_eq!(run(&mut automatic, &when, flicker), []);
    // The same when it is on.
    let mut automatic = Automatic { on: true, ..Automatic::default() };
    let flicker =
        (0..200_000_u64).step_by(250).map(|ms| (ms, if ms % 29_750 == 29_500 { storm() } else { calm() }));
    assert_eq!(run(&mut automatic, &when, flicker), []);
}

#[test]
fn too_little_to_say_is_not_above_and_is_back() {
    let (when, mut automatic) = (failures(1000, 4000), Automatic::default());
    assert_eq!(run(&mut automatic, &when, from_to(0, 60_000, Reading::Unknown)), []);
    let broken = from_to(60_000, 60_750, storm()).chain(from_to(60_750, 61_000, Reading::Unknown));
    assert_eq!(run(&mut automatic, &when, broken.chain(from_to(61_000, 61_500, storm()))), []);
    let mut automatic = Automatic { on: true, ..Automatic::default() };
    assert_eq!(run(&mut automatic, &when, from_to(0, 60_000, Reading::Unknown)), [(4000, false)]);
}

/// A refusal in front of the upstream: nothing is known for as long as the switch is on. Coming back is a trial.
#[test]
fn a_switch_that_takes_its_own_signal_away_tries_again_after_hold() {
    let (when, mut automatic) = (failures(1000, 4000), Automatic::default());
    let mut changes = Vec::new();
    for ms in (0..30_000).step_by(250) {
        // It drowns until second 17, and is well afterwards.
        let reading = match (automatic.is_on(), ms < 17_000) {
            (true, _) => Reading::Unknown,
            (false, true) => storm(),
            (false, false) => calm(),
        };
        changes.extend(automatic.observe(&when, reading, at(ms)).map(|change| (ms, change.on)));
    }
    assert_eq!(changes, [(1000, true), (5250, false), (9250, true), (13_500, false)]);
}

#[test]
fn an_edit_of_the_thresholds_keeps_the_state_and_the_count() {
    let (mut when, mut automatic) = (failures(5000, 30_000), Automatic::default());
    assert_eq!(run(&mut automatic, &when, from_to(0, 4000, storm())), []);
    when.after = Duration::from_secs(4);
    assert_eq!(run(&mut automatic, &when, from_to(4000, 4250, storm())), [(4000, true)]);
    // Above at last.
    when.signal = Signal::FailureRate(Name::new("inventory").unwrap(), 7000);
    assert_eq!(
        run(&mut automatic, &when, from_to(4250, 20_000, storm())),
        [],
        "62 % are back, but not for long enough"
    );
    assert!(automatic.is_on());
    when.hold = Duration::from_secs(20);
    assert_eq!(run(&mut automatic, &when, from_to(20_000, 30_000, storm())), [(24_250, false)]);
}

#[test]
fn another_signal_begins_its_own_count() {
    let (when, mut automatic) = (failures(5000, 30_000), Automatic::default());
    assert_eq!(run(&mut automatic, &when, from_to(0, 4000, storm())), []);
    automatic.watch_anew();
    assert_eq!(run(&mut automatic, &when, from_to(4000, 10_000, storm())), [(9000, true)]);
    automatic.watch_anew();
    assert!(automatic.is_on(), "the state stays");
}

#[test]
fn a_percentile_of_another_threshold_is_another_subject() {
    let p99 = |of: &str, ms| When {
        signal: Signal::P99(Name::new(of).unwrap(), Duration::from_millis(ms)),
        ..failures(1000, 1000)
    };
    let rate = |points| When {
        signal: Signal::FailureRate(Name::new("inventory").unwrap(), points),
        ..failures(1000, 1000)
    };
    assert!(is_same_subject(&rate(10), &rate(5000)));
    assert!(!is_same_subject(&p99("inventory", 10), &p99("inventory", 20)));
    assert!(!is_same_subject(&p99("inventory", 10), &p99("basket", 10)));
    assert!(!is_same_subject(&rate(10), &p99("inventory", 10)));
    assert!(is_same_subject(&p99("inventory", 10), &p99("inventory", 10)));
}

#[test]
fn what_has_to_be_counted_is_what_automatic_switches_look_at() {
    let text = "
service: orders
listeners: { inbound: { listen: 127.0.0.1:8080 } }
policy:
  upstreams:
    a: { endpoints: [127.0.0.1:1] }
    b: { endpoints: [127.0.0.1:2] }
    c: { endpoints: [127.0.0.1:3] }
  switches:
    s1: { reject: {}, state: auto, when: { signal: p99, of: a, above: 2s } }
    s2: { reject: {}, state: auto, when: { signal: p99, of: a, above: 250ms } }
    s3: { reject: {}, state: auto, when: { signal: p99, of: a, above: 2s } }
    s4: { reject: {}, state: auto, when: { signal: failure_rate, of: b, above: 50% } }
    s5: { reject: {}, state: auto, when: { signal: in_flight, of: c, above: 50 } }
    s6: { reject: {}, state: on, when: { signal: failure_rate, of: c, above: 50% } }
";
    let host = HostFacts { cpus: 2, hostname: "h".to_owned() };
    let env = Env { vars: &|_| None, host: &host, probe: &|_, _| Ok(()) };
    let file = load("weir.yaml", text.as_bytes(), &env).file.unwrap();
    let watched = watched(&file.policy);
    let shown: Vec<_> =
        watched.iter().map(|(name, thresholds)| (name.as_str(), thresholds.clone())).collect();
    let expected = [("a", vec![Duration::from_millis(250), Duration::from_secs(2)]), ("b", vec![])];
    assert_eq!(shown, expected);
}

/// What is seen for how many quarters of a second.
fn weather() -> impl Strategy<Value = Vec<(Reading, u64)>> {
    let reading = prop_oneof![Just(storm()), Just(calm()), Just(Reading::Unknown)];
    prop::collection::vec((reading, 1_u64..60), 0..60)
}

proptest! {
    #[test]
    fn it_never_flaps_and_is_on_only_after_for(
        weather in weather(),
        after in 0_u64..12_000,
        hold in 0_u64..40_000,
        gap in 50_u64..900,
    ) {
        let (when, mut automatic) = (failures(after, hold), Automatic::default());
        let (mut ms, mut last, mut above_since, mut back_since) = (0, None, None, None);
        for (reading, looks) in weather {
            for _ in 0..looks {
                ms += gap;
                if reading == storm() {
                    above_since.get_or_insert(ms);
                    back_since = None;
                } else {
                    back_since.get_or_insert(ms);
                    above_since = None;
                }
                let Some(change) = automatic.observe(&when, reading, at(ms)) else { continue };
                prop_assert_eq!(change.on, automatic.is_on());
                prop_assert!(last.is_none_or(|last| ms - last >= hold), "{last:?} {ms}");
                let (since, patience) = if change.on { (above_since, after) } else { (back_since, hold) };
                prop_assert!(since.is_some_and(|since| ms - since >= patience), "{since:?} {ms}");
                last = Some(ms);
            }
        }
    }

    #[test]
    fn a_long_calm_ends_off_and_a_long_storm_ends_on(
        weather in weather(),
        after in 0_u64..12_000,
        hold in 0_u64..40_000,
        end in prop_oneof![Just(storm()), Just(calm()), Just(Reading::Unknown)],
    ) {
        let (when, mut automatic) = (failures(after, hold), Automatic::default());
        let mut ms = 0;
        // Long enough: both patiences, and a rest.
        let looks = (after + 2 * hold) / 250 + 3;
        for (reading, looks) in weather.into_iter().chain([(end, looks)]) {
            for _ in 0..looks {
                ms += 250;
                automatic.observe(&when, reading, at(ms));
            }
        }
        prop_assert_eq!(automatic.is_on(), end == storm());
    }
}
