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

mod balancing;
mod bodies;
mod breakers;
mod edges;
mod errors;
mod fallback;
mod framing;
mod harness;
mod headers;
mod health;
mod life;
mod limits;
mod listeners;
mod live;
mod passthrough;
mod path;
mod pool;
mod reports;
mod routing;
mod switches;
mod time;
mod upstreams;
