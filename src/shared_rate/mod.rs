//! One rate over all instances, exactly: limits with `share: redis`.
//!
//! ```text
//! worker ── take ──▶ lease (one atomic word) ── granted, refused
//!    │                  ▲
//!    │ lease is empty   │ deposit, memory of a refusal
//!    ▼                  │
//!  Asking ─────▶ thread `weir-redis`: Desk ── Calls ──▶ Link ──▶ Redis (a script per call)
//! ```
//!
//! - Redis holds what is left of a limit, and one script per algorithm takes from it, by Redis' own clock.
//! - An instance takes tokens ahead, as many as it uses in some [`BATCH`], into a *lease*. A request that finds a token
//!   there costs one compare-and-swap. What was not used in time goes back.
//! - A request that finds none waits for Redis, [`PATIENCE`] at most. All that wait at the same time share a round trip.
//! - A refusal is remembered until the moment at which Redis may have something again, so that a flood of refused
//!   requests stays in its process.
//! - When Redis does not answer in [`PATIENCE`], or answers with an error, it is *away*: from that moment on every
//!   [`SharedLimit::take`] says [`Take::Fallback`] at once, and the caller uses its own even share. The thread goes on
//!   trying, and takes the limits back by itself.
//!
//! # What is exact
//!
//! Tokens leave Redis before they are used and never after, and each leaves it once. So the sum over all instances
//! never exceeds what the algorithm grants to one, but that tokens of a bucket may be used up to [`IDLE`] later than they
//! left it: at most a quarter of the burst. Tokens of a window are used within that window's slot, or given back. When
//! Redis goes away, what is leased is forgotten; when it comes back without its data, its buckets are full.
//!
//! The desk and the leases are pure: moments are passed in. Redis 5 or newer (scripts that read the clock and then write);
//! a cluster works as long as the address leads to the node that has the key, since the keys of a limit are on one.

mod account;
mod call;
mod client;
mod desk;
mod lease;
mod limit;
#[cfg_attr(not(feature = "redis"), path = "link_absent.rs")]
mod link;
mod settings;
mod table;
mod thread;

use std::time::Duration;

pub use self::{
    client::{Client, Counts, StartError, Status, Trust},
    limit::{Answer, Asking, SharedLimit, Take},
    settings::Settings,
};

/// The longest that a request waits for Redis, and that Redis may take for an answer.
pub const PATIENCE: Duration = Duration::from_millis(20);

/// How much of an instance's own use a lease holds.
pub const BATCH: Duration = Duration::from_millis(75);

/// How long tokens of a bucket stay in a lease that nobody uses.
pub const IDLE: Duration = Duration::from_secs(1);
