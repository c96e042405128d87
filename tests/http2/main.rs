//! HTTP/2 as RFC 9113 and RFC 8441 say, frame by frame: what Weir makes of messages that are not as they must be, and a
//! catalogue of conformance by section.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod conformance;
mod requests;
