//! What the parts share: an etcd, a Weir, origins, and a client that keeps its connection.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use etcd_client::{Client, Txn, TxnOp};
use tempfile::TempDir;

/// How long anything may take to start.
const PATIENCE: Duration = Duration::from_mins(2);

/// The most operations of a transaction that etcd takes by default.
const MAX_OPERATIONS: usize = 128;

/// A process that ends with its handle.
pub(crate) struct Program(Child);

impl Program {
    pub(crate) fn start(command: &mut Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| fail(&format!("cannot start {name}: {error}"))))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A server of one member, in a folder of its own.
pub(crate) struct Etcd {
    folder: TempDir,
    client: SocketAddr,
    peer: SocketAddr,
    program: Program,
}

impl Etcd {
    pub(crate) fn start() -> Self {
        let (folder, client, peer) = (TempDir::new().expect("a folder"), free(), free());
        let program = run(folder.path(), client, peer);
        let etcd = Self { folder, client, peer, program };
        etcd.answers();
        etcd
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.client
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.client)
    }

    fn answers(&self) {
        wait("etcd to answer", || get(self.client, "/health").is_some_and(|text| text.contains("true")));
    }

    pub(crate) fn kill(&mut self) {
        self.program.kill();
    }

    /// Starts it again; gives the time at which it listens.
    pub(crate) fn run(&mut self) -> Instant {
        self.program = run(self.folder.path(), self.client, self.peer);
        wait("etcd to listen", || TcpStream::connect(self.client).is_ok());
        Instant::now()
    }

    /// Writes keys below `/weir/policy/`.
    pub(crate) async fn fill(&self, items: impl IntoIterator<Item = (String, String)>) {
        let mut client = Client::connect([self.endpoint()], None).await.expect("a client");
        let puts: Vec<_> = items
            .into_iter()
            .map(|(key, value)| TxnOp::put(format!("/weir/policy/{key}"), value, None))
            .collect();
        for part in puts.chunks(MAX_OPERATIONS) {
            client.txn(Txn::new().and_then(part)).await.expect("a transaction");
        }
    }
}

fn run(folder: &Path, client: SocketAddr, peer: SocketAddr) -> Program {
    let (client, peer) = (format!("http://{client}"), format!("http://{peer}"));
    let log = File::options().create(true).append(true).open(folder.join("log")).expect("a file");
    let mut command = Command::new("etcd");
    command
        .args(["--name", "bench", "--data-dir"])
        .arg(folder.join("data"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("bench={peer}"), "--log-level=error", "--logger=zap"])
        .stdout(Stdio::null())
        .stderr(log);
    Program::start(&mut command)
}

/// The binary that cargo has just built, or the one that `WEIR_TEST_BINARY` names, with a file, behind `before` (a program that runs it), once it answers on `listen`.
pub(crate) fn weir(folder: &Path, file: &str, listen: SocketAddr, before: &[&str]) -> Program {
    let path = folder.join("weir.yaml");
    std::fs::write(&path, file).expect("a file");
    let binary = std::env::var("WEIR_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_weir").to_owned());
    let words: Vec<&str> = before.iter().copied().chain([binary.as_str()]).collect();
    let (program, arguments) = words.split_first().expect("a program");
    let log = File::create(folder.join("weir.log")).expect("a file");
    let mut command = Command::new(program);
    command.args(arguments).args(["run", "-c"]).arg(&path).stdout(Stdio::null()).stderr(log);
    let program = Program::start(&mut command);
    wait("weir to listen", || get(listen, "/").is_some());
    program
}

/// An origin that answers every request with `body`.
pub(crate) fn origin(body: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream, body));
        }
    });
    address
}

fn serve(stream: TcpStream, body: &str) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    writer.set_nodelay(true).ok()?;
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            writer.write_all(answer.as_bytes()).ok()?;
        }
    }
}

/// A connection that is kept, for one request after the other.
pub(crate) struct Client1 {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl Client1 {
    pub(crate) fn connect(to: SocketAddr) -> Self {
        let writer = TcpStream::connect(to).expect("a connection");
        writer.set_nodelay(true).expect("a socket");
        Self { reader: BufReader::new(writer.try_clone().expect("a socket")), writer }
    }

    /// One request, and the body of its answer.
    pub(crate) fn get(&mut self, host: &str, path: &str) -> Vec<u8> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        self.writer.write_all(request.as_bytes()).expect("a connection that stays");
        let (mut line, mut length) = (String::new(), 0);
        let mut first = true;
        loop {
            line.clear();
            self.reader.read_line(&mut line).expect("an answer");
            if std::mem::take(&mut first) {
                assert!(line.starts_with("HTTP/1.1 200"), "{line}");
            }
            if line == "\r\n" {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body).expect("a body");
        body
    }
}

/// One GET on a connection of its own: everything that came.
pub(crate) fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    (!text.is_empty()).then_some(text)
}

/// An address on which nobody listens now.
pub(crate) fn free() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("a port")
}

pub(crate) fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > end {
            fail(&format!("waited in vain for {what}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The value below which `share` of the sorted `times` lie.
pub(crate) fn quantile(times: &[Duration], share: f64) -> Duration {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a few thousand"
    )]
    let at = (times.len() as f64 * share) as usize;
    times.get(at.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// A runtime for what is asynchronous.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

#[expect(clippy::panic, reason = "a program that measures: to fail loudly is right")]
pub(crate) fn fail(why: &str) -> ! {
    panic!("{why}")
}
