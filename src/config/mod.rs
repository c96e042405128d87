//! What people may write. Pure: no runtime, no sockets.
//!
//! Text becomes a tree in which every node knows where it came from ([`node`]), the tree becomes wire types exactly
//! as written (`wire`), and those become the validated types that the rest of Weir reads ([`Bootstrap`],
//! [`Policy`]). All faults ([`fault`], [`codes`]) are collected on the way, so that one run shows all of them.

pub mod bootstrap;
pub mod codes;
mod documents;
mod expand;
pub mod fault;
mod limit;
pub(crate) mod live;
mod load;
mod merge;
mod name;
pub mod node;
pub mod path;
mod pattern;
mod plan;
pub mod policy;
mod render;
mod resilience;
mod scalar;
mod switch;
pub mod units;
mod validate;
mod wire;
mod yaml;

pub use bootstrap::Bootstrap;
pub use codes::Code;
pub use documents::{Documents, Kind, Layer, Place, Written};
pub use expand::HostFacts;
pub use fault::{Fault, Faults, Severity};
pub use live::MAX_VALUE;
pub use load::{Env, File, Loaded, PemKind, load, schema};
pub use name::Name;
pub use pattern::Pattern;
pub use policy::Policy;
pub use yaml::{MAX_BYTES, MAX_DEPTH};
