//! A client that writes bytes exactly as given and shows exactly what came back.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use super::PATIENCE;

/// One message as it was on the wire.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// The status line or request line.
    pub start: String,
    /// Header lines in their order; names as they were written.
    pub headers: Vec<(String, String)>,
    /// The body, its chunks joined.
    pub body: Vec<u8>,
    /// Trailer lines.
    pub trailers: Vec<(String, String)>,
}

impl Message {
    /// The status of an answer.
    #[track_caller]
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line")
    }

    /// The value of a header, several joined by `, `; the name in any case.
    pub fn header(&self, name: &str) -> Option<String> {
        joined(&self.headers, name)
    }

    /// The value of a trailer.
    pub fn trailer(&self, name: &str) -> Option<String> {
        joined(&self.trailers, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

fn joined(lines: &[(String, String)], name: &str) -> Option<String> {
    let values: Vec<_> =
        lines.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

/// A connection, and what was read from it but not yet asked for.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Raw {
    /// Connects; reads fail after [`PATIENCE`].
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect_timeout(&address, PATIENCE).expect("a connection"))
    }

    /// Takes a connection over.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// The connection itself.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Writes.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.try_send(bytes).expect("the peer takes bytes");
        self
    }

    /// Writes; a peer that is gone is no failure of the test.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends a GET and reads its answer.
    #[track_caller]
    pub fn get(&mut self, host: &str, path: &str) -> Message {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")).answer()
    }

    /// Closes the sending side (half-close).
    pub fn finish_sending(&mut self) -> &mut Self {
        self.stream.shutdown(Shutdown::Write).unwrap();
        self
    }

    /// Closes with RST instead of FIN.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Reads until the buffer holds `n` bytes and takes them.
    pub fn exactly(&mut self, n: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < n {
            self.fill()?;
        }
        Ok(self.buffer.drain(..n).collect())
    }

    /// Reads up to and including `end` and takes it.
    pub fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|w| w == end) {
                return Ok(self.buffer.drain(..at + end.len()).collect());
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut part = [0; 16 * 1024];
        match self.stream.read(&mut part)? {
            0 => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("closed; unread: {:?}", String::from_utf8_lossy(&self.buffer)),
            )),
            n => {
                self.buffer.extend_from_slice(&part[..n]);
                Ok(())
            }
        }
    }

    /// Everything up to the peer's close, a reset counting as one.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        loop {
            match self.fill() {
                Ok(()) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    panic!("the peer does not close; so far: {:?}", String::from_utf8_lossy(&self.buffer))
                }
                Err(_) => return std::mem::take(&mut self.buffer),
            }
        }
    }

    /// Fails the test unless the peer closes without another byte.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "more came: {:?}", String::from_utf8_lossy(&rest));
    }

    /// Reads the head of a message.
    pub fn head(&mut self) -> io::Result<Message> {
        let head = self.until(b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&head);
        let mut lines = head.trim_end().split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        Ok(Message { start, headers: lines.map(header_line).collect(), ..Message::default() })
    }

    /// Reads an answer to anything but HEAD; 1xx answers before it are passed over.
    #[track_caller]
    pub fn answer(&mut self) -> Message {
        loop {
            let head = self.head().expect("an answer");
            match head.status() {
                100..=199 => {}
                204 | 304 => return head,
                _ => return self.body_of(head, true).expect("the body of the answer"),
            }
        }
    }

    /// Reads a request with its body, as a server does.
    pub fn request(&mut self) -> io::Result<Message> {
        let head = self.head()?;
        self.body_of(head, false)
    }

    /// Reads the body that `head` announces.
    pub fn body_of(&mut self, mut head: Message, is_answer: bool) -> io::Result<Message> {
        if head.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            loop {
                let chunk = self.chunk()?;
                if chunk.is_empty() {
                    break;
                }
                head.body.extend(chunk);
            }
            loop {
                let line = self.until(b"\r\n")?;
                if line == b"\r\n" {
                    return Ok(head);
                }
                head.trailers.push(header_line(String::from_utf8_lossy(&line).trim_end()));
            }
        }
        match head.header("content-length") {
            Some(length) => head.body = self.exactly(length.parse().expect("a length"))?,
            None if is_answer => head.body = self.rest(),
            None => {}
        }
        Ok(head)
    }

    /// Reads one chunk of a chunked body; empty is the last one.
    pub fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let line = self.until(b"\r\n")?;
        let line = String::from_utf8_lossy(&line);
        let size = usize::from_str_radix(line.trim_end().split(';').next().unwrap_or_default(), 16)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("no chunk: {line:?}")))?;
        if size == 0 {
            return Ok(Vec::new());
        }
        let mut chunk = self.exactly(size + 2)?;
        chunk.truncate(size);
        Ok(chunk)
    }
}

fn header_line(line: &str) -> (String, String) {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    (name.to_owned(), value.trim().to_owned())
}
