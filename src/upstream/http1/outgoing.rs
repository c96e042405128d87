//! The requests that go out by a connection.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use ::http::{HeaderMap, HeaderName, header};
use bytes::{Buf as _, Bytes};
use http_body::Body as _;
use tokio::io::AsyncWrite;

use super::{ExchangeError, RequestHead};
use crate::{
    http::{
        body::{BodyError, RequestBody},
        hygiene,
    },
    net::Stream,
};

/// Pieces of a body up to this size are copied behind what waits to be written; larger ones are written as they are.
const SMALL: usize = 4 * 1024;

/// More than this is not gathered before it is written.
const ENOUGH: usize = 16 * 1024;

/// A buffer that is larger than this is not kept from one request to the next.
const KEPT: usize = 1024;

/// How the end of a body is told (RFC 9112 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    /// It has so many bytes more.
    Length(u64),
    /// It comes in chunks.
    Chunked,
}

/// What is to be written of one request.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// What is written next, from `at` on.
    text: Vec<u8>,
    at: usize,
    /// What follows it.
    data: Bytes,
    /// And what follows that: the end of a chunk.
    tail: &'static [u8],
    body: Option<(RequestBody, Coding)>,
    /// The trailers that the head announces (RFC 9110 §6.6.2): no others go out.
    announced: Vec<HeaderName>,
    /// All of the body is in line, or written.
    ended: bool,
    /// Some byte was written.
    touched: bool,
    unflushed: bool,
}

impl Outgoing {
    pub(super) fn begin(&mut self, head: RequestHead<'_>, body: RequestBody) {
        self.text.clear();
        self.at = 0;
        (self.data, self.tail) = (Bytes::new(), &[]);
        self.touched = false;
        let coding = write_head(&mut self.text, head, &body);
        self.announced.clear();
        if coding == Some(Coding::Chunked) {
            let names = hygiene::list(head.headers, &header::TRAILER);
            self.announced.extend(names.filter_map(|name| HeaderName::from_bytes(name).ok()));
        }
        self.ended = coding.is_none();
        self.body = coding.map(|coding| (body, coding));
        self.unflushed = true;
    }

    /// Whether all of the request is written.
    pub(super) fn is_done(&self) -> bool {
        self.ended && !self.unflushed
    }

    /// Whether not a byte of the request was written.
    pub(super) fn untouched(&self) -> bool {
        !self.touched
    }

    /// Gives back to the client's body what was taken from it.
    pub(super) fn unread(&mut self) {
        if let Some((body, _)) = &self.body {
            body.unread();
        }
    }

    /// Writes what there is; ready when that is all of the request.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
    ) -> Poll<Result<(), ExchangeError>> {
        loop {
            let waits = self.gather(cx)?;
            ready!(self.poll_write_out(cx, stream))
                .map_err(|error| ExchangeError::Io { error, came: false })?;
            if waits {
                return Poll::Pending;
            }
            if self.ended {
                self.body = None;
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Takes from the client's body as much as is to be written at once; says whether it waits for more of it.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<bool, ExchangeError> {
        // Before something is written one piece is enough: it can be given back.
        let mut may_take = if self.touched { usize::MAX } else { 1 };
        while !self.ended && may_take > 0 && self.data.is_empty() && self.text.len() - self.at < ENOUGH {
            let Some((body, coding)) = &mut self.body else { return Ok(false) };
            let coding = *coding;
            let frame = match Pin::new(body).poll_frame(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(frame) => frame,
            };
            let frame = match frame {
                None => return self.end(coding, None).map(|()| false),
                Some(frame) => frame.map_err(|error| ExchangeError::Upload(Box::new(error)))?,
            };
            match frame.into_data() {
                Ok(data) => self.stage(data)?,
                Err(frame) => return self.end(coding, frame.trailers_ref()).map(|()| false),
            }
            may_take -= 1;
        }
        Ok(false)
    }

    /// Puts a piece of the body in line.
    fn stage(&mut self, data: Bytes) -> Result<(), ExchangeError> {
        let Some((_, coding)) = &mut self.body else { return Ok(()) };
        if data.is_empty() {
            // An empty chunk would be the last.
            return Ok(());
        }
        match coding {
            Coding::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or_else(wrong_length)?;
                self.ended = *left == 0;
            }
            Coding::Chunked => write_size(&mut self.text, data.len()),
        }
        self.unflushed = true;
        let chunked = *coding == Coding::Chunked;
        if data.len() <= SMALL {
            self.text.extend_from_slice(&data);
            if chunked {
                self.text.extend_from_slice(b"\r\n");
            }
        } else {
            self.data = data;
            self.tail = if chunked { b"\r\n" } else { b"" };
        }
        Ok(())
    }

    /// Puts the end of the body in line.
    fn end(&mut self, coding: Coding, trailers: Option<&HeaderMap>) -> Result<(), ExchangeError> {
        self.ended = true;
        match coding {
            Coding::Length(0) => {}
            Coding::Length(_) => return Err(wrong_length()),
            Coding::Chunked => {
                self.text.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    if self.announced.contains(name) {
                        write_field(&mut self.text, name.as_str().as_bytes(), value.as_bytes());
                    }
                }
                self.text.extend_from_slice(b"\r\n");
                self.unflushed = true;
            }
        }
        Ok(())
    }

    /// Writes what is in line, and has it sent.
    fn poll_write_out(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<io::Result<()>> {
        if !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        loop {
            let text = self.text.get(self.at..).unwrap_or_default();
            let n = if self.data.is_empty() && self.tail.is_empty() {
                if text.is_empty() {
                    break;
                }
                ready!(Pin::new(&mut *stream).poll_write(cx, text))?
            } else {
                let parts = [IoSlice::new(text), IoSlice::new(&self.data), IoSlice::new(self.tail)];
                ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &parts))?
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.touched = true;
            self.written(n);
        }
        ready!(Pin::new(stream).poll_flush(cx))?;
        self.unflushed = false;
        if self.text.capacity() > KEPT {
            self.text = Vec::new();
        } else {
            self.text.clear();
        }
        self.at = 0;
        Poll::Ready(Ok(()))
    }

    /// So many bytes are written.
    fn written(&mut self, n: usize) {
        let of_text = n.min(self.text.len() - self.at);
        self.at += of_text;
        let of_data = (n - of_text).min(self.data.len());
        self.data.advance(of_data);
        self.tail = self.tail.get(n - of_text - of_data..).unwrap_or_default();
    }
}

/// The client's body is not as long as it said. Its reader has made sure that this does not happen.
#[cold]
fn wrong_length() -> ExchangeError {
    ExchangeError::Upload(Box::new(BodyError::Internal))
}

/// Writes a head, and says how the end of its body will be told; `None` when it has no body.
fn write_head(out: &mut Vec<u8>, head: RequestHead<'_>, body: &RequestBody) -> Option<Coding> {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in head.extra {
        write_field(out, name.as_bytes(), value);
    }
    let coding = write_fields(out, head.headers, body);
    out.extend_from_slice(b"\r\n");
    coding
}

/// The fields of a head. What says where the body ends is written here and nowhere else, once.
fn write_fields(out: &mut Vec<u8>, headers: &HeaderMap, body: &RequestBody) -> Option<Coding> {
    let mut said = None;
    for (name, value) in headers {
        if name == header::CONTENT_LENGTH {
            said = Some(value);
        } else if name != header::TRANSFER_ENCODING {
            write_field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    let length = match (body, said) {
        (RequestBody::Empty, None) => return None,
        (RequestBody::Empty, Some(_)) => Some(0),
        (body, Some(said)) => {
            said.to_str().ok().and_then(|said| said.parse().ok()).or(body.size_hint().exact())
        }
        (body, None) => body.size_hint().exact(),
    };
    let Some(length) = length else {
        write_field(out, b"transfer-encoding", b"chunked");
        return Some(Coding::Chunked);
    };
    write_field(out, b"content-length", itoa::Buffer::new().format(length).as_bytes());
    (!matches!(body, RequestBody::Empty)).then_some(Coding::Length(length))
}

fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// The size of a chunk, in hexadecimal digits.
fn write_size(out: &mut Vec<u8>, size: usize) {
    use io::Write as _;
    // Writing to a vector cannot fail.
    let _ = write!(out, "{size:x}\r\n");
}

#[cfg(test)]
mod tests {
    use ::http::{HeaderValue, Method};

    use super::*;

    #[test]
    fn the_length_of_a_body_is_said_once_and_by_nobody_else() {
        for (fields, expected) in [
            (&[][..], ""),
            (&[("content-length", "0")][..], "content-length: 0\r\n"),
            // What a route's edits may have made of it.
            (&[("content-length", "5"), ("transfer-encoding", "chunked")][..], "content-length: 0\r\n"),
            (&[("content-length", "x"), ("content-length", "7")][..], "content-length: 0\r\n"),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            let extra = &[("host", &b"a"[..])];
            let head = RequestHead { method: &Method::POST, target: "/x?y", headers: &headers, extra };
            let mut out = Vec::new();
            assert_eq!(write_head(&mut out, head, &RequestBody::Empty), None);
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text, format!("POST /x?y HTTP/1.1\r\nhost: a\r\n{expected}\r\n"));
        }
    }
}
