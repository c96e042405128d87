//! The finished binary from the outside: what it does to requests, answers and connections, and what it says about it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod edges;
mod errors;
mod framing;
mod harness;
mod headers;
mod life;
mod listeners;
mod passthrough;
mod path;
mod pool;
mod reports;
mod routing;
mod time;
mod upstreams;
