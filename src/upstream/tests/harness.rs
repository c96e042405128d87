//! Origins and a lane to play with.

use std::{
    cell::{Cell, RefCell},
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use ::http::HeaderMap;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, LocalOptions},
    sync::{Notify, watch},
    task::{AbortHandle, spawn_local},
};

use crate::{
    config::policy::{self, EndpointAddress},
    http::body::RequestBody,
    policy::Stamp,
    upstream::{
        CheckoutError, Connector, Endpoint, Failure, Lane, Lease, Listen, RequestHead, Vitals,
        connector::Alpn, limits::Limits,
    },
    worker::LocalExecutor,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a test as a worker runs.
pub(super) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(test)
}

/// Waits for a condition, with a deadline.
#[track_caller]
pub(super) fn until(what: &str, condition: impl Fn() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline, "{caller}: waited in vain for {what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

pub(super) fn limits() -> Limits {
    Limits {
        max_connections: 10,
        min_idle: 0,
        max_pending: 10,
        pending_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_mins(1),
        max_age: Duration::from_mins(10),
        keep_alive: Duration::from_secs(10),
    }
}

pub(super) fn lane_to(address: SocketAddr, alpn: Alpn, limits: Limits) -> Rc<Lane> {
    let now = Stamp::of(Instant::now());
    let vitals = Arc::new(Vitals::new(&policy::Breaker::default(), policy::BreakerMode::Off, now));
    let endpoint = Arc::new(Endpoint::new(EndpointAddress::Socket(address), vitals, now));
    let connector = Arc::new(Connector::new(Duration::from_secs(2), 65_536, 100, None).unwrap());
    Lane::new(endpoint, connector, alpn, limits)
}

/// (open, idle, in flight)
pub(super) fn counts(lane: &Lane) -> (u32, u32, u32) {
    let endpoint = lane.endpoint();
    (endpoint.connections(), endpoint.idle(), endpoint.in_flight())
}

pub(super) fn get() -> Request<RequestBody> {
    Request::get("http://origin/").header("host", "origin").body(RequestBody::Empty).unwrap()
}

struct Deaf;

impl Listen for Deaf {
    fn hear(&self, _: StatusCode, _: &HeaderMap) {}
}

/// Sends a request and reads the whole of its answer.
pub(super) async fn ask(lease: &mut Lease) -> Result<(), Failure> {
    let (head, _) = get().into_parts();
    if lease.is_http2() {
        let response = lease.send_http2(get()).await?;
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body().collect().await.unwrap();
        return Ok(());
    }
    let extra = &[];
    lease.begin_http1(
        RequestHead { method: &head.method, target: "/", headers: &head.headers, extra },
        RequestBody::Empty,
    );
    let answer = lease.answer_http1(&Deaf).await?;
    assert_eq!(answer.parts.status, StatusCode::OK);
    while let Some(frame) = std::future::poll_fn(|cx| lease.poll_frame(cx)).await {
        frame.unwrap();
    }
    Ok(())
}

/// A whole exchange on a lease.
pub(super) async fn exchange(mut lease: Lease) -> Result<(), Failure> {
    ask(&mut lease).await?;
    lease.finish(Instant::now());
    Ok(())
}

/// Checkout and a whole exchange.
pub(super) async fn request(lane: &Rc<Lane>) -> Result<(), String> {
    let lease = lane.checkout(Instant::now(), false).await.map_err(|error| format!("{error:?}"))?;
    exchange(lease).await.map_err(|error| format!("{error:?}"))
}

pub(super) fn waiting(lane: &Rc<Lane>) -> tokio::task::JoinHandle<Result<Lease, CheckoutError>> {
    let lane = lane.clone();
    spawn_local(async move { lane.checkout(Instant::now(), false).await })
}

/// An HTTP/1 origin that answers every request at once, and whose connections can be killed.
pub(super) struct Origin {
    pub(super) address: SocketAddr,
    pub(super) accepted: Rc<Cell<usize>>,
    pub(super) open: Rc<Cell<usize>>,
    connections: Rc<RefCell<Vec<AbortHandle>>>,
    accepting: AbortHandle,
}

struct Open(Rc<Cell<usize>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Origin {
    pub(super) async fn http1() -> Self {
        Self::start(|mut stream| async move {
            let mut seen = Vec::new();
            let mut buffer = [0; 1024];
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                seen.extend_from_slice(&buffer[..read]);
                while let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
                    seen.drain(..end + 4);
                    if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// Does whatever `serve` does with each connection.
    pub(super) async fn start<F: Future<Output = ()> + 'static>(
        serve: impl Fn(TcpStream) -> F + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, open) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let connections = Rc::new(RefCell::new(Vec::new()));
        let accepting = spawn_local({
            let (accepted, open, connections) = (accepted.clone(), open.clone(), connections.clone());
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    accepted.set(accepted.get() + 1);
                    open.set(open.get() + 1);
                    let open = Open(open.clone());
                    let served = serve(stream);
                    let task = spawn_local(async move {
                        let _open = open;
                        served.await;
                    });
                    connections.borrow_mut().push(task.abort_handle());
                }
            }
        })
        .abort_handle();
        Self { address, accepted, open, connections, accepting }
    }

    /// Closes all its connections.
    pub(super) fn kill(&self) {
        for connection in self.connections.borrow_mut().drain(..) {
            connection.abort();
        }
    }

    /// Refuses whatever comes from now on.
    pub(super) async fn refuse(&self) {
        self.accepting.abort();
        loop {
            if TcpStream::connect(self.address).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// An HTTP/2 origin whose requests wait until they are let go.
pub(super) struct Http2Origin {
    pub(super) origin: Origin,
    pub(super) running: Rc<Cell<usize>>,
    go: watch::Sender<bool>,
    goaway: Rc<Notify>,
}

impl Http2Origin {
    pub(super) async fn start(max_streams: u32) -> Self {
        let running = Rc::new(Cell::new(0));
        let (go, gone) = watch::channel(false);
        let goaway = Rc::new(Notify::new());
        let origin = Origin::start({
            let (running, goaway) = (running.clone(), goaway.clone());
            move |stream| {
                let (running, gone, goaway) = (running.clone(), gone.clone(), goaway.clone());
                let service = service_fn(move |_: Request<Incoming>| {
                    running.set(running.get() + 1);
                    let (mut gone, open) = (gone.clone(), Open(running.clone()));
                    async move {
                        let _open = open;
                        let _ = gone.wait_for(|go| *go).await;
                        Ok::<_, std::convert::Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
                    }
                });
                async move {
                    let connection = hyper::server::conn::http2::Builder::new(LocalExecutor)
                        .max_concurrent_streams(max_streams)
                        .serve_connection(TokioIo::new(stream), service);
                    let mut connection = std::pin::pin!(connection);
                    tokio::select! {
                        _ = &mut connection => return,
                        () = goaway.notified() => connection.as_mut().graceful_shutdown(),
                    }
                    let _ = connection.await;
                }
            }
        })
        .await;
        Self { origin, running, go, goaway }
    }

    /// Lets all requests go, those that come later too.
    pub(super) fn go(&self) {
        self.go.send_replace(true);
    }

    pub(super) fn go_away(&self) {
        self.goaway.notify_waiters();
    }
}
