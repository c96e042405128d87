//! Interim responses (1xx) as HTTP/1.1 writes them: RFC 9110 §15.2.

use ::http::{HeaderMap, StatusCode};

use super::hygiene;

/// A 1xx answer as bytes. Fields that concern only the connection it came on are left out.
pub(crate) fn encode(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut headers = headers.clone();
    hygiene::remove_hop_by_hop(&mut headers);
    encode_head(status, &headers)
}

/// The head of an HTTP/1.1 answer as bytes, up to and with the empty line.
pub(crate) fn encode_head(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64 + headers.len() * 48);
    bytes.extend_from_slice(b"HTTP/1.1 ");
    bytes.extend_from_slice(status.as_str().as_bytes());
    bytes.push(b' ');
    bytes.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    bytes.extend_from_slice(b"\r\n");
    for (name, value) in headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

#[cfg(test)]
mod tests {
    use ::http::HeaderValue;

    use super::*;

    #[test]
    fn writes_early_hints_without_what_is_hop_by_hop() {
        let mut headers = HeaderMap::new();
        headers.append("link", HeaderValue::from_static("</a.css>; rel=preload"));
        headers.append("link", HeaderValue::from_static("</b.js>; rel=preload"));
        headers.append("keep-alive", HeaderValue::from_static("timeout=5"));
        let bytes = encode(StatusCode::EARLY_HINTS, &headers);
        let expected =
            "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nlink: </b.js>; rel=preload\r\n\r\n";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }
}
