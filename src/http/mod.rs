//! Message mechanics without policy: what has to happen to any request and answer that passes through.
//!
//! What is on the wire ([`wire`]), framing ([`framing`]), the authority ([`uri`]), fields of the connection ([`hygiene`]), upgrades
//! ([`upgrade`]), who the client is ([`forwarded`]), loops ([`via`]), deadlines ([`deadline`]), trace context
//! ([`trace`]), what a message has of all that ([`census`]), and the answers that Weir makes itself ([`respond`]).

pub(crate) mod body;
pub mod census;
pub mod deadline;
pub mod forwarded;
pub mod framing;
pub mod grpc;
pub mod http2;
pub mod hygiene;
pub(crate) mod interim;
pub mod ratelimit;
pub mod respond;
pub mod trace;
pub mod upgrade;
pub mod uri;
pub mod via;
pub mod wire;

/// Fields for tests, in their order.
#[cfg(test)]
fn fields(lines: &[(&'static str, &'static str)]) -> ::http::HeaderMap {
    let mut headers = ::http::HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, ::http::HeaderValue::from_static(value));
    }
    headers
}
