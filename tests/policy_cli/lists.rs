//! `ls` of switches, limits, breakers and plans: from the layers, from an instance, and from overlays alone.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    path::Path,
};

use serde_json::{Value, json};

use crate::{
    each_store,
    harness::{Bench, spawn},
    support::{
        PATIENCE,
        programs::{Done, finish},
        wait_until,
        weir::{Weir, get, unused_address},
    },
};

each_store!(lists_over_the_file, lists_with_an_instance, lists_of_overlays_alone);

/// An admin interface that answers these paths, and nothing else. Its thread ends with the process.
fn fake(answers: Value) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            while stream.read_line(&mut line).is_ok_and(|length| length > 2) {}
            let (status, body) = match answers.get(&path) {
                Some(answer) => ("200 OK", answer.to_string()),
                None => ("404 Not Found", "{}".to_owned()),
            };
            let _ = write!(
                stream.get_mut(),
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
                 connection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
    address
}

/// The cells of the row that begins with `name`; the columns are two blanks apart.
#[track_caller]
fn row(table: &str, name: &str) -> Vec<String> {
    let line = table.lines().find(|line| line.split_whitespace().next() == Some(name));
    let line = line.unwrap_or_else(|| panic!("no row {name}\n{table}"));
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
}

fn lists_over_the_file(bench: Bench) {
    let table = bench.weir(0, &["switch", "ls"]).out;
    assert!(table.starts_with("NAME     STATE  LAYER     BY  UNTIL  WHY\n"), "{table}");
    assert_eq!(row(&table, "no-recs"), ["no-recs", "off", "baseline", "-", "-", "-"]);
    assert_eq!(row(&table, "no-ads"), ["no-ads", "off", "default", "-", "-", "-"]);
    bench.weir(0, &["switch", "set", "no-recs", "25%", "--by", "bob", "--why", "the vendor", "--for", "30m"]);
    let table = bench.weir(0, &["switch", "ls"]).out;
    let cells = row(&table, "no-recs");
    assert_eq!(
        (&cells[1..4], cells.last().unwrap().as_str()),
        (&["25%", "service", "bob"].map(str::to_owned)[..], "the vendor")
    );
    assert!(cells[4].ends_with(" left)") && cells[4].contains('m'), "{cells:?}");
    // A plan lies above; who turned it on answers for it.
    bench.weir(0, &["plan", "on", "spring", "--by", "carl", "--why", "spring"]);
    let table = bench.weir(0, &["switch", "ls"]).out;
    assert_eq!(row(&table, "no-ads"), ["no-ads", "on", "plan spring", "carl", "-", "spring"]);
    let listed = bench.answer(0, &["switch", "ls"]);
    assert_eq!(
        (&listed[1]["name"], &listed[1]["state"], &listed[1]["place"]["layer"]),
        (&json!("no-recs"), &json!("25%"), &json!("plans"))
    );
    assert_eq!(listed[1].get("instance"), None);

    bench.weir(0, &["limit", "set", "checkout", "9/s", "--scope", "_all"]);
    let table = bench.weir(0, &["limit", "ls"]).out;
    assert_eq!(row(&table, "checkout")[..5], ["checkout", "9/s", "on", "9/s", "fleet"]);

    bench.weir(0, &["breaker", "open", "stock", "--route", "stock"]);
    let table = bench.weir(0, &["breaker", "ls"]).out;
    assert_eq!(row(&table, "pay")[..4], ["pay", "-", "closed", "baseline"]);
    assert_eq!(row(&table, "app")[..4], ["app", "-", "default", "default"]);
    let cells = |line: &str| line.split_whitespace().take(4).map(str::to_owned).collect::<Vec<_>>();
    assert!(table.lines().any(|line| cells(line) == ["stock", "stock", "open", "service"]), "{table}");

    let table = bench.weir(0, &["plan", "ls"]).out;
    let cells = row(&table, "sale");
    assert_eq!(cells[..4], ["sale", "off", "limits/checkout, switches/no-recs", "spring (switches/no-recs)"]);
    // A refused overlay is named.
    bench.weir(0, &["plan", "off", "spring"]);
    bench.policy(0, &["set", "switches/no-recs", "perhaps", "--force"]);
    let done = bench.weir(0, &["switch", "ls"]);
    assert!(done.err.contains("refused: orders/switches/no-recs: "), "{}", done.err);
    bench.policy(0, &["set", "bypass", "on"]);
    assert!(bench.weir(0, &["limit", "ls"]).err.contains("bypass is on"));

    // The file alone.
    bench.file("alone.yaml", crate::harness::FILE);
    let table = bench.weir(0, &["switch", "ls", "-c", "alone.yaml"]).out;
    assert_eq!(row(&table, "no-recs")[1..3], ["off", "baseline"]);
}

fn lists_with_an_instance(bench: Bench) {
    let address = fake(json!({
        "/status": { "service": "orders", "instance": "pod-7" },
        "/switches": {
            "no-recs": { "state": "on", "hits": { "acted": 100, "observed": 0 }, "hits_last_minute": 42 },
            "no-ads": {
                "state": "auto", "automatic": { "on": true, "reason": "memory 80MiB > 64MiB for 5s" }, "hits_last_minute": 3,
            },
        },
        "/limits": { "checkout": {
            "effective_rate": 500.0 / 3.0, "instances": 3, "fallback": false,
            "last_minute": { "granted": 9_990, "refused": 12, "would_refuse": 0 },
        }},
        "/upstreams": { "stock": {
            "breaker": { "state": "open", "mode": "auto", "for_s": 61.5, "window": { "requests": 40, "failures": 30 } },
        }},
    }));
    let admin = format!("http://{address}");
    let table = bench.weir(0, &["switch", "ls", "--admin", &admin]).out;
    assert!(table.starts_with("NAME     STATE  HITS/MIN  LAYER"), "{table}");
    assert_eq!(row(&table, "no-recs")[..4], ["no-recs", "off", "42", "baseline"]);
    assert_eq!(row(&table, "no-ads")[..3], ["no-ads", "off", "3"]);
    let listed = bench.answer(0, &["switch", "ls", "--admin", &admin]);
    assert_eq!(listed[1]["instance"]["hits"]["acted"], 100);
    // What turned itself on says why.
    let when = "{ state: auto, when: { signal: memory, above: 64MiB } }";
    bench.policy(0, &["set", "switches/no-ads", when, "--why", "the vendor leaks"]);
    let table = bench.weir(0, &["switch", "ls", "--admin", &admin]).out;
    assert_eq!(row(&table, "no-ads")[..4], ["no-ads", "auto (on)", "3", "service"]);
    assert!(table.contains("memory 80MiB > 64MiB for 5s") && !table.contains("the vendor leaks"), "{table}");
    assert!(bench.weir(0, &["switch", "ls"]).out.contains("the vendor leaks"));
    bench.policy(0, &["unset", "switches/no-ads"]);
    // The view is that instance's.
    bench.weir(0, &["switch", "on", "no-recs", "--scope", "orders@pod-7"]);
    let table = bench.weir(0, &["switch", "ls", "--admin", &admin]).out;
    assert_eq!(row(&table, "no-recs")[..4], ["no-recs", "on", "42", "instance"]);
    assert_eq!(row(&bench.weir(0, &["switch", "ls"]).out, "no-recs")[1], "off");

    bench.policy(0, &["set", "limits/checkout", "{scope: service}"]);
    let table = bench.weir(0, &["limit", "ls", "--admin", &admin]).out;
    assert_eq!(
        row(&table, "checkout")[..6],
        ["checkout", "500/s", "on", "166.667/s of 500/s by 3", "9990", "12"]
    );
    assert_eq!(row(&bench.weir(0, &["limit", "ls"]).out, "checkout")[..4], ["checkout", "500/s", "on", "-"]);
    let table = bench.weir(0, &["breaker", "ls", "--admin", &admin]).out;
    assert_eq!(row(&table, "stock")[..6], ["stock", "-", "auto", "open", "1m1s", "30 of 40"]);
    assert_eq!(row(&table, "pay")[..6], ["pay", "-", "closed", "-", "-", "-"]);

    // The file's own instance is asked too, if it is this service's.
    let file = std::fs::read_to_string(bench.path("weir.yaml")).unwrap();
    bench.file("weir.yaml", &format!("{file}admin: {{ listen: {address} }}\n"));
    assert!(bench.weir(0, &["switch", "ls"]).out.contains("HITS/MIN"));
    let other = fake(json!({ "/status": { "service": "billing", "instance": "pod-7" } }));
    bench.file("weir.yaml", &format!("{file}admin: {{ listen: {other} }}\n"));
    let done = bench.weir(0, &["switch", "ls"]);
    assert!(!done.out.contains("HITS/MIN") && done.err.is_empty(), "{} {}", done.out, done.err);
    let done = bench.weir(1, &["switch", "ls", "--admin", &format!("http://{other}")]);
    assert!(done.err.contains("is of the service billing, not of orders"), "{}", done.err);
    // One that has no such path, and one that is not there.
    let older = fake(json!({ "/status": { "service": "orders", "instance": "pod-7" } }));
    let done = bench.weir(0, &["switch", "ls", "--admin", &format!("http://{older}")]);
    assert!(done.err.contains("404") && !done.out.contains("HITS/MIN"), "{}", done.err);
    let nobody = format!("http://{}", unused_address());
    bench.weir(69, &["switch", "ls", "--admin", &nobody]);
    bench.weir(2, &["switch", "ls", "--admin", "nonsense"]);
}

fn lists_of_overlays_alone(bench: Bench) {
    let option = bench.option();
    let elsewhere = tempfile::TempDir::new().unwrap();
    let run = |arguments: &[&str]| -> Done {
        let arguments: Vec<_> =
            arguments.iter().chain(&["--store", &option, "--service", "orders"]).copied().collect();
        finish(spawn(elsewhere.path(), &arguments), PATIENCE).ok()
    };
    assert_eq!(run(&["switch", "ls"]).out, "no switches\n");
    bench.weir(0, &["switch", "on", "no-recs", "--scope", "_all", "--by", "bob"]);
    bench.weir(0, &["switch", "set", "no-recs", "25%", "--by", "carl"]);
    bench.weir(0, &["switch", "on", "no-ads", "--scope", "_all", "--by", "bob"]);
    bench.put("/weir/policy/orders/switches/no-ads", "{state: off, until: \"2020-01-01T00:00:00Z\"}");
    bench.weir(0, &["plan", "on", "sale"]);
    let done = run(&["switch", "ls"]);
    assert!(done.err.contains("only what overlays say is shown"), "{}", done.err);
    assert_eq!(row(&done.out, "no-recs")[..4], ["no-recs", "25%", "service", "carl"]);
    assert_eq!(row(&done.out, "no-ads")[..4], ["no-ads", "on", "fleet", "bob"]);
    assert_eq!(row(&run(&["plan", "ls"]).out, "sale")[..2], ["sale", "on"]);
    bench.put("/weir/policy/orders/switches/no-recs", "null");
    assert!(!run(&["switch", "ls"]).out.contains("no-recs"));
}

/// A Weir that runs, on the store.
fn running(live: &Path) -> Weir {
    let text = crate::harness::FILE.replace("127.0.0.1:18080", "\"{{in}}\"");
    Weir::start(&format!("{text}store: {{ directory: {} }}\n", live.display()))
}

/// With the address of an instance alone its own policy is listed, and what a plan would change is what `/policy` then
/// shows.
#[test]
fn an_instance_alone_and_a_plan_on_it() {
    let bench = Bench::directory();
    let live = bench.path("live");
    let weir = running(&live);
    let admin = format!("http://{}", weir.at("admin"));
    let path = weir.path();
    let file = path.to_str().unwrap();
    let elsewhere = tempfile::TempDir::new().unwrap();
    let run = |arguments: &[&str]| finish(spawn(elsewhere.path(), arguments), PATIENCE * 3).ok();
    let policy = || -> Value {
        let answer = get(weir.at("admin"), "/policy").unwrap();
        serde_json::from_slice(&answer.body).unwrap()
    };
    let documents = |policy: &Value| -> Vec<String> {
        let kinds = ["switches", "limits", "upstreams", "routes"];
        let names =
            |kind: &&str| policy[*kind].as_object().unwrap().values().map(|it| it["document"].to_string());
        kinds.iter().flat_map(names).collect()
    };

    let table = run(&["switch", "ls", "--admin", &admin]).out;
    assert_eq!(row(&table, "no-recs")[1], "off");
    let table = run(&["breaker", "ls", "--admin", &admin]).out;
    assert_eq!(row(&table, "pay")[..4], ["pay", "-", "closed", "forced_closed"]);
    assert_eq!(row(&table, "app")[..4], ["app", "-", "observe", "closed"]);

    let before = policy();
    let preview: Value =
        serde_json::from_str(&run(&["plan", "diff", "sale", "-c", file, "-o", "json"]).out).unwrap();
    run(&["plan", "on", "sale", "-c", file]);
    wait_until("the plan to be on", || policy()["plans"]["sale"]["document"]["state"] == "on");
    let after = policy();
    let mut wanted = before.clone();
    for (resource, fields) in preview["changes"].as_object().unwrap() {
        let (kind, name) = resource.split_once('/').unwrap();
        for (field, change) in fields.as_object().unwrap() {
            wanted[kind][name]["document"][field] = change["after"].clone();
        }
    }
    let sorted = |policy: &Value| -> Vec<Value> {
        documents(policy).iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    };
    assert_eq!(sorted(&after), sorted(&wanted));
    assert_ne!(sorted(&after), sorted(&before));
    let table = run(&["switch", "ls", "--admin", &admin]).out;
    assert!(row(&table, "no-recs").contains(&"plan sale".to_owned()), "{table}");
    run(&["plan", "unset", "sale", "-c", file]);
    wait_until("the plan to be off", || policy()["plans"]["sale"]["document"]["state"] != "on");
    // To the byte.
    assert_eq!(documents(&policy()), documents(&before));
    // When the store is away, an instance that is named still tells.
    std::fs::remove_dir_all(&live).unwrap();
    let done = run(&["switch", "ls", "--admin", &admin, "--store", "dir:none", "--service", "orders"]);
    assert!(done.err.contains("shown is what the instance says"), "{}", done.err);
    assert_eq!(row(&done.out, "no-recs")[1], "off");
}

#[test]
fn help_completions_and_the_manual_have_the_levers() {
    let folder = tempfile::TempDir::new().unwrap();
    let run = |arguments: &[&str]| finish(spawn(folder.path(), arguments), PATIENCE).ok().out;
    let (manual, completions) = (run(&["man"]), run(&["completions", "bash"]));
    for (lever, commands) in [
        ("switch", &["on", "off", "set", "unset", "ls"][..]),
        ("limit", &["set", "unset", "ls"]),
        ("breaker", &["open", "close", "auto", "ls"]),
        ("plan", &["on", "off", "unset", "diff", "ls"]),
    ] {
        for command in commands {
            let help = run(&[lever, command, "--help"]);
            assert!(help.contains("--store <STORE>") && help.contains("--scope <SCOPE>"), "{help}");
            assert!(help.contains(&format!("Usage: weir {lever} {command}")), "{help}");
            if *command != "ls" && *command != "diff" {
                for option in ["--by", "--why", "--dry-run", "--expect-revision", "--force"] {
                    assert!(help.contains(option), "{lever} {command} {option}");
                }
            }
            assert!(manual.contains(&format!("weir\\-{lever}\\-{command}")), "{lever} {command}");
            assert!(
                completions.contains(&format!("weir__subcmd__{lever}__subcmd__{command}")),
                "{lever} {command}"
            );
        }
        assert!(run(&[lever, commands[0], "--help"]).contains("Example"), "{lever}");
    }
}
