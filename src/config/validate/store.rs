//! The store.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{probe, upstreams::client_tls};
use crate::config::{
    bootstrap::{Credentials, Directory, Etcd, EtcdEndpoint, Store, StoreSource},
    codes::Code,
    fault::Problem,
    load::{Env, PemKind},
    node::Origin,
    policy::ClientTls,
    units::show_duration,
    wire::{
        Cx, Defaults as _, Spanned,
        file::FileWire,
        scalars::Span,
        store::{DirectoryWire, EtcdWire, PresenceFull, PresenceWire, StoreWire},
    },
};

/// Where the cache of an etcd is when nothing is said.
const CACHE: &str = "/var/lib/weir/policy.cache";

/// Where live policy comes from; `None` = from nowhere, or not as it is written.
pub(super) fn store(file: &FileWire, env: &Env<'_>, cx: &mut Cx<'_>) -> Option<Store> {
    let block = file.store.as_ref()?;
    cx.at("store", block.origin, |cx| {
        let wire = &block.value;
        let source = source(wire, env, cx);
        let presence = presence(wire, cx);
        let boot_wait = wire.boot_wait.value.0;
        let source = source?;
        let cache = match (&wire.cache, &source) {
            (Some(given), _) => given.value.0.as_ref().map(|path| path.0.clone()),
            (None, StoreSource::Etcd(_)) => Some(PathBuf::from(CACHE)),
            (None, StoreSource::Directory(_)) => None,
        };
        Some(Store { source, boot_wait, cache, presence })
    })
}

fn source(wire: &StoreWire, env: &Env<'_>, cx: &mut Cx<'_>) -> Option<StoreSource> {
    let made_etcd = wire.etcd.as_ref().map(|block| {
        cx.at("etcd", block.origin, |cx| block.value.0.as_ref().and_then(|wire| etcd(wire, env, cx)))
    });
    let made_directory = wire
        .directory
        .as_ref()
        .map(|block| cx.at("directory", block.origin, |cx| directory(&block.value, cx)));
    match (made_etcd, made_directory) {
        (Some(etcd), None) => etcd.map(StoreSource::Etcd),
        (None, Some(directory)) => directory.map(StoreSource::Directory),
        (Some(_), Some(_)) => {
            let problem = Problem::new(Code::Conflict, "`etcd` and `directory` exclude each other")
                .help("live policy has one source: take one of them out");
            let origin = wire.directory.as_ref().map_or_else(|| cx.here(), |block| block.origin);
            cx.at("directory", origin, |cx| cx.problem(problem, origin));
            None
        }
        (None, None) => {
            let problem = Problem::new(Code::Missing, "`etcd` or `directory` is missing")
                .help("write `etcd: { endpoints: [http://127.0.0.1:2379] }` or `directory: ./live`");
            let here = cx.here();
            cx.problem(problem, here);
            None
        }
    }
}

fn etcd(wire: &EtcdWire, env: &Env<'_>, cx: &mut Cx<'_>) -> Option<Etcd> {
    let credentials = credentials(wire, env, cx);
    let tls =
        wire.tls.as_ref().map(|tls| cx.at("tls", tls.origin, |cx| client_tls(&tls.value, env.probe, cx)));
    let endpoints = wire.endpoints.as_ref()?;
    let list = &endpoints.value.0;
    cx.at("endpoints", endpoints.origin, |cx| sound_endpoints(list, cx));
    let secure = list.iter().any(|endpoint| endpoint.value.tls);
    if let (Some(given), false, false) = (&wire.tls, secure, list.is_empty()) {
        let problem = Problem::new(Code::Inconsistent, "`tls` while the endpoints are `http://`")
            .help("write `https://` there, or take `tls` out");
        cx.at("tls", given.origin, |cx| cx.problem(problem, given.origin));
    }
    Some(Etcd {
        endpoints: list.iter().map(|endpoint| endpoint.value.clone()).collect(),
        root: Arc::from(wire.root.value.0.as_str()),
        credentials,
        tls: secure.then(|| tls.unwrap_or_else(system_trust)),
        connect_timeout: wire.connect_timeout.value.0,
        request_timeout: wire.request_timeout.value.0,
    })
}

/// TLS without settings: the system's authorities, no certificate of one's own.
fn system_trust() -> ClientTls {
    ClientTls::default()
}

fn credentials(wire: &EtcdWire, env: &Env<'_>, cx: &mut Cx<'_>) -> Option<Credentials> {
    if let Some(file) = &wire.password_file {
        probe("password_file", file, PemKind::Password, env.probe, cx);
    }
    let alone = match (&wire.user, &wire.password_file) {
        (Some(user), Some(file)) => {
            return Some(Credentials {
                user: Arc::from(user.value.0.as_str()),
                password_file: file.value.0.clone(),
            });
        }
        (Some(user), None) => ("user", user.origin, "`user` without `password_file`"),
        (None, Some(file)) => ("password_file", file.origin, "`password_file` without `user`"),
        (None, None) => return None,
    };
    let (field, origin, message) = alone;
    let problem = Problem::new(Code::Incomplete, message)
        .help("a user authenticates with both; a client certificate (`tls.cert`) needs neither");
    cx.at(field, origin, |cx| cx.problem(problem, origin));
    None
}

/// Endpoints that fit each other: each once, all with TLS or none.
fn sound_endpoints(list: &[Spanned<EtcdEndpoint>], cx: &mut Cx<'_>) {
    let Some(first) = list.first() else { return };
    for (index, endpoint) in list.iter().enumerate() {
        let twice = list.iter().take(index).any(|earlier| earlier.value.address == endpoint.value.address);
        let problem = if twice {
            Problem::new(Code::Duplicate, format!("the endpoint {} stands here twice", endpoint.value))
        } else if endpoint.value.tls != first.value.tls {
            Problem::new(Code::Inconsistent, "`http://` and `https://` side by side")
                .help("all members are spoken to in the same way")
        } else {
            continue;
        };
        cx.at(&index.to_string(), endpoint.origin, |cx| cx.problem(problem, endpoint.origin));
    }
}

fn directory(wire: &DirectoryWire, cx: &mut Cx<'_>) -> Option<Directory> {
    let bounds = Duration::from_millis(10)..=Duration::from_mins(1);
    within("interval", &wire.0.interval, bounds, cx);
    Some(Directory { path: wire.0.path.as_ref()?.value.0.clone(), interval: wire.0.interval.value.0 })
}

fn presence(wire: &StoreWire, cx: &mut Cx<'_>) -> Option<Duration> {
    let default = PresenceFull::defaults(Origin::default());
    let (block, origin) = match &wire.presence {
        // A directory takes none, so that only those who ask for it are told.
        None if wire.directory.is_some() => return None,
        None => (&default, Origin::default()),
        Some(Spanned { value: PresenceWire::Off, .. }) => return None,
        Some(Spanned { value: PresenceWire::On(block), origin }) => (block, *origin),
    };
    if wire.directory.is_some() && wire.etcd.is_none() {
        let problem = Problem::new(Code::Conflict, "a directory takes no `presence`")
            .help("take it out: Weir only reads the directory");
        cx.at("presence", origin, |cx| cx.problem(problem, origin));
        return None;
    }
    let bounds = Duration::from_secs(1)..=crate::config::units::LONGEST;
    cx.at("presence", origin, |cx| within("interval", &block.interval, bounds, cx));
    Some(block.interval.value.0)
}

/// Reports a duration outside its bounds.
fn within(field: &str, span: &Spanned<Span>, bounds: std::ops::RangeInclusive<Duration>, cx: &mut Cx<'_>) {
    if bounds.contains(&span.value.0) {
        return;
    }
    let problem =
        Problem::new(Code::OutOfBounds, format!("`{}` is out of bounds", show_duration(span.value.0)))
            .help(format!("it takes {} to {}", show_duration(*bounds.start()), show_duration(*bounds.end())));
    cx.at(field, span.origin, |cx| cx.problem(problem, span.origin));
}
