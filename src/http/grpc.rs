//! What Weir needs to know of gRPC over HTTP
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use ::http::{HeaderMap, HeaderValue, header};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

/// The content type of a gRPC answer that has no body.
pub const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// Whether a message is gRPC: its content type is `application/grpc`, alone or with `+proto`, `;…` or the
/// like. gRPC-Web is another protocol and does not count.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const NAME: &[u8] = b"application/grpc";
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return false };
    value.as_bytes().split_at_checked(NAME.len()).is_some_and(|(name, rest)| {
        name.eq_ignore_ascii_case(NAME) && matches!(rest, [] | [b'+' | b';' | b' ', ..])
    })
}

/// What `grpc-message` escapes beside bytes that are not ASCII: everything outside `%x20-24` and `%x26-7E`.
const MESSAGE: AsciiSet = CONTROLS.add(b'%');

/// A text as the value of `grpc-message`.
pub fn message(text: &str) -> HeaderValue {
    let encoded = percent_encode(text.as_bytes(), &MESSAGE).to_string();
    // Only visible ASCII and spaces are left, which every header value may hold.
    HeaderValue::try_from(encoded).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_grpc_by_its_content_type() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/GRPC;charset=x", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grp", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(is_grpc(&headers), expected, "{value}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn escapes_messages() {
        assert_eq!(message("100 % sure\n\u{e9}"), "100 %25 sure%0A%C3%A9");
    }
}
