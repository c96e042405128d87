//! The connections from one worker to one endpoint.
//!
//! Requests that find no free connection queue here, in order. Whatever becomes free (a connection that was
//! given back, a new one, a stream) goes to the front of the queue; a new connection is begun for a request,
//! but belongs to nobody until it is there, so that a request never waits for its own connection while
//! another one lies idle, and a request that gives up wastes nothing.
//!
//! Everything that makes room says so where it happens ([`Lane::one_ended`], [`Lane::stream_ended`]); the worker's
//! tick closes what is old and keeps the floor, and nobody who waits depends on it.

use std::{
    cell::{Cell, Ref, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{task::spawn_local, time::timeout};

use super::{
    ConnectError, Connector, Endpoint,
    connector::Alpn,
    http1::{Http1, Rest},
    lease::{Conn, Lease, OpenSlot},
    limits::{Floor, Limits},
    opening::{self, Opened, Underway},
    queue::{CheckoutError, Queue},
    stack::Stack,
    streams::{MAX_STREAMS, Multiplexed, StreamSlot},
};

/// The connections of one kind from one worker to one endpoint.
#[derive(Debug)]
pub(crate) struct Lane {
    endpoint: Arc<Endpoint>,
    connector: Arc<Connector>,
    alpn: Alpn,
    limits: RefCell<Limits>,
    idle: Stack,
    multiplexed: Multiplexed,
    queue: Queue,
    open: Cell<u32>,
    connecting: Underway,
    /// What the endpoint speaks, once that is known.
    speaks_http2: Cell<Option<bool>>,
    /// The endpoint has left the policy: nothing is kept.
    retired: Cell<bool>,
    floor: Floor,
    /// A further HTTP/2 connection could not be opened, while there is one: not again before the next tick.
    paused: Cell<bool>,
}

impl Lane {
    pub(super) fn new(
        endpoint: Arc<Endpoint>,
        connector: Arc<Connector>,
        alpn: Alpn,
        limits: Limits,
    ) -> Rc<Self> {
        let speaks_http2 = match alpn {
            Alpn::Http1 | Alpn::Nothing => Some(false),
            Alpn::Http2 => Some(true),
            Alpn::Both => None,
        };
        let idle = Stack::new(&endpoint);
        Rc::new(Self {
            endpoint,
            connector,
            alpn,
            limits: RefCell::new(limits),
            idle,
            multiplexed: Multiplexed::default(),
            queue: Queue::default(),
            open: Cell::new(0),
            connecting: Underway::default(),
            speaks_http2: Cell::new(speaks_http2),
            retired: Cell::new(false),
            floor: Floor::default(),
            paused: Cell::new(false),
        })
    }

    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    pub(super) fn alpn(&self) -> Alpn {
        self.alpn
    }

    pub(super) fn limits(&self) -> Ref<'_, Limits> {
        self.limits.borrow()
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Whether its connections are under TLS.
    pub(crate) fn secure(&self) -> bool {
        self.connector.secure()
    }

    /// A connection for one request. `fresh` wants one that carried no request before: the one that was taken last
    /// turned out to be dead, and so may the others. Only where there is no room for a new one it gets what becomes
    /// free.
    ///
    /// Cancel-safe: a caller that goes away leaves its connection to the next.
    pub(crate) async fn checkout(self: &Rc<Self>, now: Instant, fresh: bool) -> Result<Lease, CheckoutError> {
        let conn = match self.take(now, fresh) {
            Some(conn) => conn,
            // Boxed: it is large and rare, and every request would have room for it.
            None if fresh && !self.shares() && self.has_room() => Box::pin(self.open_own()).await?,
            None => self.wait().await?,
        };
        Ok(Lease::new(self, conn))
    }

    /// A connection that is there and usable.
    fn take(&self, now: Instant, fresh: bool) -> Option<Conn> {
        if let Some(slot) = self.free_stream(now, fresh) {
            return Some(Conn::Http2(slot));
        }
        if fresh {
            return None;
        }
        let (idle_timeout, floor) = {
            let limits = self.limits();
            (limits.idle_timeout, limits.floor())
        };
        self.idle.pop(now, idle_timeout, floor).map(Conn::Http1)
    }

    fn free_stream(&self, now: Instant, sure: bool) -> Option<StreamSlot> {
        if self.speaks_http2.get() == Some(false) { None } else { self.multiplexed.free_stream(now, sure) }
    }

    /// A new connection for the caller alone.
    async fn open_own(self: &Rc<Self>) -> Result<Conn, CheckoutError> {
        match opening::open(self, self.open_slot()).await.map_err(CheckoutError::Connect)? {
            Opened::Http1(conn) => Ok(Conn::Http1(conn)),
            opened @ Opened::Http2(_) => {
                self.opened(Ok(opened));
                self.wait().await
            }
        }
    }

    async fn wait(self: &Rc<Self>) -> Result<Conn, CheckoutError> {
        let (pending_timeout, max_pending) = {
            let limits = self.limits();
            (limits.pending_timeout, limits.max_pending)
        };
        let queued = self.queue.len();
        let promised = queued < self.coming() || self.begin_for_waiter() || self.evict();
        let bound = if promised {
            // Look-up, TCP, TLS and HTTP/2 have a bound each; the error that names the slow one comes before this.
            self.connector.connect_timeout() * 4 + pending_timeout
        } else if queued.saturating_sub(self.coming()) >= max_pending {
            return Err(CheckoutError::Full);
        } else {
            pending_timeout
        };
        match timeout(bound, Queue::join(self)).await {
            Ok(Some(Ok(conn))) => Ok(conn),
            Ok(Some(Err(error))) => Err(CheckoutError::Connect(error)),
            Ok(None) | Err(_) => Err(CheckoutError::Full),
        }
    }

    fn has_room(&self) -> bool {
        self.open.get() < self.limits().max_connections
    }

    /// Whether one connection may serve many requests; also while that is not known yet.
    fn shares(&self) -> bool {
        self.speaks_http2.get() != Some(false)
    }

    /// How many requests the connections that are being opened can serve.
    fn coming(&self) -> usize {
        let connecting = usize::try_from(self.connecting.count()).unwrap_or(usize::MAX);
        if self.shares() { connecting.saturating_mul(MAX_STREAMS) } else { connecting }
    }

    /// Begins a connection because somebody waits; says whether it could.
    fn begin_for_waiter(self: &Rc<Self>) -> bool {
        // Where one connection may serve everybody, nobody begins a second before the first is there.
        if self.shares() && (self.connecting.count() > 0 || self.paused.get() && self.multiplexed.some_live())
        {
            return false;
        }
        self.begin()
    }

    /// Closes an idle connection to make room for a request that passes over idle ones, and begins one in its place;
    /// says whether it could.
    fn evict(self: &Rc<Self>) -> bool {
        !self.shares() && !self.has_room() && self.idle.close_oldest() && self.begin_for_waiter()
    }

    /// Begins a connection for whoever waits first when it is there; says whether it could.
    fn begin(self: &Rc<Self>) -> bool {
        if !self.has_room() {
            return false;
        }
        let before = self.connecting.count();
        let (begun, slot) = (self.connecting.begin(), self.open_slot());
        let lane = self.clone();
        spawn_local(async move {
            let opened = opening::open(&lane, slot).await;
            drop(begun);
            lane.opened(opened);
        });
        // A runtime that shuts down drops the task at once: then nothing is on its way.
        self.connecting.count() > before
    }

    fn opened(self: &Rc<Self>, opened: Result<Opened, ConnectError>) {
        match opened {
            Ok(opened) => {
                self.floor.opened();
                match opened {
                    Opened::Http1(conn) => {
                        self.speaks_http2.set(Some(false));
                        self.give(conn, Instant::now());
                    }
                    Opened::Http2(conn) => {
                        self.speaks_http2.set(Some(true));
                        self.multiplexed.add(conn);
                        self.stream_ended();
                    }
                }
                self.refill();
            }
            Err(error) => {
                self.floor.failed();
                self.give_error(error);
            }
        }
    }

    /// Begins connections while somebody waits for one that nobody is bringing.
    fn refill(self: &Rc<Self>) {
        while self.queue.len() > self.coming() && self.begin_for_waiter() {}
    }

    fn open_slot(self: &Rc<Self>) -> Rc<OpenSlot> {
        self.open.set(self.open.get() + 1);
        Rc::new(OpenSlot { lane: Rc::downgrade(self), _count: self.endpoint.count_open() })
    }

    pub(super) fn closed_one(&self) {
        self.open.set(self.open.get().saturating_sub(1));
    }

    /// A connection's task or user has ended: there may be room for another one.
    pub(super) fn one_ended(self: &Rc<Self>) {
        self.multiplexed.forget_closed();
        self.idle.forget_closed();
        self.refill();
    }

    /// There may be a free stream: it goes to who waits.
    pub(super) fn stream_ended(self: &Rc<Self>) {
        while !self.queue.is_empty() {
            let Some(slot) = self.free_stream(Instant::now(), false) else { break };
            let Some(waiter) = self.queue.next() else { break };
            // When the waiter is gone its slot is dropped, and free again.
            let _ = waiter.send(Ok(Conn::Http2(slot)));
        }
        if self.retired.get() {
            self.multiplexed.close_idle();
        }
        self.multiplexed.forget_closed();
        self.refill();
    }

    /// A connection could not be opened: who hears of it?
    fn give_error(self: &Rc<Self>, error: ConnectError) {
        let uncovered = self.queue.len().saturating_sub(self.coming());
        if uncovered == 0 {
            // Others are on their way for all who wait.
            return;
        }
        if !self.shares() {
            if let Some(waiter) = self.queue.next() {
                let _ = waiter.send(Err(error));
            }
            self.refill();
        } else if self.multiplexed.some_live() {
            // Those who wait will get a stream; the next tick tries again for another connection.
            tracing::debug!(%error, "no further HTTP/2 connection");
            self.paused.set(true);
        } else {
            // All of them waited for this one connection.
            while let Some(waiter) = self.queue.next() {
                let _ = waiter.send(Err(error.clone()));
            }
        }
    }

    /// Takes an HTTP/1 connection back after a finished exchange.
    pub(super) fn release(self: &Rc<Self>, mut conn: Http1, now: Instant) {
        conn.reused = true;
        match conn.rest() {
            Rest::Free => self.give(conn, now),
            Rest::Uploading if !self.retired.get() => {
                // The answer is complete, but the request is not yet.
                let patience = self.limits().idle_timeout.max(Duration::from_secs(1));
                let lane = self.clone();
                spawn_local(async move {
                    if let Ok(true) = timeout(patience, conn.uploaded()).await {
                        return lane.give(conn, Instant::now());
                    }
                    drop(conn);
                    lane.one_ended();
                });
            }
            Rest::Uploading | Rest::Ended => {
                drop(conn);
                self.one_ended();
            }
        }
    }

    /// Takes back what was given to one who left before taking it.
    pub(super) fn hand_back(self: &Rc<Self>, conn: Conn) {
        match conn {
            Conn::Http1(conn) => self.give(conn, Instant::now()),
            Conn::Http2(slot) => {
                drop(slot);
                self.stream_ended();
            }
        }
    }

    /// Gives a connection to who waits first, or keeps it.
    fn give(self: &Rc<Self>, mut conn: Http1, now: Instant) {
        // However short `max_age` is, a connection serves one request: else none would ever be served.
        let old = conn.reused && now >= conn.expires;
        while !old && let Some(waiter) = self.queue.next() {
            match waiter.send(Ok(Conn::Http1(conn))) {
                Err(Ok(Conn::Http1(back))) => conn = back,
                Ok(()) | Err(_) => return,
            }
        }
        let room = self.open.get() <= self.limits().max_connections;
        if old || self.retired.get() || !room {
            drop(conn);
            self.refill();
        } else {
            self.idle.push(conn, now);
        }
    }

    /// Closes what has been idle or open for too long, and keeps the floor of idle connections.
    pub(super) fn maintain(self: &Rc<Self>, now: Instant) {
        let limits = self.limits().clone();
        let floor = limits.floor();
        self.idle.sweep(now, limits.idle_timeout, floor);
        self.multiplexed.sweep(now, limits.idle_timeout, floor > 0);
        for _ in limits.max_connections..self.open.get() {
            // The limit was lowered.
            self.idle.close_oldest();
        }
        self.paused.set(false);
        self.stream_ended();
        self.fill_floor(now, floor);
    }

    /// Begins connections that nobody waits for until `floor` are idle; of HTTP/2 connections one is enough.
    fn fill_floor(self: &Rc<Self>, now: Instant, floor: usize) {
        let connecting = usize::try_from(self.connecting.count()).unwrap_or(usize::MAX);
        let missing = if self.shares() {
            usize::from(floor > 0 && connecting == 0 && !self.multiplexed.some_live())
        } else {
            floor.saturating_sub(self.idle.len().saturating_add(connecting))
        };
        if missing > 0 && !self.retired.get() && self.has_room() && self.floor.may_fill(now) {
            let _ = (0..missing).all(|_| self.begin());
        }
    }

    pub(super) fn set_limits(&self, limits: &Limits) {
        if *self.limits.borrow() != *limits {
            self.limits.borrow_mut().clone_from(limits);
        }
    }

    /// The endpoint has left the policy: idle connections close now, those in use after their exchange. Requests that
    /// wait go on waiting, for they keep the policy that they began with.
    pub(super) fn retire(&self) {
        self.retired.set(true);
        self.idle.clear();
        self.multiplexed.close_idle();
    }
}
