//! What it costs to find a request's route, in instructions, for tables of 10, 100, 1,000 and 10,000 routes.
//!
//! `cargo bench --bench routes` counts with `valgrind --tool=callgrind`, so that the figures are the same on a
//! busy machine. Each table has as many hosts as paths; the requests hit exact paths, prefixes and wildcards, and
//! miss, in turn.

#![expect(clippy::print_stdout, clippy::expect_used, reason = "a program that measures and prints")]

use std::{
    env,
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    process::Command,
    sync::Arc,
};

use http::{HeaderMap, Method};
use weir::{
    config::{Name, load},
    route::{RequestView, RouteTable},
};

/// How many requests one measurement makes.
const REQUESTS: usize = 20_000;

fn main() {
    let arguments: Vec<String> = env::args().collect();
    if let Some(at) = arguments.iter().position(|word| word == "--measure") {
        let number = |i: usize| arguments.get(i).and_then(|text| text.parse().ok()).unwrap_or(0);
        return resolve(number(at + 1), number(at + 2));
    }
    println!("{:>8}  {:>24}", "routes", "instructions per request");
    for routes in [10, 100, 1_000, 10_000] {
        // The difference between some requests and none is what the requests cost.
        let spent = instructions(routes, REQUESTS).saturating_sub(instructions(routes, 0));
        println!("{routes:>8}  {:>24}", spent / REQUESTS as u64);
    }
}

/// Instructions that a process of this program takes for so many requests to a table of so many routes.
fn instructions(routes: usize, requests: usize) -> u64 {
    let program = env::current_exe().expect("the path of this program");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["--measure", &routes.to_string(), &requests.to_string()])
        .output()
        .expect("valgrind, of the Debian package of that name");
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find(|line| line.contains("Collected :")).expect("a count in valgrind's output");
    line.rsplit(' ').next().and_then(|count| count.parse().ok()).expect("a number")
}

fn resolve(routes: usize, requests: usize) {
    let table = table(routes);
    let headers = HeaderMap::new();
    let half = (routes / 2).max(1);
    for i in 0..requests {
        let (host, path) = (format!("h{}.example.com", i % half), format!("/service/{}/item", i % half));
        let (host, path) = match i % 4 {
            0 => (host.as_str(), "/exact"),
            1 => (host.as_str(), path.as_str()),
            2 => ("some.other.test", path.as_str()),
            _ => ("nobody", "/nothing"),
        };
        let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let view = RequestView { host, path, query: None, method: &Method::GET, headers: &headers, client };
        black_box(table.resolve(&view));
    }
}

/// Half of the routes by host, half by path.
fn table(routes: usize) -> RouteTable {
    use std::fmt::Write;
    let mut file = "service: s\nlisteners: { in: { listen: 127.0.0.1:1 } }\npolicy:\n  upstreams: { app: { endpoints: [127.0.0.1:2] } }\n  routes:\n".to_owned();
    for i in 0..routes / 2 {
        let _ = writeln!(
            file,
            "    h{i}: {{ match: {{ host: h{i}.example.com, path: /exact }}, upstream: app }}"
        );
        let _ = writeln!(file, "    p{i}: {{ match: {{ path: /service/{i}/* }}, upstream: app }}");
    }
    let vars = |_: &str| None;
    let host = weir::config::HostFacts { hostname: "bench".to_owned(), cpus: 1 };
    let probe = |_: &std::path::Path, _| Ok(());
    let loaded =
        load("bench", file.as_bytes(), &weir::config::Env { vars: &vars, host: &host, probe: &probe });
    let policy = loaded.file.expect("a file without faults").policy;
    let routes: Vec<Arc<_>> = policy.routes.values().cloned().collect();
    RouteTable::compile(&routes, &Name::new("in").expect("a name"))
}
