//! The layers of one resource over one another.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Id, Layers, Masked,
    document::{Body, Doc},
    slot::Choice,
};
use crate::{
    config::{
        Faults, Kind, Name, live,
        node::{Node, Value},
    },
    store::key::Scope,
};

/// Keys for which something else is tried than what is in force.
pub(super) type Over = BTreeMap<Arc<str>, Choice>;

impl Layers {
    /// The effective document of a resource, without the endpoints of the store, and what plans mask in it; `None` when
    /// there is no such resource.
    pub(super) fn merged(&self, id: &Id, over: &Over) -> (Option<Node>, Vec<Masked>) {
        let mut node = self.baseline.documents.get(id.0, &id.1).cloned();
        let mut masked = Vec::new();
        let mut below: Vec<(&Arc<str>, &Arc<Doc>)> = Vec::new();
        let mut top = None;
        for (scope, key) in self.overlays.get(id).into_iter().flatten() {
            let Some(doc) = self.doc(key, over) else { continue };
            if *scope == Scope::Instance {
                top = Some(doc);
            } else {
                lay(id.0, &mut node, doc);
                below.push((key, doc));
            }
        }
        for (plan, patch) in self.plan_patches(id, over) {
            if let Some(node) = &mut node {
                let before = if below.is_empty() { Vec::new() } else { node.leaves() };
                live::merge(id.0, node, &patch);
                masked.extend(hidden(&plan, &below, &before, node));
            }
        }
        if let Some(doc) = top {
            lay(id.0, &mut node, doc);
        }
        (node, masked)
    }

    /// What of a key is in force, or tried.
    fn doc(&self, key: &Arc<str>, over: &Over) -> Option<&Arc<Doc>> {
        let slot = self.slots.get(key)?;
        slot.doc(over.get(key).copied().unwrap_or(slot.choice), self.clock)
    }

    /// The patches that plans which are on have for a resource, by the name of the plan.
    fn plan_patches(&self, id: &Id, over: &Over) -> BTreeMap<Name, Arc<Node>> {
        if id.0 == Kind::Plan {
            return BTreeMap::new();
        }
        let mut patches = self.patches.get(id).cloned().unwrap_or_default();
        for plan in over.keys().filter_map(|key| self.owner_of(key)).filter(|(kind, _)| *kind == Kind::Plan) {
            patches.remove(&plan.1);
            let Some(document) = self.merged(&plan, over).0.filter(is_on) else { continue };
            if let Some(patch) = live::patches(&document).remove(id) {
                patches.insert(plan.1, Arc::new(patch));
            }
        }
        patches
    }

    /// The resource that a key belongs to.
    pub(super) fn owner_of(&self, key: &Arc<str>) -> Option<Id> {
        super::owner(self.slots.get(key)?.subject.as_ref().ok()?)
    }
}

/// Whether a plan's document turns it on.
fn is_on(plan: &Node) -> bool {
    let state = plan.get("state").and_then(|entry| live::on_off(&entry.node, &mut Faults::default()));
    state == Some(true)
}

/// Lays one overlay over what is below.
fn lay(kind: Kind, node: &mut Option<Node>, doc: &Doc) {
    let Body::Overlay(overlay) = &doc.body else { return };
    match (overlay, &mut *node) {
        (None, _) => *node = None,
        (Some(patch), Some(node)) => live::merge(kind, node, patch),
        (Some(patch), None) => {
            let mut new = Node::clone(patch);
            // What a plan patches away is what it says; elsewhere there is nothing that a null could remove.
            if kind != Kind::Plan {
                new.strip_nulls();
            }
            *node = Some(new);
        }
    }
}

/// The fields of the overlays `below` that were in force `before` a plan's patch, and are not in `after`.
fn hidden(
    plan: &Name,
    below: &[(&Arc<str>, &Arc<Doc>)],
    before: &[(String, crate::config::node::Origin)],
    after: &Node,
) -> Vec<Masked> {
    if before.is_empty() {
        return Vec::new();
    }
    let after: BTreeMap<_, _> = after.leaves().into_iter().collect();
    let lost = |doc: &Doc| -> Vec<String> {
        let of_doc = before.iter().filter(|(_, origin)| origin.source == doc.source);
        of_doc
            .filter(|(path, origin)| after.get(path) != Some(origin))
            .map(|(path, _)| path.clone())
            .collect()
    };
    let masked = below.iter().map(|(key, doc)| (key, lost(doc))).filter(|(_, fields)| !fields.is_empty());
    masked.map(|(key, fields)| Masked { key: Arc::clone(key), plan: plan.clone(), fields }).collect()
}

/// The list of an upstream's endpoints, which is made where it is not there.
pub(super) fn endpoint_list(node: &mut Node) -> Option<&mut Vec<Node>> {
    let origin = node.origin;
    let Value::Map(map) = &mut node.value else { return None };
    let entry = map.entry("endpoints".to_owned()).or_insert_with(|| crate::config::node::Entry {
        key: origin,
        node: Node::new(Value::Seq(Vec::new()), origin),
    });
    match &mut entry.node.value {
        Value::Seq(items) => Some(items),
        _ => None,
    }
}
