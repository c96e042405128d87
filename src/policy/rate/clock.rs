//! A clock that counts tokens instead of seconds.

use std::{num::NonZeroU32, time::Duration};

use super::Stamp;
use crate::config::{policy::Limit, units::Rate};

/// A token is 2^20 units: at one a second a unit is about a microsecond.
pub(super) const SCALE: u32 = 20;

/// The longest unit of a rate in microseconds (more than a day), and the most instances that share one: together they
/// leave room for the arithmetic in 64 bits.
const LONGEST: u64 = (1 << 37) - 1;
const MOST_SHARES: u64 = 1 << 24;

/// So many tokens in units.
pub(super) const fn units(tokens: u32) -> u64 {
    (tokens as u64) << SCALE
}

/// So many whole tokens are in so many units.
pub(super) fn tokens(units: u64) -> u32 {
    u32::try_from(units >> SCALE).unwrap_or(u32::MAX)
}

/// Whether `one` is after `other`, round the circle. Where something may have been left alone for long, it is the past
/// that is long: three quarters of the circle are past, one quarter is future.
pub(super) const fn is_after(one: u64, other: u64) -> bool {
    let ahead = one.wrapping_sub(other);
    ahead > 0 && ahead < 1 << 62
}

/// How far `one` is after `other`; 0 when it is not.
pub(super) const fn ahead(one: u64, other: u64) -> u64 {
    if is_after(one, other) { one.wrapping_sub(other) } else { 0 }
}

/// Virtual time: it goes on by the rate's count in each of the rate's units, so that a bucket is a moment of it and knows
/// nothing of the rate. A rate that is edited changes how fast the clock goes from then on, and no bucket.
///
/// What it shows is the exact quotient, rounded down, so that a moment read from it and a later one are less than a unit
/// nearer or farther than they are: nothing adds up, however long it runs. It goes round the circle of
/// 64 bits, at the largest rate in five hours and at 1,000,000/s in more than half a year.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clock {
    /// When it showed `base`.
    start: u64,
    base: u64,
    /// It goes on by `count` units every `period` microseconds.
    count: u64,
    period: u64,
    /// `count / period`, rounded down, with 64 binary places.
    slope: u128,
}

impl Clock {
    /// A clock of this rate, divided by `share`, that shows 0 now.
    pub(super) fn new(rate: Rate, share: NonZeroU32, now: Stamp) -> Self {
        Self::running(rate, share, now, 0)
    }

    /// The clock of another rate that shows the same now.
    pub(super) fn edited(&self, rate: Rate, share: NonZeroU32, now: Stamp) -> Self {
        Self::running(rate, share, now, self.read(now))
    }

    fn running(rate: Rate, share: NonZeroU32, now: Stamp, base: u64) -> Self {
        let count = count(rate);
        let share = u64::from(share.get()).min(MOST_SHARES);
        let (count, period) = (units(count), micros(rate.per).clamp(1, LONGEST) * share);
        let slope = (u128::from(count) << 64) / u128::from(period);
        Self { start: now.as_micros(), base, count, period, slope }
    }

    /// What it shows at a moment; before its start what it showed then.
    pub(super) fn read(&self, now: Stamp) -> u64 {
        self.reading(now).0
    }

    /// The same, and the part of a unit that it leaves out, in units by the period.
    fn reading(&self, now: Stamp) -> (u64, u64) {
        let past = now.as_micros().saturating_sub(self.start);
        // The slope is too small by less than 2^-64: the product is right or one too small, which the remainder shows.
        // That is less than twice the period, so that the low 64 bits say all of it.
        let product = u128::from(past).wrapping_mul(self.slope) >> 64;
        let whole = product as u64;
        let rest = past.wrapping_mul(self.count).wrapping_sub(whole.wrapping_mul(self.period));
        if rest < self.period {
            (self.base.wrapping_add(whole), rest)
        } else {
            (self.base.wrapping_add(whole).wrapping_add(1), rest - self.period)
        }
    }

    /// How long it is until the clock shows `moment`, exactly, in whole microseconds; nothing when it is past.
    pub(super) fn until(&self, moment: u64, now: Stamp) -> Duration {
        let (at, rest) = self.reading(now);
        let units = ahead(moment, at);
        if units == 0 {
            return Duration::ZERO;
        }
        let missing = u128::from(units) * u128::from(self.period) - u128::from(rest);
        // Most fit: a division of 64 bits is much cheaper.
        let span = match u64::try_from(missing) {
            Ok(missing) => missing.div_ceil(self.count),
            Err(_) => u64::try_from(missing.div_ceil(u128::from(self.count))).unwrap_or(u64::MAX),
        };
        let before = self.start.saturating_sub(now.as_micros());
        Duration::from_micros(span.saturating_add(before))
    }

    /// How far it goes in a span of time, rounded down.
    pub(super) fn distance(&self, span: Duration) -> u64 {
        let units = u128::from(micros(span)) * u128::from(self.count) / u128::from(self.period);
        u64::try_from(units).unwrap_or(u64::MAX)
    }

    /// How long it takes for so many tokens, rounded up to a microsecond.
    pub(super) fn span(&self, tokens: u32) -> Duration {
        let span = (u128::from(units(tokens)) * u128::from(self.period)).div_ceil(u128::from(self.count));
        Duration::from_micros(u64::try_from(span).unwrap_or(u64::MAX))
    }

    /// Tokens a second.
    pub(super) fn per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "it is shown, not counted with")]
        let (count, period) = ((self.count >> SCALE) as f64, self.period as f64);
        count * 1e6 / period
    }
}

/// A rate's count, within its bounds.
pub(super) fn count(rate: Rate) -> u32 {
    u32::try_from(rate.count).unwrap_or(u32::MAX).clamp(1, Limit::MAX_COUNT)
}

/// A span in microseconds.
pub(super) fn micros(span: Duration) -> u64 {
    span.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(span.subsec_micros()))
}
