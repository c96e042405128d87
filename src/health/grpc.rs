//! The gRPC health checking protocol, `grpc.health.v1.Health/Check`
//! (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).

use ::http::{HeaderMap, HeaderValue, Method, Request, header};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use prost::Message;

use super::{
    check::{Fault, LONGEST},
    http::{USER_AGENT, absolute, broken, send},
};
use crate::net::Stream;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CheckRequest {
    #[prost(string, tag = "1")]
    pub(super) service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    pub(super) status: i32,
}

/// What a server says of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

/// Asks about `service` on `stream`, which speaks HTTP/2.
pub(super) async fn ask(
    stream: Stream,
    host: &HeaderValue,
    secure: bool,
    service: &str,
) -> Result<(), Fault> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(absolute(host, secure, "/grpc.health.v1.Health/Check")?)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, USER_AGENT)
        .body(Full::new(framed(&CheckRequest { service: service.to_owned() })))
        .map_err(|e| Fault::answer(format!("cannot be asked: {e}")))?;
    let (response, _connection) = send(stream, true, request).await?;
    let (head, mut body) = response.into_parts();
    if head.status != ::http::StatusCode::OK {
        return Err(Fault::answer(format!("status {}", head.status.as_u16())));
    }
    // An answer without a message has its status in the head.
    grpc_status(&head.headers)?;
    let (mut data, mut trailers) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        match frame.map_err(|e| broken(&e))?.into_data() {
            Ok(more) => data.extend_from_slice(&more),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
        if data.len() > LONGEST {
            return Err(Fault::answer("the answer is too long"));
        }
    }
    let said = grpc_status(trailers.as_ref().unwrap_or(&head.headers))?;
    if !said {
        return Err(Fault::answer("the answer has no grpc-status"));
    }
    match status_in(&data)? {
        ServingStatus::Serving => Ok(()),
        ServingStatus::NotServing => Err(Fault::answer("NOT_SERVING")),
        ServingStatus::ServiceUnknown => Err(Fault::answer("SERVICE_UNKNOWN")),
        ServingStatus::Unknown => Err(Fault::answer("UNKNOWN")),
    }
}

/// A message as it goes over the wire: not compressed, after its length.
pub(super) fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame.put_slice(&message.encode_to_vec());
    frame.freeze()
}

/// Whether there is a `grpc-status`; any but OK is a fault.
fn grpc_status(headers: &HeaderMap) -> Result<bool, Fault> {
    let Some(status) = headers.get("grpc-status") else { return Ok(false) };
    if status == "0" {
        return Ok(true);
    }
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let message = headers.get("grpc-message").map(|message| format!(": {}", text(message)));
    let message: String = message.unwrap_or_default().chars().take(200).collect();
    Err(Fault::answer(match text(status).as_str() {
        "12" => format!("grpc-status 12: it does not have the health protocol{message}"),
        "5" => format!("grpc-status 5: it does not know the service{message}"),
        other => format!("grpc-status {other}{message}"),
    }))
}

/// What one framed message says.
fn status_in(data: &[u8]) -> Result<ServingStatus, Fault> {
    let malformed = || Fault::answer("the answer is not that of the health protocol");
    let (head, message) = data.split_at_checked(5).ok_or_else(malformed)?;
    let (&compressed, length) = head.split_first().ok_or_else(malformed)?;
    let length = length.try_into().map(u32::from_be_bytes).map_err(|_| malformed())?;
    if compressed != 0 || usize::try_from(length) != Ok(message.len()) {
        return Err(malformed());
    }
    let response = CheckResponse::decode(message).map_err(|_| malformed())?;
    Ok(ServingStatus::try_from(response.status).unwrap_or(ServingStatus::Unknown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_the_protocol_has_them() {
        assert_eq!(&framed(&CheckRequest { service: "a.B".to_owned() })[..], b"\0\0\0\0\x05\x0a\x03a.B");
        assert_eq!(&framed(&CheckRequest { service: String::new() })[..], b"\0\0\0\0\0");
        assert_eq!(status_in(b"\0\0\0\0\x02\x08\x01"), Ok(ServingStatus::Serving));
        assert_eq!(status_in(b"\0\0\0\0\x02\x08\x02"), Ok(ServingStatus::NotServing));
        assert_eq!(status_in(b"\0\0\0\0\x02\x08\x63"), Ok(ServingStatus::Unknown), "of a later version");
        assert_eq!(status_in(b"\0\0\0\0\0"), Ok(ServingStatus::Unknown));
        assert_eq!(status_in(b"\0\0\0\0\x07\x1a\x03new\x08\x01"), Ok(ServingStatus::Serving));
        for malformed in
            [&b""[..], b"\0\0\0\0", b"\x01\0\0\0\x02\x08\x01", b"\0\0\0\0\x03\x08\x01", b"\0\0\0\0\x01\x0a"]
        {
            assert!(status_in(malformed).is_err(), "{malformed:?}");
        }
    }
}
