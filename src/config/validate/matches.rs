//! Matches, which routes, limits and switches share.

use http::Method;

use super::{Facts, references};
use crate::config::{
    Kind,
    codes::Code,
    fault::Problem,
    policy::Match,
    wire::{Cx, Many, Spanned, Table, file::MatchWire},
};

/// The match of a limit or a switch, which may name a route.
pub(super) fn matches(wire: &Spanned<MatchWire>, facts: &Facts<'_>, cx: &mut Cx<'_>) -> Match {
    cx.at("match", wire.origin, |cx| {
        if let Some(listener) = &wire.value.listener {
            references::listener(listener, facts.listeners.as_ref(), cx);
        }
        if let Some(route) = &wire.value.route {
            cx.refer("route", Kind::Route, route);
        }
        parts(&wire.value, cx)
    })
}

/// A match, as it is written.
pub(super) fn parts(wire: &MatchWire, cx: &mut Cx<'_>) -> Match {
    let methods = plain(wire.methods.as_ref());
    if let Some(grpc) = &wire.grpc
        && !methods.is_empty()
        && !methods.contains(&Method::POST)
    {
        let problem = Problem::new(Code::Inconsistent, "`grpc` matches nothing here: gRPC is always POST")
            .help("take `methods` out");
        cx.problem(problem, grpc.origin);
    }
    Match {
        listener: wire.listener.as_ref().map(|name| name.value.clone()),
        route: wire.route.as_ref().map(|name| name.value.clone()),
        host: plain(wire.host.as_ref()),
        path: plain(wire.path.as_ref()),
        methods,
        headers: pairs(&wire.headers.value),
        query: pairs(&wire.query.value).into_iter().map(|(name, value)| (name.0, value)).collect(),
        client: plain(wire.client.as_ref()),
        grpc: wire.grpc.as_ref().map(|grpc| grpc.value.clone()),
    }
}

/// The values of a list, without their places.
pub(super) fn plain<T: Clone>(many: Option<&Spanned<Many<T>>>) -> Vec<T> {
    many.map(|many| many.value.0.iter().map(|item| item.value.clone()).collect()).unwrap_or_default()
}

/// The entries of a table that are whole, without their places.
pub(super) fn pairs<K: Clone, V: Clone>(table: &Table<K, V>) -> Vec<(K, V)> {
    let whole = table.0.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
    whole.map(|(key, value)| (key.value.clone(), value.value.clone())).collect()
}
