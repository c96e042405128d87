//! Plans.

use std::sync::Arc;

use crate::config::{
    Kind, Name,
    plan::{Patch, Plan},
    wire::{
        Cx, Table,
        plans::{PatchWire, PlanWire},
    },
};

/// A plan; what it patches is noted in `cx`. Whether its patches fit is seen when they are merged.
pub(in crate::config) fn plan(name: &Name, wire: &PlanWire, cx: &mut Cx<'_>) -> Plan {
    let mut patches = Vec::new();
    cx.at("switches", wire.switches.origin, |cx| {
        patches_of(Kind::Switch, &wire.switches.value, &mut patches, cx);
    });
    cx.at("limits", wire.limits.origin, |cx| patches_of(Kind::Limit, &wire.limits.value, &mut patches, cx));
    cx.at("upstreams", wire.upstreams.origin, |cx| {
        patches_of(Kind::Upstream, &wire.upstreams.value, &mut patches, cx);
    });
    patches.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    Plan { name: name.clone(), on: wire.state.value.0, patches }
}

fn patches_of<const KIND: usize>(
    kind: Kind,
    table: &Table<Name, PatchWire<KIND>>,
    patches: &mut Vec<Patch>,
    cx: &mut Cx<'_>,
) {
    for (name, patch) in &table.0 {
        cx.refer(name.value.as_str(), kind, name);
        if let Some(patch) = patch {
            let json = Arc::from(patch.value.0.to_json().to_string());
            patches.push(Patch { kind, name: name.value.clone(), json });
        }
    }
}
