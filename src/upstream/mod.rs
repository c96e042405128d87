//! Groups of endpoints: what is known of each, how to connect to them, and the connections that are open.

pub mod connector;
mod destinations;
mod endpoint;
mod guard;
mod http1;
mod lane;
mod lease;
mod limits;
mod opening;
mod pool;
mod queue;
mod stack;
mod streams;
#[cfg(test)]
mod tests;
mod vitals;
mod watched;

pub use connector::{ConnectError, Connector};
pub use endpoint::{Endpoint, InFlight};
pub use guard::Guard;
pub(crate) use http1::{Listen, RequestHead};
pub(crate) use lane::Lane;
pub(crate) use lease::{Failure, Lease};
pub(crate) use pool::{Pools, Want};
pub(crate) use queue::CheckoutError;
pub use vitals::Vitals;
pub use watched::{Count, Watched};
