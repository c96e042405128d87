//! A connection that a request uses, and the result of using it.

use std::{rc::Rc, time::Instant};

use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};

use super::{
    endpoint::{Counted, InFlight},
    lane::Lane,
};
use crate::http::body::RequestBody;

/// An HTTP/1 connection: one request at a time.
#[derive(Debug)]
pub(super) struct Http1 {
    pub(super) sender: http1::SendRequest<RequestBody>,
    /// Takes no new request after this.
    pub(super) expires: Instant,
    pub(super) idle_since: Instant,
    pub(super) reused: bool,
    /// While it is idle.
    pub(super) idle: Option<Counted>,
    pub(super) _open: Rc<OpenSlot>,
}

/// An HTTP/2 connection: many requests at a time.
#[derive(Debug)]
pub(super) struct Http2 {
    pub(super) sender: http2::SendRequest<RequestBody>,
    pub(super) expires: Instant,
    pub(super) idle_since: std::cell::Cell<Instant>,
    pub(super) streams: std::cell::Cell<u32>,
    /// How many streams the endpoint allows at a time, as far as is known.
    pub(super) room: Rc<std::cell::Cell<usize>>,
    pub(super) used: std::cell::Cell<bool>,
    pub(super) _open: Rc<OpenSlot>,
}

/// A connection's place under `max_connections`; free when the connection's task and its users are done.
#[derive(Debug)]
pub(super) struct OpenSlot {
    pub(super) lane: std::rc::Weak<Lane>,
    pub(super) _count: Counted,
}

impl Drop for OpenSlot {
    fn drop(&mut self) {
        if let Some(lane) = self.lane.upgrade() {
            lane.closed_one();
        }
    }
}

/// One stream of an HTTP/2 connection, until dropped.
#[derive(Debug)]
pub(super) struct StreamSlot(pub(super) Rc<Http2>);

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let streams = self.0.streams.get().saturating_sub(1);
        self.0.streams.set(streams);
        if streams == 0 {
            self.0.idle_since.set(Instant::now());
        }
    }
}

/// What a request travels on.
#[derive(Debug)]
pub(super) enum Conn {
    Http1(Http1),
    Http2(StreamSlot),
}

/// A connection in the hands of one request.
///
/// Dropping it is the only release. An HTTP/1 connection goes back to its lane only through [`Lease::finish`];
/// dropped before, it is closed, for what is left on it belongs to nobody.
#[derive(Debug)]
pub(crate) struct Lease {
    lane: Rc<Lane>,
    conn: Option<Conn>,
    reused: bool,
    _in_flight: InFlight,
}

/// A request that got no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Not one byte of it was written: it can go elsewhere, whatever it is.
    NotSent(Box<Request<RequestBody>>, hyper::Error),
    /// Some of it may have reached the endpoint.
    MaybeSent(hyper::Error),
}

impl Lease {
    pub(super) fn new(lane: &Rc<Lane>, conn: Conn) -> Self {
        let reused = match &conn {
            Conn::Http1(conn) => conn.reused,
            Conn::Http2(slot) => slot.0.used.replace(true),
        };
        Self { lane: lane.clone(), conn: Some(conn), reused, _in_flight: lane.endpoint().begin() }
    }

    /// Whether the connection carried a request before this one.
    pub(crate) fn reused(&self) -> bool {
        self.reused
    }

    /// Whether requests on it are HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.conn, Some(Conn::Http2(_)))
    }

    /// Sends one request. Dropping the future cancels it: HTTP/2 resets the stream, HTTP/1 closes the connection.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Failure> {
        let failure = |e: TrySendError<Request<RequestBody>>| {
            let mut e = e;
            match e.take_message() {
                Some(request) => Failure::NotSent(Box::new(request), e.into_error()),
                None => Failure::MaybeSent(e.into_error()),
            }
        };
        match &mut self.conn {
            Some(Conn::Http1(conn)) => conn.sender.try_send_request(request).await.map_err(failure),
            Some(Conn::Http2(slot)) => slot.0.sender.clone().try_send_request(request).await.map_err(failure),
            // A lease has its connection until it is finished, and finishing consumes it.
            None => std::future::pending().await,
        }
    }

    /// The exchange is over, both ways, and left nothing behind: the connection can be used again.
    pub(crate) fn finish(mut self) {
        if let Some(Conn::Http1(_)) = self.conn
            && let Some(Conn::Http1(conn)) = self.conn.take()
        {
            self.lane.release(conn);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(Conn::Http2(slot)) = self.conn.take() {
            drop(slot);
            self.lane.serve_streams();
        }
    }
}
