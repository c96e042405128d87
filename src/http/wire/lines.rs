//! One line at a time: first lines, fields, sizes of chunks. All of it pure, none of it allocates.

use super::{Fault, scan};

/// The longest body that is believed: what a signed number of 64 bits holds, as most parsers have it.
const MAX_LENGTH: u64 = i64::MAX as u64;

/// The bytes of a token (RFC 9110 §5.6.2): methods and the names of fields.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let b = byte as u8;
        let mark = matches!(
            b,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        );
        #[expect(clippy::indexing_slicing, reason = "below 256, and evaluated by the compiler")]
        {
            table[byte] = b.is_ascii_alphanumeric() || mark;
        }
        byte += 1;
    }
    table
};

/// A line without its LF, without the CR that must stand before it.
pub(super) fn without_cr(line: &[u8]) -> Result<&[u8], Fault> {
    match line {
        [line @ .., b'\r'] => Ok(line),
        _ => Err(Fault::BareLf),
    }
}

/// Up to the first byte that is none of a token.
fn split_token(line: &[u8]) -> (&[u8], &[u8]) {
    #[expect(clippy::indexing_slicing, reason = "the table has an entry for every byte")]
    let end = line.iter().position(|&b| !TOKEN[usize::from(b)]).unwrap_or(line.len());
    line.split_at_checked(end).unwrap_or((line, &[]))
}

/// The value of a field, or the reason of a status line: text, spaces and tabs, and bytes beyond ASCII.
pub(super) fn check_text(text: &[u8]) -> Result<(), Fault> {
    match text.get(scan::text(text)) {
        None => Ok(()),
        Some(b'\r') => Err(Fault::BareCr),
        Some(_) => Err(Fault::Control),
    }
}

/// What the first line of a request says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestLine {
    /// HTTP/1.1; else 1.0.
    pub(super) is_http11: bool,
    /// The method is `CONNECT`.
    pub(super) connect: bool,
}

/// `method SP target SP version` (RFC 9112 §3), with single spaces.
pub(super) fn request_line(line: &[u8]) -> Result<RequestLine, Fault> {
    if let [b' ' | b'\t', ..] = line {
        return Err(Fault::Folded);
    }
    let (method, rest) = split_token(line);
    let ([b' ', rest @ ..], false) = (rest, method.is_empty()) else { return Err(wrong_line(line)) };
    let (target, is_http11) = match rest {
        [target @ .., b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'] => (target, true),
        [target @ .., b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'] => (target, false),
        _ => return Err(wrong_end(rest)),
    };
    if target.is_empty() {
        return Err(Fault::RequestLine);
    }
    if scan::target(target) < target.len() {
        return Err(check_text(target).err().unwrap_or(Fault::Target));
    }
    Ok(RequestLine { is_http11, connect: method == b"CONNECT" })
}

#[cold]
fn wrong_line(line: &[u8]) -> Fault {
    check_text(line).err().unwrap_or(Fault::RequestLine)
}

/// What is wrong with a request line that ends in no known version.
#[cold]
fn wrong_end(rest: &[u8]) -> Fault {
    let last = rest.rsplit(|&b| b == b' ').next().unwrap_or_default();
    match check_text(rest) {
        Err(fault) => fault,
        Ok(()) if last.len() < rest.len() && last.starts_with(b"HTTP/") => Fault::Version,
        Ok(()) => Fault::RequestLine,
    }
}

/// What the first line of an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StatusLine {
    /// HTTP/1.1; else 1.0.
    pub(super) is_http11: bool,
    /// 100 to 999.
    pub(super) status: u16,
}

/// `version SP status [SP reason]` (RFC 9112 §4); the space after the status may be missing, which is common.
pub(super) fn status_line(line: &[u8]) -> Result<StatusLine, Fault> {
    let (rest, is_http11) = match line {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ (b'0' | b'1'), b' ', rest @ ..] => {
            (rest, *minor == b'1')
        }
        [b'H', b'T', b'T', b'P', b'/', ..] => return Err(check_text(line).err().unwrap_or(Fault::Version)),
        [b' ' | b'\t', ..] => return Err(Fault::Folded),
        _ => return Err(check_text(line).err().unwrap_or(Fault::StatusLine)),
    };
    let [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] = rest else {
        return Err(check_text(line).err().unwrap_or(Fault::StatusLine));
    };
    if !matches!(rest, [] | [b' ', ..]) {
        return Err(check_text(rest).err().unwrap_or(Fault::StatusLine));
    }
    check_text(rest)?;
    let digit = |b: &u8| u16::from(b - b'0');
    Ok(StatusLine { is_http11, status: digit(a) * 100 + digit(b) * 10 + digit(c) })
}

/// A field that says where a message ends, or what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field<'a> {
    /// Any other.
    Other,
    /// `Content-Length`, its value.
    ContentLength(&'a [u8]),
    /// `Transfer-Encoding`, its value.
    TransferEncoding(&'a [u8]),
    /// `Upgrade`.
    Upgrade,
}

/// `name: value` (RFC 9112 §5).
pub(super) fn field(line: &[u8]) -> Result<Field<'_>, Fault> {
    let (name, rest) = split_token(line);
    let [b':', value @ ..] = rest else { return Err(wrong_name(name, rest)) };
    check_text(value)?;
    known(name, value)
}

/// Whether a line may be one of the fields that [`field`] tells apart, or a folded one. Their names differ in length, so
/// that one byte rules out nearly every other line.
///
/// What else can be wrong with a line (a control character, a name that is none) the parser behind this refuses by
/// itself, so that it is not read twice.
#[inline]
pub(super) fn may_matter(line: &[u8]) -> bool {
    let colon = |at: usize| line.get(at) == Some(&b':');
    match line.first() {
        Some(b'c' | b'C') => colon(b"content-length".len()),
        Some(b't' | b'T') => colon(b"transfer-encoding".len()),
        Some(b'u' | b'U') => colon(b"upgrade".len()),
        Some(b' ' | b'\t') => true,
        _ => false,
    }
}

/// A line that [`may_matter`]. Its name and value are compared with what they have to be, so that their bytes need not be
/// looked at one by one.
#[inline]
pub(super) fn telling(line: &[u8]) -> Result<Field<'_>, Fault> {
    match line.iter().position(|&b| b == b':') {
        Some(colon @ 1..) if !matches!(line, [b' ' | b'\t', ..]) => {
            let (name, value) = line.split_at_checked(colon).unwrap_or_default();
            known(name, value.get(1..).unwrap_or_default())
        }
        _ => field(line),
    }
}

/// Most names are told by their length.
#[inline]
fn known<'a>(name: &[u8], value: &'a [u8]) -> Result<Field<'a>, Fault> {
    Ok(match name.len() {
        0 => return Err(Fault::Name),
        7 if name.eq_ignore_ascii_case(b"upgrade") => Field::Upgrade,
        14 if reads_as(name, b"content-length")? => Field::ContentLength(value.trim_ascii()),
        17 if reads_as(name, b"transfer-encoding")? => Field::TransferEncoding(value.trim_ascii()),
        _ => Field::Other,
    })
}

#[cold]
fn wrong_name(name: &[u8], rest: &[u8]) -> Fault {
    match (name, rest) {
        ([], [b' ' | b'\t', ..]) => Fault::Folded,
        ([_, ..], [b' ' | b'\t', ..]) if rest.trim_ascii_start().first() == Some(&b':') => {
            Fault::SpaceBeforeColon
        }
        _ => check_text(rest).err().unwrap_or(Fault::Name),
    }
}

/// Whether `name` is `wanted`; an error when it is not, and some applications take it for that.
fn reads_as(name: &[u8], wanted: &[u8]) -> Result<bool, Fault> {
    if name.eq_ignore_ascii_case(wanted) {
        return Ok(true);
    }
    let alike = |(a, b): (&u8, &u8)| a.eq_ignore_ascii_case(b) || (*a == b'_' && *b == b'-');
    if name.iter().zip(wanted).all(alike) { Err(Fault::LookAlike) } else { Ok(false) }
}

/// The number that a `Content-Length` says: digits and nothing else (RFC 9110 §8.6).
///
/// `padded` lets leading zeros pass, which servers write that reserved the room before they knew the length.
pub(super) fn length(value: &[u8], padded: bool) -> Result<u64, Fault> {
    if value.is_empty() || value.len() > 19 || (!padded && value.len() > 1 && value.first() == Some(&b'0')) {
        return Err(Fault::ContentLength);
    }
    let mut length = 0_u64;
    for digit in value {
        if !digit.is_ascii_digit() {
            return Err(Fault::ContentLength);
        }
        // Nineteen digits are below 2⁶⁴.
        length = length * 10 + u64::from(digit - b'0');
    }
    if length > MAX_LENGTH { Err(Fault::ContentLength) } else { Ok(length) }
}

/// `size [; extensions]` (RFC 9112 §7.1), without the spaces that §7.1.1 tolerates: other parsers do not.
pub(super) fn chunk_size(line: &[u8], max_extensions: usize) -> Result<u64, Fault> {
    let end = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, rest) = line.split_at_checked(end).unwrap_or((line, &[]));
    if !(1..=16).contains(&digits.len()) {
        return Err(Fault::ChunkSize);
    }
    match rest {
        [] => {}
        [b';', extensions @ ..] => {
            if extensions.len() > max_extensions || check_text(extensions).is_err() {
                return Err(Fault::ChunkExtension);
            }
        }
        _ => return Err(Fault::ChunkSize),
    }
    let hex = |size: u64, &b: &u8| size << 4 | u64::from(char::from(b).to_digit(16).unwrap_or_default());
    let size = digits.iter().fold(0, hex);
    if size > MAX_LENGTH { Err(Fault::ChunkSize) } else { Ok(size) }
}
