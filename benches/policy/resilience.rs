//! What breakers, ejection, health checks and balancing cost a request: instructions, counted as in [`crate::requests`].
//!
//! Checks run on the control thread, every five seconds; a request has none of that.

use tempfile::TempDir;

use crate::{
    machinery::{free, origin},
    requests::count,
};

const NOTHING: &str = "breaker: {mode: off}, ejection: {state: off}";
const ALL: &str = "health: {http: /healthz}, breaker: {mode: auto}";
const CALLS: &str = "health: {http: /healthz}, \
                     breaker: {mode: auto, window: 100, slow_rate: 50%, slow_after: 1s}";

pub(crate) fn measure() {
    println!("\n## Instructions of a request, by what watches over its upstream\n");
    println!("| endpoints | | instructions | |\n|---:|---|---:|---:|");
    let round_robin = format!("{NOTHING}, balancer: {{policy: round_robin}}");
    let plain = instructions(1, NOTHING);
    println!("| 1 | nothing | {plain} | |");
    for (endpoints, what, settings) in [
        (1, "breaker `auto`, ejection", "breaker: {mode: auto}"),
        (3, "nothing, `round_robin`", &round_robin),
        (3, "nothing, `peak_ewma`", NOTHING),
        (3, "health checks, breaker `auto`, ejection, `peak_ewma`", ALL),
        (3, "the same, the breaker by calls and by slowness", CALLS),
    ] {
        let count = instructions(endpoints, settings);
        println!("| {endpoints} | {what} | {count} | {} |", more(count, plain));
    }
}

/// By how much `count` is above `plain`, in percent.
pub(crate) fn more(count: u64, plain: u64) -> String {
    let tenths = (i128::from(count) - i128::from(plain)) * 1000 / i128::from(plain.max(1));
    let sign = if tenths < 0 { "−" } else { "+" };
    format!("{sign}{}.{} %", tenths.abs() / 10, tenths.abs() % 10)
}

fn instructions(endpoints: usize, settings: &str) -> u64 {
    let (folder, listen) = (TempDir::new().expect("a folder"), free());
    let endpoints: Vec<_> = (0..endpoints).map(|_| origin("hello").to_string()).collect();
    let file = format!(
        "service: orders\ninstance: pod-1\nworkers: 1\nadmin: {{ listen: {admin} }}\n\
         telemetry: {{ listen: {telemetry} }}\nlisteners: {{ inbound: {{ listen: {listen} }} }}\n\
         policy:\n  upstreams: {{ app: {{ endpoints: [{endpoints}], {settings} }} }}\n  routes: {{ all: {{ upstream: app }} }}\n",
        admin = free(),
        telemetry = free(),
        endpoints = endpoints.join(", "),
    );
    count(folder.path(), &file, listen, |_| "orders.example.com".to_owned())
}
