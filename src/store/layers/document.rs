//! One value of a store: what it says, or why it says nothing.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use crate::{
    config::{
        Fault, Faults, Layer, Place, Severity, Written,
        live::{self, Envelope},
        node::{Node, Origin, SourceId},
        policy::Endpoint,
    },
    store::key::{Scope, Subject},
};

/// A value, read once.
#[derive(Debug)]
pub(super) struct Doc {
    /// What was written.
    pub(super) value: Bytes,
    /// The revision at which it was written.
    pub(super) revision: i64,
    /// How its nodes say where they are from.
    pub(super) source: SourceId,
    /// What it says.
    pub(super) body: Body,
    /// From then on it does not hold.
    pub(super) until: Option<Timestamp>,
    /// What is wrong or odd in it.
    pub(super) faults: Vec<Fault>,
}

/// What a value says.
#[derive(Debug)]
pub(super) enum Body {
    /// This over the layers below; `None` = the resource is removed.
    Overlay(Option<Arc<Node>>),
    /// One more endpoint.
    Endpoint(Endpoint, Arc<Node>),
    /// Protections off, or not.
    Bypass(bool, Origin),
    /// Nothing that could be read.
    Bad,
}

impl Doc {
    /// Reads a value, and says where it is from.
    pub(super) fn read(
        key: &Arc<str>,
        (scope, subject): (Scope, &Subject),
        (value, revision): (&Bytes, i64),
        source: SourceId,
    ) -> (Self, Place) {
        let mut faults = Faults::default();
        let mut envelope = Envelope::default();
        let body = live::read(value, source, &mut faults).and_then(|mut node| {
            envelope = live::envelope(&mut node, &mut faults);
            body(subject, node, &mut faults)
        });
        let body = body.filter(|_| !faults.any_error()).unwrap_or(Body::Bad);
        let written = Written::Key {
            key: Arc::clone(key),
            revision,
            by: envelope.by,
            why: envelope.why,
            until: envelope.until,
        };
        let faults = faults.iter().cloned().collect();
        let doc = Self { value: value.clone(), revision, source, body, until: envelope.until, faults };
        (doc, Place { layer: layer(scope), plan: None, written })
    }

    /// Whether it can be put in force at all.
    pub(super) fn is_good(&self) -> bool {
        !matches!(self.body, Body::Bad)
    }

    /// Whether its time is over.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// Its errors.
    pub(super) fn errors(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter().filter(|fault| fault.severity == Severity::Error)
    }

    /// What is odd in it.
    pub(super) fn warnings(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter().filter(|fault| fault.severity == Severity::Warning)
    }
}

fn body(subject: &Subject, node: Node, faults: &mut Faults) -> Option<Body> {
    match subject {
        Subject::Overlay(kind, _) => {
            live::overlay(*kind, &node, faults).ok().map(|overlay| Body::Overlay(overlay.map(Arc::new)))
        }
        Subject::Endpoint(..) => {
            live::endpoint(&node, faults).map(|endpoint| Body::Endpoint(endpoint, Arc::new(node)))
        }
        Subject::Bypass | Subject::Confirm => {
            let origin = node.get("state").map_or(node.origin, |entry| entry.node.origin);
            live::on_off(&node, faults).map(|on| Body::Bypass(on, origin))
        }
    }
}

/// The layer of a scope.
pub(super) const fn layer(scope: Scope) -> Layer {
    match scope {
        Scope::Fleet => Layer::Fleet,
        Scope::Service => Layer::Service,
        Scope::Instance => Layer::Instance,
    }
}
