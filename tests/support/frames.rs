//! HTTP/2 frame by frame: a client and an origin that write frames exactly as given, whatever the RFC says of them, and
//! show exactly what came back.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::PATIENCE;

/// What a client that speaks HTTP/2 sends first (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// On DATA and HEADERS.
pub const END_STREAM: u8 = 0x1;
/// On SETTINGS and PING.
pub const ACK: u8 = 0x1;
/// On HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 0x4;
/// On DATA and HEADERS.
pub const PADDED: u8 = 0x8;
/// On HEADERS: a priority stands before the block.
pub const PRIORITISED: u8 = 0x20;
/// A whole request without a body.
pub const WHOLE: u8 = END_STREAM | END_HEADERS;

pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const INTERNAL_ERROR: u32 = 2;
pub const FLOW_CONTROL_ERROR: u32 = 3;
pub const STREAM_CLOSED: u32 = 5;
pub const FRAME_SIZE_ERROR: u32 = 6;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const COMPRESSION_ERROR: u32 = 9;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// Names and values, in their order.
pub type Fields = Vec<(String, String)>;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// The bytes of a frame. The stream's reserved bit is taken as given.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame_header(payload.len(), kind, flags, stream);
    bytes.extend_from_slice(payload);
    bytes
}

/// The nine octets before a payload of `length`, which need not follow.
pub fn frame_header(length: usize, kind: u8, flags: u8, stream: u32) -> Vec<u8> {
    let [_, l0, l1, l2] = u32::try_from(length).unwrap().to_be_bytes();
    let mut bytes = vec![l0, l1, l2, kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes
}

pub fn headers(stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags, stream, &block(fields))
}

pub fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, flags, stream, bytes)
}

pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = values
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    frame(SETTINGS, 0, 0, &payload)
}

pub fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

pub fn ping(payload: [u8; 8]) -> Vec<u8> {
    frame(PING, 0, 0, &payload)
}

/// Fields as HPACK writes them when it neither indexes nor compresses anything (RFC 7541 §6.2.2): every octet as given.
pub fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        string(name.as_ref(), &mut out);
        string(value.as_ref(), &mut out);
    }
    out
}

/// A string literal (RFC 7541 §5.2).
pub fn string(bytes: &[u8], out: &mut Vec<u8>) {
    integer(bytes.len(), 7, 0, out);
    out.extend_from_slice(bytes);
}

/// An integer with a prefix of `bits`, the rest of whose octet is `first` (RFC 7541 §5.1).
pub fn integer(mut value: usize, bits: u32, first: u8, out: &mut Vec<u8>) {
    let most = (1_usize << bits) - 1;
    if value < most {
        out.push(first | u8::try_from(value).unwrap());
        return;
    }
    out.push(first | u8::try_from(most).unwrap());
    value -= most;
    while value >= 128 {
        out.push(u8::try_from(value % 128).unwrap() | 0x80);
        value /= 128;
    }
    out.push(u8::try_from(value).unwrap());
}

/// The fields of a plain request.
pub fn request<'a>(method: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![(":method", method), (":scheme", "http"), (":authority", "a.test"), (":path", path)]
}

/// [`request`] with more fields after it.
pub fn request_with<'a>(
    method: &'a str,
    path: &'a str,
    more: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let mut fields = request(method, path);
    fields.extend_from_slice(more);
    fields
}

/// What became of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered, to the end.
    Answer(Answer),
    /// `RST_STREAM`, with its code.
    Reset(u32),
    /// GOAWAY with another code than `NO_ERROR`.
    GoAway(u32),
    /// The connection was closed without a word.
    Closed,
    /// The connection goes on as if nothing had been wrong.
    Nothing,
}

impl Outcome {
    /// The status, when it was answered.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Answer(answer) => Some(answer.status()),
            _ => None,
        }
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?} {:?}", self.headers, self.text(), self.trailers)
    }
}

/// A whole answer.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Answer {
    pub headers: Fields,
    pub body: Vec<u8>,
    pub trailers: Fields,
}

impl Answer {
    #[track_caller]
    pub fn status(&self) -> u16 {
        value(&self.headers, ":status").and_then(|status| status.parse().ok()).expect("a :status")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The value of a field; several joined by `, `.
pub fn value(fields: &Fields, name: &str) -> Option<String> {
    let values: Vec<_> = fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

/// One side of an HTTP/2 connection.
pub struct Peer {
    stream: TcpStream,
    buffer: Vec<u8>,
    decoder: loona_hpack::Decoder<'static>,
    /// Answers SETTINGS and PING by itself.
    pub polite: bool,
    /// Heads of which some came.
    partial: Option<(u32, u8, Vec<u8>)>,
}

impl Peer {
    /// Connects, and says nothing.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect_timeout(&address, PATIENCE).expect("a connection"))
    }

    /// Connects and begins HTTP/2 with the default settings.
    #[track_caller]
    pub fn open(address: SocketAddr) -> Self {
        Self::open_with(address, &[])
    }

    /// Connects and begins HTTP/2 with these settings; returns when they are acknowledged.
    #[track_caller]
    pub fn open_with(address: SocketAddr, values: &[(u16, u32)]) -> Self {
        let mut peer = Self::connect(address);
        peer.send([PREFACE, &settings(values)].concat());
        loop {
            let frame = peer.next().expect("the server's settings");
            if frame.kind == SETTINGS && frame.flags & ACK != 0 {
                return peer;
            }
        }
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new(), decoder: loona_hpack::Decoder::new(), polite: true, partial: None }
    }

    /// The connection itself.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Writes. A peer that has gone is no failure of the test: what it said is what counts.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// The next frame; `None` when the connection has ended.
    #[track_caller]
    pub fn next(&mut self) -> Option<Frame> {
        let head = self.exactly(9)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        let payload = self.exactly(length)?;
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        if self.polite && frame.flags & ACK == 0 {
            match frame.kind {
                SETTINGS => {
                    self.send(self::frame(SETTINGS, ACK, 0, &[]));
                }
                PING => {
                    self.send(self::frame(PING, ACK, 0, &frame.payload));
                }
                _ => {}
            }
        }
        Some(frame)
    }

    fn exactly(&mut self, n: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < n {
            let mut part = [0; 16 * 1024];
            match self.stream.read(&mut part) {
                Ok(0) => return None,
                Ok(n) => self.buffer.extend_from_slice(&part[..n]),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    panic!("the peer neither says anything nor closes")
                }
                Err(_) => return None,
            }
        }
        Some(self.buffer.drain(..n).collect())
    }

    /// Reads what is left until the connection ends; a GOAWAY with a code is returned.
    #[track_caller]
    pub fn end(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next() {
            if frame.kind == GOAWAY {
                code = Some(code_of(&frame.payload[4..]));
            }
        }
        code
    }

    /// Decodes the head in `frame`, and what continues it. `None` when more is to come.
    fn head(&mut self, frame: &Frame) -> Option<(u32, bool, Fields)> {
        let (stream, flags, mut block) = match frame.kind {
            HEADERS => {
                let mut block = frame.payload.clone();
                if frame.flags & PADDED != 0 {
                    let pad = usize::from(block.remove(0));
                    block.truncate(block.len() - pad);
                }
                if frame.flags & PRIORITISED != 0 {
                    block.drain(..5);
                }
                (frame.stream, frame.flags, block)
            }
            _ => self.partial.take().expect("a head to continue"),
        };
        if frame.kind == CONTINUATION {
            block.extend_from_slice(&frame.payload);
        }
        if frame.flags & END_HEADERS == 0 {
            self.partial = Some((stream, flags, block));
            return None;
        }
        let fields = self.decoder.decode(&block).expect("a head that HPACK can read");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some((stream, flags & END_STREAM != 0, fields.iter().map(|(n, v)| (text(n), text(v))).collect()))
    }

    /// Reads until it is known what became of `stream`. DATA is acknowledged.
    #[track_caller]
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        self.watch(stream, None)
    }

    /// [`Self::outcome`], but for a connection that goes on: then two PINGs are answered, one after the other, and
    /// nothing else has come. The first may overtake what is due.
    #[track_caller]
    pub fn outcome_or_nothing(&mut self, stream: u32) -> Outcome {
        self.send(ping(*b"barrier!"));
        self.watch(stream, Some(*b"barrier!"))
    }

    fn watch(&mut self, stream: u32, barrier: Option<[u8; 8]>) -> Outcome {
        let mut answer = Answer::default();
        while let Some(frame) = self.next() {
            match frame.kind {
                HEADERS | CONTINUATION => {
                    let Some((id, ends, fields)) = self.head(&frame) else { continue };
                    if id != stream {
                        continue;
                    }
                    if answer.headers.is_empty() {
                        answer.headers = fields;
                    } else {
                        answer.trailers = fields;
                    }
                    if ends {
                        return Outcome::Answer(answer);
                    }
                }
                DATA => {
                    if let Ok(length @ 1..) = u32::try_from(frame.payload.len()) {
                        self.send(window_update(0, length));
                        self.send(window_update(frame.stream, length));
                    }
                    if frame.stream == stream {
                        answer.body.extend_from_slice(&frame.payload);
                        if frame.flags & END_STREAM != 0 {
                            return Outcome::Answer(answer);
                        }
                    }
                }
                RST_STREAM if frame.stream == stream => return Outcome::Reset(code_of(&frame.payload)),
                GOAWAY if code_of(&frame.payload[4..]) != NO_ERROR => {
                    return Outcome::GoAway(code_of(&frame.payload[4..]));
                }
                PING if frame.flags & ACK != 0 && barrier.is_some_and(|it| frame.payload == it) => {
                    self.send(ping(*b"barrier2"));
                }
                PING if frame.flags & ACK != 0 && barrier.is_some() && frame.payload == b"barrier2" => {
                    return Outcome::Nothing;
                }
                _ => {}
            }
        }
        Outcome::Closed
    }

    /// Sends a GET on `stream`, and fails the test unless it is answered with 200: the connection goes on.
    #[track_caller]
    pub fn expect_alive(&mut self, stream: u32) {
        self.send(headers(stream, WHOLE, &request("GET", "/alive")));
        let outcome = self.outcome(stream);
        assert_eq!(outcome.status(), Some(200), "the connection does not go on: {outcome:?}");
    }

    /// For an origin: the next request on the connection, its body read to the end.
    pub fn request(&mut self) -> Option<(u32, Fields, Vec<u8>, Fields)> {
        let (mut found, mut body): (Option<(u32, Fields)>, _) = (None, Vec::new());
        while let Some(frame) = self.next() {
            match frame.kind {
                HEADERS | CONTINUATION => {
                    let Some((id, ends, fields)) = self.head(&frame) else { continue };
                    match found.take() {
                        Some((id, first)) => return Some((id, first, body, fields)),
                        None if ends => return Some((id, fields, body, Vec::new())),
                        None => found = Some((id, fields)),
                    }
                }
                DATA => {
                    body.extend_from_slice(&frame.payload);
                    if frame.flags & END_STREAM != 0 {
                        let (id, fields) = found?;
                        return Some((id, fields, body, Vec::new()));
                    }
                }
                RST_STREAM => found = None,
                _ => {}
            }
        }
        None
    }
}

/// The error code at the start of `bytes`.
pub fn code_of(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// An origin that plays a script of frames, one thread a connection, when the connection has begun.
#[derive(Debug)]
pub struct FrameOrigin {
    /// Where it listens.
    pub address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<Fields>>>,
    stopping: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl FrameOrigin {
    /// One that gives each request what `answer` makes of its stream.
    pub fn answering(answer: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = super::raw_origin::listen();
        let address = listener.local_addr().unwrap();
        let (accepted, stopping) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let answer = Arc::new(answer);
        let accepting = std::thread::spawn({
            let (accepted, stopping, seen) = (accepted.clone(), stopping.clone(), seen.clone());
            move || {
                for stream in listener.incoming() {
                    if stopping.load(Ordering::SeqCst) {
                        return;
                    }
                    let Ok(stream) = stream else { continue };
                    accepted.fetch_add(1, Ordering::SeqCst);
                    let (answer, seen) = (answer.clone(), seen.clone());
                    std::thread::spawn(move || {
                        let mut peer = Peer::over(stream);
                        if peer.exactly(PREFACE.len()).is_none() {
                            return;
                        }
                        peer.send(settings(&[]));
                        while let Some((stream, fields, ..)) = peer.request() {
                            seen.lock().unwrap().push(fields);
                            peer.send(answer(stream));
                        }
                    });
                }
            }
        });
        Self { address, accepted, seen, stopping, accepting: Some(accepting) }
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// The heads of all requests so far.
    pub fn seen(&self) -> Vec<Fields> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for FrameOrigin {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the accept
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

/// Sends `bytes` again and again, until so many were sent, the peer has gone, or the time is up. Says how many.
pub fn flood(peer: &mut Peer, bytes: &[u8], times: usize, within: Duration) -> usize {
    let until = Instant::now() + within;
    peer.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    for sent in 0..times {
        if Instant::now() > until || peer.stream.write_all(bytes).is_err() {
            return sent;
        }
    }
    times
}
