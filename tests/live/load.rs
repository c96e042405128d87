//! A steady load of which every answer is checked.

use std::{
    collections::BTreeSet,
    io,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    support::{PATIENCE, raw::Raw},
    world::{ORIGINS, within},
};

/// How many connections ask, one request at a time each.
const CLIENTS: usize = 3;

/// The pause of a client between an answer and its next request.
const PAUSE: Duration = Duration::from_millis(8);

/// Clients that ask until they are stopped.
pub struct Load {
    told: Arc<Mutex<Vec<Client>>>,
    threads: Vec<JoinHandle<()>>,
    stop: Vec<Sender<()>>,
}

/// What one client has seen.
#[derive(Debug, Default, Clone)]
struct Client {
    /// Each answer: when it was there, and the number of the change that it was given under.
    answers: Vec<(Instant, u64)>,
    failures: Vec<String>,
}

impl Load {
    /// Begins to ask.
    pub fn start(address: SocketAddr) -> Self {
        let told = Arc::new(Mutex::new(vec![Client::default(); CLIENTS]));
        let (mut threads, mut stop) = (Vec::new(), Vec::new());
        for client in 0..CLIENTS {
            let (sender, receiver) = channel();
            let told = Arc::clone(&told);
            threads.push(std::thread::spawn(move || ask(address, client, &told, &receiver)));
            stop.push(sender);
        }
        Self { told, threads, stop }
    }

    fn told<T>(&self, look: impl FnOnce(&[Client]) -> T) -> T {
        look(&self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// When the first answer under the change `n` came that is younger than `after`.
    pub fn first(&self, n: u64, after: Instant) -> Option<Instant> {
        self.told(|clients| {
            let answers = clients.iter().flat_map(|client| &client.answers);
            answers.filter(|(at, of)| *of == n && *at > after).map(|(at, _)| *at).min()
        })
    }

    /// Waits until every client has been answered under the change `n`; says how long that took.
    #[track_caller]
    pub fn reaches(&self, n: u64) -> Duration {
        within(&format!("answers under the change {n}"), || {
            self.told(|clients| {
                clients.iter().all(|client| client.answers.last().is_some_and(|(_, of)| *of == n))
            })
        })
    }

    /// Waits until every client has had some more answers.
    #[track_caller]
    pub fn goes_on(&self) {
        let from = self.told(|clients| clients.iter().map(|client| client.answers.len()).collect::<Vec<_>>());
        within("more answers", || {
            self.told(|clients| {
                clients.iter().zip(&from).all(|(client, from)| client.answers.len() > from + 20)
            })
        });
    }

    /// Waits until every client has had some more answers, all of them under the change `n`.
    #[track_caller]
    pub fn stays(&self, n: u64) {
        let from = self.told(|clients| clients.iter().map(|client| client.answers.len()).collect::<Vec<_>>());
        self.goes_on();
        // A request that ran meanwhile may have begun earlier.
        self.told(|clients| {
            for (client, from) in clients.iter().zip(&from) {
                let other = client.answers[from + 1..].iter().find(|(_, of)| *of != n);
                assert!(other.is_none(), "under {other:?}, not under {n}");
            }
        });
    }

    /// Stops, and fails the test if any request failed, any answer showed a half of a change, or a client saw the
    /// numbers run backwards more often than `steps_back`. Gives how many different changes were seen.
    #[track_caller]
    pub fn end(mut self, steps_back: usize) -> usize {
        self.finish();
        self.told(|clients| {
            for client in clients {
                let all = client.answers.len() + client.failures.len();
                assert!(
                    client.failures.is_empty(),
                    "{} of {all}: {:#?}",
                    client.failures.len(),
                    client.failures
                );
                let back: Vec<_> = client.answers.windows(2).filter(|pair| pair[1].1 < pair[0].1).collect();
                assert!(back.len() <= steps_back, "backwards: {back:?}");
            }
            let seen = clients.iter().flat_map(|client| client.answers.iter().map(|(_, n)| *n));
            seen.collect::<BTreeSet<_>>().len()
        })
    }

    fn finish(&mut self) {
        self.stop.clear();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.finish();
        if std::thread::panicking() {
            self.told(|clients| {
                for client in clients {
                    let newest = client.answers.last().map(|(_, n)| n);
                    let failures = &client.failures[..client.failures.len().min(3)];
                    eprintln!("a client: {} answers, newest {newest:?}, {failures:?}", client.answers.len());
                }
            });
        }
    }
}

fn ask(address: SocketAddr, client: usize, told: &Mutex<Vec<Client>>, stop: &Receiver<()>) {
    let mut connection = None;
    while stop.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
        let answer = one(address, &mut connection);
        let mut told = told.lock().unwrap();
        match answer {
            Ok(n) => told[client].answers.push((Instant::now(), n)),
            Err(failure) => {
                connection = None;
                told[client].failures.push(failure);
            }
        }
    }
}

/// One request; gives the number of the change under which it was answered.
fn one(address: SocketAddr, connection: &mut Option<Raw>) -> Result<u64, String> {
    let failed = |error: io::Error| error.to_string();
    let raw = match connection {
        Some(raw) => raw,
        None => connection.insert(Raw::over(TcpStream::connect_timeout(&address, PATIENCE).map_err(failed)?)),
    };
    raw.try_send(format!("GET / HTTP/1.1\r\nhost: {address}\r\n\r\n")).map_err(failed)?;
    let head = raw.head().map_err(failed)?;
    let answer = raw.body_of(head, true).map_err(failed)?;
    let wrong = |why: &str| Err(format!("{why}: {} {:?} {}", answer.start, answer.headers, answer.text()));
    if answer.status() != 200 {
        return wrong("refused");
    }
    let Some(n) = answer.header("x-n").and_then(|n| n.parse::<u64>().ok()) else { return wrong("no x-n") };
    if answer.text() != format!("origin {}", n % ORIGINS as u64) {
        return wrong("a half of a change");
    }
    Ok(n)
}
