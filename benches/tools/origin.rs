//! An origin that answers after a time, so that as many exchanges are open as there are clients; and the one for gRPC.

use std::{cell::Cell, convert::Infallible, net::SocketAddr, rc::Rc, time::Duration};

use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Either, Full, combinators::WithTrailers};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use crate::serve::{self, Local};

/// Answers everything in the same way, but `/served` with how many other requests have come so far.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[arg(long)]
    listen: SocketAddr,
    /// Before each answer, milliseconds.
    #[arg(long, default_value_t = 0)]
    delay: u64,
    /// Bytes of body, or of the gRPC message.
    #[arg(long, default_value_t = 100)]
    size: usize,
    /// HTTP/2 with prior knowledge, and answers as those of a unary call: a message, then trailers.
    #[arg(long)]
    grpc: bool,
}

struct Origin {
    delay: Duration,
    body: Bytes,
    grpc: bool,
    served: Cell<u64>,
}

type Trailers = std::future::Ready<Option<Result<HeaderMap, Infallible>>>;
type Out = Response<Either<Full<Bytes>, WithTrailers<Full<Bytes>, Trailers>>>;

pub(crate) fn run(arguments: &Arguments) {
    let (delay, grpc) = (Duration::from_millis(arguments.delay), arguments.grpc);
    let mut body = vec![b'.'; arguments.size];
    if grpc {
        // How gRPC frames a message: not compressed, then its length in four bytes.
        let length = u32::try_from(arguments.size).expect("a message below 4 GiB").to_be_bytes();
        body.splice(0..0, [0].into_iter().chain(length));
    }
    let body = Bytes::from(body);
    let start = move || Origin { delay, body: body.clone(), grpc, served: Cell::new(0) };
    serve::forever(arguments.listen, 1, start, serve_connection);
}

async fn serve_connection(origin: Rc<Origin>, stream: TcpStream) {
    let grpc = origin.grpc;
    let service = service_fn(move |request| {
        let origin = origin.clone();
        async move { Ok::<_, Infallible>(answer(&origin, request).await) }
    });
    let io = TokioIo::new(stream);
    let _ = if grpc {
        let mut server = http2::Builder::new(Local);
        server.timer(TokioTimer::new()).max_concurrent_streams(1024);
        server.serve_connection(io, service).await
    } else {
        http1::Builder::new().header_read_timeout(None).serve_connection(io, service).await
    };
}

async fn answer(origin: &Origin, request: Request<Incoming>) -> Out {
    if request.uri().path() == "/served" {
        return Response::new(Either::Left(Full::from(origin.served.get().to_string())));
    }
    origin.served.set(origin.served.get() + 1);
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    if !origin.delay.is_zero() {
        tokio::time::sleep(origin.delay).await;
    }
    let message = Full::new(origin.body.clone());
    if !origin.grpc {
        return Response::new(Either::Left(message));
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let message = message.with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(Either::Right(message));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
