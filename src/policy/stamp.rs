//! Moments that fit into an atomic.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

/// A moment, in microseconds since shortly before the first one of this process; never 0, so that 0 can stand for
/// "never" where it is kept in an atomic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stamp(u64);

impl Stamp {
    /// The earliest moment that there is.
    pub const FIRST: Self = Self(1);

    /// That moment. Moments before the first one that was asked for are taken as shortly before it.
    pub fn of(moment: Instant) -> Self {
        // Room for moments that were taken before the first call.
        const BEFORE: Duration = Duration::from_mins(1);
        static START: OnceLock<Instant> = OnceLock::new();
        let start = *START.get_or_init(|| moment);
        let before = micros(BEFORE);
        Self::from_micros(match moment.checked_duration_since(start) {
            Some(after) => before.saturating_add(micros(after)),
            None => before.saturating_sub(micros(start.saturating_duration_since(moment))),
        })
    }

    /// From what [`Self::as_micros`] gave; 0 is [`Self::FIRST`].
    pub const fn from_micros(micros: u64) -> Self {
        Self(if micros == 0 { 1 } else { micros })
    }

    /// Microseconds; never 0.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; nothing when it is not after it.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The moment so much later.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(micros(span)))
    }
}

/// A span in microseconds; the longest that can be said when it is longer.
const fn micros(span: Duration) -> u64 {
    // Not by way of `Duration::as_micros`: 128 bits are dear to have several times a request.
    span.as_secs().saturating_mul(1_000_000).saturating_add(span.subsec_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_keep_their_order_and_their_distance() {
        let now = Instant::now();
        let (earlier, later) = (Stamp::of(now), Stamp::of(now + Duration::from_millis(1500)));
        assert_eq!(later.since(earlier), Duration::from_millis(1500));
        assert_eq!(earlier.since(later), Duration::ZERO);
        assert_eq!(earlier.after(Duration::from_millis(1500)), later);
        assert!(now.checked_sub(Duration::from_hours(1)).is_none_or(|before| Stamp::of(before) <= earlier));
        assert_eq!(Stamp::from_micros(0), Stamp::FIRST);
    }
}
