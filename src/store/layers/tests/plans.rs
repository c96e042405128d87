//! Plans: on and off leave nothing behind, what they mask is said, and so is where two of them disagree.

use super::*;

/// Ten changes.
const BIG: &str = "\
service: orders
listeners: { inbound: { listen: 0.0.0.0:8080 } }
policy:
  upstreams:
    app: { endpoints: [127.0.0.1:3000], pool: { max_pending: 7 } }
    inventory: { endpoints: [10.0.0.1:80], health: { http: /healthz } }
    search: { endpoints: [10.0.0.2:80] }
  routes:
    in: { listener: inbound, upstream: app }
    stock: { match: { path: /stock/* }, upstream: inventory }
    find: { match: { path: /find }, upstream: search }
  limits:
    checkout: { match: { path: /checkout }, rate: 500/s, burst: 100 }
    find: { match: { route: find }, rate: 50/s }
    all: { rate: 9000/s }
  switches:
    degrade: { match: { route: stock }, respond: { json: { items: [] } } }
    slow: { delay: { p50: 5ms } }
    tell: { annotate: { x-degrade: all } }
    last: { reject: {} }
  plans:
    other:
      limits: { all: 8000/s }
      switches: { last: observe }
    sale:
      switches: { degrade: 25%, slow: { state: on, reject: { status: 503 } }, tell: on, last: { priority: 7 } }
      limits: { checkout: { rate: 2000/s, burst: null }, find: off, all: { rate: 7/s, algorithm: fixed_window } }
      upstreams:
        app: { pool: { max_pending: 70, min_idle: 3 } }
        inventory: { health: { tcp: true }, breaker: { mode: open } }
        search: { fallback: { upstream: app } }
";

/// The effective documents, to the byte, without where they are from.
fn bytes(layers: &Layers) -> String {
    let mut text = String::new();
    for (kind, name, node) in layers.documents().iter() {
        let _ = writeln!(text, "{}/{name} {}", kind.as_str(), node.to_json());
    }
    text
}

/// The documents of everything but the plan itself.
fn others(bytes: &str) -> Vec<&str> {
    bytes.lines().filter(|line| !line.starts_with("plans/sale ")).collect()
}

/// What stands beside the plan, some of it in its way: below it, above it, in itself, and another plan.
const BESIDE: &[&[(&str, &str)]] = &[
    &[],
    &[
        ("_all/limits/checkout", "{burst: 9}"),
        ("orders/limits/checkout", "11/s"),
        ("orders/switches/slow", "{delay: {p50: 1ms, max: 2ms}}"),
        ("orders/upstreams/inventory", "{health: {http: /other, expect: [204]}}"),
    ],
    &[
        ("orders@pod-1/limits/checkout", "{burst: 5}"),
        ("orders@pod-1/switches/degrade", "{state: on, shed: {}}"),
        ("orders@pod-1/upstreams/search", "{fallback: {respond: {status: 503}}}"),
    ],
    &[
        ("orders/plans/other", "on"),
        ("orders/limits/all", "6/s"),
        ("orders/plans/another", "{state: on, switches: {degrade: off, last: {respond: {body: x}}}}"),
        ("orders@pod-1/switches/last", "{priority: 3}"),
        ("orders/endpoints/inventory/a", "10.0.0.9:80"),
    ],
];

#[test]
fn a_plan_of_ten_changes_goes_without_a_trace_a_hundred_times() {
    for beside in BESIDE {
        let mut layers = layers(BIG);
        let changes: Vec<_> = beside.iter().map(|(key, value)| put(key, value, 1)).collect();
        let before = layers.take(&changes);
        before.fine();
        let (off, shown) = (bytes(&layers), layers.documents().to_json().to_string());
        let (mut on, mut policy_on) = (String::new(), None);
        for round in 0..100 {
            let revision = 2 + 2 * round;
            // Off by its state, too, before its key goes.
            let turned_on = if round % 3 == 0 { "on" } else { "{state: on, why: sale, by: me}" };
            let done = layers.set("orders/plans/sale", turned_on, revision);
            done.fine();
            if round == 0 {
                on = bytes(&layers);
                assert_ne!(on, off);
            }
            assert_eq!(bytes(&layers), on, "round {round}");
            let mut policy = (*done.policy).clone();
            // All that differs is when it was turned on.
            for switch in policy.switches.values_mut() {
                Arc::make_mut(switch).revision = 0;
            }
            assert_eq!(*policy_on.get_or_insert_with(|| policy.clone()), policy);
            if round % 2 == 1 {
                layers.set("orders/plans/sale", "off", revision + 1);
                assert_eq!(others(&bytes(&layers)), others(&off), "round {round}");
            }
            let done = layers.unset("orders/plans/sale", revision + 1);
            assert_eq!(bytes(&layers), off, "round {round}");
            assert_eq!(layers.documents().to_json().to_string(), shown, "round {round}");
            assert_eq!(
                (&done.policy, &done.masked, &done.warnings),
                (&before.policy, &before.masked, &before.warnings)
            );
        }
        // Nothing has been left behind that would add up.
        let numbers = layers.places.list().len();
        assert!(numbers < 60, "{numbers} numbers for documents");
    }
}

#[test]
fn a_plan_is_all_or_nothing_whatever_lies_beside_it() {
    let mut layers = layers(BIG);
    // The burst does not go with the algorithm of the plan.
    layers.set("orders/limits/all", "{burst: 5}", 1).fine();
    let off = bytes(&layers);
    let done = layers.set("orders/plans/sale", "on", 2);
    assert_eq!(done.refused.len(), 1, "{:?}", done.reasons());
    assert_eq!(bytes(&layers), off);
    // Out of the way, and it is on as a whole.
    let done = layers.unset("orders/limits/all", 3);
    assert_eq!(done.fine().rate(), 2000);
    assert_eq!(done.policy.limits[&name("find")].state, LimitState::Off);
}

#[test]
fn what_a_plan_masks_is_said_for_each_overlay() {
    let mut layers = layers(BIG);
    layers.set("_all/limits/checkout", "{burst: 9}", 1);
    layers.set("orders/limits/checkout", "11/s", 2);
    layers.set("orders/switches/slow", "{delay: {p50: 1ms}, priority: 4}", 3);
    layers.set("orders@pod-1/limits/find", "on", 4);
    let masked = layers.set("orders/plans/sale", "on", 5).masked;
    let shown: Vec<_> =
        masked.iter().map(|one| (&*one.key, one.plan.as_str(), one.fields.join(" "))).collect();
    assert_eq!(
        shown,
        [
            ("_all/limits/checkout", "sale", "burst".to_owned()),
            ("orders/limits/checkout", "sale", "rate".to_owned()),
            // The plan's other action takes it away.
            ("orders/switches/slow", "sale", "delay.p50".to_owned()),
        ]
    );
    // An overlay of the instance lies above: nothing masks it.
    assert_eq!(layers.effective().policy.limits[&name("find")].state, LimitState::On);
    assert_eq!(layers.unset("orders/plans/sale", 6).masked, []);
}

#[test]
fn plans_that_want_different_things_are_both_named() {
    let mut layers = layers(BIG);
    assert_eq!(layers.set("orders/plans/sale", "on", 1).warnings, []);
    // `all` to another rate; `last` to something else.
    let done = layers.set("orders/plans/other", "on", 2);
    let warnings: Vec<_> =
        done.fine().warnings.iter().map(|one| (&*one.key, one.revision, &*one.message)).collect();
    assert_eq!(
        warnings,
        [(
            "orders/plans/sale",
            1,
            "the plans `other` and `sale` are both on, and want different things of limits/all: rate; `sale` wins, by its name"
        )]
    );
    assert_eq!(done.policy.limits[&name("all")].rate.count, 7);
    assert_eq!(layers.set("orders/plans/sale", "off", 3).warnings, []);
    assert_eq!(layers.effective().policy.limits[&name("all")].rate.count, 8000);
}

#[test]
fn what_two_plans_agree_on_is_no_clash_and_alternatives_are_one() {
    for (under, over, fields) in [
        ("{limits: {all: 7/s}}", "{limits: {all: {rate: 7/s, burst: 3}}}", None),
        ("{switches: {last: on}}", "{switches: {last: {state: true, priority: 3}}}", None),
        ("{switches: {last: on}}", "{limits: {all: 7/s}}", None),
        ("{limits: {checkout: {burst: null}}}", "{limits: {checkout: {burst: null}}}", None),
        (
            "{limits: {checkout: {burst: null}}}",
            "{limits: {checkout: {burst: 4}}}",
            Some("limits/checkout: burst"),
        ),
        (
            "{limits: {checkout: {burst: 4}}}",
            "{limits: {checkout: {burst: null}}}",
            Some("limits/checkout: burst"),
        ),
        ("{switches: {last: on}}", "{switches: {last: 25%}}", Some("switches/last: state")),
        (
            "{switches: {last: {respond: {body: x}, priority: 1}}}",
            "{switches: {last: {shed: {below: low}, priority: 2}}}",
            Some("switches/last: respond.body, priority"),
        ),
        (
            "{upstreams: {app: {pool: {min_idle: 1, max_pending: 8}}}}",
            "{upstreams: {app: {pool: null}}}",
            Some("upstreams/app: pool.min_idle, pool.max_pending"),
        ),
        (
            "{upstreams: {app: {health: null}}}",
            "{upstreams: {app: {health: {tcp: true}}}}",
            Some("upstreams/app: health"),
        ),
    ] {
        let mut layers = layers(BIG);
        layers.set("orders/plans/a", &format!("{{state: on, {}", &under[1..]), 1).fine();
        let done = layers.set("_all/plans/b", &format!("{{state: on, {}", &over[1..]), 2);
        let found =
            done.fine().warnings.iter().map(|one| (&*one.key, one.message.clone())).collect::<Vec<_>>();
        let expected = fields.map(|fields| {
            let of = format!("the plans `a` and `b` are both on, and want different things of {fields}; `b` wins, by its name");
            ("_all/plans/b", of)
        });
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{under} {over}");
    }
}

#[test]
fn a_clash_within_the_file_names_the_file() {
    let text = BIG
        .replace("    other:\n", "    other:\n      state: on\n")
        .replace("    sale:\n", "    sale:\n      state: on\n");
    let done = layers(&text).effective();
    let found: Vec<_> = done.fine().warnings.iter().map(|one| (&*one.key, one.revision)).collect();
    assert_eq!(found, [("policy.plans.sale", 0)]);
}

#[test]
fn the_revision_of_a_switch_is_that_of_the_newest_overlay_in_force() {
    let mut layers = layers(FILE);
    let of = |done: &Effective| done.policy.switches[&name("degrade")].revision;
    assert_eq!(of(&layers.effective()), 0, "the file alone");
    assert_eq!(of(&layers.set("orders/limits/checkout", "7/s", 3)), 0, "not its own");
    assert_eq!(of(&layers.set("_all/switches/degrade", "{priority: 5}", 5)), 5);
    assert_eq!(of(&layers.set("orders@pod-1/switches/degrade", "on", 7)), 7);
    assert_eq!(of(&layers.set("_all/switches/degrade", "{priority: 6}", 9)), 9, "whichever is newer");
    assert_eq!(of(&layers.set("orders/plans/sale", "on", 11)), 11);
    assert_eq!(of(&layers.set("orders/plans/sale", "off", 12)), 9, "a plan that is off has no say");
    assert_eq!(
        of(&layers.set("orders/switches/degrade", "{state: sideways}", 13)),
        9,
        "nor has what is refused"
    );
    assert_eq!(of(&layers.unset("_all/switches/degrade", 14)), 7);
    let until = world(20).now;
    assert_eq!(
        of(&layers.set("orders/switches/degrade", &format!("{{state: on, until: '{until}'}}"), 15)),
        15
    );
    layers.tick(world(20));
    assert_eq!(of(&layers.effective()), 7, "nor what is over");
    assert_eq!(of(&layers.unset("orders@pod-1/switches/degrade", 21)), 0);
}
