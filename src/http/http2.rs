//! What HTTP/2 asks of a message beyond what h2 checks: RFC 9113 §8.

use std::fmt;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, header, request::Parts, uri::Scheme};

use super::{
    census::{self, Census},
    deadline, forwarded, trace,
};

/// Why a message over HTTP/2 is refused: 400 (`malformed`) for a request, 502 (`upstream_protocol`) for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageError {
    /// A value begins or ends with white space.
    WhiteSpace,
    /// `:scheme` is neither `http` nor `https`.
    Scheme,
    /// `:path` is `*`, and the method is not `OPTIONS`.
    Asterisk,
    /// `:path` is neither `*` nor a path that begins with a slash.
    Path,
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WhiteSpace => "a field's value begins or ends with white space",
            Self::Scheme => ":scheme is neither http nor https",
            Self::Asterisk => "`*` is a target for OPTIONS only",
            Self::Path => ":path does not begin with a slash",
        })
    }
}

impl std::error::Error for MessageError {}

/// Checks a request that came over HTTP/2: its target (RFC 9113 §8.3.1) and its fields ([`check_fields`]).
///
/// Weir carries HTTP alone, so that another scheme is refused although the RFC leaves it open.
pub fn check_request(parts: &Parts) -> Result<(), MessageError> {
    let scheme = parts.uri.scheme();
    if scheme.is_some_and(|scheme| *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS) {
        return Err(MessageError::Scheme);
    }
    if let Some(target) = parts.uri.path_and_query() {
        match target.as_str() {
            "*" if parts.method != Method::OPTIONS => return Err(MessageError::Asterisk),
            "*" => {}
            path if !path.starts_with('/') => return Err(MessageError::Path),
            _ => {}
        }
    }
    check_fields(&parts.headers)
}

/// Checks the values of a message that came over HTTP/2: white space around one is not part of it in HTTP/1, and
/// malformed in HTTP/2 (RFC 9113 §8.2.1). h2 has refused names and characters that must not be.
pub fn check_fields(headers: &HeaderMap) -> Result<(), MessageError> {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let padded = headers.values().any(|value| {
        let bytes = value.as_bytes();
        blank(bytes.first()) || blank(bytes.last())
    });
    if padded { Err(MessageError::WhiteSpace) } else { Ok(()) }
}

/// A value that is another one in the next message: HTTP/2 is to carry it as it is, and keep it in no table.
///
/// h2 would enter each such value into HPACK's dynamic table (RFC 7541 §2.3.2), and compare a new one with all that it
/// remembers of the same name: some fifty, once a connection has carried as many requests (of `Date`: is a minute old),
/// which is 3,000 instructions a message. Fields that stay the same, and are worth a place, are pushed out of the table
/// meanwhile, at both ends. The representation without all that is called "never indexed" (§6.2.3).
#[must_use]
pub fn once(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

/// [`once`] for what others wrote into a message that goes out over HTTP/2. `had` is what it came with.
pub fn keep_from_tables(had: Census, headers: &mut HeaderMap) {
    const ONCE: [(census::Set, HeaderName); 5] = [
        (census::DATE, header::DATE),
        (census::TRACEPARENT, trace::TRACEPARENT),
        (census::TRACESTATE, trace::TRACESTATE),
        (census::GRPC_TIMEOUT, deadline::GRPC_TIMEOUT),
        (census::X_REQUEST_ID, forwarded::X_REQUEST_ID),
    ];
    const ANY: census::Set =
        census::DATE.and(census::TRACE).and(census::GRPC_TIMEOUT).and(census::X_REQUEST_ID);
    if !had.any(ANY) {
        return;
    }
    for (field, name) in &ONCE {
        if had.any(*field)
            && let Some(value) = headers.get_mut(name)
        {
            value.set_sensitive(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use ::http::Request;

    use super::*;
    use crate::http::fields;

    #[test]
    fn targets() {
        let check = |method: &str, uri: &str| {
            let (parts, ()) = Request::builder().method(method).uri(uri).body(()).unwrap().into_parts();
            check_request(&parts)
        };
        assert_eq!(check("GET", "https://a/x?y"), Ok(()));
        assert_eq!(check("GET", "/"), Ok(()));
        assert_eq!(check("OPTIONS", "*"), Ok(()));
        assert_eq!(check("CONNECT", "a:1"), Ok(()));
        assert_eq!(check("GET", "*"), Err(MessageError::Asterisk));
        assert_eq!(check("GET", "ftp://a/"), Err(MessageError::Scheme));
    }

    #[test]
    fn what_is_new_in_each_message_is_kept_from_the_tables() {
        let came = [
            ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ("tracestate", "a=b"),
            ("grpc-timeout", "1S"),
            ("x-request-id", "r-1"),
            ("content-type", "application/grpc"),
            ("user-agent", "x"),
        ];
        let mut headers = fields(&came);
        keep_from_tables(Census::of(&headers), &mut headers);
        let tabled: Vec<_> = headers
            .iter()
            .filter(|(_, value)| !value.is_sensitive())
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(tabled, ["content-type", "user-agent"]);
        assert_eq!(headers, fields(&came));
    }

    #[test]
    fn white_space_around_values() {
        assert_eq!(check_fields(&fields(&[("a", ""), ("b", "x y"), ("c", "z")])), Ok(()));
        for value in [" ", " x", "x ", "\tx", "x\t"] {
            assert_eq!(check_fields(&fields(&[("a", "b"), ("c", value)])), Err(MessageError::WhiteSpace));
        }
    }
}
