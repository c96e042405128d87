//! `weir check --overlay`.

use serde_json::Value;

use crate::harness::Bench;

#[test]
fn documents_are_checked_over_the_file() {
    let bench = Bench::directory();
    bench.file("off.yaml", "on\n");
    bench.file("route.yaml", "upstream: extra\n");
    bench.file("extra.yaml", "endpoints: [10.0.0.1:80]\n");
    let fine = bench.run(&[
        "check",
        "--overlay",
        "orders/switches/no-recs=off.yaml",
        "routes/new=route.yaml",
        "_all/upstreams/extra=extra.yaml",
    ]);
    assert_eq!((fine.code, fine.out.as_str()), (0, "3 overlays over weir.yaml: fine\n"), "{}", fine.err);
    // Without the upstream the route leads nowhere.
    let done = bench.run(&["check", "--overlay", "routes/new=route.yaml"]);
    assert_eq!(done.code, 64, "{}", done.out);
    assert!(done.out.contains("route.yaml:1:11") && done.out.contains("extra"), "{}", done.out);
    assert!(done.out.ends_with("1 overlay over weir.yaml: 1 error, 0 warnings\n"), "{}", done.out);
}

#[test]
fn all_faults_at_once_with_their_places() {
    let bench = Bench::directory();
    bench.file("limit.yaml", "rate: 7/d\nburst: -1\n");
    bench.file("switch.yaml", "# a comment\nstate: perhaps\n");
    bench.file("route.yaml", "timeout: 1s\nuptream: app\nupstream: nowhere\n");
    let arguments = [
        "check",
        "--overlay",
        "limits/checkout=limit.yaml",
        "--overlay",
        "switches/no-recs=switch.yaml",
        "orders@pod-7/routes/in=route.yaml",
        "_all/bypass=none.yaml",
    ];
    let done = bench.run(&arguments);
    assert_eq!(done.code, 64, "{}", done.out);
    for place in [
        "limit.yaml:1:7",
        "limit.yaml:2:8",
        "switch.yaml:2:8",
        "route.yaml:2:1",
        "route.yaml:3:11",
        "none.yaml",
    ] {
        assert!(done.out.contains(place), "{place}\n{}", done.out);
    }
    let json: Vec<_> = arguments.iter().chain(&["-o", "json"]).copied().collect();
    let faults: Value = serde_json::from_str(&bench.run(&json).out).unwrap();
    let errors = faults.as_array().unwrap().iter().filter(|fault| fault["severity"] == "error").count();
    assert_eq!(errors, 5, "{faults:#}");
}

#[test]
fn without_a_file_and_with_faults_in_it() {
    let bench = Bench::directory();
    bench.file("on.yaml", "on\n");
    std::fs::remove_file(bench.path("weir.yaml")).unwrap();
    let done = bench.run(&["check", "--overlay", "orders/switches/x=on.yaml"]);
    assert_eq!(
        (done.code, done.out.as_str()),
        (0, "1 overlay checked without a file: fine\n"),
        "{}",
        done.err
    );
    bench.file("weir.yaml", "service: orders\n");
    let done = bench.run(&["check", "--overlay", "orders/limits/x=on.yaml"]);
    assert_eq!(done.code, 64);
    assert_eq!(bench.run(&["check", "-c", "none.yaml", "--overlay", "orders/limits/x=on.yaml"]).code, 64);
    let done = bench.run(&["check", "--overlay", "orders/limits=on.yaml"]);
    assert_eq!(done.code, 2);
    assert!(done.err.contains("without a name"), "{}", done.err);
}
