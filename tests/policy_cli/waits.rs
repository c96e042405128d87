//! `weir wait`: who has a revision.

use serde_json::{Value, json};
use weir::{
    config::Name,
    store::presence::{Refusal, Report, Source, key},
};

use crate::{
    harness::{Bench, FILE, Store},
    support::{
        programs::Done,
        wait_until,
        weir::{File, unused_address},
    },
};

fn report(instance: &str, applied: i64) -> Report {
    Report {
        version: "0.1.0".to_owned(),
        service: Name::new("orders").unwrap(),
        instance: Name::new(instance).unwrap(),
        cluster: 1,
        applied,
        proven: applied,
        hash: "h".to_owned(),
        source: Source::Store,
        refused: Vec::new(),
        refused_count: 0,
        held: 0,
        since: None,
    }
}

fn put(bench: &Bench, report: &Report) {
    let text = String::from_utf8(report.encode()).unwrap();
    bench.put(&format!("/weir{}", key(&report.service, &report.instance)), &text);
}

#[track_caller]
fn wait(bench: &Bench, code: i32, more: &[&str]) -> Done {
    let arguments: Vec<_> = ["wait", "--timeout", "600ms"].iter().chain(more).copied().collect();
    let done = bench.run(&arguments);
    assert_eq!(done.code, code, "{arguments:?}\n{}\n{}", done.out, done.err);
    done
}

#[test]
fn all_must_have_it_and_none_may_refuse() {
    let bench = Bench::etcd();
    let done = wait(&bench, 1, &["--revision", "10"]);
    assert!(
        done.out.contains("no instance was seen") && done.out.contains("0 of 0 instances"),
        "{}",
        done.out
    );

    put(&bench, &report("pod-1", 10));
    put(&bench, &report("pod-2", 12));
    let done = wait(&bench, 0, &["--revision", "10"]);
    assert_eq!(done.out, "2 of 2 instances have revision 10\n");
    let done = wait(&bench, 1, &["--revision", "11"]);
    assert!(done.out.contains("pod-1") && done.out.contains("behind: it has 10"), "{}", done.out);
    assert!(
        !done.out.contains("pod-2") && done.out.contains("1 of 2 instances have revision 11"),
        "{}",
        done.out
    );
    let done = wait(&bench, 1, &["--revision", "10", "--expect", "3"]);
    assert!(done.out.contains("2 of 2 instances have revision 10; 3 were expected"), "{}", done.out);
    wait(&bench, 0, &["--revision", "11", "--instance", "pod-2"]);
    assert!(wait(&bench, 1, &["--revision", "11", "--instance", "pod-7"]).out.contains("not seen: pod-7"));

    let refusal =
        Refusal { key: "orders/limits/x".to_owned(), revision: 9, reason: "`7/d` is no rate".to_owned() };
    put(&bench, &Report { refused: vec![refusal], refused_count: 1, ..report("pod-2", 12) });
    let done = wait(&bench, 1, &["--revision", "10"]);
    assert!(done.out.contains("pod-2 refuses orders/limits/x at 9: `7/d` is no rate"), "{}", done.out);
    put(&bench, &Report { held: 4, ..report("pod-2", 12) });
    let done = bench.run(&["wait", "--revision", "10", "--timeout", "1s", "-o", "json"]);
    assert_eq!(done.code, 1);
    let answer: Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!(
        (&answer["fine"], &answer["seen"], &answer["instances"][1]["held"]),
        (&json!(false), &json!(2), &json!(4))
    );

    // `orders2` is somebody else, and garbage is not passed over.
    bench.put("/weir/pods/orders2/pod-1", "{}");
    put(&bench, &report("pod-2", 12));
    wait(&bench, 0, &["--revision", "10"]);
    bench.put("/weir/pods/orders/pod-3", "garbage");
    let done = wait(&bench, 1, &["--revision", "10"]);
    assert!(done.out.contains("not understood: pod-3"), "{}", done.out);
}

#[test]
fn waits_until_the_last_one_has_it() {
    let bench = Bench::etcd();
    put(&bench, &report("pod-1", 3));
    let mut child = bench.spawn(&["wait", "--revision", "7"]);
    assert!(child.try_wait().unwrap().is_none());
    put(&bench, &report("pod-1", 7));
    let done = crate::support::programs::finish(child, crate::support::PATIENCE);
    assert_eq!((done.code, done.out.as_str()), (0, "1 of 1 instances have revision 7\n"), "{}", done.err);
}

#[test]
fn what_confirm_shows() {
    let bench = Bench::etcd();
    assert!(
        bench.policy(0, &["confirm", "--yes"]).out.contains("no instance of orders holds anything (0 seen)")
    );
    put(&bench, &Report { held: 5, ..report("pod-1", 3) });
    let done = bench.policy(0, &["confirm", "--yes"]);
    assert!(done.out.contains("pod-1") && done.out.contains('5'), "{}", done.out);
}

#[test]
fn a_directory_asks_the_instances() {
    let bench = Bench::directory();
    let done = wait(&bench, 2, &["--revision", "1"]);
    assert!(done.err.contains("--admin"), "{}", done.err);
    let live = bench.path("live");
    let weir = File::to(&[unused_address()])
        .top(&format!("store: {{ directory: {{ path: {}, interval: 10ms }} }}", live.display()))
        .start();
    let admin = format!("http://{}", weir.at("admin"));
    let option = bench.option();
    let set = |value: &str| -> String {
        let done = bench.policy(0, &["set", "routes/all", value, "-c", weir.path().to_str().unwrap()]);
        assert!(done.out.contains(&format!(" --admin {admin}\n")), "{}", done.out);
        done.out.split("at revision ").nth(1).unwrap().lines().next().unwrap().to_owned()
    };
    let revision = set("{timeout: 3s}");
    let done = bench.run(&["wait", "--revision", &revision, "--admin", &admin]).ok();
    assert_eq!(done.out, format!("1 of 1 instances have revision {revision}\n"));
    let policy: Value = serde_json::from_str(&weir.admin_get("/policy").text()).unwrap();
    assert_eq!(policy["routes"]["all"]["document"]["timeout"], "3s");
    assert!(policy["routes"]["all"]["fields"]["timeout"]["by"].as_str().unwrap().starts_with("ann@"));
    // Forced, and refused by the instance.
    let done = bench.policy(
        0,
        &["set", "routes/all", "{timeout: never}", "--force", "--store", &option, "--service", "test"],
    );
    let bad = done.out.split("at revision ").nth(1).unwrap().lines().next().unwrap().to_owned();
    let done = bench.run(&["wait", "--revision", &bad, "--admin", &admin, "--timeout", "10s"]);
    assert_eq!(done.code, 1, "{}", done.out);
    assert!(done.out.contains("refuses test/routes/all") && done.out.contains("never"), "{}", done.out);
    let nobody = format!("http://{}", unused_address());
    let done = bench.run(&["wait", "--revision", "1", "--admin", &nobody, "--timeout", "100ms"]);
    assert_eq!(done.code, 1);
    assert!(done.out.contains(&nobody), "{}", done.out);
    assert_eq!(bench.run(&["wait", "--revision", "1", "--admin", "nonsense"]).code, 2);
    assert_eq!(bench.run(&["wait", "--revision", "0"]).code, 2);
}

#[test]
fn a_change_in_etcd_reaches_a_running_weir() {
    let bench = Bench::etcd();
    let Store::Etcd(etcd) = &bench.store else { panic!("no etcd") };
    let weir = File::to(&[unused_address()])
        .top(&format!(
            "store: {{ etcd: {{ endpoints: [\"{}\"] }}, cache: {} }}",
            etcd.endpoint(),
            bench.path("policy.cache").display()
        ))
        .start();
    let (file, admin) = (weir.path(), format!("http://{}", weir.at("admin")));
    let file = file.to_str().unwrap();
    let field = |path: &str| -> Value {
        let policy: Value = serde_json::from_str(&weir.admin_get("/policy").text()).unwrap();
        policy.pointer(path).cloned().unwrap_or_default()
    };
    let timeout = "/routes/all/document/timeout";
    let done = bench.json(0, &["set", "routes/all", "{timeout: 3s}", "-c", file]);
    let revision = done["revision"].to_string();
    bench.run(&["wait", "--revision", &revision, "--admin", &admin]).ok();
    assert_eq!(field(timeout), "3s");
    let done = bench.json(0, &["unset", "routes/all", "-c", file]);
    let revision = done["revision"].to_string();
    bench.run(&["wait", "--revision", &revision, "--admin", &admin]).ok();
    assert_eq!(field(timeout), Value::Null);
    // An end that comes by itself.
    let done = bench.json(0, &["set", "routes/all", "{timeout: 4s}", "--for", "3s", "-c", file]);
    let revision = done["revision"].to_string();
    bench.run(&["wait", "--revision", &revision, "--admin", &admin]).ok();
    wait_until("the overlay to be over", || field(timeout).is_null());
    bench.policy(0, &["set", "bypass", "on", "--scope", "_all", "-c", file]);
    wait_until("bypass", || field("/bypass/document/state") == "on");
}

#[test]
fn a_mass_deletion_is_held_until_it_is_confirmed() {
    let bench = Bench::directory();
    let live = bench.path("live");
    let weir = File::to(&[unused_address()])
        .top(&format!("store: {{ directory: {{ path: {}, interval: 10ms }} }}", live.display()))
        .start();
    let file = weir.path();
    let file = file.to_str().unwrap();
    for name in ["a", "b", "c", "d"] {
        bench.policy(0, &["set", &format!("upstreams/{name}"), "{endpoints: [127.0.0.1:9]}", "-c", file]);
    }
    let has = |name: &str| {
        let policy: Value = serde_json::from_str(&weir.admin_get("/policy").text()).unwrap();
        policy["upstreams"][name].is_object()
    };
    wait_until("the upstreams to be there", || ["a", "b", "c", "d"].iter().all(|name| has(name)));
    std::fs::remove_dir_all(live.join("test/upstreams")).unwrap();
    wait_until("the deletion to be held", || {
        let status: Value = serde_json::from_str(&weir.admin_get("/status").text()).unwrap();
        status["held"].as_array().is_some_and(|held| !held.is_empty())
    });
    assert!(has("a") && has("d"));
    let admin = format!("http://{}", weir.at("admin"));
    let done = bench.run(&["wait", "--revision", "1", "--admin", &admin, "--timeout", "100ms"]);
    assert_eq!(done.code, 1, "{}", done.out);
    assert!(done.out.contains("holds"), "{}", done.out);
    bench.policy(0, &["confirm", "--yes", "-c", file]);
    wait_until("the deletion to be applied", || !has("a") && !has("d"));
}

#[test]
fn the_file_of_these_tests_is_good() {
    let bench = Bench::directory();
    bench.file("only.yaml", FILE);
    bench.run(&["check", "-c", "only.yaml"]).ok();
}
