//! Putting what was made in force.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{Id, Layers, Masked, document::Body, merge::endpoint_list, settle::Run, slot::Choice};
use crate::config::{
    Kind, Layer, Name, Place, Written,
    live::{self, Reference, Resource},
    node::{Node, SourceId, Value},
    policy::{Endpoint, EndpointAddress, EndpointSource, Switch, Upstream},
};

/// A resource in force.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) resource: Resource,
    pub(super) references: Vec<Reference>,
    pub(super) masked: Vec<Masked>,
    /// A plan's: how the nodes of its patches say where they are from.
    pub(super) sources: Vec<SourceId>,
}

impl Layers {
    /// Puts a resource in force.
    pub(super) fn install(&mut self, id: &Id, mut node: Node, mut cell: Cell, run: &mut Run<'_>) {
        if let Resource::Upstream(upstream) = &cell.resource {
            let mut upstream = Upstream::clone(upstream);
            self.join_endpoints(&mut upstream, &mut node);
            cell.resource = Resource::Upstream(Arc::new(upstream));
        }
        if let Resource::Switch(switch) = &cell.resource {
            let revision = self.newest_overlay(id);
            if revision != 0 {
                cell.resource = Resource::Switch(Arc::new(Switch { revision, ..Switch::clone(switch) }));
            }
        }
        if let Resource::Plan(plan) = &cell.resource {
            let on = plan.on;
            cell.sources = self.plan_patched(&id.1, on.then_some(&node), run);
        }
        let old = self.cells.remove(id);
        if let Some(old) = &old {
            self.unrefer(id, old);
            // Equal is the same, so that nothing is compiled anew.
            if old.resource == cell.resource {
                cell.resource = old.resource.clone();
            }
        } else {
            run.toggled.insert(id.clone());
        }
        for to in &cell.references {
            self.referrers.entry((to.kind, to.name.clone())).or_default().insert(id.clone());
        }
        if !cell.references.is_empty() {
            run.unchecked.insert(id.clone());
        }
        cell.resource.clone().put(&mut self.policy);
        self.nodes.insert(id.clone(), Arc::new(node));
        self.cells.insert(id.clone(), cell);
    }

    /// The newest revision among the overlays in force that have a say in a resource; 0 = none has.
    fn newest_overlay(&self, id: &Id) -> i64 {
        let keys = self.involved(id);
        let revision = |key| {
            self.slots.get(key).and_then(|slot| slot.doc(slot.choice, self.clock)).map(|doc| doc.revision)
        };
        keys.iter().filter_map(revision).max().unwrap_or(0)
    }

    /// Takes a resource out.
    pub(super) fn uninstall(&mut self, id: &Id, run: &mut Run<'_>) {
        if id.0 == Kind::Plan {
            self.plan_patched(&id.1, None, run);
        }
        if id.0 == Kind::Upstream {
            self.strand_endpoints(&id.1);
        }
        let Some(old) = self.cells.remove(id) else { return };
        self.unrefer(id, &old);
        Resource::take(&mut self.policy, id.0, &id.1);
        self.nodes.remove(id);
        run.toggled.insert(id.clone());
    }

    fn unrefer(&mut self, id: &Id, cell: &Cell) {
        for to in &cell.references {
            let target = (to.kind, to.name.clone());
            if self.referrers.get_mut(&target).is_some_and(|from| from.remove(id) && from.is_empty()) {
                self.referrers.remove(&target);
            }
        }
    }

    /// Notes what a plan changes (`None`: nothing), and has that made anew.
    fn plan_patched(&mut self, plan: &Name, node: Option<&Node>, run: &mut Run<'_>) -> Vec<SourceId> {
        let old = self.patches.iter().filter(|(_, plans)| plans.contains_key(plan)).map(|(id, _)| id.clone());
        let mut concerned: BTreeSet<Id> = old.collect();
        for id in &concerned {
            if self.patches.get_mut(id).is_some_and(|plans| plans.remove(plan).is_some() && plans.is_empty())
            {
                self.patches.remove(id);
            }
        }
        let own = self.cells.get_mut(&(Kind::Plan, plan.clone()));
        for source in own.map(|cell| std::mem::take(&mut cell.sources)).unwrap_or_default() {
            self.places.give_back(source);
        }
        let mut stamps = HashMap::new();
        for (id, mut patch) in node.map(live::patches).unwrap_or_default() {
            patch.restamp(&mut |source| {
                *stamps.entry(source).or_insert_with(|| self.plan_source(plan, source))
            });
            self.patches.entry(id.clone()).or_default().insert(plan.clone(), Arc::new(patch));
            concerned.insert(id);
        }
        for id in concerned {
            self.mark(id, run);
        }
        stamps.into_values().collect()
    }

    /// A source that says: by this plan, and written where `source` says.
    fn plan_source(&mut self, plan: &Name, source: SourceId) -> SourceId {
        let written = match self.places.get(source) {
            Some(place) => place.written.clone(),
            None => Written::File(self.baseline.documents.source_name(source)),
        };
        let id = self.places.take();
        self.places.set(id, Place { layer: Layer::Plans, plan: Some(plan.clone()), written });
        id
    }

    /// Adds the endpoints of the store. One whose address is there already takes its place: the store says what its
    /// weight, zone and tier are right now.
    fn join_endpoints(&mut self, upstream: &mut Upstream, node: &mut Node) {
        let Some(keys) = self.endpoints.get(&upstream.name) else { return };
        let keys: Vec<_> = keys.iter().map(|(_, key)| Arc::clone(key)).collect();
        let unnamed = upstream.tls.as_ref().is_some_and(|tls| tls.server_name.is_none());
        let addresses = upstream.endpoints.iter().enumerate().map(|(at, one)| (one.address.clone(), at));
        let mut places: HashMap<EndpointAddress, usize> = addresses.collect();
        let Some(list) = endpoint_list(node) else { return };
        for key in keys {
            let clock = self.clock;
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            slot.choice = slot.first_choice(clock);
            if slot.choice == Choice::Current {
                slot.refusal = None;
            }
            let Some(doc) = slot.doc(slot.choice, clock).cloned() else { continue };
            let Body::Endpoint(endpoint, written) = &doc.body else { continue };
            if unnamed && matches!(endpoint.address, EndpointAddress::Unix(_)) {
                slot.refuse("the upstream's `tls` has no `server_name`, which a unix socket needs", clock);
                slot.choice = Choice::Nothing;
                continue;
            }
            let written = Node::clone(written);
            let endpoint = Endpoint { source: EndpointSource::Store, ..endpoint.clone() };
            if let Some(at) = places.get(&endpoint.address) {
                if let (Some(old), Some(node)) = (upstream.endpoints.get_mut(*at), list.get_mut(*at)) {
                    *old = endpoint;
                    *node = written;
                }
            } else {
                places.insert(endpoint.address.clone(), upstream.endpoints.len());
                upstream.endpoints.push(endpoint);
                list.push(written);
            }
        }
        if list.is_empty()
            && let Value::Map(map) = &mut node.value
        {
            map.shift_remove("endpoints");
        }
    }

    /// Refuses the endpoints of an upstream that is not there.
    fn strand_endpoints(&mut self, upstream: &Name) {
        let keys = self.endpoints.get(upstream).into_iter().flatten();
        let keys: Vec<_> = keys.map(|(_, key)| Arc::clone(key)).collect();
        for key in keys {
            let clock = self.clock;
            if let Some(slot) = self.slots.get_mut(&key)
                && slot.current.is_some()
            {
                slot.refuse(&format!("there is no upstream `{upstream}`"), clock);
                slot.choice = Choice::Nothing;
            }
        }
    }
}
