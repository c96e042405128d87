//! Bodies on their way through: counted, bounded, and, where it is safe, replayable.

use std::{
    cell::{Cell, OnceCell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::{sync::oneshot, task::AbortHandle};

use super::hygiene;

/// Most bytes of a request body that are kept so that it can be sent again.
pub(crate) const REPLAY_LIMIT: usize = 64 * 1024;

/// What is known of an exchange's bodies while they flow; shared by both directions.
#[derive(Debug)]
pub(crate) struct Flow {
    request_bytes: Cell<u64>,
    response_bytes: Cell<u64>,
    moved: Cell<Instant>,
    fault: Cell<Option<UploadFault>>,
    /// The client owes more of the request's body: it has been asked for, and has not come.
    owed: Cell<bool>,
    /// The answer was given up because the client let it stand still.
    stalled: Cell<bool>,
    /// HTTP/2: the task of the exchange's stream.
    task: OnceCell<AbortHandle>,
}

/// Why a request body ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UploadFault {
    /// It is larger than the route takes.
    TooLarge,
    /// The client stopped sending.
    ClientGone,
}

impl Flow {
    pub(crate) fn new(now: Instant) -> Rc<Self> {
        Rc::new(Self {
            request_bytes: Cell::new(0),
            response_bytes: Cell::new(0),
            moved: Cell::new(now),
            fault: Cell::new(None),
            owed: Cell::new(false),
            stalled: Cell::new(false),
            task: OnceCell::new(),
        })
    }

    pub(crate) fn request_bytes(&self) -> u64 {
        self.request_bytes.get()
    }

    pub(crate) fn response_bytes(&self) -> u64 {
        self.response_bytes.get()
    }

    /// When a byte last moved, either way.
    pub(crate) fn moved(&self) -> Instant {
        self.moved.get()
    }

    pub(crate) fn fault(&self) -> Option<UploadFault> {
        self.fault.get()
    }

    /// Whether everybody waits for the client to send more of its request's body.
    pub(crate) fn owed(&self) -> bool {
        self.owed.get()
    }

    /// The client let its answer stand still for too long.
    pub(crate) fn stall(&self) {
        self.stalled.set(true);
    }

    pub(crate) fn stalled(&self) -> bool {
        self.stalled.get()
    }

    /// The task that carries the answer to the client; dropped, it ends it.
    pub(crate) fn know_task(&self, task: AbortHandle) {
        let _ = self.task.set(task);
    }

    pub(crate) fn task(&self) -> Option<&AbortHandle> {
        self.task.get()
    }

    /// Bytes of the answer have passed; `more` = and others may follow, so that when they did matters.
    pub(crate) fn answered(&self, bytes: usize, more: bool) {
        self.response_bytes.set(self.response_bytes.get() + bytes as u64);
        if more {
            self.moved.set(Instant::now());
        }
    }

    pub(crate) fn uploaded(&self, bytes: usize) {
        self.request_bytes.set(self.request_bytes.get() + bytes as u64);
        self.moved.set(Instant::now());
    }
}

/// A request body on its way to an endpoint.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// None.
    Empty,
    /// One that flows from the client.
    Streaming(Streaming),
}

/// A request body that flows from the client to an endpoint.
#[derive(Debug)]
pub(crate) struct Streaming {
    source: Rc<Source>,
    /// How many of the kept frames this attempt has sent.
    sent: usize,
    /// Which attempt it is for: when a later one has begun, it yields nothing more.
    attempt: u32,
    /// What was read first, while it is the only thing that was read.
    first: Option<Bytes>,
    begun: bool,
    /// `Expect: 100-continue`: nothing is read from the client before the endpoint asks for it.
    gate: Option<oneshot::Receiver<()>>,
}

/// The client's body, and what of it has been kept; shared by the attempts.
#[derive(Debug)]
pub(crate) struct Source {
    incoming: RefCell<Incoming>,
    flow: Rc<Flow>,
    limit: Option<u64>,
    kept: RefCell<Vec<Bytes>>,
    kept_bytes: Cell<usize>,
    replayable: Cell<bool>,
    attempt: Cell<u32>,
}

impl Source {
    /// Wraps a client's body. `limit` bounds it in bytes; `keep` keeps up to [`REPLAY_LIMIT`] bytes of it for a
    /// second attempt.
    pub(crate) fn new(incoming: Incoming, flow: Rc<Flow>, limit: Option<u64>, keep: bool) -> Rc<Self> {
        Rc::new(Self {
            incoming: RefCell::new(incoming),
            flow,
            limit,
            kept: RefCell::new(Vec::new()),
            kept_bytes: Cell::new(0),
            replayable: Cell::new(keep),
            attempt: Cell::new(0),
        })
    }

    /// Whether everything that was read of it has been kept, so that it can be sent from its start.
    pub(crate) fn replayable(&self) -> bool {
        self.replayable.get()
    }

    /// The body for one attempt; those of earlier attempts end. Its gate, when given, holds it back until it opens;
    /// dropped, it stays shut for good.
    pub(crate) fn body(self: &Rc<Self>, gate: Option<oneshot::Receiver<()>>) -> RequestBody {
        let attempt = self.attempt.get() + 1;
        self.attempt.set(attempt);
        RequestBody::Streaming(Streaming {
            source: self.clone(),
            sent: 0,
            attempt,
            first: None,
            begun: false,
            gate,
        })
    }

    /// Puts `data` before what is to come: it was taken and went nowhere. Where what was taken is kept, it is there.
    fn unread(&self, data: Bytes) {
        if !self.replayable.get() {
            self.kept.borrow_mut().push(data);
        }
    }

    fn keep(&self, data: &Bytes) {
        if !self.replayable.get() {
            return;
        }
        let total = self.kept_bytes.get() + data.len();
        if total > REPLAY_LIMIT {
            self.replayable.set(false);
            self.kept.borrow_mut().clear();
            return;
        }
        self.kept_bytes.set(total);
        self.kept.borrow_mut().push(data.clone());
    }
}

/// Why a body could not be read to its end.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// The other side failed.
    Stream(Box<dyn std::error::Error + Send + Sync>),
    /// Larger than the route takes.
    TooLarge,
    /// Nothing moved for the route's `idle_timeout`, or the client's deadline ran out.
    Timeout,
    /// The request is being sent again elsewhere.
    Superseded,
    /// The endpoint answered without having asked for the body, which its client therefore keeps.
    NotAsked,
    /// Content where the answer's status says that there is none (RFC 9110 §6.4.1).
    Unexpected,
    /// A fault in Weir.
    Internal,
}

impl std::fmt::Display for BodyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stream(error) => error.fmt(f),
            Self::TooLarge => f.write_str("body is larger than max_body"),
            Self::Timeout => f.write_str("body timed out"),
            Self::Superseded => f.write_str("the request is being sent again"),
            Self::NotAsked => f.write_str("nobody asked for the body"),
            Self::Unexpected => f.write_str("content in an answer that has none"),
            Self::Internal => f.write_str("internal error"),
        }
    }
}

impl std::error::Error for BodyError {}

impl RequestBody {
    /// Gives back the one piece that was read and not sent, for the next attempt.
    pub(crate) fn unread(&self) {
        if let Self::Streaming(Streaming { source, first: Some(first), .. }) = self {
            source.unread(first.clone());
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Streaming(streaming) => streaming.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming(streaming) => {
                let source = &streaming.source;
                streaming.sent >= source.kept.borrow().len() && source.incoming.borrow().is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streaming(streaming) => streaming.size_hint(),
        }
    }
}

impl Streaming {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(gate) = &mut self.gate {
            if ready!(Pin::new(gate).poll(cx)).is_err() {
                return Poll::Ready(Some(Err(BodyError::NotAsked)));
            }
            self.gate = None;
        }
        let source = &*self.source;
        if self.attempt != source.attempt.get() {
            // What is left of an attempt that failed must take nothing away from the one that runs.
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if let Some(data) = source.kept.borrow().get(self.sent) {
            self.sent += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        let polled = Pin::new(&mut *source.incoming.borrow_mut()).poll_frame(cx);
        source.flow.owed.set(polled.is_pending());
        self.first = None;
        let mut frame = match ready!(polled) {
            None => return Poll::Ready(None),
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                source.flow.fault.set(Some(UploadFault::ClientGone));
                return Poll::Ready(Some(Err(BodyError::Stream(error.into()))));
            }
        };
        if let Some(data) = frame.data_ref() {
            source.flow.uploaded(data.len());
            if source.limit.is_some_and(|limit| source.flow.request_bytes() > limit) {
                source.flow.fault.set(Some(UploadFault::TooLarge));
                return Poll::Ready(Some(Err(BodyError::TooLarge)));
            }
            source.keep(data);
            if source.replayable() {
                self.sent += 1;
            } else if !self.begun {
                self.first = Some(data.clone());
            }
            self.begun = true;
        } else {
            if let Some(trailers) = frame.trailers_mut() {
                hygiene::clean_trailers(trailers);
            }
            // Trailers are not kept.
            source.replayable.set(false);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn size_hint(&self) -> SizeHint {
        let kept: usize = self.source.kept.borrow().iter().skip(self.sent).map(Bytes::len).sum();
        let rest = self.source.incoming.borrow().size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + kept as u64);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + kept as u64);
        }
        hint
    }
}
