//! A connection that a request uses, and the result of using it.

use std::{
    error::Error as _,
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http_body::Frame;
use hyper::{Request, Response, body::Incoming, client::conn::TrySendError};

use super::{
    endpoint::Counted,
    http1::{ExchangeError, Http1, Listen, RequestHead},
    lane::Lane,
    streams::StreamSlot,
};
use crate::{
    http::{body::RequestBody, wire::Head},
    net::Stream,
};

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
    /// Not one byte of it was written: it can go elsewhere, whatever it is. Over HTTP/2 it comes back.
    NotSent(Option<Box<Request<RequestBody>>>, SendError),
    /// Some of it may have reached the endpoint.
    MaybeSent(SendError),
}

/// Why a request got no answer.
#[derive(Debug)]
pub(crate) enum SendError {
    /// By HTTP/1.
    Http1(ExchangeError),
    /// By HTTP/2.
    Http2(hyper::Error),
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

    /// Prepares one request by HTTP/1.
    pub(crate) fn begin_http1(&mut self, head: RequestHead<'_>, body: RequestBody) {
        if let Some(Conn::Http1(conn)) = &mut self.conn {
            conn.begin(head, body);
        }
    }

    /// Sends the request that was prepared and waits for the head of its answer; `hears` is told of interim answers.
    /// Dropping the future cancels it, which closes the connection.
    ///
    /// What comes of the answer's body is read by [`Lease::poll_frame`].
    pub(crate) async fn answer_http1(&mut self, hears: &dyn Listen) -> Result<Head, Failure> {
        let Some(Conn::Http1(conn)) = &mut self.conn else {
            return Err(Failure::NotSent(None, SendError::Http1(ExchangeError::Closed { came: false })));
        };
        conn.answer(hears).await.map_err(|(untouched, error)| {
            if !untouched {
                return Failure::MaybeSent(SendError::Http1(error));
            }
            conn.unread();
            Failure::NotSent(None, SendError::Http1(error))
        })
    }

    /// Sends one request by HTTP/2. Dropping the future cancels it, which resets its stream.
    pub(crate) async fn send_http2(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Failure> {
        let failure = |mut e: TrySendError<Request<RequestBody>>| {
            let request = e.take_message().map(Box::new);
            let error = SendError::Http2(e.into_error());
            if request.is_some() { Failure::NotSent(request, error) } else { Failure::MaybeSent(error) }
        };
        let Some(Conn::Http2(slot)) = &mut self.conn else {
            // Which protocol it speaks was asked for a moment ago.
            return std::future::pending().await;
        };
        let conn = slot.connection();
        let sent = conn.sender.clone().try_send_request(request).await.map_err(failure);
        conn.doubtful.set(sent.is_err());
        sent
    }

    /// The next piece of the answer's body, over HTTP/1.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        match &mut self.conn {
            Some(Conn::Http1(conn)) => conn.poll_frame(cx),
            _ => Poll::Ready(None),
        }
    }

    /// Whether nothing of the answer is to come any more, over HTTP/1.
    pub(crate) fn is_over(&self) -> bool {
        matches!(&self.conn, Some(Conn::Http1(conn)) if conn.is_over())
    }

    /// How many bytes of the answer's body are to come, over HTTP/1, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match &self.conn {
            Some(Conn::Http1(conn)) => conn.left(),
            _ => None,
        }
    }

    /// The connection under HTTP/1, which has switched to something else, and what was read of that. Its place stays
    /// taken until the lease is dropped.
    pub(crate) fn take_stream(&mut self) -> Option<(Stream, Bytes)> {
        match &mut self.conn {
            Some(Conn::Http1(conn)) => conn.take_stream(),
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
            Self::MaybeSent(SendError::Http1(error)) => return error.connection_died(),
            Self::MaybeSent(SendError::Http2(error)) => error,
        };
        let reset = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
        let answered = reset
            .is_some_and(|e| e.is_reset() && e.is_remote() && e.reason() != Some(h2::Reason::REFUSED_STREAM));
        !error.is_parse() && !answered
    }

    /// Whether the endpoint's answer was refused.
    pub(crate) fn is_refusal(&self) -> bool {
        let (Self::NotSent(_, error) | Self::MaybeSent(error)) = self;
        match error {
            SendError::Http1(error) => matches!(error, ExchangeError::Refused(_)),
            SendError::Http2(error) => {
                let source = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
                error.is_parse() || source.is_some_and(h2::Error::is_library)
            }
        }
    }

    /// What happened, with its causes, for the log.
    pub(crate) fn cause(&self) -> String {
        let (Self::NotSent(_, error) | Self::MaybeSent(error)) = self;
        let error: &dyn std::error::Error = match error {
            SendError::Http1(error) => error,
            SendError::Http2(error) => error,
        };
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}
