//! The answers that come by a connection.

use std::{
    cell::RefCell,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use ::http::{HeaderMap, StatusCode};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};

use super::ExchangeError;
use crate::{
    http::wire::{Answers, Asked, Bounds, Fault, Head, Refusal},
    net::Stream,
};

/// How much is read at a time into the worker's own buffer: a record of TLS.
const SCRATCH: usize = 16 * 1024;

/// How much is read at a time of a body of which there is much.
const LARGE: usize = 64 * 1024;

thread_local! {
    /// Where what comes is read to, on its way to a buffer of its size. One for all connections of a worker: those that
    /// wait hold none.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// A piece of an answer.
#[derive(Debug)]
pub(super) enum Got {
    Data(Bytes),
    Trailers(HeaderMap),
    End,
}

/// Reads one answer after the other.
#[derive(Debug)]
pub(super) struct Reading {
    answers: Answers,
    /// What came with the head.
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
    /// Some byte of the answer has come.
    came: bool,
    /// The answer has come as a whole.
    whole: bool,
    /// Nothing has come that is nobody's, and the connection may live on.
    clean: bool,
    /// Much of the body is there at a time.
    bulk: bool,
}

impl Reading {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            answers: Answers::new(bounds),
            data: None,
            trailers: None,
            came: false,
            whole: false,
            clean: true,
            bulk: false,
        }
    }

    pub(super) fn expect(&mut self, asked: Asked) {
        self.answers.expect(asked);
        (self.data, self.trailers) = (None, None);
        (self.came, self.whole, self.bulk) = (false, false, false);
        self.clean = true;
    }

    /// Whether the answer is complete and was taken.
    pub(super) fn is_over(&self) -> bool {
        self.whole && self.data.is_none() && self.trailers.is_none()
    }

    /// Whether the answer is complete, and another exchange may follow.
    pub(super) fn is_clean(&self) -> bool {
        self.whole && self.clean && self.answers.lasts()
    }

    pub(super) fn left(&self) -> Option<u64> {
        let there = self.data.as_ref().map_or(0, Bytes::len) as u64;
        if self.whole && self.data.is_none() {
            return Some(0);
        }
        // Of an answer in chunks it says nothing, also when all of it is there: trailers may follow.
        self.answers.left().filter(|_| self.answers.sized()).map(|left| left + there)
    }

    /// What came after a head that ends HTTP on this connection.
    pub(super) fn take_rest(&mut self) -> Bytes {
        self.data.take().unwrap_or_default()
    }

    /// Reads up to the end of the head, and takes what came with it.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
        mut tell: impl FnMut(StatusCode, &HeaderMap),
    ) -> Poll<Result<Head, ExchangeError>> {
        BUFFER.with_borrow_mut(|buffer| {
            loop {
                let mut buf = ReadBuf::new(buffer);
                if let Err(error) = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf)) {
                    return Poll::Ready(Err(ExchangeError::Io { error, came: self.came }));
                }
                let bytes = buf.filled();
                if bytes.is_empty() {
                    return Poll::Ready(Err(ExchangeError::Closed { came: self.came }));
                }
                self.came = true;
                let (used, head) = self.answers.head(bytes, &mut tell).map_err(ExchangeError::Refused)?;
                let Some(head) = head else { continue };
                let rest = bytes.get(used..).unwrap_or_default();
                // What is wrong in what came with the head is as good as wrong in the head: nobody has seen it yet.
                self.data = self.piece(rest).map_err(ExchangeError::Refused)?;
                self.bulk = self.answers.left().is_some_and(|left| left >= LARGE as u64 / 2);
                return Poll::Ready(Ok(head));
            }
        })
    }

    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
    ) -> Poll<Result<Got, ExchangeError>> {
        loop {
            if let Some(data) = self.data.take() {
                return Poll::Ready(Ok(Got::Data(data)));
            }
            if let Some(trailers) = self.trailers.take() {
                return Poll::Ready(Ok(Got::Trailers(trailers)));
            }
            if self.whole {
                return Poll::Ready(Ok(Got::End));
            }
            let read = if self.bulk { self.poll_large(cx, stream) } else { self.poll_small(cx, stream) };
            match ready!(read) {
                Ok(0) if self.answers.ends_with_connection() => {
                    self.whole = true;
                    self.clean = false;
                }
                Ok(0) => return Poll::Ready(Err(ExchangeError::Closed { came: true })),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Reads what there is into the worker's buffer, and keeps what is of the body.
    fn poll_small(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
    ) -> Poll<Result<usize, ExchangeError>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut buf = ReadBuf::new(buffer);
            ready!(Pin::new(stream).poll_read(cx, &mut buf)).map_err(broken)?;
            let bytes = buf.filled();
            self.bulk = buf.remaining() == 0;
            self.data = self.piece(bytes).map_err(ExchangeError::Refused)?;
            Poll::Ready(Ok(bytes.len()))
        })
    }

    /// Reads into a buffer that becomes the piece itself.
    fn poll_large(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
    ) -> Poll<Result<usize, ExchangeError>> {
        // No buffer for one who waits.
        ready!(stream.poll_read_ready(cx)).map_err(broken)?;
        let left = self.answers.left().and_then(|left| usize::try_from(left).ok());
        let mut buf = BytesMut::with_capacity(left.map_or(LARGE, |left| left.clamp(1, LARGE)));
        let n = ready!(pin!(stream.read_buf(&mut buf)).poll(cx)).map_err(broken)?;
        self.bulk = n >= SCRATCH;
        if n < SCRATCH {
            self.data = self.piece(&buf).map_err(ExchangeError::Refused)?;
            return Poll::Ready(Ok(n));
        }
        let bytes = buf.freeze();
        let (mut first, mut more) = (None, Vec::new());
        let used = self.answers.body(&bytes, |piece| match first {
            None => first = Some(bytes.slice_ref(piece)),
            Some(_) => more.push(piece),
        });
        self.settle(used.map_err(ExchangeError::Refused)?, bytes.len()).map_err(ExchangeError::Refused)?;
        self.data = match first {
            Some(first) if !more.is_empty() => {
                let mut joined = Vec::with_capacity(n);
                joined.extend_from_slice(&first);
                for piece in more {
                    joined.extend_from_slice(piece);
                }
                Some(joined.into())
            }
            first => first,
        };
        Poll::Ready(Ok(n))
    }

    /// What of these bytes is of the body, in a buffer of its size.
    fn piece(&mut self, bytes: &[u8]) -> Result<Option<Bytes>, Refusal> {
        let (mut first, mut joined): (&[u8], Vec<u8>) = (&[], Vec::new());
        let used = self.answers.body(bytes, |piece| {
            if first.is_empty() {
                first = piece;
                return;
            }
            if joined.is_empty() {
                joined.reserve_exact(bytes.len());
                joined.extend_from_slice(first);
            }
            joined.extend_from_slice(piece);
        })?;
        self.settle(used, bytes.len())?;
        if first.is_empty() {
            return Ok(None);
        }
        Ok(Some(if joined.is_empty() { Bytes::copy_from_slice(first) } else { joined.into() }))
    }

    /// Notes whether the answer has ended, and whether more came than that.
    fn settle(&mut self, used: usize, came: usize) -> Result<(), Refusal> {
        if !self.answers.over() {
            return Ok(());
        }
        self.whole = true;
        self.trailers = self.answers.trailers()?;
        if used < came {
            // Whose answer is that? The one before it is none the worse, but nothing follows it.
            tracing::debug!(fault = %Fault::Unasked, "an endpoint says more than it was asked for");
            self.clean = false;
        }
        Ok(())
    }
}

fn broken(error: io::Error) -> ExchangeError {
    ExchangeError::Io { error, came: true }
}
