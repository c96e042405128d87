//! Each algorithm against an exact one that is made differently, over random arrivals and edits.

mod edits;
mod keyed;
mod laws;
mod threads;

use super::*;
use crate::policy::rounds;

pub(super) const SECOND: u64 = 1_000_000;
pub(super) const HOUR: u64 = 3600 * SECOND;
/// Late enough that there is something before.
pub(super) const START: u64 = 77 * SECOND + 123;
/// Limiters begin so much earlier: no token's clock shows a whole unit at the start.
const BEFORE: u64 = 7_654_321;
/// 2026, in the middle of a second, a minute and an hour.
pub(super) const UNIX: Duration = Duration::from_micros(1_795_300_000_123_456);

pub(super) const TOKEN: fn(u32) -> Algorithm = |burst| Algorithm::TokenBucket { burst };
pub(super) const LEAKY: fn(u32, u64) -> Algorithm =
    |burst, millis| Algorithm::LeakyBucket { burst, max_wait: Duration::from_millis(millis) };

pub(super) fn settings(algorithm: Algorithm, count: u64, per: u64) -> Settings {
    let rate = Rate { count, per: Duration::from_secs(per) };
    Settings { algorithm, rate, fixed_cost: 1, share: NonZeroU32::MIN }
}

pub(super) fn shared(settings: Settings, share: u32) -> Settings {
    Settings { share: NonZeroU32::new(share).unwrap(), ..settings }
}

pub(super) fn at(micros: u64) -> Stamp {
    Stamp::from_micros(micros)
}

pub(super) fn limiter(settings: Settings) -> Limiter {
    Limiter::new(settings, None, at(START - BEFORE), UNIX - Duration::from_micros(BEFORE))
}

pub(super) fn keyed(settings: Settings, max_keys: u32) -> Limiter {
    Limiter::new(settings, Some(max_keys), at(START - BEFORE), UNIX - Duration::from_micros(BEFORE))
}

pub(super) fn whole(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap()
}

/// What was granted; it has to be.
pub(super) fn granted(decision: Decision) -> Taken {
    match decision {
        Decision::Granted(taken) => taken,
        Decision::Refused(refusal) => panic!("{refusal:?}"),
    }
}

/// What was refused; it has to be.
pub(super) fn refused(decision: Decision) -> Refusal {
    match decision {
        Decision::Refused(refusal) => refusal,
        Decision::Granted(taken) => panic!("{taken:?}"),
    }
}

/// So many requests of cost 1 are granted right now.
pub(super) fn burst_of(limiter: &Limiter, key: u64, now: u64) -> u32 {
    let mut count = 0;
    while matches!(limiter.take(key, 1, at(now)), Decision::Granted(_)) {
        count += 1;
    }
    count
}

/// A key: spread like a hash, and each another one.
pub(super) fn stranger(number: u64) -> u64 {
    let spread = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (spread ^ (spread >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}
