//! A well-behaved origin: HTTP/1.1 and HTTP/2 on one port, in clear or under TLS, with scripted answers.

use std::{
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    HeaderMap, Method, Request, Response, Uri, Version,
    body::{Frame, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;

use super::{
    client::{Body, empty, fed, full},
    driver, wait_until,
};

/// What a script returns: an answer, or an error that resets the connection (HTTP/1.1) or the stream (HTTP/2).
pub type Scripted = io::Result<Response<Body>>;

type Script = dyn Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = Scripted> + Send>> + Send + Sync;

/// One request as an origin saw it, without its body.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The method.
    pub method: Method,
    /// The target as it came.
    pub uri: Uri,
    /// The version.
    pub version: Version,
    /// The headers.
    pub headers: HeaderMap,
    /// Which connection it came by, counted from 0.
    pub connection: usize,
}

impl Seen {
    /// A header's values joined by `, `; empty when there is none.
    pub fn header(&self, name: &str) -> String {
        let values: Vec<_> =
            self.headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
        values.join(", ")
    }

    /// The host that was asked for: `:authority` or `Host`.
    pub fn host(&self) -> String {
        self.uri.authority().map_or_else(|| self.header("host"), ToString::to_string)
    }
}

/// How an origin is set up; [`Origin::start`] takes the defaults.
#[derive(Default, Clone)]
pub struct Setup {
    /// TLS; clear text when absent.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Closes HTTP/1.1 connections after a random time up to this, as soon as they are idle.
    pub close_idle: Option<Duration>,
    /// The most streams at once on an HTTP/2 connection.
    pub max_streams: Option<u32>,
}

/// See the module. Dropping it closes everything.
#[derive(Debug)]
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    stop: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    seen: Mutex<Vec<Seen>>,
    requests: AtomicUsize,
    accepted: AtomicUsize,
    open: AtomicUsize,
    running: AtomicUsize,
}

impl Origin {
    /// Starts one.
    pub fn start<F, Fut>(script: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Scripted> + Send + 'static,
    {
        Self::with(Setup::default(), script)
    }

    /// Starts one that is set up differently.
    pub fn with<F, Fut>(setup: Setup, script: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Scripted> + Send + 'static,
    {
        let script: Arc<Script> = Arc::new(move |request| Box::pin(script(request)));
        let state = Arc::new(State::default());
        let (stop, stopped) = watch::channel(false);
        let listener = driver::run(async { TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap() });
        let address = listener.local_addr().unwrap();
        driver::spawn(accept(listener, setup, script, state.clone(), stopped));
        Self { address, state, stop }
    }

    /// One that gives this answer to everything.
    pub fn answering(status: u16, body: &'static str) -> Self {
        Self::start(move |_| async move { Ok(answer(status, body)) })
    }

    /// One that sends a request's body (and trailers) back as it comes.
    pub fn echo() -> Self {
        Self::start(|request| async move { Ok(echo(request)) })
    }

    /// One that never answers.
    pub fn silent() -> Self {
        Self::start(|_| std::future::pending())
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// The newest request.
    #[track_caller]
    pub fn last(&self) -> Seen {
        self.seen().pop().expect("a request")
    }

    /// How many requests came so far.
    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// How many connections are open now.
    pub fn open_connections(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// How many scripts run now: requests without an answer's head.
    pub fn running(&self) -> usize {
        self.state.running.load(Ordering::SeqCst)
    }

    /// Waits until that many requests have come.
    #[track_caller]
    pub fn wait_for_requests(&self, n: usize) {
        wait_until("requests at the origin", || self.requests() >= n);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

/// An answer with a body.
pub fn answer(status: u16, body: impl Into<Bytes>) -> Response<Body> {
    Response::builder().status(status).body(full(body)).unwrap()
}

/// An answer with headers and a body.
pub fn answer_with(status: u16, headers: &[(&str, &str)], body: Body) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body).unwrap()
}

/// The request's own body, with what its headers say of it.
pub fn echo(request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(body.map_err(io::Error::other).boxed());
    for name in ["content-type", "trailer"] {
        if let Some(value) = head.headers.get(name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

/// The request's own body, when all of it has come. (An echo answers first: then nobody is left to say
/// `100 Continue` to.)
pub async fn echo_at_end(request: Request<Incoming>) -> Scripted {
    let body = request.into_body().collect().await.map_err(io::Error::other)?;
    Ok(answer(200, body.to_bytes()))
}

/// An answer with trailers.
pub fn with_trailers(
    status: u16,
    body: &'static str,
    trailers: &[(&'static str, &'static str)],
) -> Response<Body> {
    let (feed, streamed) = fed();
    feed.data(body);
    let names: Vec<_> = trailers.iter().map(|(name, _)| *name).collect();
    let mut fields = HeaderMap::new();
    for (name, value) in trailers {
        fields.insert(*name, value.parse().unwrap());
    }
    feed.trailers(fields);
    answer_with(status, &[("trailer", &names.join(", "))], streamed)
}

/// An answer that breaks off after some bytes.
pub fn broken_off(body: &'static str) -> Response<Body> {
    let (feed, streamed) = fed();
    feed.data(body);
    driver::spawn(async move {
        // The data has to leave before the fault: a fault that is already there would swallow it.
        tokio::time::sleep(Duration::from_millis(50)).await;
        feed.fail();
    });
    answer_with(200, &[], streamed)
}

/// An answer without a body.
pub fn bare(status: u16) -> Response<Body> {
    Response::builder().status(status).body(empty()).unwrap()
}

async fn accept(
    listener: TcpListener,
    setup: Setup,
    script: Arc<Script>,
    state: Arc<State>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted { Ok((stream, _)) => stream, Err(_) => continue },
            _ = stopped.changed() => return,
        };
        let number = state.accepted.fetch_add(1, Ordering::SeqCst);
        let open = Counted::new(&state, |state| &state.open);
        let (setup, script, state, mut stopped) =
            (setup.clone(), script.clone(), state.clone(), stopped.clone());
        tokio::spawn(async move {
            let _open = open;
            tokio::select! {
                () = connection(stream, setup, script, state, number) => {}
                _ = stopped.changed() => {}
            }
        });
    }
}

async fn connection(stream: TcpStream, setup: Setup, script: Arc<Script>, state: Arc<State>, number: usize) {
    let _ = stream.set_nodelay(true);
    match setup.tls.clone() {
        None => {
            let mut start = [0; 4];
            while matches!(stream.peek(&mut start).await, Ok(1..4)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let is_http2 = &start == b"PRI ";
            serve(stream, is_http2, setup, script, state, number).await;
        }
        Some(config) => {
            let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            serve(stream, is_http2, setup, script, state, number).await;
        }
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    is_http2: bool,
    setup: Setup,
    script: Arc<Script>,
    state: Arc<State>,
    number: usize,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        state.seen.lock().unwrap().push(Seen {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers: request.headers().clone(),
            connection: number,
        });
        state.requests.fetch_add(1, Ordering::SeqCst);
        let running = Counted::new(&state, |state| &state.running);
        let answer = script(request);
        async move {
            let _running = running;
            answer.await
        }
    });
    if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new());
        if let Some(max) = setup.max_streams {
            builder.max_concurrent_streams(max);
        }
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        return;
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    if let Some(most) = setup.close_idle {
        let life = most.mul_f64(fastrand::f64());
        tokio::select! {
            _ = &mut connection => return,
            () = tokio::time::sleep(life) => connection.as_mut().graceful_shutdown(),
        }
    }
    let _ = connection.await;
}

/// Counts something while it lives.
struct Counted {
    state: Arc<State>,
    which: fn(&State) -> &AtomicUsize,
}

impl Counted {
    fn new(state: &Arc<State>, which: fn(&State) -> &AtomicUsize) -> Self {
        which(state).fetch_add(1, Ordering::SeqCst);
        Self { state: state.clone(), which }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.which)(&self.state).fetch_sub(1, Ordering::SeqCst);
    }
}

/// The frames of a body as data, for scripts that read piece by piece.
pub async fn next_data(body: &mut Incoming) -> Option<Bytes> {
    loop {
        let frame: Frame<Bytes> = body.frame().await?.ok()?;
        if let Ok(data) = frame.into_data() {
            return Some(data);
        }
    }
}
