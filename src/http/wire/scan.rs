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

/// The places of a byte, in order.
///
/// For short gaps: a line of a head is shorter than what it costs to begin a vectorised search.
pub(super) struct Places<'a> {
    words: std::slice::Iter<'a, [u8; 8]>,
    tail: &'a [u8],
    byte: u8,
    /// Where the word begins whose places are being told.
    base: usize,
    /// The high bits of the bytes of that word that were not told yet.
    marks: u64,
}

impl<'a> Places<'a> {
    pub(super) fn of(byte: u8, bytes: &'a [u8]) -> Self {
        let (words, tail) = bytes.as_chunks::<8>();
        // Wraps at the first word.
        Self { words: words.iter(), tail, byte, base: 0_usize.wrapping_sub(8), marks: 0 }
    }
}

impl Iterator for Places<'_> {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        while self.marks == 0 {
            let Some(eight) = self.words.next() else {
                let at = self.tail.iter().position(|&b| b == self.byte)?;
                let base = self.base.wrapping_add(8);
                self.tail = self.tail.get(at + 1..).unwrap_or_default();
                self.base = base.wrapping_add(at + 1).wrapping_sub(8);
                return Some(base.wrapping_add(at));
            };
            self.base = self.base.wrapping_add(8);
            self.marks = equal_exactly(u64::from_le_bytes(*eight), self.byte);
        }
        let at = self.marks.trailing_zeros() as usize / 8;
        self.marks &= self.marks - 1;
        Some(self.base + at)
    }
}

/// The high bit of each byte of `word` that is `byte`, and of no other.
const fn equal_exactly(word: u64, byte: u8) -> u64 {
    let other = word ^ all(byte);
    !(((other & all(0x7f)) + all(0x7f)) | other | all(0x7f))
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
            for byte in [b'\n', bytes.first().copied().unwrap_or_default()] {
                let all: Vec<_> = (0..bytes.len()).filter(|&i| bytes[i] == byte).collect();
                prop_assert_eq!(Places::of(byte, &bytes).collect::<Vec<_>>(), all);
            }
            let no_uri = |&b: &u8| !b.is_ascii_graphic() || b == b'#';
            prop_assert_eq!(target(&bytes), bytes.iter().position(no_uri).unwrap_or(bytes.len()));
        }
    }
}
