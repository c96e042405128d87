//! Wire types → validated types: what can only be said of several fields together.

mod listeners;
mod routes;
mod store;
mod upstreams;

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    sync::Arc,
};

use super::{
    Bootstrap, Name, Policy,
    bootstrap::{Drain, Log},
    codes::Code,
    fault::{Problem, nearest, shown},
    load::{Env, PemKind},
    units,
    wire::{
        Cx, Spanned,
        file::{FileWire, Named},
        scalars::{FilePath, Workers},
    },
};

/// What is fixed for the life of the process; `None` when a required part is missing.
pub(super) fn bootstrap(file: &FileWire, env: &Env<'_>, cx: &mut Cx<'_>) -> Option<Bootstrap> {
    let instance = instance(file, env, cx);
    let workers = match file.workers.value {
        // Two threads carry what a pod's share of a machine can; more only when asked for.
        Workers::Auto => env.host.cpus.clamp(1, 2),
        Workers::Fixed(number) => usize::try_from(number).unwrap_or(1),
    };
    let drain = Drain { delay: file.drain.value.delay.value.0, grace: file.drain.value.grace.value.0 };
    if drain.delay > drain.grace {
        let message = format!(
            "`drain.delay` ({}) is longer than `drain.grace` ({})",
            units::show_duration(drain.delay),
            units::show_duration(drain.grace)
        );
        let problem =
            Problem::new(Code::Inconsistent, message).help("both count from SIGTERM: raise `grace`");
        cx.at("drain", file.drain.origin, |cx| cx.problem(problem, file.drain.value.delay.origin));
    }
    let listeners = listeners::listeners(file, env, cx);
    listeners::addresses(file, cx);
    let admin = listeners::admin(file, cx);
    let telemetry = listeners::telemetry(file, cx);
    let store = store::store(file, env, cx);
    let log = &file.log.value;
    Some(Bootstrap {
        service: file.service.as_ref()?.value.clone(),
        instance: instance?,
        zone: file.zone.as_ref().map(|zone| zone.value.clone()),
        workers: NonZeroUsize::new(workers)?,
        admin,
        telemetry,
        log: Log { level: log.level.value, format: log.format.value, access: log.access.value },
        drain,
        store,
        listeners,
    })
}

fn instance(file: &FileWire, env: &Env<'_>, cx: &mut Cx<'_>) -> Option<Name> {
    if let Some(instance) = &file.instance {
        return Some(instance.value.clone());
    }
    let found = Name::new(&env.host.hostname);
    if found.is_none() {
        let message =
            format!("the host name `{}` cannot be the name of the instance", shown(&env.host.hostname));
        let problem = Problem::new(Code::Missing, message).help("set `instance`");
        let here = cx.here();
        cx.problem(problem, here);
    }
    found
}

/// The policy. What is faulty is left out of it; the faults are in `cx`.
pub(super) fn policy(file: &FileWire, env: &Env<'_>, cx: &mut Cx<'_>) -> Policy {
    let wire = &file.policy.value;
    cx.at("policy", file.policy.origin, |cx| {
        let upstreams = cx.at("upstreams", wire.upstreams.origin, |cx| {
            upstreams::upstreams(&wire.upstreams.value, env, cx)
        });
        let known = routes::Known {
            listeners: file.listeners.as_ref().map(|listeners| names(&listeners.value)),
            upstreams: names(&wire.upstreams.value),
        };
        let routes = cx.at("routes", wire.routes.origin, |cx| routes::routes(&wire.routes.value, &known, cx));
        routes::unused(&wire.upstreams.value, &wire.routes.value, cx);
        if wire.routes.value.1 == 0 {
            let problem = Problem::new(Code::NoRoutes, "there is no route: every request will get 404")
                .help("add one under `policy.routes`");
            cx.warn(problem, wire.routes.origin);
        }
        Policy { upstreams, routes }
    })
}

/// Every entry that is whole, made into what `make` says.
fn each<W, T>(
    table: &Named<W>,
    cx: &mut Cx<'_>,
    mut make: impl FnMut(&Name, &W, &mut Cx<'_>) -> Option<T>,
) -> BTreeMap<Name, Arc<T>> {
    let mut out = BTreeMap::new();
    for (name, entry) in &table.0 {
        let Some(entry) = entry else { continue };
        let value = cx.at(name.value.as_str(), name.origin, |cx| make(&name.value, &entry.value, cx));
        out.extend(value.map(|value| (name.value.clone(), Arc::new(value))));
    }
    out
}

/// Reports a file that is not there, or does not hold what it must.
fn probe(name: &str, path: &Spanned<FilePath>, kind: PemKind, env: &Env<'_>, cx: &mut Cx<'_>) {
    if let Err(why) = (env.probe)(&path.value.0, kind) {
        let message = format!("`{}`: {why}", shown(&path.value.0.to_string_lossy()));
        cx.at(name, path.origin, |cx| cx.problem(Problem::new(Code::BadFile, message), path.origin));
    }
}

/// The names in a table, with those whose value is faulty.
fn names<W>(table: &Named<W>) -> BTreeSet<&Name> {
    table.0.iter().map(|(name, _)| &name.value).collect()
}

/// Reports a reference to something that is not there.
fn unknown(code: Code, what: &str, name: &Spanned<Name>, known: &BTreeSet<&Name>, cx: &mut Cx<'_>) {
    if known.contains(&name.value) {
        return;
    }
    let words = || known.iter().map(|name| name.as_str());
    // Among thousands of names the nearest is chance, and looking for it takes long.
    let candidates = if cx.is_full() { 0 } else { 1000 };
    let help = match nearest(name.value.as_str(), words().take(candidates)) {
        Some(guess) => format!("did you mean `{guess}`?"),
        None => match super::fault::listed(words().take(10)) {
            names if names.is_empty() => format!("there is no {what} at all"),
            names => format!("there is {names}"),
        },
    };
    let message = format!("there is no {what} `{}`", name.value);
    cx.problem(Problem::new(code, message).help(help), name.origin);
}
