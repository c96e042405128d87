//! `weir run`: the sidecar, and the application with it when a COMMAND is given.

use std::{
    ffi::OsString,
    io::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{Notify, mpsc};

use super::{ExitStatus, RunArgs, check::wants_colour, child, source};
use crate::{
    app::App,
    config::{File, Loaded, Policy, bootstrap::Direction, policy},
    control::{Control, Reload},
    telemetry::{Metrics, log, metrics::DEFAULT_MAX_SERIES},
};

/// The commit that this was built from, where the build knew it.
const COMMIT: &str = match option_env!("WEIR_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// Runs until it is told to leave, or until COMMAND ends.
pub fn run(args: &RunArgs) -> ExitStatus {
    let path = args.config.config.clone();
    let loaded = source::load_file(&path);
    report(&loaded);
    let Some(file) = loaded.file else { return ExitStatus::BadConfig };
    let open_files = raise_open_files();
    let workers = file.bootstrap.workers.get();
    let metrics = Metrics::new(workers, DEFAULT_MAX_SERIES, env!("CARGO_PKG_VERSION"), COMMIT);
    let (handle, _flush) = match log::install(
        file.bootstrap.log.level,
        file.bootstrap.log.format,
        metrics.log_dropped.clone(),
    ) {
        Ok(installed) => installed,
        Err(error) => return fail(&error),
    };
    log_panics();
    let port = application_port(&file);
    let (service, instance) = (file.bootstrap.service.clone(), file.bootstrap.instance.clone());
    let bound = match App::bind(file, handle, metrics) {
        Ok(bound) => bound,
        Err(error) => return fail(&error),
    };
    for (listener, address) in bound.addresses() {
        tracing::info!(%listener, %address, "listening");
    }
    tracing::info!(
        %service, %instance, workers, open_files, version = env!("CARGO_PKG_VERSION"),
        admin = bound.admin_address().map(tracing::field::display),
        telemetry = bound.telemetry_address().map(tracing::field::display),
        "weir runs"
    );
    let (orders, receiver) = mpsc::unbounded_channel();
    let terminate = Arc::new(Notify::new());
    let outcome = Arc::new(AtomicI32::new(child::NO_OUTCOME));
    let wrapped = (!args.command.is_empty()).then(|| child::Wrapped {
        command: args.command.clone(),
        port,
        terminate: terminate.clone(),
        outcome: outcome.clone(),
    });
    let wraps = wrapped.is_some();
    let control = Control { orders: receiver, application: wraps.then_some(terminate) };
    let errand = child::attend(orders, wrapped);
    if let Err(error) = bound.run(reload_of(&path), control, errand) {
        return fail(&error);
    }
    match outcome.load(Ordering::Acquire) {
        // It was killed: it had not ended when the grace was over.
        child::NO_OUTCOME if wraps => ExitStatus::Wrapped(128 + 9),
        child::NO_OUTCOME => ExitStatus::Fine,
        child::NOT_STARTED => ExitStatus::Unavailable,
        code => ExitStatus::Wrapped(u8::try_from(code).unwrap_or(u8::MAX)),
    }
}

fn reload_of(path: &Path) -> Reload {
    // Standard input is read once.
    let watched = (path != Path::new("-")).then(|| path.to_owned());
    let path = path.to_owned();
    Reload {
        path: watched,
        load: Box::new(move || source::load_file(&path)),
        report: Box::new(report),
        probe: Box::new(source::probe),
    }
}

/// Shows faults and warnings on stderr.
fn report(loaded: &Loaded) {
    if !loaded.faults.is_empty() {
        let text = loaded.render(wants_colour(&std::io::stderr()));
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

fn fail(error: &dyn std::fmt::Display) -> ExitStatus {
    let _ = writeln!(std::io::stderr(), "weir: {error}");
    ExitStatus::Unavailable
}

/// Panics go where all else goes: into the log, as one line.
fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(String::new, ToString::to_string);
        let message = info.payload_as_str().unwrap_or("no message");
        tracing::error!(place, message, "panic");
    }));
}

/// Raises the limit of open files to its hard maximum: each connection is a file, and the soft limit is a guess from
/// another age. Returns the limit in force; `None` = none.
fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

/// The port that the application is expected on: where a route of an inbound listener leads on this machine.
fn application_port(file: &File) -> Option<u16> {
    let inbound = |route: &policy::Route| match &route.matches.listener {
        Some(name) => file.bootstrap.listeners.get(name).is_some_and(|l| l.direction == Direction::Inbound),
        None => file.bootstrap.listeners.values().any(|l| l.direction == Direction::Inbound),
    };
    let mut routes = file.policy.routes.values().filter(|route| inbound(route));
    routes.find_map(|route| local_port(&file.policy, route))
}

fn local_port(policy: &Policy, route: &policy::Route) -> Option<u16> {
    let upstreams: Vec<_> = match &route.target {
        policy::Target::Upstream(name) => vec![name],
        policy::Target::Split { parts, .. } => parts.iter().map(|(name, _)| name).collect(),
    };
    let mut endpoints =
        upstreams.into_iter().filter_map(|name| policy.upstreams.get(name)).flat_map(|u| &u.endpoints);
    endpoints.find_map(|endpoint| match &endpoint.address {
        policy::EndpointAddress::Socket(address) if address.ip().is_loopback() => Some(address.port()),
        policy::EndpointAddress::Host(host, port) if &**host == "localhost" => Some(*port),
        _ => None,
    })
}

/// The words of COMMAND, for the log.
pub(super) fn words(command: &[OsString]) -> String {
    command.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
