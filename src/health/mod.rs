//! Active health checks.
//!
//! Each endpoint of an upstream that has a `health` is asked every now and then, on a connection of its own, by one
//! task of the control thread: once per instance, however many workers there are and however often the policy changes.
//! What comes of it is in the endpoint's [`HealthState`], which requests read.

mod check;
mod checks;
mod grpc;
mod http;
mod state;

pub use checks::Checks;
pub use state::{Course, HealthState, LastCheck, Rules, Standing};
