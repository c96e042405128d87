//! Sockets and streams, TCP or unix, in clear or under TLS, on either side.

mod bind;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use rustix::net::{RecvFlags, recv};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsStream;

pub(crate) use bind::{Acceptor, Bound};

/// What stands for the address of a client that came by a unix socket. It is on this machine and had the right to open
/// the file, so it counts as a client from loopback; port 0, which no TCP client has, tells it apart.
pub(crate) const UNIX_PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A connection, TCP or unix.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
}

/// A connection on its way from one runtime to another.
#[derive(Debug)]
pub(crate) enum Loose {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Socket {
    /// What hyper hands over goes out at once; a unix socket holds nothing back.
    pub(crate) fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.set_nodelay(true),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Waits for bytes and shows them without taking them; 0 at the end.
    pub(crate) async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let peeked = match self {
                Self::Tcp(tcp) => {
                    tcp.readable().await?;
                    tcp.try_io(Interest::READABLE, || peek_at(tcp, buffer))
                }
                Self::Unix(unix) => {
                    unix.readable().await?;
                    unix.try_io(Interest::READABLE, || peek_at(unix, buffer))
                }
            };
            match peeked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }

    pub(crate) fn loosen(self) -> io::Result<Loose> {
        match self {
            Self::Tcp(tcp) => tcp.into_std().map(Loose::Tcp),
            Self::Unix(unix) => unix.into_std().map(Loose::Unix),
        }
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Self::Tcp(tcp) => tcp.take_error(),
            Self::Unix(unix) => unix.take_error(),
        }
    }
}

fn peek_at(socket: &impl std::os::fd::AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(recv(socket.as_fd(), buffer, RecvFlags::PEEK)?.0)
}

impl Loose {
    /// Registers it with the runtime of the calling thread.
    pub(crate) fn fasten(self) -> io::Result<Socket> {
        match self {
            Self::Tcp(tcp) => TcpStream::from_std(tcp).map(Socket::Tcp),
            Self::Unix(unix) => UnixStream::from_std(unix).map(Socket::Unix),
        }
    }
}

/// A connection, in clear or under TLS.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<Socket>>),
}

impl Stream {
    /// The error that waits at the connection underneath: a reset, say.
    pub(crate) fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Self::Plain(tcp) => tcp.take_error(),
            Self::Unix(unix) => unix.take_error(),
            Self::Tls(tls) => tls.get_ref().0.take_error(),
        }
    }
}

impl Stream {
    /// Whether nothing has come, not even the end, as far as the runtime knows: no system call is made while that is so.
    /// What comes under TLS beside data (tickets) is taken.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let tried = match self {
            Self::Plain(tcp) => tcp.try_read(&mut byte),
            Self::Unix(unix) => unix.try_read(&mut byte),
            Self::Tls(tls) => {
                let mut cx = Context::from_waker(Waker::noop());
                return Pin::new(tls).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending();
            }
        };
        tried.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Ready when there may be something to read. Under TLS it always is.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => tcp.poll_read_ready(cx),
            Self::Unix(unix) => unix.poll_read_ready(cx),
            Self::Tls(_) => Poll::Ready(Ok(())),
        }
    }
}

impl From<Socket> for Stream {
    fn from(socket: Socket) -> Self {
        match socket {
            Socket::Tcp(tcp) => Self::Plain(tcp),
            Socket::Unix(unix) => Self::Unix(unix),
        }
    }
}

/// Hands reading and writing on to whichever it is.
macro_rules! by_variant {
    ($name:ty { $($variant:ident),* } vectored $vectored:pat) => {
        impl AsyncRead for $name {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() { $(Self::$variant(io) => Pin::new(io).poll_read(cx, buf),)* }
            }
        }

        impl AsyncWrite for $name {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
                match self.get_mut() { $(Self::$variant(io) => Pin::new(io).poll_write(cx, buf),)* }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() { $(Self::$variant(io) => Pin::new(io).poll_write_vectored(cx, bufs),)* }
            }

            fn is_write_vectored(&self) -> bool {
                matches!(self, $vectored)
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $(Self::$variant(io) => Pin::new(io).poll_flush(cx),)* }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $(Self::$variant(io) => Pin::new(io).poll_shutdown(cx),)* }
            }
        }
    };
}

by_variant!(Socket { Tcp, Unix } vectored Self::Tcp(_) | Self::Unix(_));
by_variant!(Stream { Plain, Unix, Tls } vectored Self::Plain(_) | Self::Unix(_));
