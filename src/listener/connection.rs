//! One downstream connection, from its first byte to its last.

use std::{
    cell::{Cell, OnceCell, RefCell},
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use ::http::uri::Scheme;
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};
use tokio_rustls::TlsAcceptor;

use super::{
    Listener, Place,
    detect::{Detected, detect},
    io::ServerIo,
    state::{ConnState, Phase},
};
use crate::{
    config::bootstrap::ListenerProtocol,
    drain,
    error::Reason,
    http::forwarded::Peer,
    net::Stream,
    proxy,
    worker::{LocalExecutor, Seat, Worker},
};

/// How long a client has to take the answer that ends its connection.
const LAST_WORD: Duration = Duration::from_secs(1);

/// How often a client that ended its half while it waits for an answer is asked whether it is still there.
const PROBES: u8 = 2;

/// What the worker tells a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Finish what runs, then close; close at once when idle.
    Finish,
    /// The request's head took too long.
    HeadTooSlow,
    /// Close now.
    Close,
    /// Look at the socket: there is something to flush.
    Look,
}

/// A downstream connection: what its requests need to know, and how the worker reaches it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) listener: Arc<Listener>,
    /// The address of the other end.
    pub(crate) remote: SocketAddr,
    peer: OnceCell<Peer>,
    pub(crate) state: Arc<ConnState>,
    /// Whether the client speaks TLS with us.
    pub(crate) secure: Cell<bool>,
    /// Requests (HTTP/2: streams) that are being handled.
    active: Cell<u32>,
    idle_since: Cell<Instant>,
    multiplexed: Cell<bool>,
    /// HTTP/1: the head of the answer has been handed to hyper.
    answering: Cell<bool>,
    /// HTTP/1: the client understands interim responses (1.1).
    interim_allowed: Cell<bool>,
    probes: Cell<u8>,
    signal: Cell<Option<Signal>>,
    seat: RefCell<Option<Seat>>,
    _place: Place,
}

impl Connection {
    pub(super) fn new(
        worker: Rc<Worker>,
        listener: Arc<Listener>,
        remote: SocketAddr,
        place: Place,
    ) -> Rc<Self> {
        let now = Instant::now();
        let connection = Rc::new(Self {
            worker,
            listener,
            remote,
            peer: OnceCell::new(),
            state: Arc::new(ConnState::new(now)),
            secure: Cell::new(false),
            active: Cell::new(0),
            idle_since: Cell::new(now),
            multiplexed: Cell::new(false),
            answering: Cell::new(false),
            interim_allowed: Cell::new(false),
            probes: Cell::new(0),
            signal: Cell::new(None),
            seat: RefCell::new(None),
            _place: place,
        });
        let seat = connection.worker.seat(&connection);
        connection.seat.replace(Some(seat));
        connection
    }

    /// Serves the connection until it ends.
    pub(super) async fn serve(self: Rc<Self>, tcp: TcpStream) {
        let limit = self.listener.config.header_timeout;
        let opened = match timeout(limit, self.open(tcp)).await {
            Ok(Ok(Some(opened))) => opened,
            Ok(Ok(None)) => return,
            Ok(Err(error)) => {
                tracing::debug!(listener = %self.listener.config.name, peer = %self.remote, %error, "connection failed before its first request");
                return;
            }
            Err(_) => {
                tracing::debug!(listener = %self.listener.config.name, peer = %self.remote, "no protocol within header_timeout");
                return;
            }
        };
        match opened {
            (Detected::Http1, io) => self.serve_http1(io).await,
            (Detected::Http2, io) => self.serve_http2(io).await,
        }
    }

    /// TLS, where there is any, and the protocol.
    async fn open(&self, mut tcp: TcpStream) -> io::Result<Option<(Detected, ServerIo)>> {
        let io = |stream, replay| ServerIo::new(stream, replay, self.state.clone());
        let Some(tls) = &self.listener.tls else {
            return Ok(match self.listener.config.protocol {
                ListenerProtocol::Http1 => {
                    Some((Detected::Http1, io(Stream::Plain(tcp), bytes::Bytes::new())))
                }
                ListenerProtocol::Http2 => {
                    Some((Detected::Http2, io(Stream::Plain(tcp), bytes::Bytes::new())))
                }
                ListenerProtocol::Auto => detect(&mut tcp)
                    .await?
                    .map(|(detected, replay)| (detected, io(Stream::Plain(tcp), replay))),
            });
        };
        self.secure.set(true);
        let mut stream = TlsAcceptor::from(tls.config()).accept(tcp).await?;
        let alpn = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Some(Detected::Http2),
            Some(_) => Some(Detected::Http1),
            None => None,
        };
        let (detected, replay) = match (alpn, self.listener.config.protocol) {
            (Some(detected), _) => (detected, bytes::Bytes::new()),
            (None, ListenerProtocol::Http1) => (Detected::Http1, bytes::Bytes::new()),
            (None, ListenerProtocol::Http2) => (Detected::Http2, bytes::Bytes::new()),
            (None, ListenerProtocol::Auto) => match detect(&mut stream).await? {
                Some(found) => found,
                None => return Ok(None),
            },
        };
        Ok(Some((detected, io(Stream::Tls(Box::new(stream.into())), replay))))
    }

    async fn serve_http1(self: Rc<Self>, io: ServerIo) {
        let config = &self.listener.config;
        let handler = self.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let connection = handler.clone();
            async move { Ok::<_, Infallible>(proxy::handle(connection, request).await) }
        });
        // hyper's own header timer would count an idle connection's silence too; ours tells them apart.
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .half_close(true)
            .max_headers(config.max_headers)
            .max_buf_size(config.max_header_bytes.max(8192))
            .writev(false)
            .serve_connection(TokioIo::new(io.explaining(self.listener.refusals.clone())), service)
            .with_upgrades();
        let mut served = served;
        let ended = std::future::poll_fn(|cx| {
            self.state.listen(cx.waker());
            match self.signal.take() {
                None | Some(Signal::Look) => {}
                Some(Signal::Finish) => Pin::new(&mut served).graceful_shutdown(),
                Some(signal) => return Poll::Ready(Some(signal)),
            }
            Pin::new(&mut served).poll(cx).map(|result| {
                self.note_end(result);
                None
            })
        })
        .await;
        if ended == Some(Signal::HeadTooSlow)
            && let Some(parts) = served.into_parts()
        {
            self.say_too_slow(parts.io.into_inner()).await;
        }
    }

    /// Answers 408 on a connection whose request never became whole.
    async fn say_too_slow(&self, mut io: ServerIo) {
        let answer = self.listener.refusals.answer(Reason::HeaderTimeout);
        let say = async {
            io.write_all(&answer).await?;
            io.shutdown().await
        };
        // A client that does not take it has only itself to blame.
        let _ = timeout(LAST_WORD, say).await;
    }

    async fn serve_http2(self: Rc<Self>, io: ServerIo) {
        self.multiplexed.set(true);
        let config = &self.listener.config;
        let handler = self.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let connection = handler.clone();
            async move { Ok::<_, Infallible>(proxy::handle(connection, request).await) }
        });
        let header_list = u32::try_from(config.max_header_bytes).unwrap_or(u32::MAX);
        let served = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .max_concurrent_streams(config.max_streams)
            .max_header_list_size(header_list)
            .serve_connection(TokioIo::new(io), service);
        let mut served = pin!(served);
        std::future::poll_fn(|cx| {
            self.state.listen(cx.waker());
            match self.signal.take() {
                None | Some(Signal::Look) => {}
                Some(Signal::Finish) => served.as_mut().graceful_shutdown(),
                Some(_) => return Poll::Ready(()),
            }
            Pin::new(&mut served).poll(cx).map(|result| self.note_end(result))
        })
        .await;
    }

    fn note_end(&self, result: Result<(), hyper::Error>) {
        if let Err(error) = result {
            tracing::debug!(listener = %self.listener.config.name, peer = %self.remote, %error, "connection ended");
        }
    }

    /// Tells the connection something; it acts when it is polled next, which is soon.
    pub(crate) fn tell(&self, signal: Signal) {
        self.signal.set(Some(signal));
        self.state.wake();
    }

    /// Who is at the other end, and whether it is believed.
    pub(crate) fn peer(&self) -> &Peer {
        self.peer.get_or_init(|| {
            let scheme = if self.secure.get() { Scheme::HTTPS } else { Scheme::HTTP };
            Peer::new(self.remote.ip(), &scheme, &self.listener.trust)
        })
    }

    /// Whether it carries several requests at a time.
    pub(crate) fn is_multiplexed(&self) -> bool {
        self.multiplexed.get()
    }

    /// A request begins on this connection; `interim_allowed` says whether its client understands 1xx.
    pub(crate) fn begin(&self, interim_allowed: bool) {
        self.active.set(self.active.get() + 1);
        self.answering.set(false);
        self.interim_allowed.set(interim_allowed && !self.multiplexed.get());
        self.state.enter(Phase::Busy);
    }

    /// Whether interim responses can be sent now.
    pub(crate) fn interim_allowed(&self) -> bool {
        self.interim_allowed.get()
    }

    /// The head of an answer goes to hyper: no interim response may follow.
    pub(crate) fn answering(&self) {
        self.answering.set(true);
    }

    /// Resolves when the connection is to be closed now. For what outlives hyper's part in it: tunnels.
    pub(crate) async fn closed(&self) {
        std::future::poll_fn(|cx| {
            self.state.listen(cx.waker());
            if self.signal.get() == Some(Signal::Close) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// A request ended.
    pub(crate) fn end(&self) {
        let active = self.active.get().saturating_sub(1);
        self.active.set(active);
        if active == 0 {
            self.idle_since.set(Instant::now());
            self.state.enter(Phase::Idle);
        }
    }

    /// Looks at the connection's clocks; called by the worker a few times a second.
    pub(crate) fn inspect(&self, now: Instant) {
        let config = &self.listener.config;
        let idle = self.active.get() == 0;
        let verdict = if self.multiplexed.get() {
            let silent = now.saturating_duration_since(self.idle_since.get());
            (idle && silent >= config.keepalive_timeout).then_some(Signal::Finish)
        } else {
            match self.state.phase() {
                Phase::Idle => (self.state.in_phase() >= config.keepalive_timeout).then_some(Signal::Finish),
                Phase::Head => {
                    (self.state.in_phase() >= config.header_timeout).then_some(Signal::HeadTooSlow)
                }
                Phase::Busy => self.ask_whether_there(),
            }
        };
        if let Some(signal) = verdict {
            self.tell(signal);
        }
    }

    /// A client that ended its half of the connection may still want its answer (`half-close`, RFC 9112 §9.6),
    /// or may be gone: TCP tells them apart only when something is sent. An interim response is something a client
    /// has to expect at any time (RFC 9110 §15.2), so one is sent, and a second to meet the reset that the first
    /// provoked. A client that is gone thereby ends the connection, and with it the work done for it.
    fn ask_whether_there(&self) -> Option<Signal> {
        let sent = self.probes.get();
        let answering = self.answering.get() || !self.interim_allowed.get();
        if answering || sent >= PROBES || !self.state.half_closed() {
            return None;
        }
        self.probes.set(sent + 1);
        self.state.send_interim(b"HTTP/1.1 100 Continue\r\n\r\n");
        Some(Signal::Look)
    }

    /// Follows the listener's drain.
    pub(crate) fn drain(&self, phase: drain::Phase) {
        match phase {
            drain::Phase::Serving => {}
            // An idle HTTP/1 connection stays open a little longer: closing it now would meet a request that is
            // already on its way. Its next answer says `Connection: close`.
            drain::Phase::Leaving if !self.multiplexed.get() => {}
            drain::Phase::Leaving | drain::Phase::Closing => self.tell(Signal::Finish),
            drain::Phase::Cut => self.tell(Signal::Close),
        }
    }
}
