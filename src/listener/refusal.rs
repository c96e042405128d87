//! Answers to requests that could not be parsed.
//!
//! hyper refuses those by itself, with a status and nothing else, before any handler runs. The socket
//! recognises that exact message and sends one that explains itself in its place.

use std::{sync::Arc, time::SystemTime};

use ::http::{HeaderValue, Version, header};
use bytes::Bytes;

use crate::{
    error::{ProxyError, Reason},
    http::{
        forwarded::new_request_id,
        interim,
        respond::{Asked, respond},
        via::Via,
    },
    telemetry::ListenerMetrics,
};

/// Makes answers for one listener, and counts them.
#[derive(Debug, Clone)]
pub(crate) struct Refusals {
    metrics: Arc<ListenerMetrics>,
    via: Via,
}

impl Refusals {
    pub(crate) fn new(metrics: Arc<ListenerMetrics>, via: Via) -> Self {
        Self { metrics, via }
    }

    /// The answer to send in place of `written`, when that is a refusal of hyper's own.
    pub(crate) fn explain(&self, written: &[u8]) -> Option<Bytes> {
        bare_refusal(written).map(|reason| self.answer(reason))
    }

    /// The answer for `reason`: a whole HTTP/1.1 message that ends its connection.
    pub(crate) fn answer(&self, reason: Reason) -> Bytes {
        self.metrics.made.of(reason).increment(1);
        let id = new_request_id();
        tracing::debug!(
            request_id = id.to_str().unwrap_or("-"),
            reason = reason.as_str(),
            "refused before it was a request"
        );
        let asked = Asked { head: false, grpc: false, request_id: Some(&id), retry_elsewhere: false };
        let mut response = respond(&ProxyError::new(reason), asked);
        let length = HeaderValue::from(response.body().len());
        let headers = response.headers_mut();
        self.via.append(Version::HTTP_11, headers);
        headers.insert(header::CONTENT_LENGTH, length);
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        if let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now())) {
            headers.insert(header::DATE, date);
        }
        let mut bytes = interim::encode_head(response.status(), response.headers());
        bytes.extend_from_slice(response.body());
        Bytes::from(bytes)
    }
}

/// Whether `written` is a whole message with a 4xx status, no body, and no header but those that hyper
/// itself sets. Everything that Weir makes or forwards carries `via`, so it is never taken for one.
fn bare_refusal(written: &[u8]) -> Option<Reason> {
    // Nearly everything that is written is something else.
    if !written.starts_with(b"HTTP/1.1 4") {
        return None;
    }
    let text = std::str::from_utf8(written).ok()?;
    let head = text.strip_suffix("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?;
    let own = |line: &str| {
        let name = line.split(':').next().unwrap_or_default();
        ["connection", "content-length", "date"].iter().any(|known| name.eq_ignore_ascii_case(known))
    };
    let mut empty = false;
    for line in lines {
        if !own(line) {
            return None;
        }
        empty |= line.eq_ignore_ascii_case("content-length: 0");
    }
    let reason = match status {
        "400" => Reason::Malformed,
        "414" | "431" => Reason::HeaderTooLarge,
        _ => return None,
    };
    empty.then_some(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bare_refusal_is_replaced() {
        let bare = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        assert_eq!(bare_refusal(bare), Some(Reason::Malformed));
        let large =
            b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(bare_refusal(large), Some(Reason::HeaderTooLarge));
        for kept in [
            "HTTP/1.1 400 Bad Request\r\nvia: 1.1 weir-1\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 5\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n",
            "",
        ] {
            assert_eq!(bare_refusal(kept.as_bytes()), None, "{kept:?}");
        }
    }
}
