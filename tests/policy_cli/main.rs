//! `weir policy`, the levers over it, `weir wait` and `weir check --overlay`: the finished binary on a real etcd and on a directory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::needless_pass_by_value,
    unreachable_pub,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod changes;
mod check;
mod harness;
mod levers;
mod lists;
mod looks;
mod plans;
mod waits;

/// Runs a function of a bench on each kind of store.
macro_rules! each_store {
    ($($name:ident),* $(,)?) => {
        mod on_etcd {
            $(#[test] fn $name() { super::$name(crate::harness::Bench::etcd()); })*
        }
        mod on_a_directory {
            $(#[test] fn $name() { super::$name(crate::harness::Bench::directory()); })*
        }
    };
}
use each_store;
