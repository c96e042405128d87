use std::time::Duration;

use super::*;
use crate::{
    config::{self, Env, HostFacts, Policy},
    policy::Verdict,
    snapshot::{self, Registry},
    telemetry::Metrics,
};

const INVENTORY: &str = "inventory: { endpoints: [127.0.0.1:1, 127.0.0.1:2] }";

/// One policy after the other, and a clock.
struct Course {
    registry: Registry,
    metrics: Arc<Metrics>,
    snapshot: Snapshot,
    switches: Automatics,
    ms: u64,
    memory: u64,
}

impl Course {
    /// Begins with switches and limits, as a file says them.
    fn of(rules: &str) -> Self {
        let (registry, metrics) = (Registry::default(), Metrics::new(1, 1000, "0", "0"));
        let (snapshot, switches) = (Snapshot::default(), Automatics::default());
        let mut course = Self { registry, metrics, snapshot, switches, ms: 0, memory: 0 };
        course.edit(rules);
        course
    }

    fn edit(&mut self, rules: &str) {
        let text = format!(
            "service: s\nlisteners: {{ in: {{ listen: 127.0.0.1:1 }} }}\npolicy:\n  routes: {{}}\n  upstreams:\n    \
             {INVENTORY}\n    basket: {{ endpoints: [127.0.0.1:3] }}\n{rules}"
        );
        let host = HostFacts { hostname: "h".into(), cpus: 1 };
        let env = Env { vars: &|_| None, host: &host, probe: &|_, _| Ok(()) };
        let loaded = config::load("weir.yaml", text.as_bytes(), &env);
        let policy: Policy = loaded.file.unwrap_or_else(|| panic!("{text}: {:?}", loaded.faults)).policy;
        self.snapshot = snapshot::next(&policy, &self.snapshot, &mut self.registry, &self.metrics).unwrap();
        self.switches.follow(&self.snapshot);
    }

    fn now(&self) -> Stamp {
        Stamp::from_micros(1_000_000 + self.ms * 1000)
    }

    fn switch(&self) -> &Arc<Switch> {
        self.snapshot.switches.iter().find(|switch| switch.name().as_str() == "shield").unwrap()
    }

    fn is_on(&self) -> bool {
        self.switch().automatic.is_on()
    }

    fn inventory(&self) -> &Arc<Upstream> {
        self.snapshot.upstreams.iter().find(|upstream| upstream.name().as_str() == "inventory").unwrap()
    }

    /// So many quarters of a second pass, in each of which this happens.
    fn pass(&mut self, looks: u64, each: impl Fn(&Self)) {
        for _ in 0..looks {
            self.ms += 250;
            each(self);
            let memory = self.memory;
            self.switches.look(|| (memory > 0).then_some(memory), self.now());
        }
    }

    /// Ten results in each quarter of a second, so many of which fail.
    fn results(&mut self, looks: u64, failures: usize) {
        self.pass(looks, |course| {
            for n in 0..10 {
                let verdict = if n < failures { Verdict::Failure } else { Verdict::Success };
                if let Some(watched) = &course.inventory().watched {
                    watched.record(verdict, Duration::from_millis(if n < failures { 300 } else { 3 }));
                }
            }
        });
    }
}

fn shield(state: &str, when: &str) -> String {
    format!("  switches:\n    shield: {{ reject: {{}}, state: {state}, when: {{ {when} }} }}\n")
}

#[test]
fn a_dependency_that_drowns_turns_the_switch_on_and_its_recovery_off() {
    let mut course =
        Course::of(&shield("auto", "signal: failure_rate, of: inventory, above: 50%, for: 2s, hold: 8s"));
    assert!(!course.switches.is_empty());
    course.results(60, 1);
    assert!(!course.is_on());
    // Half of ten seconds has to be bad, and then for two seconds.
    course.results(19, 10);
    assert!(!course.is_on());
    course.results(12, 10);
    assert!(course.is_on());
    let shown = course.switch().automatic.shown();
    let reason = shown.reason.unwrap().to_string();
    assert!(
        reason.starts_with("failure_rate of inventory ") && reason.ends_with("% > 50 % for 2s"),
        "{reason}"
    );
    assert!((course.switch().metrics.state.value() - 1.0).abs() < f64::EPSILON);
    // Its action takes all results away: fewer than twenty are in the window after ten seconds, and then it is held.
    course.pass(39, |_| {});
    assert!(course.is_on());
    course.pass(36, |_| {});
    assert!(!course.is_on());
    let reason = course.switch().automatic.shown().reason.unwrap().to_string();
    assert_eq!(reason, "failure_rate of inventory: fewer than 20 results to go by for 8s");
    assert!(course.switch().metrics.state.value().abs() < f64::EPSILON);
    // It was a trial, and everything drowns again: not before `hold`, though.
    course.results(27, 10);
    assert!(!course.is_on());
    course.results(2, 10);
    assert!(course.is_on());
    // It is well again.
    course.results(80, 0);
    assert!(!course.is_on());
    assert_eq!(course.switch().automatic.shown().changes, 4);
}

#[test]
fn edits_keep_the_state_and_a_hand_ends_it() {
    let when = "signal: failure_rate, of: inventory, above: 50%, for: 2s, hold: 8s";
    let mut course = Course::of(&shield("auto", when));
    course.results(60, 10);
    assert!(course.is_on());
    // Thresholds, patience, and another switch that looks at the same upstream.
    course.edit(&shield("auto", "signal: failure_rate, of: inventory, above: 40%, for: 3s, hold: 9s"));
    assert!(course.is_on());
    let other = "    other: { reject: {}, state: auto, when: { signal: p99, of: inventory, above: 1s } }\n";
    course.edit(&format!("{}{other}", shield("auto", when)));
    assert!(course.is_on());
    course.results(10, 10);
    assert!(course.is_on());
    // Off by hand; and back to auto it begins anew.
    course.edit(&shield("off", when));
    assert!(course.switches.is_empty());
    course.results(10, 10);
    course.edit(&shield("auto", when));
    assert!(!course.is_on());
    assert_eq!(course.switch().automatic.shown().changes, 0);
    course.results(8, 10);
    assert!(!course.is_on());
    course.results(3, 10);
    assert!(course.is_on());
    // On by hand, and back.
    course.edit(&shield("on", when));
    course.edit(&shield("auto", when));
    assert!(!course.is_on());
    // Gone, and there again.
    course.results(20, 10);
    assert!(course.is_on());
    course.edit("");
    course.edit(&shield("auto", when));
    assert!(!course.is_on());
}

#[test]
fn what_was_seen_goes_on_when_another_switch_begins_to_look() {
    let when = "signal: failure_rate, of: inventory, above: 50%, for: 5s";
    let mut course = Course::of(&shield("auto", when));
    course.results(18, 10);
    assert!(!course.is_on());
    let other = "    other: { reject: {}, state: auto, when: { signal: p99, of: inventory, above: 1s } }\n";
    course.edit(&format!("{}{other}", shield("auto", when)));
    course.results(5, 10);
    assert!(course.is_on(), "neither the results nor the time above began anew");
}

#[test]
fn another_subject_begins_its_own_count() {
    let mut course = Course::of(&shield("auto", "signal: in_flight, of: inventory, above: 1, for: 2s"));
    let held: Vec<_> =
        course.inventory().candidates.iter().map(|candidate| candidate.endpoint.begin()).collect();
    course.pass(7, |_| {});
    course.edit(&shield("auto", "signal: in_flight, of: basket, above: 1, for: 2s"));
    course.edit(&shield("auto", "signal: in_flight, of: inventory, above: 1, for: 2s"));
    course.pass(8, |_| {});
    assert!(!course.is_on());
    course.pass(2, |_| {});
    assert!(course.is_on(), "two endpoints have one each");
    drop(held);
    course.pass(1, |_| {});
    assert_eq!(course.switch().automatic.shown().reading, Reading::Level(0));
}

#[test]
fn a_percentile_counts_what_was_slower() {
    let mut course =
        Course::of(&shield("auto", "signal: p99, of: inventory, above: 250ms, for: 1s, hold: 1s"));
    course.results(40, 0);
    assert!(!course.is_on());
    // Five of four hundred are more than a hundredth, and then for a second.
    course.results(12, 1);
    assert!(course.is_on());
    let reason = course.switch().automatic.shown().reason.unwrap().to_string();
    assert!(
        reason.starts_with("p99 of inventory > 250ms (") && reason.ends_with("took longer) for 1s"),
        "{reason}"
    );
    course.results(50, 0);
    assert!(!course.is_on());
}

#[test]
fn a_breaker_that_is_not_closed_is_open() {
    let when = "signal: breaker_open, of: inventory, for: 1s, hold: 1s";
    let mut course = Course::of(&shield("auto", when));
    let mut rng = fastrand::Rng::with_seed(7);
    course.pass(8, |_| {});
    assert!(!course.is_on());
    let fail = |course: &Course, rng: &mut fastrand::Rng| {
        for _ in 0..40 {
            let breaker = &course.inventory().vitals.breaker;
            if let Ok(permit) = breaker.admit(course.now(), rng) {
                breaker.end(permit, Verdict::Failure, Duration::ZERO, course.now(), rng);
            }
        }
    };
    fail(&course, &mut rng);
    course.pass(5, |_| {});
    assert!(course.is_on());
    // It is open for a few seconds, and then half open until somebody tries.
    course.pass(100, |_| {});
    assert_eq!(course.inventory().vitals.breaker.shown(course.now()).state, breaker::State::HalfOpen);
    assert!(course.is_on());
}

#[test]
fn the_modes_of_a_breaker_are_what_they_are_for() {
    for (mode, expected) in
        [("open", true), ("closed", false), ("off", false), ("observe", true), ("auto", true)]
    {
        let breaker = policy_breaker(mode);
        let mut rng = fastrand::Rng::with_seed(7);
        let now = Stamp::from_micros(5_000_000);
        for _ in 0..40 {
            if let Ok(permit) = breaker.admit(now, &mut rng) {
                breaker.end(permit, Verdict::Failure, Duration::ZERO, now, &mut rng);
            }
        }
        assert_eq!(has_not_closed(&breaker, now), expected, "{mode}");
    }
}

fn policy_breaker(mode: &str) -> Breaker {
    let course = Course::of("");
    let mode = match mode {
        "open" => BreakerMode::Open,
        "closed" => BreakerMode::Closed,
        "off" => BreakerMode::Off,
        "observe" => BreakerMode::Observe,
        _ => BreakerMode::Auto,
    };
    Breaker::new(&course.inventory().config.breaker, mode, Stamp::from_micros(1_000_000))
}

#[test]
fn a_limit_that_refuses_much_turns_a_switch_on() {
    let limits = "  limits: { checkout: { rate: 5/s } }\n";
    let when = "signal: refusal_share, of: checkout, above: 20%, for: 1s, hold: 1s";
    let mut course = Course::of(&format!("{limits}{}", shield("auto", when)));
    let decide = |decision: LimitDecision| {
        move |course: &Course| {
            let decisions = &course.snapshot.limits[0].metrics.decisions;
            decisions.of(LimitDecision::Granted).increment(3);
            decisions.of(decision).increment(1);
        }
    };
    course.pass(40, decide(LimitDecision::Granted));
    assert!(!course.is_on());
    course.pass(40, decide(LimitDecision::WouldRefuse));
    assert!(course.is_on(), "a quarter would be refused");
    course.pass(50, decide(LimitDecision::Granted));
    assert!(!course.is_on());
    course.pass(50, decide(LimitDecision::Refused));
    assert!(course.is_on());
}

#[test]
fn memory_is_asked_for_once_and_only_when_somebody_wants_it() {
    let mut course = Course::of(&shield("auto", "signal: memory, above: 64MiB, for: 1s, hold: 1s"));
    course.memory = 60 << 20;
    course.pass(10, |_| {});
    assert!(!course.is_on());
    course.memory = 65 << 20;
    course.pass(5, |_| {});
    assert!(course.is_on());
    course.memory = 0;
    course.pass(5, |_| {});
    assert!(!course.is_on(), "what is not known is not above");
    course.edit(&shield("auto", "signal: in_flight, of: inventory, above: 5"));
    course.switches.look(|| panic!("nobody wants it"), course.now());
}

#[cfg(target_os = "linux")]
#[test]
fn this_process_has_memory() {
    assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
}
