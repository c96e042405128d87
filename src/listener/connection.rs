//! One downstream connection, from its first byte to its last.

use std::{
    cell::{Cell, OnceCell, RefCell},
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    rc::{Rc, Weak},
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use ::http::uri::Scheme;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    Listener, Place,
    detect::Detected,
    frames::FrameMeter,
    http2::ended_by_h2,
    io::ServerIo,
    open::Refused,
    state::{ConnState, Phase},
    streams::Watched,
};
use crate::{
    error::Reason,
    http::{body::Flow, forwarded::Peer, uri::Host},
    net::Socket,
    proxy,
    telemetry::{ConnectionEnd, ConnectionRefusal, labels::Label as _},
    worker::{Seat, Worker},
};

/// How long a client has to take the answer that ends its connection.
pub(super) const LAST_WORD: Duration = Duration::from_secs(1);

/// What the worker tells a connection, the weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Signal {
    /// Look at the socket: there is something to flush.
    Look,
    /// Finish what runs, then close; close at once when idle.
    Finish,
    /// The request's head took too long.
    HeadTooSlow,
    /// Close now.
    Close,
}

/// A downstream connection: what its requests need to know, and how the worker reaches it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) listener: Arc<Listener>,
    /// The address of the other end.
    remote: Cell<SocketAddr>,
    peer: OnceCell<Peer>,
    /// Whom the last request was for.
    host: RefCell<Option<Rc<Host>>>,
    pub(crate) state: Arc<ConnState>,
    /// Whether the client speaks TLS with us.
    pub(crate) secure: Cell<bool>,
    /// Requests (HTTP/2: streams) that are being handled.
    pub(super) active: Cell<u32>,
    /// What [`ConnState::entered`] was when it last changed, and when that was seen.
    pub(super) phase_since: Cell<(u32, Instant)>,
    pub(super) multiplexed: Cell<bool>,
    /// At least one request has come.
    pub(super) served: Cell<bool>,
    /// HTTP/1: the newest request had a body.
    had_body: Cell<bool>,
    /// HTTP/1: the head of the answer has been handed to hyper.
    pub(super) answering: Cell<bool>,
    /// HTTP/1: the client understands interim responses (1.1).
    pub(super) interim_allowed: Cell<bool>,
    pub(super) probes: Cell<u8>,
    /// What still reads the body of a request whose answer is out.
    pub(super) rest: RefCell<Weak<Flow>>,
    /// How long the client may take no byte of an answer; `None` = for ever.
    pub(super) stall_limit: Cell<Option<Duration>>,
    /// What [`ConnState::writes`] was when it last changed, and when that was seen.
    pub(super) last_write: Cell<(u32, Instant)>,
    /// HTTP/2: what was seen of the client's frames.
    pub(super) meter: OnceCell<Rc<FrameMeter>>,
    /// HTTP/2: the answers that are on their way.
    pub(super) watched: RefCell<Vec<Watched>>,
    /// HTTP/2: the exchange that began, while the task of its stream is still to be spawned.
    pub(super) newest: RefCell<Option<Rc<Flow>>>,
    /// HTTP/2: when it was told to finish.
    pub(super) finishing: Cell<Option<Instant>>,
    /// The connection was closed because it stood still.
    pub(super) stalled: Cell<bool>,
    pub(super) signal: Cell<Option<Signal>>,
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
            remote: Cell::new(remote),
            peer: OnceCell::new(),
            host: RefCell::new(None),
            state: Arc::new(ConnState::new()),
            secure: Cell::new(false),
            active: Cell::new(0),
            phase_since: Cell::new((0, now)),
            multiplexed: Cell::new(false),
            answering: Cell::new(false),
            interim_allowed: Cell::new(false),
            served: Cell::new(false),
            had_body: Cell::new(false),
            probes: Cell::new(0),
            rest: RefCell::new(Weak::new()),
            stall_limit: Cell::new(None),
            last_write: Cell::new((0, now)),
            meter: OnceCell::new(),
            watched: RefCell::new(Vec::new()),
            newest: RefCell::new(None),
            finishing: Cell::new(None),
            stalled: Cell::new(false),
            signal: Cell::new(None),
            seat: RefCell::new(None),
            _place: place,
        });
        let seat = connection.worker.seat(&connection);
        connection.seat.replace(Some(seat));
        connection
    }

    /// Serves the connection until it ends.
    pub(super) async fn serve(self: Rc<Self>, socket: Socket) {
        // Each part of a connection's life is boxed: in one piece, every connection would have the size of the largest
        // part for as long as it lasts.
        let open = Box::pin(self.opened(socket));
        let rest: Pin<Box<dyn Future<Output = ()>>> = match open.await {
            Ok(Some((Detected::Http1, io))) => Box::pin(self.serve_http1(io)),
            Ok(Some((Detected::Http2, io))) => Box::pin(self.serve_http2(io)),
            // It closed before it said anything: a probe of a load balancer, say.
            Ok(None) => return,
            Err(refused) => return self.refuse(&refused),
        };
        rest.await;
    }

    /// Opens the connection while there is time for it.
    async fn opened(&self, socket: Socket) -> Result<Option<(Detected, ServerIo)>, Refused> {
        let opening = timeout(self.listener.config.header_timeout, self.open(socket));
        tokio::select! {
            opened = opening => opened.unwrap_or(Err(Refused::because(ConnectionRefusal::Timeout))),
            () = self.told_to_go() => Err(Refused::because(ConnectionRefusal::Draining)),
        }
    }

    /// hyper's part is made before the future is, which then holds it once, and nothing else that is large.
    fn serve_http1(self: Rc<Self>, io: ServerIo) -> impl Future<Output = ()> {
        let config = &self.listener.config;
        let handler = self.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let exchange = proxy::Exchange::begin(handler.clone(), request);
            async move { Ok::<_, Infallible>(proxy::handle(exchange).await) }
        });
        let io =
            io.explaining(self.listener.refusals.clone()).strict(config.max_header_bytes.saturating_mul(2));
        // hyper's own header timer would count an idle connection's silence too; ours tells them apart.
        let mut served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .half_close(true)
            // Ours costs no clock: see `Worker::date`.
            .auto_date_header(false)
            .max_headers(config.max_headers)
            .max_buf_size(config.max_header_bytes.max(8192))
            .writev(false)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades();
        async move {
            let mut listens = false;
            let ended = std::future::poll_fn(|cx| {
                if !std::mem::replace(&mut listens, true) {
                    // One task polls this, whose waker stays the same.
                    self.state.listen(cx.waker());
                }
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
            let last_words = {
                // Nothing is left of a connection that has left HTTP.
                let Some(parts) = served.into_parts() else { return };
                Box::pin(self.end_http1(ended, parts.io.into_inner()))
            };
            last_words.await;
        }
    }

    /// What is still to be said on a connection that hyper has done with; `told` = because of what the worker said.
    async fn end_http1(&self, told: Option<Signal>, io: ServerIo) {
        if let Some(fault) = io.refused() {
            tracing::debug!(listener = %self.listener.config.name, peer = %self.remote(), %fault, "ambiguous request");
        }
        match told {
            Some(Signal::HeadTooSlow) => {
                self.ended_for(ConnectionEnd::HeaderTimeout);
                self.say_too_slow(io).await;
            }
            None if self.client_may_still_send() || io.refused().is_some() => self.linger(io).await,
            Some(_) | None => {}
        }
    }

    /// Answers 408 on a connection whose request never became whole.
    async fn say_too_slow(&self, mut io: ServerIo) {
        let answer = self.listener.refusals.answer(Reason::HeaderTimeout);
        // A client that does not take it has only itself to blame.
        if let Ok(Ok(())) = timeout(LAST_WORD, io.write_all(&answer)).await {
            self.linger(io).await;
        }
    }

    /// Whether the client may be in the middle of saying something, although its connection has ended for us.
    fn client_may_still_send(&self) -> bool {
        !self.state.half_closed() && (self.had_body.get() || self.state.phase() != Phase::Idle)
    }

    /// Ends our half, and reads on for a moment: to close while the client's bytes come in would provoke a reset,
    /// and a reset may overtake the answer that said why (RFC 9112 §9.6).
    pub(super) async fn linger(&self, mut io: ServerIo) {
        io.stop_looking();
        let read_on = async {
            // It may be shut down already.
            let _ = io.shutdown().await;
            let mut unread = vec![0; 8192];
            while io.read(&mut unread).await.is_ok_and(|n| n > 0) {}
        };
        tokio::select! {
            _ = timeout(LAST_WORD, read_on) => {}
            () = self.closed() => {}
        }
    }

    /// Counts a connection that Weir ends because of what its client did.
    pub(super) fn ended_for(&self, why: ConnectionEnd) {
        self.listener.metrics.ended.of(why).increment(1);
        tracing::info!(
            listener = %self.listener.config.name, peer = %self.remote(), reason = why.text(),
            "a client's connection was ended"
        );
    }

    pub(super) fn note_end(&self, result: Result<(), hyper::Error>) {
        if let Err(error) = result {
            tracing::debug!(listener = %self.listener.config.name, peer = %self.remote(), %error, "connection ended");
            if !self.multiplexed.get() {
                return;
            }
            if let Some(why) = ended_by_h2(&error) {
                self.ended_for(why);
            }
            if !self.served.get() {
                self.listener.metrics.refused.of(ConnectionRefusal::Protocol).increment(1);
            }
        }
    }

    /// Tells the connection something; it acts when it is polled next, which is soon. What it was told before and
    /// has not acted on yet gives way only to something stronger.
    pub(crate) fn tell(&self, signal: Signal) {
        self.signal.set(self.signal.get().max(Some(signal)));
        if signal == Signal::Finish && self.finishing.get().is_none() {
            self.finishing.set(Some(Instant::now()));
        }
        self.state.wake();
    }

    /// The address of the client at the other end, or behind the load balancer there; port 0 for one that came by a unix
    /// socket.
    pub(crate) fn remote(&self) -> SocketAddr {
        self.remote.get()
    }

    /// The load balancer in front has said who its client is.
    pub(super) fn speaks_for(&self, client: SocketAddr) {
        self.remote.set(client);
    }

    /// Who is at the other end, and whether it is believed.
    pub(crate) fn peer(&self) -> &Peer {
        self.peer.get_or_init(|| {
            let scheme = if self.secure.get() { Scheme::HTTPS } else { Scheme::HTTP };
            Peer::new(self.remote().ip(), &scheme, &self.listener.trust)
        })
    }

    /// The host that is written like this, when the last request was for it too.
    pub(crate) fn known_host(&self, written: &[u8]) -> Option<Rc<Host>> {
        self.host.borrow().as_ref().filter(|host| host.text.as_bytes() == written).cloned()
    }

    /// Remembers whom a request was for.
    pub(crate) fn know_host(&self, host: &Rc<Host>) {
        self.host.replace(Some(host.clone()));
    }

    /// Whether it carries several requests at a time.
    pub(crate) fn is_multiplexed(&self) -> bool {
        self.multiplexed.get()
    }

    /// A request begins on this connection; `interim_allowed` says whether its client understands 1xx.
    pub(crate) fn begin(&self, interim_allowed: bool, has_body: bool) {
        self.active.set(self.active.get() + 1);
        self.served.set(true);
        if self.multiplexed.get() {
            return;
        }
        self.had_body.set(has_body);
        self.answering.set(false);
        self.interim_allowed.set(interim_allowed);
        self.state.enter(Phase::Busy);
    }

    /// Whether interim responses can be sent now.
    pub(crate) fn interim_allowed(&self) -> bool {
        self.interim_allowed.get()
    }

    /// The head of an answer goes to hyper: no interim response may follow.
    pub(crate) fn answering(&self) {
        if !self.multiplexed.get() {
            self.answering.set(true);
            self.state.seal_interim();
        }
    }

    /// How long the client may take no byte of the answer that begins; `None` = for ever.
    pub(crate) fn bound_stall(&self, limit: Option<Duration>) {
        self.stall_limit.set(limit);
    }

    /// Whether it was closed because the client took nothing for too long.
    pub(crate) fn stalled(&self) -> bool {
        self.stalled.get()
    }

    /// It leaves HTTP: its clocks are the tunnel's.
    pub(crate) fn becomes_tunnel(&self) {
        if !self.multiplexed.get() {
            self.stall_limit.set(None);
            self.state.enter(Phase::Tunnel);
        }
    }

    /// Resolves when the connection is to be closed now. For what outlives hyper's part in it: tunnels.
    pub(crate) async fn closed(&self) {
        std::future::poll_fn(|cx| {
            self.state.listen(cx.waker());
            if self.signal.get() == Some(Signal::Close) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Resolves when the connection is not wanted any more.
    async fn told_to_go(&self) {
        std::future::poll_fn(|cx| {
            self.state.listen(cx.waker());
            match self.signal.get() {
                Some(Signal::Finish | Signal::Close) => Poll::Ready(()),
                _ => Poll::Pending,
            }
        })
        .await;
    }

    /// A request ended; `flow` is held by somebody else too when the rest of its body still flows.
    pub(crate) fn end(&self, flow: &Rc<Flow>) {
        let active = self.active.get().saturating_sub(1);
        self.active.set(active);
        if active > 0 {
            return;
        }
        if self.multiplexed.get() {
            self.state.enter(Phase::Idle);
        } else if Rc::strong_count(flow) > 1 {
            self.rest.replace(Rc::downgrade(flow));
            self.state.enter(Phase::Rest);
        } else {
            self.state.enter(Phase::Idle);
        }
    }
}
