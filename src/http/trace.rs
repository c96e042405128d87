//! Trace context that travels with a request: W3C Trace Context (<https://www.w3.org/TR/trace-context/>).

use std::fmt;

use ::http::{HeaderMap, HeaderName, HeaderValue};

/// `traceparent`: the trace and the span that a request belongs to.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// `tracestate`: what tracing systems add to it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The id of a trace: 32 lower-case hexadecimal digits, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 32]);

impl TraceId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceId({self})")
    }
}

/// The trace of a request, whose headers stay as they are when they are valid.
///
/// A `traceparent` that is invalid or repeated is removed, and `tracestate` with it; so is a `tracestate`
/// alone (§3.3.1: without a parent that can be read it must not be used).
pub fn take(headers: &mut HeaderMap) -> Option<TraceId> {
    let mut lines = headers.get_all(&TRACEPARENT).iter();
    let id = match (lines.next(), lines.next()) {
        (Some(only), None) => parse(only.as_bytes()),
        _ => None,
    };
    if id.is_none() {
        headers.remove(&TRACEPARENT);
        headers.remove(&TRACESTATE);
    }
    id
}

/// Begins a trace: a `traceparent` of version 00 with random ids.
pub fn begin(sampled: bool, rng: &mut fastrand::Rng) -> (TraceId, HeaderValue) {
    let (trace, span) = (rng.u128(1..), rng.u64(1..));
    let text = format!("00-{trace:032x}-{span:016x}-{:02x}", u8::from(sampled));
    let id = parse(text.as_bytes()).unwrap_or(TraceId([b'0'; 32]));
    (id, HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("")))
}

/// Reads the trace id of a `traceparent` (§2.2).
///
/// Version 00 has exactly four parts; a later one may have more after them (§4.3). Version ff is invalid.
pub fn parse(value: &[u8]) -> Option<TraceId> {
    let (head, more) = value.split_at_checked(LENGTH)?;
    let (version, rest) = head.split_first_chunk::<2>()?;
    let (trace, rest) = rest.strip_prefix(b"-")?.split_first_chunk::<32>()?;
    let (span, rest) = rest.strip_prefix(b"-")?.split_first_chunk::<16>()?;
    let flags = rest.strip_prefix(b"-")?;
    let complete = match version {
        b"00" => more.is_empty(),
        b"ff" => false,
        _ => matches!(more, [] | [b'-', ..]),
    };
    let valid = complete
        && [&version[..], trace, span, flags].iter().all(|part| part.iter().copied().all(is_lower_hex));
    (valid && !is_zero(trace) && !is_zero(span)).then_some(TraceId(*trace))
}

/// The length of a `traceparent` of version 00.
const LENGTH: usize = 2 + 1 + 32 + 1 + 16 + 1 + 2;

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn is_zero(id: &[u8]) -> bool {
    id.iter().all(|&b| b == b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn reads_what_the_standard_allows() {
        for (value, valid) in [
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00", true),
            ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future", true),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what-the-future", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", false),
            ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false),
            ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false),
            ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0", false),
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-zz", false),
            ("00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false),
            ("", false),
        ] {
            assert_eq!(
                parse(value.as_bytes()).as_ref().map(TraceId::as_str),
                valid.then_some(TRACE),
                "{value}"
            );
        }
    }

    #[test]
    fn valid_context_passes_and_invalid_context_goes() {
        const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for (parents, kept) in [(&[GOOD][..], true), (&[GOOD, GOOD], false), (&["00-x"], false), (&[], false)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(TRACESTATE, HeaderValue::from_static("a=b"));
            for parent in parents {
                headers.append(TRACEPARENT, HeaderValue::from_static(parent));
            }
            let before = headers.clone();
            assert_eq!(take(&mut headers).is_some(), kept);
            assert_eq!(headers, if kept { before } else { HeaderMap::new() });
        }
    }

    #[test]
    fn a_new_trace_is_valid() {
        let mut rng = fastrand::Rng::with_seed(3);
        for sampled in [false, true] {
            let (id, value) = begin(sampled, &mut rng);
            assert_eq!(parse(value.as_bytes()), Some(id));
            assert!(value.to_str().unwrap().ends_with(if sampled { "-01" } else { "-00" }));
        }
    }
}
