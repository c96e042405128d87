use std::time::{Duration, Instant};

use crate::{
    policy::{
        Verdict,
        breaker::State,
        ejection::{Change, Standing},
    },
    snapshot::{
        Registry, compile,
        local::{EndpointStake, LocalUpstream, View},
        tests::{file, listeners},
    },
    telemetry::Metrics,
};

use super::*;

/// One policy after the other, as the publisher puts them in force.
struct Course {
    metrics: Arc<Metrics>,
    registry: Registry,
    now: Arc<Snapshot>,
    at: Stamp,
    rng: fastrand::Rng,
}

impl Course {
    fn of(policy: &str) -> Self {
        let mut course = Self {
            metrics: Metrics::new(1, 1000, "0", "0"),
            registry: Registry::default(),
            now: Arc::default(),
            at: Stamp::of(Instant::now()),
            rng: fastrand::Rng::with_seed(7),
        };
        course.next(policy);
        course
    }

    fn next(&mut self, policy: &str) {
        let file = file(policy);
        let listeners = listeners(&file, &self.metrics);
        let (before, metrics) = (self.now.clone(), &self.metrics);
        let after = compile::compile(
            before.generation + 1,
            &file.policy,
            &before,
            &listeners,
            &mut self.registry,
            metrics,
        );
        let after = after.unwrap();
        settle(&before, &after, self.at);
        self.now = Arc::new(after);
    }

    fn later(&mut self, span: Duration) {
        self.at = self.at.after(span);
    }

    fn app(&self) -> &Arc<Upstream> {
        self.now.upstreams.iter().find(|upstream| upstream.name().as_str() == "app").unwrap()
    }

    /// So many requests of an endpoint fail, while others are good elsewhere: it is not all of them that fail.
    fn fail(&mut self, endpoint: usize, times: usize) -> Option<Change> {
        let (app, now) = (self.app().clone(), self.at);
        let outlier = app.candidates[endpoint].endpoint.outlier();
        let mut last = None;
        for good in app.candidates.iter().map(|candidate| candidate.endpoint.outlier()) {
            if !std::ptr::eq(good, outlier) && good.standing(now) == Standing::In {
                for _ in 0..20 {
                    good.record(&app.among(), good.era(), Verdict::Success, now, &mut self.rng);
                }
            }
        }
        for _ in 0..times {
            let change = outlier.record(&app.among(), outlier.era(), Verdict::Failure, now, &mut self.rng);
            if let Some(change) = change {
                app.endpoint_changed(endpoint, change, now);
                last = Some(change);
            }
        }
        last
    }

    fn standing(&self, endpoint: usize) -> Standing {
        self.app().candidates[endpoint].endpoint.outlier().standing(self.at)
    }

    /// Whether a request now would be a probe, and of whom.
    fn probes(&mut self) -> Option<usize> {
        let view = View::new(self.now.clone());
        let index = self.now.upstreams.iter().position(|upstream| upstream.name().as_str() == "app");
        let local: &LocalUpstream = view.upstream(index.unwrap()).unwrap();
        let picked = local.pick(|| Duration::from_secs(30), self.at, &mut self.rng, || None)?;
        matches!(picked.stake, EndpointStake::Probe(_)).then_some(picked.index)
    }
}

/// `app` with endpoints at these ports with these weights, and these fields.
fn app(endpoints: &[(u16, u32)], more: &str) -> String {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(port, weight)| format!("{{ address: \"127.0.0.1:{port}\", weight: {weight} }}"))
        .collect();
    format!(
        "  upstreams:\n    app: {{ endpoints: [{}]{more} }}\n  routes:\n    all: {{ listener: out, upstream: app }}\n",
        endpoints.join(", ")
    )
}

const FOUR: [(u16, u32); 4] = [(1, 1), (2, 1), (3, 1), (4, 1)];

#[test]
fn who_is_gone_does_not_bring_back_who_is_out() {
    let mut course = Course::of(&app(&FOUR, ""));
    assert!(course.fail(0, 5).is_some() && course.fail(1, 5).is_some());
    assert!(course.fail(2, 5).is_none(), "two of four are enough");
    course.next(&app(&FOUR[1..], ""));
    assert!(matches!(course.standing(0), Standing::Out { .. }), "one of three may be out");
    assert_eq!(course.app().vitals.group.out(), 1);
    course.next(&app(&FOUR[1..2], ""));
    assert_eq!((course.standing(0), course.app().vitals.group.out()), (Standing::In, 0), "never the last");
}

#[test]
fn who_gets_nothing_keeps_nobody_in_and_wants_no_probe() {
    let mut course = Course::of(&app(&FOUR[..3], ""));
    assert!(course.fail(0, 5).is_some());
    course.next(&app(&[(1, 0), (2, 1), (3, 1)], ""));
    course.later(Duration::from_mins(5));
    assert_eq!(course.probes(), None);
    assert!(!course.app().vitals.wants_probe(course.at), "nobody is looked for with each request");
    assert!(course.fail(1, 5).is_some(), "one of two may be out");
    course.next(&app(&FOUR[..3], ""));
    assert_eq!(course.standing(0), Standing::In, "as new");
    assert!(matches!(course.standing(1), Standing::Out { .. }));
}

#[test]
fn an_edit_that_shortens_an_ejection_brings_the_probe_forward() {
    let mut course = Course::of(&app(&FOUR[..2], ", ejection: { base: 1m }"));
    assert!(course.fail(0, 5).is_some());
    course.later(Duration::from_secs(5));
    assert_eq!(course.probes(), None);
    course.next(&app(&FOUR[..2], ", ejection: { base: 1s, max: 1s }"));
    course.later(Duration::from_secs(1));
    assert_eq!(course.probes(), Some(0));
    assert_eq!(course.probes(), None, "one at a time");
}

#[test]
fn a_moment_that_was_forgotten_is_found_again() {
    let mut course = Course::of(&app(&FOUR[..2], ""));
    assert!(course.fail(0, 5).is_some());
    // A request of a snapshot before, which does not know the endpoint.
    course.app().vitals.look_for_probes();
    course.later(Duration::from_mins(1));
    assert_eq!(course.probes(), None);
    course.app().note_probes();
    assert_eq!(course.probes(), Some(0));
}

#[test]
fn slow_starts_begin_where_others_have_work() {
    let mut course = Course::of(&app(&FOUR[..1], ""));
    let since = |course: &Course, index: usize| course.app().candidates[index].endpoint.back_since();
    // The start of a process finds one after the other.
    course.next(&app(&FOUR[..2], ""));
    assert_eq!(since(&course, 1), None);
    drop(course.app().candidates[0].endpoint.begin());
    course.later(Duration::from_secs(1));
    let joined = course.at;
    course.next(&app(&FOUR[..3], ""));
    assert_eq!((since(&course, 0), since(&course, 1), since(&course, 2)), (None, None, Some(joined)));
    course.later(Duration::from_secs(1));
    course.next(&app(&FOUR[..3], ", breaker: { failure_rate: 80% }, min_healthy: 20%"));
    assert_eq!((since(&course, 0), since(&course, 2)), (None, Some(joined)), "an edit begins none");
}

#[test]
fn a_thousand_unrelated_changes_change_nothing() {
    let with = |n: usize| {
        let more = ", breaker: { min_requests: 5, open_for: 1m }";
        let other =
            format!("  upstreams:\n    other{}: {{ endpoints: [127.0.0.1:{}] }}\n", n % 3, 100 + n % 50);
        // Some before it, some after it in order of name.
        let own = if n.is_multiple_of(2) {
            "    aaa: { upstream: app, match: { path: /a } }\n"
        } else {
            "    zzz: { upstream: app, match: { path: /z } }\n"
        };
        format!("{}{own}", app(&FOUR[..3], more).replace("  upstreams:\n", &other))
    };
    let mut course = Course::of(&with(0));
    let (now, first) = (course.at, course.app().clone());
    assert!(course.fail(0, 5).is_some());
    for _ in 0..5 {
        let permit = first.vitals.breaker.admit(now, &mut course.rng).unwrap();
        first.vitals.breaker.end(permit, Verdict::Failure, Duration::ZERO, now, &mut course.rng);
    }
    first.candidates[1].endpoint.latency().sample(Duration::from_millis(7), now, &first.terms);
    let shown = |course: &Course| {
        let app = course.app();
        let endpoints = app.candidates.iter().map(|candidate| {
            let endpoint = &candidate.endpoint;
            let estimate = endpoint.latency().estimate(now, &app.terms);
            let outlier = endpoint.outlier().shown(&app.config.ejection, now);
            format!("{} {estimate:?} {outlier:?} {:?}", endpoint.id(), endpoint.back_since())
        });
        (app.vitals.breaker.shown(now), endpoints.collect::<Vec<_>>(), app.vitals.group.out())
    };
    let before = shown(&course);
    assert_eq!((before.0.state, before.2), (State::Open, 1));
    for n in 1..=1000 {
        course.next(&with(n));
    }
    assert_eq!(shown(&course), before);
    assert!(Arc::ptr_eq(&first.vitals, &course.app().vitals));
}
