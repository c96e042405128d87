//! The connections from one worker to one endpoint.
//!
//! Requests that find no free connection queue here, in order. Whatever becomes free (a connection that was
//! given back, a new one, a stream) goes to the front of the queue; a new connection is begun for a request,
//! but belongs to nobody until it is there, so that a request never waits for its own connection while
//! another one lies idle, and a request that gives up wastes nothing.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::oneshot, task::spawn_local, time::timeout};

use super::{
    ConnectError, Connector, Endpoint,
    connector::Alpn,
    lease::{Conn, Http1, Http2, Lease, OpenSlot, StreamSlot},
};
use crate::{http::body::RequestBody, net::Stream, worker::LocalExecutor};

/// Why a request got no connection.
#[derive(Debug)]
pub(crate) enum CheckoutError {
    /// All connections are in use, and too many requests wait already or this one waited too long.
    Full,
    /// Connecting failed.
    Connect(ConnectError),
}

/// One worker's share of an upstream's pool settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) max_connections: u32,
    pub(super) min_idle: u32,
    pub(super) max_pending: usize,
    pub(super) pending_timeout: Duration,
    pub(super) idle_timeout: Duration,
    pub(super) max_age: Duration,
}

/// The connections of one kind from one worker to one endpoint.
#[derive(Debug)]
pub(crate) struct Lane {
    endpoint: Arc<Endpoint>,
    connector: Arc<Connector>,
    alpn: Alpn,
    limits: RefCell<Limits>,
    /// The newest at the end: the connection that was used last is used next.
    idle: RefCell<Vec<Http1>>,
    multiplexed: RefCell<Vec<Rc<Http2>>>,
    waiters: RefCell<VecDeque<Waiter>>,
    open: Cell<u32>,
    connecting: Cell<u32>,
    /// What the endpoint speaks, once that is known.
    speaks_http2: Cell<Option<bool>>,
    /// The endpoint has left the policy: nothing is kept.
    retired: Cell<bool>,
}

type Waiter = oneshot::Sender<Result<Conn, ConnectError>>;

impl Lane {
    pub(super) fn new(
        endpoint: Arc<Endpoint>,
        connector: Arc<Connector>,
        alpn: Alpn,
        limits: Limits,
    ) -> Rc<Self> {
        let speaks_http2 = match alpn {
            Alpn::Http1 => Some(false),
            Alpn::Http2 => Some(true),
            Alpn::Both => None,
        };
        Rc::new(Self {
            endpoint,
            connector,
            alpn,
            limits: RefCell::new(limits),
            idle: RefCell::new(Vec::new()),
            multiplexed: RefCell::new(Vec::new()),
            waiters: RefCell::new(VecDeque::new()),
            open: Cell::new(0),
            connecting: Cell::new(0),
            speaks_http2: Cell::new(speaks_http2),
            retired: Cell::new(false),
        })
    }

    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Whether its connections are under TLS.
    pub(crate) fn secure(&self) -> bool {
        self.connector.secure()
    }

    /// A connection for one request. `fresh` takes no connection that was used before.
    ///
    /// Cancel-safe: a caller that goes away leaves its connection to the next.
    pub(crate) async fn checkout(self: &Rc<Self>, fresh: bool) -> Result<Lease, CheckoutError> {
        if !fresh && let Some(conn) = self.take() {
            return Ok(Lease::new(self, conn));
        }
        let conn = if fresh && self.has_room() { self.connect_now().await? } else { self.wait().await? };
        Ok(Lease::new(self, conn))
    }

    /// A connection that is there and usable.
    fn take(&self) -> Option<Conn> {
        if let Some(slot) = self.free_stream() {
            return Some(Conn::Http2(slot));
        }
        let now = Instant::now();
        loop {
            let mut conn = self.idle.borrow_mut().pop()?;
            conn.idle = None;
            if conn.sender.is_ready() && now < conn.expires {
                return Some(Conn::Http1(conn));
            }
        }
    }

    fn free_stream(&self) -> Option<StreamSlot> {
        if self.speaks_http2.get() == Some(false) {
            return None;
        }
        let now = Instant::now();
        let multiplexed = self.multiplexed.borrow();
        let usable = |conn: &&Rc<Http2>| {
            let room = conn.room.get().min(MAX_STREAMS);
            let streams = usize::try_from(conn.streams.get()).unwrap_or(usize::MAX);
            !conn.sender.is_closed() && conn.sender.is_ready() && now < conn.expires && streams < room
        };
        let conn = multiplexed.iter().find(usable)?;
        conn.streams.set(conn.streams.get() + 1);
        Some(StreamSlot(conn.clone()))
    }

    async fn wait(self: &Rc<Self>) -> Result<Conn, CheckoutError> {
        let (pending_timeout, max_pending) = {
            let limits = self.limits.borrow();
            (limits.pending_timeout, limits.max_pending)
        };
        let connect_time = self.connector.connect_timeout() * 2;
        let bound = if self.launch() {
            connect_time + pending_timeout
        } else {
            let queued = self.waiters.borrow().iter().filter(|waiter| !waiter.is_closed()).count();
            let connecting = usize::try_from(self.connecting.get()).unwrap_or(usize::MAX);
            if queued.saturating_sub(connecting) >= max_pending {
                return Err(CheckoutError::Full);
            }
            pending_timeout
        };
        let (waiter, turn) = oneshot::channel();
        self.waiters.borrow_mut().push_back(waiter);
        match timeout(bound, turn).await {
            Ok(Ok(Ok(conn))) => Ok(conn),
            Ok(Ok(Err(error))) => Err(CheckoutError::Connect(error)),
            // The lane was retired, or it took too long.
            Ok(Err(_)) | Err(_) => Err(CheckoutError::Full),
        }
    }

    fn has_room(&self) -> bool {
        self.open.get() < self.limits.borrow().max_connections
    }

    /// Begins a connection for whoever waits first; says whether one is on its way for a request that asks now.
    fn launch(self: &Rc<Self>) -> bool {
        // Where one connection may serve everybody, nobody begins a second before the first is there.
        if self.speaks_http2.get() != Some(false) && self.connecting.get() > 0 {
            return true;
        }
        if !self.has_room() {
            return false;
        }
        let slot = self.open_slot();
        self.connecting.set(self.connecting.get() + 1);
        let lane = self.clone();
        spawn_local(async move {
            let result = lane.open_connection(slot).await;
            lane.connecting.set(lane.connecting.get().saturating_sub(1));
            match result {
                Ok(conn) => lane.give_new(conn),
                Err(error) => lane.give_error(error),
            }
            lane.refill();
        });
        true
    }

    /// Begins connections while somebody waits for one that nobody is bringing.
    fn refill(self: &Rc<Self>) {
        loop {
            let waiting = self.waiters.borrow().iter().filter(|waiter| !waiter.is_closed()).count();
            let connecting = usize::try_from(self.connecting.get()).unwrap_or(usize::MAX);
            let shared = self.speaks_http2.get() != Some(false) && connecting > 0;
            if waiting <= connecting || shared || !self.launch() {
                return;
            }
        }
    }

    async fn connect_now(self: &Rc<Self>) -> Result<Conn, CheckoutError> {
        let slot = self.open_slot();
        match self.open_connection(slot).await.map_err(CheckoutError::Connect)? {
            Opened::Http1(conn) => Ok(Conn::Http1(conn)),
            Opened::Http2(conn) => {
                conn.streams.set(conn.streams.get() + 1);
                self.multiplexed.borrow_mut().push(conn.clone());
                Ok(Conn::Http2(StreamSlot(conn)))
            }
        }
    }

    fn open_slot(self: &Rc<Self>) -> Rc<OpenSlot> {
        self.open.set(self.open.get() + 1);
        Rc::new(OpenSlot { lane: Rc::downgrade(self), _count: self.endpoint.count_open() })
    }

    pub(super) fn closed_one(&self) {
        self.open.set(self.open.get().saturating_sub(1));
    }

    async fn open_connection(self: &Rc<Self>, slot: Rc<OpenSlot>) -> Result<Opened, ConnectError> {
        let (stream, http2) = self.connector.connect(self.endpoint.address(), self.alpn).await?;
        self.speaks_http2.set(Some(http2));
        let now = Instant::now();
        let expires = now + jittered(self.limits.borrow().max_age);
        if http2 {
            let (sender, room) = self.handshake_http2(stream, slot.clone()).await?;
            return Ok(Opened::Http2(Rc::new(Http2 {
                sender,
                expires,
                idle_since: Cell::new(now),
                streams: Cell::new(0),
                room,
                used: Cell::new(false),
                _open: slot,
            })));
        }
        let (sender, connection) = http1::Builder::new()
            .writev(false)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| ConnectError::Handshake(e.to_string()))?;
        self.drive(connection.with_upgrades(), slot.clone());
        Ok(Opened::Http1(Http1 { sender, expires, idle_since: now, reused: false, idle: None, _open: slot }))
    }

    async fn handshake_http2(
        self: &Rc<Self>,
        stream: Stream,
        slot: Rc<OpenSlot>,
    ) -> Result<(http2::SendRequest<RequestBody>, Rc<Cell<usize>>), ConnectError> {
        let (sender, mut connection) = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .adaptive_window(true)
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| ConnectError::Handshake(e.to_string()))?;
        let room = Rc::new(Cell::new(MAX_STREAMS));
        let told = room.clone();
        let driven = std::future::poll_fn(move |cx| {
            let ended = Pin::new(&mut connection).poll(cx);
            told.set(connection.current_max_send_streams());
            ended
        });
        self.drive(driven, slot);
        Ok((sender, room))
    }

    fn drive<C>(self: &Rc<Self>, connection: C, slot: Rc<OpenSlot>)
    where
        C: Future<Output = hyper::Result<()>> + 'static,
    {
        let lane = Rc::downgrade(self);
        spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream connection ended");
            }
            drop(slot);
            if let Some(lane) = lane.upgrade() {
                lane.refill();
            }
        });
    }

    fn give_new(self: &Rc<Self>, conn: Opened) {
        match conn {
            Opened::Http1(conn) => self.give(conn),
            Opened::Http2(conn) => {
                if self.retired.get() {
                    return;
                }
                self.multiplexed.borrow_mut().push(conn);
                self.serve_streams();
            }
        }
    }

    /// Gives free streams to those who wait.
    pub(super) fn serve_streams(&self) {
        while !self.waiters.borrow().is_empty() {
            let Some(slot) = self.free_stream() else { return };
            let Some(waiter) = self.next_waiter() else { return };
            // When the waiter is gone its slot is dropped, and free again.
            let _ = waiter.send(Ok(Conn::Http2(slot)));
        }
    }

    fn next_waiter(&self) -> Option<Waiter> {
        let mut waiters = self.waiters.borrow_mut();
        loop {
            let waiter = waiters.pop_front()?;
            if !waiter.is_closed() {
                return Some(waiter);
            }
        }
    }

    fn give_error(&self, error: ConnectError) {
        if self.speaks_http2.get() == Some(false) {
            if let Some(waiter) = self.next_waiter() {
                let _ = waiter.send(Err(error));
            }
            return;
        }
        // All of them waited for this one connection.
        while let Some(waiter) = self.next_waiter() {
            let _ = waiter.send(Err(error.clone()));
        }
    }

    /// Takes an HTTP/1 connection back after a finished exchange.
    pub(super) fn release(self: &Rc<Self>, mut conn: Http1) {
        conn.reused = true;
        if conn.sender.is_ready() {
            self.give(conn);
        } else if !conn.sender.is_closed() && !self.retired.get() {
            // The answer is complete, but hyper is still busy with the request's body, say.
            let lane = self.clone();
            spawn_local(async move {
                if conn.sender.ready().await.is_ok() {
                    lane.give(conn);
                }
            });
        }
    }

    fn give(self: &Rc<Self>, mut conn: Http1) {
        let now = Instant::now();
        if self.retired.get() || now >= conn.expires {
            drop(conn);
            self.refill();
            return;
        }
        while let Some(waiter) = self.next_waiter() {
            match waiter.send(Ok(Conn::Http1(conn))) {
                Err(Ok(Conn::Http1(back))) => conn = back,
                Ok(()) | Err(_) => return,
            }
        }
        conn.idle_since = now;
        conn.idle = Some(self.endpoint.count_idle());
        self.idle.borrow_mut().push(conn);
    }

    /// Closes what has been idle or open for too long, and keeps the floor of idle connections.
    pub(super) fn maintain(self: &Rc<Self>, now: Instant) {
        let (idle_timeout, min_idle) = {
            let limits = self.limits.borrow();
            (limits.idle_timeout, limits.min_idle)
        };
        let stale = |since: Instant| now.saturating_duration_since(since) >= idle_timeout;
        let closed = {
            let mut idle = self.idle.borrow_mut();
            let floor = usize::try_from(min_idle).unwrap_or(usize::MAX);
            let mut spare = idle.len().saturating_sub(floor);
            // The oldest come first; those that the floor needs stay, unless they are of no use.
            extract(&mut idle, |conn| {
                let unusable = now >= conn.expires || !conn.sender.is_ready();
                let goes = unusable || (spare > 0 && stale(conn.idle_since));
                spare = spare.saturating_sub(usize::from(goes));
                goes
            })
        };
        drop(closed);
        let closed = extract(&mut self.multiplexed.borrow_mut(), |conn| {
            let idle = conn.streams.get() == 0 && (stale(conn.idle_since.get()) || now >= conn.expires);
            conn.sender.is_closed() || idle
        });
        drop(closed);
        let have = u32::try_from(self.idle.borrow().len()).unwrap_or(u32::MAX) + self.connecting.get();
        if self.alpn == Alpn::Http1 || self.speaks_http2.get() == Some(false) {
            for _ in have..min_idle {
                if !self.launch() {
                    break;
                }
            }
        }
        self.serve_streams();
        self.refill();
    }

    pub(super) fn set_limits(&self, limits: &Limits) {
        if *self.limits.borrow() != *limits {
            self.limits.borrow_mut().clone_from(limits);
        }
    }

    /// The endpoint has left the policy: idle connections close now, those in use after their exchange.
    pub(super) fn retire(&self) {
        self.retired.set(true);
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        let multiplexed = std::mem::take(&mut *self.multiplexed.borrow_mut());
        let waiters = std::mem::take(&mut *self.waiters.borrow_mut());
        drop((idle, multiplexed, waiters));
    }
}

/// Most streams on one HTTP/2 connection, however many the endpoint allows: beyond this another connection does
/// more for throughput than another stream.
const MAX_STREAMS: usize = 100;
/// How often an HTTP/2 connection with requests on it is asked for a sign of life.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long that sign may take.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

enum Opened {
    Http1(Http1),
    Http2(Rc<Http2>),
}

/// `age` ± 20 %, so that connections that were opened together do not end together.
fn jittered(age: Duration) -> Duration {
    age.mul_f64(0.8 + 0.4 * fastrand::f64())
}

fn extract<T>(from: &mut Vec<T>, goes: impl FnMut(&T) -> bool) -> Vec<T> {
    let mut goes = goes;
    from.extract_if(.., |item| goes(item)).collect()
}
