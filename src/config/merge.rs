//! How one layer's document lies over those below it.

use super::{
    documents::Kind,
    node::{Map, Node, Value},
};

/// Fields of one block of which a document has one: setting one in a higher layer removes the lower layer's other.
struct Alternatives {
    kind: Kind,
    /// The block that holds them, with dots; empty = the document itself.
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
    Alternatives { kind: Kind::Route, block: "fallback.respond", groups: &[&["json"], &["body"]] },
    Alternatives { kind: Kind::Upstream, block: "fallback", groups: &[&["respond"], &["upstream"]] },
    Alternatives { kind: Kind::Upstream, block: "fallback.respond", groups: &[&["json"], &["body"]] },
];

/// The fields by which a health check is of one kind, and those that belong to some kinds only.
const CHECKS: [&str; 5] = ["http", "tcp", "tls", "grpc", "send"];
const OF_CHECKS: [&str; 4] = ["expect", "method", "host", "contains"];

/// Merges `patch` over `target` (RFC 7396), and takes out what the alternatives in `patch` replace.
pub(crate) fn merge(kind: Kind, target: &mut Node, patch: &Node) {
    for rule in ALTERNATIVES.iter().filter(|rule| rule.kind == kind) {
        if let (Some(target), Some(patch)) = (block_mut(target, rule.block), block(patch, rule.block)) {
            replace(target, patch, rule.groups);
        }
    }
    match kind {
        Kind::Route => one_listener(target, patch),
        Kind::Upstream => {
            one_check(target, patch);
            no_key(target, patch);
        }
        Kind::Limit | Kind::Switch | Kind::Plan => {}
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

/// A health check has one kind; another one takes all away that belongs to the kind before. `expect` alone is a check
/// in a document, but says in a patch what is expected of the kind that is there (`send: ""` makes it a kind).
fn one_check(target: &mut Node, patch: &Node) {
    let (Some(target), Some(patch)) = (block_mut(target, "health"), block(patch, "health")) else { return };
    let mut kinds = CHECKS.iter().filter(|kind| is_set(patch, kind));
    let Some(new) = kinds.next() else { return };
    let silent = *new == "send" && is_set(target, "expect");
    let same = is_set(target, new) || (silent && !CHECKS.iter().any(|kind| is_set(target, kind)));
    for field in CHECKS.iter().filter(|kind| *kind != new) {
        target.shift_remove(*field);
    }
    if !same {
        for field in OF_CHECKS {
            target.shift_remove(field);
        }
    }
}

/// A key is for a ring; another way to choose takes it away.
fn no_key(target: &mut Node, patch: &Node) {
    let (Some(target), Some(patch)) = (block_mut(target, "balancer"), block(patch, "balancer")) else {
        return;
    };
    let policy = patch.get("policy").filter(|entry| !entry.node.is_null());
    if policy.is_some_and(|entry| entry.node.text().is_none_or(|text| text != "ring_hash")) {
        target.shift_remove("key");
    }
}

fn is_set(map: &Map, field: &str) -> bool {
    map.get(field).is_some_and(|entry| !entry.node.is_null())
}

fn block<'n>(node: &'n Node, path: &str) -> Option<&'n Map> {
    let steps = path.split('.').filter(|step| !step.is_empty());
    let found = steps.into_iter().try_fold(node, |node, step| Some(&node.get(step)?.node))?;
    match &found.value {
        Value::Map(map) => Some(map),
        _ => None,
    }
}

fn block_mut<'n>(node: &'n mut Node, path: &str) -> Option<&'n mut Map> {
    let Value::Map(map) = &mut node.value else { return None };
    if path.is_empty() {
        return Some(map);
    }
    let (step, rest) = path.split_once('.').unwrap_or((path, ""));
    map.get_mut(step).and_then(|entry| block_mut(&mut entry.node, rest))
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
                "{health: {http: /a, method: HEAD, host: h, contains: x, expect: 2xx, rise: 5}}",
                "{health: {tls: true, fall: 1}}",
                "{health: {rise: 5, tls: true, fall: 1}}",
            ),
            (
                Kind::Upstream,
                "{health: {send: a, expect: b}}",
                "{health: {grpc: true}}",
                "{health: {grpc: true}}",
            ),
            (
                Kind::Upstream,
                "{health: {http: /a, expect: 204}}",
                "{health: {http: /b}}",
                "{health: {http: /b, expect: 204}}",
            ),
            (
                Kind::Upstream,
                "{health: {http: /a, expect: 204}}",
                "{health: {expect: 200}}",
                "{health: {http: /a, expect: 200}}",
            ),
            (
                Kind::Upstream,
                "{health: {http: /a, expect: 204}}",
                "{health: {send: '', expect: x}}",
                "{health: {send: '', expect: x}}",
            ),
            (
                Kind::Upstream,
                "{health: {expect: x}}",
                "{health: {send: a}}",
                "{health: {expect: x, send: a}}",
            ),
            (Kind::Upstream, "{health: {expect: x}}", "{health: {http: /}}", "{health: {http: /}}"),
            (Kind::Upstream, "{health: {tls: true}}", "{health: {http: null}}", "{health: {tls: true}}"),
            (Kind::Upstream, "{health: {tls: true}}", "{health: null}", "{}"),
            (Kind::Upstream, "{health: {tls: true}}", "{health: off}", "{health: off}"),
            (
                Kind::Upstream,
                "{fallback: {respond: {json: [1], status: 203}}}",
                "{fallback: {respond: {body: x}}}",
                "{fallback: {respond: {status: 203, body: x}}}",
            ),
            (
                Kind::Upstream,
                "{balancer: {policy: ring_hash, key: client, decay: 1s}}",
                "{balancer: {policy: random}}",
                "{balancer: {policy: random, decay: 1s}}",
            ),
            (
                Kind::Upstream,
                "{balancer: {policy: ring_hash, key: client}}",
                "{balancer: {policy: ring_hash, excess: 50%}}",
                "{balancer: {policy: ring_hash, key: client, excess: 50%}}",
            ),
            (
                Kind::Route,
                "{fallback: {respond: {}}}",
                "{fallback: {upstream: b}}",
                "{fallback: {upstream: b}}",
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
