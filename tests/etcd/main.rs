//! The etcd store against real servers: what it tells is compared with etcd's own history.

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

mod auth;
mod client;
mod faults;
mod follower;
mod tls;
mod watch;

/// Runs a function of a version against each of them.
macro_rules! each_version {
    ($($name:ident),* $(,)?) => {
        mod v3_4 {
            $(#[test] fn $name() { super::$name(crate::support::etcd::Version::V3_4); })*
        }
        mod v3_5 {
            $(#[test] fn $name() { super::$name(crate::support::etcd::Version::V3_5); })*
        }
    };
}
use each_version;
