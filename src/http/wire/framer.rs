//! Follows one direction of an HTTP/1 connection from message to message.

use super::{
    Fault,
    lines::{self, Field},
    scan::Places,
};

/// What an answer is an answer to, as far as its framing depends on it (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asked {
    /// Any method but the two below.
    Other,
    /// `HEAD`: whatever the answer says, it has no body.
    Head,
    /// `CONNECT`: after a 2xx the connection is a tunnel.
    Connect,
}

/// What [`Framer::feed`] found in what it was fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fed {
    /// How many of the bytes are fine, and may be read by others.
    pub passed: usize,
    /// Why it stopped there; `None` when all of them are fine.
    pub stop: Option<Stop>,
    /// Where the message begins that was read last, when its head had not passed before (0 when it began before these
    /// bytes). Who has not shown the bytes to anybody yet can refuse the whole of it for what is wrong in its body.
    pub begun: Option<usize>,
}

/// Why a [`Framer`] stopped before the end of what it was fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// A head is refused: nothing of its message may be acted on, and nothing that follows it be read.
    Refuse(Fault),
    /// A body is refused whose head has passed: the message is broken, and nothing that follows may be read.
    Break(Fault),
    /// A request that may turn the connection into a tunnel (`Upgrade`, `CONNECT`) ends here. What follows is a
    /// request if it does not: feed the rest again once that is known. May come with all bytes passed.
    Fork,
    /// The answer is complete, and nothing may be read after it: its sender does not know where it ends. May come
    /// with all bytes passed.
    Close,
}

/// What a byte of a connection belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Nothing yet: a message begins here.
    Start,
    /// A head.
    Head,
    /// A body, or a piece of it.
    Data,
    /// What holds the pieces of a body together.
    Frame,
    /// The fields after a body.
    Trailers,
    /// A body or a tunnel that only the end of the connection ends.
    Rest,
    /// Nothing: the answer is complete, and none is expected.
    Over,
}

/// Where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a first line; whether an empty line was there.
    Start { blank: bool },
    /// In the fields of a head.
    Fields,
    /// So many bytes of the body are left.
    Body(u64),
    /// Before the size of a chunk.
    Size,
    /// So many bytes of the chunk are left.
    Chunk(u64),
    /// Before the CR after a chunk.
    ChunkCr,
    /// Before the LF after a chunk.
    ChunkLf,
    /// In the trailers.
    Trailers,
    /// Everything up to the end of the connection belongs to a body or a tunnel.
    Rest,
    /// Nothing more is read.
    Over(Stop),
}

/// What matters of a head.
#[derive(Debug, Clone, Copy)]
struct Head {
    is_http11: bool,
    /// Only answers have one.
    status: u16,
    /// `Upgrade` is there, or the method is `CONNECT`.
    forks: bool,
    chunked: bool,
    length: Option<u64>,
}

const NO_HEAD: Head = Head { is_http11: true, status: 0, forks: false, chunked: false, length: None };

/// Reads along with one direction of an HTTP/1 connection. Pure: bytes in, verdict out.
///
/// What it is fed may be cut anywhere; it finds the same, no matter where. Complete lines are looked at where they
/// are; only a line that is cut is put together in a buffer. The bytes of bodies are counted, not read.
#[derive(Debug)]
pub struct Framer {
    answers: bool,
    state: State,
    head: Head,
    /// The request that the next answer is for.
    asked: Option<Asked>,
    /// How many interim answers came since the last answer.
    interim: u32,
    /// The head of an interim answer, as far as it has come, and those that are whole and that nobody took yet.
    hint: Option<Vec<u8>>,
    hints: Vec<Vec<u8>>,
    /// The beginning of a line that was cut.
    cut: Vec<u8>,
    max_line: usize,
}

impl Framer {
    /// Most bytes of one chunk's extensions. Nobody needs any; signatures of chunks take about 90.
    pub const MAX_EXTENSIONS: usize = 256;

    /// Most interim answers (1xx) before an answer. `102 Processing` every twenty seconds lasts for half an hour.
    pub const MAX_INTERIM: u32 = 100;

    /// Follows requests. A line may have at most `max_line` bytes.
    pub fn requests(max_line: usize) -> Self {
        Self::new(false, max_line)
    }

    /// Follows answers; tell it of each request ([`Framer::expect`]). A line may have at most `max_line` bytes.
    pub fn answers(max_line: usize) -> Self {
        Self::new(true, max_line)
    }

    fn new(answers: bool, max_line: usize) -> Self {
        let state = State::Start { blank: false };
        Self {
            answers,
            state,
            head: NO_HEAD,
            asked: None,
            interim: 0,
            hint: None,
            hints: Vec::new(),
            cut: Vec::new(),
            max_line,
        }
    }

    /// A request is sent: the next answer is for it. Before its answer begins.
    pub fn expect(&mut self, asked: Asked) {
        self.asked = Some(asked);
    }

    /// The heads of the interim answers (1xx, but for 101) that came since this was called last.
    pub fn take_hints(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.hints)
    }

    /// Whether a head has passed, and what it announced has not.
    fn in_body(&self) -> bool {
        !matches!(self.state, State::Start { .. } | State::Fields)
    }

    /// Reads on. After any stop but [`Stop::Fork`] it says the same of whatever it is fed.
    pub fn feed(&mut self, bytes: &[u8]) -> Fed {
        let mut at = 0;
        let mut begun = (!self.in_body()).then_some(0);
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if let State::Start { .. } = self.state {
                begun = Some(at);
            }
            let found = self.step(rest);
            match found {
                Ok((n, None)) => at += n,
                Ok((n, stop)) => return Fed { passed: at + n, stop, begun },
                Err((n, fault)) => {
                    let stop = if self.in_body() { Stop::Break(fault) } else { Stop::Refuse(fault) };
                    self.state = State::Over(stop);
                    return Fed { passed: at + n, stop: Some(stop), begun };
                }
            }
        }
        Fed { passed: at, stop: None, begun }
    }

    /// One step: to the end of a line, of a head, of a chunk, or of what there is. A fault comes with the beginning of
    /// its line.
    fn step(&mut self, rest: &[u8]) -> Result<(usize, Option<Stop>), (usize, Fault)> {
        match self.state {
            State::Fields => self.fields(rest),
            State::Start { .. } | State::Size | State::Trailers => {
                self.lines(rest).map_err(|fault| (0, fault))
            }
            State::Body(left) => Ok(self.skip(left, rest.len(), State::Body)),
            State::Chunk(left) => Ok(self.skip(left, rest.len(), State::Chunk)),
            State::ChunkCr => self.must_be(b'\r', rest, State::ChunkLf).map_err(|fault| (0, fault)),
            State::ChunkLf => self.must_be(b'\n', rest, State::Size).map_err(|fault| (0, fault)),
            State::Rest => Ok((rest.len(), None)),
            State::Over(stop) => Ok((0, Some(stop))),
        }
    }

    /// [`Framer::step`] for who decodes what it follows: what the bytes were that it took, and how many.
    pub(super) fn advance(&mut self, rest: &[u8]) -> Result<(usize, Part), Fault> {
        let part = self.part();
        let (taken, stop) = self.step(rest).map_err(|(_, fault)| fault)?;
        match stop {
            Some(Stop::Refuse(fault) | Stop::Break(fault)) => Err(fault),
            Some(Stop::Fork | Stop::Close) | None => Ok((taken, part)),
        }
    }

    /// What the next byte belongs to.
    pub(super) fn part(&self) -> Part {
        match self.state {
            State::Start { .. } if self.answers && self.asked.is_none() => Part::Over,
            State::Start { .. } => Part::Start,
            State::Fields => Part::Head,
            State::Body(_) | State::Chunk(_) => Part::Data,
            State::Size | State::ChunkCr | State::ChunkLf => Part::Frame,
            State::Trailers => Part::Trailers,
            State::Rest => Part::Rest,
            State::Over(_) => Part::Over,
        }
    }

    /// How many bytes of the body are left, where that is known.
    pub(super) fn left(&self) -> Option<u64> {
        match self.state {
            State::Body(left) => Some(left),
            _ => None,
        }
    }

    /// Whether the head says how long the body is, in bytes.
    pub(super) fn sized(&self) -> bool {
        self.head.length.is_some()
    }

    /// Whether nothing more may be read although the message ended well ([`Stop::Close`]).
    pub(super) fn must_close(&self) -> bool {
        matches!(self.state, State::Over(_))
    }

    /// The next line, when it is whole.
    fn lines(&mut self, rest: &[u8]) -> Result<(usize, Option<Stop>), Fault> {
        if self.answers && self.asked.is_none() && !self.in_body() {
            return Err(Fault::Unasked);
        }
        let end = memchr::memchr(b'\n', rest);
        let part = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
        if self.cut.len() + part.len() > self.max_line {
            return Err(Fault::TooLong);
        }
        let Some(end) = end else {
            self.cut.extend_from_slice(part);
            return Ok((rest.len(), None));
        };
        let stop = if self.cut.is_empty() {
            self.line(part)
        } else {
            let mut line = std::mem::take(&mut self.cut);
            line.extend_from_slice(part);
            self.line(&line)
        };
        Ok((end + 1, stop?))
    }

    /// One line without its LF.
    fn line(&mut self, line: &[u8]) -> Result<Option<Stop>, Fault> {
        let line = lines::without_cr(line)?;
        match self.state {
            State::Start { blank } if line.is_empty() => {
                if blank || self.answers {
                    return Err(Fault::EmptyLines);
                }
                // Some clients send a line more than the body that they announced.
                self.state = State::Start { blank: true };
            }
            State::Start { .. } => self.first_line(line)?,
            State::Fields if line.is_empty() => return self.head_ends(),
            State::Fields => {
                if let Some(hint) = &mut self.hint {
                    keep(hint, line);
                }
                if lines::may_matter(line) {
                    self.note(lines::telling(line)?)?;
                }
            }
            State::Trailers if line.is_empty() => return Ok(self.message_ends()),
            State::Trailers => drop(lines::field(line)?),
            _ => {
                self.state = match lines::chunk_size(line, Self::MAX_EXTENSIONS)? {
                    0 => State::Trailers,
                    size => State::Chunk(size),
                };
            }
        }
        Ok(None)
    }

    fn first_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        self.head = if self.answers {
            let status = lines::status_line(line)?;
            if matches!(status.status, 100 | 102..=199) {
                keep(self.hint.insert(Vec::new()), line);
            }
            Head { is_http11: status.is_http11, status: status.status, ..NO_HEAD }
        } else {
            let line = lines::request_line(line)?;
            Head { is_http11: line.is_http11, forks: line.connect, ..NO_HEAD }
        };
        self.state = State::Fields;
        Ok(())
    }

    /// All fields that are there in one go, and the end of the head, as long as they are whole; else the next line.
    /// A fault comes with the beginning of its line.
    fn fields(&mut self, rest: &[u8]) -> Result<(usize, Option<Stop>), (usize, Fault)> {
        let mut at = 0;
        // The lines of an interim answer are kept one by one.
        if self.cut.is_empty() && self.hint.is_none() {
            // Looked at from its first byte on, beyond its end perhaps: that rules out nearly every line.
            let mut may_matter = lines::may_matter(rest);
            for end in Places::of(b'\n', rest) {
                let length = end - at;
                if length == 0 || length > self.max_line || rest.get(end - 1) != Some(&b'\r') {
                    break;
                }
                if length == 1 {
                    let stop = self.head_ends().map_err(|fault| (at, fault))?;
                    return Ok((end + 1, stop));
                }
                if may_matter && let Some(line) = rest.get(at..end - 1).filter(|line| lines::may_matter(line))
                {
                    lines::telling(line).and_then(|field| self.note(field)).map_err(|fault| (at, fault))?;
                }
                at = end + 1;
                may_matter = rest.get(at..).is_some_and(lines::may_matter);
            }
        }
        if at > 0 { Ok((at, None)) } else { self.lines(rest).map_err(|fault| (0, fault)) }
    }

    /// What a field says of the message's end.
    fn note(&mut self, field: Field<'_>) -> Result<(), Fault> {
        match field {
            Field::Other => {}
            Field::ContentLength(value) => {
                let length = lines::length(value, self.answers)?;
                if self.head.length.replace(length).is_some() {
                    return Err(Fault::ContentLength);
                }
            }
            Field::TransferEncoding(value) => {
                if !self.head.is_http11 {
                    return Err(Fault::TransferEncodingVersion);
                }
                if self.head.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Fault::TransferEncoding);
                }
                self.head.chunked = true;
            }
            Field::Upgrade => self.head.forks |= !self.answers && self.head.is_http11,
        }
        if self.head.chunked && self.head.length.is_some() { Err(Fault::BothLengths) } else { Ok(()) }
    }

    /// The head is whole: what follows it is known (RFC 9112 §6.3).
    fn head_ends(&mut self) -> Result<Option<Stop>, Fault> {
        if self.answers && self.answer_without_body()? {
            return Ok(match self.state {
                State::Fields => self.message_ends(),
                _ => None,
            });
        }
        self.state = match self.head.length {
            _ if self.head.chunked => State::Size,
            Some(0) => return Ok(self.message_ends()),
            Some(length) => State::Body(length),
            None if self.answers => State::Rest,
            None => return Ok(self.message_ends()),
        };
        Ok(None)
    }

    /// Whether the answer has no body, whatever it says. Leaves [`State::Fields`] when that is not its end.
    fn answer_without_body(&mut self) -> Result<bool, Fault> {
        let head = &self.head;
        match (head.status, self.asked) {
            (101, _) | (200..=299, Some(Asked::Connect)) => self.state = State::Rest,
            (100..=199, _) => {
                if head.chunked || head.length.is_some_and(|length| length > 0) {
                    return Err(Fault::InterimLength);
                }
                self.interim += 1;
                if self.interim > Self::MAX_INTERIM {
                    return Err(Fault::InterimStorm);
                }
                if let Some(mut hint) = self.hint.take() {
                    keep(&mut hint, b"");
                    self.hints.push(hint);
                }
                self.state = State::Start { blank: false };
            }
            (204 | 304, _) | (_, Some(Asked::Head)) => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn message_ends(&mut self) -> Option<Stop> {
        self.state = State::Start { blank: false };
        self.interim = 0;
        let asked = self.asked.take();
        let Head { status, chunked, length, forks, .. } = self.head;
        if !self.answers {
            return forks.then_some(Stop::Fork);
        }
        // RFC 9110 §8.6 and RFC 9112 §6.1: a server must not say so, and one that does may send what it announces.
        let announces = chunked || length.is_some_and(|length| length > 0);
        let confused = status == 204 && announces || status == 304 && chunked && asked != Some(Asked::Head);
        confused.then(|| {
            self.state = State::Over(Stop::Close);
            Stop::Close
        })
    }

    /// Counts bytes of a body.
    fn skip(&mut self, left: u64, there: usize, part: fn(u64) -> State) -> (usize, Option<Stop>) {
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(there);
        match left - n as u64 {
            0 if matches!(self.state, State::Chunk(_)) => self.state = State::ChunkCr,
            0 => return (n, self.message_ends()),
            left => self.state = part(left),
        }
        (n, None)
    }

    /// The next byte is this one, or the chunk does not end here.
    fn must_be(&mut self, wanted: u8, rest: &[u8], next: State) -> Result<(usize, Option<Stop>), Fault> {
        if rest.first() != Some(&wanted) {
            return Err(Fault::ChunkEnd);
        }
        self.state = next;
        Ok((1, None))
    }
}

/// Keeps a line of a head.
fn keep(head: &mut Vec<u8>, line: &[u8]) {
    head.extend_from_slice(line);
    head.extend_from_slice(b"\r\n");
}
