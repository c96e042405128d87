//! What live policy costs, and how fast it is: the figures of the README.
//!
//! - `cargo bench --bench policy` measures everything; it needs `etcd` and `valgrind`, and builds nothing but itself:
//!   the release binary must be there (`cargo build --release`).
//! - `cargo bench --bench policy -- changes`, `puts`, `requests`, `resilience`, `levers` or `herd` measures one part.
//!
//! Nothing here asserts how fast the machine is.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a program that measures and prints: to fail loudly is right"
)]

mod changes;
mod herd;
mod levers;
mod machinery;
mod naive;
mod puts;
mod requests;
mod resilience;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let wanted = |part: &str| words.is_empty() || words.iter().any(|word| word == part);
    if wanted("changes") {
        changes::measure();
    }
    if wanted("puts") {
        puts::measure();
    }
    if wanted("requests") {
        requests::measure();
    }
    if wanted("resilience") {
        resilience::measure();
    }
    if wanted("levers") {
        levers::measure();
    }
    if wanted("herd") {
        herd::measure();
    }
}
