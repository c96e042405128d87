//! What is looked at: ls, diff, history, watch, and what is said when there is nothing to look at.

use std::io::{BufRead, BufReader};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    each_store,
    harness::{Bench, Store},
    support::{
        PATIENCE,
        programs::{Done, finish},
        wait_for,
        weir::unused_address,
    },
};

each_store!(lists_all_scopes, differs_or_does_not, watches_changes, says_what_is_not_there,);

fn lists_all_scopes(bench: Bench) {
    assert_eq!(bench.policy(0, &["ls"]).out, "no overlays\n");
    bench.policy(0, &["set", "bypass", "off", "--scope", "_all"]);
    bench.policy(0, &["set", "switches/no-recs", "on", "--why", "why not", "--for", "1h"]);
    bench.policy(0, &["set", "limits/checkout", "7/s", "--scope", "orders@pod-9"]);
    bench.put("/weir/policy/orders2/limits/checkout", "1/s");
    let all = bench.json(0, &["ls"]);
    let keys: Vec<_> = all.as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["_all/bypass", "orders/switches/no-recs", "orders@pod-9/limits/checkout"]);
    assert_eq!((&all[1]["value"], &all[1]["why"]), (&json!({ "state": "on" }), &json!("why not")));
    let table = bench.policy(0, &["ls"]).out;
    let row = table.lines().find(|line| line.starts_with("orders/switches")).unwrap();
    let cells: Vec<_> = row.split_whitespace().collect();
    assert_eq!((cells[1], cells[2]), ("on", all[1]["revision"].to_string().as_str()));
    assert!(row.ends_with("why not") && row.contains("ann@"), "{row}");
    let some = bench.json(0, &["ls", "limits"]);
    assert_eq!(some.as_array().unwrap().len(), 1);
    let one = bench.json(0, &["ls", "--scope", "_all"]);
    assert_eq!(one[0]["key"], "_all/bypass");
    // What a terminal would obey is shown.
    bench.put("/weir/policy/orders/switches/odd", "{state: \"\\e[31m\"}");
    assert!(!bench.policy(0, &["ls"]).out.contains('\u{1b}'));
    assert!(!bench.policy(0, &["get", "switches/odd"]).out.contains('\u{1b}'));
}

fn differs_or_does_not(bench: Bench) {
    bench.file("limit.yaml", "rate: 40/s\n");
    let done = bench.policy(1, &["diff", "limits/checkout", "limit.yaml"]);
    assert!(done.out.contains("+rate: 40/s"), "{}", done.out);
    bench.policy(0, &["set", "limits/checkout", "40/s", "--why", "does not count"]);
    let done = bench.policy(0, &["diff", "limits/checkout", "limit.yaml"]);
    assert!(done.out.contains("is as in limit.yaml"), "{}", done.out);
    bench.file("limit.yaml", "rate: 41/s\n");
    let answer = bench.json(1, &["diff", "limits/checkout", "limit.yaml"]);
    assert_eq!(
        (&answer["same"], &answer["store"]["rate"], &answer["file"]["rate"]),
        (&json!(false), &json!("40/s"), &json!("41/s"))
    );
    bench.file("limit.yaml", "[");
    bench.policy(64, &["diff", "limits/checkout", "limit.yaml"]);
}

fn watches_changes(bench: Bench) {
    bench.policy(0, &["set", "limits/checkout", "1/s"]);
    let mut child = bench.spawn(&["policy", "watch", "-o", "json"]);
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("watching from revision"), "{line}");
    bench.policy(0, &["set", "limits/checkout", "2/s", "--why", "more"]);
    let mut told = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&told.next().unwrap().unwrap()).unwrap() };
    let first = next();
    assert_eq!(
        (&first["key"], &first["action"], &first["why"]),
        (&json!("orders/limits/checkout"), &json!("set"), &json!("more"))
    );
    assert_eq!(first["value"]["rate"], "2/s");
    bench.policy(0, &["unset", "limits/checkout"]);
    let second = next();
    assert_eq!((&second["key"], &second["action"]), (&json!("orders/limits/checkout"), &json!("unset")));
    assert!(second["revision"].as_i64() > first["revision"].as_i64());
    bench.put("/weir/policy/_all/bypass", "off");
    assert_eq!(next()["key"], "_all/bypass");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(wait_for("watch to end", || child.try_wait().unwrap()).code(), Some(0));
}

fn says_what_is_not_there(bench: Bench) {
    let elsewhere = tempfile::TempDir::new().unwrap();
    let run = |arguments: &[&str]| -> Done {
        finish(crate::harness::spawn(elsewhere.path(), arguments), PATIENCE * 3)
    };
    let done = run(&["policy", "ls"]);
    assert_eq!(done.code, 2);
    assert!(
        done.err.contains("--store etcd:http://HOST:2379") && done.err.contains("-c FILE"),
        "{}",
        done.err
    );
    let (store, words) = match &bench.store {
        Store::Etcd(_) => (format!("etcd:http://{}", unused_address()), "no member of the store answered"),
        Store::Directory(_) => ("dir:none".to_owned(), "mkdir -p none"),
    };
    for arguments in [&["ls"][..], &["set", "switches/x", "on"], &["watch"], &["history", "switches/x"]] {
        // A directory without entries has no history, and no need of one.
        if matches!(bench.store, Store::Directory(_)) && arguments[0] == "history" {
            continue;
        }
        let all: Vec<_> = ["policy"]
            .iter()
            .chain(arguments)
            .chain(&["--store", &store, "--service", "orders"])
            .copied()
            .collect();
        let done = run(&all);
        assert_eq!(done.code, 69, "{all:?} {}", done.err);
        if arguments[0] != "watch" {
            assert!(done.err.contains(words), "{all:?} {}", done.err);
        }
    }
    if matches!(bench.store, Store::Etcd(_)) {
        let wait =
            ["wait", "--revision", "1", "--timeout", "100ms", "--store", &store, "--service", "orders"];
        assert_eq!(run(&wait).code, 69);
    }
    bench.file("bad.yaml", "service: [\n");
    let done = bench.policy(64, &["ls", "-c", "bad.yaml"]);
    assert!(done.err.contains("bad.yaml:"), "{}", done.err);
    bench.file("alone.yaml", crate::harness::FILE);
    let done = bench.policy(2, &["ls", "-c", "alone.yaml"]);
    assert!(done.err.contains("no `store:` block"), "{}", done.err);
    assert!(bench.policy(1, &["get", "switches/none"]).err.contains("there is no switches/none"));
}

/// What was written by others shows as far as etcd keeps it.
#[test]
fn history_shows_what_others_wrote() {
    let bench = Bench::etcd();
    let key = "/weir/policy/orders/limits/checkout";
    bench.put(key, "1/s");
    bench.policy(0, &["set", "limits/checkout", "2/s", "--by", "ann"]);
    bench.put(key, "{rate: 3/s, by: bob}");
    let history = bench.json(0, &["history", "limits/checkout"]);
    let told: Vec<_> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["who"].as_str(), entry["audited"].as_bool().unwrap()))
        .collect();
    assert_eq!(told, [(Some("bob"), false), (Some("ann"), true), (None, false)]);
    assert_eq!(history[2]["value"], "1/s");
}

/// The newest are found among many, and the oldest too.
#[test]
fn history_of_many_years() {
    let bench = Bench::etcd();
    let entry = |month: u32, n: u32, key: &str| {
        let audit = json!({ "who": format!("m{month}"), "action": "set", "key": key, "after": "on" });
        (format!("/weir/audit/orders/2024{month:02}01T000000.{n:06}Z-0"), audit.to_string())
    };
    let all: Vec<_> = (1..=12)
        .flat_map(|m| (0..100).map(move |n| (m, n)))
        .map(|(m, n)| entry(m, n, "orders/limits/other"))
        .collect();
    bench.put_all(&all);
    bench.put_all(&[entry(2, 500, "orders/switches/no-recs")]);
    bench.put_all(&[entry(7, 500, "orders/switches/no-recs")]);
    bench.policy(0, &["set", "switches/no-recs", "on", "--by", "ann"]);
    let who = |limit: &str| -> Vec<String> {
        let history = bench.json(0, &["history", "switches/no-recs", "--limit", limit]);
        history.as_array().unwrap().iter().map(|entry| entry["who"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(who("1"), ["ann"]);
    assert_eq!(who("20"), ["ann", "m7", "m2"]);
}

#[test]
fn help_completions_and_the_manual_have_all_commands() {
    let folder = tempfile::TempDir::new().unwrap();
    let run = |arguments: &[&str]| finish(crate::harness::spawn(folder.path(), arguments), PATIENCE).ok().out;
    let manual = run(&["man"]);
    let completions = run(&["completions", "bash"]);
    for command in ["ls", "get", "set", "unset", "diff", "history", "watch", "confirm"] {
        let help = run(&["policy", command, "--help"]);
        assert!(help.contains("--store <STORE>") && help.contains("Usage: weir policy"), "{help}");
        assert!(manual.contains(&format!("weir\\-policy\\-{command}")), "{command}");
        assert!(
            completions.contains(&format!("weir__subcmd__policy__subcmd__{command}"))
                || completions.contains(&format!("weir__policy__{command}")),
            "{command}"
        );
    }
    assert!(run(&["policy", "set", "--help"]).contains("Exit codes:"));
    assert!(run(&["wait", "--help"]).contains("--revision <R>"));
    assert!(run(&["check", "--help"]).contains("--overlay <KEY=FILE>"));
}
