//! The HTTP/2 connections of one lane, and the streams on them.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::client::conn::http2;

use super::{Endpoint, endpoint::Counted, lease::OpenSlot};
use crate::http::body::RequestBody;

/// Most streams on one HTTP/2 connection, however many the endpoint allows: beyond this another connection does
/// more for throughput than another stream.
pub(super) const MAX_STREAMS: usize = 100;

/// An HTTP/2 connection: many requests at a time.
#[derive(Debug)]
pub(super) struct Http2 {
    pub(super) sender: http2::SendRequest<RequestBody>,
    endpoint: Arc<Endpoint>,
    /// Takes no new request after this, but for its first.
    expires: Instant,
    idle_since: Cell<Instant>,
    /// While no stream is on it.
    idle: RefCell<Option<Counted>>,
    streams: Cell<usize>,
    told: Rc<Told>,
    used: Cell<bool>,
    /// The last request on it failed: one that is sent again looks for another connection.
    pub(super) doubtful: Cell<bool>,
    _open: Rc<OpenSlot>,
}

/// What the endpoint's settings say at present.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// How many streams it allows at a time.
    pub(super) room: Cell<usize>,
    /// Whether it takes extended `CONNECT` (RFC 8441 §3).
    pub(super) takes_connect: Cell<bool>,
}

impl Http2 {
    /// Whether the endpoint takes extended `CONNECT`.
    pub(super) fn takes_connect(&self) -> bool {
        self.told.takes_connect.get()
    }

    pub(super) fn new(
        sender: http2::SendRequest<RequestBody>,
        endpoint: &Arc<Endpoint>,
        expires: Instant,
        told: Rc<Told>,
        open: Rc<OpenSlot>,
    ) -> Self {
        Self {
            sender,
            endpoint: endpoint.clone(),
            expires,
            idle_since: Cell::new(Instant::now()),
            idle: RefCell::new(Some(endpoint.count_idle())),
            streams: Cell::new(0),
            told,
            used: Cell::new(false),
            doubtful: Cell::new(false),
            _open: open,
        }
    }

    /// Notes that it carries a request, and says whether it did so before.
    pub(super) fn use_it(&self) -> bool {
        self.used.replace(true)
    }

    fn usable(&self, now: Instant) -> bool {
        // However short `max_age` is, a connection serves one request: else none would ever be served.
        let young = now < self.expires || !self.used.get();
        !self.sender.is_closed() && young && self.streams.get() < self.told.room.get().min(MAX_STREAMS)
    }

    fn ends(&self, now: Instant, idle_timeout: Duration) -> bool {
        let stale = now.saturating_duration_since(self.idle_since.get()) >= idle_timeout;
        self.streams.get() == 0 && (stale || now >= self.expires)
    }
}

/// One stream of an HTTP/2 connection, until dropped.
#[derive(Debug)]
pub(super) struct StreamSlot(Rc<Http2>);

impl StreamSlot {
    fn take(conn: &Rc<Http2>) -> Self {
        conn.streams.set(conn.streams.get() + 1);
        let idle = conn.idle.borrow_mut().take();
        drop(idle);
        Self(conn.clone())
    }

    pub(super) fn connection(&self) -> &Http2 {
        &self.0
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let conn = &self.0;
        conn.streams.set(conn.streams.get().saturating_sub(1));
        if conn.streams.get() == 0 {
            conn.idle_since.set(Instant::now());
            let before = conn.idle.replace(Some(conn.endpoint.count_idle()));
            drop(before);
        }
    }
}

/// The HTTP/2 connections of one lane.
#[derive(Debug, Default)]
pub(super) struct Multiplexed(RefCell<Vec<Rc<Http2>>>);

impl Multiplexed {
    pub(super) fn add(&self, conn: Rc<Http2>) {
        self.0.borrow_mut().push(conn);
    }

    /// A stream on the first connection that has one: the others run empty and go. `sure` passes over connections
    /// whose last request failed.
    pub(super) fn free_stream(&self, now: Instant, sure: bool) -> Option<StreamSlot> {
        let conns = self.0.borrow();
        let conn = conns.iter().find(|conn| conn.usable(now) && !(sure && conn.doubtful.get()))?;
        Some(StreamSlot::take(conn))
    }

    /// Whether there is one that will have a free stream sooner or later.
    pub(super) fn some_live(&self) -> bool {
        let now = Instant::now();
        self.0.borrow().iter().any(|conn| !conn.sender.is_closed() && now < conn.expires)
    }

    /// Forgets what is closed, and closes what carries nothing and is too old or idle for `idle_timeout`. One stays
    /// in spite of being idle when `keep_one`.
    pub(super) fn sweep(&self, now: Instant, idle_timeout: Duration, keep_one: bool) {
        let closed = self.take_out(|conn| conn.sender.is_closed());
        let mut left = self.0.borrow().len();
        let ended = self.take_out(|conn| {
            let last = keep_one && left == 1 && now < conn.expires;
            let goes = conn.ends(now, idle_timeout) && !last;
            left -= usize::from(goes);
            goes
        });
        drop((closed, ended));
    }

    /// Forgets what is closed; those that requests still use live on in their hands.
    pub(super) fn forget_closed(&self) {
        drop(self.take_out(|conn| conn.sender.is_closed()));
    }

    /// Closes what carries nothing.
    pub(super) fn close_idle(&self) {
        drop(self.take_out(|conn| conn.streams.get() == 0));
    }

    fn take_out(&self, mut goes: impl FnMut(&Http2) -> bool) -> Vec<Rc<Http2>> {
        self.0.borrow_mut().extract_if(.., |conn| goes(conn)).collect()
    }
}
