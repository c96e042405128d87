//! From sockets to requests: accept, TLS, which protocol, the limits of a connection.

mod accept;
mod clocks;
mod connection;
mod detect;
mod frames;
mod http2;
mod io;
mod open;
mod proxy_header;
mod refusal;
mod state;
mod streams;
pub mod tls;

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

pub(crate) use accept::{accept, serve};
pub(crate) use connection::{Connection, Signal};
pub(crate) use refusal::Refusals;
pub use tls::{Fingerprint, ReloadingTls};

use crate::{
    config::bootstrap::{ListenAddress, Listener as Config},
    drain::PhaseCell,
    http::{forwarded::Trust, via::Via},
    proxy::Passthrough,
    telemetry::{ConnectionRefusal, Held, ListenerMetrics},
};

/// One listener, as all workers share it.
#[derive(Debug)]
pub struct Listener {
    /// Its place among the listeners: an index into whatever is kept per listener.
    pub index: usize,
    /// As configured.
    pub config: Config,
    /// The address that was bound (the configured port may be 0).
    pub address: ListenAddress,
    /// TLS, when configured.
    pub tls: Option<Arc<ReloadingTls>>,
    /// How far it is on its way out.
    pub phase: PhaseCell,
    /// Its metrics.
    pub metrics: Arc<ListenerMetrics>,
    /// What Weir calls itself here.
    pub via: Via,
    /// Whether it ever served a request.
    pub served: AtomicBool,
    pub(crate) refusals: Refusals,
    /// Whose forwarding headers are believed.
    pub trust: Arc<Trust>,
    /// Whose header of the PROXY protocol is believed.
    proxy_protocol_from: Trust,
    /// What passes through here although no route matches.
    pub(crate) passthrough: OnceLock<Arc<Passthrough>>,
    open: AtomicUsize,
}

impl Listener {
    pub(crate) fn new(
        index: usize,
        config: Config,
        address: ListenAddress,
        tls: Option<Arc<ReloadingTls>>,
        metrics: Arc<ListenerMetrics>,
        via: Via,
    ) -> Self {
        let refusals = Refusals::new(metrics.clone(), via.clone());
        let trust = Arc::new(Trust::new(&config.trust));
        let proxy_protocol_from = Trust::new(&config.proxy_protocol_from);
        Self {
            index,
            config,
            address,
            tls,
            phase: PhaseCell::default(),
            metrics,
            via,
            served: AtomicBool::new(false),
            refusals,
            trust,
            proxy_protocol_from,
            passthrough: OnceLock::new(),
            open: AtomicUsize::new(0),
        }
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Takes a place under `max_connections`; `None` when there is none.
    fn admit(self: &Arc<Self>) -> Option<Place> {
        let limit = self.config.max_connections;
        let taken = self
            .open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| (open < limit).then_some(open + 1));
        if taken.is_err() {
            self.metrics.refused.of(ConnectionRefusal::Limit).increment(1);
            return None;
        }
        self.metrics.connections_total.increment(1);
        Some(Place { _open: self.metrics.connections.hold(), listener: self.clone() })
    }
}

/// A connection's place under `max_connections`, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    listener: Arc<Listener>,
    _open: Held,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.listener.open.fetch_sub(1, Ordering::Relaxed);
    }
}
