//! Where a message ends must have one answer only: RFC 9112 §6, and stricter.
//!
//! hyper decides by itself how long a message is, and leaves the fields it decided by in the headers. This
//! refuses what another implementation might read differently: what makes request smuggling possible.

use std::fmt;

use ::http::{
    HeaderMap, HeaderValue, Method, Version,
    header::{CONTENT_LENGTH, MAX_FORWARDS, TRANSFER_ENCODING},
};

use super::census::{self, Census};

/// Why the framing of a message is refused: 400 (`malformed`) for a request, 502 (`upstream_protocol`) for an
/// answer. The connection it came on must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FramingError {
    /// `Transfer-Encoding` is anything but one `chunked`.
    TransferEncoding,
    /// `Transfer-Encoding` in another version than HTTP/1.1.
    TransferEncodingVersion,
    /// `Content-Length` is repeated, a list or no number.
    ContentLength,
    /// Both are there.
    BothLengths,
}

impl fmt::Display for FramingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TransferEncoding => "Transfer-Encoding is not exactly one `chunked`",
            Self::TransferEncodingVersion => "Transfer-Encoding exists in HTTP/1.1 only",
            Self::ContentLength => "Content-Length is not exactly one number",
            Self::BothLengths => "Transfer-Encoding and Content-Length together",
        })
    }
}

impl std::error::Error for FramingError {}

/// Checks the fields that say where a message ends. Before [`super::hygiene`] removes them.
///
/// Exactly one `chunked` (RFC 9112 §6.1 allows more), in HTTP/1.1 only (RFC 9112 §6.1, RFC 9113 §8.2.2); one
/// `Content-Length` of digits (RFC 9110 §8.6 allows to accept equal repeats); never both (RFC 9112 §6.3).
pub fn check(version: Version, headers: &HeaderMap) -> Result<(), FramingError> {
    let chunked = check_transfer_encoding(version, headers)?;
    let length = check_content_length(headers)?;
    if chunked && length { Err(FramingError::BothLengths) } else { Ok(()) }
}

/// [`check`] for a message of which is known what it has: most have no `Transfer-Encoding`.
pub fn check_of(had: Census, version: Version, headers: &HeaderMap) -> Result<(), FramingError> {
    if had.any(census::TRANSFER_ENCODING) {
        check(version, headers)
    } else if had.any(census::CONTENT_LENGTH) {
        check_content_length(headers).map(drop)
    } else {
        Ok(())
    }
}

/// Whether the message is chunked.
fn check_transfer_encoding(version: Version, headers: &HeaderMap) -> Result<bool, FramingError> {
    let mut lines = headers.get_all(TRANSFER_ENCODING).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(false),
        (Some(_), _) if version != Version::HTTP_11 => Err(FramingError::TransferEncodingVersion),
        (Some(only), None) if only.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(FramingError::TransferEncoding),
    }
}

/// Whether the message says its length.
fn check_content_length(headers: &HeaderMap) -> Result<bool, FramingError> {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(false),
        (Some(only), None) if number(only).is_some() => Ok(true),
        _ => Err(FramingError::ContentLength),
    }
}

/// A value of nothing but digits: no sign, which Rust's own parser would take.
fn number(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?;
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// What a field counts beside its name and value (RFC 9113 §6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// The size of a list of fields as HTTP/2 counts it (RFC 9113 §6.5.2).
pub fn size_of(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD).sum()
}

/// What `Max-Forwards` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Forwards {
    /// Send the request on.
    Pass,
    /// Answer as if Weir were the last recipient ([`super::respond::answer_here`]).
    AnswerHere,
}

/// Counts `Max-Forwards` down (RFC 9110 §7.6.2).
///
/// Only `TRACE` and `OPTIONS` are concerned; for other methods, and when it is no number, it is left alone.
pub fn count_forwards(method: &Method, headers: &mut HeaderMap) -> Forwards {
    if method != Method::TRACE && method != Method::OPTIONS {
        return Forwards::Pass;
    }
    match headers.get(MAX_FORWARDS).and_then(number) {
        None => Forwards::Pass,
        Some(0) => Forwards::AnswerHere,
        Some(left) => {
            headers.insert(MAX_FORWARDS, HeaderValue::from(left - 1));
            Forwards::Pass
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fields;

    #[test]
    fn one_way_to_end_a_message() {
        use FramingError as E;
        const CL: &str = "content-length";
        const TE: &str = "transfer-encoding";
        type Lines = &'static [(&'static str, &'static str)];
        let cases: &[(Lines, Result<(), E>)] = &[
            (&[], Ok(())),
            (&[(CL, "0")], Ok(())),
            (&[(CL, "18446744073709551615")], Ok(())),
            (&[(TE, "chunked")], Ok(())),
            (&[(TE, "Chunked")], Ok(())),
            (&[(CL, "5"), (CL, "5")], Err(E::ContentLength)),
            (&[(CL, "5, 5")], Err(E::ContentLength)),
            (&[(CL, "+5")], Err(E::ContentLength)),
            (&[(CL, "-5")], Err(E::ContentLength)),
            (&[(CL, "0x5")], Err(E::ContentLength)),
            (&[(CL, "")], Err(E::ContentLength)),
            (&[(CL, "18446744073709551616")], Err(E::ContentLength)),
            (&[(TE, "chunked"), (TE, "chunked")], Err(E::TransferEncoding)),
            (&[(TE, "gzip, chunked")], Err(E::TransferEncoding)),
            (&[(TE, "chunked, chunked")], Err(E::TransferEncoding)),
            (&[(TE, "identity")], Err(E::TransferEncoding)),
            (&[(TE, "xchunked")], Err(E::TransferEncoding)),
            (&[(TE, "")], Err(E::TransferEncoding)),
            (&[(TE, "chunked"), (CL, "5")], Err(E::BothLengths)),
        ];
        for (lines, expected) in cases {
            let headers = fields(lines);
            assert_eq!(check(Version::HTTP_11, &headers), *expected, "{lines:?}");
            assert_eq!(check_of(Census::of(&headers), Version::HTTP_11, &headers), *expected, "{lines:?}");
        }
        for version in [Version::HTTP_10, Version::HTTP_2] {
            assert_eq!(check(version, &fields(&[(TE, "chunked")])), Err(E::TransferEncodingVersion));
            assert_eq!(check(version, &fields(&[(CL, "1")])), Ok(()));
        }
    }

    #[test]
    fn max_forwards_counts_for_trace_and_options() {
        for (method, value, expected, left) in [
            (Method::TRACE, "0", Forwards::AnswerHere, "0"),
            (Method::OPTIONS, "0", Forwards::AnswerHere, "0"),
            (Method::OPTIONS, "10", Forwards::Pass, "9"),
            (Method::TRACE, "1", Forwards::Pass, "0"),
            (Method::GET, "0", Forwards::Pass, "0"),
            (Method::TRACE, "-1", Forwards::Pass, "-1"),
            (Method::TRACE, "x", Forwards::Pass, "x"),
        ] {
            let mut headers = fields(&[("max-forwards", value)]);
            assert_eq!(count_forwards(&method, &mut headers), expected, "{method} {value}");
            assert_eq!(headers[MAX_FORWARDS], left);
        }
        assert_eq!(count_forwards(&Method::TRACE, &mut HeaderMap::new()), Forwards::Pass);
    }
}
