//! The toys: three instances of a small "orders shop", each with a character of its own.
//!
//! They are real HTTP/1.1 servers on loopback ports, so that Weir before them meets what it meets in earnest:
//! one is slow, one fails now and then, and any of them can be stopped (its port closes and its connections
//! break), slowed down or broken while the demo runs.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    body::{Body, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::Sleep};

/// The body of a toy's answer.
pub(super) type ToyBody = BoxBody<Bytes, Infallible>;

/// What an instance is like when nobody meddles with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Character {
    /// Answers in 2–5 ms.
    Normal,
    /// Answers in 40–80 ms.
    Slow,
    /// Answers in 2–5 ms, one in twenty with 503, and every fifteen seconds half of them for two seconds.
    Flaky,
}

impl Character {
    /// Its name on the screen.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Slow => "slow",
            Self::Flaky => "flaky",
        }
    }

    /// How long it thinks about an answer, for a draw of 0–1.
    fn pause(self, draw: f64) -> Duration {
        let (from, to) = match self {
            Self::Normal | Self::Flaky => (0.002, 0.005),
            Self::Slow => (0.040, 0.080),
        };
        Duration::from_secs_f64(from + (to - from) * draw)
    }

    /// Its share of failures (0–1) this long after the start.
    fn failing(self, age: Duration) -> f64 {
        const PERIOD: u64 = 15;
        const BURST: u64 = 2;
        match self {
            Self::Normal | Self::Slow => 0.0,
            Self::Flaky if age.as_secs() % PERIOD >= PERIOD - BURST => 0.5,
            Self::Flaky => 0.05,
        }
    }
}

/// A running instance. Dropping it does not stop its task; ending the runtime does.
#[derive(Debug)]
pub(super) struct Toy {
    /// `a`, `b`, `c`: also the value of `x-instance`.
    pub(super) name: &'static str,
    /// What it is like by nature.
    pub(super) character: Character,
    /// Where it listens.
    pub(super) address: SocketAddr,
    running: watch::Sender<bool>,
    extra_ms: AtomicU32,
    fail_percent: AtomicU32,
    answered: AtomicU64,
    orders: AtomicU64,
    started: Instant,
}

/// The longest delay that a toy can be told to add, in milliseconds.
pub(super) const MAX_EXTRA_MS: u32 = 60_000;

impl Toy {
    /// Starts an instance on a free loopback port.
    pub(super) async fn start(name: &'static str, character: Character) -> std::io::Result<Arc<Self>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (running, orders_to_run) = watch::channel(true);
        let toy = Arc::new(Self {
            name,
            character,
            address: listener.local_addr()?,
            running,
            extra_ms: AtomicU32::new(0),
            fail_percent: AtomicU32::new(0),
            answered: AtomicU64::new(0),
            orders: AtomicU64::new(0),
            started: Instant::now(),
        });
        tokio::spawn(Arc::clone(&toy).run(listener, orders_to_run));
        Ok(toy)
    }

    /// Closes its port and breaks its connections, or opens the port again.
    pub(super) fn set_running(&self, running: bool) {
        self.running.send_replace(running);
    }

    /// Adds a delay to every answer, at most [`MAX_EXTRA_MS`].
    pub(super) fn set_extra_ms(&self, ms: u32) {
        self.extra_ms.store(ms.min(MAX_EXTRA_MS), Ordering::Relaxed);
    }

    /// Makes this share of answers fail (0–100), beside those that fail by its nature.
    pub(super) fn set_fail_percent(&self, percent: u32) {
        self.fail_percent.store(percent.min(100), Ordering::Relaxed);
    }

    /// Whether it takes requests.
    pub(super) fn is_running(&self) -> bool {
        *self.running.borrow()
    }

    /// The delay that was added, in milliseconds.
    pub(super) fn extra_ms(&self) -> u32 {
        self.extra_ms.load(Ordering::Relaxed)
    }

    /// The share of failures that was added, in percent.
    pub(super) fn fail_percent(&self) -> u32 {
        self.fail_percent.load(Ordering::Relaxed)
    }

    /// How many requests it has answered.
    pub(super) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    async fn run(self: Arc<Self>, first: TcpListener, mut running: watch::Receiver<bool>) {
        let mut listener = Some(first);
        loop {
            if running.wait_for(|run| *run).await.is_err() {
                return;
            }
            let open = match listener.take() {
                Some(open) => open,
                None => match TcpListener::bind(self.address).await {
                    Ok(open) => open,
                    Err(_taken_for_now) => {
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        continue;
                    }
                },
            };
            tokio::select! {
                () = Arc::clone(&self).serve(open) => {}
                _ = running.wait_for(|run| !*run) => {}
            }
        }
    }

    /// Accepts until it is dropped; its connections end with it.
    async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            // Small answers must not wait for an acknowledgement; without the option they are only slower.
            drop(stream.set_nodelay(true));
            let toy = Arc::clone(&self);
            connections.spawn(async move {
                let service = service_fn(move |request| Arc::clone(&toy).answer(request));
                // A connection that breaks is nothing to report here: the callers' side counts it.
                drop(
                    http1::Builder::new()
                        .timer(TokioTimer::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await,
                );
            });
            while connections.try_join_next().is_some() {}
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<ToyBody>, hyper::Error> {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        let mut response = if path == "/healthz" {
            text(StatusCode::OK, "fine\n")
        } else {
            let pause = self.character.pause(fastrand::f64());
            tokio::time::sleep(pause + Duration::from_millis(self.extra_ms().into())).await;
            if self.fails(fastrand::f64()) {
                text(StatusCode::SERVICE_UNAVAILABLE, "the shop is out of breath\n")
            } else {
                self.page(&head, body).await?
            }
        };
        response.headers_mut().insert("x-instance", HeaderValue::from_static(self.name));
        self.answered.fetch_add(1, Ordering::Relaxed);
        Ok(response)
    }

    fn fails(&self, draw: f64) -> bool {
        let by_order = f64::from(self.fail_percent()) / 100.0;
        draw < self.character.failing(self.started.elapsed()).max(by_order)
    }

    async fn page(
        &self,
        head: &http::request::Parts,
        body: Incoming,
    ) -> Result<Response<ToyBody>, hyper::Error> {
        let path = head.uri.path();
        let of_header =
            |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("-").to_owned();
        Ok(match (&head.method, path) {
            (&Method::GET | &Method::HEAD, "/") => text(
                StatusCode::OK,
                &format!(
                    "Welcome to the orders shop, instance {} ({}).\nYour request has the id {}.\n",
                    self.name,
                    self.character.as_str(),
                    of_header("x-request-id")
                ),
            ),
            (&Method::POST, "/checkout") => {
                let bytes = length(body).await?;
                let order = self.orders.fetch_add(1, Ordering::Relaxed) + 1;
                json(&serde_json::json!({
                    "order": format!("{}-{order}", self.name), "bytes": bytes, "channel": of_header("x-shop-channel"),
                }))
            }
            (&Method::GET | &Method::HEAD, "/slow") => {
                tokio::time::sleep(Duration::from_millis(750)).await;
                text(StatusCode::OK, "That took three quarters of a second.\n")
            }
            (&Method::GET, "/stream") => streamed(),
            (_, "/upload") => json(&serde_json::json!({ "bytes": length(body).await? })),
            (&Method::GET | &Method::HEAD, path) if path.starts_with("/recommendations/") => json(
                &serde_json::json!({ "path_as_the_shop_saw_it": path, "items": ["tea", "scones", "clotted cream"] }),
            ),
            _ => text(StatusCode::NOT_FOUND, "The shop has no such page.\n"),
        })
    }
}

/// Reads a body to its end and says how long it was.
async fn length(mut body: Incoming) -> Result<u64, hyper::Error> {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(bytes)
}

/// An answer of plain text.
pub(super) fn text(status: StatusCode, text: &str) -> Response<ToyBody> {
    answer(status, "text/plain; charset=utf-8", Full::from(text.to_owned()).boxed())
}

/// An answer of JSON.
pub(super) fn json(value: &serde_json::Value) -> Response<ToyBody> {
    answer(StatusCode::OK, "application/json", Full::from(format!("{value}\n")).boxed())
}

fn streamed() -> Response<ToyBody> {
    answer(StatusCode::OK, "text/plain; charset=utf-8", Drip::new(5, Duration::from_millis(20)).boxed())
}

fn answer(status: StatusCode, kind: &'static str, body: ToyBody) -> Response<ToyBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A body of unknown length that comes line by line.
struct Drip {
    line: u32,
    lines: u32,
    every: Duration,
    next: Pin<Box<Sleep>>,
}

impl Drip {
    fn new(lines: u32, every: Duration) -> Self {
        Self { line: 0, lines, every, next: Box::pin(tokio::time::sleep(Duration::ZERO)) }
    }
}

impl Body for Drip {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.line == self.lines {
            return Poll::Ready(None);
        }
        ready!(self.next.as_mut().poll(cx));
        self.line += 1;
        let after = tokio::time::Instant::now() + self.every;
        self.next.as_mut().reset(after);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(format!("parcel {} of {}\n", self.line, self.lines))))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_character_keeps_to_its_pace() {
        for draw in [0.0, 0.5, 1.0] {
            let normal = Character::Normal.pause(draw);
            assert!((2..=5).contains(&normal.as_millis()), "{normal:?}");
            let slow = Character::Slow.pause(draw);
            assert!((40..=80).contains(&slow.as_millis()), "{slow:?}");
        }
    }

    #[test]
    fn only_the_flaky_one_fails_and_sometimes_in_bursts() {
        let shares = |c: Character| (0..30).map(move |s| c.failing(Duration::from_secs(s)));
        assert!(shares(Character::Normal).chain(shares(Character::Slow)).all(|share| share == 0.0));
        assert!(shares(Character::Flaky).all(|share| share > 0.0));
        assert_eq!(shares(Character::Flaky).filter(|share| *share >= 0.5).count(), 4, "2 s of each 15 s");
    }
}
