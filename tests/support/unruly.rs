//! Origins that misbehave on purpose, each in a way that can be changed while it runs.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hyper::{Request, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::{
    driver,
    origin::{Scripted, answer_with, with_trailers},
    weir::unused_address,
};

/// How an origin behaves. Each request finds the mode that holds when it comes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    /// It answers 200 at once.
    Good,
    /// It answers 200 after this time.
    Slow(Duration),
    /// It answers at once with this status.
    Status(u16),
    /// It answers a gRPC request with this `grpc-status` in its trailers; others as [`Mode::Good`].
    Grpc(u16),
    /// It reads the request and resets the connection (HTTP/2: the stream).
    Reset,
    /// It breaks off inside of the answer's head (HTTP/2: as [`Mode::Reset`]).
    HalfHead,
    /// It breaks off inside of the answer's body (HTTP/2: as [`Mode::Reset`]).
    HalfBody,
    /// It accepts connections and requests and never answers. Requests that hang go on hanging in other modes.
    Silent,
    /// Nobody listens there, and connections that are open are closed.
    Refuse,
    /// It is good and answers 500, for this long each.
    Flapping(Duration),
}

impl Mode {
    /// The mode that holds now, of those that change by themselves.
    fn now(self, since: Instant) -> Self {
        match self {
            Self::Flapping(period) => {
                let turns = since.elapsed().as_micros() / period.as_micros().max(1);
                if turns.is_multiple_of(2) { Self::Good } else { Self::Status(500) }
            }
            mode => mode,
        }
    }
}

/// See the module. It signs its answers with its name, in `x-origin`.
#[derive(Debug)]
pub struct Unruly {
    /// Where it listens; nobody else does while it refuses.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    mode: watch::Sender<(Mode, Instant)>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    seen: Mutex<Vec<Instant>>,
    checks: AtomicUsize,
    accepted: AtomicUsize,
    hanging: AtomicUsize,
}

impl Unruly {
    /// Starts a good one.
    pub fn start(name: &str) -> Self {
        let address = unused_address();
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            seen: Mutex::default(),
            checks: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            hanging: AtomicUsize::new(0),
        });
        let (mode, watched) = watch::channel((Mode::Good, Instant::now()));
        let listener = driver::run(async move { listen(address).unwrap() });
        driver::spawn(accept(address, listener, Arc::clone(&shared), watched));
        Self { address, shared, mode }
    }

    /// From now on it behaves like this.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace((mode, Instant::now()));
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// How many requests came so far, without health checks.
    pub fn requests(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    /// How many requests came since then, without health checks.
    pub fn requests_since(&self, since: Instant) -> usize {
        self.shared.seen.lock().unwrap().iter().filter(|at| **at >= since).count()
    }

    /// How long after `since` traffic had left it: from then on no second had more than two requests for it.
    pub fn left_after(&self, since: Instant) -> Duration {
        let seen: Vec<Instant> =
            self.shared.seen.lock().unwrap().iter().copied().filter(|at| *at >= since).collect();
        let close = |three: &[Instant]| three[2].duration_since(three[0]) < Duration::from_secs(1);
        seen.windows(3).filter(|three| close(three)).map(|three| three[2] - since).max().unwrap_or_default()
    }

    /// How many health checks came so far: requests for `/healthz`.
    pub fn checks(&self) -> usize {
        self.shared.checks.load(Ordering::SeqCst)
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How many requests hang here now.
    pub fn hanging(&self) -> usize {
        self.shared.hanging.load(Ordering::SeqCst)
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    // It comes back on the same port while old connections are still in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

type Watched = watch::Receiver<(Mode, Instant)>;

async fn accept(address: SocketAddr, listener: TcpListener, shared: Arc<Shared>, mut watched: Watched) {
    let mut listener = Some(listener);
    loop {
        let refuses = watched.borrow_and_update().0 == Mode::Refuse;
        if refuses {
            listener = None;
        } else if listener.is_none() {
            listener = listen(address).ok();
        }
        tokio::select! {
            changed = watched.changed() => if changed.is_err() { return },
            accepted = next(listener.as_ref()) => {
                let Ok((stream, _)) = accepted else { continue };
                shared.accepted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(connection(stream, Arc::clone(&shared), watched.clone()));
            }
        }
    }
}

async fn next(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>, watched: Watched) {
    let _ = stream.set_nodelay(true);
    let mut refused = watched.clone();
    let gone = async move {
        // Also when the origin is dropped.
        let _ = refused.wait_for(|(mode, _)| *mode == Mode::Refuse).await;
    };
    let served = async move {
        let mut start = [0; 4];
        while matches!(stream.peek(&mut start).await, Ok(1..4)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if &start == b"PRI " {
            over2(stream, shared, watched).await;
        } else {
            let _ = over1(stream, shared, watched).await;
        }
    };
    tokio::select! {
        () = served => {}
        () = gone => {}
    }
}

impl Shared {
    /// Counts a request, and says how to behave.
    fn came(&self, path: &str, watched: &Watched) -> Mode {
        if path.starts_with("/healthz") {
            self.checks.fetch_add(1, Ordering::SeqCst);
        } else {
            self.seen.lock().unwrap().push(Instant::now());
        }
        let (mode, since) = *watched.borrow();
        mode.now(since)
    }

    /// Hangs until whoever waits gives up.
    async fn hang(&self) {
        struct Hanging<'a>(&'a AtomicUsize);
        impl Drop for Hanging<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.hanging.fetch_add(1, Ordering::SeqCst);
        let _hanging = Hanging(&self.hanging);
        std::future::pending::<()>().await;
    }
}

/// HTTP/1.1, by hand: only so can an answer break off wherever one likes. Requests have no bodies.
async fn over1(mut stream: TcpStream, shared: Arc<Shared>, watched: Watched) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|part| part == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let head: Vec<u8> = buffer.drain(..end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let path = head.split(' ').nth(1).unwrap_or_default();
        let name = &shared.name;
        let status = match shared.came(path, &watched) {
            Mode::Good | Mode::Grpc(_) | Mode::Flapping(_) => 200,
            Mode::Slow(time) => {
                tokio::time::sleep(time).await;
                200
            }
            Mode::Status(status) => status,
            Mode::Reset => {
                socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                return Ok(());
            }
            Mode::HalfHead => return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-le").await,
            Mode::HalfBody => {
                let text = format!("HTTP/1.1 200 OK\r\nx-origin: {name}\r\ncontent-length: 100\r\n\r\nhalf");
                return stream.write_all(text.as_bytes()).await;
            }
            Mode::Silent => {
                // Whoever gives up closes the connection.
                tokio::select! {
                    () = shared.hang() => {}
                    _ = stream.read_buf(&mut buffer) => {}
                }
                return Ok(());
            }
            Mode::Refuse => return Ok(()),
        };
        let length = name.len();
        let text =
            format!("HTTP/1.1 {status} -\r\nx-origin: {name}\r\ncontent-length: {length}\r\n\r\n{name}");
        stream.write_all(text.as_bytes()).await?;
    }
}

async fn over2(stream: TcpStream, shared: Arc<Shared>, watched: Watched) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (shared, watched) = (Arc::clone(&shared), watched.clone());
        async move { answer2(&request, &shared, &watched).await }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new());
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer2(request: &Request<Incoming>, shared: &Shared, watched: &Watched) -> Scripted {
    let content_type = request.headers().get("content-type").map_or(&b""[..], |value| value.as_bytes());
    let is_grpc = content_type.starts_with(b"application/grpc");
    let mode = shared.came(request.uri().path(), watched);
    let status = match mode {
        Mode::Good | Mode::Grpc(_) | Mode::Flapping(_) => 200,
        Mode::Slow(time) => {
            tokio::time::sleep(time).await;
            200
        }
        Mode::Status(status) => status,
        Mode::Reset | Mode::HalfHead | Mode::HalfBody | Mode::Refuse => {
            return Err(io::Error::other("reset on purpose"));
        }
        Mode::Silent => {
            shared.hang().await;
            200
        }
    };
    if is_grpc && status == 200 {
        let code = match mode {
            Mode::Grpc(code) => code,
            _ => 0,
        };
        // One message without content, then the status.
        let code: &'static str = CODES[usize::from(code.min(16))];
        let mut answer = with_trailers(200, "\0\0\0\0\0", &[("grpc-status", code)]);
        answer.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        answer.headers_mut().insert("x-origin", shared.name.parse().unwrap());
        return Ok(answer);
    }
    let body = super::client::full(shared.name.clone());
    Ok(answer_with(status, &[("x-origin", &shared.name)], body))
}

const CODES: [&str; 17] =
    ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"];
