//! A count of each of the last slots of time.

use std::{
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::Duration,
};

use super::Stamp;

/// So many slots make a window: what it holds is at most the window old, and at least 19/20 of it.
pub(crate) const SLOTS: usize = 20;

/// A cell: 12 bits of epoch, 28 bits of the slot's number, 24 bits of count.
const COUNT_BITS: u32 = 24;
const MOST: u64 = (1 << COUNT_BITS) - 1;
const SLOT_BITS: u32 = 28;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;
const EPOCH_MASK: u64 = (1 << 12) - 1;

/// A writer that is later than so many slots is not thought to exist. Numbers of slots come round after 155 days at
/// the least (a window of one second), and a cell that nobody has written for that long must not look like the future
/// for long.
const LATEST: u64 = 1 << 16;

/// The width of a slot for a window, in microseconds; never 0.
pub(super) fn width(window: Duration) -> u64 {
    u64::try_from(window.as_micros() / SLOTS as u128).unwrap_or(u64::MAX).max(1)
}

/// Which slot of which epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    slot: u64,
    epoch: u64,
}

impl Moment {
    /// The slot that `now` is in, slots being so many microseconds wide.
    pub(crate) fn new(epoch: u16, now: Stamp, width: u64) -> Self {
        Self { slot: now.as_micros() / width.max(1), epoch: u64::from(epoch) & EPOCH_MASK }
    }

    /// The same slot of another epoch.
    pub(crate) fn in_epoch(self, epoch: u16) -> Self {
        Self { epoch: u64::from(epoch) & EPOCH_MASK, ..self }
    }

    /// The number of the slot.
    pub(crate) const fn slot(self) -> u64 {
        self.slot
    }

    const fn tag(self) -> u64 {
        (self.epoch << SLOT_BITS) | (self.slot & SLOT_MASK)
    }

    /// How many slots a cell with this tag is ahead of this one, round the circle.
    const fn ahead(self, tag: u64) -> u64 {
        (tag & SLOT_MASK).wrapping_sub(self.slot) & SLOT_MASK
    }

    /// Whether a cell with this tag is about something later: this writer is late, and what it has is not wanted.
    const fn is_before(self, tag: u64) -> bool {
        match self.ahead(tag) {
            0 => (tag >> SLOT_BITS).wrapping_sub(self.epoch) & EPOCH_MASK <= EPOCH_MASK / 2,
            ahead => ahead < LATEST,
        }
    }

    /// Whether a cell with this tag is in the window that ends with this slot. One that is a little ahead is: its writer
    /// looked at the clock a little later.
    const fn covers(self, tag: u64) -> bool {
        let ahead = self.ahead(tag);
        ahead < SLOTS as u64 || ahead > SLOT_MASK - (SLOTS as u64 - 1)
    }
}

/// One count for each of the last [`SLOTS`] slots.
#[derive(Debug, Default)]
pub(crate) struct Column([AtomicU64; SLOTS]);

impl Column {
    /// Adds so many, up to 16,777,215 in a slot, where it stays.
    pub(crate) fn add(&self, at: Moment, count: u64) {
        let Some(cell) = usize::try_from(at.slot % SLOTS as u64).ok().and_then(|index| self.0.get(index))
        else {
            return;
        };
        let mine = at.tag();
        let mut seen = cell.load(SeqCst);
        loop {
            let (tag, before) = (seen >> COUNT_BITS, seen & MOST);
            let next = if tag == mine {
                (mine << COUNT_BITS) | (before + count.min(MOST)).min(MOST)
            } else if before > 0 && at.is_before(tag) {
                return;
            } else {
                (mine << COUNT_BITS) | count.min(MOST)
            };
            match cell.compare_exchange_weak(seen, next, SeqCst, SeqCst) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// What the window that ends with this slot has of this epoch.
    pub(crate) fn sum(&self, at: Moment) -> u64 {
        let mut sum = 0;
        for cell in &self.0 {
            let seen = cell.load(SeqCst);
            let tag = seen >> COUNT_BITS;
            if tag >> SLOT_BITS == at.epoch && at.covers(tag) {
                sum += seen & MOST;
            }
        }
        sum
    }
}
