//! A bare hyper proxy: a server, a client and a pool, nothing else. It removes hop-by-hop fields, as every proxy must.

use std::{convert::Infallible, net::SocketAddr, path::PathBuf, rc::Rc, sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE},
};
use http_body_util::{Either, Empty};
use hyper::{
    body::{Bytes, Incoming},
    rt::{Read, Write},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::{
    pool::{Answer, Pool},
    serve::{self, Local},
};

/// Forwards every request to one address.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Clients speak HTTP/2 with prior knowledge.
    #[arg(long)]
    http2: bool,
    /// The origin speaks HTTP/2 with prior knowledge.
    #[arg(long)]
    http2_origin: bool,
    /// Connections that were not needed for this long are closed, seconds.
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// A folder with cert.pem and key.pem: clients speak TLS.
    #[arg(long)]
    tls: Option<PathBuf>,
}

/// What the connections of one thread share.
struct Bare {
    pool: Rc<Pool>,
    http2: bool,
    http2_origin: bool,
    tls: Option<TlsAcceptor>,
}

type Out = Response<Either<Answer, Empty<Bytes>>>;

pub(crate) fn run(arguments: &Arguments) {
    let tls = arguments.tls.as_ref().map(|folder| Arc::new(server_config(folder)));
    let (to, idle) = (arguments.to, Duration::from_secs(arguments.idle));
    let (http2, http2_origin) = (arguments.http2, arguments.http2_origin);
    let start = move || Bare {
        pool: Pool::new(to, idle),
        http2,
        http2_origin,
        tls: tls.clone().map(TlsAcceptor::from),
    };
    serve::forever(arguments.listen, arguments.workers, start, accepted);
}

fn server_config(folder: &std::path::Path) -> ServerConfig {
    let certificate = CertificateDer::from_pem_file(folder.join("cert.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).expect("a key");
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a certificate and its key")
}

async fn accepted(bare: Rc<Bare>, stream: TcpStream) {
    match &bare.tls {
        None => serve_connection(bare, TokioIo::new(stream)).await,
        Some(acceptor) => {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            serve_connection(bare, TokioIo::new(stream)).await;
        }
    }
}

async fn serve_connection<IO: Read + Write + Unpin + 'static>(bare: Rc<Bare>, io: IO) {
    let http2 = bare.http2;
    let service = service_fn(move |request| {
        let bare = bare.clone();
        async move { Ok::<_, Infallible>(forward(&bare, request).await.unwrap_or_else(bad_gateway)) }
    });
    let _ = if http2 {
        let mut server = http2::Builder::new(Local);
        server.auto_date_header(false).timer(TokioTimer::new());
        server.serve_connection(io, service).await
    } else {
        let mut server = http1::Builder::new();
        server.writev(false).auto_date_header(false).header_read_timeout(None);
        server.serve_connection(io, service).await
    };
}

/// `None` when the origin cannot be had.
async fn forward(bare: &Bare, mut request: Request<Incoming>) -> Option<Out> {
    remove_hop_by_hop(request.headers_mut());
    let mut response = if bare.http2_origin {
        let mut sender = bare.pool.http2().await?;
        let response = sender.send_request(request).await.ok()?;
        response.map(|body| Answer::new(body, None))
    } else {
        into_http1(&mut request);
        let mut sender = bare.pool.http1().await?;
        let response = sender.send_request(request).await.ok()?;
        response.map(|body| Answer::new(body, Some((bare.pool.clone(), sender))))
    };
    remove_hop_by_hop(response.headers_mut());
    Some(response.map(Either::Left))
}

/// HTTP/2's authority becomes the Host, and its target a path.
fn into_http1(request: &mut Request<Incoming>) {
    if request.version() != Version::HTTP_2 {
        return;
    }
    *request.version_mut() = Version::HTTP_11;
    if let Some(authority) = request.uri().authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(HOST, host);
    }
    if let Some(path) = request.uri().path_and_query() {
        *request.uri_mut() = Uri::from(path.clone());
    }
}

/// RFC 9110 §7.6.1. `TE: trailers` stays: gRPC wants it, and over HTTP/2 it may.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    if let Some(named) = headers.remove(CONNECTION) {
        for name in named.to_str().unwrap_or_default().split(',') {
            headers.remove(name.trim());
        }
    }
    for name in
        [KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TRANSFER_ENCODING, UPGRADE]
    {
        headers.remove(name);
    }
    if headers.get(TE).is_some_and(|te| te != "trailers") {
        headers.remove(TE);
    }
}

fn bad_gateway() -> Out {
    let mut response = Response::new(Either::Right(Empty::new()));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}
