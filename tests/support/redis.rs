//! Real Redis servers, each with a folder and a port of its own, without persistence.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{certs::Identity, programs::run, wait_until, weir::unused_address};

/// One server. It is killed when this is dropped.
#[derive(Debug)]
pub struct Redis {
    folder: TempDir,
    address: SocketAddr,
    arguments: Vec<String>,
    /// What `redis-cli` needs besides the port.
    access: Vec<String>,
    child: Option<Child>,
}

impl Redis {
    /// A server that answers.
    #[track_caller]
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// [`Self::start`] with more arguments.
    #[track_caller]
    pub fn with(arguments: &[&str]) -> Self {
        let address = unused_address();
        let port = address.port().to_string();
        Self::begin(address, &[&["--port", port.as_str()], arguments].concat(), &[])
    }

    /// A server on which everybody needs this password.
    #[track_caller]
    pub fn with_password(password: &str) -> Self {
        let address = unused_address();
        let port = address.port().to_string();
        Self::begin(
            address,
            &["--port", &port, "--requirepass", password],
            &["-a", password, "--no-auth-warning"],
        )
    }

    /// A server that speaks nothing but TLS.
    #[track_caller]
    pub fn with_tls(identity: &Identity, ca: &Path) -> Self {
        let address = unused_address();
        let port = address.port().to_string();
        let (cert, key) = (identity.cert.to_str().unwrap(), identity.key.to_str().unwrap());
        let ca = ca.to_str().unwrap();
        let arguments = [
            "--port",
            "0",
            "--tls-port",
            &port,
            "--tls-cert-file",
            cert,
            "--tls-key-file",
            key,
            "--tls-ca-cert-file",
            ca,
            "--tls-auth-clients",
            "no",
        ];
        Self::begin(address, &arguments, &["--tls", "--cacert", ca])
    }

    fn begin(address: SocketAddr, arguments: &[&str], access: &[&str]) -> Self {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let (arguments, access) = (owned(arguments), owned(access));
        let mut redis = Self { folder: TempDir::new().unwrap(), address, arguments, access, child: None };
        redis.run();
        redis.answers();
        redis
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts the process, empty; does not wait until it answers.
    #[track_caller]
    pub fn run(&mut self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
            .arg(self.folder.path())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|e| {
            panic!("cannot start redis-server ({e}); `make setup-test` installs what tests need")
        });
        self.child = Some(child);
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Waits until it answers.
    #[track_caller]
    pub fn answers(&self) {
        wait_until("redis to answer", || self.cli(&["PING"]).out.contains("PONG"));
    }

    /// What it says to a command.
    #[track_caller]
    pub fn command(&self, words: &[&str]) -> String {
        self.cli(words).ok().out.trim().to_owned()
    }

    fn cli(&self, words: &[&str]) -> super::programs::Done {
        let port = self.address.port().to_string();
        let mut arguments = vec!["-h", "127.0.0.1", "-p", &port];
        arguments.extend(self.access.iter().map(String::as_str));
        arguments.extend(words);
        run("redis-cli", &arguments)
    }

    /// Stops the process where it is: its connections stay, and nothing answers.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// Kills it, and with it all that it holds.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            eprintln!("--- what redis said\n{log}");
        }
    }
}
