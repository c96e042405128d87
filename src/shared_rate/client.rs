//! The handle of the control side.

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, SystemTime},
};

use rustls::ClientConfig;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::{
    limit::{Gate, Message, SharedLimit},
    link,
    settings::Settings,
    thread::{Target, Thread},
};
use crate::{
    config::{Name, bootstrap::RedisUrl},
    tls::{TlsError, provider, read, roots, system_roots},
};

/// How long [`Client::stop`] waits for what is leased to go back.
const STOPPING: Duration = Duration::from_millis(100);

/// Whom to trust with `rediss://`.
#[derive(Debug, Clone, Copy)]
pub enum Trust<'a> {
    /// The authorities that the system trusts.
    System,
    /// Those in this PEM file.
    File(&'a Path),
}

/// Why shared limits cannot be counted in Redis at all.
#[derive(Debug)]
pub enum StartError {
    /// This Weir was built without the feature `redis`.
    Absent,
    /// TLS cannot be spoken.
    Tls(TlsError),
    /// There is no thread for it.
    Thread(io::Error),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent => f.write_str("this Weir was built without Redis (the feature `redis`)"),
            Self::Tls(error) => write!(f, "TLS with Redis: {error}"),
            Self::Thread(error) => write!(f, "a thread for Redis: {error}"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Absent => None,
            Self::Tls(error) => Some(error),
            Self::Thread(error) => Some(error),
        }
    }
}

/// Whether Redis answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Whether it does, and limits are exact; otherwise the even share holds.
    pub connected: bool,
    /// What went wrong last; `None` while it answers, and before the first attempt has ended.
    pub error: Option<String>,
    /// Since when `connected` is what it is.
    pub since: SystemTime,
}

/// What was counted since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Scripts that Redis has run: leases that were asked for, and given back.
    pub calls: u64,
    /// Tokens that Redis has granted.
    pub leased: u64,
    /// Tokens that went back to it.
    pub returned: u64,
    /// Requests that waited for Redis.
    pub waited: u64,
    /// Those of them that had no answer within [`super::PATIENCE`].
    pub late: u64,
    /// How often Redis went away.
    pub outages: u64,
    /// Requests that were left to the even share.
    pub fallbacks: u64,
}

/// The limits that are counted in one Redis. Dropping it ends its thread; limits that are left then fall back.
#[derive(Debug)]
pub struct Client {
    gate: Arc<Gate>,
    status: Arc<Mutex<Status>>,
    thread: UnboundedSender<Message>,
    limits: Mutex<HashMap<Name, Weak<SharedLimit>>>,
    next: AtomicU32,
}

impl Client {
    /// Starts a thread `weir-redis`, which connects and stays connected. Does not wait for that: until then limits fall
    /// back.
    pub fn start(url: &RedisUrl, service: &Name) -> Result<Arc<Self>, StartError> {
        Self::start_trusting(url, service, Trust::System)
    }

    /// [`Self::start`] with other authorities than the system's.
    pub fn start_trusting(url: &RedisUrl, service: &Name, trust: Trust<'_>) -> Result<Arc<Self>, StartError> {
        if !link::BUILT {
            return Err(StartError::Absent);
        }
        let tls = if url.tls { Some(Arc::new(tls(trust).map_err(StartError::Tls)?)) } else { None };
        let target = Target { url: url.clone(), tls, service: service.clone() };
        let gate = Arc::new(Gate::default());
        gate.away.store(true, Relaxed);
        let status = Status { connected: false, error: None, since: SystemTime::now() };
        let status = Arc::new(Mutex::new(status));
        let (sender, receiver) = unbounded_channel();
        let work = Thread::new(target, gate.clone(), status.clone(), receiver);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        thread::Builder::new()
            .name("weir-redis".to_owned())
            .spawn(move || runtime.block_on(work.run()))
            .map_err(StartError::Thread)?;
        let (limits, next) = (Mutex::default(), AtomicU32::new(0));
        Ok(Arc::new(Self { gate, status, thread: sender, limits, next }))
    }

    /// The limit of that name, counting by these settings from now on. The same one as before where what was counted goes
    /// on: a change of the rate, the burst or the number of instances keeps what was taken. Another one when the
    /// algorithm, a window's unit or the number of keys has changed.
    pub fn limit(&self, name: &Name, settings: Settings) -> Arc<SharedLimit> {
        let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        limits.retain(|_, limit| limit.strong_count() > 0);
        if let Some(limit) = limits.get(name).and_then(Weak::upgrade)
            && limit.settings().continues(&settings)
        {
            limit.set(settings);
            return limit;
        }
        let number = self.next.fetch_add(1, Relaxed);
        let limit = SharedLimit::new(number, name.clone(), settings, self.gate.clone(), self.thread.clone());
        limits.insert(name.clone(), Arc::downgrade(&limit));
        // A thread that has ended answers nobody, and all fall back.
        let _ = self.thread.send(Message::Limit(Arc::downgrade(&limit)));
        limit
    }

    /// Whether Redis answers.
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        let limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
        let fallbacks = limits.values().filter_map(Weak::upgrade).map(|limit| limit.fallbacks()).sum::<u64>();
        let tallies = &self.gate.tallies;
        Counts {
            calls: tallies.calls.load(Relaxed),
            leased: tallies.leased.load(Relaxed),
            returned: tallies.returned.load(Relaxed),
            waited: tallies.waited.load(Relaxed),
            late: tallies.late.load(Relaxed),
            outages: tallies.outages.load(Relaxed),
            fallbacks: tallies.fallbacks.load(Relaxed).saturating_add(fallbacks),
        }
    }

    /// Gives back what is leased and ends the thread: for the end of a drain. Blocks for 100 ms at most; limits fall back
    /// from then on.
    pub fn stop(&self) {
        let (done, ended) = std::sync::mpsc::sync_channel(1);
        if self.thread.send(Message::Stop(done)).is_ok() {
            let _ = ended.recv_timeout(STOPPING);
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.thread.send(Message::Stop(std::sync::mpsc::sync_channel(1).0));
    }
}

fn tls(trust: Trust<'_>) -> Result<ClientConfig, TlsError> {
    let roots = match trust {
        Trust::System => system_roots()?,
        Trust::File(path) => roots(path, &read(path)?)?,
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Authorities(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
