//! The finished binary, under test.

use std::{
    collections::BTreeMap,
    io::Read,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{
    PATIENCE,
    metrics::Metrics,
    programs::{Done, run},
    raw::{Message, Raw},
    wait_for, wait_until,
};

/// The binary under test: the one that cargo has just built, or the one that `WEIR_TEST_BINARY` names (a release build,
/// say).
pub fn binary() -> String {
    std::env::var("WEIR_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_weir").to_owned())
}

/// A running Weir. Dropping it kills it.
///
/// In the file every `{{name}}` stands for a free address on 127.0.0.1, the same one wherever the name is used;
/// listeners have to be written `listen: "{{in}}"`. `service`, `admin`, `telemetry` and a drain without delay are
/// added unless the file has them.
#[derive(Debug)]
pub struct Weir {
    child: Child,
    folder: TempDir,
    addresses: BTreeMap<String, SocketAddr>,
    out: Arc<Mutex<Vec<u8>>>,
    err: Arc<Mutex<Vec<u8>>>,
}

impl Weir {
    /// Starts one and waits until it is ready. Tries other ports when someone else has taken one meanwhile.
    #[track_caller]
    pub fn start(file: &str) -> Self {
        Self::start_with(file, &[])
    }

    /// Starts one with more arguments after `run -c FILE`, such as `["--", "COMMAND"]`.
    #[track_caller]
    pub fn start_with(file: &str, arguments: &[&str]) -> Self {
        for _ in 0..5 {
            let mut weir = Self::spawn(file, arguments);
            match weir.wait_ready() {
                Ok(()) => return weir,
                Err(said) if said.to_lowercase().contains("in use") => {}
                Err(said) => panic!("weir does not get ready:\n{said}\n--- file\n{}", weir.file()),
            }
        }
        panic!("no free ports after five attempts");
    }

    /// Starts one and does not wait.
    #[track_caller]
    pub fn spawn(file: &str, arguments: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let (text, addresses) = fill_in(&complete(file), BTreeMap::new());
        let path = folder.path().join("weir.yaml");
        std::fs::write(&path, text).unwrap();
        let mut child = Command::new(binary())
            .args(["run", "-c"])
            .arg(&path)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let out = gather(child.stdout.take().unwrap());
        let err = gather(child.stderr.take().unwrap());
        Self { child, folder, addresses, out, err }
    }

    /// Starts it again, with the same file on the same addresses, after it has ended, and waits until it is ready.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(!self.is_running(), "it still runs");
        let mut command = Command::new(binary());
        command.args(["run", "-c"]).arg(self.path()).stdin(Stdio::null());
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        self.out = gather(child.stdout.take().unwrap());
        self.err = gather(child.stderr.take().unwrap());
        self.child = child;
        self.wait_ready().unwrap_or_else(|said| panic!("weir does not get ready again:\n{said}"));
    }

    fn wait_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.child.try_wait().unwrap().is_some() {
                // Its last words may still be on their way through the pipe.
                std::thread::sleep(Duration::from_millis(20));
                return Err(self.stderr());
            }
            if get(self.at("telemetry"), "/readyz").is_some_and(|answer| answer.status() == 200) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("not ready after {PATIENCE:?}; it said:\n{}", self.stderr()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The address that `{{name}}` stands for.
    #[track_caller]
    pub fn at(&self, name: &str) -> SocketAddr {
        *self.addresses.get(name).unwrap_or_else(|| panic!("no {{{{{name}}}}} in the file"))
    }

    /// Where the file is.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("weir.yaml")
    }

    /// What the file says now.
    pub fn file(&self) -> String {
        std::fs::read_to_string(self.path()).unwrap()
    }

    /// Replaces the file, in one step, with the same addresses for the same names.
    pub fn write_file(&mut self, file: &str) {
        let (text, addresses) = fill_in(&complete(file), std::mem::take(&mut self.addresses));
        self.addresses = addresses;
        let fresh = self.folder.path().join("weir.yaml.new");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, self.path()).unwrap();
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Asks it to leave.
    pub fn sigterm(&self) {
        self.signal(Signal::TERM);
    }

    /// Replaces the file and makes Weir read it; whoever calls waits for the effect.
    pub fn reload(&mut self, file: &str) {
        self.write_file(file);
        self.signal(Signal::HUP);
    }

    /// Waits for its end; gives its exit code (-1 after a signal).
    #[track_caller]
    pub fn wait_exit(&mut self) -> i32 {
        let child = &mut self.child;
        wait_for("weir to end", || child.try_wait().unwrap()).code().unwrap_or(-1)
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.out.lock().unwrap()).into_owned()
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.err.lock().unwrap()).into_owned()
    }

    /// The access records so far.
    pub fn access_records(&self) -> Vec<serde_json::Value> {
        let out = self.stdout();
        let complete = out.rfind('\n').map_or("", |end| &out[..end]);
        complete.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// A path of the admin interface, by GET.
    #[track_caller]
    pub fn admin_get(&self, path: &str) -> Message {
        get(self.at("admin"), path).expect("an answer of the admin interface")
    }

    /// A path of the admin interface, by POST or PUT with a JSON body, as a local program would.
    #[track_caller]
    pub fn admin_send(&self, method: &str, path: &str, body: &str) -> Message {
        let admin = self.at("admin");
        Raw::connect(admin)
            .send(format!(
                "{method} {path} HTTP/1.1\r\nhost: {admin}\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            ))
            .answer()
    }

    /// A path of the telemetry interface.
    #[track_caller]
    pub fn telemetry_get(&self, path: &str) -> Message {
        get(self.at("telemetry"), path).expect("an answer of the telemetry interface")
    }

    /// A scrape.
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.telemetry_get("/metrics").text())
    }

    /// Waits until the sum of the series of `name` with `labels` is `value`: what a request counts is there a moment
    /// after its answer.
    #[track_caller]
    pub fn wait_metric(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        wait_until(
            &format!("{name}{labels:?} = {value}; it is {}", self.metrics().sum(name, labels)),
            || (self.metrics().sum(name, labels) - value).abs() < 1e-9,
        );
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- weir's standard error\n{}", self.stderr());
        }
    }
}

/// Runs `weir check` (or another command) on a file; see [`Weir`] for what the file may contain.
#[track_caller]
pub fn command(arguments: &[&str], file: &str) -> Done {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("weir.yaml");
    std::fs::write(&path, fill_in(file, BTreeMap::new()).0).unwrap();
    let path = path.to_str().unwrap();
    let (command, more) = arguments.split_first().expect("a command");
    let arguments: Vec<&str> = [*command, "-c", path].into_iter().chain(more.iter().copied()).collect();
    run(&binary(), &arguments)
}

/// One GET on a connection of its own; `None` when nobody listens or answers.
pub fn get(address: SocketAddr, path: &str) -> Option<Message> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    let mut raw = Raw::over(stream);
    raw.try_send(format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")).ok()?;
    let head = raw.head().ok()?;
    raw.body_of(head, true).ok()
}

/// Adds what every test's file has.
fn complete(file: &str) -> String {
    let mut text = String::new();
    for (field, line) in [
        ("service:", "service: test"),
        ("admin:", "admin: { listen: \"{{admin}}\" }"),
        ("telemetry:", "telemetry: { listen: \"{{telemetry}}\" }"),
        ("drain:", "drain: { delay: 0s, grace: 5s }"),
    ] {
        if !file.lines().any(|l| l.starts_with(field)) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text + file
}

/// Puts an address in the place of every `{{name}}`; names that have one keep it.
fn fill_in(
    file: &str,
    mut addresses: BTreeMap<String, SocketAddr>,
) -> (String, BTreeMap<String, SocketAddr>) {
    let mut text = String::new();
    let mut rest = file;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").expect("a closing }}");
        let address = *addresses.entry(name.to_owned()).or_insert_with(unused_address);
        text.push_str(before);
        text.push_str(&address.to_string());
        rest = after;
    }
    text.push_str(rest);
    (text, addresses)
}

fn gather(mut from: impl Read + Send + 'static) -> Arc<Mutex<Vec<u8>>> {
    let gathered = Arc::new(Mutex::new(Vec::new()));
    let into = gathered.clone();
    std::thread::spawn(move || {
        let mut part = [0; 8192];
        while let Ok(n @ 1..) = from.read(&mut part) {
            into.lock().unwrap().extend_from_slice(&part[..n]);
        }
    });
    gathered
}

/// An address on which nobody listens, and that no other test is given while this process lives.
///
/// A port that the system chose and that is free again is soon somebody else's: another test's Weir, which then answers
/// in the place of this one's, or a client's end of a connection. So ports come from below those that the system gives
/// to clients, and a locked file stands for each.
pub fn unused_address() -> SocketAddr {
    static TAKEN: Mutex<Vec<std::fs::File>> = Mutex::new(Vec::new());
    let folder = std::env::temp_dir().join("weir-test-ports");
    std::fs::create_dir_all(&folder).unwrap();
    loop {
        let port = fastrand::u16(10_000..32_000);
        let Ok(lock) = std::fs::File::create(folder.join(port.to_string())) else { continue };
        if lock.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            TAKEN.lock().unwrap().push(lock);
            return SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        }
    }
}

/// A file with one inbound listener, one upstream `app` and one route `all` for everything, to which a test adds the
/// fields that it is about.
#[derive(Debug, Clone, Default)]
pub struct File {
    endpoints: Vec<SocketAddr>,
    top: String,
    listener: String,
    upstream: String,
    more_upstreams: String,
    route: String,
    policy: String,
}

impl File {
    /// Everything goes to these endpoints.
    pub fn to(endpoints: &[SocketAddr]) -> Self {
        Self { endpoints: endpoints.to_vec(), ..Self::default() }
    }

    /// Lines for the top of the file.
    #[must_use]
    pub fn top(mut self, lines: &str) -> Self {
        self.top.push_str(lines);
        self.top.push('\n');
        self
    }

    /// Fields of the listener, in flow style: `header_timeout: 1s`.
    #[must_use]
    pub fn listener(mut self, fields: &str) -> Self {
        self.listener = format!(", {fields}");
        self
    }

    /// Fields of the upstream.
    #[must_use]
    pub fn upstream(mut self, fields: &str) -> Self {
        self.upstream = format!(", {fields}");
        self
    }

    /// Fields of the route.
    #[must_use]
    pub fn route(mut self, fields: &str) -> Self {
        self.route = format!(", {fields}");
        self
    }

    /// Lines for other upstreams, indented as they have to be.
    #[must_use]
    pub fn more_upstreams(mut self, lines: &str) -> Self {
        self.more_upstreams.push_str(lines);
        self
    }

    /// Lines for other kinds of policy: limits, switches, plans.
    #[must_use]
    pub fn policy(mut self, lines: &str) -> Self {
        self.policy.push_str(lines);
        self
    }

    /// The file.
    pub fn text(&self) -> String {
        let endpoints: Vec<_> = self.endpoints.iter().map(|address| format!("\"{address}\"")).collect();
        format!(
            "{}listeners:\n  inbound: {{ listen: \"{{{{inbound}}}}\"{} }}\npolicy:\n  upstreams:\n    \
             app: {{ endpoints: [{}]{} }}\n{}  routes:\n    all: {{ upstream: app{} }}\n{}",
            self.top,
            self.listener,
            endpoints.join(", "),
            self.upstream,
            self.more_upstreams,
            self.route,
            self.policy
        )
    }

    /// Weir with the file.
    #[track_caller]
    pub fn start(&self) -> Weir {
        Weir::start(&self.text())
    }
}
