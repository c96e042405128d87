//! The answers of an endpoint, decoded from the bytes of its connection. Pure: bytes in, heads and bodies out.

use std::mem::MaybeUninit;

use ::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, response::Parts};
use bytes::Bytes;
use httparse::{ParserConfig, Status};

use super::{Asked, Fault, Framer, framer::Part};
use crate::http::{
    census::{self, Census},
    hygiene,
};

/// As many fields are parsed without an allocation.
const USUAL_FIELDS: usize = 100;

/// What an answer may not be larger than.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Bytes of a head, and of trailers.
    pub(crate) bytes: usize,
    /// Fields of a head, and of trailers.
    pub(crate) fields: usize,
}

/// Why an answer is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is ambiguous, or was not asked for.
    Fault(Fault),
    /// It is no HTTP.
    Syntax(httparse::Error),
    /// Its head or its trailers are beyond the bounds.
    TooLarge,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::Syntax(error) => error.fmt(f),
            Self::TooLarge => f.write_str("the head is larger than max_headers or max_header_bytes"),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// The head of an answer.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) parts: Parts,
    /// The fields that it came with, but for the usual `Connection`.
    pub(crate) has: Census,
    connection: Usual,
}

/// What the one `Connection` says that most answers have, if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Usual {
    /// There is none, or it says something else and is among the fields.
    #[default]
    Other,
    KeepAlive,
    Close,
}

impl Usual {
    fn of(name: &str, value: &[u8]) -> Self {
        if name.len() != "connection".len() || !name.eq_ignore_ascii_case("connection") {
            Self::Other
        } else if value.eq_ignore_ascii_case(b"keep-alive") {
            Self::KeepAlive
        } else if value.eq_ignore_ascii_case(b"close") {
            Self::Close
        } else {
            Self::Other
        }
    }
}

impl Head {
    /// Whether the connection can carry another exchange (RFC 9112 §9.3).
    fn lasts(&self) -> bool {
        let says = |usual: Usual, option: &str| {
            self.connection == usual
                || self.has.any(census::CONNECTION)
                    && hygiene::list(&self.parts.headers, &::http::header::CONNECTION)
                        .any(|member| member.eq_ignore_ascii_case(option.as_bytes()))
        };
        if self.parts.version == Version::HTTP_11 {
            !says(Usual::Close, "close")
        } else {
            says(Usual::KeepAlive, "keep-alive") && !says(Usual::Close, "close")
        }
    }
}

/// Decodes the answers that come by one connection, one after the other.
#[derive(Debug)]
pub(crate) struct Answers {
    framer: Framer,
    bounds: Bounds,
    /// The beginning of a head that came in pieces; the trailers.
    pieces: Vec<u8>,
    /// The connection can carry another exchange when this one has ended.
    lasts: bool,
}

impl Answers {
    pub(crate) fn new(bounds: Bounds) -> Self {
        // A line cannot be longer than the head that it is in.
        Self { framer: Framer::answers(bounds.bytes), bounds, pieces: Vec::new(), lasts: true }
    }

    /// A request is sent: what comes next is its answer.
    pub(crate) fn expect(&mut self, asked: Asked) {
        self.framer.expect(asked);
    }

    /// Whether the answer has ended, by its own measure.
    pub(crate) fn over(&self) -> bool {
        self.framer.part() == Part::Over
    }

    /// Whether the connection can carry another exchange when this answer has ended.
    pub(crate) fn lasts(&self) -> bool {
        self.lasts && !self.framer.must_close()
    }

    /// Whether the end of the connection ends the answer, too.
    pub(crate) fn ends_with_connection(&self) -> bool {
        self.framer.part() == Part::Rest
    }

    /// Whether its head says how long the body is.
    pub(crate) fn sized(&self) -> bool {
        self.framer.sized()
    }

    /// How many bytes of the body are to come, where its head said so.
    pub(crate) fn left(&self) -> Option<u64> {
        if self.over() { Some(0) } else { self.framer.left() }
    }

    /// Reads on in a head: how many of the bytes belong to it, and the head when it is whole. `tell` is told of interim
    /// answers (1xx, but for 101).
    pub(crate) fn head(
        &mut self,
        bytes: &[u8],
        mut tell: impl FnMut(StatusCode, &HeaderMap),
    ) -> Result<(usize, Option<Head>), Refusal> {
        let (mut at, mut begun) = (0, 0);
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let (taken, part) = self.framer.advance(rest)?;
            at += taken;
            match self.framer.part() {
                Part::Start if part == Part::Head => {
                    self.pieces.clear();
                    begun = at;
                    for hint in self.framer.take_hints() {
                        let head = parse(&hint, self.bounds)?;
                        tell(head.parts.status, &head.parts.headers);
                    }
                }
                Part::Start | Part::Head => {}
                _ => {
                    let head = bytes.get(begun..at).unwrap_or_default();
                    return Ok((at, Some(self.whole(head)?)));
                }
            }
        }
        let piece = bytes.get(begun..).unwrap_or_default();
        if self.pieces.len() + piece.len() > self.bounds.bytes {
            return Err(Refusal::TooLarge);
        }
        self.pieces.extend_from_slice(piece);
        Ok((bytes.len(), None))
    }

    /// The head whose last piece this is.
    fn whole(&mut self, last: &[u8]) -> Result<Head, Refusal> {
        let head = if self.pieces.is_empty() {
            parse(last, self.bounds)?
        } else {
            let mut whole = std::mem::take(&mut self.pieces);
            whole.extend_from_slice(last);
            parse(&whole, self.bounds)?
        };
        self.lasts = !self.ends_with_connection() && head.lasts();
        Ok(head)
    }

    /// Reads on in a body: calls `data` with each piece of it, in order, and says how many bytes belong to this answer.
    pub(crate) fn body<'a>(
        &mut self,
        bytes: &'a [u8],
        mut data: impl FnMut(&'a [u8]),
    ) -> Result<usize, Refusal> {
        let mut at = 0;
        while !self.over()
            && let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty())
        {
            let (taken, part) = self.framer.advance(rest)?;
            let piece = rest.get(..taken).unwrap_or_default();
            match part {
                Part::Data | Part::Rest => data(piece),
                Part::Trailers => {
                    if self.pieces.len() + taken > self.bounds.bytes {
                        return Err(Refusal::TooLarge);
                    }
                    self.pieces.extend_from_slice(piece);
                }
                Part::Start | Part::Head | Part::Frame | Part::Over => {}
            }
            at += taken;
        }
        Ok(at)
    }

    /// The trailers of the answer that has ended, if it has some.
    pub(crate) fn trailers(&mut self) -> Result<Option<HeaderMap>, Refusal> {
        let pieces = std::mem::take(&mut self.pieces);
        if pieces.len() <= b"\r\n".len() {
            return Ok(None);
        }
        let text = Bytes::from(pieces);
        let mut fields = vec![httparse::EMPTY_HEADER; self.bounds.fields];
        match httparse::parse_headers(&text, &mut fields) {
            Ok(Status::Complete((_, fields))) => map(&text, fields).map(|(trailers, _)| Some(trailers)),
            Ok(Status::Partial) => Err(Refusal::Syntax(httparse::Error::NewLine)),
            Err(error) => Err(syntax(error)),
        }
    }
}

/// Parses a whole head.
fn parse(head: &[u8], bounds: Bounds) -> Result<Head, Refusal> {
    if head.len() > bounds.bytes {
        return Err(Refusal::TooLarge);
    }
    let text = Bytes::copy_from_slice(head);
    if bounds.fields <= USUAL_FIELDS {
        let mut fields = [const { MaybeUninit::uninit() }; USUAL_FIELDS];
        parse_into(&text, fields.get_mut(..bounds.fields).unwrap_or_default())
    } else {
        parse_into(&text, &mut vec![MaybeUninit::uninit(); bounds.fields])
    }
}

fn parse_into<'a>(
    text: &'a Bytes,
    fields: &mut [MaybeUninit<httparse::Header<'a>>],
) -> Result<Head, Refusal> {
    let mut answer = httparse::Response::new(&mut []);
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(&mut answer, text, fields);
    match parsed {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) => return Err(Refusal::Syntax(httparse::Error::NewLine)),
        Err(error) => return Err(syntax(error)),
    }
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = status.ok_or(Refusal::Syntax(httparse::Error::Status))?;
    parts.version = if answer.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let connection;
    (parts.headers, connection) = map(text, answer.headers)?;
    Ok(Head { has: Census::of(&parts.headers), parts, connection })
}

/// The fields as a map that shares the text. The usual `Connection` concerns nobody else, and stays out of it; whatever
/// comes beside it is among the fields, and says what else there is to know.
fn map(text: &Bytes, fields: &[httparse::Header<'_>]) -> Result<(HeaderMap, Usual), Refusal> {
    /// So many fields Weir adds, or so.
    const OWN: usize = 4;
    let mut map = HeaderMap::with_capacity(fields.len() + OWN);
    let mut connection = Usual::Other;
    for field in fields {
        let usual = Usual::of(field.name, field.value);
        if usual != Usual::Other && matches!(connection, Usual::Other | Usual::KeepAlive) {
            // Of two that differ `close` counts.
            connection = usual;
            continue;
        }
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(text.slice_ref(field.value));
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(Refusal::Syntax(httparse::Error::HeaderValue));
        };
        map.append(name, value);
    }
    Ok((map, connection))
}

fn syntax(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::TooLarge,
        error => Refusal::Syntax(error),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { bytes: 512, fields: 8 };

    /// What is read of `bytes`, which come in pieces that end at `cuts`: status, fields, body, trailers, interim answers,
    /// and how many bytes were left over.
    #[derive(Debug, PartialEq)]
    struct Came {
        status: u16,
        fields: Vec<(String, String)>,
        body: Vec<u8>,
        trailers: Vec<(String, String)>,
        interim: Vec<u16>,
        over: bool,
        lasts: bool,
        left_over: usize,
    }

    fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
    }

    fn read(bytes: &[u8], cuts: &[usize], asked: Asked) -> Result<Came, Refusal> {
        let mut answers = Answers::new(BOUNDS);
        answers.expect(asked);
        let (mut found, mut body, mut interim, mut left_over) = (None, Vec::new(), Vec::new(), 0);
        let mut at = 0;
        for end in cuts.iter().copied().chain([bytes.len()]) {
            let mut piece = &bytes[at..end.max(at)];
            at = end.max(at);
            if found.is_none() {
                let (taken, whole) = answers.head(piece, |status, _| interim.push(status.as_u16()))?;
                piece = &piece[taken..];
                found = whole;
            }
            if found.is_some() {
                let taken = answers.body(piece, |data| body.extend_from_slice(data))?;
                left_over += piece.len() - taken;
            }
        }
        let head = found.ok_or(Refusal::Syntax(httparse::Error::Status))?;
        let over = answers.over();
        let trailers = if over { answers.trailers()? } else { None };
        Ok(Came {
            status: head.parts.status.as_u16(),
            fields: pairs(&head.parts.headers),
            body,
            trailers: trailers.as_ref().map(pairs).unwrap_or_default(),
            interim,
            over,
            lasts: answers.lasts(),
            left_over,
        })
    }

    const ANSWERS: &[(&str, Asked)] = &[
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello", Asked::Other),
        (
            "HTTP/1.1 200\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n",
            Asked::Other,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx-sum: 1\r\nx-b: c\r\n\r\n",
            Asked::Other,
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
            Asked::Other,
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n", Asked::Head),
        ("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end", Asked::Other),
        ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx", Asked::Other),
        ("HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\ncontent-length: 1\r\n\r\nx", Asked::Other),
        ("HTTP/1.1 101 Go\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nbytes", Asked::Other),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nxHTTP/1.1 200 OK\r\n", Asked::Other),
    ];

    #[test]
    fn answers_are_read_as_they_are() {
        let all: Vec<_> =
            ANSWERS.iter().map(|(text, asked)| read(text.as_bytes(), &[], *asked).unwrap()).collect();
        let bodies: Vec<_> =
            all.iter().map(|came| String::from_utf8_lossy(&came.body).into_owned()).collect();
        assert_eq!(bodies, ["hello", "hello world", "x", "", "", "until the end", "x", "x", "bytes", "x"]);
        let lasting: Vec<_> = all.iter().map(|came| came.lasts).collect();
        assert_eq!(lasting, [true, true, true, true, true, false, false, true, false, true]);
        let over: Vec<_> = all.iter().map(|came| came.over).collect();
        assert_eq!(over, [true, true, true, true, true, false, true, true, false, true]);
        assert_eq!(all[2].trailers, [("x-sum".into(), "1".into()), ("x-b".into(), "c".into())]);
        assert_eq!((all[3].status, &*all[3].interim), (204, &[100, 103][..]));
        assert_eq!(all[9].left_over, "HTTP/1.1 200 OK\r\n".len());
    }

    #[test]
    fn bounds_hold_however_an_answer_comes() {
        let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(600));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(9));
        let trailers = format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n{}\r\n",
            "a: b\r\n".repeat(100)
        );
        let interim = format!("HTTP/1.1 103 Hints\r\n{}\r\n", "a: b\r\n".repeat(100));
        for text in [&long, &many, &trailers, &interim] {
            for step in [1, 7, text.len()] {
                let cuts: Vec<_> = (0..text.len()).step_by(step).collect();
                let refused = read(text.as_bytes(), &cuts, Asked::Other).unwrap_err();
                assert!(
                    matches!(refused, Refusal::TooLarge | Refusal::Fault(Fault::TooLong)),
                    "{refused} {text}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn where_it_is_cut_does_not_matter(which in 0..ANSWERS.len(), mut cuts in prop::collection::vec(0_usize..120, 0..8)) {
            let (text, asked) = ANSWERS[which];
            cuts.retain(|&cut| cut <= text.len());
            cuts.sort_unstable();
            let (whole, pieces) = (read(text.as_bytes(), &[], asked), read(text.as_bytes(), &cuts, asked));
            prop_assert_eq!(whole, pieces);
        }

        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..200) {
            let _ = read(&bytes, &[cut.min(bytes.len())], Asked::Other);
            let begun = [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", &bytes[..]].concat();
            let _ = read(&begun, &[cut.min(begun.len())], Asked::Other);
        }
    }
}
