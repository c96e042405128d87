//! Checks over real sockets, against origins on the same runtime that behave and that do not.

use std::{convert::Infallible, net::SocketAddr, ops::RangeInclusive, path::Path};

use ::http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener},
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    config::policy::ClientTls,
    health::grpc::{CheckResponse, ServingStatus, framed},
};

const LIMIT: Duration = Duration::from_secs(20);

fn question(check: HealthCheck) -> Question {
    let config =
        Health { check, port: None, interval: Duration::from_secs(5), timeout: LIMIT, rise: 2, fall: 3 };
    let connector = Arc::new(Connector::new(LIMIT, 65_536, 100, None).unwrap());
    Question { config, protocol: UpstreamProtocol::Auto, connector }
}

fn http(expect: RangeInclusive<u16>, contains: Option<&str>) -> Question {
    question(HealthCheck::Http {
        method: Method::GET,
        path: "/healthz?deep=1".into(),
        host: None,
        expect: vec![expect],
        contains: contains.map(Into::into),
    })
}

fn exchange_of(send: &'static [u8], expect: &'static [u8]) -> Question {
    question(HealthCheck::Exchange { send: send.into(), expect: expect.into() })
}

impl Question {
    fn within(mut self, timeout: Duration) -> Self {
        self.config.timeout = timeout;
        self
    }

    fn speaking(mut self, protocol: UpstreamProtocol) -> Self {
        self.protocol = protocol;
        self
    }

    fn under(mut self, tls: &ClientTls) -> Self {
        self.connector = Arc::new(Connector::new(LIMIT, 65_536, 100, Some(tls)).unwrap());
        self
    }

    /// As what the check of this endpoint counts, and what it says.
    async fn of(&self, address: SocketAddr) -> (HealthResult, String) {
        match self.ask(&EndpointAddress::Socket(address)).await {
            Ok(()) => (HealthResult::Success, String::new()),
            Err(fault) => (fault.result, fault.to_string()),
        }
    }
}

fn good() -> (HealthResult, String) {
    (HealthResult::Success, String::new())
}

fn bad(text: &str) -> (HealthResult, String) {
    (HealthResult::Failure, text.to_owned())
}

/// Does `serve` with each connection.
async fn origin<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// Reads what comes, and answers `answer` when it is the end of a head.
async fn scripted(answer: &'static [u8]) -> SocketAddr {
    origin(move |mut stream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let _ = stream.write_all(answer).await;
    })
    .await
}

async fn silent() -> SocketAddr {
    origin(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await
}

async fn resetting() -> SocketAddr {
    origin(|mut stream| async move {
        let _ = stream.read(&mut [0; 16]).await;
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    })
    .await
}

/// An address that nobody listens at.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_request_is_what_it_should_be() {
    let (sender, mut heads) = tokio::sync::mpsc::unbounded_channel();
    let address = origin(move |mut stream| {
        let sender = sender.clone();
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap() > 0 {}
            sender.send((String::from_utf8(head).unwrap(), stream.peer_addr().unwrap())).unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "the connection is closed after the check");
        }
    })
    .await;
    assert_eq!(http(200..=299, None).of(address).await, good());
    let (head, first) = heads.recv().await.unwrap();
    assert!(head.starts_with("GET /healthz?deep=1 HTTP/1.1\r\n"), "{head}");
    for line in
        [format!("user-agent: weir-health/{}\r\n", env!("CARGO_PKG_VERSION")), format!("host: {address}\r\n")]
    {
        assert!(head.to_lowercase().contains(&line), "{head}");
    }
    let mut named = http(200..=299, None);
    let HealthCheck::Http { method, host, .. } = &mut named.config.check else { unreachable!() };
    (*method, *host) = (Method::HEAD, Some(HeaderValue::from_static("shop.example")));
    assert_eq!(named.of(address).await, good());
    let (head, second) = heads.recv().await.unwrap();
    assert!(head.starts_with("HEAD ") && head.to_lowercase().contains("host: shop.example\r\n"), "{head}");
    assert_ne!(first, second, "each on a connection of its own");
}

#[tokio::test]
async fn a_status_that_is_not_expected_is_bad_a_redirect_too() {
    let check = http(200..=299, None);
    for (answer, said) in [
        (&b"HTTP/1.1 199 A\r\ncontent-length: 0\r\n\r\n"[..], None),
        (b"HTTP/1.1 200 A\r\ncontent-length: 0\r\n\r\n", Some(good())),
        (b"HTTP/1.1 299 A\r\ncontent-length: 0\r\n\r\n", Some(good())),
        (b"HTTP/1.1 300 A\r\ncontent-length: 0\r\n\r\n", Some(bad("status 300"))),
        (b"HTTP/1.1 302 A\r\nlocation: /\r\ncontent-length: 0\r\n\r\n", Some(bad("status 302"))),
        (b"HTTP/1.1 500 A\r\ncontent-length: 0\r\n\r\n", Some(bad("status 500"))),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 A\r\ncontent-length: 0\r\n\r\n", Some(good())),
    ] {
        let result = check.of(scripted(answer).await).await;
        match said {
            Some(said) => assert_eq!(result, said),
            None => assert_eq!(result.0, HealthResult::Failure),
        }
    }
    let redirect = scripted(b"HTTP/1.1 302 A\r\nlocation: /\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(http(302..=302, None).of(redirect).await, good(), "where it is expected");
}

#[tokio::test]
async fn the_body_has_to_contain_what_it_should_in_its_first_64_kib() {
    let with_body = |body: Vec<u8>| async move {
        let mut answer = format!("HTTP/1.1 200 A\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
        answer.extend(body);
        scripted(answer.leak()).await
    };
    let check = http(200..=200, Some("status: fine"));
    assert_eq!(check.of(with_body(b"{status: fine}".to_vec()).await).await, good());
    let parts =
        b"HTTP/1.1 200 A\r\ntransfer-encoding: chunked\r\n\r\n9\r\nstatus: f\r\n3\r\nine\r\n0\r\n\r\n";
    assert_eq!(check.of(scripted(parts).await).await, good(), "though it comes in two");
    let other = with_body(b"{status: bad}".to_vec()).await;
    assert_eq!(check.of(other).await, bad("the body does not contain what it should"));
    let mut long = vec![b'x'; LONGEST - 12];
    long.extend(b"status: fine");
    assert_eq!(check.of(with_body(long.clone()).await).await, good(), "just within");
    long.insert(0, b'x');
    long.extend(vec![b'x'; LONGEST]);
    let (result, text) = check.of(with_body(long).await).await;
    assert!(result == HealthResult::Failure && text.contains("64 KiB"), "{text}");
}

#[tokio::test]
async fn half_an_answer_is_none() {
    for answer in [
        &b""[..],
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 A\r\ncontent-length: 20\r\n\r\nstatus:",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ] {
        let (result, text) = http(200..=200, Some("status: fine")).of(scripted(answer).await).await;
        assert_eq!(result, HealthResult::Failure, "{text}");
        assert!(text.starts_with("broken off: "), "{text}");
    }
    let (result, text) = http(200..=200, None).of(resetting().await).await;
    assert_eq!(result, HealthResult::Failure, "{text}");
}

#[tokio::test]
async fn the_whole_check_takes_no_longer_than_it_may() {
    let limit = Duration::from_millis(50);
    let slow_body = scripted(b"HTTP/1.1 200 A\r\ncontent-length: 20\r\n\r\nstatus").await;
    let half_open = origin(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 200 A\r\n").await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let quiet = silent().await;
    for (check, address) in [
        (http(200..=200, None), quiet),
        (http(200..=200, Some("fine")), half_open),
        (exchange_of(b"PING\r\n", b"PONG"), quiet),
        (exchange_of(b"", b"x"), quiet),
        (question(HealthCheck::Grpc { service: "".into() }), quiet),
    ] {
        let (result, text) = check.within(limit).of(address).await;
        assert_eq!((result, &*text), (HealthResult::Timeout, "no answer within 50ms"));
    }
    // It closes after what it has sent, so that this is known before the time is up.
    let (result, _) = http(200..=200, Some("fine")).of(slow_body).await;
    assert_eq!(result, HealthResult::Failure);
}

#[tokio::test]
async fn tcp_is_content_with_a_connection_and_the_port_may_be_another() {
    assert_eq!(question(HealthCheck::Tcp).of(silent().await).await, good());
    let closed = nobody().await;
    let (result, text) = question(HealthCheck::Tcp).of(closed).await;
    assert!(result == HealthResult::ConnectError && text.contains("refused"), "{text}");
    let mut elsewhere = question(HealthCheck::Tcp);
    elsewhere.config.port = Some(silent().await.port());
    assert_eq!(elsewhere.of(closed).await, good());
    assert_eq!(elsewhere.ask(&EndpointAddress::Host("localhost".into(), closed.port())).await, Ok(()));
    assert_eq!(question(HealthCheck::Tls).of(closed).await, bad("the upstream has no `tls`"));
}

#[tokio::test]
async fn a_unix_socket_is_checked_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app");
    let listener = UnixListener::bind(&path).unwrap();
    let address = EndpointAddress::Unix(Arc::<Path>::from(path));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 1024];
            let length = stream.read(&mut head).await.unwrap();
            assert!(head[..length].to_ascii_lowercase().windows(17).any(|w| w == b"host: localhost\r\n"));
            stream.write_all(b"HTTP/1.1 200 A\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
    });
    assert_eq!(http(200..=200, None).ask(&address).await, Ok(()));
}

#[tokio::test]
async fn what_is_sent_is_answered_as_expected_in_however_many_pieces() {
    let redis = origin(|mut stream| async move {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && stream.read_buf(&mut line).await.unwrap() > 0 {}
        for byte in if line == b"PING\r\n" { &b"+PONG\r\n"[..] } else { b"-ERR\r\n" } {
            stream.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(exchange_of(b"PING\r\n", b"+PONG").of(redis).await, good());
    assert_eq!(exchange_of(b"PANG\r\n", b"+PONG").of(redis).await, bad(r#"unexpected answer "-ERR\r\n""#));
    let mysql = origin(|mut stream| async move {
        stream.write_all(b"\x4a\0\0\0\x0a8.0.36\0rest").await.unwrap();
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    assert_eq!(exchange_of(b"", b"\x0a8.").of(mysql).await, good(), "the other side speaks first");
    let shut = origin(|_| async {}).await;
    assert_eq!(exchange_of(b"", b"x").of(shut).await.0, HealthResult::Failure);
    let endless = origin(|mut stream| async move { while stream.write_all(&[b'x'; 8192]).await.is_ok() {} });
    let (result, text) = exchange_of(b"", b"y").of(endless.await).await;
    assert!(result == HealthResult::Failure && text.starts_with("unexpected answer"), "{text}");
}

/// Answers over HTTP/2 with these trailers after this message, or with these in the head.
async fn grpc(
    status: Option<ServingStatus>,
    trailers: &'static [(&'static str, &'static str)],
) -> SocketAddr {
    origin(move |stream| serve_grpc(stream, status, trailers)).await
}

async fn serve_grpc(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    status: Option<ServingStatus>,
    trailers: &'static [(&'static str, &'static str)],
) {
    let answer = move |request: Request<Incoming>| async move {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        assert_eq!(request.method(), Method::POST);
        assert_eq!(request.headers()["content-type"], "application/grpc");
        assert_eq!(request.headers()["te"], "trailers");
        let body = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(&body[..], b"\0\0\0\0\x05\x0a\x03a.B");
        let map: HeaderMap =
            trailers.iter().map(|(k, v)| (k.parse().unwrap(), HeaderValue::from_static(v))).collect();
        let builder = Response::builder().header("content-type", "application/grpc");
        let Some(status) = status else {
            let mut response = builder.body(Full::default().boxed()).unwrap();
            response.headers_mut().extend(map);
            return Ok::<_, Infallible>(response);
        };
        let message = framed(&CheckResponse { status: status.into() });
        let body = Full::new(message).with_trailers(async move { Some(Ok(map)) });
        Ok(builder.body(body.boxed()).unwrap())
    };
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
}

fn grpc_check() -> Question {
    question(HealthCheck::Grpc { service: "a.B".into() })
}

#[tokio::test]
async fn the_grpc_health_protocol_is_understood() {
    let ok = &[("grpc-status", "0")];
    for (status, trailers, said) in [
        (Some(ServingStatus::Serving), &ok[..], good()),
        (Some(ServingStatus::NotServing), ok, bad("NOT_SERVING")),
        (Some(ServingStatus::ServiceUnknown), ok, bad("SERVICE_UNKNOWN")),
        (Some(ServingStatus::Unknown), ok, bad("UNKNOWN")),
        (Some(ServingStatus::Serving), &[("grpc-status", "14")], bad("grpc-status 14")),
        (Some(ServingStatus::Serving), &[], bad("the answer has no grpc-status")),
        (None, ok, bad("the answer is not that of the health protocol")),
        (
            None,
            &[("grpc-status", "12"), ("grpc-message", "no")],
            bad("grpc-status 12: it does not have the health protocol: no"),
        ),
        (None, &[("grpc-status", "5")], bad("grpc-status 5: it does not know the service")),
    ] {
        assert_eq!(grpc_check().of(grpc(status, trailers).await).await, said, "{status:?} {trailers:?}");
    }
    let http1 = origin(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 A\r\ncontent-length: 0\r\n\r\n").await;
        while stream.read(&mut [0; 1024]).await.unwrap_or(0) > 0 {}
    })
    .await;
    assert_eq!(grpc_check().of(http1).await.0, HealthResult::Failure);
}

/// A certificate for 127.0.0.1, and who trusts it.
fn identity(folder: &Path) -> (ServerConfig, ClientTls) {
    identity_of("127.0.0.1", folder)
}

fn identity_of(name: &str, folder: &Path) -> (ServerConfig, ClientTls) {
    let signed = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let ca = folder.join("ca.pem");
    std::fs::write(&ca, signed.cert.pem()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(signed.signing_key.serialize_pem().as_bytes()).unwrap();
    let mut server = ServerConfig::builder_with_provider(crate::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (server, ClientTls { ca: Some(ca), ..ClientTls::default() })
}

#[tokio::test]
async fn everything_but_tcp_goes_by_tls_where_the_upstream_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let (server, client) = identity(folder.path());
    let acceptor = TlsAcceptor::from(Arc::new(server));
    // Speaks HTTP/2 where that was agreed on, HTTP/1 where that was, and else like Redis.
    let address = origin(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
            match agreed.as_deref() {
                Some(b"h2") => {
                    serve_grpc(stream, Some(ServingStatus::Serving), &[("grpc-status", "0")]).await;
                }
                Some(_) => {
                    let _ = stream.read(&mut [0; 4096]).await;
                    let _ = stream.write_all(b"HTTP/1.1 200 A\r\ncontent-length: 0\r\n\r\n").await;
                }
                None => {
                    let _ = stream.write_all(b"+PONG\r\n").await;
                }
            }
        }
    })
    .await;
    let http1 = http(200..=200, None).speaking(UpstreamProtocol::Http1);
    for check in [http1, question(HealthCheck::Tls), grpc_check(), exchange_of(b"", b"+PONG")] {
        let kind = format!("{:?}", check.config.check);
        assert_eq!(check.under(&client).of(address).await, good(), "{kind}");
    }
    let stranger = ClientTls { ca: Some(folder.path().join("other.pem")), ..ClientTls::default() };
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(stranger.ca.as_ref().unwrap(), other.cert.pem()).unwrap();
    let (result, text) = question(HealthCheck::Tls).under(&stranger).of(address).await;
    assert!(result == HealthResult::ConnectError && text.starts_with("TLS: "), "{text}");
    assert_eq!(question(HealthCheck::Tcp).under(&stranger).of(address).await, good());
    let clear = origin(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 A\r\n\r\n").await;
        while stream.read(&mut [0; 1024]).await.unwrap_or(0) > 0 {}
    })
    .await;
    let (result, _) = question(HealthCheck::Tls).under(&client).of(clear).await;
    assert_eq!(result, HealthResult::ConnectError);
}

#[tokio::test]
async fn an_address_that_was_looked_up_shows_a_certificate_for_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let (server, client) = identity_of("inventory.shop.svc", folder.path());
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let address = origin(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let _ = acceptor.accept(stream).await;
        }
    })
    .await;
    let (result, text) = question(HealthCheck::Tls).under(&client).of(address).await;
    assert!(result == HealthResult::ConnectError && text.starts_with("TLS: "), "{text}");
    let named = ClientTls { discovered_name: Some("inventory.shop.svc".into()), ..client };
    assert_eq!(question(HealthCheck::Tls).under(&named).of(address).await, good());
    let other = ClientTls { server_name: Some("elsewhere".into()), ..named };
    assert_ne!(question(HealthCheck::Tls).under(&other).of(address).await, good(), "what is written holds");
}

/// Needs redis-server, which `.ci/setup test` installs.
#[tokio::test]
async fn a_real_redis_answers_a_ping() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("redis");
    let mut redis = tokio::process::Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--unixsocket"])
        .arg(&path)
        .current_dir(folder.path())
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("redis-server, which `.ci/setup test` installs");
    let address = EndpointAddress::Unix(Arc::<Path>::from(path));
    let check = exchange_of(b"PING\r\n", b"+PONG");
    let deadline = tokio::time::Instant::now() + LIMIT;
    while let Err(fault) = check.ask(&address).await {
        assert!(tokio::time::Instant::now() < deadline, "{fault}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(
        exchange_of(b"PING\r\n", b"+OK")
            .within(Duration::from_millis(50))
            .ask(&address)
            .await
            .unwrap_err()
            .result,
        HealthResult::Timeout
    );
    redis.kill().await.unwrap();
    assert_eq!(check.ask(&address).await.unwrap_err().result, HealthResult::ConnectError);
}
