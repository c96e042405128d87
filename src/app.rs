//! Wiring: from a checked file to a running proxy and back to nothing. No decisions here.
//!
//! [`App::bind`] claims everything that can fail (sockets, certificates, the first snapshot) before anything runs;
//! [`Bound::run`] then starts the workers, one thread each, and carries the rest on the calling thread.

use std::{
    io,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Builder, LocalOptions},
    sync::mpsc,
};

use crate::{
    admin::{self, Surface},
    config::{
        Bootstrap, File, Name,
        bootstrap::{self, ListenAddress, Side},
    },
    control::{Control, Reload, State},
    http::via::Via,
    listener::{Fingerprint, Listener, ReloadingTls},
    net::{self, Acceptor},
    proxy::Passthrough,
    readiness::Readiness,
    shared_rate,
    snapshot::{self, CompileError, Publisher, Registry},
    telemetry::{
        AccessLog, FlushOnDrop, LogHandle, Metrics, PolicySource, RecentRequests, Telemetry, set_worker,
    },
    tls::TlsError,
    worker::{Shared, Worker},
};

/// Why Weir did not start.
#[derive(Debug)]
pub enum StartError {
    /// An address could not be bound.
    Bind(String, ListenAddress, io::Error),
    /// TLS material of a listener.
    Tls(Name, TlsError),
    /// The policy could not be compiled.
    Compile(CompileError),
    /// Limits cannot be counted in Redis at all.
    Redis(shared_rate::StartError),
    /// The system refused something else.
    System(&'static str, io::Error),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bind(what, address, error) => {
                write!(f, "{what}.listen: cannot listen on {address}: {error}")?;
                f.write_str(&help(what, address, error))
            }
            Self::Tls(listener, error) => write!(f, "listeners.{listener}.tls: {error}"),
            Self::Compile(error) => error.fmt(f),
            Self::Redis(error) => write!(f, "redis: {error}"),
            Self::System(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// What to do about an address that cannot be had.
fn help(what: &str, address: &ListenAddress, error: &io::Error) -> String {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, NotFound, PermissionDenied};
    let help = match (address, error.kind()) {
        (ListenAddress::Socket(address), AddrInUse) => format!(
            "another process has port {port}: end it (`ss -ltnp 'sport = :{port}'` names it), or give `{what}.listen` \
             another port in the file",
            port = address.port()
        ),
        (ListenAddress::Socket(_), PermissionDenied) => {
            "ports below 1024 are for root: take a higher one".to_owned()
        }
        (ListenAddress::Socket(_), AddrNotAvailable) => {
            "this machine has no such address; 0.0.0.0 means all that it has".to_owned()
        }
        (ListenAddress::Unix(path), AddrInUse) => format!(
            "end it (`ss -lxp src {path}` names it), or give `{what}.listen` another path in the file",
            path = path.display()
        ),
        (ListenAddress::Unix(_), PermissionDenied | NotFound) => {
            "the folder must be there, and this user must have the right to make files in it".to_owned()
        }
        _ => return String::new(),
    };
    format!("\n  = help: {help}")
}

/// A proxy that is about to be.
#[derive(Debug)]
pub struct App;

/// A proxy whose sockets are bound: connections are queued from here on, and served once it runs.
#[derive(Debug)]
pub struct Bound {
    file: File,
    state: Arc<State>,
    sockets: Vec<net::Bound>,
    admin: Option<net::Bound>,
    telemetry: Option<net::Bound>,
    certificates: Vec<(Arc<Listener>, Fingerprint)>,
    _access: Option<FlushOnDrop>,
}

impl App {
    /// Claims what the file asks for. On an error everything is given back.
    pub fn bind(file: File, log: LogHandle, metrics: Arc<Metrics>) -> Result<Bound, StartError> {
        let bootstrap = &file.bootstrap;
        let workers = bootstrap.workers.get();
        let (listeners, sockets, certificates) = bind_listeners(bootstrap, &metrics)?;
        let side = |what: &str, side: Option<&Side>| {
            side.map(|side| listen(what, &side.listen, side.socket_mode)).transpose()
        };
        let admin = side("admin", bootstrap.admin.as_ref())?;
        let telemetry = side("telemetry", bootstrap.telemetry.as_ref())?;
        pass_through(&listeners, [admin.as_ref(), telemetry.as_ref()], &metrics);
        let start = |url| shared_rate::Client::start(url, &bootstrap.service).map_err(StartError::Redis);
        let redis = bootstrap.redis.as_ref().map(start).transpose()?;
        let mut registry = Registry::new(bootstrap.zone.clone(), redis.clone());
        let policy = Arc::new(file.policy.clone());
        let first =
            snapshot::first(&policy, &listeners, &mut registry, &metrics).map_err(StartError::Compile)?;
        metrics.set_policy_source(PolicySource::Baseline);
        let (access, flush) = AccessLog::stdout(bootstrap.log.access, &metrics.access_dropped)
            .map_err(|e| StartError::System("access log", e))?;
        let telemetry_handles = Telemetry { metrics, access, recent: RecentRequests::default() };
        let shared = Arc::new(Shared::new(first, listeners, telemetry_handles, workers));
        let publisher = Publisher::new(shared.clone(), policy, registry);
        let readiness = Readiness::new(workers, Instant::now());
        let state =
            Arc::new(State::new(bootstrap, shared, publisher, readiness, log, file.documents.clone(), redis));
        Ok(Bound { file, state, sockets, admin, telemetry, certificates, _access: flush })
    }
}

type Bindings = (Vec<Arc<Listener>>, Vec<net::Bound>, Vec<(Arc<Listener>, Fingerprint)>);

fn bind_listeners(bootstrap: &Bootstrap, metrics: &Metrics) -> Result<Bindings, StartError> {
    let mut bindings: Bindings = Bindings::default();
    for (index, config) in bootstrap.listeners.values().enumerate() {
        let loaded = load_tls(config)?;
        let what = format!("listeners.{}", config.name);
        let socket = listen(&what, &config.listen, config.socket_mode)?;
        let address = socket.address().map_err(|e| StartError::System("local address", e))?;
        let via = Via::new(&bootstrap.instance, &config.name, &address);
        let (tls, fingerprint) =
            loaded.map_or((None, None), |(tls, print)| (Some(Arc::new(tls)), Some(print)));
        let handles = metrics.listener(&config.name);
        let listener = Arc::new(Listener::new(index, config.clone(), address, tls, handles, via));
        bindings.2.extend(fingerprint.map(|fingerprint| (listener.clone(), fingerprint)));
        bindings.0.push(listener);
        bindings.1.push(socket);
    }
    Ok(bindings)
}

/// Prepares the listeners that pass through what no route matches. Weir's own ports are known by now, which nothing
/// must be passed to.
fn pass_through(listeners: &[Arc<Listener>], sides: [Option<&net::Bound>; 2], metrics: &Metrics) {
    let addresses = sides.into_iter().flatten().filter_map(|side| side.address().ok());
    let ports = addresses.chain(listeners.iter().map(|listener| listener.address.clone()));
    let ports: Vec<u16> = ports.filter_map(|address| Some(address.socket()?.port())).collect();
    for listener in listeners {
        if let Some(config) = &listener.config.passthrough {
            let passthrough = Passthrough::new(config, &listener.config.name, &ports, metrics);
            listener.passthrough.get_or_init(|| Arc::new(passthrough));
        }
    }
}

fn listen(what: &str, address: &ListenAddress, mode: u32) -> Result<net::Bound, StartError> {
    net::Bound::listen(address, mode).map_err(|e| StartError::Bind(what.to_owned(), address.clone(), e))
}

fn load_tls(config: &bootstrap::Listener) -> Result<Option<(ReloadingTls, Fingerprint)>, StartError> {
    let load = |tls| ReloadingTls::load(tls, config.protocol);
    config.tls.as_ref().map(load).transpose().map_err(|e| StartError::Tls(config.name.clone(), e))
}

impl Bound {
    /// The addresses of the listeners, by name.
    pub fn addresses(&self) -> Vec<(Name, ListenAddress)> {
        let listeners = &self.state.shared().listeners;
        listeners.iter().map(|listener| (listener.config.name.clone(), listener.address.clone())).collect()
    }

    /// The address of the admin interface.
    pub fn admin_address(&self) -> Option<ListenAddress> {
        self.admin.as_ref().and_then(|socket| socket.address().ok())
    }

    /// The address of metrics and probes.
    pub fn telemetry_address(&self) -> Option<ListenAddress> {
        self.telemetry.as_ref().and_then(|socket| socket.address().ok())
    }

    /// What puts policies in force. For benches: what is published besides the control side is overwritten by it.
    #[doc(hidden)]
    pub fn publisher(&self) -> &Publisher {
        self.state.publisher()
    }

    /// Carries traffic until the drain that `control` asks for is over.
    ///
    /// `errand` runs beside the control side, on its runtime: signals, say.
    pub fn run(
        mut self,
        reload: Reload,
        control: Control,
        errand: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), StartError> {
        let system = |what| move |error| StartError::System(what, error);
        let sockets = std::mem::take(&mut self.sockets);
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(system("control runtime"))?;
        let state = self.state.clone();
        // Before anybody can ask for them.
        crate::control::bring_gauges_up_to_date(&state);
        let served = runtime.block_on(async {
            let (stop, stopped) = tokio::sync::watch::channel(false);
            let starting = state.readiness().hold("the first policy is awaited");
            let sides = [(self.admin.take(), Surface::Admin), (self.telemetry.take(), Surface::Telemetry)];
            for (socket, surface) in sides {
                let Some(socket) = socket else { continue };
                let listener = Acceptor::new(socket).map_err(system("admin listener"))?;
                let mut stopped = stopped.clone();
                let shutdown = async move {
                    // Fails only when the sender is gone, which means the same.
                    let _ = stopped.wait_for(|&stop| stop).await;
                };
                let metrics = state.shared().telemetry.metrics.clone();
                tokio::spawn(admin::serve(listener, surface, state.clone(), metrics, shutdown));
            }
            tokio::spawn(errand);
            let begun = crate::control::begin(&state, &self.file, reload, control).await;
            // No request is served before it is known by what policy.
            let threads = self.start_workers(&sockets)?;
            // Each worker holds readiness back by itself now.
            drop(starting);
            // The last worker that stops accepting closes a socket, and nobody else keeps it open.
            drop(sockets);
            crate::control::run(state.clone(), std::mem::take(&mut self.certificates), begun).await;
            // Nobody may be waiting for it any more.
            let _ = stop.send(true);
            Ok::<_, StartError>(threads)
        });
        state.shared().tell(|| crate::worker::Message::Stop);
        let served = served.map(|threads| {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a worker ended by a panic");
                }
            }
        });
        // The look-up of a name may still run on the blocking pool; nobody waits for it.
        runtime.shutdown_timeout(Duration::from_millis(100));
        served
    }

    fn start_workers(&self, bound: &[net::Bound]) -> Result<Vec<JoinHandle<()>>, StartError> {
        let system = |what| move |error| StartError::System(what, error);
        let shared = self.state.shared();
        let count = shared.loads.len();
        let (inboxes, mut receivers): (Vec<_>, Vec<_>) =
            (0..count).map(|_| mpsc::unbounded_channel()).unzip();
        shared.connect(inboxes);
        let mut threads = Vec::with_capacity(count);
        for (index, inbox) in receivers.drain(..).enumerate() {
            let mut sockets = Vec::new();
            for (listener, socket) in shared.listeners.iter().zip(bound) {
                sockets.push((listener.clone(), socket.try_clone().map_err(system("listener"))?));
            }
            let starting = self.state.readiness().hold("workers are starting");
            let (shared, readiness) = (shared.clone(), self.state.readiness().clone());
            let work = move || {
                set_worker(index);
                let runtime =
                    match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                        Ok(runtime) => runtime,
                        Err(error) => return tracing::error!(worker = index, %error, "no runtime"),
                    };
                shared.telemetry.metrics.watch_worker(index, runtime.metrics());
                runtime.block_on(async {
                    let registered = sockets
                        .into_iter()
                        .filter_map(|(listener, socket)| Some((listener, Acceptor::new(socket).ok()?)))
                        .collect();
                    // What has just begun is not stuck, however long the start took.
                    readiness.beat(index, Instant::now());
                    drop(starting);
                    let worker = Worker::new(index, shared);
                    worker.run(registered, inbox, || readiness.beat(index, Instant::now())).await;
                });
            };
            let thread = std::thread::Builder::new().name(format!("weir-worker-{index}")).spawn(work);
            threads.push(thread.map_err(system("worker thread"))?);
        }
        Ok(threads)
    }
}

#[cfg(test)]
mod tests;
