//! Choosing one of an upstream's endpoints. Pure: moments, loads and random numbers are passed in.
//!
//! ```text
//! members ──Rota::build──▶ Rota ──pick──▶ Pick::One(3)
//!    ▲                      ▲ ▲                │
//!  health, ejection    Memory Latency ◀────────┘ sample, fail
//! ```
//!
//! - A [`Member`] is what is known of one endpoint: its weight, its tier, its zone, whether it is ready.
//! - A [`Rota`] is who may be chosen right now, made of all members: tiers, zones, slow start and panic are decided
//!   there, once, and not with every request. It holds until a member changes or [`Rota::valid_until`] has come;
//!   then its owner builds another one.
//! - [`Rota::pick`] chooses, in the way of [`BalancerPolicy`]. In the common case that is two draws, two costs and one
//!   comparison; it allocates nothing and waits for nobody. It gives positions of members, as they were given.
//! - [`Latency`] is what one endpoint was seen to need. It belongs to the endpoint and outlives rotas and policies.
//! - [`Memory`] is what an upstream remembers from one rota to the next: whose turn it is, and when panic last let a
//!   request through.
//! - A [`Ring`] is the ring of hashes, which depends on who the members are and not on how they are: it is built
//!   when endpoints come and go, and rotas share it.
//!
//! Weights count everywhere: an endpoint of weight 2 gets twice the traffic of one of weight 1, one of weight 0 gets
//! none.
//!
//! [`BalancerPolicy`]: crate::config::policy::BalancerPolicy

mod ewma;
mod gate;
mod pick;
mod ring;
mod rota;
mod turn;
mod urn;

pub use self::{
    ewma::{Latency, Terms, median},
    gate::Gate,
    pick::{Ask, Load, Memory, Pick},
    ring::Ring,
    rota::{Member, MemberState, Rota, Rules, Standing, Zone},
};
