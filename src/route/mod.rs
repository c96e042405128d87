//! From a request to its route: matching, rewriting, splitting. Pure.
//!
//! [`normalise`] brings a path into the one form in which it is matched and forwarded. A
//! [`RouteTable`] finds the route of a [`RequestView`], [`Rewriter`] changes the target as the route says,
//! and [`Split`] chooses among its upstreams, by a draw or by a [`Key`]. A [`Matcher`] is the same `match`
//! block for rules that are no routes.
//!
//! Everything here is compiled once per snapshot and only read by requests. A request neither allocates
//! (paths that need rewriting apart) nor locks.

pub mod key;
pub mod matcher;
pub mod rewrite;
pub mod split;
pub mod table;

pub use crate::config::path::{PathError, normalise};
pub use key::Key;
pub use matcher::{Matcher, RequestView};
pub use rewrite::Rewriter;
pub use split::Split;
pub use table::{RouteIndex, RouteTable};
