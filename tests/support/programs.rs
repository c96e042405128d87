//! Programs of others: curl, wrk, h2load, Python. A missing one fails the test and says how to get it.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use super::PATIENCE;

/// What a program that has ended left.
#[derive(Debug, Clone)]
pub struct Done {
    /// Its exit code; -1 after a signal.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Done {
    /// Fails the test, with everything the program said, unless its exit code is 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "--- out\n{}\n--- err\n{}", self.out, self.err);
        self
    }
}

/// Runs a program to its end, three times [`PATIENCE`] at most.
#[track_caller]
pub fn run(program: &str, arguments: &[&str]) -> Done {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|e| {
        panic!("cannot start {program} ({e}); `make setup-test` installs what tests need")
    });
    finish(child, PATIENCE * 3)
}

/// Waits for a child's end and gathers what it said; kills it when time runs out.
#[track_caller]
pub fn finish(mut child: Child, patience: Duration) -> Done {
    let out = child.stdout.take().map(drain);
    let err = child.stderr.take().map(drain);
    let deadline = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let text = |reader: Option<std::thread::JoinHandle<String>>| {
        reader.map(|r| r.join().unwrap()).unwrap_or_default()
    };
    let (out, err) = (text(out), text(err));
    let status =
        status.unwrap_or_else(|| panic!("not done after {patience:?}\n--- out\n{out}\n--- err\n{err}"));
    Done { code: status.code().unwrap_or(-1), out, err }
}

fn drain(mut from: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The Python that has the packages of `tests/clients/requirements.txt`.
#[track_caller]
pub fn python() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python");
    assert!(python.exists(), "{} is missing: run `make setup-test`", python.display());
    python
}

/// A program of `tests/clients`.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// Runs a program of `tests/clients` to its end.
#[track_caller]
pub fn run_script(name: &str, arguments: &[&str]) -> Done {
    let path = script(name);
    let arguments: Vec<&str> =
        [path.to_str().unwrap()].into_iter().chain(arguments.iter().copied()).collect();
    run(python().to_str().unwrap(), &arguments)
}

/// A server of `tests/clients`, which ends with this.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
}

impl Server {
    /// Starts one and waits for its line `listening HOST:PORT`.
    #[track_caller]
    pub fn start(name: &str) -> Self {
        let mut child = Command::new(python())
            .arg(script(name))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python starts");
        let out = child.stdout.take().unwrap();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if let Some(address) = line.strip_prefix("listening ") {
                    let _ = tell.send(address.parse().unwrap());
                }
            }
        });
        let address = told.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            let _ = child.kill();
            panic!("{name} does not say where it listens")
        });
        Self { address, child }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
