//! How one layer's document lies over those below it.

use super::{
    documents::Kind,
    node::{Entry, Map, Node, Value},
};

/// Fields of one block of which a document has one: setting one in a higher layer removes the lower layer's other.
struct Alternatives {
    kind: Kind,
    /// The block that holds them; empty = the document itself.
    block: &'static str,
    /// The alternatives; each may be several fields that belong together.
    groups: &'static [&'static [&'static str]],
}

const ALTERNATIVES: &[Alternatives] = &[
    Alternatives {
        kind: Kind::Switch,
        block: "",
        groups: &[&["respond"], &["reject"], &["upstream"], &["annotate"], &["delay"], &["abort"], &["shed"]],
    },
    Alternatives { kind: Kind::Switch, block: "respond", groups: &[&["json"], &["body"]] },
    Alternatives { kind: Kind::Route, block: "", groups: &[&["upstream"], &["split", "key"]] },
    Alternatives { kind: Kind::Route, block: "fallback", groups: &[&["respond"], &["upstream"]] },
    Alternatives { kind: Kind::Upstream, block: "fallback", groups: &[&["respond"], &["upstream"]] },
    Alternatives {
        kind: Kind::Upstream,
        block: "health",
        groups: &[&["http"], &["tcp"], &["grpc"], &["send", "expect"]],
    },
];

/// Merges `patch` over `target` (RFC 7396), and takes out what the alternatives in `patch` replace.
pub(crate) fn merge(kind: Kind, target: &mut Node, patch: &Node) {
    for rule in ALTERNATIVES.iter().filter(|rule| rule.kind == kind) {
        if let (Some(target), Some(patch)) = (block_mut(target, rule.block), block(patch, rule.block)) {
            replace(target, patch, rule.groups);
        }
    }
    if kind == Kind::Route {
        one_listener(target, patch);
    }
    target.merge(patch);
}

fn replace(target: &mut Map, patch: &Map, groups: &[&[&str]]) {
    // The first field of a group is what makes it an alternative; the others only go with it.
    let set = |group: &[&str]| group.first().is_some_and(|field| is_set(patch, field));
    if groups.iter().any(|group| set(group)) {
        for field in groups.iter().filter(|group| !set(group)).flat_map(|group| *group) {
            target.shift_remove(*field);
        }
    }
}

/// A route's listener has two places; the higher layer's holds.
fn one_listener(target: &mut Node, patch: &Node) {
    if block(patch, "").is_some_and(|patch| is_set(patch, "listener"))
        && let Some(matches) = block_mut(target, "match")
    {
        matches.shift_remove("listener");
    }
    if block(patch, "match").is_some_and(|patch| is_set(patch, "listener"))
        && let Some(route) = block_mut(target, "")
    {
        route.shift_remove("listener");
    }
}

fn is_set(map: &Map, field: &str) -> bool {
    map.get(field).is_some_and(|entry| !entry.node.is_null())
}

fn block<'n>(node: &'n Node, name: &str) -> Option<&'n Map> {
    let node = if name.is_empty() { node } else { &node.get(name)?.node };
    match &node.value {
        Value::Map(map) => Some(map),
        _ => None,
    }
}

fn block_mut<'n>(node: &'n mut Node, name: &str) -> Option<&'n mut Map> {
    let inside = |node: &'n mut Node| match &mut node.value {
        Value::Map(map) => Some(map),
        _ => None,
    };
    let map = inside(node)?;
    if name.is_empty() {
        return Some(map);
    }
    map.get_mut(name).map(|entry: &mut Entry| &mut entry.node).and_then(inside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Faults, node::SourceId};

    fn node(text: &str) -> Node {
        crate::config::yaml::read(text, SourceId::live(0), None, &mut Faults::default()).unwrap()
    }

    #[test]
    fn an_alternative_takes_the_place_of_the_other() {
        for (kind, below, above, result) in [
            (
                Kind::Switch,
                "{reject: {status: 503}, state: off}",
                "{upstream: b}",
                "{state: off, upstream: b}",
            ),
            (Kind::Switch, "{reject: {status: 503}}", "{reject: {status: 500}}", "{reject: {status: 500}}"),
            (Kind::Switch, "{reject: {status: 503}}", "{upstream: null}", "{reject: {status: 503}}"),
            (
                Kind::Switch,
                "{respond: {status: 200, json: [1]}}",
                "{respond: {body: x}}",
                "{respond: {status: 200, body: x}}",
            ),
            (Kind::Route, "{split: [{upstream: a}], key: client}", "{upstream: b}", "{upstream: b}"),
            (Kind::Route, "{upstream: a}", "{split: [{upstream: b}]}", "{split: [{upstream: b}]}"),
            (Kind::Route, "{split: [1]}", "{key: client}", "{split: [1], key: client}"),
            (
                Kind::Route,
                "{match: {listener: a, path: /x}}",
                "{listener: b}",
                "{match: {path: /x}, listener: b}",
            ),
            (Kind::Route, "{listener: a}", "{match: {listener: b}}", "{match: {listener: b}}"),
            (
                Kind::Upstream,
                "{health: {http: /a, interval: 1s}}",
                "{health: {tcp: true}}",
                "{health: {interval: 1s, tcp: true}}",
            ),
            (
                Kind::Upstream,
                "{fallback: {upstream: a}}",
                "{fallback: {respond: {}}}",
                "{fallback: {respond: {}}}",
            ),
            (Kind::Limit, "{rate: 5/s, burst: 3}", "{rate: 7/s}", "{rate: 7/s, burst: 3}"),
        ] {
            let mut merged = node(below);
            merge(kind, &mut merged, &node(above));
            assert_eq!(merged.to_json(), node(result).to_json(), "{below} + {above}");
        }
    }
}
