//! An HTTP/1 connection to an endpoint, as hyper sees it: only answers that are none but answers.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
};

use http::Method;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    http::wire::{Asked, Framer, Strict},
    net::Stream,
};

/// Most bytes of one line of an answer. hyper has a bound for a whole head (about 400 KiB), which is met first.
const MAX_LINE: usize = 1024 * 1024;

/// What the next answer on a connection is for. The length of an answer depends on it, and what comes when nothing was
/// asked is no answer.
///
/// One thread uses it; it is atomic because hyper's upgradable connections must be `Send`.
#[derive(Debug, Default, Clone)]
pub(super) struct Question(Arc<AtomicU8>);

impl Question {
    /// A request of this method is about to be sent. Costs one store.
    pub(super) fn ask(&self, method: &Method) {
        let asked = match *method {
            Method::HEAD => 2,
            Method::CONNECT => 3,
            _ => 1,
        };
        self.0.store(asked, Ordering::Relaxed);
    }

    /// What was asked since this was called last.
    fn take(&self) -> Option<Asked> {
        let asked = match self.0.load(Ordering::Relaxed) {
            0 => return None,
            2 => Asked::Head,
            3 => Asked::Connect,
            _ => Asked::Other,
        };
        self.0.store(0, Ordering::Relaxed);
        Some(asked)
    }
}

/// Keeps from hyper whatever of an endpoint's answers is ambiguous or was not asked for.
///
/// What is refused in a head fails the request as a parse error does. In a body it breaks the answer off. Between
/// answers it ends the connection, which nobody waits for.
#[derive(Debug)]
pub(super) struct Answers {
    stream: Stream,
    strict: Strict,
    question: Question,
}

impl Answers {
    pub(super) fn new(stream: Stream, question: Question) -> Self {
        Self { stream, strict: Strict::new(Framer::answers(MAX_LINE)), question }
    }
}

impl AsyncRead for Answers {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(instead) = this.strict.instead(buf) {
            return Poll::Ready(instead);
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        if let Some(asked) = this.question.take() {
            this.strict.expect(asked);
        }
        let seen = this.strict.look(buf, before);
        if let Some(fault) = this.strict.refused() {
            tracing::debug!(%fault, "an endpoint's answer is refused");
        }
        // Answers hold nothing back.
        Poll::Ready(seen.map(drop))
    }
}

impl AsyncWrite for Answers {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
