//! Decisions about requests: pure cores, which know neither a runtime nor a clock. The time and the random numbers are
//! passed in, so that every rule is a plain test.

mod stamp;
mod verdict;

pub use stamp::Stamp;
pub use verdict::{Verdict, of_grpc, of_status};
