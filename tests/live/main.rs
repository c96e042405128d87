//! The finished binary with a real etcd on its worst days, under a steady load of which every answer is checked.
//!
//! Each live change is a transaction that writes two resources: the route sets a header `x-n: N`, and its upstream gets
//! one endpoint, the origin number `N modulo 4`, which signs its answers. An answer whose header and origin disagree
//! has seen one half of a change ([`load`]). What was in force is compared, key by key, with etcd's own history
//! ([`checker`]).
//!
//! What an instance promises about live policy, and where it is held to it:
//!
//! | promise | tests |
//! |---|---|
//! | 1 atomic | `changes::promise_1_atomic…`, and every answer of every other test |
//! | 2 safe | `refusals::promise_2_safe…` |
//! | 3 lossless | `outages::promise_3_lossless…`, `histories::promise_3_lossless…`, `access::promise_3_lossless…` |
//! | 4 guarded | `histories::promise_4_guarded…` |
//! | 5 kept | `boot::promise_5_kept…` |
//! | 6 stateful across changes | `changes::promise_6_stateful…`: pooled connections; the others come with their steps |
//! | 7 polite | `outages::promise_7_polite…`; jitter and budget are unit tests of `store::watch` |
//! | 8 honest | `outages::promise_8_honest…`, `boot::promise_8_honest…` |
//!
//! Environment variables, for runs on a quiet machine:
//!
//! - `WEIR_LIVE_STRICT=1`: the times that are promised (right 5 s after the store's return, ready 1 s after
//!   `boot_wait`) are asserted as they are; otherwise they are shown, and only [`world::PATIENCE`] fails a test;
//! - `WEIR_LIVE_FREEZE=60`: how many seconds a frozen etcd stays so (10);
//! - `WEIR_LIVE_FAULTS=300`: how many faults follow each other in the random sequence (15); `WEIR_LIVE_SEED` repeats one;
//! - `WEIR_LIVE_CHANGES=1000`: how many changes the tests make that make many (200).

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

mod access;
mod boot;
mod changes;
mod checker;
mod histories;
mod instances;
mod load;
mod outages;
mod refusals;
mod world;
