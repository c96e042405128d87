//! Wire types → validated types: what can only be said of several fields together.

mod circles;
mod health;
mod limits;
mod listeners;
mod matches;
mod plans;
mod references;
mod resilience;
mod routes;
mod store;
mod switches;
mod upstreams;

pub(crate) use circles::{circle_problem, circles, falls_back_to};
pub(super) use limits::limit;
pub(super) use plans::plan;
pub(crate) use references::NoSuch;
use references::references;
pub(super) use routes::route;
pub(super) use switches::switch;
pub(super) use upstreams::{endpoint, upstream};

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    path::Path,
    sync::Arc,
};

use super::{
    Bootstrap, Kind, Name, Policy,
    bootstrap::{Drain, Log},
    codes::Code,
    fault::{Problem, shown},
    load::{Env, PemKind},
    units,
    wire::{
        Cx, Spanned,
        file::{FileWire, Named},
        scalars::{FilePath, Workers},
    },
};

/// What a resource is checked against, beside itself and other resources.
#[derive(Clone)]
pub(crate) struct Facts<'a> {
    /// The listeners; `None` when there is no such block, which is a fault of its own.
    pub(crate) listeners: Option<BTreeSet<&'a Name>>,
    /// Whether there is a Redis.
    pub(crate) redis: bool,
    /// Whether endpoints may come from a store.
    pub(crate) store: bool,
    /// Says what is wrong with a file that the policy names.
    pub(crate) probe: &'a dyn Fn(&Path, PemKind) -> Result<(), String>,
}

impl<'a> Facts<'a> {
    /// What `file` says of itself.
    pub(in crate::config) fn of(file: &'a FileWire, env: &Env<'a>) -> Self {
        Self {
            listeners: file.listeners.as_ref().map(|listeners| names(&listeners.value)),
            redis: file.redis.is_some(),
            store: file.store.is_some(),
            probe: env.probe,
        }
    }
}

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
    redis(file, cx);
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
        redis: file.redis.as_ref().and_then(|redis| Some(redis.value.url.as_ref()?.value.clone())),
    })
}

/// Whether this Weir can speak with the Redis that the file names.
fn redis(file: &FileWire, cx: &mut Cx<'_>) {
    if let Some(redis) = file.redis.as_ref().filter(|_| !cfg!(feature = "redis")) {
        let problem = Problem::new(Code::LaterVersion, "this Weir was built without Redis")
            .help("build it with the Cargo feature `redis`, or take `redis` out");
        cx.at("redis", redis.origin, |cx| cx.problem(problem, redis.origin));
    }
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

/// The policy, before its plans. What is faulty is left out of it; the faults are in `cx`.
pub(super) fn policy(file: &FileWire, env: &Env<'_>, cx: &mut Cx<'_>) -> Policy {
    let wire = &file.policy.value;
    let facts = Facts::of(file, env);
    cx.at("policy", file.policy.origin, |cx| {
        let policy = Policy {
            upstreams: each(Kind::Upstream, &wire.upstreams, cx, |name, wire, cx| {
                upstream(name, wire, &facts, cx)
            }),
            routes: each(Kind::Route, &wire.routes, cx, |name, wire, cx| route(name, wire, &facts, cx)),
            limits: each(Kind::Limit, &wire.limits, cx, |name, wire, cx| limit(name, &wire.0, &facts, cx)),
            switches: each(Kind::Switch, &wire.switches, cx, |name, wire, cx| {
                switch(name, &wire.0, &facts, cx)
            }),
            plans: each(Kind::Plan, &wire.plans, cx, |name, wire, cx| Some(plan(name, &wire.0, cx))),
            bypass: false,
        };
        let tables = [
            (Kind::Upstream, names(&wire.upstreams.value)),
            (Kind::Route, names(&wire.routes.value)),
            (Kind::Limit, names(&wire.limits.value)),
            (Kind::Switch, names(&wire.switches.value)),
        ];
        let known = |kind: Kind| tables.iter().find(|(of, _)| *of == kind).map(|(_, names)| names);
        references(cx, &|kind, name| known(kind).is_none_or(|names| names.contains(name)), &|kind| {
            known(kind).into_iter().flatten().map(|name| name.as_str()).collect()
        });
        upstreams::fallbacks(wire, &policy, cx);
        cx.at("routes", wire.routes.origin, |cx| routes::shadowed(&wire.routes.value, &policy.routes, cx));
        routes::unused(wire, cx);
        if wire.routes.value.1 == 0 {
            let problem = Problem::new(Code::NoRoutes, "there is no route: every request will get 404")
                .help("add one under `policy.routes`");
            cx.warn(problem, wire.routes.origin);
        }
        policy
    })
}

/// Every entry of a block of the policy that is whole, made into what `make` says.
fn each<W, T>(
    kind: Kind,
    table: &Spanned<Named<W>>,
    cx: &mut Cx<'_>,
    make: impl FnMut(&Name, &W, &mut Cx<'_>) -> Option<T>,
) -> BTreeMap<Name, Arc<T>> {
    cx.at(kind.as_str(), table.origin, |cx| whole(&table.value, cx, make))
}

/// Every entry that is whole, made into what `make` says.
fn whole<W, T>(
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
fn probe(
    name: &str,
    path: &Spanned<FilePath>,
    kind: PemKind,
    probe: &dyn Fn(&Path, PemKind) -> Result<(), String>,
    cx: &mut Cx<'_>,
) {
    if let Err(why) = probe(&path.value.0, kind) {
        let message = format!("`{}`: {why}", shown(&path.value.0.to_string_lossy()));
        cx.at(name, path.origin, |cx| cx.problem(Problem::new(Code::BadFile, message), path.origin));
    }
}

/// The names in a table, with those whose value is faulty.
fn names<W>(table: &Named<W>) -> BTreeSet<&Name> {
    table.0.iter().map(|(name, _)| &name.value).collect()
}
