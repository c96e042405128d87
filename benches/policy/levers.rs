//! What limits and switches cost a request: instructions, counted as in [`crate::requests`].

use tempfile::TempDir;

use crate::{
    machinery::{free, origin},
    requests::count,
    resilience::more,
};

const LIMIT: &str = "limits: { all: 1000000/s }";
const SWITCH: &str = "switches: { other: { match: { path: /other/* }, reject: {}, state: on } }";
const BOTH: &str =
    "limits: { all: 1000000/s }\n  switches: { other: { match: { path: /other/* }, reject: {}, state: on } }";
const CLIENT: &str = "limits: { each: { rate: 1000000/s, key: client } }";
const HOST: &str = "limits: { each: { rate: 1000000/s, key: host } }";
const FLOOD: &str = "limits: { each: { rate: 10/h, burst: 10, key: host, max_keys: 1000 } }";
const SHARE: &str = "switches: { half: { key: host, annotate: { x-degrade: lite }, state: 0.01% } }";
const MANY: usize = 100;

pub(crate) fn measure() {
    println!("\n## Instructions of a request, by the limits and switches that it meets\n");
    println!("| hosts | | instructions | |\n|---|---|---:|---:|");
    let switches: Vec<_> = (0..MANY)
        .map(|n| format!("s{n}: {{ match: {{ path: /other/{n} }}, reject: {{}}, state: on }}"))
        .collect();
    let many = format!("switches: {{ {} }}", switches.join(", "));
    let same = |_| "orders.example.com".to_owned();
    let plain = instructions("", same);
    println!("| one | nothing | {plain} | |");
    for (what, policy) in [
        ("a limit", LIMIT),
        ("a switch that does not match", SWITCH),
        ("both", BOTH),
        ("a limit by client", CLIENT),
        ("a switch for 0.01 %, by host", SHARE),
        ("100 switches that do not match", &many),
    ] {
        let count = instructions(policy, same);
        println!("| one | {what} | {count} | {} |", more(count, plain));
    }
    let other = |n| format!("h{n}.example.com");
    let plain = instructions("", other);
    println!("| all different | nothing | {plain} | |");
    for (what, policy) in [
        ("a limit by host", HOST),
        ("the same, of 1,000 keys at most: each new one takes an old one's place", FLOOD),
    ] {
        let count = instructions(policy, other);
        println!("| all different | {what} | {count} | {} |", more(count, plain));
    }
}

fn instructions(policy: &str, host: impl Fn(usize) -> String) -> u64 {
    let (folder, listen) = (TempDir::new().expect("a folder"), free());
    let file = format!(
        "service: orders\ninstance: pod-1\nworkers: 1\nadmin: {{ listen: {admin} }}\n\
         telemetry: {{ listen: {telemetry} }}\nlisteners: {{ inbound: {{ listen: {listen} }} }}\n\
         policy:\n  upstreams: {{ app: {{ endpoints: [{origin}] }} }}\n  routes: {{ all: {{ upstream: app }} }}\n  {policy}\n",
        admin = free(),
        telemetry = free(),
        origin = origin("hello"),
    );
    count(folder.path(), &file, listen, host)
}
