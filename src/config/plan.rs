//! Validated plans.

use std::sync::Arc;

use super::{Kind, Name};

/// A set of changes that is turned on and off as one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Its name.
    pub name: Name,
    /// Whether its changes are in force. Default off.
    pub on: bool,
    /// What it changes, in order of kind and name.
    pub patches: Vec<Patch>,
}

/// What a plan changes in one resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Patch {
    /// Upstreams, limits or switches.
    pub kind: Kind,
    /// The resource.
    pub name: Name,
    /// The merge patch (RFC 7396), as JSON.
    pub json: Arc<str>,
}
