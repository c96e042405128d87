//! Eight bytes at a time: where text ends.

/// Every byte of a word the same.
const fn all(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The high bit of each byte of `word` that is below `bound` (at most 0x80). Above the first such byte it may err.
const fn below(word: u64, bound: u8) -> u64 {
    word.wrapping_sub(all(bound)) & !word & all(0x80)
}

/// The high bit of each byte of `word` that is `byte`. Above the first such byte it may err.
const fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ all(byte), 1)
}

/// How many bytes there are before the first one that `word` marks, where `byte` says the same of one byte.
fn until(bytes: &[u8], word: impl Fn(u64) -> u64, byte: impl Fn(u8) -> bool) -> usize {
    let (words, tail) = bytes.as_chunks::<8>();
    for (i, eight) in words.iter().enumerate() {
        let marks = word(u64::from_le_bytes(*eight));
        if marks != 0 {
            return i * 8 + marks.trailing_zeros() as usize / 8;
        }
    }
    words.len() * 8 + tail.iter().position(|&b| byte(b)).unwrap_or(tail.len())
}

/// How many bytes of the value of a field there are: up to the first control character, tabs not counted.
pub(super) fn text(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        at += until(rest, |word| below(word, b' ') | equal(word, 0x7f), |b| b < b' ' || b == 0x7f);
        if bytes.get(at) != Some(&b'\t') {
            return at;
        }
        at += 1;
    }
}

/// How many bytes of a target there are: up to the first that no URI has, a space among them.
pub(super) fn target(bytes: &[u8]) -> usize {
    let bad = |b: u8| b <= b' ' || b >= 0x7f || b == b'#';
    until(bytes, |word| below(word, b'!') | equal(word, 0x7f) | equal(word, b'#') | word & all(0x80), bad)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn words_and_bytes_agree(bytes in prop::collection::vec(
            prop_oneof![6 => b' '..=b'~', 1 => any::<u8>(), 1 => Just(b'\t'), 1 => 0x7e_u8..0x82], 0..40,
        )) {
            let control = |&b: &u8| (b < b' ' && b != b'\t') || b == 0x7f;
            prop_assert_eq!(text(&bytes), bytes.iter().position(control).unwrap_or(bytes.len()));
            let no_uri = |&b: &u8| !b.is_ascii_graphic() || b == b'#';
            prop_assert_eq!(target(&bytes), bytes.iter().position(no_uri).unwrap_or(bytes.len()));
        }
    }
}
