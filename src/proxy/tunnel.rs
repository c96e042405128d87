//! After `101 Switching Protocols`: bytes both ways, until one side ends or nothing moves.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};

use super::{exchange::Exchange, limits::TimeLimits};
use crate::{
    http::{body::Flow, upgrade::UpgradeProtocol},
    telemetry::Ended,
    upstream::Lease,
};

/// Two connections that are about to become one.
#[derive(Debug)]
pub(super) struct Tunnel {
    /// What both sides speak then.
    pub(super) protocol: UpgradeProtocol,
    pub(super) client: OnUpgrade,
    pub(super) endpoint: OnUpgrade,
}

/// Carries bytes both ways. Each side's end of sending is passed on, so that half-closed tunnels work.
pub(super) fn carry(tunnel: Tunnel, mut exchange: Exchange, lease: Lease, limits: TimeLimits) {
    exchange.connection().becomes_tunnel();
    tokio::task::spawn_local(async move {
        let connection = exchange.connection().clone();
        let flow = exchange.flow().clone();
        let joined = async {
            let (client, endpoint) =
                tokio::try_join!(tunnel.client, tunnel.endpoint).map_err(io::Error::other)?;
            let mut client = Metered::new(client, flow.clone(), Flow::uploaded);
            let mut endpoint = Metered::new(endpoint, flow.clone(), Flow::answered);
            copy_bidirectional(&mut client, &mut endpoint).await
        };
        let ended = tokio::select! {
            copied = joined => match copied {
                Ok(_) => Ended::Complete,
                Err(_) => Ended::UpstreamReset,
            },
            () = limits.tunnel_silent(&flow) => Ended::Timeout,
            () = connection.closed() => Ended::Timeout,
        };
        exchange.ends(ended);
        drop(lease);
    });
}

/// One side of a tunnel, whose bytes are counted as they are read.
struct Metered {
    io: TokioIo<Upgraded>,
    flow: Rc<Flow>,
    count: fn(&Flow, usize),
}

impl Metered {
    fn new(io: Upgraded, flow: Rc<Flow>, count: fn(&Flow, usize)) -> Self {
        Self { io: TokioIo::new(io), flow, count }
    }
}

impl AsyncRead for Metered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        (this.count)(&this.flow, buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
