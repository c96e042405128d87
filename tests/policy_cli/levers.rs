//! `weir switch`, `limit` and `breaker`: what they write, what they leave alone, and what they refuse.

use serde_json::{Value, json};

use crate::{each_store, harness::Bench, support::programs::finish};

each_store!(
    switches_on_off_and_back,
    several_switches_in_one_revision,
    fifty_switches_in_one_revision,
    other_fields_of_the_overlay_stay,
    an_end_is_the_whole_overlays,
    limits_are_set_and_taken_back,
    breakers_are_held_and_released,
    the_breaker_of_one_route,
    a_name_that_nobody_has,
    bad_values_are_refused_as_check_refuses_them,
    a_dry_run_writes_nothing,
    nothing_is_written_over_what_was_not_seen,
    of_many_at_once_one_is_written,
    who_else_has_a_say_is_told,
    without_a_file_fields_are_set_all_the_same,
    what_cannot_be_read_is_left_alone,
);

const SWITCH: &str = "orders/switches/no-recs";

/// The effective document of something.
#[track_caller]
fn in_force(bench: &Bench, subject: &str) -> Value {
    bench.json(0, &["get", subject])["effective"]["document"].clone()
}

fn switches_on_off_and_back(bench: Bench) {
    let before = in_force(&bench, "switches/no-recs");
    let done = bench.weir(0, &["switch", "on", "no-recs", "--why", "the vendor is down", "--for", "30m"]);
    assert!(done.out.contains("orders/switches/no-recs is set at revision "), "{}", done.out);
    assert!(done.out.contains("next: weir wait --revision "), "{}", done.out);
    let document = bench.document(SWITCH);
    assert_eq!((&document["state"], &document["why"]), (&json!("on"), &json!("the vendor is down")));
    assert!(document["by"].as_str().unwrap().starts_with("ann@"), "{document}");
    let until: jiff::Timestamp = document["until"].as_str().unwrap().parse().unwrap();
    let left = until.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((1_700..=1_801).contains(&left), "{left}");
    assert_eq!(in_force(&bench, "switches/no-recs")["state"], "on");

    for (arguments, state) in [
        (&["switch", "set", "no-recs", "25%"][..], "25%"),
        (&["switch", "set", "no-recs", "observe"], "observe"),
        (&["switch", "off", "no-recs", "--by", "bob"], "off"),
        (&["switch", "set", "no-recs", " on "], "on"),
    ] {
        bench.weir(0, arguments);
        let document = bench.document(SWITCH);
        assert_eq!((&document["state"], document.get("until")), (&json!(state), None), "{arguments:?}");
        assert_eq!(in_force(&bench, "switches/no-recs")["state"], state);
    }
    // `auto` needs something that decides.
    assert!(bench.weir(64, &["switch", "set", "no-recs", "auto"]).err.contains("when"));

    bench.weir(0, &["switch", "unset", "no-recs", "--why", "it is back"]);
    assert_eq!(bench.value(SWITCH), None);
    assert_eq!(in_force(&bench, "switches/no-recs").to_string(), before.to_string());
    let again = bench.weir(1, &["switch", "unset", "no-recs"]);
    assert!(again.err.contains("there is nothing to take back"), "{}", again.err);

    let audits = bench.audits("orders");
    let told: Vec<_> =
        audits.iter().map(|it| (it["action"].as_str().unwrap(), it["command"].as_str().unwrap())).collect();
    assert_eq!(
        told,
        [
            ("set", "switch on"),
            ("set", "switch set"),
            ("set", "switch set"),
            ("set", "switch off"),
            ("set", "switch set"),
            ("unset", "switch unset")
        ]
    );
    assert_eq!((&audits[3]["who"], &audits[5]["why"]), (&json!("bob"), &json!("it is back")));
    let history = bench.policy(0, &["history", "switches/no-recs", "--limit", "1"]).out;
    assert!(history.contains("switch unset"), "{history}");
}

fn several_switches_in_one_revision(bench: Bench) {
    bench.weir(0, &["switch", "on", "no-recs", "no-ads", "--why", "both"]);
    let listed = bench.json(0, &["ls", "switches"]);
    let revisions: Vec<_> = listed.as_array().unwrap().iter().map(|item| &item["revision"]).collect();
    assert_eq!(revisions.len(), 2);
    assert_eq!(revisions[0], revisions[1]);
    let audits = bench.audits("orders");
    let mut keys: Vec<_> = audits.iter().map(|audit| audit["key"].as_str().unwrap()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["orders/switches/no-ads", SWITCH]);
    // One that is not there stops the other too.
    bench.weir(1, &["switch", "off", "no-recs", "no-such"]);
    assert_eq!(bench.document(SWITCH)["state"], "on");
    bench.weir(2, &["switch", "off", "no-recs", "no-recs"]);
    bench.weir(2, &["switch", "off", "no-recs", "no-ads", "--expect-revision", "1"]);
    bench.weir(0, &["switch", "unset", "no-recs", "no-ads"]);
    assert_eq!(bench.json(0, &["ls"]), json!([]));
    assert_eq!(bench.audits("orders").len(), 4);
}

fn fifty_switches_in_one_revision(bench: Bench) {
    let names: Vec<_> = (0..51).map(|n| format!("s{n:02}")).collect();
    for name in &names {
        bench.put(&format!("/weir/policy/_all/switches/{name}"), "{reject: {status: 503}}");
    }
    let mut arguments = vec!["switch", "on"];
    arguments.extend(names.iter().map(String::as_str));
    bench.weir(2, &arguments);
    arguments.pop();
    bench.weir(0, &arguments);
    let listed = bench.json(0, &["ls", "--scope", "orders"]);
    let revisions: Vec<_> = listed.as_array().unwrap().iter().map(|item| &item["revision"]).collect();
    assert_eq!(revisions.len(), 50);
    assert!(revisions.iter().all(|revision| *revision == revisions[0]), "{revisions:?}");
    assert_eq!(bench.audits("orders").len(), 50);
}

fn other_fields_of_the_overlay_stay(bench: Bench) {
    bench.policy(0, &["set", "switches/no-recs", "{priority: 7, reject: {status: 429}}"]);
    let before = in_force(&bench, "switches/no-recs");
    bench.weir(0, &["switch", "on", "no-recs"]);
    let document = bench.document(SWITCH);
    assert_eq!(
        (&document["state"], &document["priority"], &document["reject"]["status"]),
        (&json!("on"), &json!(7), &json!(429))
    );
    bench.weir(0, &["switch", "unset", "no-recs"]);
    let document = bench.document(SWITCH);
    assert_eq!((document.get("state"), &document["priority"]), (None, &json!(7)));
    assert_eq!(in_force(&bench, "switches/no-recs").to_string(), before.to_string());
    let audits = bench.audits("orders");
    assert_eq!((&audits[2]["action"], &audits[2]["command"]), (&json!("set"), &json!("switch unset")));
    let done = bench.weir(1, &["switch", "unset", "no-recs"]);
    assert!(done.err.contains("says nothing of state"), "{}", done.err);
    // A short form of a block is one too.
    bench.policy(0, &["set", "upstreams/stock", "{breaker: open, connect_timeout: 3s}"]);
    bench.weir(0, &["breaker", "auto", "stock"]);
    let document = bench.document("orders/upstreams/stock");
    assert_eq!((document.get("breaker"), &document["connect_timeout"]), (None, &json!("3s")));
}

fn an_end_is_the_whole_overlays(bench: Bench) {
    bench.policy(0, &["set", "switches/no-recs", "{priority: 7}"]);
    let written = bench.value(SWITCH);
    let done = bench.weir(1, &["switch", "on", "no-recs", "--for", "30m"]);
    assert!(
        done.err.contains("says more: priority") && done.err.contains("Leave `--for` out"),
        "{}",
        done.err
    );
    assert_eq!(bench.value(SWITCH), written);
    // What ends stays as it is, and the state with it.
    bench.policy(0, &["set", "switches/no-recs", "{priority: 7}", "--for", "1h"]);
    let until = bench.document(SWITCH)["until"].clone();
    let done = bench.weir(0, &["switch", "on", "no-recs"]);
    assert!(done.err.contains("and this with it"), "{}", done.err);
    let document = bench.document(SWITCH);
    assert_eq!((&document["until"], &document["state"]), (&until, &json!("on")));
    bench.weir(0, &["switch", "unset", "no-recs"]);
    assert_eq!(bench.document(SWITCH)["until"], until);
    // What is over does not come back.
    bench.put(&format!("/weir/policy/{SWITCH}"), "{priority: 7, until: \"2020-01-01T00:00:00Z\"}");
    let done = bench.weir(0, &["switch", "on", "no-recs"]);
    assert!(done.err.contains("does not come back: priority"), "{}", done.err);
    let document = bench.document(SWITCH);
    assert_eq!((document.get("until"), document.get("priority")), (None, None));
    assert_eq!(in_force(&bench, "switches/no-recs")["state"], "on");
    // A state that had no end is gone when the new one ends: that is said.
    let done = bench.weir(0, &["switch", "off", "no-recs", "--for", "5m"]);
    assert!(done.err.contains("said `on` without an end"), "{}", done.err);
    assert!(bench.weir(2, &["switch", "on", "no-recs", "--for", "30"]).err.contains("--for"));
    assert!(bench.weir(2, &["switch", "on", "no-recs", "--for", "25h"]).err.contains("--for"));
}

fn limits_are_set_and_taken_back(bench: Bench) {
    let before = in_force(&bench, "limits/checkout");
    bench.weir(0, &["limit", "set", "checkout", "200/s", "--burst", "50", "--why", "the database drowns"]);
    let now = in_force(&bench, "limits/checkout");
    assert_eq!((&now["rate"], &now["burst"]), (&json!("200/s"), &json!(50)));
    bench.weir(0, &["limit", "set", "checkout", "observe"]);
    let document = bench.document("orders/limits/checkout");
    assert_eq!(
        (&document["rate"], &document["burst"], &document["state"]),
        (&json!("200/s"), &json!(50), &json!("observe"))
    );
    bench.weir(0, &["limit", "set", "checkout", "--burst", "60"]);
    assert_eq!(in_force(&bench, "limits/checkout")["burst"], 60);
    // The rate that has no end would end too.
    let done = bench.weir(1, &["limit", "set", "checkout", "off", "--for", "5m"]);
    assert!(done.err.contains("rate"), "{}", done.err);
    bench.weir(0, &["limit", "unset", "checkout"]);
    assert_eq!(bench.value("orders/limits/checkout"), None);
    assert_eq!(in_force(&bench, "limits/checkout").to_string(), before.to_string());
    bench.weir(2, &["limit", "set", "checkout"]);
    let commands: Vec<_> = bench.audits("orders").iter().map(|it| it["command"].clone()).collect();
    assert_eq!(commands, ["limit set", "limit set", "limit set", "limit unset"]);
}

fn breakers_are_held_and_released(bench: Bench) {
    let before = in_force(&bench, "upstreams/stock");
    bench.weir(0, &["breaker", "open", "stock", "--why", "it corrupts data"]);
    assert_eq!(bench.document("orders/upstreams/stock")["breaker"], json!({ "mode": "open" }));
    bench.weir(0, &["breaker", "close", "stock", "--for", "5m"]);
    assert_eq!(in_force(&bench, "upstreams/stock")["breaker"]["mode"], "closed");
    let done = bench.weir(2, &["breaker", "auto", "stock", "--for", "5m"]);
    assert!(done.err.contains("nothing is left that could end"), "{}", done.err);
    let done = bench.weir(0, &["breaker", "auto", "stock"]);
    assert!(done.err.contains("loses its mode"), "{}", done.err);
    assert_eq!(bench.value("orders/upstreams/stock"), None);
    assert_eq!(in_force(&bench, "upstreams/stock").to_string(), before.to_string());
    let done = bench.weir(0, &["breaker", "auto", "stock"]);
    assert!(done.err.contains("says no mode") && done.out.contains("nothing is written"), "{}", done.err);
    assert_eq!(bench.audits("orders").len(), 3);

    // Where a lower layer says otherwise, auto is said.
    let done = bench.weir(0, &["breaker", "auto", "pay"]);
    assert!(done.err.contains("gets `mode: auto`, because the baseline says `closed`"), "{}", done.err);
    assert_eq!(in_force(&bench, "upstreams/pay")["breaker"]["mode"], "auto");
    bench.weir(0, &["breaker", "open", "stock", "--scope", "_all"]);
    let done = bench.weir(0, &["breaker", "auto", "stock"]);
    assert!(done.err.contains("the fleet says `open`"), "{}", done.err);
    assert_eq!(in_force(&bench, "upstreams/stock")["breaker"]["mode"], "auto");
}

fn the_breaker_of_one_route(bench: Bench) {
    let before = in_force(&bench, "routes/stock");
    bench.weir(0, &["breaker", "open", "stock", "--route", "stock"]);
    assert_eq!(bench.document("orders/routes/stock")["breaker"]["mode"], "open");
    assert_eq!(bench.value("orders/upstreams/stock"), None);
    let done = bench.weir(1, &["breaker", "open", "app", "--route", "stock"]);
    assert!(done.err.contains("does not lead to `app`"), "{}", done.err);
    bench.weir(2, &["breaker", "open", "app", "stock", "--route", "stock"]);
    bench.weir(1, &["breaker", "open", "stock", "--route", "stack"]);
    bench.weir(0, &["breaker", "auto", "stock", "--route", "stock"]);
    assert_eq!(bench.value("orders/routes/stock"), None);
    assert_eq!(in_force(&bench, "routes/stock").to_string(), before.to_string());
}

fn a_name_that_nobody_has(bench: Bench) {
    for (arguments, words) in [
        (&["switch", "on", "no-rec"][..], "did you mean `no-recs`?"),
        (&["switch", "unset", "no-rec"], "did you mean `no-recs`?"),
        (&["limit", "set", "chekout", "1/s"], "did you mean `checkout`?"),
        (&["breaker", "open", "stocks"], "did you mean `stock`?"),
        (&["breaker", "auto", "stocks"], "did you mean `stock`?"),
        (&["plan", "on", "sal"], "did you mean `sale`?"),
        (&["plan", "diff", "sal"], "did you mean `sale`?"),
        (&["switch", "on", "x"], "there are `no-ads` and `no-recs`"),
    ] {
        let done = bench.weir(1, arguments);
        assert!(done.err.contains(words), "{arguments:?} {}", done.err);
    }
    assert_eq!(bench.json(0, &["ls"]), json!([]));
    // It is there once a layer has it, and by force.
    bench.policy(0, &["set", "switches/new", "{state: off, reject: {status: 503}}"]);
    bench.weir(0, &["switch", "on", "new"]);
    bench.weir(0, &["switch", "on", "newer", "--force"]);
    assert_eq!(bench.document("orders/switches/newer")["state"], "on");
}

fn bad_values_are_refused_as_check_refuses_them(bench: Bench) {
    for (arguments, key, words) in [
        (&["switch", "set", "no-recs", "perhaps"][..], SWITCH, "perhaps"),
        (&["switch", "set", "no-recs", "200%"], SWITCH, "200%"),
        (&["limit", "set", "checkout", "7/d"], "orders/limits/checkout", "7/d"),
        (&["limit", "set", "checkout", "often"], "orders/limits/checkout", "often"),
    ] {
        let done = bench.weir(64, arguments);
        assert!(done.err.contains("error[WEIR-") && done.err.contains(words), "{}", done.err);
        assert!(done.err.contains(&format!("{key}:1:")), "{}", done.err);
        assert!(done.err.contains("is not written"), "{}", done.err);
        assert_eq!(bench.value(key), None);
    }
    // What only the layers together show.
    bench.policy(0, &["set", "limits/checkout", "{algorithm: sliding_window, burst: null}"]);
    let done = bench.weir(64, &["limit", "set", "checkout", "5/s", "--burst", "3"]);
    assert!(done.err.contains("burst"), "{}", done.err);
    assert_eq!(bench.audits("orders").len(), 1);
}

fn a_dry_run_writes_nothing(bench: Bench) {
    for arguments in [
        &["switch", "on", "no-recs"][..],
        &["switch", "off", "no-recs", "no-ads"],
        &["switch", "set", "no-recs", "25%"],
        &["limit", "set", "checkout", "9/s"],
        &["breaker", "open", "stock"],
        &["breaker", "close", "stock", "--route", "stock"],
        &["breaker", "auto", "pay"],
        &["plan", "on", "sale"],
    ] {
        let arguments: Vec<_> = arguments.iter().chain(&["--dry-run"]).copied().collect();
        let done = bench.weir(0, &arguments);
        assert!(done.out.contains("+++ overlay after"), "{arguments:?} {}", done.out);
        assert!(done.out.ends_with("nothing is written\n"), "{arguments:?} {}", done.out);
    }
    assert_eq!(bench.json(0, &["ls"]), json!([]));
    bench.weir(0, &["switch", "on", "no-recs"]);
    let done = bench.weir(0, &["switch", "unset", "no-recs", "--dry-run"]);
    assert!(done.out.contains("-state: on") && done.out.contains("+state: off"), "{}", done.out);
    assert_eq!(bench.document(SWITCH)["state"], "on");
    assert_eq!(bench.audits("orders").len(), 1);
}

fn nothing_is_written_over_what_was_not_seen(bench: Bench) {
    let first = bench.answer(0, &["switch", "on", "no-recs", "--expect-revision", "0"]);
    let revision = first["revision"].as_i64().unwrap().to_string();
    let done = bench.weir(1, &["switch", "off", "no-recs", "--expect-revision", "0"]);
    assert!(done.err.contains(&format!("at revision {revision}, not at 0")), "{}", done.err);
    bench.weir(1, &["switch", "unset", "no-recs", "--expect-revision", "1"]);
    assert_eq!(bench.document(SWITCH)["state"], "on");
    let second = bench.answer(0, &["switch", "unset", "no-recs", "--expect-revision", &revision]);
    assert_eq!((&second["action"], &second["before_revision"]), (&json!("unset"), &first["revision"]));
}

fn of_many_at_once_one_is_written(bench: Bench) {
    let first = bench.answer(0, &["limit", "set", "checkout", "1/s"]);
    let revision = first["revision"].as_i64().unwrap().to_string();
    let children: Vec<_> = (2..6)
        .map(|n| {
            bench.spawn(&["limit", "set", "checkout", &format!("{n}/s"), "--expect-revision", &revision])
        })
        .collect();
    let done: Vec<_> =
        children.into_iter().map(|child| finish(child, crate::support::PATIENCE * 3)).collect();
    let codes: Vec<_> = done.iter().map(|done| done.code).collect();
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{done:?}");
    assert_eq!(codes.iter().filter(|code| **code == 1).count(), 3, "{done:?}");
    let winner = codes.iter().position(|code| *code == 0).unwrap() + 2;
    assert_eq!(bench.document("orders/limits/checkout")["rate"], format!("{winner}/s"));
    assert_eq!(bench.audits("orders").len(), 2);
}

fn who_else_has_a_say_is_told(bench: Bench) {
    // A plan above: the answer is no.
    bench.weir(0, &["plan", "on", "sale"]);
    let done = bench.weir(1, &["switch", "off", "no-recs"]);
    assert!(done.err.contains("the plan `sale` is on and overrides: state"), "{}", done.err);
    assert_eq!(bench.document(SWITCH)["state"], "off");
    let answer = bench.answer(1, &["limit", "set", "checkout", "8/s"]);
    assert_eq!(answer["masked"], json!([{ "plan": "sale", "fields": ["rate"] }]));
    bench.weir(0, &["plan", "off", "sale"]);
    assert_eq!(in_force(&bench, "limits/checkout")["rate"], "8/s");
    // A more specific scope above: it is said.
    let done = bench.weir(0, &["switch", "on", "no-recs", "--scope", "_all"]);
    assert!(done.err.contains("orders/switches/no-recs lies above _all/switches/no-recs"), "{}", done.err);
    let done = bench.weir(0, &["switch", "set", "no-ads", "on"]);
    assert_eq!(done.err, "");
    bench.weir(0, &["switch", "off", "no-ads", "--scope", "orders@pod-1"]);
    assert_eq!(in_force(&bench, "switches/no-ads")["state"], "off");
    let done = bench.weir(1, &["limit", "unset", "checkout", "--scope", "_all"]);
    assert!(done.err.contains("there is orders/limits/checkout (`--scope orders`)"), "{}", done.err);
    // And bypass above all.
    bench.policy(0, &["set", "bypass", "on"]);
    let done = bench.weir(0, &["switch", "on", "no-recs"]);
    assert!(done.err.contains("bypass is on"), "{}", done.err);
}

fn without_a_file_fields_are_set_all_the_same(bench: Bench) {
    let option = bench.option();
    let elsewhere = tempfile::TempDir::new().unwrap();
    let run = |arguments: &[&str]| {
        let arguments: Vec<_> =
            arguments.iter().chain(&["--store", &option, "--service", "orders"]).copied().collect();
        finish(crate::harness::spawn(elsewhere.path(), &arguments), crate::support::PATIENCE)
    };
    bench.policy(0, &["set", "switches/no-recs", "{priority: 7}"]);
    run(&["switch", "on", "no-recs"]).ok();
    let document = bench.document(SWITCH);
    assert_eq!((&document["state"], &document["priority"]), (&json!("on"), &json!(7)));
    run(&["switch", "on", "nobody-knows"]).ok();
    run(&["breaker", "open", "pay"]).ok();
    // Nobody knows here what the file says of it.
    run(&["breaker", "auto", "pay"]).ok();
    assert_eq!(bench.value("orders/upstreams/pay"), None);
    run(&["breaker", "open", "pay", "--scope", "_all"]).ok();
    run(&["breaker", "auto", "pay"]).ok();
    assert_eq!(bench.document("orders/upstreams/pay")["breaker"]["mode"], "auto");
    let done = run(&["plan", "diff", "sale"]);
    assert_eq!(done.code, 2);
    assert!(done.err.contains("`-c FILE`"), "{}", done.err);
    let nowhere = finish(
        crate::harness::spawn(elsewhere.path(), &["switch", "on", "no-recs"]),
        crate::support::PATIENCE,
    );
    assert_eq!(nowhere.code, 2);
    assert!(nowhere.err.contains("--store dir:PATH"), "{}", nowhere.err);
}

fn what_cannot_be_read_is_left_alone(bench: Bench) {
    bench.put(&format!("/weir/policy/{SWITCH}"), "{state: on");
    let done = bench.weir(64, &["switch", "off", "no-recs"]);
    assert!(done.err.contains("cannot be read"), "{}", done.err);
    bench.weir(64, &["switch", "unset", "no-recs"]);
    assert_eq!(bench.value(SWITCH).as_deref(), Some("{state: on"));
    bench.weir(0, &["switch", "off", "no-recs", "--force"]);
    assert_eq!(bench.document(SWITCH)["state"], "off");
    // What removes a switch is taken back as a whole; a state brings it back.
    bench.policy(0, &["set", "switches/new", "{reject: {status: 503}}", "--scope", "_all"]);
    bench.policy(0, &["set", "switches/new", "null"]);
    let done = bench.weir(1, &["switch", "unset", "new"]);
    assert!(done.err.contains("weir policy unset switches/new"), "{}", done.err);
    let done = bench.weir(0, &["switch", "on", "new"]);
    assert!(done.err.contains("now it is there again"), "{}", done.err);
    assert_eq!(in_force(&bench, "switches/new")["state"], "on");
}
