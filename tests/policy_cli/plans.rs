//! `weir plan`: what is previewed is what happens, and off is as it was.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{each_store, harness::Bench};

each_store!(
    what_is_previewed_is_what_happens,
    off_restores_what_was_there,
    a_preview_tells_what_stays_and_with_what_it_collides,
    a_plan_that_would_be_refused,
    a_preview_of_nothing,
);

/// The fields of all that is in force apart from plans.
#[track_caller]
fn in_force(bench: &Bench) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for subject in [
        "switches/no-recs",
        "switches/no-ads",
        "limits/checkout",
        "upstreams/app",
        "upstreams/stock",
        "upstreams/pay",
        "routes/in",
        "routes/stock",
    ] {
        let shown = bench.json(0, &["get", subject]);
        collect(subject, &shown["effective"]["document"], &mut all);
    }
    all
}

fn collect(path: &str, value: &Value, all: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            map.iter().for_each(|(name, value)| collect(&format!("{path} {name}"), value, all));
        }
        _ => drop(all.insert(path.to_owned(), value.clone())),
    }
}

/// What a preview says, by resource and field: before and after.
fn previewed(preview: &Value) -> BTreeMap<String, (Value, Value)> {
    let mut all = BTreeMap::new();
    for (resource, fields) in preview["changes"].as_object().unwrap() {
        for (field, change) in fields.as_object().unwrap() {
            let name = format!("{resource} {}", field.replace('.', " "));
            all.insert(name, (change["before"].clone(), change["after"].clone()));
        }
    }
    all
}

/// What really is different.
fn different(
    before: &BTreeMap<String, Value>,
    after: &BTreeMap<String, Value>,
) -> BTreeMap<String, (Value, Value)> {
    let of = |all: &BTreeMap<String, Value>, name: &String| all.get(name).cloned().unwrap_or(Value::Null);
    let names = before.keys().chain(after.keys());
    let all = names.map(|name| (name.clone(), (of(before, name), of(after, name))));
    all.filter(|(_, (before, after))| before != after).collect()
}

fn what_is_previewed_is_what_happens(bench: Bench) {
    // The fleet has the plan, the service turns it on.
    let plan = "\
switches: { no-recs: on }
limits: { checkout: { rate: 2000/s, key: [client] } }
upstreams: { stock: { breaker: open, connect_timeout: null } }
";
    bench.policy(0, &["set", "plans/own", plan, "--scope", "_all"]);
    bench.weir(0, &["limit", "set", "checkout", "9/s", "--burst", "3"]);
    let before = in_force(&bench);
    let preview = bench.answer(0, &["plan", "diff", "own"]);
    assert_eq!((&preview["plan"], &preview["to"]), (&json!("own"), &json!("on")));
    assert_eq!(in_force(&bench), before);
    let foreseen = previewed(&preview);
    assert_eq!(foreseen["limits/checkout rate"], (json!("9/s"), json!("2000/s")));
    assert_eq!(foreseen["upstreams/stock connect_timeout"], (json!("1s"), Value::Null));
    assert_eq!(foreseen["upstreams/stock breaker mode"], (Value::Null, json!("open")));
    assert_eq!(foreseen.len(), 5, "{preview:#}");

    bench.weir(0, &["plan", "on", "own", "--for", "2h"]).ok();
    let after = in_force(&bench);
    assert_eq!(different(&before, &after), foreseen);

    // And the other way.
    let preview = bench.answer(0, &["plan", "diff", "own"]);
    assert_eq!(preview["to"], "off");
    bench.weir(0, &["plan", "off", "own"]);
    assert_eq!(different(&after, &in_force(&bench)), previewed(&preview));
    assert_eq!(in_force(&bench), before);
    let table = bench.weir(0, &["plan", "diff", "own"]).out;
    let row = table.lines().find(|line| line.starts_with("limits/checkout   rate")).unwrap();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["limits/checkout", "rate", "9/s", "2000/s"]);
}

fn off_restores_what_was_there(bench: Bench) {
    bench.weir(0, &["switch", "set", "no-recs", "10%", "--for", "1h"]);
    bench.weir(0, &["limit", "set", "checkout", "7/s", "--scope", "_all"]);
    let before: Vec<_> = ["switches/no-recs", "limits/checkout"]
        .map(|subject| bench.json(0, &["get", subject])["effective"].to_string())
        .to_vec();
    for undo in [&["plan", "off", "sale"][..], &["plan", "unset", "sale"]] {
        bench.weir(0, &["plan", "on", "sale"]);
        assert_eq!(bench.json(0, &["get", "switches/no-recs"])["effective"]["document"]["state"], "on");
        bench.weir(0, undo);
        // To the byte, and from the same places.
        let after: Vec<_> = ["switches/no-recs", "limits/checkout"]
            .map(|subject| bench.json(0, &["get", subject])["effective"].to_string())
            .to_vec();
        assert_eq!(before, after);
    }
    assert_eq!(bench.value("orders/plans/sale"), None);
    let commands: Vec<_> = bench.audits("orders").iter().map(|it| it["command"].clone()).collect();
    assert_eq!(commands, ["switch set", "plan on", "plan off", "plan on", "plan unset"]);
}

fn a_preview_tells_what_stays_and_with_what_it_collides(bench: Bench) {
    bench.weir(0, &["limit", "set", "checkout", "3/s", "--scope", "orders@pod-1"]);
    bench.weir(0, &["plan", "on", "spring"]);
    let preview = bench.answer(0, &["plan", "diff", "sale"]);
    // The instance has the last word of the limit, and the later plan of the switch.
    assert_eq!(preview["changes"], json!({}));
    let stays: Vec<_> = preview["stays"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            (it["resource"].as_str().unwrap(), &it["plan"], &it["in_force"], it["because"].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        stays,
        [
            ("limits/checkout", &json!("2000/s"), &json!("3/s"), "orders@pod-1/limits/checkout"),
            ("switches/no-recs", &json!("on"), &json!("25%"), "the plan `spring`"),
        ]
    );
    assert_eq!(
        preview["collisions"],
        json!([{ "plan": "spring", "resource": "switches/no-recs", "fields": ["state"], "wins": "spring" }])
    );
    let text = bench.weir(0, &["plan", "diff", "sale"]).out;
    for words in
        ["changes nothing", "BECAUSE OF", "orders@pod-1/limits/checkout", "warning: the plan `spring` is on"]
    {
        assert!(text.contains(words), "{words}\n{text}");
    }
    let done = bench.weir(0, &["plan", "on", "sale"]);
    assert!(
        done.err.contains("warning: the plan `spring` is on and touches switches/no-recs"),
        "{}",
        done.err
    );
    // Off there is nothing to warn of.
    assert!(!bench.weir(0, &["plan", "off", "sale"]).err.contains("warning"));
}

fn a_plan_that_would_be_refused(bench: Bench) {
    // It is good over the file, and not over what was changed meanwhile.
    bench.policy(0, &["set", "plans/sale", "{limits: {checkout: {burst: 5}}}"]);
    bench.policy(0, &["set", "limits/checkout", "{algorithm: sliding_window, burst: null}"]);
    let answer = bench.answer(64, &["plan", "diff", "sale"]);
    assert_eq!(answer["refused"].as_array().unwrap().len(), 1, "{answer:#}");
    let done = bench.weir(64, &["plan", "diff", "sale"]);
    assert!(done.err.contains("error[WEIR-") && done.err.contains("burst"), "{}", done.err);
    let before = bench.value("orders/plans/sale");
    assert_eq!(bench.weir(64, &["plan", "on", "sale"]).code, 64);
    assert_eq!(bench.value("orders/plans/sale"), before);
}

fn a_preview_of_nothing(bench: Bench) {
    bench.policy(0, &["set", "plans/idle", "{state: off}"]);
    let done = bench.weir(0, &["plan", "diff", "idle"]);
    assert_eq!(done.out, "turning `idle` on changes nothing\n");
    // A layer above says otherwise.
    bench.policy(0, &["set", "plans/sale", "off", "--scope", "orders@pod-1"]);
    let done = bench.weir(0, &["plan", "diff", "sale"]);
    assert!(done.out.contains("a layer above orders/plans/sale says otherwise"), "{}", done.out);
    assert!(done.out.contains("changes nothing"), "{}", done.out);
    assert_eq!(bench.json(0, &["ls", "plans/sale"]).as_array().unwrap().len(), 1);
}
