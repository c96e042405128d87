//! Fallbacks never lead back to where they began.

use proptest::prelude::*;

use super::*;
use crate::config::policy::{BreakerMode, EjectionState, Fallback};

/// Four upstreams without fallbacks, and a plan.
const FOUR: &str = "\
service: orders
listeners: { inbound: { listen: 0.0.0.0:8080 } }
policy:
  upstreams:
    a: { endpoints: [h:1] }
    b: { endpoints: [h:2] }
    c: { endpoints: [h:3] }
    d: { endpoints: [h:4] }
  routes:
    in: { upstream: a }
  plans:
    p: { upstreams: { c: { fallback: { upstream: a } } } }
";

fn to(upstream: &str) -> String {
    format!("{{fallback: {{upstream: {upstream}}}}}")
}

impl Effective {
    /// Where an upstream falls back to.
    fn falls_back(&self, upstream: &str) -> Option<&str> {
        match self.policy.upstreams.get(&name(upstream))?.fallback.as_ref()? {
            Fallback::Upstream(name) => Some(name.as_str()),
            Fallback::Respond(_) => None,
        }
    }
}

/// Whether somebody comes back to itself.
fn is_round(policy: &Policy) -> bool {
    let next = |name: &Name| match policy.upstreams.get(name)?.fallback.as_ref()? {
        Fallback::Upstream(name) => Some(name.clone()),
        Fallback::Respond(_) => None,
    };
    policy.upstreams.keys().any(|start| {
        let way = std::iter::successors(next(start), next).take(policy.upstreams.len());
        way.into_iter().any(|name| name == *start)
    })
}

#[test]
fn the_newest_overlay_of_a_circle_is_refused() {
    let mut layers = layers(FOUR);
    layers.set("orders/upstreams/a", &to("b"), 1).fine();
    layers.set("orders/upstreams/b", &to("c"), 2).fine();
    let done = layers.set("orders/upstreams/c", &to("a"), 3);
    let reasons = done.reasons();
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert_eq!((reasons[0].0, reasons[0].1), ("orders/upstreams/c", None));
    let why = "fallback.upstream: a circle of fallbacks: a → b → c → a (line 1, column 23); one of them";
    assert!(reasons[0].2.starts_with(why), "{reasons:?}");
    assert_eq!(
        (done.falls_back("a"), done.falls_back("b"), done.falls_back("c")),
        (Some("b"), Some("c"), None)
    );
    // It comes into force when another one opens the circle.
    let done = layers.unset("orders/upstreams/b", 4);
    assert_eq!((done.fine().falls_back("b"), done.falls_back("c")), (None, Some("a")));
}

#[test]
fn what_was_good_before_the_circle_stays() {
    let mut layers = layers(FOUR);
    layers.set("orders/upstreams/a", &to("b"), 1);
    layers.set("orders/upstreams/b", &to("d"), 2).fine();
    let done = layers.set("orders/upstreams/b", &to("a"), 3);
    assert_eq!(done.falls_back("b"), Some("d"));
    let reasons = done.reasons();
    assert_eq!(
        (reasons.len(), reasons[0].0, reasons[0].1),
        (1, "orders/upstreams/b", Some(2)),
        "{reasons:?}"
    );
}

#[test]
fn of_a_whole_read_the_newest_is_refused_too() {
    let mut layers = layers(FOUR);
    let done = layers.take(&[
        put("_all/upstreams/a", &to("b"), 9),
        put("orders/upstreams/b", &to("a"), 8),
        put("orders/upstreams/c", &to("d"), 7),
        put("orders/upstreams/d", &to("c"), 6),
    ]);
    let refused: Vec<_> = done.reasons().iter().map(|(key, ..)| (*key).to_owned()).collect();
    assert_eq!(refused, ["_all/upstreams/a", "orders/upstreams/c"]);
    assert_eq!((done.falls_back("b"), done.falls_back("d")), (Some("a"), Some("c")));
}

#[test]
fn itself_is_the_smallest_circle() {
    let done = layers(FOUR).set("orders/upstreams/a", &to("a"), 1);
    assert!(done.reasons()[0].2.contains("a circle of fallbacks: a → a"), "{:?}", done.reasons());
    assert_eq!(done.falls_back("a"), None);
}

#[test]
fn a_plan_that_would_close_a_circle_stays_off() {
    let mut layers = layers(FOUR);
    layers.set("orders/upstreams/a", &to("c"), 1).fine();
    let done = layers.set("orders/plans/p", "on", 2);
    let reasons = done.reasons();
    assert_eq!((reasons.len(), reasons[0].0), (1, "orders/plans/p"), "{reasons:?}");
    assert!(reasons[0].2.contains("a circle of fallbacks: a → c → a"), "{reasons:?}");
    assert_eq!((done.falls_back("c"), done.policy.plans[&name("p")].on), (None, false));
    let done = layers.unset("orders/upstreams/a", 3);
    assert_eq!(done.fine().falls_back("c"), Some("a"));
}

#[test]
fn a_fallback_that_leads_nowhere_is_refused() {
    let mut layers = layers(FOUR);
    let done = layers.set("orders/upstreams/a", &to("nope"), 1);
    assert!(done.reasons()[0].2.contains("no upstream `nope`"), "{:?}", done.reasons());
    // Also one that loses what it leads to.
    let mut layers = super::layers(FOUR);
    layers.set("orders/upstreams/x", "{endpoints: [h:9]}", 1);
    layers.set("orders/routes/in", &to("x"), 2).fine();
    let done = layers.unset("orders/upstreams/x", 3);
    assert!(done.reasons()[0].2.contains("the removal is held back"), "{:?}", done.reasons());
}

#[test]
fn short_forms_of_blocks_merge_with_the_full_ones_below() {
    let file = FILE.replace(
        "pool: { max_pending: 7 }",
        "ejection: { consecutive: 7 }, breaker: { min_requests: 9 }, slow_start: { from: 5% }, health: { http: /z }",
    );
    let mut layers = layers(&file);
    let text = "{ejection: observe, breaker: open, slow_start: 0, health: {tcp: true}}";
    let done = layers.set("orders/upstreams/app", text, 1);
    let app = &done.fine().policy.upstreams[&name("app")];
    assert_eq!((app.ejection.state, app.ejection.consecutive), (EjectionState::Observe, 7));
    assert_eq!((app.breaker.mode, app.breaker.min_requests), (Some(BreakerMode::Open), 9));
    assert!(app.slow_start.window.is_zero() && app.slow_start.from.points() == 500);
    assert_eq!(
        layers.documents().to_json()["upstreams"]["app"]["document"]["breaker"],
        json!({ "min_requests": 9, "mode": "open" })
    );
    // A null takes back what the file says; taking the overlay back restores it.
    let done =
        layers.set("orders/upstreams/app", "{breaker: null, health: null, ejection: {consecutive: null}}", 2);
    let app = &done.fine().policy.upstreams[&name("app")];
    assert_eq!((app.breaker.min_requests, app.ejection.consecutive, &app.health), (20, 5, &None));
    let app = &layers.unset("orders/upstreams/app", 3).policy.upstreams[&name("app")];
    assert_eq!((app.breaker.min_requests, app.ejection.consecutive, app.health.is_some()), (9, 7, true));
}

#[test]
fn plans_patch_by_short_forms_too() {
    let file =
        FILE.replace("      limits: { checkout: 2000/s }", "      upstreams: { app: { breaker: open } }");
    let mut layers = layers(&file.replace("pool: { max_pending: 7 }", "breaker: { min_requests: 9 }"));
    let app = &layers.set("orders/plans/sale", "on", 1).policy.upstreams[&name("app")];
    assert_eq!((app.breaker.mode, app.breaker.min_requests), (Some(BreakerMode::Open), 9));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Over a file without fallbacks, each upstream written once: all are accepted exactly where there is no circle.
    #[test]
    fn fallbacks_are_accepted_exactly_when_there_is_no_circle(edges in prop::collection::vec(prop::option::of(0..4usize), 4)) {
        let names = ["a", "b", "c", "d"];
        let put = |(at, edge): (usize, &Option<usize>)| {
            edge.map(|edge| put(&format!("orders/upstreams/{}", names[at]), &to(names[edge]), i64::try_from(at).unwrap() + 1))
        };
        let changes: Vec<_> = edges.iter().enumerate().filter_map(put).collect();
        let comes_back = |start: usize| {
            let way = std::iter::successors(edges[start], |at| edges[*at]).take(4);
            way.into_iter().any(|at| at == start)
        };
        let mut layers = layers(FOUR);
        let done = layers.take(&changes);
        prop_assert_eq!(done.refused.is_empty(), !(0..4).any(comes_back), "{:?}", done.refused);
        prop_assert!(!is_round(&done.policy));
    }

    /// Whatever comes, in whatever pieces: nothing in force goes round, and nothing is kept that is gone.
    #[test]
    fn nothing_in_force_ever_goes_round(
        list in prop::collection::vec((0..3usize, 0..5usize, prop::option::of(0..5usize), any::<bool>()), 1..30),
        step in 1..4usize,
    ) {
        let change = |(n, (scope, at, edge, plan)): (usize, &(usize, usize, Option<usize>, bool))| {
            let scope = ["_all", "orders", "orders@pod-1"][*scope];
            let revision = i64::try_from(n).unwrap() + 1;
            if *plan && *at == 4 {
                return Change {
                    key: Arc::from(format!("{scope}/plans/p")),
                    value: edge.map(|edge| Bytes::from(if edge > 1 { "on" } else { "off" })),
                    revision,
                };
            }
            let of = |at: usize| ["a", "b", "c", "d", "x"][at];
            let extra = if *at == 4 { "endpoints: [h:9], " } else { "" };
            Change {
                key: Arc::from(format!("{scope}/upstreams/{}", of(*at))),
                value: edge.map(|edge| Bytes::from(format!("{{{extra}fallback: {{upstream: {}}}}}", of(edge)))),
                revision,
            }
        };
        let changes: Vec<_> = list.iter().enumerate().map(change).collect();
        let mut layers = layers(FOUR);
        for piece in changes.chunks(step) {
            let policy = layers.take(piece).policy;
            prop_assert!(!is_round(&policy), "{:?}", policy.upstreams);
            for upstream in policy.upstreams.values() {
                if let Some(Fallback::Upstream(name)) = &upstream.fallback {
                    prop_assert!(policy.upstreams.contains_key(name));
                }
            }
            prop_assert!(["a", "b", "c", "d"].iter().all(|it| policy.upstreams.contains_key(&name(it))));
        }
        layers.read(&Content { cluster: 1, revision: 100, items: Vec::new() }, world(100));
        prop_assert_eq!(told(&layers), told(&super::layers(FOUR)));
        prop_assert!(layers.slots.is_empty() && layers.trouble.is_empty());
    }
}
