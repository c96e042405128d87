//! A load with a constant arrival rate: an open loop.
//!
//! Requests are due at fixed times, whether the answers come or not, and a latency counts from when its request was
//! due: a proxy that stands still for a second is charged for every request of that second (no coordinated omission).
//! A timer of the kernel's paces them, since the runtime's own has steps of a millisecond.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderValue, Method, Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
    rt::{Read, Write},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{io::unix::AsyncFd, net::TcpStream, sync::Semaphore};
use tokio_rustls::TlsConnector;

use crate::{
    histogram::Latencies,
    serve::{self, Local},
};

/// How long answers may take after the last request was due.
const GRACE: Duration = Duration::from_secs(2);

/// What to send, where to and how often.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value = "/")]
    path: String,
    /// Requests a second.
    #[arg(long)]
    rate: u32,
    /// For how long latencies are taken.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// For how long the same load runs before that.
    #[arg(long, default_value_t = 0.5)]
    warm: f64,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// At once on each connection; more than one needs HTTP/2.
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// HTTP/2 with prior knowledge.
    #[arg(long)]
    http2: bool,
    /// Unary calls: a POST with a message, and `grpc-status: 0` in the trailers.
    #[arg(long)]
    grpc: bool,
    /// The certificate to trust: TLS.
    #[arg(long)]
    ca: Option<std::path::PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) {
    let latencies = serve::block_on(drive(arguments));
    println!("{}", latencies.json());
}

async fn drive(arguments: &Arguments) -> Latencies {
    let target = Rc::new(Target::new(arguments));
    let mut senders = Vec::new();
    for _ in 0..arguments.connections {
        senders.extend(target.connect().await.expect("a connection").shared(arguments.streams));
    }
    let schedule = Rc::new(Schedule::new(arguments));
    let workers: Vec<_> = senders
        .into_iter()
        .map(|sender| tokio::task::spawn_local(work(target.clone(), schedule.clone(), sender)))
        .collect();
    pace(&schedule).await;
    let over = tokio::time::Instant::now() + GRACE;
    for mut worker in workers {
        if tokio::time::timeout_at(over, &mut worker).await.is_err() {
            worker.abort();
            let _ = worker.await;
        }
    }
    schedule.charge_unsent();
    schedule.latencies.replace(Latencies::new())
}

/// When which request is due, and what came of them.
struct Schedule {
    start: Instant,
    rate: u64,
    total: u64,
    /// The first request whose latency counts.
    warm: u64,
    /// The next one to send.
    next: Cell<u64>,
    /// Requests that are due and not sent.
    due: Semaphore,
    latencies: RefCell<Latencies>,
}

impl Schedule {
    fn new(arguments: &Arguments) -> Self {
        let rate = u64::from(arguments.rate.max(1));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "seconds of a run times its rate: far from where these matter"
        )]
        let requests = |seconds: f64| (seconds * rate as f64) as u64;
        Self {
            start: Instant::now(),
            rate,
            total: requests(arguments.warm + arguments.seconds),
            warm: requests(arguments.warm),
            next: Cell::new(0),
            due: Semaphore::new(0),
            latencies: RefCell::new(Latencies::new()),
        }
    }

    fn due_at(&self, request: u64) -> Instant {
        self.start + Duration::from_nanos(request.saturating_mul(1_000_000_000) / self.rate)
    }

    /// How many are due by now.
    fn due_by(&self, now: Instant) -> u64 {
        let passed = u64::try_from((now - self.start).as_nanos()).unwrap_or(u64::MAX);
        (passed.saturating_mul(self.rate) / 1_000_000_000 + 1).min(self.total)
    }

    /// Waits for the next request; `None` when there are no more.
    async fn take(&self) -> Option<u64> {
        self.due.acquire().await.ok()?.forget();
        let request = self.next.replace(self.next.get() + 1);
        if request + 1 == self.total {
            self.due.close();
        }
        Some(request)
    }

    /// What nobody had the time to send has waited since it was due.
    fn charge_unsent(&self) {
        let (now, mut latencies) = (Instant::now(), self.latencies.borrow_mut());
        for request in self.next.get().max(self.warm)..self.total {
            latencies.unfinished += 1;
            latencies.record(now - self.due_at(request));
        }
    }
}

/// Makes each request available when it is due.
async fn pace(schedule: &Schedule) {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)
        .expect("a timer");
    #[expect(deprecated, reason = "what replaces it is unsafe; an OwnedFd is what it asks for")]
    let timer = AsyncFd::new(timer).expect("a timer of the runtime");
    let mut released = 0;
    while released < schedule.total {
        let now = Instant::now();
        let due = schedule.due_by(now);
        if due > released {
            schedule.due.add_permits(usize::try_from(due - released).unwrap_or(usize::MAX));
            released = due;
            continue;
        }
        let wait = schedule.due_at(released).saturating_duration_since(now).max(Duration::from_nanos(1));
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec::try_from(wait).expect("less than centuries"),
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once).expect("a timer that can be set");
        let mut fired = timer.readable().await.expect("a timer that fires");
        // Setting it again takes back that it has fired; that it can be read need not be asked.
        fired.clear_ready();
    }
}

/// Sends one request after the other, as they come due.
async fn work(target: Rc<Target>, schedule: Rc<Schedule>, sender: Sender) {
    let mut sender = Some(sender);
    while let Some(request) = schedule.take().await {
        let mut open = Open { schedule: &schedule, request, fine: None };
        if sender.is_none() {
            sender = target.connect().await;
        }
        let fine = match &mut sender {
            Some(sender) => target.exchange(sender).await.is_some(),
            None => false,
        };
        open.fine = Some(fine);
        if !fine {
            sender = None;
        }
    }
}

/// A request that was sent; recorded when it is dropped, finished or not.
struct Open<'a> {
    schedule: &'a Schedule,
    request: u64,
    fine: Option<bool>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if self.request < self.schedule.warm {
            return;
        }
        let mut latencies = self.schedule.latencies.borrow_mut();
        match self.fine {
            Some(true) => (),
            Some(false) => latencies.errors += 1,
            None => latencies.unfinished += 1,
        }
        latencies.record(self.schedule.due_at(self.request).elapsed());
    }
}

type Body = Full<Bytes>;

/// One connection, or a share of one.
enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Sender {
    /// The connection for so many who use it at once.
    fn shared(self, streams: usize) -> Vec<Self> {
        match self {
            Self::Http1(_) => vec![self],
            Self::Http2(sender) => (0..streams).map(|_| Self::Http2(sender.clone())).collect(),
        }
    }

    async fn send(&mut self, request: Request<Body>) -> hyper::Result<http::Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => sender.send_request(request).await,
        }
    }
}

/// What is asked of whom.
struct Target {
    address: SocketAddr,
    http2: bool,
    tls: Option<TlsConnector>,
    request: Request<Body>,
    grpc: bool,
}

impl Target {
    fn new(arguments: &Arguments) -> Self {
        let http2 = arguments.http2 || arguments.grpc;
        let uri =
            if http2 { format!("http://{}{}", arguments.to, arguments.path) } else { arguments.path.clone() };
        let mut request = Request::builder().uri(uri).body(Body::default()).expect("a request");
        if !http2 {
            let host = HeaderValue::try_from(arguments.to.to_string()).expect("an address");
            request.headers_mut().insert(http::header::HOST, host);
        }
        if arguments.grpc {
            *request.method_mut() = Method::POST;
            *request.body_mut() = Body::from(&b"\0\0\0\0\x08\x0a\x06golden"[..]);
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            request.headers_mut().insert(http::header::TE, HeaderValue::from_static("trailers"));
        }
        let tls = arguments.ca.as_ref().map(|ca| TlsConnector::from(Arc::new(client_config(ca))));
        Self { address: arguments.to, http2, tls, request, grpc: arguments.grpc }
    }

    async fn connect(&self) -> Option<Sender> {
        let stream = TcpStream::connect(self.address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        match &self.tls {
            None => self.handshake(TokioIo::new(stream)).await,
            Some(tls) => {
                let name = ServerName::from(self.address.ip());
                self.handshake(TokioIo::new(tls.connect(name, stream).await.ok()?)).await
            }
        }
    }

    async fn handshake<IO: Read + Write + Unpin + 'static>(&self, io: IO) -> Option<Sender> {
        if self.http2 {
            let builder = http2::Builder::new(Local).timer(TokioTimer::new()).clone();
            let (sender, connection) = builder.handshake(io).await.ok()?;
            tokio::task::spawn_local(connection);
            Some(Sender::Http2(sender))
        } else {
            let (sender, connection) = http1::Builder::new().writev(false).handshake(io).await.ok()?;
            tokio::task::spawn_local(connection);
            Some(Sender::Http1(sender))
        }
    }

    /// One request and the whole answer; `None` unless it is a good one.
    async fn exchange(&self, sender: &mut Sender) -> Option<()> {
        let response = sender.send(self.request.clone()).await.ok()?;
        let status = response.status();
        let mut body = response.into_body();
        let mut granted = !self.grpc;
        while let Some(frame) = body.frame().await {
            let frame = frame.ok()?;
            granted |=
                frame.trailers_ref().is_some_and(|all| all.get("grpc-status").is_some_and(|s| s == "0"));
        }
        (status == StatusCode::OK && granted).then_some(())
    }
}

fn client_config(ca: &std::path::Path) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).expect("a certificate")).expect("a certificate to trust");
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth()
}
