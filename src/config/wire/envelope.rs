//! What every overlay may say of itself.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value as Json, json};

use super::{Takes, Text, wire};
use crate::config::{
    codes::Code,
    fault::{Problem, shown},
};

wire! {
    /// What every overlay may say of itself.
    EnvelopeWire as "envelope" {
        /// Who wrote it.
        by: Note,
        /// Why.
        why: Note,
        /// Until when it holds (RFC 3339).
        until: Timestamp,
    }
}

/// A short text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note(pub(crate) Arc<str>);

impl Note {
    /// The most bytes of one.
    const MAX_LEN: usize = 1000;
}

impl Text for Note {
    const WHAT: &'static str = "a text";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Any;

    fn parse(text: &str) -> Result<Self, Problem> {
        if text.len() > Self::MAX_LEN {
            let message = format!("this text has {} bytes; at most {} are kept", text.len(), Self::MAX_LEN);
            return Err(Problem::new(Code::OutOfBounds, message).help("name a ticket instead"));
        }
        Ok(Self(Arc::from(text)))
    }

    fn describe() -> Json {
        json!({ "type": ["string", "number", "boolean"], "maxLength": Self::MAX_LEN })
    }
}

impl Text for Timestamp {
    const WHAT: &'static str = "a time such as `2026-03-01T12:00:00Z`";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Text;

    fn parse(text: &str) -> Result<Self, Problem> {
        text.trim().parse().map_err(|_| {
            Problem::new(Code::BadValue, format!("`{}` is not a time", shown(text)))
                .help("write it as RFC 3339 says, with its zone: `2026-03-01T12:00:00Z`")
        })
    }

    fn describe() -> Json {
        json!({ "type": "string", "format": "date-time" })
    }
}
