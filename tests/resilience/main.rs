//! The finished binary before origins that misbehave, on real sockets, under a steady load that does not wait for
//! answers: what callers get, what the origins are spared, and how long either takes.
//!
//! | what fails | tests |
//! |---|---|
//! | one of several endpoints | `ejection` |
//! | one endpoint is slow | `balancing` |
//! | the upstream as a whole | `breaker` |
//! | a dependency hangs | `hanging` |
//!
//! Environment variables, for runs on a quiet machine:
//!
//! - `WEIR_RESILIENCE_STRICT=1`: the times that are promised are asserted as they are; otherwise they are shown, and only
//!   [`support::PATIENCE`] fails a test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod balancing;
mod breaker;
mod ejection;
mod hanging;
mod harness;
mod world;

use support::{load, unruly as origins};
