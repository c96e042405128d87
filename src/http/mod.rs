//! Message mechanics without policy: what has to happen to any request and answer that passes through.
//!
//! Framing ([`framing`]), the authority ([`uri`]), fields of the connection ([`hygiene`]), upgrades
//! ([`upgrade`]), who the client is ([`forwarded`]), loops ([`via`]), deadlines ([`deadline`]), trace context
//! ([`trace`]), and the answers that Weir makes itself ([`respond`]).

pub(crate) mod body;
pub mod deadline;
pub mod forwarded;
pub mod framing;
pub mod grpc;
pub mod hygiene;
pub(crate) mod interim;
pub mod respond;
pub mod trace;
pub mod upgrade;
pub mod uri;
pub mod via;
