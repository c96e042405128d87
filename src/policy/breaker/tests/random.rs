use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// A request starts.
    Admit,
    /// One of those on their way ends.
    End(usize, Verdict, Duration),
    /// One is never heard of again.
    Leak(usize),
    Wait(Duration),
    Edit(Box<Settings>, BreakerMode),
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![3 => Just(Verdict::Success), 3 => Just(Verdict::Failure), 1 => Just(Verdict::Neither)]
}

fn settings() -> impl Strategy<Value = Settings> {
    let window = prop_oneof![
        (1_u64..20).prop_map(|seconds| BreakerWindow::Time(Duration::from_secs(seconds))),
        (10_u32..40).prop_map(BreakerWindow::Calls),
    ];
    let slow = prop::option::of(1_u8..=100);
    let rate = prop::option::weighted(0.9, 1_u8..=100);
    (
        rate,
        slow,
        window,
        1_u32..10,
        100_u64..10_000,
        1_u32..10,
        1_u32..6,
        prop_oneof![Just(0_u64), 1_u64..10_000],
    )
        .prop_map(|(rate, slow, window, least, open_for, factor, half_open, ramp)| Settings {
            mode: None,
            failure_rate: rate.map(Percent::whole),
            slow_rate: slow.map(Percent::whole),
            slow_after: Some(Duration::from_millis(50)),
            window,
            min_requests: least,
            open_for: Duration::from_millis(open_for),
            max_open: Duration::from_millis(open_for) * factor,
            half_open,
            ramp: Duration::from_millis(ramp),
        })
}

fn mode() -> impl Strategy<Value = BreakerMode> {
    prop_oneof![
        6 => Just(BreakerMode::Auto),
        2 => Just(BreakerMode::Observe),
        1 => Just(BreakerMode::Open),
        1 => Just(BreakerMode::Closed),
        1 => Just(BreakerMode::Off),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let took = prop_oneof![Just(0_u64), 40_u64..60].prop_map(Duration::from_millis);
    let wait = prop_oneof![4 => Just(0_u64), 4 => 1_u64..200, 3 => 200_u64..12_000, 1 => 12_000_u64..100_000];
    prop_oneof![
        10 => Just(Step::Admit),
        10 => (any::<usize>(), verdict(), took).prop_map(|(which, verdict, took)| Step::End(which, verdict, took)),
        1 => any::<usize>().prop_map(Step::Leak),
        4 => wait.prop_map(|millis| Step::Wait(Duration::from_millis(millis))),
        1 => (settings(), mode()).prop_map(|(settings, mode)| Step::Edit(Box::new(settings), mode)),
    ]
}

/// What is known of a breaker from outside.
struct Watch {
    rig: Rig,
    mode: BreakerMode,
    out: Vec<Permit>,
    /// The machine, as it follows from what was reported, with the number of changes.
    state: State,
    changes: u32,
    /// Probes of this half-open time that are out or were good, and the most that was ever allowed in it.
    probes: Vec<u32>,
    allowed: u32,
}

impl Watch {
    fn note(&mut self, transition: Option<Transition>) {
        let Some(Transition { from, to, .. }) = transition else { return };
        assert_eq!(from, self.state, "no change was lost, and none was told twice");
        assert!(
            matches!(
                (from, to),
                (State::Closed | State::HalfOpen, State::Open)
                    | (State::Open | State::HalfOpen, State::HalfOpen)
                    | (State::HalfOpen, State::Closed)
            ),
            "{from:?} {to:?}"
        );
        self.state = to;
        self.changes += 1;
        self.probes.clear();
        self.allowed = self.rig.settings.half_open;
    }

    fn admit(&mut self) {
        let observes = self.mode == BreakerMode::Observe;
        match self.rig.admit() {
            Ok(permit) => {
                self.note(permit.transition());
                assert_ne!(self.mode, BreakerMode::Open);
                if permit.is_probe() {
                    assert_eq!(self.state, State::HalfOpen);
                    self.probes.push(0);
                    assert!(self.probes.len() <= self.allowed as usize, "{} probes", self.probes.len());
                } else if matches!(self.mode, BreakerMode::Auto) {
                    assert_eq!(self.state, State::Closed);
                }
                assert!(observes || !permit.would_refuse());
                self.out.push(permit);
            }
            Err(refused) => {
                self.note(refused.transition);
                assert!(matches!(self.mode, BreakerMode::Auto | BreakerMode::Open));
                assert!(refused.retry_after <= self.rig.settings.max_open.max(Duration::from_secs(1)));
            }
        }
    }

    fn end(&mut self, which: usize, verdict: Verdict, took: Duration) {
        if self.out.is_empty() {
            return;
        }
        let permit = self.out.swap_remove(which % self.out.len());
        let generation = permit.generation;
        let probe = permit.is_probe();
        let current = generation == self.rig.breaker.now_is().generation();
        let transition = self.rig.end_after(permit, verdict, took);
        assert!(current || transition.is_none(), "late results change nothing");
        self.note(transition);
        if probe && current && verdict == Verdict::Neither && transition.is_none() {
            self.probes.pop();
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Admit => self.admit(),
            Step::End(which, verdict, took) => self.end(which, verdict, took),
            Step::Leak(which) => {
                if !self.out.is_empty() {
                    let which = which % self.out.len();
                    drop(self.out.swap_remove(which));
                }
            }
            Step::Wait(span) => self.rig.wait(span),
            Step::Edit(settings, mode) => {
                self.allowed = self.allowed.max(settings.half_open);
                let before = self.rig.shown();
                let transition = self.rig.edit(mode, |own| *own = *settings);
                self.mode = mode;
                if let Some(Transition { cause, .. }) = transition {
                    assert_eq!(cause, Cause::Interrupted);
                } else if before.state != State::Open {
                    assert_eq!(self.rig.shown().state, before.state, "an edit keeps the state");
                }
                self.note(transition);
            }
        }
        let shown = self.rig.shown();
        assert_eq!(shown.mode, self.mode);
        assert!(shown.failures <= shown.requests && shown.slow <= shown.requests);
        if shown.state != self.state {
            assert_eq!(
                (self.state, shown.state),
                (State::Open, State::HalfOpen),
                "only what waiting does is not told"
            );
        }
        if let (State::Open, Some(until)) = (shown.state, shown.until) {
            assert!(until.since(self.rig.now) <= self.rig.settings.max_open);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_leaves_it_stuck_admits_too_many_probes_or_loses_a_change(
        first in settings(),
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut rig = Rig::new(|settings| *settings = first);
        rig.rng = fastrand::Rng::with_seed(seed);
        let allowed = rig.settings.half_open;
        let mut watch = Watch {
            rig, mode: BreakerMode::Auto, out: Vec::new(), state: State::Closed, changes: 0, probes: Vec::new(), allowed,
        };
        for step in steps {
            watch.step(step);
        }

        // Whatever has been: after the longest waits there are, with an upstream that works, it closes and stays closed.
        let settings = watch.rig.settings.clone();
        watch.step(Step::Edit(Box::new(settings), BreakerMode::Auto));
        watch.out.clear();
        watch.step(Step::Wait(watch.rig.settings.max_open + PROBE_LEASE));
        watch.admit();
        watch.out.clear();
        if watch.state != State::Closed {
            watch.step(Step::Wait(PROBE_LEASE + watch.rig.settings.max_open));
            for _ in 0..watch.rig.settings.half_open {
                watch.admit();
                watch.end(0, Verdict::Success, Duration::ZERO);
            }
        }
        prop_assert_eq!(watch.rig.shown().state, State::Closed);
        watch.step(Step::Wait(watch.rig.settings.ramp.max(Duration::from_secs(20))));
        for _ in 0..20 {
            prop_assert!(watch.rig.admit().is_ok());
        }
        prop_assert_eq!(watch.rig.shown().openings, 0);
    }
}
