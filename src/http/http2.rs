//! What HTTP/2 asks of a message beyond what h2 checks: RFC 9113 §8.

use std::fmt;

use ::http::{HeaderMap, Method, request::Parts, uri::Scheme};

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
    fn white_space_around_values() {
        assert_eq!(check_fields(&fields(&[("a", ""), ("b", "x y"), ("c", "z")])), Ok(()));
        for value in [" ", " x", "x ", "\tx", "x\t"] {
            assert_eq!(check_fields(&fields(&[("a", "b"), ("c", value)])), Err(MessageError::WhiteSpace));
        }
    }
}
