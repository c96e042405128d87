//! HTTP/1 on the wire: wherever the bytes are cut, the verdict is the same.
//!
//! The first byte says which direction it is and what was asked, the second how long the pieces are.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::http::wire::{Asked, Framer, Stop};

fuzz_target!(|data: &[u8]| {
    let [kind, step, bytes @ ..] = data else { return };
    let framer = || {
        if kind & 1 == 0 {
            return Framer::requests(4096);
        }
        let mut framer = Framer::answers(4096);
        framer.expect(match kind >> 1 & 3 {
            0 => Asked::Head,
            1 => Asked::Connect,
            _ => Asked::Other,
        });
        framer
    };
    let whole = verdict(framer(), bytes, bytes.len().max(1));
    assert_eq!(verdict(framer(), bytes, 1), whole);
    assert_eq!(verdict(framer(), bytes, usize::from(*step).max(1)), whole);
});

/// Why the framer stops for good, when the bytes come in pieces of `step`.
fn verdict(mut framer: Framer, bytes: &[u8], step: usize) -> Option<Stop> {
    for piece in bytes.chunks(step) {
        let mut rest = piece;
        while !rest.is_empty() {
            let fed = framer.feed(rest);
            assert!(fed.passed <= rest.len());
            match fed.stop {
                None => assert_eq!(fed.passed, rest.len()),
                Some(Stop::Fork) => assert!(fed.passed > 0),
                stop => return stop,
            }
            rest = &rest[fed.passed..];
        }
    }
    None
}
