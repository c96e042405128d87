//! The one form of a path: RFC 3986 §6.2.2, and no empty segments.
//!
//! Matching and forwarding use the same text, so that no two spellings of one path can be told apart by the
//! application and not by Weir. What comes out is always a valid RFC 3986 path.

use std::{borrow::Cow, fmt};

/// Why a path was refused. The answer is 400 (`malformed`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PathError {
    /// It does not begin with `/`.
    NoLeadingSlash,
    /// `%` is not followed by two hexadecimal digits, or stands for NUL.
    BadEscape,
    /// A control character, a space, `#`, `?` or a backslash.
    BadCharacter,
    /// `..` leads above the root.
    AboveRoot,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoLeadingSlash => "the path does not begin with a slash",
            Self::BadEscape => "the path has a broken percent escape",
            Self::BadCharacter => "the path has a character that is not allowed in paths",
            Self::AboveRoot => "the path leads above the root",
        })
    }
}

impl std::error::Error for PathError {}

/// Brings `path` (without its query) into normal form.
///
/// - Escapes of unreserved characters are decoded, the other escapes written in capitals (RFC 3986
///   §6.2.2.1, §6.2.2.2). So an encoded slash or backslash stays encoded and separates nothing.
/// - Characters that RFC 3986 does not allow but clients send (`{`, `|`, UTF-8 …) are escaped.
/// - `//` becomes `/`, then `.` and `..` are resolved (§6.2.2.3). The empty path is `/` (§6.2.3).
///
/// Applying it twice changes nothing more. A path already in normal form is borrowed after one scan.
/// `OPTIONS *` and the target of `CONNECT` are no paths and are for the caller.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, PathError> {
    if path.is_empty() {
        return Ok(Cow::Borrowed("/"));
    }
    if !path.starts_with('/') {
        return Err(PathError::NoLeadingSlash);
    }
    if is_normal(path.as_bytes()) { Ok(Cow::Borrowed(path)) } else { rebuild(path).map(Cow::Owned) }
}

/// What a byte of a path is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// May stand as it is.
    Plain,
    /// `/`, after which an empty or a dot segment may follow.
    Slash,
    /// `%`.
    Escape,
    /// Has to be escaped.
    Encode,
    /// Refused.
    Refuse,
}

/// The class of each byte. `pchar` of RFC 3986 §3.3 is plain.
const CLASSES: [Class; 256] = {
    let mut table = [Class::Encode; 256];
    let mut i = 0_usize;
    while i < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "i is below 256")]
        let byte = i as u8;
        #[expect(clippy::indexing_slicing, reason = "evaluated when compiling")]
        {
            table[i] = match byte {
                b'/' => Class::Slash,
                b'%' => Class::Escape,
                0..=b' ' | 0x7f | b'#' | b'?' | b'\\' => Class::Refuse,
                b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' => {
                    Class::Plain
                }
                _ if is_unreserved(byte) => Class::Plain,
                _ => Class::Encode,
            };
        }
        i += 1;
    }
    table
};

fn class(byte: u8) -> Class {
    CLASSES.get(usize::from(byte)).copied().unwrap_or(Class::Refuse)
}

/// `unreserved` of RFC 3986 §2.3.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether nothing has to be changed or refused: the one scan of the common case.
fn is_normal(path: &[u8]) -> bool {
    let mut rest = path;
    while let [byte, tail @ ..] = rest {
        rest = match class(*byte) {
            Class::Slash if matches!(tail, [b'/', ..]) || starts_with_dot_segment(tail) => return false,
            Class::Plain | Class::Slash => tail,
            Class::Escape => match tail {
                [high, low, tail @ ..] if is_kept_escape(*high, *low) => tail,
                _ => return false,
            },
            Class::Encode | Class::Refuse => return false,
        };
    }
    true
}

/// Whether the segment at the beginning of `rest` is `.` or `..`.
fn starts_with_dot_segment(rest: &[u8]) -> bool {
    matches!(rest, [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..])
}

/// Whether an escape is already as it has to be: in capitals, and of nothing that is better written plainly.
fn is_kept_escape(high: u8, low: u8) -> bool {
    let capital = |b: u8| matches!(b, b'0'..=b'9' | b'A'..=b'F');
    capital(high) && capital(low) && decode(high, low).is_some_and(|b| b != 0 && !is_unreserved(b))
}

fn decode(high: u8, low: u8) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// The slow way: writes the path anew, segment by segment.
fn rebuild(path: &str) -> Result<String, PathError> {
    let mut out = String::with_capacity(path.len() + 8);
    out.push('/');
    // Invariant: before each segment `out` ends with a slash.
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let start = out.len();
        push_segment(&mut out, segment)?;
        match out.get(start..).unwrap_or_default() {
            "" => {}
            "." => out.truncate(start),
            ".." => {
                out.truncate(start - 1);
                let parent = out.rfind('/').ok_or(PathError::AboveRoot)?;
                out.truncate(parent + 1);
            }
            _ if segments.peek().is_some() => out.push('/'),
            _ => {}
        }
    }
    Ok(out)
}

/// Appends one segment with its escapes in normal form.
fn push_segment(out: &mut String, segment: &str) -> Result<(), PathError> {
    let mut rest = segment.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match class(*byte) {
            Class::Plain => out.push(char::from(*byte)),
            Class::Encode => push_escape(out, *byte),
            Class::Slash | Class::Refuse => return Err(PathError::BadCharacter),
            Class::Escape => {
                let [high, low, tail @ ..] = tail else { return Err(PathError::BadEscape) };
                match decode(*high, *low).ok_or(PathError::BadEscape)? {
                    0 => return Err(PathError::BadEscape),
                    decoded if is_unreserved(decoded) => out.push(char::from(decoded)),
                    decoded => push_escape(out, decoded),
                }
                rest = tail;
            }
        }
    }
    Ok(())
}

fn push_escape(out: &mut String, byte: u8) {
    out.push('%');
    for digit in [byte >> 4, byte & 15] {
        out.push(char::from_digit(u32::from(digit), 16).unwrap_or('0').to_ascii_uppercase());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn normal_paths_are_borrowed() {
        for path in [
            "/", "/a", "/a/", "/a/b.c", "/a/.b", "/a/..b", "/a/...", "/a%2Fb", "/a;v=1", "/a%5Cb", "/%C3%A9",
            "/~a@b:c",
        ] {
            assert!(
                matches!(normalise(path), Ok(Cow::Borrowed(p)) if p == path),
                "{path}: {:?}",
                normalise(path)
            );
        }
        assert_eq!(normalise("").unwrap(), "/");
    }

    #[test]
    fn brings_paths_into_normal_form() {
        for (path, normal) in [
            ("//", "/"),
            ("/a//b", "/a/b"),
            ("/a///", "/a/"),
            ("/.", "/"),
            ("/./", "/"),
            ("/a/.", "/a/"),
            ("/a/./b", "/a/b"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../c", "/a/c"),
            ("/a/b/../../c", "/c"),
            ("/a//../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/%2e/b", "/a/b"),
            ("/%61dmin", "/admin"),
            ("/%7Euser", "/~user"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%2f..%2fb", "/a%2F..%2Fb"),
            ("/a%5c..", "/a%5C.."),
            ("/%25%32%65", "/%252e"),
            ("/\u{e9}", "/%C3%A9"),
            ("/{id}|\"", "/%7Bid%7D%7C%22"),
        ] {
            assert_eq!(normalise(path).as_deref(), Ok(normal), "{path}");
        }
    }

    #[test]
    fn refuses_what_could_be_read_in_two_ways() {
        for (path, error) in [
            ("a", PathError::NoLeadingSlash),
            ("*", PathError::NoLeadingSlash),
            ("http://a/", PathError::NoLeadingSlash),
            ("/%", PathError::BadEscape),
            ("/%2", PathError::BadEscape),
            ("/%zz", PathError::BadEscape),
            ("/%+1", PathError::BadEscape),
            ("/%00", PathError::BadEscape),
            ("/%2/a", PathError::BadEscape),
            ("/\0", PathError::BadCharacter),
            ("/a b", PathError::BadCharacter),
            ("/a\n", PathError::BadCharacter),
            ("/a\u{7f}", PathError::BadCharacter),
            ("/a#b", PathError::BadCharacter),
            ("/a?b", PathError::BadCharacter),
            ("/a\\b", PathError::BadCharacter),
            ("/..", PathError::AboveRoot),
            ("/a/../..", PathError::AboveRoot),
            ("/%2e%2e/a", PathError::AboveRoot),
            ("//../a", PathError::AboveRoot),
        ] {
            assert_eq!(normalise(path), Err(error), "{path:?}");
        }
    }

    /// Text in which the interesting sequences are frequent.
    fn paths() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("/".to_owned()),
            Just(".".to_owned()),
            Just("..".to_owned()),
            Just("%2e".to_owned()),
            Just("%2F".to_owned()),
            Just("%25".to_owned()),
            "[a-z]{1,3}",
            "%[0-9a-fA-F]{2}",
            "[ -~]",
            "\\PC",
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn is_idempotent_and_leaves_no_dots(path in paths()) {
            if let Ok(once) = normalise(&path) {
                prop_assert!(matches!(normalise(&once), Ok(Cow::Borrowed(twice)) if twice == once), "{once}");
                prop_assert!(once.starts_with('/') && once.is_ascii());
                prop_assert!(!once.contains("//"));
                prop_assert!(once.split('/').all(|s| s != "." && s != ".."));
                prop_assert!(::http::uri::PathAndQuery::try_from(once.as_ref()).is_ok());
            }
        }

        #[test]
        fn the_fast_and_the_slow_way_agree(path in paths()) {
            if is_normal(path.as_bytes()) {
                prop_assert_eq!(rebuild(&path), Ok(path));
            }
        }

        #[test]
        fn never_panics(path in "\\PC*") {
            let _ = normalise(&path);
        }
    }
}
