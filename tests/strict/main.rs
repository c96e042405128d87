//! HTTP/1 that two parsers could read differently: what Weir makes of it, in bytes, on both sides.
//!
//! Every case says what the client's bytes are, which of few outcomes they must have, and with that what the endpoint's
//! socket may see and what the client may get. Behind every hostile message a request for `/smuggled` waits to be taken
//! for one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod bodies;
mod cases;
mod heads;
mod identity;
mod recorder;
mod unread;
