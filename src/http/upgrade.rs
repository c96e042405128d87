//! The wish to leave HTTP (WebSocket and others): `Upgrade` (RFC 9110 §7.8) and extended `CONNECT` (RFC 8441).

use std::fmt;

use ::http::{
    HeaderMap, HeaderValue, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE},
};

use super::hygiene::list;

/// The digits of base64 (RFC 4648 §4).
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The protocol or protocols that a client wants to change to, as the value of `Upgrade`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeProtocol(HeaderValue);

impl UpgradeProtocol {
    /// The value of `Upgrade`.
    pub fn value(&self) -> &HeaderValue {
        &self.0
    }

    /// Whether it is WebSocket (RFC 6455).
    pub fn is_websocket(&self) -> bool {
        self.0.as_bytes().eq_ignore_ascii_case(b"websocket")
    }

    /// Puts the wish back into headers from which what was hop-by-hop is gone.
    pub fn restore(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, self.0.clone());
    }

    /// The first protocol of a list, which is the one that its client prefers: extended `CONNECT` names one.
    pub fn preferred(&self) -> Option<&str> {
        let first = self.0.to_str().ok()?.split(',').map(str::trim).find(|protocol| !protocol.is_empty())?;
        by_connect(first).map(|_| first)
    }

    fn offers(&self, protocol: &[u8]) -> bool {
        self.0.as_bytes().split(|&b| b == b',').any(|p| p.trim_ascii().eq_ignore_ascii_case(protocol))
    }
}

/// An upstream switched protocols without being asked, or to one that was not offered. The answer is 502
/// (`upstream_protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnexpectedSwitch;

impl fmt::Display for UnexpectedSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the upstream switched to a protocol that nobody asked for")
    }
}

impl std::error::Error for UnexpectedSwitch {}

/// What a request wants to change to. Before hop-by-hop fields are removed.
///
/// Only HTTP/1.1 has upgrades (RFC 9110 §7.8: in HTTP/1.0 they are to be ignored), and `Connection` must name
/// the field. `h2c` is not passed on: it would take the request out of Weir's sight (RFC 9113 §3.1 made it
/// obsolete); nor are other versions of HTTP or TLS (RFC 2817). Such a request is served as if it had not
/// asked.
pub fn requested(version: Version, headers: &HeaderMap) -> Option<UpgradeProtocol> {
    let value = headers.get(UPGRADE)?;
    if version != Version::HTTP_11 || !list(headers, &CONNECTION).any(|o| o.eq_ignore_ascii_case(b"upgrade"))
    {
        return None;
    }
    let offered: Vec<_> = list(headers, &UPGRADE).collect();
    if offered.iter().all(|protocol| !is_http(protocol)) && offered.len() == 1 {
        return Some(UpgradeProtocol(value.clone()));
    }
    let kept: Vec<_> = offered.into_iter().filter(|protocol| !is_http(protocol)).collect();
    (!kept.is_empty()).then(|| HeaderValue::from_bytes(&kept.join(&b", "[..])).ok().map(UpgradeProtocol))?
}

/// What a request by extended `CONNECT` wants to change to: the value of `:protocol`. `None` where it is no token, or
/// HTTP itself.
pub fn by_connect(protocol: &str) -> Option<UpgradeProtocol> {
    let token = !protocol.is_empty()
        && protocol.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&b));
    (token && !is_http(protocol.as_bytes()))
        .then(|| HeaderValue::from_str(protocol).ok().map(UpgradeProtocol))?
}

/// Makes headers of an extended `CONNECT` those of an `Upgrade`. WebSocket has a handshake of its own in HTTP/1 alone
/// (RFC 8441 §5), so its key has to be made: 16 random bytes in base64 (RFC 6455 §4.1).
pub fn from_connect(protocol: &UpgradeProtocol, headers: &mut HeaderMap, rng: &mut fastrand::Rng) {
    if !protocol.is_websocket() {
        return;
    }
    // 21 characters of 6 bits, and one of 2 bits: its others are padding.
    let mut draw = |step: usize| ALPHABET.get(rng.usize(..64) / step * step).copied().unwrap_or(b'A');
    let mut key: Vec<u8> = (0..21).map(|_| draw(1)).collect();
    key.extend([draw(16), b'=', b'=']);
    if let Ok(key) = HeaderValue::from_bytes(&key) {
        headers.insert(SEC_WEBSOCKET_KEY, key);
    }
}

/// What the answer to a WebSocket handshake of HTTP/1.1 has to show (RFC 6455 §4.2.2): that whoever answers has read
/// `key`.
pub fn websocket_accept(key: &HeaderValue) -> HeaderValue {
    const SALT: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let salted = [key.as_bytes().trim_ascii(), SALT].concat();
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &salted);
    let mut text = Vec::with_capacity(28);
    for group in digest.as_ref().chunks(3) {
        let at = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for (place, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let index = usize::try_from(bits >> shift & 63).unwrap_or(0);
            let digit = ALPHABET.get(index).copied().unwrap_or(b'A');
            text.push(if place <= group.len() { digit } else { b'=' });
        }
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
}

/// Makes headers of an `Upgrade`, without what was hop-by-hop, those of an extended `CONNECT` (RFC 8441 §5).
pub fn into_connect(headers: &mut HeaderMap) {
    headers.remove(SEC_WEBSOCKET_KEY);
}

/// Makes headers of the answer that accepted an extended `CONNECT` those of `101 Switching Protocols`; `key` is what the
/// client of a WebSocket sent.
pub fn into_switch(headers: &mut HeaderMap, key: Option<&HeaderValue>) {
    headers.remove(CONTENT_LENGTH);
    if let Some(key) = key {
        headers.insert(SEC_WEBSOCKET_ACCEPT, websocket_accept(key));
    }
}

/// Makes headers of `101 Switching Protocols`, without what was hop-by-hop, those of the answer to an extended
/// `CONNECT`.
pub fn to_connect(headers: &mut HeaderMap) {
    headers.remove(SEC_WEBSOCKET_ACCEPT);
}

/// Whether a protocol is HTTP itself, or TLS around it.
fn is_http(protocol: &[u8]) -> bool {
    let name = protocol.split(|&b| b == b'/').next().unwrap_or_default();
    [&b"h2c"[..], b"h2", b"http", b"tls"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// What an upstream that was asked by extended `CONNECT` switches to with its answer; `None` when it does not. There is
/// no 101 in HTTP/2 (RFC 9113 §8.6).
pub fn accepted_connect(
    asked: Option<&UpgradeProtocol>,
    status: StatusCode,
) -> Result<Option<UpgradeProtocol>, UnexpectedSwitch> {
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(UnexpectedSwitch);
    }
    let chosen = asked.filter(|_| status.is_success()).and_then(UpgradeProtocol::preferred);
    Ok(chosen.and_then(by_connect))
}

/// What an upstream switches to with its answer; `None` when it does not.
///
/// A server may switch only to what was offered (RFC 9110 §7.8). Before hop-by-hop fields are removed.
pub fn accepted(
    asked: Option<&UpgradeProtocol>,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<Option<UpgradeProtocol>, UnexpectedSwitch> {
    if status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(None);
    }
    let asked = asked.ok_or(UnexpectedSwitch)?;
    let chosen = headers.get(UPGRADE).ok_or(UnexpectedSwitch)?;
    // Several members are layers of one protocol; each must have been offered.
    let mut members = list(headers, &UPGRADE).peekable();
    if members.peek().is_none() || !members.all(|member| asked.offers(member)) {
        return Err(UnexpectedSwitch);
    }
    Ok(Some(UpgradeProtocol(chosen.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fields;

    #[test]
    fn reads_the_wish() {
        for (version, connection, upgrade, expected) in [
            (Version::HTTP_11, "Upgrade", "websocket", Some("websocket")),
            (Version::HTTP_11, "keep-alive, upgrade", "WebSocket", Some("WebSocket")),
            (Version::HTTP_11, "upgrade", "foo/2, h2c, bar", Some("foo/2, bar")),
            (Version::HTTP_11, "upgrade", "h2c", None),
            (Version::HTTP_11, "upgrade, http2-settings", "H2C", None),
            (Version::HTTP_11, "upgrade", "HTTP/2.0", None),
            (Version::HTTP_11, "upgrade", "TLS/1.0", None),
            (Version::HTTP_11, "upgrade", "", None),
            (Version::HTTP_11, "close", "websocket", None),
            (Version::HTTP_10, "upgrade", "websocket", None),
            (Version::HTTP_2, "upgrade", "websocket", None),
        ] {
            let found = requested(version, &fields(&[("connection", connection), ("upgrade", upgrade)]));
            assert_eq!(
                found.as_ref().map(|p| p.value().to_str().unwrap()),
                expected,
                "{version:?} {upgrade}"
            );
        }
        assert_eq!(requested(Version::HTTP_11, &fields(&[("connection", "upgrade")])), None);
    }

    #[test]
    fn extended_connect_becomes_an_upgrade() {
        for (protocol, wanted) in [
            ("websocket", true),
            ("connect-udp", true),
            ("h2c", false),
            ("HTTP/2", false),
            ("tls", false),
            ("", false),
            ("a b", false),
            ("a, b", false),
        ] {
            assert_eq!(by_connect(protocol).is_some(), wanted, "{protocol}");
        }
        let mut rng = fastrand::Rng::with_seed(5);
        let mut keys = std::collections::HashSet::new();
        for _ in 0..100 {
            let mut headers = HeaderMap::new();
            from_connect(&by_connect("websocket").unwrap(), &mut headers, &mut rng);
            let key = headers[SEC_WEBSOCKET_KEY].to_str().unwrap().to_owned();
            assert!(key.len() == 24 && key.ends_with("==") && b"AQgw".contains(&key.as_bytes()[21]), "{key}");
            keys.insert(key);
        }
        assert_eq!(keys.len(), 100);
        let mut headers = HeaderMap::new();
        from_connect(&by_connect("connect-udp").unwrap(), &mut headers, &mut rng);
        assert!(headers.is_empty(), "the key is WebSocket's");
    }

    #[test]
    fn an_upgrade_becomes_an_extended_connect_and_its_answer_a_switch() {
        // RFC 6455 §1.3.
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(websocket_accept(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let mut headers = fields(&[("sec-websocket-key", "x"), ("sec-websocket-protocol", "p")]);
        into_connect(&mut headers);
        assert_eq!(headers, fields(&[("sec-websocket-protocol", "p")]));
        let mut headers = fields(&[("content-length", "0"), ("sec-websocket-protocol", "p")]);
        into_switch(&mut headers, Some(&key));
        assert_eq!(headers.len(), 2);
        let asked = UpgradeProtocol(HeaderValue::from_static("websocket, other"));
        assert_eq!(asked.preferred(), Some("websocket"));
        let accepted = |status| accepted_connect(Some(&asked), StatusCode::from_u16(status).unwrap());
        assert!(accepted(200).unwrap().unwrap().is_websocket());
        assert_eq!(accepted(403), Ok(None));
        assert_eq!(accepted(101), Err(UnexpectedSwitch));
        assert_eq!(accepted_connect(None, StatusCode::OK), Ok(None));
    }

    #[test]
    fn survives_hygiene() {
        let mut headers =
            fields(&[("connection", "upgrade, x-hop"), ("upgrade", "websocket"), ("x-hop", "1")]);
        let asked = requested(Version::HTTP_11, &headers).unwrap();
        assert!(asked.is_websocket());
        super::super::hygiene::remove_hop_by_hop(&mut headers);
        assert!(headers.is_empty());
        asked.restore(&mut headers);
        assert_eq!(headers, fields(&[("connection", "upgrade"), ("upgrade", "websocket")]));
    }

    #[test]
    fn only_what_was_asked_for_is_accepted() {
        let asked = UpgradeProtocol(HeaderValue::from_static("foo, websocket"));
        let switch = StatusCode::SWITCHING_PROTOCOLS;
        let to = |protocol| fields(&[("connection", "upgrade"), ("upgrade", protocol)]);
        assert_eq!(accepted(Some(&asked), StatusCode::OK, &to("evil")), Ok(None));
        assert!(accepted(Some(&asked), switch, &to("WebSocket")).unwrap().unwrap().is_websocket());
        assert_eq!(accepted(Some(&asked), switch, &to("evil")), Err(UnexpectedSwitch));
        assert_eq!(accepted(Some(&asked), switch, &to("")), Err(UnexpectedSwitch));
        assert_eq!(accepted(Some(&asked), switch, &HeaderMap::new()), Err(UnexpectedSwitch));
        assert_eq!(accepted(None, switch, &to("websocket")), Err(UnexpectedSwitch));
    }
}
