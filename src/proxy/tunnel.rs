//! After `101 Switching Protocols`, or a `CONNECT` that was accepted: bytes both ways, until one side ends or nothing moves.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};

use super::exchange::Exchange;
use crate::{
    http::{body::Flow, upgrade::UpgradeProtocol},
    net::Stream,
    telemetry::Ended,
    upstream::Lease,
};

/// Two connections that are about to become one.
#[derive(Debug)]
pub(super) struct Tunnel {
    /// What both sides speak then.
    pub(super) protocol: UpgradeProtocol,
    pub(super) client: OnUpgrade,
    pub(super) endpoint: Far,
}

/// The endpoint's side of a tunnel.
#[derive(Debug)]
pub(super) enum Far {
    /// A stream of HTTP/2.
    Stream(OnUpgrade),
    /// A connection, and what was read of it already.
    Connection((Stream, Bytes)),
}

impl Tunnel {
    /// Carries bytes both ways once both sides have switched.
    pub(super) fn carry(self, exchange: Box<Exchange>, lease: Option<Lease>) {
        match self.endpoint {
            Far::Stream(stream) => {
                let endpoint = async { stream.await.map(TokioIo::new).map_err(io::Error::other) };
                carry(self.client, endpoint, exchange, lease);
            }
            Far::Connection((stream, ahead)) => {
                let endpoint = std::future::ready(Ok(Ahead { stream, ahead }));
                carry(self.client, endpoint, exchange, lease);
            }
        }
    }
}

/// Carries bytes both ways. Each side's end of sending is passed on, so that half-closed tunnels work. `held` is let go
/// when the tunnel ends.
pub(super) fn carry<E>(
    client: OnUpgrade,
    endpoint: impl Future<Output = io::Result<E>> + 'static,
    mut exchange: Box<Exchange>,
    held: impl Sized + 'static,
) where
    E: AsyncRead + AsyncWrite + Unpin + 'static,
{
    // Over HTTP/2 one stream is a tunnel, not the connection.
    let whole = !exchange.connection().is_multiplexed();
    if whole {
        exchange.connection().becomes_tunnel();
    }
    tokio::task::spawn_local(async move {
        let connection = exchange.connection().clone();
        let (flow, limits) = (exchange.flow().clone(), exchange.limits);
        let client_gone = Rc::new(Cell::new(false));
        let joined = async {
            let client = async { client.await.map(TokioIo::new).map_err(io::Error::other) };
            let (client, endpoint) = tokio::try_join!(client, endpoint)?;
            let mut client = Metered::new(client, flow.clone(), Flow::uploaded, client_gone.clone());
            let mut endpoint =
                Metered::new(endpoint, flow.clone(), |flow, bytes| flow.answered(bytes, true), Rc::default());
            copy_bidirectional(&mut client, &mut endpoint).await
        };
        let ended = tokio::select! {
            copied = joined => match copied {
                Ok(_) => Ended::Complete,
                Err(_) if client_gone.get() => Ended::ClientGone,
                Err(_) => Ended::UpstreamReset,
            },
            () = limits.tunnel_silent(&flow) => Ended::Timeout,
            () = connection.closed(), if whole => Ended::Timeout,
        };
        exchange.ends(ended);
        drop(held);
    });
}

/// A connection of which some was read already.
struct Ahead {
    stream: Stream,
    ahead: Bytes,
}

impl AsyncRead for Ahead {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        buf.put_slice(&this.ahead.split_to(this.ahead.len().min(buf.remaining())));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Ahead {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// One side of a tunnel, whose bytes are counted as they are read.
struct Metered<S> {
    io: S,
    flow: Rc<Flow>,
    count: fn(&Flow, usize),
    /// Set when this side breaks.
    gone: Rc<Cell<bool>>,
}

impl<S> Metered<S> {
    fn new(io: S, flow: Rc<Flow>, count: fn(&Flow, usize), gone: Rc<Cell<bool>>) -> Self {
        Self { io, flow, count, gone }
    }

    fn noting<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(_)) = &polled {
            self.gone.set(true);
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        ready!(this.noting(polled))?;
        (this.count)(&this.flow, buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write(cx, buf);
        this.noting(polled)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
