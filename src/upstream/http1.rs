//! HTTP/1.1 towards an endpoint: one exchange after the other on one connection.
//!
//! The request's own future writes its head and reads the answer's, and the answer's body reads what follows: no task
//! drives the connection, nothing is passed through channels, and a connection that is idle or waits for an answer
//! holds no buffer. Only an upload that goes on while the answer comes gets a task, so that neither direction waits
//! for the other.

mod outgoing;
mod reading;

use std::{
    cell::RefCell,
    io,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
    time::Instant,
};

use ::http::{HeaderMap, Method, StatusCode};
use bytes::Bytes;
use http_body::Frame;
use tokio::task::{JoinHandle, spawn_local};

use self::{
    outgoing::Outgoing,
    reading::{Got, Reading},
};
use super::lease::OpenSlot;
use crate::{
    http::{
        body::{BodyError, RequestBody},
        wire::{Asked, Bounds, Head, Refusal},
    },
    net::Stream,
};

/// Hears of interim answers (1xx) while a request waits for its answer.
pub(crate) trait Listen {
    /// One came; 101 is not among them.
    fn hear(&self, status: StatusCode, headers: &HeaderMap);
}

/// Why a request got no answer, or its answer ended before its end.
#[derive(Debug)]
pub(crate) enum ExchangeError {
    /// The endpoint ended the connection; whether a part of the answer had come.
    Closed { came: bool },
    /// The connection broke.
    Io { error: io::Error, came: bool },
    /// The answer is refused.
    Refused(Refusal),
    /// The client's body ended before its end.
    Upload(Box<BodyError>),
}

impl ExchangeError {
    /// Whether it failed before a byte of an answer came, by the connection's fault.
    pub(super) fn connection_died(&self) -> bool {
        matches!(self, Self::Closed { came: false } | Self::Io { came: false, .. })
    }
}

impl std::fmt::Display for ExchangeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed { came: false } => {
                f.write_str("the endpoint closed the connection without an answer")
            }
            Self::Closed { came: true } => {
                f.write_str("the endpoint closed the connection within its answer")
            }
            Self::Io { error, .. } => write!(f, "the connection broke: {error}"),
            Self::Refused(refusal) => write!(f, "the answer is refused: {refusal}"),
            Self::Upload(error) => write!(f, "the request's body: {error}"),
        }
    }
}

impl std::error::Error for ExchangeError {}

/// What a request's head says, as it is to be written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestHead<'a> {
    pub(crate) method: &'a Method,
    pub(crate) target: &'a str,
    pub(crate) headers: &'a HeaderMap,
    /// Fields beside those: names in lower case.
    pub(crate) extra: &'a [(&'a str, &'a [u8])],
}

/// An HTTP/1.1 connection: one exchange at a time.
#[derive(Debug)]
pub(super) struct Http1 {
    wire: Rc<RefCell<Wire>>,
    /// Takes no new request after this, but for its first.
    pub(super) expires: Instant,
    pub(super) reused: bool,
    /// Sends the rest of the request's body while the answer comes.
    upload: Option<JoinHandle<()>>,
    _open: Rc<OpenSlot>,
}

/// Both directions of a connection.
#[derive(Debug)]
struct Wire {
    /// `None` once it has become a tunnel, or was given up.
    stream: Option<Stream>,
    reading: Reading,
    out: Outgoing,
    /// Why the upload ended early: the exchange is broken, or at least the last on its connection.
    failed: Option<ExchangeError>,
    /// Who reads the answer while a task sends the rest of the request.
    reader: Option<Waker>,
}

impl Http1 {
    pub(super) fn new(stream: Stream, bounds: Bounds, expires: Instant, open: Rc<OpenSlot>) -> Self {
        let wire = Wire {
            stream: Some(stream),
            reading: Reading::new(bounds),
            out: Outgoing::default(),
            failed: None,
            reader: None,
        };
        Self { wire: Rc::new(RefCell::new(wire)), expires, reused: false, upload: None, _open: open }
    }

    /// Whether it would take a request now: it is whole, and the endpoint has neither closed it nor said anything
    /// unasked. Costs no system call while nothing has come.
    pub(super) fn ready(&self) -> bool {
        self.wire.borrow_mut().stream.as_mut().is_some_and(Stream::is_quiet)
    }

    /// Prepares a request; nothing is written yet.
    pub(super) fn begin(&mut self, head: RequestHead<'_>, body: RequestBody) {
        let mut wire = self.wire.borrow_mut();
        wire.reading.expect(match *head.method {
            Method::HEAD => Asked::Head,
            Method::CONNECT => Asked::Connect,
            _ => Asked::Other,
        });
        wire.out.begin(head, body);
        wire.failed = None;
    }

    /// Sends the request that was begun, and waits for the head of its answer. `true` in an error: not a byte of the
    /// request was written.
    pub(super) async fn answer(&mut self, hears: &dyn Listen) -> Result<Head, (bool, ExchangeError)> {
        let wire = &self.wire;
        let head = std::future::poll_fn(|cx| wire.borrow_mut().poll_head(cx, hears)).await;
        if head.is_ok() && self.wire.borrow().is_uploading() {
            self.upload = Some(self.upload_beside());
        }
        head.map_err(|error| (self.wire.borrow().out.untouched(), error))
    }

    /// Gives back what was read of the client's body and not sent; of use when nothing was sent at all.
    pub(super) fn unread(&self) {
        self.wire.borrow_mut().out.unread();
    }

    /// Sends the rest of the request on a task of its own.
    fn upload_beside(&self) -> JoinHandle<()> {
        let wire = self.wire.clone();
        spawn_local(std::future::poll_fn(move |cx| {
            let mut wire = wire.borrow_mut();
            ready!(wire.poll_upload(cx));
            if wire.failed.is_some()
                && let Some(reader) = wire.reader.take()
            {
                reader.wake();
            }
            Poll::Ready(())
        }))
    }

    /// The next piece of the answer's body.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        let mut wire = self.wire.borrow_mut();
        if self.upload.is_some() {
            if wire.failed.as_ref().is_some_and(|error| matches!(error, ExchangeError::Upload(_)))
                && let Some(error) = wire.failed.take()
            {
                return Poll::Ready(Some(Err(error)));
            }
            wire.reader = Some(cx.waker().clone());
        }
        wire.poll_frame(cx)
    }

    /// Whether nothing of the answer is to come any more.
    pub(super) fn is_over(&self) -> bool {
        self.wire.borrow().reading.is_over()
    }

    /// How many bytes of the answer's body are to come, where that is known.
    pub(super) fn left(&self) -> Option<u64> {
        self.wire.borrow().reading.left()
    }

    /// The exchange is over as far as the answer goes: what becomes of the connection?
    pub(super) fn rest(&self) -> Rest {
        let wire = self.wire.borrow();
        if !wire.reading.is_clean() || wire.failed.is_some() || wire.stream.is_none() {
            Rest::Ended
        } else if wire.out.is_done() {
            Rest::Free
        } else {
            Rest::Uploading
        }
    }

    /// Waits until the rest of the request is sent; says whether it was.
    pub(super) async fn uploaded(&mut self) -> bool {
        if let Some(upload) = self.upload.as_mut() {
            // Fails only when it was aborted, and then it was not sent.
            let _ = upload.await;
            self.upload = None;
        }
        matches!(self.rest(), Rest::Free)
    }

    /// The connection as it is, and what was read of it beyond the head, for what the answer switches to.
    pub(super) fn take_stream(&mut self) -> Option<(Stream, Bytes)> {
        let mut wire = self.wire.borrow_mut();
        let ahead = wire.reading.take_rest();
        Some((wire.stream.take()?, ahead))
    }
}

impl Drop for Http1 {
    fn drop(&mut self) {
        if let Some(upload) = &self.upload {
            upload.abort();
        }
        // At once, not when the runtime has dropped the task.
        let stream = self.wire.try_borrow_mut().ok().and_then(|mut wire| wire.stream.take());
        drop(stream);
    }
}

/// What is left of an exchange whose answer is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing: the connection can carry another exchange.
    Free,
    /// The request's body is still on its way.
    Uploading,
    /// The connection cannot be used again.
    Ended,
}

impl Wire {
    /// Whether some of the request is still to be sent, and can be.
    fn is_uploading(&self) -> bool {
        !self.out.is_done() && self.failed.is_none()
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, hears: &dyn Listen) -> Poll<Result<Head, ExchangeError>> {
        if self.is_uploading() {
            // Whether it is done or not: an answer may come before it is.
            let _ = self.poll_upload(cx);
            if let Some(ExchangeError::Upload(_)) = self.failed
                && let Some(error) = self.failed.take()
            {
                return Poll::Ready(Err(error));
            }
        }
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(ExchangeError::Closed { came: false }));
        };
        let read = ready!(self.reading.poll_head(cx, stream, |status, headers| hears.hear(status, headers)));
        // An endpoint that does not want the rest of a request may answer and close: what it said counts more than
        // that it could not be written to.
        Poll::Ready(read.map_err(|error| match self.failed.take() {
            Some(failed) if error.connection_died() => failed,
            _ => error,
        }))
    }

    /// Sends what there is to be sent; ready when that is all, or no more can be.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(()) };
        let sent = ready!(self.out.poll_send(cx, stream));
        self.failed = sent.err();
        Poll::Ready(())
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        let got = match &mut self.stream {
            Some(stream) => ready!(self.reading.poll_body(cx, stream)),
            None => Err(ExchangeError::Closed { came: true }),
        };
        Poll::Ready(match got {
            Ok(Got::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Got::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(Got::End) => None,
            Err(error) => Some(Err(error)),
        })
    }
}
