//! What people may write. Pure: no runtime, no sockets.
//!
//! Text becomes a tree in which every node knows where it came from, the tree becomes wire types exactly as
//! written, and those become the validated types that the rest of Weir reads. All faults are collected on
//! the way, so that one run shows all of them.

pub mod bootstrap;
mod name;
mod pattern;
pub mod policy;

pub use bootstrap::Bootstrap;
pub use name::Name;
pub use pattern::Pattern;
pub use policy::Policy;
