//! Wiring: from a checked file to a running proxy and back to nothing. No decisions here.
//!
//! [`App::bind`] claims everything that can fail (sockets, certificates, the first snapshot) before anything runs;
//! [`Bound::run`] then starts the workers, one thread each, and carries the rest on the calling thread.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::{
    net::TcpListener,
    runtime::{Builder, LocalOptions},
    sync::mpsc,
};

use crate::{
    admin::{self, Surface},
    config::{Bootstrap, File, Name, bootstrap},
    control::{Control, Reload, State},
    http::via::Via,
    listener::{Fingerprint, Listener, ReloadingTls},
    readiness::Readiness,
    snapshot::{self, CompileError, Publisher, Registry},
    telemetry::{
        AccessLog, FlushOnDrop, LogHandle, Metrics, PolicySource, RecentRequests, Telemetry, set_worker,
    },
    tls::TlsError,
    worker::{Shared, Worker},
};

/// How many connections the kernel keeps for a listener until they are accepted. It takes its own maximum
/// (`net.core.somaxconn`) when that is less.
const BACKLOG: i32 = 4096;

/// Why Weir did not start.
#[derive(Debug)]
pub enum StartError {
    /// An address could not be bound.
    Bind(String, SocketAddr, io::Error),
    /// TLS material of a listener.
    Tls(Name, TlsError),
    /// The policy could not be compiled.
    Compile(CompileError),
    /// The system refused something else.
    System(&'static str, io::Error),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bind(what, address, error) => {
                write!(f, "{what}.listen: cannot listen on {address}: {error}")?;
                match error.kind() {
                    io::ErrorKind::AddrInUse => write!(
                        f,
                        "\n  = help: another process has port {port}: end it (`ss -ltnp 'sport = :{port}'` names it), or \
                         give `{what}.listen` another port in the file",
                        port = address.port()
                    ),
                    io::ErrorKind::PermissionDenied => {
                        f.write_str("\n  = help: ports below 1024 are for root: take a higher one")
                    }
                    io::ErrorKind::AddrNotAvailable => f.write_str(
                        "\n  = help: this machine has no such address; 0.0.0.0 means all that it has",
                    ),
                    _ => Ok(()),
                }
            }
            Self::Tls(listener, error) => write!(f, "listeners.{listener}.tls: {error}"),
            Self::Compile(error) => error.fmt(f),
            Self::System(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// A proxy that is about to be.
#[derive(Debug)]
pub struct App;

/// A proxy whose sockets are bound: connections are queued from here on, and served once it runs.
#[derive(Debug)]
pub struct Bound {
    bootstrap: Bootstrap,
    state: Arc<State>,
    sockets: Vec<StdListener>,
    admin: Option<StdListener>,
    telemetry: Option<StdListener>,
    certificates: Vec<(Arc<Listener>, Fingerprint)>,
    _access: Option<FlushOnDrop>,
}

impl App {
    /// Claims what the file asks for. On an error everything is given back.
    pub fn bind(file: File, log: LogHandle, metrics: Arc<Metrics>) -> Result<Bound, StartError> {
        let File { bootstrap, policy, documents } = file;
        let workers = bootstrap.workers.get();
        let (listeners, sockets, certificates) = bind_listeners(&bootstrap, &metrics)?;
        let side = |what: &str, address: Option<SocketAddr>| {
            address
                .map(|address| listen(address).map_err(|e| StartError::Bind(what.to_owned(), address, e)))
                .transpose()
        };
        let admin = side("admin", bootstrap.admin)?;
        let telemetry = side("telemetry", bootstrap.telemetry)?;
        let mut registry = Registry::default();
        let policy = Arc::new(policy);
        let first =
            snapshot::first(&policy, &listeners, &mut registry, &metrics).map_err(StartError::Compile)?;
        metrics.set_policy_source(PolicySource::Baseline);
        let (access, flush) = AccessLog::stdout(bootstrap.log.access, &metrics.access_dropped)
            .map_err(|e| StartError::System("access log", e))?;
        let telemetry_handles = Telemetry { metrics, access, recent: RecentRequests::default() };
        let shared = Arc::new(Shared::new(first, listeners, telemetry_handles, workers));
        let publisher = Publisher::new(shared.clone(), policy, registry);
        let readiness = Readiness::new(workers, Instant::now());
        let state = Arc::new(State::new(&bootstrap, shared, publisher, readiness, log, documents));
        Ok(Bound { bootstrap, state, sockets, admin, telemetry, certificates, _access: flush })
    }
}

type Bindings = (Vec<Arc<Listener>>, Vec<StdListener>, Vec<(Arc<Listener>, Fingerprint)>);

fn bind_listeners(bootstrap: &Bootstrap, metrics: &Metrics) -> Result<Bindings, StartError> {
    let mut bindings: Bindings = Bindings::default();
    for (index, config) in bootstrap.listeners.values().enumerate() {
        let loaded = load_tls(config)?;
        let socket = listen(config.listen)
            .map_err(|e| StartError::Bind(format!("listeners.{}", config.name), config.listen, e))?;
        let address = socket.local_addr().map_err(|e| StartError::System("local address", e))?;
        let via = Via::new(&bootstrap.instance, &config.name, address);
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

fn load_tls(config: &bootstrap::Listener) -> Result<Option<(ReloadingTls, Fingerprint)>, StartError> {
    let load = |tls| ReloadingTls::load(tls, config.protocol);
    config.tls.as_ref().map(load).transpose().map_err(|e| StartError::Tls(config.name.clone(), e))
}

fn listen(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // So that a restart need not wait for the connections of the process before to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Accepted connections inherit this: a client that is gone without a word is found out also while nothing is
    // sent to it.
    socket.set_tcp_keepalive(&keepalive())?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Asks a silent client whether it is there after a minute, and gives it up half a minute later.
fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(Duration::from_mins(1))
        .with_interval(Duration::from_secs(10))
        .with_retries(3)
}

impl Bound {
    /// The addresses of the listeners, by name.
    pub fn addresses(&self) -> Vec<(Name, SocketAddr)> {
        let listeners = &self.state.shared().listeners;
        listeners.iter().map(|listener| (listener.config.name.clone(), listener.address)).collect()
    }

    /// The address of the admin interface.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(|socket| socket.local_addr().ok())
    }

    /// The address of metrics and probes.
    pub fn telemetry_address(&self) -> Option<SocketAddr> {
        self.telemetry.as_ref().and_then(|socket| socket.local_addr().ok())
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
        // Given away: the last worker that stops accepting closes a socket, and nobody else keeps it open.
        let sockets = std::mem::take(&mut self.sockets);
        let threads = self.start_workers(&sockets)?;
        drop(sockets);
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(system("control runtime"))?;
        let state = self.state.clone();
        // Before anybody can ask for them.
        crate::control::bring_gauges_up_to_date(&state);
        let served = runtime.block_on(async {
            let (stop, stopped) = tokio::sync::watch::channel(false);
            for (socket, surface) in [(self.admin, Surface::Admin), (self.telemetry, Surface::Telemetry)] {
                let Some(socket) = socket else { continue };
                let listener = TcpListener::from_std(socket).map_err(system("admin listener"))?;
                let mut stopped = stopped.clone();
                let shutdown = async move {
                    // Fails only when the sender is gone, which means the same.
                    let _ = stopped.wait_for(|&stop| stop).await;
                };
                let metrics = state.shared().telemetry.metrics.clone();
                tokio::spawn(admin::serve(listener, surface, state.clone(), metrics, shutdown));
            }
            tokio::spawn(errand);
            crate::control::run(state.clone(), self.certificates, self.bootstrap, reload, control).await;
            // Nobody may be waiting for it any more.
            let _ = stop.send(true);
            Ok::<_, StartError>(())
        });
        state.shared().tell(|| crate::worker::Message::Stop);
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a worker ended by a panic");
            }
        }
        // The look-up of a name may still run on the blocking pool; nobody waits for it.
        runtime.shutdown_timeout(Duration::from_millis(100));
        served
    }

    fn start_workers(&self, bound: &[StdListener]) -> Result<Vec<JoinHandle<()>>, StartError> {
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
                        .filter_map(|(listener, socket)| {
                            Some((listener, TcpListener::from_std(socket).ok()?))
                        })
                        .collect();
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
