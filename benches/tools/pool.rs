//! The bare proxy's connections to its origin.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::{
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use crate::serve::Local;

/// Idle HTTP/1.1 connections to one address, the one used last on top; or the one HTTP/2 connection.
#[derive(Debug)]
pub(crate) struct Pool {
    origin: SocketAddr,
    idle: RefCell<Vec<http1::SendRequest<Incoming>>>,
    /// The fewest that were idle at once since the last sweep: so many were not needed.
    spare: Cell<usize>,
    http2: RefCell<Option<http2::SendRequest<Incoming>>>,
}

impl Pool {
    /// A pool that closes what it did not need for `idle_timeout`. The sweep spares the requests a clock.
    pub(crate) fn new(origin: SocketAddr, idle_timeout: Duration) -> Rc<Self> {
        let pool = Rc::new(Self {
            origin,
            idle: RefCell::default(),
            spare: Cell::new(0),
            http2: RefCell::new(None),
        });
        let swept = Rc::downgrade(&pool);
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(idle_timeout).await;
                let Some(pool) = swept.upgrade() else { return };
                pool.sweep();
            }
        });
        pool
    }

    /// A connection for one HTTP/1.1 exchange.
    pub(crate) async fn http1(&self) -> Option<http1::SendRequest<Incoming>> {
        while let Some(mut sender) = self.pop() {
            // The connection's task may not have seen yet that its last exchange is over.
            if sender.is_ready() || sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
        let stream = connect(self.origin).await?;
        let (sender, connection) =
            http1::Builder::new().writev(false).handshake(TokioIo::new(stream)).await.ok()?;
        tokio::task::spawn_local(connection);
        Some(sender)
    }

    /// The connection that carries all HTTP/2 exchanges.
    pub(crate) async fn http2(&self) -> Option<http2::SendRequest<Incoming>> {
        if let Some(sender) = self.http2.borrow().as_ref().filter(|sender| !sender.is_closed()) {
            return Some(sender.clone());
        }
        let stream = connect(self.origin).await?;
        let (sender, connection) =
            http2::Builder::new(Local).timer(TokioTimer::new()).handshake(TokioIo::new(stream)).await.ok()?;
        tokio::task::spawn_local(connection);
        Some(self.http2.borrow_mut().insert(sender).clone())
    }

    fn pop(&self) -> Option<http1::SendRequest<Incoming>> {
        let mut idle = self.idle.borrow_mut();
        let sender = idle.pop();
        self.spare.set(self.spare.get().min(idle.len()));
        sender
    }

    fn sweep(&self) {
        let mut idle = self.idle.borrow_mut();
        let spare = self.spare.get().min(idle.len());
        idle.drain(..spare);
        idle.shrink_to_fit();
        self.spare.set(idle.len());
    }
}

async fn connect(origin: SocketAddr) -> Option<TcpStream> {
    let stream = TcpStream::connect(origin).await.ok()?;
    let _ = stream.set_nodelay(true);
    Some(stream)
}

/// The body of an answer; gives its connection back when it has ended.
#[derive(Debug)]
pub(crate) struct Answer {
    body: Incoming,
    /// None over HTTP/2.
    lease: Option<(Rc<Pool>, http1::SendRequest<Incoming>)>,
}

impl Answer {
    pub(crate) fn new(body: Incoming, lease: Option<(Rc<Pool>, http1::SendRequest<Incoming>)>) -> Self {
        Self { body, lease }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some((pool, sender)) = self.lease.take()
            && self.body.is_end_stream()
        {
            pool.idle.borrow_mut().push(sender);
        }
    }
}
