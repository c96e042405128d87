//! Why a call failed, in words for people.

use std::fmt;

use crate::store::{
    Lost,
    watch::{Failure, FailureKind},
};

/// Why a call to the store failed. The texts name the endpoint, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientError {
    /// No member did it; nothing was written. What each of them said.
    Unreachable(Vec<String>),
    /// The store does not want it: user, password, role, or a request that it does not take. Nothing was written.
    Refused(String),
    /// The member did not answer: it may have been written or not.
    Unknown(String),
    /// The revision that was asked for is compacted.
    Compacted(String),
    /// The lease has ended.
    LeaseGone,
}

impl ClientError {
    /// Cannot be: a client has members.
    pub(super) fn no_member() -> Failure {
        Failure { kind: FailureKind::Lost(Lost::Connect), text: "no endpoint is configured".to_owned() }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(faults) => write!(f, "no member of the store answered: {}", faults.join("; ")),
            Self::Refused(text) => write!(f, "the store refused: {text}"),
            Self::Unknown(text) => write!(f, "it is not known whether this was written: {text}"),
            Self::Compacted(text) => write!(f, "this old revision is not kept any more: {text}"),
            Self::LeaseGone => f.write_str("the lease has ended"),
        }
    }
}

impl std::error::Error for ClientError {}
