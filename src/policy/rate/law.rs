//! What the algorithms have in common.

use std::{sync::atomic::AtomicU64, time::Duration};

use super::{Decision, Stamp, Taken, clock::units};

/// An algorithm: what it makes of the words of one bucket. It is immutable and the same for all buckets of a limit; the
/// words are shared by all threads.
pub(super) trait Law<const N: usize> {
    /// The most that a bucket can grant at once.
    fn most(&self) -> u32;

    /// The words of a bucket from which nothing was taken.
    fn fresh(&self, now: Stamp) -> [u64; N];

    /// Whether a request of this cost is granted; when `take`, that takes from the bucket, else nothing changes.
    fn decide(&self, words: &[AtomicU64; N], cost: u32, now: Stamp, take: bool) -> Decision;

    /// Undoes what was granted, where that is still possible.
    fn give_back(&self, words: &[AtomicU64; N], taken: &Taken, now: Stamp);

    /// How long until all that was taken up to this grant has come back.
    fn reset(&self, taken: &Taken, now: Stamp) -> Duration;

    /// Whether the bucket is as one from which nothing was taken.
    fn is_full(&self, words: &[AtomicU64; N], now: Stamp) -> bool;

    /// Moves a bucket that has been left alone, so that the distance to its words does not come round the circle.
    fn bring_near(&self, words: &[AtomicU64; N], now: Stamp);

    /// How much of the bucket is used.
    fn level(&self, words: &[AtomicU64; N], now: Stamp) -> Level;

    /// The words of a bucket of which so much is used. More than all of it counts as all of it, except in windows.
    fn filled(&self, level: Level, now: Stamp) -> [u64; N];
}

/// How much of a bucket is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Level {
    /// In the clock's units.
    pub(super) used: u64,
    /// Of so many tokens.
    pub(super) most: u32,
}

impl Level {
    /// The same share of a bucket of another size, rounded up.
    pub(super) fn scaled(self, most: u32) -> Self {
        let used = (u128::from(self.used) * u128::from(most)).div_ceil(u128::from(self.most.max(1)));
        Self { used: u64::try_from(used).unwrap_or(u64::MAX).min(units(most)), most }
    }

    /// Used tokens, rounded up.
    pub(super) fn tokens(self) -> u64 {
        self.used.div_ceil(units(1))
    }
}
