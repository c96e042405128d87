//! Connections that ask without a pause or with one, and note when each answer can have been decided.

use std::{
    fmt::Write,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::support::{
    raw::{Message, Raw},
    wait_until,
};

/// One request and what its asker saw in the answer.
#[derive(Debug, Clone, Copy)]
pub struct Shot<T> {
    /// Before it was written.
    pub sent: Instant,
    /// After its answer was read.
    pub got: Instant,
    /// What was seen.
    pub seen: T,
}

/// See the module. Dropping it ends it.
pub struct Hammer<T> {
    shots: Arc<Mutex<Vec<Shot<T>>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl<T: Clone + Send + 'static> Hammer<T> {
    /// So many connections that send this, again and again, with such a pause after each answer.
    pub fn start(
        address: SocketAddr,
        connections: usize,
        pause: Duration,
        request: &str,
        see: impl Fn(&Message) -> T + Clone + Send + 'static,
    ) -> Self {
        let (shots, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let threads = (0..connections).map(|_| {
            let (shots, stop, see) = (Arc::clone(&shots), Arc::clone(&stop), see.clone());
            let request = request.to_owned();
            std::thread::spawn(move || {
                let mut raw = Raw::connect(address);
                while !stop.load(Ordering::SeqCst) {
                    let sent = Instant::now();
                    let answer = raw.send(&request).answer();
                    let shot = Shot { sent, got: Instant::now(), seen: see(&answer) };
                    shots.lock().unwrap().push(shot);
                    if !pause.is_zero() {
                        std::thread::sleep(pause);
                    }
                }
            })
        });
        Self { threads: threads.collect(), shots, stop }
    }

    /// All so far.
    pub fn shots(&self) -> Vec<Shot<T>> {
        self.shots.lock().unwrap().clone()
    }

    /// The first that was sent after `since` and seen like this.
    #[track_caller]
    pub fn first(&self, what: &str, since: Instant, like: impl Fn(&T) -> bool) -> Shot<T> {
        self.wait(what, |shot| shot.sent >= since && like(&shot.seen))
    }

    /// Waits for the first that is like this, whenever it was sent.
    #[track_caller]
    pub fn wait(&self, what: &str, like: impl Fn(&Shot<T>) -> bool) -> Shot<T> {
        let mut found = None;
        wait_until(what, || {
            found = self.shots.lock().unwrap().iter().find(|shot| like(shot)).cloned();
            found.is_some()
        });
        found.unwrap()
    }

    /// Waits until so many more have been answered that were sent after the call.
    #[track_caller]
    pub fn more(&self, count: usize) -> Vec<Shot<T>> {
        let since = Instant::now();
        let later = || self.shots().into_iter().filter(|shot| shot.sent >= since).collect::<Vec<_>>();
        wait_until("more answers", || later().len() >= count);
        later()
    }

    /// Ends it and gives all, in the order of their answers.
    #[track_caller]
    pub fn end(mut self) -> Vec<Shot<T>> {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().expect("every request is answered");
        }
        self.shots()
    }
}

impl<T> Drop for Hammer<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// A GET.
pub fn get(path: &str, headers: &[(&str, &str)]) -> String {
    let mut text = format!("GET {path} HTTP/1.1\r\nhost: a.test\r\n");
    for (name, value) in headers {
        write!(text, "{name}: {value}\r\n").unwrap();
    }
    text + "\r\n"
}
