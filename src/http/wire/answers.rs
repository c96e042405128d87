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
    /// The fields that it came with.
    pub(crate) has: Census,
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
            self.pieces.extend_from_slice(last);
            let head = parse(&self.pieces, self.bounds)?;
            self.pieces.clear();
            head
        };
        let says = |option: &str| {
            head.has.any(census::CONNECTION)
                && hygiene::list(&head.parts.headers, &::http::header::CONNECTION)
                    .any(|member| member.eq_ignore_ascii_case(option.as_bytes()))
        };
        let by_default = head.parts.version == Version::HTTP_11;
        self.lasts =
            !self.ends_with_connection() && if by_default { !says("close") } else { says("keep-alive") };
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
            Ok(Status::Complete((_, fields))) => map(&text, fields).map(Some),
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
    parts.headers = map(text, answer.headers)?;
    Ok(Head { has: Census::of(&parts.headers), parts })
}

/// The fields as a map that shares the text.
fn map(text: &Bytes, fields: &[httparse::Header<'_>]) -> Result<HeaderMap, Refusal> {
    /// So many fields Weir adds, or so.
    const OWN: usize = 4;
    let mut map = HeaderMap::with_capacity(fields.len() + OWN);
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(text.slice_ref(field.value));
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(Refusal::Syntax(httparse::Error::HeaderValue));
        };
        map.append(name, value);
    }
    Ok(map)
}

fn syntax(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::TooLarge,
        error => Refusal::Syntax(error),
    }
}
