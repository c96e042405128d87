//! What is written, and what is not.

use serde_json::json;

use crate::{
    each_store,
    harness::{Bench, run_with_input},
    support::programs::finish,
};

each_store!(
    sets_shows_and_deletes,
    an_endpoint_and_bypass,
    fields_files_and_standard_input,
    a_change_has_an_end,
    bad_values_are_refused_with_their_place,
    what_an_instance_would_refuse_is_not_written,
    nothing_is_written_over_what_was_not_seen,
    of_many_at_once_one_is_written,
    a_dry_run_writes_nothing_and_shows_what_would_be,
    an_overlay_that_a_plan_masks_is_written_and_the_answer_is_no,
    every_change_leaves_an_audit_entry,
    without_a_file_a_document_is_checked_by_itself,
    confirms_what_is_held,
);

const SWITCH: &str = "orders/switches/no-recs";

fn sets_shows_and_deletes(bench: Bench) {
    let done = bench.policy(0, &["set", "switches/no-recs", "25%", "--why", "the vendor is down"]);
    assert!(done.out.contains("orders/switches/no-recs is set at revision "), "{}", done.out);
    assert!(done.out.contains("next: weir wait --revision "), "{}", done.out);
    let document = bench.document(SWITCH);
    assert_eq!((&document["state"], &document["why"]), (&json!("25%"), &json!("the vendor is down")));
    assert!(document["by"].as_str().unwrap().starts_with("ann@"), "{document}");

    let shown = bench.json(0, &["get", "switches/no-recs"]);
    assert_eq!(shown["effective"]["document"]["state"], "25%");
    assert_eq!(shown["effective"]["document"]["reject"]["status"], 503);
    let field = &shown["effective"]["fields"]["state"];
    assert_eq!(
        (&field["layer"], &field["key"], &field["why"]),
        (&json!("service"), &json!(SWITCH), &json!("the vendor is down"))
    );
    assert_eq!(shown["effective"]["fields"]["reject.status"]["layer"], "baseline");

    let gone = bench.json(0, &["unset", "switches/no-recs"]);
    assert_eq!(gone["action"], "unset");
    assert_eq!(bench.value(SWITCH), None);
    assert!(bench.policy(1, &["unset", "switches/no-recs"]).err.contains("is not there"));
    assert_eq!(bench.json(0, &["get", "switches/no-recs"])["effective"]["document"]["state"], "off");
}

fn an_endpoint_and_bypass(bench: Bench) {
    bench.policy(0, &["set", "endpoints/stock/a", "10.0.0.7:8080"]);
    assert_eq!(bench.document("orders/endpoints/stock/a")["address"], "10.0.0.7:8080");
    bench.policy(0, &["set", "bypass", "on", "--scope", "_all", "--by", "bob"]);
    let document = bench.document("_all/bypass");
    assert_eq!((&document["state"], &document["by"]), (&json!("on"), &json!("bob")));
    assert_eq!(bench.json(0, &["get", "bypass"])["effective"]["document"]["state"], "on");
    bench.policy(0, &["set", "limits/checkout", "7/s", "--scope", "orders@pod-1"]);
    assert_eq!(bench.document("orders@pod-1/limits/checkout")["rate"], "7/s");
    // It says where there is something instead.
    let done = bench.policy(1, &["unset", "limits/checkout"]);
    assert!(done.err.contains("--scope orders@pod-1"), "{}", done.err);
}

fn fields_files_and_standard_input(bench: Bench) {
    let text = "# the vendor's own limit\nrate: 40/s\nburst: 3\n";
    bench.file("limit.yaml", text);
    bench.policy(0, &["set", "limits/checkout", "-f", "limit.yaml"]);
    let written = bench.value("orders/limits/checkout").unwrap();
    assert!(written.starts_with(text), "{written}");
    bench.policy(0, &["set", "limits/checkout", "--field", "burst=9", "--field", "match.path=/buy"]);
    let document = bench.document("orders/limits/checkout");
    assert_eq!(
        (&document["rate"], &document["burst"], &document["match"]["path"]),
        (&json!("40/s"), &json!(9), &json!("/buy"))
    );
    let input = run_with_input(
        bench.folder.path(),
        &["policy", "set", "limits/checkout", "-f", "-"],
        r#"{"rate": "41/s"}"#,
    );
    input.ok();
    let document = bench.document("orders/limits/checkout");
    assert_eq!((&document["rate"], document.get("burst")), (&json!("41/s"), None));
    assert!(bench.policy(2, &["set", "limits/checkout", "--field", "burst"]).err.contains("PATH=VALUE"));
    assert!(bench.policy(69, &["set", "limits/checkout", "-f", "none.yaml"]).err.contains("none.yaml"));
    bench.policy(2, &["set", "limits/checkout"]);
}

fn a_change_has_an_end(bench: Bench) {
    let before = jiff::Timestamp::now();
    bench.policy(0, &["set", "switches/no-recs", "on", "--for", "30m"]);
    let until: jiff::Timestamp = bench.document(SWITCH)["until"].as_str().unwrap().parse().unwrap();
    let length = until.duration_since(before).as_secs();
    assert!((1_795..=1_860).contains(&length), "{length}");
    assert_eq!(
        bench.json(0, &["get", "switches/no-recs"])["effective"]["fields"]["state"]["until"],
        until.to_string()
    );
    assert!(bench.policy(2, &["set", "switches/no-recs", "on", "--for", "30"]).err.contains("--for"));
    // What cannot end by itself is not written as if it could.
    let done = bench.policy(2, &["set", "switches/no-recs", "null", "--for", "30m"]);
    assert!(done.err.contains("no room for an end"), "{}", done.err);
    assert_eq!(bench.document(SWITCH)["state"], "on");
    // What held for a time is set again without an end.
    bench.policy(0, &["set", "switches/no-recs", "off"]);
    assert_eq!(bench.document(SWITCH).get("until"), None);
}

fn bad_values_are_refused_with_their_place(bench: Bench) {
    for (subject, value, place, words) in [
        ("limits/checkout", "7/d", "1:1", "7/d"),
        ("limits/checkout", "{rate: 5/s, burst: -1}", "1:20", "burst"),
        ("switches/no-recs", "perhaps", "1:1", "perhaps"),
        ("routes/in", "{timeout: 1 hour}", "1:11", "timeout"),
        ("endpoints/stock/a", "not an address", "1:1", "not an address"),
        ("bypass", "maybe", "1:1", "maybe"),
        ("switches/no-recs", "{state: on", "2:1", "not YAML"),
        ("switches/no-recs", "", "1:1", "empty"),
    ] {
        let done = bench.policy(64, &["set", subject, value]);
        assert!(done.err.contains(&format!("orders/{subject}:{place}\n")), "{value}: {}", done.err);
        assert!(done.err.contains("error[WEIR-") && done.err.contains(words), "{value}: {}", done.err);
        assert!(done.err.contains("is not written"), "{value}: {}", done.err);
        assert_eq!(bench.value(&format!("orders/{subject}")), None);
    }
    assert!(bench.audits("orders").is_empty());
    // Unknown fields are for newer versions: said, and taken.
    let done = bench.policy(0, &["set", "limits/checkout", "{rate: 5/s, brust: 3}"]);
    assert!(done.err.contains("warning[WEIR-0101]") && done.err.contains("brust"), "{}", done.err);
    bench.policy(0, &["set", "limits/checkout", "7/d", "--force"]);
    assert_eq!(bench.value("orders/limits/checkout").as_deref(), Some("7/d"));
    for (subject, words) in
        [("switchs/x", "no kind"), ("switches", "without a name"), ("confirm", "weir policy confirm")]
    {
        let done = bench.policy(2, &["set", subject, "on"]);
        assert!(done.err.contains(words), "{}", done.err);
    }
}

fn what_an_instance_would_refuse_is_not_written(bench: Bench) {
    let done = bench.policy(64, &["set", "routes/new", "{upstream: nowhere}"]);
    assert!(done.err.contains("nowhere") && done.err.contains("WEIR-0408"), "{}", done.err);
    assert!(done.err.contains("orders/routes/new:1:"), "{}", done.err);
    // What is in the store counts too.
    bench.policy(0, &["set", "upstreams/extra", "{endpoints: [10.0.0.1:80]}"]);
    bench.policy(0, &["set", "routes/new", "{upstream: extra}"]);
    let done = bench.policy(64, &["unset", "upstreams/extra"]);
    assert!(done.err.contains("is not deleted") && done.err.contains("routes/new"), "{}", done.err);
    assert!(bench.value("orders/upstreams/extra").is_some());
    let done = bench.policy(64, &["set", "upstreams/stock", "null"]);
    assert!(done.err.contains("stock"), "{}", done.err);
    bench.policy(0, &["unset", "upstreams/extra", "--force"]);
    assert_eq!(bench.value("orders/upstreams/extra"), None);
}

fn nothing_is_written_over_what_was_not_seen(bench: Bench) {
    let first = bench.json(0, &["set", "switches/no-recs", "on", "--expect-revision", "0"]);
    let revision = first["revision"].as_i64().unwrap().to_string();
    let done = bench.policy(1, &["set", "switches/no-recs", "off", "--expect-revision", "0"]);
    assert!(done.err.contains(&format!("at revision {revision}, not at 0")), "{}", done.err);
    bench.policy(1, &["unset", "switches/no-recs", "--expect-revision", "1"]);
    assert_eq!(bench.document(SWITCH)["state"], "on");
    let second = bench.json(0, &["set", "switches/no-recs", "off", "--expect-revision", &revision]);
    assert_eq!(second["before_revision"], first["revision"]);
    assert_eq!(bench.document(SWITCH)["state"], "off");
    assert_eq!(bench.audits("orders").len(), 2);
}

fn of_many_at_once_one_is_written(bench: Bench) {
    let first = bench.json(0, &["set", "limits/checkout", "1/s"]);
    let revision = first["revision"].as_i64().unwrap().to_string();
    let children: Vec<_> = (2..8)
        .map(|n| {
            let rate = format!("{n}/s");
            bench.spawn(&["policy", "set", "limits/checkout", &rate, "--expect-revision", &revision])
        })
        .collect();
    let done: Vec<_> =
        children.into_iter().map(|child| finish(child, crate::support::PATIENCE * 3)).collect();
    let codes: Vec<_> = done.iter().map(|done| done.code).collect();
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{done:?}");
    assert_eq!(codes.iter().filter(|code| **code == 1).count(), 5, "{done:?}");
    let winner = codes.iter().position(|code| *code == 0).unwrap() + 2;
    assert_eq!(bench.document("orders/limits/checkout")["rate"], format!("{winner}/s"));
    assert_eq!(bench.audits("orders").len(), 2);
}

fn a_dry_run_writes_nothing_and_shows_what_would_be(bench: Bench) {
    bench.policy(0, &["set", "limits/checkout", "{burst: 7}"]);
    let before = bench.value("orders/limits/checkout");
    let done = bench.policy(0, &["set", "limits/checkout", "9/s", "--dry-run"]);
    for line in [
        "-rate: 500/s",
        "+rate: 9/s",
        "-burst: 7",
        "+burst: 100",
        "--- in force before",
        "nothing is written",
    ] {
        assert!(done.out.contains(line), "{line}\n{}", done.out);
    }
    let done = bench.policy(0, &["unset", "limits/checkout", "--dry-run"]);
    assert!(done.out.contains("+burst: 100"), "{}", done.out);
    bench.policy(64, &["set", "limits/checkout", "9/d", "--dry-run"]);
    assert_eq!(bench.value("orders/limits/checkout"), before);
    assert_eq!(bench.audits("orders").len(), 1);
}

fn an_overlay_that_a_plan_masks_is_written_and_the_answer_is_no(bench: Bench) {
    bench.policy(0, &["set", "plans/sale", "on"]);
    let done = bench.policy(1, &["set", "limits/checkout", "9/s"]);
    assert!(done.err.contains("the plan `sale` is on and overrides: rate"), "{}", done.err);
    assert!(done.out.contains("is set at revision"), "{}", done.out);
    assert_eq!(bench.document("orders/limits/checkout")["rate"], "9/s");
    let answer = bench.json(1, &["set", "limits/checkout", "8/s"]);
    assert_eq!(answer["masked"], json!([{ "plan": "sale", "fields": ["rate"] }]));
    bench.policy(0, &["unset", "plans/sale"]);
    assert_eq!(bench.json(0, &["get", "limits/checkout"])["effective"]["document"]["rate"], "8/s");
}

fn every_change_leaves_an_audit_entry(bench: Bench) {
    bench.policy(0, &["set", "switches/no-recs", "on", "--why", "one", "--by", "bob"]);
    bench.policy(0, &["set", "switches/no-recs", "off"]);
    bench.policy(0, &["unset", "switches/no-recs", "--why", "three"]);
    bench.policy(0, &["set", "bypass", "off", "--scope", "_all"]);
    let audits = bench.audits("orders");
    let told: Vec<_> = audits.iter().map(|a| (a["action"].as_str().unwrap(), a["why"].as_str())).collect();
    assert_eq!(told, [("set", Some("one")), ("set", None), ("unset", Some("three"))]);
    assert_eq!((&audits[0]["who"], &audits[0]["key"]), (&json!("bob"), &json!(SWITCH)));
    assert_eq!((&audits[0]["before"], &audits[2]["after"]), (&json!(null), &json!(null)));
    assert_eq!(audits[1]["before"], audits[0]["after"]);
    assert_eq!(audits[2]["before"], audits[1]["after"]);
    assert!(audits.iter().all(|audit| audit["when"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok()));
    assert_eq!(bench.audits("_all").len(), 1);

    let history = bench.json(0, &["history", "switches/no-recs"]);
    let told: Vec<_> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["action"].as_str().unwrap(), e["audited"].as_bool().unwrap()))
        .collect();
    assert_eq!(told, [("unset", true), ("set", true), ("set", true)]);
    assert_eq!((&history[2]["who"], &history[2]["why"]), (&json!("bob"), &json!("one")));
    let table = bench.policy(0, &["history", "switches/no-recs", "--limit", "1"]);
    assert!(table.out.contains("three") && !table.out.contains("one"), "{}", table.out);
    assert!(bench.policy(1, &["history", "switches/other"]).err.contains("nothing is known"));
}

fn without_a_file_a_document_is_checked_by_itself(bench: Bench) {
    let option = bench.option();
    let elsewhere = tempfile::TempDir::new().unwrap();
    let run = |arguments: &[&str]| {
        let arguments: Vec<_> =
            ["policy"].iter().chain(arguments).chain(&["--store", &option]).copied().collect();
        finish(crate::harness::spawn(elsewhere.path(), &arguments), crate::support::PATIENCE)
    };
    let done = run(&["set", "switches/no-recs", "on"]);
    assert_eq!(done.code, 2);
    assert!(done.err.contains("--service"), "{}", done.err);
    let done = run(&["set", "switches/no-recs", "on", "--service", "orders"]).ok();
    assert!(
        done.out.contains("weir wait --revision") && done.out.contains("--service orders"),
        "{}",
        done.out
    );
    assert_eq!(bench.document(SWITCH)["state"], "on");
    assert_eq!(run(&["set", "limits/x", "5/d", "--scope", "orders"]).code, 64);
    let done = run(&["set", "limits/x", "5/s", "--scope", "_all", "--dry-run"]).ok();
    assert!(done.out.contains("no file says"), "{}", done.out);
    assert_eq!(run(&["ls", "--service", "a", "--scope", "b"]).code, 2);
    let listed = run(&["get", "switches/no-recs", "--scope", "orders"]).ok();
    assert!(listed.out.starts_with("orders/switches/no-recs at revision "), "{}", listed.out);
}

fn confirms_what_is_held(bench: Bench) {
    bench.policy(0, &["set", "switches/no-recs", "on"]);
    let done = bench.policy(2, &["confirm"]);
    assert!(done.err.contains("--yes"), "{}", done.err);
    assert_eq!(bench.value("orders/confirm"), None);
    let answer = bench.json(0, &["confirm", "--yes", "--why", "it was meant"]);
    let document = bench.document("orders/confirm");
    assert_eq!(document["revision"], answer["confirmed"]);
    assert_eq!(document["cluster"], answer["cluster"]);
    assert!(answer["revision"].as_i64() > answer["confirmed"].as_i64(), "{answer}");
    assert_ne!(answer["cluster"], 0);
    assert_eq!(bench.audits("orders")[1]["action"], "confirm");
    // Once more, for what came since.
    let again = bench.policy(0, &["confirm", "--yes"]);
    assert!(again.out.contains("confirmed up to revision"), "{}", again.out);
}
