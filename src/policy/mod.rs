//! Decisions about requests: pure cores, which know neither a runtime nor a clock. The time and the random numbers are
//! passed in, so that every rule is a plain test.

pub mod automatic;
pub mod breaker;
pub mod ejection;
mod pause;
pub mod rate;
mod stamp;
mod verdict;
mod window;

/// How many rounds a test of threads makes: fewer under Miri, which looks at each of them much more closely.
#[cfg(test)]
pub(crate) const fn rounds(many: u64) -> u64 {
    if cfg!(miri) { many / 50 + 1 } else { many }
}

pub use stamp::Stamp;
pub use verdict::{Verdict, of_grpc, of_status};
