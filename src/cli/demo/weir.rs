//! Weir as a process of its own: started, asked and ended as any operator would.

use std::{
    fs::OpenOptions,
    io,
    net::SocketAddr,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, timeout},
};

use super::places::Places;

/// How long it may take to come up.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to leave: the grace of the demo's file and a little.
const GRACE: Duration = Duration::from_secs(8);
/// The longest answer that is read from it.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// A running `weir run`. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Weir {
    child: Child,
    pid: u32,
    since: Instant,
}

/// Why Weir cannot be used.
#[derive(Debug)]
pub(super) enum NotUp {
    /// It could not be started.
    Start(io::Error),
    /// It ended by itself.
    Ended(ExitStatus),
    /// It was not ready in time.
    Late,
}

impl std::fmt::Display for NotUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Start(error) => write!(f, "it could not be started: {error}"),
            Self::Ended(status) => write!(f, "it ended by itself ({status})"),
            Self::Late => write!(f, "it was not ready within {} s", PATIENCE.as_secs()),
        }
    }
}

impl Weir {
    /// Starts this same executable as `weir run`, with its output in the demo's folder.
    pub(super) fn start(places: &Places) -> Result<Self, NotUp> {
        Self::start_program(std::env::current_exe().map_err(NotUp::Start)?, places).map_err(NotUp::Start)
    }

    fn start_program(program: PathBuf, places: &Places) -> io::Result<Self> {
        let append = |path: PathBuf| OpenOptions::new().create(true).append(true).open(path);
        let child = Command::new(program)
            .arg("run")
            .arg("-c")
            .arg(places.file())
            .env_remove("WEIR_CONFIG")
            .stdin(Stdio::null())
            .stdout(append(places.folder.join("access.log"))?)
            .stderr(append(places.log())?)
            // Ctrl-C is for the demo alone; it then ends Weir in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("it was gone at once"))?;
        Ok(Self { child, pid, since: Instant::now() })
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits until it has ended. Cancel-safe.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks once whether it is ready.
    pub(super) async fn is_ready(&mut self, places: &Places) -> Result<bool, NotUp> {
        if let Some(status) = self.child.try_wait().map_err(NotUp::Start)? {
            return Err(NotUp::Ended(status));
        }
        let ready =
            get(places.telemetry, "/readyz").await.is_some_and(|(status, _)| status == StatusCode::OK);
        if !ready && self.since.elapsed() > PATIENCE { Err(NotUp::Late) } else { Ok(ready) }
    }

    /// Waits until it is ready.
    pub(super) async fn until_ready(&mut self, places: &Places) -> Result<(), NotUp> {
        while !self.is_ready(places).await? {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        Ok(())
    }

    /// Ends it with SIGTERM, and with SIGKILL when it does not leave in time or `hurry` completes first.
    /// Says how it ended and how long that took.
    pub(super) async fn end(mut self, hurry: impl Future<Output = ()>) -> io::Result<(ExitStatus, Duration)> {
        let start = Instant::now();
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            // It may be gone already; the wait below finds out.
            let _gone_already = kill_process(pid, Signal::TERM);
        }
        let left = tokio::select! {
            left = timeout(GRACE, self.child.wait()) => left.ok(),
            () = hurry => None,
        };
        let status = if let Some(status) = left {
            status?
        } else {
            self.child.start_kill()?;
            self.child.wait().await?
        };
        Ok((status, start.elapsed()))
    }
}

/// Asks an address of Weir for a page; `None` when there is no whole answer in time.
pub(super) async fn get(address: SocketAddr, path: &str) -> Option<(StatusCode, String)> {
    timeout(Duration::from_millis(800), get_unbounded(address, path)).await.ok().flatten()
}

async fn get_unbounded(address: SocketAddr, path: &str) -> Option<(StatusCode, String)> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let driver = tokio::spawn(driver);
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .ok()?;
    let response = sender.send_request(request).await.ok()?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MOST_BYTES).collect().await.ok()?.to_bytes();
    driver.abort();
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}

/// The last fault of the file that the log tells of, in one line: where it is and what.
pub(super) fn last_fault(log: &str) -> Option<String> {
    let lines: Vec<&str> = log.lines().collect();
    let title = |line: &&str| line.starts_with("error[");
    // Of the last report, the first fault: a report ends with a line of the log proper.
    let last = lines.iter().rposition(title)?;
    let begin = lines.get(..last)?.iter().rposition(|line| line.contains(" ERROR ")).map_or(0, |at| at + 1);
    let report = lines.get(begin..)?;
    let first = report.iter().position(title)?;
    let what = report.get(first)?.split_once("]: ")?.1;
    // The line says enough of the place; the path of the field would fill the screen.
    let what = what.split_once(": ").filter(|(path, _)| !path.contains(' ')).map_or(what, |(_, what)| what);
    let place = report.get(first + 1).and_then(|line| line.trim_start().strip_prefix("--> "));
    let line = place.and_then(|place| place.rsplit(':').nth(1));
    Some(line.map_or_else(|| what.to_owned(), |line| format!("line {line}: {what}")))
}

/// The last lines of a log.
pub(super) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Starts a shell script in Weir's place: only what the demo does with its child is looked at here.
    fn script(body: &str) -> (tempfile::TempDir, Places, Weir) {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        std::fs::write(&program, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut places = super::super::places::tests::places();
        // A port that was free a moment ago: nothing answers there.
        places.telemetry = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        folder.path().clone_into(&mut places.folder);
        // Another test's fork may hold the file open for writing for a moment (ETXTBSY).
        let weir = loop {
            match Weir::start_program(program.clone(), &places) {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
                started => break started.unwrap(),
            }
        };
        (folder, places, weir)
    }

    #[tokio::test]
    async fn a_weir_that_ends_at_once_is_found_out_and_its_words_are_kept() {
        let (_folder, places, mut weir) = script("echo \"args: $*\" >&2; exit 64");
        let error = weir.until_ready(&places).await.unwrap_err();
        assert!(matches!(error, NotUp::Ended(status) if status.code() == Some(64)), "{error}");
        let log = std::fs::read_to_string(places.log()).unwrap();
        assert!(log.contains(&format!("args: run -c {}", places.file().display())), "{log}");
    }

    #[tokio::test]
    async fn ending_is_a_sigterm_first() {
        let (_folder, places, weir) = script("trap 'exit 7' TERM; echo up >&2; while :; do sleep 0.01; done");
        let deadline = Instant::now() + Duration::from_secs(5);
        while std::fs::read_to_string(places.log()).unwrap().is_empty() {
            assert!(Instant::now() < deadline, "the script did not start");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (status, _) = weir.end(std::future::pending()).await.unwrap();
        assert_eq!(status.code(), Some(7));
    }

    #[tokio::test]
    async fn one_that_stays_is_killed_in_a_hurry() {
        let (_folder, places, weir) = script("trap '' TERM; echo up >&2; while :; do sleep 0.01; done");
        let deadline = Instant::now() + Duration::from_secs(5);
        while std::fs::read_to_string(places.log()).unwrap().is_empty() {
            assert!(Instant::now() < deadline, "the script did not start");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (status, took) = weir.end(std::future::ready(())).await.unwrap();
        assert!(!status.success() && took < GRACE, "{status} after {took:?}");
    }

    #[test]
    fn the_last_refusal_is_told_in_a_line() {
        let report = |line: u32, what: &str| {
            format!("error[WEIR-0202]: {what}\n  --> /tmp/weir.yaml:{line}:27\n   |\n\n")
        };
        let end = "2026-01-01T00:00:00.000Z ERROR control: the file has faults: what was in force stays\n";
        let log = format!("{}{end}{}{}{end}", report(1, "a: x"), report(19, "b: y"), report(20, "c: z"));
        assert_eq!(last_fault(&log).as_deref(), Some("line 19: y"));
        assert_eq!(last_fault(&report(1, "a: x")).as_deref(), Some("line 1: x"));
        assert_eq!(last_fault("error[WEIR-0001]: cannot read").as_deref(), Some("cannot read"));
        assert_eq!(last_fault(end), None);
    }

    #[test]
    fn the_tail_is_the_end() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 5), "a");
        assert_eq!(tail("", 5), "");
    }
}
