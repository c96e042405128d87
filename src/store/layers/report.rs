//! What became of all layers together.

use std::{fmt::Write, sync::Arc};

use jiff::Timestamp;

use super::{Layers, slot::Choice};
use crate::{
    config::{Documents, Fault, Kind, Name, Policy, Written, node::SourceId},
    store::{
        Item,
        key::{Scope, Subject},
    },
};

/// The effective policy, and what has to be said about it. One value, made at once: never half a change.
#[derive(Debug, Clone)]
pub struct Effective {
    /// The policy; equal resources are the same `Arc` as before.
    pub policy: Arc<Policy>,
    /// What is refused, in order of key.
    pub refused: Vec<Refused>,
    /// What is odd, in order of key.
    pub warnings: Vec<Warning>,
    /// What an active plan overrides.
    pub masked: Vec<Masked>,
    /// The newest revision that it contains.
    pub revision: i64,
    /// When the next overlay expires. Ask again then, and now and then: clocks jump.
    pub next_expiry: Option<Timestamp>,
}

/// A key whose value, or whose removal, is not in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The key below `<root>/policy/`; for a resource of the file that could not stay, its path there.
    pub key: Arc<str>,
    /// Its kind in metrics: a [`Kind`]'s name, `endpoints`, `bypass`, or `key` for one that means nothing.
    pub kind: &'static str,
    /// The revision that is refused; 0 for the file.
    pub revision: i64,
    /// Since when.
    pub since: Timestamp,
    /// Why: what is wrong, where in the value, and what would be right.
    pub reason: Arc<str>,
    /// The revision of the last good value that is in force instead; `None` when there is none.
    pub in_use: Option<i64>,
}

/// Something in a value that is ignored, or probably not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The key below `<root>/policy/`; for a plan of the file, its path there.
    pub key: Arc<str>,
    /// The revision of the value; 0 for the file.
    pub revision: i64,
    /// What, and where in the value.
    pub message: String,
}

/// An overlay of which an active plan overrides fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masked {
    /// The overlay's key below `<root>/policy/`.
    pub key: Arc<str>,
    /// The plan.
    pub plan: Name,
    /// The fields, with dots.
    pub fields: Vec<String>,
}

impl Layers {
    /// What is in force, and what has to be said about it.
    pub fn effective(&self) -> Effective {
        let mut policy = self.policy.clone();
        policy.bypass = self.bypass().is_some_and(|(on, _)| on);
        Effective {
            policy: Arc::new(policy),
            refused: self.refused(),
            warnings: self.warnings(),
            masked: self.cells.values().flat_map(|cell| cell.masked.iter().cloned()).collect(),
            revision: self.revision,
            next_expiry: self.next_expiry(),
        }
    }

    /// The effective documents, and where each of their fields is from. Apart from [`effective`](Self::effective),
    /// because they are looked at far less often than policy changes.
    pub fn documents(&self) -> Documents {
        let (places, nodes) = (self.places.list(), self.nodes.clone());
        Documents::live(&self.baseline.documents, places, nodes, self.bypass())
    }

    fn refused(&self) -> Vec<Refused> {
        let of_keys = self.slots.iter().filter_map(|(key, slot)| {
            let refusal = slot.refusal.as_ref()?;
            let in_use = slot.doc(slot.choice, self.clock).filter(|_| slot.choice == Choice::Good);
            let (key, reason) = (Arc::clone(key), Arc::clone(&refusal.reason));
            let kind = kind_word(slot.subject.as_ref().ok());
            let in_use = in_use.map(|doc| doc.revision);
            Some(Refused { key, kind, revision: refusal.revision, since: refusal.since, reason, in_use })
        });
        of_keys.chain(self.orphans.values().cloned()).collect()
    }

    fn warnings(&self) -> Vec<Warning> {
        let mut out = Vec::new();
        for (key, slot) in &self.slots {
            let Some(doc) = &slot.current else { continue };
            out.extend(doc.warnings().map(|fault| Warning {
                key: Arc::clone(key),
                revision: doc.revision,
                message: self.explain(fault, doc.source),
            }));
            if let Some(until) = doc.until.filter(|_| doc.is_over(self.clock)) {
                let (key, revision) = (Arc::clone(key), doc.revision);
                out.push(Warning {
                    key,
                    revision,
                    message: format!("`until` ({until}) has passed: it does not hold"),
                });
            }
        }
        out.extend(self.clashes());
        out.sort_by(|a, b| a.key.cmp(&b.key));
        out
    }

    /// The overlays that were good last, for the cache: also those whose place a value took that is refused.
    pub fn last_good(&self) -> Vec<Item> {
        let good = |(key, slot): (&Arc<str>, &super::slot::Slot)| {
            let doc = slot.good.as_ref()?;
            Some(Item { key: Arc::clone(key), value: doc.value.clone(), revision: doc.revision })
        };
        self.slots.iter().filter_map(good).collect()
    }

    /// The overlays as the store holds them, also those that are refused.
    pub fn overlays(&self) -> Vec<Item> {
        let current = |(key, slot): (&Arc<str>, &super::slot::Slot)| {
            let doc = slot.current.as_ref()?;
            Some(Item { key: Arc::clone(key), value: doc.value.clone(), revision: doc.revision })
        };
        self.slots.iter().filter_map(current).collect()
    }

    /// How many overlays the store holds in `scope`.
    pub fn count(&self, scope: Scope) -> usize {
        self.counts.get(scope as usize).copied().unwrap_or_default()
    }

    /// A fault as one line: what is wrong, where (in the value of `own`, or elsewhere), and what would be right.
    pub(super) fn explain(&self, fault: &Fault, own: SourceId) -> String {
        let mut text = String::new();
        if !fault.path.is_empty() {
            let _ = write!(text, "{}: ", crate::config::fault::shown_path(&fault.path));
        }
        let _ = write!(text, "{} (", fault.message);
        let origin = fault.origin;
        if origin.source == own {
            let _ = write!(text, "line {}, column {}", origin.line, origin.column);
        } else {
            match self.places.get(origin.source).map(|place| place.written.clone()) {
                Some(Written::Key { key, .. }) => {
                    let _ = write!(text, "{key}, line {}, column {}", origin.line, origin.column);
                }
                Some(Written::File(file)) => {
                    let _ = write!(text, "{file}:{}:{}", origin.line, origin.column);
                }
                None => {
                    let file = self.baseline.documents.source(origin).map_or("the file", |file| &*file.name);
                    let _ = write!(text, "{file}:{}:{}", origin.line, origin.column);
                }
            }
        }
        text.push(')');
        if let Some(help) = &fault.help {
            let _ = write!(text, "; {help}");
        }
        text
    }
}

fn kind_word(subject: Option<&Subject>) -> &'static str {
    match subject {
        Some(Subject::Overlay(kind, _)) => Kind::as_str(*kind),
        Some(Subject::Endpoint(..)) => "endpoints",
        Some(Subject::Bypass) => "bypass",
        Some(Subject::Confirm) | None => "key",
    }
}
