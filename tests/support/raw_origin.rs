//! An origin that plays a script of bytes, one thread a connection, and records what it was sent.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use super::raw::{Message, Raw};

/// One accepted connection, in the hands of the script.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub raw: Raw,
    /// How many came before it.
    pub number: usize,
    seen: Arc<Mutex<Vec<Message>>>,
}

impl Accepted {
    /// Reads one request and records it; `None` when the peer closes instead.
    pub fn request(&mut self) -> Option<Message> {
        let message = self.raw.request().ok()?;
        self.seen.lock().unwrap().push(message.clone());
        Some(message)
    }

    /// Reads one request's head and records it; its body stays unread.
    pub fn head(&mut self) -> Option<Message> {
        let message = self.raw.head().ok()?;
        self.seen.lock().unwrap().push(message.clone());
        Some(message)
    }

    /// Answers every request on the connection with the same bytes.
    pub fn answer_all(&mut self, bytes: &str) {
        while self.request().is_some() {
            if self.raw.try_send(bytes).is_err() {
                return;
            }
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct RawOrigin {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Message>>>,
    accepted: Arc<AtomicUsize>,
    stopping: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl RawOrigin {
    /// Starts one that plays `script` on every connection; when the script returns, the connection is closed.
    pub fn start(script: impl Fn(&mut Accepted) + Send + Sync + 'static) -> Self {
        let listener = listen();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let accepted = Arc::new(AtomicUsize::new(0));
        let stopping = Arc::new(AtomicBool::new(false));
        let script = Arc::new(script);
        let accepting = std::thread::spawn({
            let (seen, accepted, stopping) = (seen.clone(), accepted.clone(), stopping.clone());
            move || {
                for stream in listener.incoming() {
                    if stopping.load(Ordering::SeqCst) {
                        return;
                    }
                    let Ok(stream) = stream else { continue };
                    let number = accepted.fetch_add(1, Ordering::SeqCst);
                    let mut connection = Accepted { raw: Raw::over(stream), number, seen: seen.clone() };
                    let script = script.clone();
                    std::thread::spawn(move || script(&mut connection));
                }
            }
        });
        Self { address, seen, accepted, stopping, accepting: Some(accepting) }
    }

    /// One that gives `bytes` to every request.
    pub fn answering(bytes: &'static str) -> Self {
        Self::start(move |connection| connection.answer_all(bytes))
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Message> {
        self.seen.lock().unwrap().clone()
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for RawOrigin {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = std::net::TcpStream::connect(self.address); // wakes the accept
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

/// A listener with room for a burst of connections. What the standard library asks for is 128: one more while its thread
/// does not run, and the system drops the attempt, which is made again after a second.
pub fn listen() -> TcpListener {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(4096).unwrap();
    socket.into()
}
