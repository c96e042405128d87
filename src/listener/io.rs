//! The downstream socket, as hyper sees it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    refusal::Refusals,
    state::{ConnState, Phase},
};
use crate::{
    http::wire::{Fault, Framer, Strict},
    net::Stream,
};

/// How many bytes are read ahead of hyper, to see whether the client is still there.
const AHEAD: usize = 512;

/// A downstream connection that replays the bytes read for detection, keeps the connection's stamps, sends
/// interim responses between messages, keeps what is ambiguous from hyper, and turns hyper's bare parse errors into
/// answers that explain themselves.
#[derive(Debug)]
pub(crate) struct ServerIo {
    stream: Stream,
    replay: Bytes,
    out: Bytes,
    refusals: Option<Refusals>,
    /// Reads along (HTTP/1 only, up to a tunnel).
    strict: Option<Strict>,
    state: Arc<ConnState>,
}

impl ServerIo {
    pub(crate) fn new(stream: Stream, replay: Bytes, state: Arc<ConnState>) -> Self {
        if !replay.is_empty() {
            state.did_read();
        }
        Self { stream, replay, out: Bytes::new(), refusals: None, strict: None, state }
    }

    /// Explains refusals that hyper makes by itself (HTTP/1 only).
    pub(crate) fn explaining(mut self, refusals: Refusals) -> Self {
        self.refusals = Some(refusals);
        self
    }

    /// Refuses what is ambiguous (HTTP/1 only). A line may have at most `max_line` bytes; hyper's own bound of a head
    /// is to be met first, for its answer says which it was.
    pub(crate) fn strict(mut self, max_line: usize) -> Self {
        self.strict = Some(Strict::new(Framer::requests(max_line)));
        self
    }

    /// Why a message was refused before hyper saw it.
    pub(crate) fn refused(&self) -> Option<Fault> {
        self.strict.as_ref().and_then(Strict::refused)
    }

    /// From now on everything is read as it comes: nobody takes it for a request any more.
    pub(crate) fn stop_looking(&mut self) {
        self.strict = None;
    }

    /// Puts interim responses in line, where they do not fall into the middle of a message.
    #[inline]
    fn take_interim(&mut self) {
        if self.state.interim_waits() && self.state.between() {
            self.add_interim();
        }
    }

    #[cold]
    fn add_interim(&mut self) {
        if let Some(interim) = self.state.take_interim() {
            let mut out = Vec::from(std::mem::take(&mut self.out));
            out.extend_from_slice(&interim);
            self.out = Bytes::from(out);
        }
    }

    /// Notices that the peer has ended or broken the connection while hyper does not read: nothing is lost, what comes
    /// is kept for hyper. A small buffer is enough, for a client that says more than that is there.
    fn look(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.state.half_closed() {
            // Reading says nothing new any more; a reset does.
            return self.stream.take_error()?.map_or(Ok(()), Err);
        }
        if !self.replay.is_empty() {
            return Ok(());
        }
        let mut ahead = [0; AHEAD];
        let mut ahead = ReadBuf::new(&mut ahead);
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut ahead);
        if read.is_ready() {
            // hyper may have found nothing to read a moment ago, and waits for news that were taken from it here.
            cx.waker().wake_by_ref();
        }
        match read {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(())) if ahead.filled().is_empty() => {
                self.state.saw_end();
                Ok(())
            }
            Poll::Ready(Ok(())) => {
                self.replay = Bytes::copy_from_slice(ahead.filled());
                Ok(())
            }
            // TLS that ends without saying so.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.state.saw_end();
                Ok(())
            }
            Poll::Ready(Err(error)) => Err(error),
        }
    }

    /// What was read ahead, else what comes now.
    fn poll_received(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.replay.is_empty() {
            let n = self.replay.len().min(buf.remaining());
            buf.put_slice(&self.replay.split_to(n));
            self.state.did_read();
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.state.did_read();
        } else if buf.remaining() > 0 {
            self.state.saw_end();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_stream_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        match written {
            Poll::Ready(_) => self.state.did_write(),
            Poll::Pending => self.state.could_not_write(),
        }
        written
    }

    /// Writes what waits in `out`; ready when nothing does.
    #[inline]
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.is_empty() { Poll::Ready(Ok(())) } else { self.poll_all_out(cx) }
    }

    #[cold]
    fn poll_all_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let out = self.out.clone();
            let n = ready!(self.poll_stream_write(cx, &out))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(n);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for ServerIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.state.phase() == Phase::Tunnel {
            this.strict = None;
        }
        if let Some(strict) = &mut this.strict
            && let Some(instead) = strict.instead(buf)
        {
            return Poll::Ready(instead);
        }
        let before = buf.filled().len();
        ready!(this.poll_received(cx, buf))?;
        let Some(strict) = &mut this.strict else { return Poll::Ready(Ok(())) };
        if let Some(mut held) = strict.look(buf, before)? {
            if !this.replay.is_empty() {
                held = [held, std::mem::take(&mut this.replay)].concat().into();
            }
            this.replay = held;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ServerIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.take_interim();
        ready!(this.poll_out(cx))?;
        this.state.set_between(false);
        if matches!(this.state.phase(), Phase::Idle | Phase::Head | Phase::Rest)
            && let Some(refusals) = &this.refusals
            && let Some(answer) = refusals.explain(buf)
        {
            this.out = answer;
            ready!(this.poll_out(cx))?;
            return Poll::Ready(Ok(buf.len()));
        }
        this.poll_stream_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.take_interim();
        ready!(this.poll_out(cx))?;
        this.state.set_between(false);
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        match written {
            Poll::Ready(_) => this.state.did_write(),
            Poll::Pending => this.state.could_not_write(),
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper flushes only when it has written everything.
        this.state.set_between(true);
        if this.state.watching() {
            this.look(cx)?;
        }
        this.take_interim();
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::{Wake, Waker},
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    async fn pair() -> (TcpStream, ServerIo, Arc<ConnState>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let state = Arc::new(ConnState::new());
        (client, ServerIo::new(Stream::Plain(server), Bytes::new(), state.clone()), state)
    }

    #[tokio::test]
    async fn what_is_read_ahead_is_announced_and_loses_nothing() {
        let (mut client, mut io, state) = pair().await;
        state.enter(Phase::Busy);
        state.watch();
        client.write_all(b"more").await.unwrap();
        client.shutdown().await.unwrap();
        let Stream::Plain(tcp) = &io.stream else { unreachable!() };
        tcp.readable().await.unwrap();
        let woken = Arc::new(Woken(AtomicUsize::new(0)));
        let waker = Waker::from(woken.clone());
        let flushed = Pin::new(&mut io).poll_flush(&mut Context::from_waker(&waker));
        assert!(matches!(flushed, Poll::Ready(Ok(()))));
        assert_eq!(woken.0.load(Ordering::SeqCst), 1, "whoever waits to read has to look again");
        let mut all = Vec::new();
        io.read_to_end(&mut all).await.unwrap();
        assert_eq!((all.as_slice(), state.half_closed()), (&b"more"[..], true));
    }

    #[tokio::test]
    async fn the_end_of_a_silent_client_is_seen_and_its_reset_is_an_error() {
        let (mut client, mut io, state) = pair().await;
        state.enter(Phase::Busy);
        state.watch();
        client.shutdown().await.unwrap();
        let Stream::Plain(tcp) = &io.stream else { unreachable!() };
        tcp.readable().await.unwrap();
        io.flush().await.unwrap();
        assert!(state.half_closed());
        io.flush().await.unwrap();
        socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(client);
        // The reset is on the wire already: loopback delivers it before `close` returns.
        assert!(io.flush().await.is_err());
    }
}
