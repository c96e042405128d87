//! One resource at a time: what live policy needs of the way from text to validated types.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use super::{
    Documents, Kind, Name, Policy,
    codes::Code,
    fault::{Fault, Faults, Problem, Severity},
    node::{Map, Node, Origin, SourceId, Value},
    policy::{Endpoint, Limit, Plan, Route, Switch, Upstream},
    validate,
    wire::{
        Cx, Wire,
        envelope::EnvelopeWire,
        file::RouteWire,
        limits::LimitWire,
        plans::{OnOff, PlanWire},
        short,
        switches::SwitchWire,
        upstreams::{EndpointWire, UpstreamWire},
    },
    yaml,
};

pub(crate) use super::{
    merge::merge,
    validate::{Facts, NoSuch, circle_problem, circles, falls_back_to},
    wire::Reference,
};

/// The most bytes of a live value: 256 KiB.
pub const MAX_VALUE: usize = 256 * 1024;

/// A validated resource of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Resource {
    Upstream(Arc<Upstream>),
    Route(Arc<Route>),
    Limit(Arc<Limit>),
    Switch(Arc<Switch>),
    Plan(Arc<Plan>),
}

impl Resource {
    /// Puts it into `policy`.
    pub(crate) fn put(self, policy: &mut Policy) {
        match self {
            Self::Upstream(it) => drop(policy.upstreams.insert(it.name.clone(), it)),
            Self::Route(it) => drop(policy.routes.insert(it.name.clone(), it)),
            Self::Limit(it) => drop(policy.limits.insert(it.name.clone(), it)),
            Self::Switch(it) => drop(policy.switches.insert(it.name.clone(), it)),
            Self::Plan(it) => drop(policy.plans.insert(it.name.clone(), it)),
        }
    }

    /// Takes a resource out of `policy`.
    pub(crate) fn take(policy: &mut Policy, kind: Kind, name: &Name) {
        match kind {
            Kind::Upstream => drop(policy.upstreams.remove(name)),
            Kind::Route => drop(policy.routes.remove(name)),
            Kind::Limit => drop(policy.limits.remove(name)),
            Kind::Switch => drop(policy.switches.remove(name)),
            Kind::Plan => drop(policy.plans.remove(name)),
        }
    }
}

/// Reads a live value's bytes. What is wrong goes to `faults`.
pub(crate) fn read(bytes: &[u8], source: SourceId, faults: &mut Faults) -> Option<Node> {
    let start = Origin { source, line: 1, column: 1, end_line: 1, end_column: 2 };
    let mut refuse = |code, origin, message: String, help: &str| {
        let help = Some(help.to_owned());
        faults.push(Fault { severity: Severity::Error, code, path: String::new(), origin, message, help });
    };
    if bytes.len() > MAX_VALUE {
        // How many more is not known: stores cut it off.
        let message = format!("the value has more than {MAX_VALUE} bytes");
        refuse(Code::TooLarge, start, message, "split it into several resources");
        return None;
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => yaml::read(text, source, None, faults),
        Err(error) => {
            let at = error.valid_up_to();
            let before =
                bytes.get(..at).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
            let (line, column) = yaml::position(before);
            let origin = Origin { line, column, end_line: line, end_column: column + 1, ..start };
            let byte = bytes.get(at).copied().unwrap_or_default();
            refuse(Code::NotUtf8, origin, format!("the byte 0x{byte:02x} is not UTF-8"), "write it as UTF-8");
            None
        }
    }
}

/// What every overlay may say of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Envelope {
    /// Who wrote it.
    pub(crate) by: Option<Arc<str>>,
    /// Why.
    pub(crate) why: Option<Arc<str>>,
    /// Until when it holds.
    pub(crate) until: Option<jiff::Timestamp>,
}

/// Takes the envelope off a document.
pub(crate) fn envelope(node: &mut Node, faults: &mut Faults) -> Envelope {
    let Value::Map(map) = &mut node.value else { return Envelope::default() };
    let fields = ["by", "why", "until"].into_iter().filter_map(|field| map.shift_remove_entry(field));
    let own = Node::new(Value::Map(fields.collect::<Map>()), node.origin);
    let Some(wire) = EnvelopeWire::decode(&own, &mut Cx::live(faults, node.origin)) else {
        return Envelope::default();
    };
    Envelope {
        by: wire.by.map(|by| by.value.0),
        why: wire.why.map(|why| why.value.0),
        until: wire.until.map(|until| until.value),
    }
}

/// Something is wrong; what, is among the faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bad;

/// The overlay that a document stands for: a map, or `None` where it removes the resource. Its values are checked as
/// far as they can be without the layers below.
pub(crate) fn overlay(kind: Kind, node: &Node, faults: &mut Faults) -> Result<Option<Node>, Bad> {
    if node.is_null() {
        return Ok(None);
    }
    let full = short::expand(kind, node).into_owned();
    let mut bare = full.clone();
    bare.strip_nulls();
    let mut cx = Cx::live(faults, node.origin);
    if !matches!(full.value, Value::Map(_)) {
        let form = match kind {
            Kind::Upstream | Kind::Route => "",
            Kind::Limit => ", a rate, `on`, `off` or `observe`",
            Kind::Switch => ", `on`, `off`, `observe`, `auto` or a percentage",
            Kind::Plan => ", `on` or `off`",
        };
        cx.wrong_type(node, &format!("a map of fields{form}"));
        return Err(Bad);
    }
    let well = cx.patch(|cx| match kind {
        Kind::Upstream => UpstreamWire::decode(&bare, cx).is_some(),
        Kind::Route => RouteWire::decode(&bare, cx).is_some(),
        Kind::Limit => LimitWire::decode(&bare, cx).is_some(),
        Kind::Switch => SwitchWire::decode(&bare, cx).is_some(),
        // The patches of a plan keep their nulls.
        Kind::Plan => PlanWire::decode(&full, cx).is_some(),
    });
    if well && !faults.any_error() { Ok(Some(full)) } else { Err(Bad) }
}

/// An endpoint of its own, with its defaults.
pub(crate) fn endpoint(node: &Node, faults: &mut Faults) -> Option<Endpoint> {
    let node = match node.text() {
        Some(text) => Cow::Owned(Node::new(Value::String(text.trim().to_owned()), node.origin)),
        None => Cow::Borrowed(node),
    };
    let wire = EndpointWire::decode(&node, &mut Cx::live(faults, node.origin))?;
    validate::endpoint(&wire).filter(|_| !faults.any_error())
}

/// On or off: a scalar, or a map with a `state`.
pub(crate) fn on_off(node: &Node, faults: &mut Faults) -> Option<bool> {
    let mut cx = Cx::live(faults, node.origin);
    let Value::Map(map) = &node.value else { return OnOff::decode(node, &mut cx).map(|state| state.0) };
    for (key, entry) in map.iter().filter(|(key, _)| *key != "state") {
        cx.unknown(key, entry, &["state", "by", "why", "until"], &[]);
    }
    cx.required(map, "state");
    map.get("state").and_then(|entry| OnOff::decode(&entry.node, &mut cx)).map(|state| state.0)
}

/// Validates one effective document, and says to what it refers; its faults otherwise.
pub(crate) fn effective(
    (kind, name): &(Kind, Name),
    node: &Node,
    facts: &Facts<'_>,
) -> Result<(Resource, Vec<Reference>), Faults> {
    let mut faults = Faults::default();
    let made = resource(*kind, name, node, facts, &mut Cx::live(&mut faults, node.origin));
    made.filter(|_| !faults.any_error()).ok_or(faults)
}

fn resource(
    kind: Kind,
    name: &Name,
    node: &Node,
    facts: &Facts<'_>,
    cx: &mut Cx<'_>,
) -> Option<(Resource, Vec<Reference>)> {
    let made = match kind {
        Kind::Upstream => UpstreamWire::decode(node, cx)
            .and_then(|wire| validate::upstream(name, &wire, facts, cx))
            .map(|it| Resource::Upstream(Arc::new(it))),
        Kind::Route => RouteWire::decode(node, cx)
            .and_then(|wire| validate::route(name, &wire, facts, cx))
            .map(|it| Resource::Route(Arc::new(it))),
        Kind::Limit => LimitWire::decode(node, cx)
            .and_then(|wire| validate::limit(name, &wire, facts, cx))
            .map(|it| Resource::Limit(Arc::new(it))),
        Kind::Switch => SwitchWire::decode(node, cx)
            .and_then(|wire| validate::switch(name, &wire, facts, cx))
            .map(|it| Resource::Switch(Arc::new(it))),
        Kind::Plan => {
            PlanWire::decode(node, cx).map(|wire| Resource::Plan(Arc::new(validate::plan(name, &wire, cx))))
        }
    };
    let references = cx.take_references();
    made.map(|made| (made, references))
}

/// The patches of a plan's document, by the resource they are for.
pub(crate) fn patches(plan: &Node) -> BTreeMap<(Kind, Name), Node> {
    let mut out = BTreeMap::new();
    for kind in [Kind::Upstream, Kind::Limit, Kind::Switch] {
        let Some(Value::Map(map)) = plan.get(kind.as_str()).map(|block| &block.node.value) else { continue };
        for (name, entry) in map {
            if let Some(name) = Name::new(name) {
                out.insert((kind, name), short::expand(kind, &entry.node).into_owned());
            }
        }
    }
    out
}

/// Checks the plans of a file against what they patch, each alone, and puts those that are on in force.
pub(super) fn plans(policy: &mut Policy, documents: &Documents, facts: &Facts<'_>, faults: &mut Faults) {
    let mut merged: BTreeMap<(Kind, Name), Node> = BTreeMap::new();
    for plan in policy.plans.values() {
        let Some(document) = documents.get(Kind::Plan, &plan.name) else { continue };
        let mut patched = BTreeMap::new();
        for (id, patch) in patches(document) {
            // What is faulty by itself, or not there, is reported already.
            let Some(base) = documents.get(id.0, &id.1).filter(|_| is_there(policy, id.0, &id.1)) else {
                continue;
            };
            let mut alone = base.clone();
            merge(id.0, &mut alone, &patch);
            let Some(resource) = check(&id, &alone, policy, facts, faults) else { continue };
            if plan.on {
                merge(id.0, merged.entry(id.clone()).or_insert_with(|| base.clone()), &patch);
            }
            if let Resource::Upstream(upstream) = resource {
                patched.insert(id.1, (upstream, alone));
            }
        }
        no_circles(policy, &patched, faults);
    }
    let mut patched = BTreeMap::new();
    for (id, node) in merged {
        let Some(resource) = check(&id, &node, policy, facts, faults) else { continue };
        if let Resource::Upstream(upstream) = &resource {
            patched.insert(id.1, (Arc::clone(upstream), node));
        }
        resource.put(policy);
    }
    no_circles(policy, &patched, faults);
}

/// Reports circles of fallbacks that `patched` upstreams, with their documents, make in `policy`.
fn no_circles(policy: &Policy, patched: &BTreeMap<Name, (Arc<Upstream>, Node)>, faults: &mut Faults) {
    // Where the file has one without its plans, that is the fault.
    if faults.iter().any(|fault| fault.code == Code::Circle) {
        return;
    }
    let upstream = |name: &Name| patched.get(name).map(|(it, _)| it).or_else(|| policy.upstreams.get(name));
    let next = |name: &Name| upstream(name).and_then(|it| validate::falls_back_to(it)).cloned();
    for circle in validate::circles(patched.keys(), next) {
        let mut documents = circle.iter().filter_map(|name| Some((name, &patched.get(name)?.1)));
        let fallback = |node: &Node| node.get("fallback")?.node.get("upstream").map(|it| it.node.origin);
        let Some((name, origin)) = documents.find_map(|(name, node)| Some((name, fallback(node)?))) else {
            continue;
        };
        let path = format!("policy.upstreams.{name}.fallback.upstream");
        let Problem { code, message, help } = validate::circle_problem(&circle);
        faults.push(Fault { severity: Severity::Error, code, path, origin, message, help });
    }
}

fn check(
    (kind, name): &(Kind, Name),
    node: &Node,
    policy: &Policy,
    facts: &Facts<'_>,
    faults: &mut Faults,
) -> Option<Resource> {
    let mut own = Faults::default();
    let mut cx = Cx::new(&mut own, node.origin);
    let made = cx.at("policy", node.origin, |cx| {
        cx.at(kind.as_str(), node.origin, |cx| {
            cx.at(name.as_str(), node.origin, |cx| {
                let (made, references) = resource(*kind, name, node, facts, cx)?;
                for reference in references.iter().filter(|to| !is_there(policy, to.kind, &to.name)) {
                    cx.dangling(reference, NoSuch { reference, known: None }.problem());
                }
                Some(made)
            })
        })
    });
    let good = made.filter(|_| !own.any_error());
    // What a patch says wrongly by itself is reported already.
    let known: HashSet<_> = faults.iter().map(|fault| (fault.code, fault.origin)).collect();
    let new = own.iter().filter(|fault| fault.severity == Severity::Error);
    new.filter(|fault| !known.contains(&(fault.code, fault.origin)))
        .for_each(|fault| faults.push(fault.clone()));
    good
}

fn is_there(policy: &Policy, kind: Kind, name: &Name) -> bool {
    match kind {
        Kind::Upstream => policy.upstreams.contains_key(name),
        Kind::Route => policy.routes.contains_key(name),
        Kind::Limit => policy.limits.contains_key(name),
        Kind::Switch => policy.switches.contains_key(name),
        Kind::Plan => policy.plans.contains_key(name),
    }
}
