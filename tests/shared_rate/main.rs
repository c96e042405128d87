//! Limits that several instances count in one real Redis: each algorithm's law over all of them, what an edit keeps, who
//! may count, and what happens when Redis goes away, answers late, or answers nonsense.
//!
//! `WEIR_SHARED_RATE_STRICT=1`, for runs on a quiet machine: what is promised of the sum is asserted from below as well.
//! Otherwise it is shown: a machine that is busy elsewhere uses less.

#![cfg(feature = "redis")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    unreachable_pub,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod harness;
mod laws;
mod load;
mod outages;
