//! Limits, switches and plans in the finished binary, with a real etcd (and Redis), real origins and real clients.
//!
//! | what is shown | tests |
//! |---|---|
//! | every `etcdctl` line that an operator types | `commands` |
//! | switches: how soon, how long, for whom | `switches` |
//! | plans are one change | `plans` |
//! | `bypass` beats everything | `bypass` |
//! | a service-wide rate, evenly and by Redis | `shares` |
//! | switches that go on by themselves | `automatic` |
//! | streams, upgrades, gRPC and tunnels | `protocols` |
//! | what limits grant to many connections | `laws` |
//! | a flood of keys | `keys` |
//!
//! Nothing here depends on how fast the machine is, unless `WEIR_SHEDDING_STRICT=1` is set (one test at a time, on a
//! quiet machine): then the times and shares that are promised are asserted as they are; otherwise they are shown.
//! `WEIR_SHEDDING_KEYS` is the number of keys in the flood (200,000).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    unreachable_pub,
    reason = "a test fails by panicking, and counts are small"
)]

#[path = "../support/mod.rs"]
mod support;

mod automatic;
mod bypass;
mod commands;
mod hammer;
mod keys;
mod laws;
mod plans;
mod protocols;
mod shares;
mod switches;
mod world;
