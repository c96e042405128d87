//! Routes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use http::{HeaderName, header};

use super::{
    Facts,
    matches::{self, pairs, plain},
    references,
    resilience::{self, route_breaker},
};
use crate::config::{
    Kind, Name,
    codes::Code,
    fault::{Problem, listed},
    policy::{Fallback, HeaderEdits, Match, PathPattern, Rewrite, Route, Target},
    wire::{
        Cx, List, Spanned,
        file::{EditsWire, Named, PartWire, PolicyWire, RouteWire},
        resilience::FallbackWire,
    },
};

/// A route; what it refers to is noted in `cx`.
pub(in crate::config) fn route(
    name: &Name,
    wire: &RouteWire,
    facts: &Facts<'_>,
    cx: &mut Cx<'_>,
) -> Option<Route> {
    let listener = listener(wire, facts, cx);
    let matches = cx.at("match", wire.matches.origin, |cx| {
        if let Some(route) = &wire.matches.value.route {
            let problem =
                Problem::new(Code::Conflict, "a route cannot match on a route").help("take `route` out");
            cx.problem(problem, route.origin);
        }
        Match { listener, route: None, ..matches::parts(&wire.matches.value, cx) }
    });
    let target = target(wire, cx);
    let breaker = wire
        .breaker
        .as_ref()
        .map(|breaker| cx.at("breaker", breaker.origin, |cx| route_breaker(&breaker.value.0, cx)));
    let fallback = fallback(wire, cx);
    let rewrite = rewrite(wire, &matches, cx);
    let request_headers =
        cx.at("request_headers", wire.request_headers.origin, |cx| edits(&wire.request_headers.value, cx));
    let response_headers =
        cx.at("response_headers", wire.response_headers.origin, |cx| edits(&wire.response_headers.value, cx));
    Some(Route {
        name: name.clone(),
        matches,
        target: target?,
        timeout: wire.timeout.value.0,
        idle_timeout: wire.idle_timeout.value.0,
        priority: wire.priority.value,
        rewrite,
        request_headers,
        response_headers,
        max_body: wire.max_body.as_ref().map(|size| size.value.0),
        breaker,
        fallback,
    })
}

/// What a route's requests get when its upstream cannot answer.
fn fallback(wire: &RouteWire, cx: &mut Cx<'_>) -> Option<Fallback> {
    let given = wire.fallback.as_ref()?;
    cx.at("fallback", given.origin, |cx| {
        if let Some(own) = &wire.upstream {
            let message = format!("this route's requests go to `{}` in the first place", own.value);
            let problem = Problem::new(Code::Circle, message)
                .help("name another upstream, or give a fixed answer: `respond`");
            resilience::fallback_to_itself(&given.value, &own.value, problem, cx);
        }
        resilience::fallback(&given.value, cx)
    })
}

/// The listener of a route, which may be written at its top or in its match.
fn listener(wire: &RouteWire, facts: &Facts<'_>, cx: &mut Cx<'_>) -> Option<Name> {
    let (top, inner) = (wire.listener.as_ref(), wire.matches.value.listener.as_ref());
    if let (Some(top), Some(inner)) = (top, inner)
        && top.value != inner.value
    {
        let message = format!("`listener` is `{}` here and `{}` in `match`", top.value, inner.value);
        cx.problem(Problem::new(Code::Conflict, message).help("write it once"), top.origin);
    }
    let given = top.or(inner)?;
    references::listener(given, facts.listeners.as_ref(), cx);
    Some(given.value.clone())
}

/// Where a route sends its requests: exactly one of the alternatives.
fn target(wire: &RouteWire, cx: &mut Cx<'_>) -> Option<Target> {
    if let (Some(key), None) = (&wire.key, &wire.split) {
        let problem = Problem::new(Code::Incomplete, "`key` without a `split`")
            .help("a key makes a split sticky; without one it has no meaning");
        cx.problem(problem, key.origin);
    }
    match (&wire.upstream, &wire.split) {
        (Some(upstream), Some(_)) => {
            let problem = Problem::new(Code::Conflict, "`upstream` and `split` cannot both be given")
                .help("a split with one part is the same as `upstream`");
            cx.problem(problem, upstream.origin);
            None
        }
        (None, None) => {
            let here = cx.here();
            cx.problem(
                Problem::new(Code::Missing, "`upstream` is missing")
                    .help("a route needs `upstream` or `split`"),
                here,
            );
            None
        }
        (Some(upstream), None) => {
            cx.refer("upstream", Kind::Upstream, upstream);
            Some(Target::Upstream(upstream.value.clone()))
        }
        (None, Some(split)) => {
            let parts = cx.at("split", split.origin, |cx| parts(split, cx));
            Some(Target::Split { key: plain(wire.key.as_ref()), parts })
        }
    }
}

fn parts(split: &Spanned<List<PartWire, 1>>, cx: &mut Cx<'_>) -> Vec<(Name, u32)> {
    let mut seen = HashSet::new();
    let mut out = Vec::new();
    for (index, part) in split.value.0.iter().enumerate() {
        let Some(upstream) = &part.value.upstream else { continue };
        cx.at(&index.to_string(), part.origin, |cx| {
            cx.refer("upstream", Kind::Upstream, upstream);
            cx.at("upstream", upstream.origin, |cx| {
                if !seen.insert(&upstream.value) {
                    let message = format!("`{}` has two parts of this split", upstream.value);
                    cx.problem(
                        Problem::new(Code::Duplicate, message).help("add their weights up"),
                        upstream.origin,
                    );
                }
            });
        });
        out.push((upstream.value.clone(), part.value.weight.value.0));
    }
    if !out.is_empty() && out.iter().all(|(_, weight)| *weight == 0) {
        let problem = Problem::new(Code::NoWeight, "every part of this split has weight 0")
            .help("at least one part must get something");
        cx.problem(problem, split.origin);
    }
    out
}

fn rewrite(wire: &RouteWire, matches: &Match, cx: &mut Cx<'_>) -> Rewrite {
    let given = &wire.rewrite.value;
    if let Some(prefix) = &given.path_prefix
        && matches.path.iter().any(|path| matches!(path, PathPattern::Regex(_)))
    {
        let problem = Problem::new(
            Code::Inconsistent,
            "`path_prefix` has no prefix to replace: the route matches by regular expression",
        )
        .help("match `/prefix/*` or `/exact`");
        cx.at("rewrite", wire.rewrite.origin, |cx| {
            cx.at("path_prefix", prefix.origin, |cx| cx.problem(problem, prefix.origin));
        });
    }
    Rewrite {
        path_prefix: given.path_prefix.as_ref().map(|path| Arc::clone(&path.value.0)),
        host: given.host.as_ref().map(|host| host.value.0.clone()),
    }
}

fn edits(wire: &EditsWire, cx: &mut Cx<'_>) -> HeaderEdits {
    let set = wire.set.value.0.iter().map(|(name, _)| ("set", name));
    let add = wire.add.value.0.iter().map(|(name, _)| ("add", name));
    let remove = wire.remove.iter().flat_map(|many| &many.value.0).map(|name| ("remove", name));
    for (list, name) in set.chain(add).chain(remove) {
        if let Some(why) = forbidden(&name.value) {
            let problem =
                Problem::new(Code::ForbiddenHeader, format!("`{}` is not for policy to change", name.value))
                    .help(why);
            cx.at(list, name.origin, |cx| cx.problem(problem, name.origin));
        }
    }
    HeaderEdits {
        remove: plain(wire.remove.as_ref()),
        set: pairs(&wire.set.value),
        add: pairs(&wire.add.value)
            .into_iter()
            .flat_map(|(name, values)| values.0.into_iter().map(move |value| (name.clone(), value.value)))
            .collect(),
    }
}

/// Why a header cannot be edited: it belongs to one connection, or it says where a message ends.
pub(super) fn forbidden(name: &HeaderName) -> Option<&'static str> {
    if *name == header::HOST {
        return Some("use `rewrite: { host: … }`");
    }
    if *name == header::CONTENT_LENGTH || *name == header::TRANSFER_ENCODING {
        return Some("it says where the message ends (RFC 9112 §6)");
    }
    let connection = [header::CONNECTION, header::TE, header::TRAILER, header::UPGRADE];
    let connection_too = ["keep-alive", "proxy-connection", "http2-settings"];
    (connection.contains(name) || connection_too.contains(&name.as_str()))
        .then_some("it belongs to one connection, which Weir manages (RFC 9110 §7.6.1)")
}

/// Warns of routes that match exactly what an earlier one matches.
pub(super) fn shadowed(table: &Named<RouteWire>, routes: &BTreeMap<Name, Arc<Route>>, cx: &mut Cx<'_>) {
    let origins: HashMap<_, _> = table.0.iter().map(|(name, _)| (&name.value, name.origin)).collect();
    let mut first = HashMap::new();
    for (name, route) in routes {
        let Some(earlier) = first.insert(canonical(&route.matches), name) else { continue };
        let message =
            format!("this route never matches: `{earlier}` matches the same and comes first by name");
        let problem = Problem::new(Code::Shadowed, message).help("make one of them more specific");
        let origin = origins.get(name).copied().unwrap_or_else(|| cx.here());
        cx.at(name.as_str(), origin, |cx| cx.warn(problem, origin));
        first.insert(canonical(&route.matches), earlier);
    }
}

/// A match in a form in which order does not count.
fn canonical(matches: &Match) -> (Option<Name>, [Vec<String>; 6], Option<String>) {
    fn sorted<T: std::fmt::Debug>(items: &[T]) -> Vec<String> {
        let mut items: Vec<_> = items.iter().map(|item| format!("{item:?}")).collect();
        items.sort_unstable();
        items.dedup();
        items
    }
    let Match { listener, route: _, host, path, methods, headers, query, client, grpc } = matches;
    let lists = [sorted(host), sorted(path), sorted(methods), sorted(headers), sorted(query), sorted(client)];
    (listener.clone(), lists, grpc.as_ref().map(|grpc| format!("{grpc:?}")))
}

/// The upstream that a fallback names.
fn fallback_of(fallback: Option<&Spanned<FallbackWire>>) -> Option<&Name> {
    fallback?.value.upstream.as_ref().map(|upstream| &upstream.value)
}

/// Warns of upstreams that nothing uses.
pub(super) fn unused(policy: &PolicyWire, cx: &mut Cx<'_>) {
    let routes = &policy.routes.value;
    let mut used = HashSet::new();
    for route in routes.0.iter().filter_map(|(_, route)| route.as_ref()) {
        used.extend(route.value.upstream.iter().map(|upstream| &upstream.value));
        used.extend(fallback_of(route.value.fallback.as_ref()));
        let parts = route.value.split.iter().flat_map(|split| &split.value.0);
        used.extend(parts.filter_map(|part| part.value.upstream.as_ref()).map(|upstream| &upstream.value));
    }
    let upstreams = policy.upstreams.value.0.iter().filter_map(|(_, upstream)| upstream.as_ref());
    used.extend(upstreams.filter_map(|upstream| fallback_of(upstream.value.fallback.as_ref())));
    let switches = policy.switches.value.0.iter().filter_map(|(_, switch)| switch.as_ref());
    used.extend(
        switches.filter_map(|switch| switch.value.0.upstream.as_ref()).map(|upstream| &upstream.value),
    );
    // A route that could not be read may use any of them; and where there is none at all, that is the warning.
    if routes.0.len() < routes.1 || routes.0.iter().any(|(_, route)| route.is_none()) || routes.1 == 0 {
        return;
    }
    for (name, _) in policy.upstreams.value.0.iter().filter(|(name, _)| !used.contains(&name.value)) {
        let problem = Problem::new(Code::Unused, format!("no route uses the upstream `{}`", name.value))
            .help(format!(
                "the upstreams in use are {}",
                listed(used.iter().map(|name| name.as_str()).take(10))
            ));
        let problem = if used.is_empty() { Problem { help: None, ..problem } } else { problem };
        cx.at("upstreams", name.origin, |cx| {
            cx.at(name.value.as_str(), name.origin, |cx| cx.warn(problem, name.origin));
        });
    }
}
