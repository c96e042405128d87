//! An origin that keeps every byte that it is sent, and a reader of messages that forgives nothing.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

/// A request as an endpoint got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The request line.
    pub line: String,
    /// Fields in their order, names in lower case.
    pub fields: Vec<(String, String)>,
    /// The body, without its framing.
    pub body: Vec<u8>,
}

impl Request {
    /// All values of a field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }
}

/// What the bytes of one connection are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Read1 {
    /// The messages that are whole.
    pub whole: Vec<Request>,
    /// What is left: the beginning of a message.
    pub rest: Vec<u8>,
}

/// Reads requests as strictly as can be: one CRLF a line, one framing a message, nothing hop-by-hop but `Connection`.
pub fn read_requests(mut bytes: &[u8]) -> Result<Read1, String> {
    let mut read = Read1::default();
    while !bytes.is_empty() {
        if let Some((request, n)) = read_request(bytes)? {
            read.whole.push(request);
            bytes = &bytes[n..];
        } else {
            read.rest = bytes.to_vec();
            break;
        }
    }
    Ok(read)
}

fn read_request(bytes: &[u8]) -> Result<Option<(Request, usize)>, String> {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|e| e.to_string())?;
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap().to_owned();
    let well_formed = |text: &str| !text.bytes().any(|b| b == b'\n' || b == b'\r' || b == 0);
    let [_, target, "HTTP/1.1"] = line.split(' ').collect::<Vec<_>>()[..] else {
        return Err(format!("request line {line:?}"));
    };
    if !well_formed(&line) || !(target.starts_with('/') || target == "*") {
        return Err(format!("request line {line:?}"));
    }
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(": ").ok_or_else(|| format!("field {line:?}"))?;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err(format!("name {line:?}"));
        }
        if !well_formed(value) || value != value.trim() {
            return Err(format!("value {line:?}"));
        }
        fields.push((name.to_lowercase(), value.to_owned()));
    }
    let mut request = Request { line, fields, body: Vec::new() };
    let mut at = end + 4;
    match (&request.all("content-length")[..], &request.all("transfer-encoding")[..]) {
        ([], []) => {}
        ([length], []) => {
            let length: usize = length.parse().map_err(|e| format!("{length:?}: {e}"))?;
            let Some(body) = bytes.get(at..at + length) else { return Ok(None) };
            request.body = body.to_vec();
            at += length;
        }
        ([], ["chunked"]) => loop {
            let Some(n) = bytes[at..].windows(2).position(|w| w == b"\r\n") else { return Ok(None) };
            let size = std::str::from_utf8(&bytes[at..at + n]).map_err(|e| e.to_string())?;
            let size = usize::from_str_radix(size, 16).map_err(|e| format!("size {size:?}: {e}"))?;
            at += n + 2;
            if size == 0 {
                // Trailers, of which these tests expect none.
                match bytes.get(at..at + 2) {
                    None => return Ok(None),
                    Some(b"\r\n") => at += 2,
                    Some(other) => return Err(format!("trailers {other:?}")),
                }
                break;
            }
            let Some(chunk) = bytes.get(at..at + size + 2) else { return Ok(None) };
            if !chunk.ends_with(b"\r\n") {
                return Err("a chunk without an end".into());
            }
            request.body.extend_from_slice(&chunk[..size]);
            at += size + 2;
        },
        lengths => return Err(format!("lengths {lengths:?}")),
    }
    for hop in ["keep-alive", "proxy-connection", "upgrade", "http2-settings", "expect"] {
        if !request.all(hop).is_empty() {
            return Err(format!("{hop} was passed on"));
        }
    }
    Ok(Some((request, at)))
}

/// See the module. Answers every whole request with 200 and `ok`; what is no request gets no answer.
#[derive(Debug)]
pub struct Recorder {
    /// Where it listens.
    pub address: SocketAddr,
    connections: Arc<Mutex<Vec<Vec<u8>>>>,
    ended: Arc<AtomicBool>,
}

impl Recorder {
    /// Starts one.
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(Mutex::new(Vec::new()));
        let ended = Arc::new(AtomicBool::new(false));
        std::thread::spawn({
            let (connections, ended) = (connections.clone(), ended.clone());
            move || {
                for stream in listener.incoming() {
                    if ended.load(Ordering::SeqCst) {
                        return;
                    }
                    let Ok(stream) = stream else { continue };
                    let number = {
                        let mut all = connections.lock().unwrap();
                        all.push(Vec::new());
                        all.len() - 1
                    };
                    let connections = connections.clone();
                    std::thread::spawn(move || record(stream, &connections, number));
                }
            }
        });
        Self { address, connections, ended }
    }

    /// All bytes so far, by connection.
    pub fn bytes(&self) -> Vec<Vec<u8>> {
        self.connections.lock().unwrap().clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the accept
    }
}

fn record(mut stream: TcpStream, connections: &Mutex<Vec<Vec<u8>>>, number: usize) {
    let mut answered = 0;
    let mut part = [0; 16 * 1024];
    while let Ok(n @ 1..) = stream.read(&mut part) {
        let whole = {
            let mut all = connections.lock().unwrap();
            all[number].extend_from_slice(&part[..n]);
            read_requests(&all[number]).map_or(0, |read| read.whole.len())
        };
        for _ in answered..whole {
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").is_err() {
                return;
            }
        }
        answered = whole.max(answered);
    }
}
