//! The interface over real sockets on loopback.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

use super::*;

#[derive(Default)]
struct View {
    in_the_way: Mutex<Vec<&'static str>>,
    stuck: Mutex<Vec<String>>,
    started: AtomicBool,
    drained: AtomicBool,
    level: Mutex<Option<LogLevel>>,
}

impl AdminView for View {
    fn status(&self) -> Value {
        json!({ "instance": "a" })
    }
    fn policy(&self) -> Value {
        json!({ "routes": {} })
    }
    fn limits(&self) -> Value {
        json!({})
    }
    fn switches(&self) -> Value {
        json!({})
    }
    fn upstreams(&self) -> Value {
        json!([])
    }
    fn requests(&self) -> Value {
        json!([])
    }
    fn ready(&self) -> Result<(), Vec<&'static str>> {
        let reasons = self.in_the_way.lock().unwrap().clone();
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }
    fn live(&self) -> Result<(), Vec<String>> {
        let stuck = self.stuck.lock().unwrap().clone();
        if stuck.is_empty() { Ok(()) } else { Err(stuck) }
    }
    fn started(&self) -> bool {
        self.started.load(SeqCst)
    }
    fn drain(&self) {
        self.drained.store(true, SeqCst);
    }
    fn set_log_level(&self, level: LogLevel) -> bool {
        *self.level.lock().unwrap() = Some(level);
        true
    }
}

struct Server {
    address: SocketAddr,
    view: Arc<View>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

struct Reply {
    status: u16,
    headers: HashMap<String, String>,
    body: String,
}

async fn start(surface: Surface) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let view = Arc::new(View::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let metrics = Metrics::new(1, 2_000, "1.0", "abc");
    let serving = serve(Acceptor::Tcp(listener), surface, view.clone(), metrics, async {
        let _ = stopped.await;
    });
    Server { address, view, stop, task: tokio::spawn(serving) }
}

impl Server {
    /// Sends `head` with `Host` and `Connection: close` added, and reads all of the reply.
    async fn ask(&self, request_line: &str, headers: &str, body: &str) -> Reply {
        let length = body.len();
        let host = self.address;
        self.send(&format!(
            "{request_line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        ))
        .await
    }

    async fn get(&self, path: &str) -> Reply {
        self.ask(&format!("GET {path}"), "", "").await
    }

    async fn send(&self, bytes: &str) -> Reply {
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(bytes.as_bytes()).await.unwrap();
            let mut reply = String::new();
            stream.read_to_string(&mut reply).await.unwrap();
            reply
        };
        let reply = timeout(Duration::from_secs(20), exchange).await.expect("an answer in time");
        let (head, body) = reply.split_once("\r\n\r\n").expect("an answer");
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        Reply { status, headers, body: body.to_owned() }
    }
}

const JSON: &str = "Content-Type: application/json\r\n";

#[tokio::test]
async fn telemetry_has_metrics_and_probes_and_nothing_else() {
    let server = start(Surface::Telemetry).await;
    let metrics = server.get("/metrics").await;
    assert_eq!(metrics.status, 200);
    assert_eq!(metrics.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert!(metrics.body.contains("weir_build_info{version=\"1.0\",commit=\"abc\"} 1\n"));
    assert!(metrics.body.contains("\nprocess_resident_memory_bytes "));
    assert_eq!(server.get("/livez").await.status, 200);
    for path in ["/", "/status", "/policy", "/upstreams", "/requests", "/nothing"] {
        let reply = server.get(path).await;
        assert_eq!(reply.status, 404, "{path}");
        assert_eq!(reply.headers["content-type"], "application/problem+json");
        let problem: Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(
            problem["endpoints"],
            json!(["GET /metrics", "GET /livez", "GET /readyz", "GET /startupz"])
        );
    }
    assert_eq!(server.ask("POST /drain", JSON, "").await.status, 404);
    assert!(!server.view.drained.load(SeqCst));
}

#[tokio::test]
async fn probes_say_what_stands_in_the_way() {
    let server = start(Surface::Telemetry).await;
    assert_eq!(server.get("/readyz").await.body, "ready\n");
    *server.view.in_the_way.lock().unwrap() = vec!["draining", "policy"];
    let reply = server.get("/readyz").await;
    assert_eq!((reply.status, reply.body.as_str()), (503, "draining\npolicy\n"));

    *server.view.stuck.lock().unwrap() = vec!["worker 1 has not turned for 30 s".into()];
    let reply = server.get("/livez").await;
    assert_eq!((reply.status, reply.body.as_str()), (503, "worker 1 has not turned for 30 s\n"));

    assert_eq!(server.get("/startupz").await.status, 503);
    server.view.started.store(true, SeqCst);
    assert_eq!(server.get("/startupz").await.status, 200);
}

#[tokio::test]
async fn admin_shows_everything_with_careful_headers() {
    let server = start(Surface::Admin).await;
    for path in
        ["/metrics", "/livez", "/readyz", "/", "/status", "/policy", "/upstreams", "/requests", "/status?x=1"]
    {
        let reply = server.get(path).await;
        assert_eq!(reply.status, 200, "{path}");
        assert_eq!(reply.headers["cache-control"], "no-store");
        assert_eq!(reply.headers["x-content-type-options"], "nosniff");
        assert_eq!(reply.headers["content-length"], reply.body.len().to_string());
    }
    assert_eq!(
        serde_json::from_str::<Value>(&server.get("/status").await.body).unwrap(),
        json!({"instance": "a"})
    );
    let text = server.get("/").await;
    assert!(text.headers["content-type"].starts_with("text/plain") && text.body.contains("PUT  /log"));
    let page = server.ask("GET /", "Accept: text/html,*/*\r\n", "").await;
    assert!(
        page.headers["content-type"].starts_with("text/html") && page.body.contains("href=\"/upstreams\"")
    );
}

#[tokio::test]
async fn head_is_get_without_a_body_and_other_methods_are_told_so() {
    let server = start(Surface::Admin).await;
    let (get, head) = (server.get("/status").await, server.ask("HEAD /status", "", "").await);
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.headers["content-length"], get.headers["content-length"]);
    for (request, allow) in [("POST /status", "GET, HEAD"), ("GET /drain", "POST"), ("OPTIONS /log", "PUT")] {
        let reply = server.ask(request, JSON, "").await;
        assert_eq!(reply.status, 405, "{request}");
        assert_eq!(reply.headers["allow"], allow);
    }
}

#[tokio::test]
async fn changes_are_made() {
    let server = start(Surface::Admin).await;
    let reply = server.ask("PUT /log", JSON, r#"{"level": "debug"}"#).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(*server.view.level.lock().unwrap(), Some(LogLevel::Debug));
    assert_eq!(server.ask("POST /drain", JSON, "").await.status, 202);
    assert!(server.view.drained.load(SeqCst));
}

#[tokio::test]
async fn a_wrong_document_changes_nothing_and_is_explained() {
    let server = start(Surface::Admin).await;
    for body in ["", "debug", "{}", r#"{"level": 3}"#, r#"{"level": "loud"}"#, r#"{"level": "info", "x": 1}"#]
    {
        let reply = server.ask("PUT /log", JSON, body).await;
        assert_eq!(reply.status, 400, "{body}");
        assert!(reply.body.contains("error, warn, info, debug, trace"), "{}", reply.body);
    }
    assert_eq!(server.ask("PUT /log", JSON, &" ".repeat(MAX_BODY + 1)).await.status, 413);
    assert_eq!(*server.view.level.lock().unwrap(), None);
}

#[tokio::test]
async fn a_page_from_elsewhere_can_neither_read_nor_write() {
    let server = start(Surface::Admin).await;
    let rebound = |request: &str| {
        format!(
            "{request} HTTP/1.1\r\nHost: evil.example:9901\r\n{JSON}Connection: close\r\nContent-Length: 0\r\n\r\n"
        )
    };
    for request in ["GET /policy", "GET /requests", "GET /", "GET /nothing", "POST /drain", "PUT /log"] {
        assert_eq!(server.send(&rebound(request)).await.status, 403, "{request}");
    }
    assert_eq!(server.send(&rebound("GET /livez")).await.status, 200, "a probe may use a name");
    // The preflight that a browser would send first, and the simple request that needs none.
    assert_eq!(server.ask("OPTIONS /drain", "Origin: http://evil.example\r\n", "").await.status, 405);
    assert_eq!(server.ask("POST /drain", "Content-Type: text/plain\r\n", "{}").await.status, 415);
    let foreign = format!("{JSON}Origin: http://evil.example\r\n");
    assert_eq!(server.ask("POST /drain", &foreign, "").await.status, 403);
    assert!(!server.view.drained.load(SeqCst));
}

#[tokio::test]
async fn a_crowd_of_silent_connections_does_not_keep_a_probe_out() {
    let server = start(Surface::Telemetry).await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS + 10 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let asked = std::time::Instant::now();
    assert_eq!(server.get("/livez").await.status, 200);
    assert!(asked.elapsed() < HEADER_TIMEOUT, "it did not wait for the others to time out");
    // The oldest had to go for it, the newest is served still.
    let gone = timeout(Duration::from_secs(10), silent[0].read(&mut [0; 1])).await.expect("closed");
    assert!(matches!(gone, Ok(0) | Err(_)));
    let newest = silent.last_mut().unwrap();
    newest.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut bytes = [0; 15];
    newest.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"HTTP/1.1 200 OK");
}

#[tokio::test]
async fn a_connection_that_sends_half_a_request_is_closed() {
    let server = start(Surface::Telemetry).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    let mut rest = Vec::new();
    let closed = timeout(2 * HEADER_TIMEOUT, stream.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "still open");
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn shutdown_closes_idle_connections_and_ends() {
    let server = start(Surface::Admin).await;
    let mut kept = TcpStream::connect(server.address).await.unwrap();
    kept.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut bytes = [0; 15];
    kept.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"HTTP/1.1 200 OK");
    server.stop.send(()).unwrap();
    timeout(Duration::from_secs(10), server.task).await.expect("it ends").unwrap();
    let mut rest = Vec::new();
    timeout(Duration::from_secs(10), kept.read_to_end(&mut rest)).await.expect("it is closed").unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}
