//! An HTTP/1 connection to an endpoint, as hyper sees it: only answers that are none but answers.

use std::{
    fmt, io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, Take};

use crate::{
    http::wire::{Asked, Framer, Strict},
    net::Stream,
};

/// With more connections than this from one worker to one endpoint, short answers have to do with small buffers: hyper
/// doubles a connection's buffers, of 8 KiB each, when a read fills one, and never gives back what they have grown by.
const MANY: u32 = 128;
/// How many bytes are read at once then: with a head before them they fit into 8 KiB, towards the client too.
const SMALL_READ: u64 = 7 * 1024;
/// After so many bytes an answer is not short any more. A short one takes a few reads more at most.
const SHORT_ANSWER: usize = 32 * 1024;

/// Whoever hears of interim answers (1xx).
pub(crate) trait Listen: fmt::Debug + Send + Sync {
    /// An interim answer came.
    fn hear(&self, status: StatusCode, headers: &HeaderMap);
}

/// What the next answer on a connection is for. The length of an answer depends on it, and what comes when nothing was
/// asked is no answer.
///
/// One thread uses it; atomics and locks are there because hyper's upgradable connections must be `Send`.
#[derive(Debug, Default, Clone)]
pub(super) struct Question(Arc<Asking>);

#[derive(Debug, Default)]
struct Asking {
    method: AtomicU8,
    /// The head that is written next is to be kept.
    keep: AtomicBool,
    /// There are [`MANY`] connections.
    sparing: AtomicBool,
    written: Mutex<Vec<u8>>,
    listener: Mutex<Option<Arc<dyn Listen>>>,
}

impl Question {
    /// A request of this method is about to be sent. `keep` has its head kept as it is written, `listener` hears of
    /// interim answers.
    ///
    /// hyper would do both: for a copy of the header map, and for a callback in the request's extensions, which are
    /// a thousand instructions each, for what one request in a million needs.
    pub(super) fn ask(&self, method: &Method, keep: bool, listener: Option<Arc<dyn Listen>>) {
        let asked = match *method {
            Method::HEAD => 2,
            Method::CONNECT => 3,
            _ => 1,
        };
        self.0.method.store(asked, Ordering::Relaxed);
        *lock(&self.0.listener) = listener;
        if keep {
            lock(&self.0.written).clear();
        }
        self.0.keep.store(keep, Ordering::Relaxed);
    }

    /// How many connections there are of this one's kind, as far as is known when a request is sent.
    pub(super) fn is_one_of(&self, connections: u32) {
        self.0.sparing.store(connections > MANY, Ordering::Relaxed);
    }

    /// Nobody waits for the answer any more.
    pub(super) fn forget(&self) {
        let listener = lock(&self.0.listener).take();
        drop(listener);
    }

    /// The fields of the last request whose head was to be kept, as they were written. `None` when the connection ended
    /// before that.
    pub(super) fn written(&self) -> Option<HeaderMap> {
        let written = lock(&self.0.written);
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        let whole = request.parse(&written).is_ok_and(|parsed| parsed.is_complete());
        whole.then(|| as_map(request.headers))?
    }

    /// What was asked since this was called last.
    fn take(&self) -> Option<Asked> {
        let asked = match self.0.method.load(Ordering::Relaxed) {
            0 => return None,
            2 => Asked::Head,
            3 => Asked::Connect,
            _ => Asked::Other,
        };
        self.0.method.store(0, Ordering::Relaxed);
        Some(asked)
    }

    /// These bytes are about to be written. hyper writes a head in one piece, and the beginning of a body with it.
    fn note_writing(&self, bytes: &[u8]) {
        if !self.0.keep.load(Ordering::Relaxed) {
            return;
        }
        self.0.keep.store(false, Ordering::Relaxed);
        // Of a long one only the head: a body may be very long. To find where it ends costs more than to copy a short one.
        let head =
            if bytes.len() <= SHORT { None } else { memmem::find(bytes, b"\r\n\r\n").map(|end| end + 4) };
        lock(&self.0.written).extend_from_slice(bytes.get(..head.unwrap_or(bytes.len())).unwrap_or_default());
    }

    /// The head of an interim answer came.
    fn note_hint(&self, head: &[u8]) {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut answer = httparse::Response::new(&mut fields);
        let listener = lock(&self.0.listener).clone();
        if let (Some(listener), Ok(_)) = (listener, answer.parse(head))
            && let Some(status) = answer.code.and_then(|code| StatusCode::from_u16(code).ok())
            && let Some(headers) = as_map(answer.headers)
        {
            listener.hear(status, &headers);
        }
    }
}

/// How many bytes are kept as they are, whether all of them belong to the head or not.
const SHORT: usize = 2048;

/// Most fields of a head that is read here. What Weir itself wrote may have some more than it received.
const MAX_FIELDS: usize = 256;

fn as_map(fields: &[httparse::Header<'_>]) -> Option<HeaderMap> {
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        map.append(
            HeaderName::from_bytes(field.name.as_bytes()).ok()?,
            HeaderValue::from_bytes(field.value).ok()?,
        );
    }
    Some(map)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps from hyper whatever of an endpoint's answers is ambiguous or was not asked for.
///
/// What is refused in a head fails the request as a parse error does. In a body it breaks the answer off. Between
/// answers it ends the connection, which nobody waits for.
#[derive(Debug)]
pub(super) struct Answers {
    stream: Take<Stream>,
    strict: Strict,
    question: Question,
    /// How many bytes of the answer have come.
    came: usize,
}

impl Answers {
    /// A line of an answer may have at most `max_line` bytes; hyper's own bound of a head is to be met first.
    pub(super) fn new(stream: Stream, question: Question, max_line: usize) -> Self {
        Self { stream: stream.take(0), strict: Strict::new(Framer::answers(max_line)), question, came: 0 }
    }

    /// Reads as much as there is room for, or not much where buffers are to stay small.
    fn poll_some(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.came < SHORT_ANSWER && self.question.0.sparing.load(Ordering::Relaxed) {
            self.stream.set_limit(SMALL_READ);
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        self.poll_stream(|stream| stream.poll_read(cx, buf))
    }

    fn poll_stream<R>(&mut self, poll: impl FnOnce(Pin<&mut Stream>) -> R) -> R {
        poll(Pin::new(self.stream.get_mut()))
    }
}

impl AsyncRead for Answers {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(instead) = this.strict.instead(buf) {
            return Poll::Ready(instead);
        }
        let before = buf.filled().len();
        ready!(this.poll_some(cx, buf))?;
        if let Some(asked) = this.question.take() {
            this.strict.expect(asked);
            this.came = 0;
        }
        this.came = this.came.saturating_add(buf.filled().len().saturating_sub(before));
        let seen = this.strict.look(buf, before);
        if let Some(fault) = this.strict.refused() {
            tracing::debug!(%fault, "an endpoint's answer is refused");
        }
        for hint in this.strict.take_hints() {
            this.question.note_hint(&hint);
        }
        // Answers hold nothing back.
        Poll::Ready(seen.map(drop))
    }
}

impl AsyncWrite for Answers {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        // Whether it can be written or not: a connection may die of it.
        this.question.note_writing(buf);
        this.poll_stream(|stream| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_stream(|stream| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.get_ref().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_stream(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_stream(|stream| stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// The sizes of the reads, with `connections`, by which an answer of `SHORT_ANSWER` and 64 KiB more comes.
    async fn reads(connections: u32) -> Vec<usize> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut endpoint, _) = listener.accept().await.unwrap();
        let question = Question::default();
        let mut answers = Answers::new(Stream::Plain(socket), question.clone(), 4096);
        let size = SHORT_ANSWER + 64 * 1024;
        let mut sizes = Vec::new();
        // The second answer is like the first one: nothing is left of what was counted.
        for _ in 0..2 {
            question.ask(&Method::GET, false, None);
            question.is_one_of(connections);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\n\r\n");
            let answer = [head.as_bytes(), &vec![b'.'; size]].concat();
            let read = async {
                let mut left = answer.len();
                let mut buf = vec![0; 16 * 1024];
                while left > 0 {
                    let n = answers.read(&mut buf).await.unwrap();
                    assert!(n > 0, "the answer ended early");
                    left -= n;
                    sizes.push(n);
                }
            };
            let (written, ()) = tokio::join!(endpoint.write_all(&answer), read);
            written.unwrap();
        }
        sizes
    }

    #[tokio::test]
    async fn where_there_are_many_connections_short_answers_are_read_in_small_pieces() {
        let small = usize::try_from(SMALL_READ).unwrap();
        let few = reads(MANY).await;
        assert!(few.iter().take(2).any(|&n| n > small), "{few:?}");
        let many = reads(MANY + 1).await;
        let short = many.iter().take(SHORT_ANSWER / small);
        assert!(short.clone().all(|&n| n <= small), "{many:?}");
        assert!(many.iter().any(|&n| n > small), "a long answer is read in large pieces: {many:?}");
    }
}
