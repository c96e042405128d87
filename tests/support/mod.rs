//! What the integration tests share: the finished binary under test, origins behind it, clients before it.
//!
//! Everything a test calls is blocking and has a deadline; whatever is asynchronous runs on one thread of its own
//! ([`driver`]). So a test reads as a plain sequence, and cannot hang.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    clippy::cast_possible_truncation,
    reason = "each test binary uses its own part, and a test fails by panicking"
)]

pub mod certs;
pub mod client;
pub mod driver;
pub mod etcd;
pub mod frames;
pub mod gate;
pub mod load;
pub mod metrics;
pub mod origin;
pub mod programs;
pub mod raw;
pub mod raw_origin;
pub mod redis;
pub mod servers;
pub mod unruly;
pub mod weir;
pub mod writer;

use std::time::{Duration, Instant};

/// How long anything in a test may take unless it says otherwise. Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Polls until `condition` gives something; fails the test, naming `what` it waited for, when [`PATIENCE`] runs out.
#[track_caller]
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Polls until `condition` holds; see [`wait_for`].
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}
