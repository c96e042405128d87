//! Decisions about requests: pure cores, which know neither a runtime nor a clock. The time and the random numbers are
//! passed in, so that every rule is a plain test.

pub mod breaker;
pub mod ejection;
mod pause;
mod stamp;
mod verdict;
mod window;

pub use stamp::Stamp;
pub use verdict::{Verdict, of_grpc, of_status};
