//! A steady load that does not wait for answers: what is slow does not slow it down, and so does not hide itself.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http_body_util::BodyExt;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{
    client::{Body, empty, request},
    driver, wait_until,
};

/// One request, and what came of it.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When it was due; it was sent then.
    pub at: Instant,
    /// How long its answer took to the last byte, or to its failure.
    pub took: Duration,
    /// The status; 0 when there was no whole answer.
    pub status: u16,
    /// Which origin answered; empty when none did.
    pub origin: String,
    /// Why Weir answered itself; empty when it did not.
    pub reason: String,
    /// What `Retry-After` said.
    pub retry_after: Option<String>,
}

impl Sample {
    /// Whether it got what it asked for.
    pub fn is_good(&self) -> bool {
        self.status == 200
    }
}

/// See the module. Dropping it ends it.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    host: String,
    path: String,
    samples: Mutex<Vec<Sample>>,
    idle: Mutex<Vec<SendRequest<Body>>>,
    started: AtomicUsize,
    stopped: AtomicBool,
}

impl Load {
    /// So many requests a second for this path of this host, evenly, on as many connections as it takes.
    pub fn start(address: SocketAddr, host: &str, path: &str, rate: u32) -> Self {
        let shared = Arc::new(Shared {
            address,
            host: host.to_owned(),
            path: path.to_owned(),
            samples: Mutex::default(),
            idle: Mutex::default(),
            started: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        });
        let period = Duration::from_secs(1) / rate;
        driver::spawn({
            let shared = Arc::clone(&shared);
            async move {
                // What a busy machine was late with is sent at once: the load stays what it was said to be.
                let mut due = tokio::time::interval(period);
                while !shared.stopped.load(Ordering::SeqCst) {
                    let at = due.tick().await.into_std();
                    shared.started.fetch_add(1, Ordering::SeqCst);
                    tokio::spawn(one(Arc::clone(&shared), at));
                }
            }
        });
        Self { shared }
    }

    /// All that has an answer.
    pub fn samples(&self) -> Vec<Sample> {
        self.shared.samples.lock().unwrap().clone()
    }

    /// What was due since then and has an answer.
    pub fn since(&self, since: Instant) -> Vec<Sample> {
        self.samples().into_iter().filter(|sample| sample.at >= since).collect()
    }

    /// Waits until so many more have an answer; gives those that were due since the call.
    #[track_caller]
    pub fn more(&self, count: usize) -> Vec<Sample> {
        let since = Instant::now();
        wait_until(&format!("{count} more answers"), || self.since(since).len() >= count);
        self.since(since)
    }

    /// Ends it, waits for the answers that are owed, and gives all.
    #[track_caller]
    pub fn end(self) -> Vec<Sample> {
        self.shared.stopped.store(true, Ordering::SeqCst);
        wait_until("the last answers", || self.samples().len() == self.shared.started.load(Ordering::SeqCst));
        self.samples()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
    }
}

async fn one(shared: Arc<Shared>, at: Instant) {
    let nothing = Sample {
        at,
        took: Duration::ZERO,
        status: 0,
        origin: String::new(),
        reason: String::new(),
        retry_after: None,
    };
    let done = exchange(&shared, nothing.clone()).await.unwrap_or(nothing);
    shared.samples.lock().unwrap().push(Sample { took: at.elapsed(), ..done });
}

async fn exchange(
    shared: &Shared,
    mut sample: Sample,
) -> Result<Sample, Box<dyn std::error::Error + Send + Sync>> {
    let idle = shared.idle.lock().unwrap().pop();
    let mut sender = if let Some(sender) = idle.filter(SendRequest::is_ready) {
        sender
    } else {
        let stream = TcpStream::connect(shared.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        sender
    };
    sender.ready().await?;
    let answer =
        sender.send_request(request("GET", &shared.path, &[("host", &shared.host)], empty())).await?;
    let (head, body) = answer.into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    sample.origin = header("x-origin").unwrap_or_default().to_owned();
    sample.retry_after = header("retry-after").map(str::to_owned);
    let is_problem = header("content-type").is_some_and(|it| it.starts_with("application/problem+json"));
    let body = body.collect().await?.to_bytes();
    if is_problem {
        let problem: serde_json::Value = serde_json::from_slice(&body)?;
        problem["reason"].as_str().unwrap_or_default().clone_into(&mut sample.reason);
    }
    sample.status = head.status.as_u16();
    shared.idle.lock().unwrap().push(sender);
    Ok(sample)
}

/// How many there are of each status and reason, for messages.
pub fn tally(samples: &[Sample]) -> BTreeMap<(u16, String, String), usize> {
    let mut counts = BTreeMap::new();
    for sample in samples {
        let key = (sample.status, sample.reason.clone(), sample.origin.clone());
        *counts.entry(key).or_default() += 1;
    }
    counts
}

/// The share of them that this origin answered.
#[expect(clippy::cast_precision_loss, reason = "small counts")]
pub fn share(samples: &[Sample], origin: &str) -> f64 {
    let own = samples.iter().filter(|sample| sample.origin == origin).count();
    own as f64 / samples.len().max(1) as f64
}

/// That quantile of how long they took.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank among few"
)]
pub fn quantile(samples: &[Sample], q: f64) -> Duration {
    let mut times: Vec<_> = samples.iter().map(|sample| sample.took).collect();
    times.sort_unstable();
    let rank = ((times.len() as f64 * q).ceil() as usize).saturating_sub(1);
    times.get(rank).copied().unwrap_or_default()
}
