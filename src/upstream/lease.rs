//! A connection that a request uses, and the result of using it.

use std::{error::Error as _, rc::Rc, sync::Arc, time::Instant};

use ::http::HeaderMap;
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use tokio::task::AbortHandle;

use super::{
    answers::{Listen, Question},
    endpoint::Counted,
    lane::Lane,
    streams::StreamSlot,
};
use crate::http::body::RequestBody;

/// An HTTP/1 connection: one request at a time.
#[derive(Debug)]
pub(super) struct Http1 {
    pub(super) sender: http1::SendRequest<RequestBody>,
    /// Tells the reading side what an answer is for.
    pub(super) question: Question,
    /// Takes no new request after this, but for its first.
    pub(super) expires: Instant,
    pub(super) reused: bool,
    /// The task that drives it.
    pub(super) driver: AbortHandle,
    pub(super) _open: Rc<OpenSlot>,
}

impl Http1 {
    /// Whether it would take a request now, as far as its task knows.
    pub(super) fn ready(&self) -> bool {
        // A new one has room for one request before its task has run for the first time.
        self.sender.is_ready() || (!self.reused && !self.sender.is_closed())
    }
}

/// A connection's place under `max_connections`; free when the connection's task and its users are done.
#[derive(Debug)]
pub(super) struct OpenSlot {
    pub(super) lane: std::rc::Weak<Lane>,
    pub(super) _count: Counted,
}

impl Drop for OpenSlot {
    fn drop(&mut self) {
        // Only counts: it may be dropped anywhere. Who drops the last one tells the lane.
        if let Some(lane) = self.lane.upgrade() {
            lane.closed_one();
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
            Conn::Http2(slot) => slot.connection().use_it(),
        };
        lane.endpoint().request_begins();
        Self { lane: lane.clone(), conn: Some(conn), reused }
    }

    /// Whether the connection carried a request before this one.
    pub(crate) fn reused(&self) -> bool {
        self.reused
    }

    /// Whether requests on it are HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.conn, Some(Conn::Http2(_)))
    }

    /// Whether an upgrade may be asked for on it: always by HTTP/1.1, and by HTTP/2 where the endpoint takes extended
    /// `CONNECT` (RFC 8441 §3).
    pub(crate) fn takes_upgrades(&self) -> bool {
        match &self.conn {
            Some(Conn::Http2(slot)) => slot.connection().takes_connect(),
            _ => true,
        }
    }

    /// Sends one request. Dropping the future cancels it: HTTP/2 resets the stream, HTTP/1 closes the connection.
    ///
    /// `keep` lets [`Lease::written`] tell later what was sent, `listener` hears of interim answers; both over HTTP/1
    /// only.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
        keep: bool,
        listener: Option<Arc<dyn Listen>>,
    ) -> Result<Response<Incoming>, Failure> {
        let failure = |mut e: TrySendError<Request<RequestBody>>| match e.take_message() {
            Some(request) => Failure::NotSent(Box::new(request), e.into_error()),
            None => Failure::MaybeSent(e.into_error()),
        };
        match &mut self.conn {
            Some(Conn::Http1(conn)) => {
                conn.question.ask(request.method(), keep, listener);
                conn.question.is_one_of(self.lane.open());
                let sent = conn.sender.try_send_request(request).await.map_err(failure);
                conn.question.forget();
                sent
            }
            Some(Conn::Http2(slot)) => {
                let conn = slot.connection();
                let sent = conn.sender.clone().try_send_request(request).await.map_err(failure);
                conn.doubtful.set(sent.is_err());
                sent
            }
            // A lease has its connection until it is finished, and finishing consumes it.
            None => std::future::pending().await,
        }
    }

    /// The fields of the request that was sent, where they were to be kept.
    pub(crate) fn written(&self) -> Option<HeaderMap> {
        match &self.conn {
            Some(Conn::Http1(conn)) => conn.question.written(),
            _ => None,
        }
    }

    /// The exchange is over at `now`, both ways, and left nothing behind: the connection can be used again.
    pub(crate) fn finish(mut self, now: Instant) {
        if let Some(Conn::Http1(_)) = self.conn
            && let Some(Conn::Http1(conn)) = self.conn.take()
        {
            self.lane.release(conn, now);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.lane.endpoint().request_ends();
        match self.conn.take() {
            None => {}
            Some(Conn::Http1(conn)) => {
                // Its task would go on reading the request's body, for as long as the client sends.
                conn.driver.abort();
                drop(conn);
                self.lane.one_ended();
            }
            Some(Conn::Http2(slot)) => {
                drop(slot);
                self.lane.stream_ended();
            }
        }
    }
}

impl Failure {
    /// Whether the connection died under the request before a byte of an answer came. A stream that the endpoint
    /// reset is an answer of a kind, unless it says that it did not look at the request (RFC 9113 §8.7).
    pub(crate) fn connection_died(&self) -> bool {
        let error = match self {
            Self::NotSent(..) => return true,
            Self::MaybeSent(error) => error,
        };
        let reset = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
        let answered = reset
            .is_some_and(|e| e.is_reset() && e.is_remote() && e.reason() != Some(h2::Reason::REFUSED_STREAM));
        !error.is_parse() && !answered
    }
}
