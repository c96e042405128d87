//! A well-behaved client: one connection of HTTP/1.1 or HTTP/2, in clear or under TLS.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response, Version,
    body::{Frame, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::mpsc,
};
use tokio_rustls::TlsConnector;

use super::driver;

/// The body of requests and of origins' answers.
pub type Body = BoxBody<Bytes, io::Error>;

/// No body.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// A body of known length.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A body of unknown length, and its other end.
pub fn fed() -> (Feed, Body) {
    let (feed, frames) = mpsc::unbounded_channel();
    (Feed(feed), Fed(frames).boxed())
}

/// What a test feeds a body with, piece by piece; dropping it ends the body.
#[derive(Debug, Clone)]
pub struct Feed(mpsc::UnboundedSender<io::Result<Frame<Bytes>>>);

impl Feed {
    /// More data; false when nobody reads the body any more.
    pub fn data(&self, bytes: impl Into<Bytes>) -> bool {
        self.0.send(Ok(Frame::data(bytes.into()))).is_ok()
    }

    /// Trailers, which end the body.
    pub fn trailers(&self, trailers: HeaderMap) -> bool {
        self.0.send(Ok(Frame::trailers(trailers))).is_ok()
    }

    /// Breaks the body off: the connection (HTTP/1.1) or the stream (HTTP/2) is reset.
    pub fn fail(&self) -> bool {
        self.0.send(Err(io::Error::other("broken off on purpose"))).is_ok()
    }

    /// Whether nobody reads the body any more.
    pub fn is_abandoned(&self) -> bool {
        self.0.is_closed()
    }
}

struct Fed(mpsc::UnboundedReceiver<io::Result<Frame<Bytes>>>);

impl hyper::body::Body for Fed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context)
    }
}

/// A request with these headers.
#[track_caller]
pub fn request(method: &str, uri: &str, headers: &[(&str, &str)], body: Body) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

/// A complete answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The version it came in.
    pub version: Version,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// Its trailers; empty when there were none.
    pub trailers: HeaderMap,
}

impl Answer {
    /// A header's first value as text; empty when there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The member `reason` of a problem document.
    #[track_caller]
    pub fn reason(&self) -> String {
        self.json()["reason"].as_str().unwrap_or_default().to_owned()
    }
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Streaming {
    /// The status and the headers.
    pub head: hyper::http::response::Parts,
    body: Option<Incoming>, // lent to the driver while a frame is awaited
}

impl Streaming {
    fn of(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        Self { head, body: Some(body) }
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.head.status.as_u16()
    }

    /// The next frame of the body, empty ones passed over; `None` at its end.
    #[track_caller]
    pub fn next(&mut self) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        let mut body = self.body.take().expect("the body");
        let (frame, body) = driver::run(async move {
            loop {
                match body.frame().await {
                    Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
                    other => return (other, body),
                }
            }
        });
        self.body = Some(body);
        frame
    }

    /// The next data of the body as text.
    #[track_caller]
    pub fn next_text(&mut self) -> String {
        let data =
            self.next().expect("more body").expect("no fault").into_data().expect("data, not trailers");
        String::from_utf8_lossy(&data).into_owned()
    }

    /// The rest of the answer.
    #[track_caller]
    pub fn collect(mut self) -> Result<Answer, hyper::Error> {
        let body = self.body.take().expect("the body");
        driver::run(collect(Response::from_parts(self.head, body)))
    }

    /// The body, for code that runs on the driver.
    #[track_caller]
    pub fn into_body(mut self) -> Incoming {
        self.body.take().expect("the body")
    }
}

async fn collect(response: Response<Incoming>) -> Result<Answer, hyper::Error> {
    let (head, body) = response.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    Ok(Answer {
        status: head.status.as_u16(),
        version: head.version,
        headers: head.headers,
        body: collected.to_bytes(),
        trailers,
    })
}

/// One connection to a server. Clones share it.
#[derive(Debug, Clone)]
pub struct Client(Sender);

#[derive(Debug, Clone)]
enum Sender {
    One(Arc<tokio::sync::Mutex<http1::SendRequest<Body>>>),
    Two(http2::SendRequest<Body>),
}

impl Client {
    /// HTTP/1.1 in clear.
    #[track_caller]
    pub fn http1(address: SocketAddr) -> Self {
        driver::run(async move { Self::over1(TcpStream::connect(address).await.unwrap()).await })
    }

    /// HTTP/2 in clear, by prior knowledge.
    #[track_caller]
    pub fn http2(address: SocketAddr) -> Self {
        driver::run(async move { Self::over2(TcpStream::connect(address).await.unwrap()).await })
    }

    /// Under TLS, as `localhost`; the protocol is what ALPN agrees on.
    #[track_caller]
    pub fn tls(address: SocketAddr, config: Arc<rustls::ClientConfig>) -> io::Result<Self> {
        driver::run(async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from("localhost").unwrap();
            let stream = TlsConnector::from(config).connect(name, stream).await?;
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                Ok(Self::over2(stream).await)
            } else {
                Ok(Self::over1(stream).await)
            }
        })
    }

    async fn over1(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
        tokio::spawn(connection.with_upgrades());
        Self(Sender::One(Arc::new(tokio::sync::Mutex::new(sender))))
    }

    async fn over2(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let connecting = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = connecting.await.expect("a handshake");
        tokio::spawn(connection);
        Self(Sender::Two(sender))
    }

    /// Sends, for code that runs on the driver.
    pub async fn exchange(&self, request: Request<Body>) -> Result<Response<Incoming>, hyper::Error> {
        match &self.0 {
            Sender::One(sender) => {
                let mut sender = sender.lock().await;
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Two(sender) => {
                let mut sender = sender.clone();
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    /// Sends and reads the whole answer, for code that runs on the driver.
    pub async fn fetch(&self, request: Request<Body>) -> Result<Answer, hyper::Error> {
        collect(self.exchange(request).await?).await
    }

    /// Sends and waits for the answer's head.
    #[track_caller]
    pub fn open(&self, request: Request<Body>) -> Result<Streaming, hyper::Error> {
        let client = self.clone();
        driver::run(async move { client.exchange(request).await }).map(Streaming::of)
    }

    /// Sends and reads the whole answer.
    #[track_caller]
    pub fn send(&self, request: Request<Body>) -> Answer {
        let client = self.clone();
        driver::run(async move { client.fetch(request).await }).expect("an answer")
    }

    /// Sends without waiting; the result comes through the handle. Aborting it is a client that goes away.
    pub fn start(&self, request: Request<Body>) -> tokio::task::JoinHandle<Result<Answer, hyper::Error>> {
        let client = self.clone();
        driver::spawn(async move { client.fetch(request).await })
    }

    /// A GET with nothing special about it.
    #[track_caller]
    pub fn get(&self, host: &str, path: &str) -> Answer {
        self.send(self.to(host, "GET", path, &[], empty()))
    }

    /// A request in the form that the connection's version wants: `Host` or `:authority`.
    #[track_caller]
    pub fn to(
        &self,
        host: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Request<Body> {
        match &self.0 {
            Sender::One(_) => {
                let headers: Vec<_> = [("host", host)].into_iter().chain(headers.iter().copied()).collect();
                request(method, path, &headers, body)
            }
            Sender::Two(_) => request(method, &format!("http://{host}{path}"), headers, body),
        }
    }
}
