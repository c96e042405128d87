//! The header of the PROXY protocol, versions 1 and 2: who the client of the load balancer in front is.
//!
//! The protocol: <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. The parser is pure, looks at no more
//! than [`MAX_LENGTH`] bytes, and takes one reading of each header or none. It is our own because none of the crates
//! there are checks the checksum of a header and says of half of one that it is a half.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Most bytes of a header of version 2, addresses and extensions included. What load balancers send is below 1 KiB;
/// the format would allow 64 KiB.
pub(crate) const MAX_LENGTH: usize = 4096;
/// The longest header of version 1, its line end included.
const MAX_LENGTH_V1: usize = 107;
/// What every header of version 1 begins with.
const PREFIX_V1: &[u8] = b"PROXY ";
/// What every header of version 2 begins with.
const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The fixed part of version 2: signature, version and command, family, length.
const FIXED_V2: usize = 16;
/// The type of the extension that holds a CRC-32C of the whole header (§2.2.4).
const CRC32C: u8 = 0x03;

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// The beginning of a header, as far as can be seen.
    Incomplete,
    /// No header.
    Absent,
    /// A header.
    Header {
        /// Its bytes.
        length: usize,
        /// The client's address; `None` where the header names none (LOCAL, UNKNOWN, a unix socket): then the
        /// connection's own peer is the client.
        source: Option<SocketAddr>,
    },
}

/// Bytes that begin like a header and are none; says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Parses the first bytes of a connection.
pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed, Malformed> {
    if bytes.starts_with(PREFIX_V1) {
        return version1(bytes);
    }
    if bytes.starts_with(SIGNATURE_V2) {
        return version2(bytes);
    }
    let begins = PREFIX_V1.starts_with(bytes) || SIGNATURE_V2.starts_with(bytes);
    Ok(if begins { Parsed::Incomplete } else { Parsed::Absent })
}

/// §2.1: one line of text.
fn version1(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let window = bytes.get(..MAX_LENGTH_V1).unwrap_or(bytes);
    let Some(end) = memchr::memchr(b'\n', window) else {
        let full = bytes.len() >= MAX_LENGTH_V1;
        return if full { Err(Malformed("a line that does not end")) } else { Ok(Parsed::Incomplete) };
    };
    let line = window.get(PREFIX_V1.len()..end).and_then(|line| line.strip_suffix(b"\r"));
    let line = line.ok_or(Malformed("a line that does not end in CRLF"))?;
    let text = str::from_utf8(line).map_err(|_| Malformed("a line that is no text"))?;
    if text.contains('\r') {
        return Err(Malformed("a CR within the line"));
    }
    let length = end + 1;
    // Whatever follows UNKNOWN is to be ignored.
    if text == "UNKNOWN" || text.starts_with("UNKNOWN ") {
        return Ok(Parsed::Header { length, source: None });
    }
    let mut parts = text.split(' ');
    let (Some(family), Some(from), Some(to), Some(from_port), Some(to_port), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Malformed("not five parts"));
    };
    let address: fn(&str) -> Option<IpAddr> = match family {
        "TCP4" => |text| text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => |text| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => return Err(Malformed("an unknown family")),
    };
    let (Some(source), Some(_)) = (address(from), address(to)) else {
        return Err(Malformed("an address that is none"));
    };
    let (Some(port), Some(_)) = (port(from_port), port(to_port)) else {
        return Err(Malformed("a port that is none"));
    };
    Ok(Parsed::Header { length, source: Some(SocketAddr::new(source, port)) })
}

/// A port in plain decimal digits, without leading zeros.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

/// §2.2: a fixed part, addresses, extensions.
fn version2(bytes: &[u8]) -> Result<Parsed, Malformed> {
    let Some([version_command, family, high, low]) = bytes.get(SIGNATURE_V2.len()..FIXED_V2) else {
        return Ok(Parsed::Incomplete);
    };
    let (version, command) = (version_command >> 4, version_command & 0xf);
    if version != 2 || command > 1 {
        return Err(Malformed("an unknown version or command"));
    }
    if family >> 4 > 3 || family & 0xf > 2 {
        return Err(Malformed("an unknown family or transport"));
    }
    let length = FIXED_V2 + usize::from(u16::from_be_bytes([*high, *low]));
    if length > MAX_LENGTH {
        return Err(Malformed("a header that is too long"));
    }
    let Some(header) = bytes.get(..length) else { return Ok(Parsed::Incomplete) };
    let rest = header.get(FIXED_V2..).unwrap_or_default();
    // LOCAL: the balancer itself, to see whether we are there. What follows is to be skipped.
    if command == 0 || family >> 4 == 0 {
        return Ok(Parsed::Header { length, source: None });
    }
    let (source, extensions) = addresses(family >> 4, rest).ok_or(Malformed("addresses that are cut off"))?;
    check_extensions(header, extensions)?;
    // Datagrams are not what came: nothing is known of the client then.
    let source = source.filter(|_| family & 0xf == 1);
    Ok(Parsed::Header { length, source })
}

/// The source address, and what follows the addresses.
fn addresses(family: u8, rest: &[u8]) -> Option<(Option<SocketAddr>, &[u8])> {
    match family {
        1 => {
            let (addresses, extensions) = rest.split_first_chunk::<12>()?;
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *addresses;
            let source = SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])));
            Some((Some(source), extensions))
        }
        2 => {
            let (addresses, extensions) = rest.split_first_chunk::<36>()?;
            let address = *addresses.first_chunk::<16>()?;
            let port = *addresses.get(32..)?.first_chunk::<2>()?;
            Some((Some(SocketAddr::from((address, u16::from_be_bytes(port)))), extensions))
        }
        _ => rest.split_first_chunk::<216>().map(|(_, extensions)| (None, extensions)),
    }
}

/// Goes through the extensions (TLVs): they must fill the header exactly, and a checksum must be right. What else they
/// say is not used.
fn check_extensions(header: &[u8], mut rest: &[u8]) -> Result<(), Malformed> {
    let cut_off = Malformed("an extension that is cut off");
    let mut checksum = None;
    while let Some((kind, after)) = rest.split_first() {
        let (length, after) = after.split_first_chunk::<2>().ok_or(cut_off)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (value, after) = after.split_at_checked(length).ok_or(cut_off)?;
        if *kind == CRC32C {
            let given = value.first_chunk::<4>().filter(|_| value.len() == 4);
            let given = u32::from_be_bytes(*given.ok_or(Malformed("a checksum of another length"))?);
            if checksum.replace((header.len() - after.len() - 4, given)).is_some() {
                return Err(Malformed("two checksums"));
            }
        }
        rest = after;
    }
    match checksum {
        Some((at, given)) if crc32c(header, at) != given => Err(Malformed("a checksum that is wrong")),
        _ => Ok(()),
    }
}

/// CRC-32C (Castagnoli) of `bytes`, with the four bytes at `hole` taken for zeros. Once for each connection that brings
/// a checksum, over a few hundred bytes: not worth a table.
fn crc32c(bytes: &[u8], hole: usize) -> u32 {
    let mut crc = u32::MAX;
    for (index, byte) in bytes.iter().enumerate() {
        let byte = if (hole..hole + 4).contains(&index) { 0 } else { *byte };
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE_V2.to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        bytes.extend(value);
        bytes
    }

    const V4: &[u8] = &[192, 0, 2, 7, 10, 0, 0, 1, 0x1f, 0x90, 0, 80];

    fn with_checksum(extra: &[u8]) -> Vec<u8> {
        let mut header = v2(0x21, 0x11, &[V4, extra, &tlv(CRC32C, &[0; 4])].concat());
        let at = header.len() - 4;
        let crc = crc32c(&header, at);
        header[at..].copy_from_slice(&crc.to_be_bytes());
        header
    }

    fn source(bytes: &[u8]) -> Result<Option<String>, Malformed> {
        match parse(bytes)? {
            Parsed::Header { length, source } => {
                assert_eq!(length, bytes.len());
                Ok(source.map(|address| address.to_string()))
            }
            other => panic!("{other:?} for {bytes:?}"),
        }
    }

    #[test]
    fn version_1() {
        let from = |text: &str| Ok::<_, Malformed>(Some(text.to_owned()));
        assert_eq!(source(b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n"), from("192.0.2.7:56324"));
        assert_eq!(source(b"PROXY TCP6 2001:db8::1 ::1 65535 0\r\n"), from("[2001:db8::1]:65535"));
        assert_eq!(source(b"PROXY UNKNOWN\r\n"), Ok(None));
        assert_eq!(source(b"PROXY UNKNOWN ffff:f...f 1 what ever\r\n"), Ok(None));
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_LENGTH_V1 - 16));
        assert_eq!((longest.len(), source(longest.as_bytes())), (107, Ok(None)));
        for bad in [
            "PROXY TCP4 192.0.2.7 10.0.0.1 56324\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 56324 443 1\r\n",
            "PROXY TCP4  192.0.2.7 10.0.0.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 56324 443 \r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\n",
            "PROXY TCP4 192.0.2.7\r 10.0.0.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.007 10.0.0.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.256 10.0.0.1 56324 443\r\n",
            "PROXY TCP4 ::1 ::1 56324 443\r\n",
            "PROXY TCP6 192.0.2.7 10.0.0.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 065 443\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 +65 443\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 65536 443\r\n",
            "PROXY tcp4 192.0.2.7 10.0.0.1 1 443\r\n",
            "PROXY UNKNOWNX\r\n",
            "PROXY UDP4 192.0.2.7 10.0.0.1 1 443\r\n",
            "PROXY \r\n",
            "PROXY TCP4 \u{e4} 10.0.0.1 1 443\r\n",
            &format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_LENGTH_V1 - 15)),
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn version_2() {
        assert_eq!(source(&v2(0x21, 0x11, V4)), Ok(Some("192.0.2.7:8080".to_owned())));
        let v6 = [&Ipv6Addr::LOCALHOST.octets()[..], &[0; 16], &[0, 7, 0, 8]].concat();
        assert_eq!(source(&v2(0x21, 0x21, &v6)), Ok(Some("[::1]:7".to_owned())));
        assert_eq!(source(&v2(0x21, 0x31, &[b'/'; 216])), Ok(None), "a unix socket");
        assert_eq!(source(&v2(0x20, 0x00, b"")), Ok(None), "LOCAL");
        assert_eq!(source(&v2(0x20, 0x11, V4)), Ok(None), "LOCAL, whatever follows");
        assert_eq!(source(&v2(0x20, 0x11, b"xyz")), Ok(None));
        assert_eq!(source(&v2(0x21, 0x00, b"whatever")), Ok(None), "unspecified");
        assert_eq!(source(&v2(0x21, 0x12, V4)), Ok(None), "datagrams");
        let extended = [V4, &tlv(0x02, b"example.org"), &tlv(0x20, &[1; 300]), &tlv(0x04, b"")].concat();
        assert_eq!(source(&v2(0x21, 0x11, &extended)), Ok(Some("192.0.2.7:8080".to_owned())));
        for (what, bad) in [
            ("version 1", v2(0x11, 0x11, V4)),
            ("command 2", v2(0x22, 0x11, V4)),
            ("family 4", v2(0x21, 0x41, V4)),
            ("transport 3", v2(0x21, 0x13, V4)),
            ("short addresses", v2(0x21, 0x11, &V4[..11])),
            ("IPv4 as IPv6", v2(0x21, 0x21, V4)),
            ("half an extension", v2(0x21, 0x11, &[V4, &[4, 0]].concat())),
            ("an extension that overruns", v2(0x21, 0x11, &[V4, &[4, 0, 2, 1]].concat())),
            ("too long", v2(0x21, 0x11, &[V4, &tlv(0x04, &[0; MAX_LENGTH])].concat())),
            ("a short checksum", v2(0x21, 0x11, &[V4, &tlv(CRC32C, &[0; 3])].concat())),
            ("a wrong checksum", v2(0x21, 0x11, &[V4, &tlv(CRC32C, &[0; 4])].concat())),
        ] {
            assert!(parse(&bad).is_err(), "{what}");
        }
    }

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        // RFC 3720 §B.4: 32 bytes of zeros, of ones, and ascending.
        let far = usize::MAX - 4;
        assert_eq!(crc32c(&[0; 32], far), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32], far), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>(), far), 0x46dd_794e);
        let header = with_checksum(&tlv(0x02, b"example.org"));
        assert_eq!(source(&header), Ok(Some("192.0.2.7:8080".to_owned())));
        let kind = header.len() - 7;
        for at in (FIXED_V2..header.len()).filter(|at| *at != kind) {
            let mut flipped = header.clone();
            flipped[at] ^= 1;
            assert!(parse(&flipped).is_err(), "byte {at}");
        }
        let twice = [&tlv(CRC32C, &[0; 4])[..], b""].concat();
        assert!(parse(&with_checksum(&twice)).is_err());
    }

    #[test]
    fn what_is_no_header_is_none() {
        for bytes in
            [&b"GET / HTTP/1.1\r\n"[..], b"PROPFIND / ", b"\x16\x03\x01", b"PRI * HTTP/2.0", b"\r\n\r\nGET"]
        {
            assert_eq!(parse(bytes), Ok(Parsed::Absent), "{bytes:?}");
        }
        assert_eq!(parse(b""), Ok(Parsed::Incomplete));
    }

    proptest! {
        #[test]
        fn anything_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..300), which in 0_u8..3) {
            let begin: &[u8] = match which { 0 => b"", 1 => PREFIX_V1, _ => SIGNATURE_V2 };
            let all = [begin, &bytes].concat();
            if let Ok(Parsed::Header { length, .. }) = parse(&all) {
                prop_assert!(length <= all.len());
                // What follows a header changes nothing of it, and without its last byte it is none.
                prop_assert_eq!(parse(&all[..length]), parse(&all));
                prop_assert_eq!(parse(&all[..length - 1]), Ok(Parsed::Incomplete));
            }
        }

        #[test]
        fn every_beginning_of_a_header_is_a_beginning(extra in prop::collection::vec(any::<u8>(), 0..40), v6: bool) {
            let text = if v6 { "PROXY TCP6 2001:db8::1 ::1 1 2\r\n" } else { "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" };
            for header in [text.as_bytes().to_vec(), with_checksum(&tlv(0xea, &extra))] {
                for end in 0..header.len() {
                    prop_assert_eq!(parse(&header[..end]), Ok(Parsed::Incomplete));
                }
                let whole = matches!(parse(&header), Ok(Parsed::Header { .. }));
                prop_assert!(whole);
            }
        }
    }
}
