//! All that decides about a request, in one atomic word.

use super::{BreakerMode, Stamp};
use crate::policy::pause::MOST_DOUBLINGS;

/// How the machine stands. Not what it does: that depends on the mode too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Machine {
    Closed,
    /// Closed, and not yet with all of the traffic.
    Ramping,
    Open,
    HalfOpen,
}

/// The parts of a [`Word`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) mode: BreakerMode,
    pub(super) machine: Machine,
    /// How often it has opened since it was last closed with all of the traffic.
    pub(super) openings: u8,
    /// One more with every change of the machine; comes round after 65,536.
    pub(super) generation: u16,
    /// Open: until when. Ramping: since when. Otherwise it says nothing.
    pub(super) moment: Stamp,
}

/// From the lowest bit: 3 of mode, 2 of machine, 5 of openings, 16 of generation, 38 of milliseconds (8.7 years).
///
/// One word, so that a decision is one load, and a change is one exchange that fails when anything else has changed: nobody
/// ever sees an open breaker with the time of the opening before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word(pub(super) u64);

const MACHINE: u32 = 3;
const OPENINGS: u32 = 5;
const GENERATION: u32 = 10;
const MOMENT: u32 = 26;

impl Word {
    /// Nothing stands in the way, and what comes of it is looked at: the case that has to be fast.
    pub(super) const fn is_plainly_closed(self) -> bool {
        // Closed, and automatic or observed.
        self.0 & 0b1_1111 <= 1
    }

    pub(super) const fn generation(self) -> u16 {
        let [low, high, ..] = (self.0 >> GENERATION).to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    pub(super) fn parts(self) -> Parts {
        Parts {
            mode: match self.0 & 0b111 {
                0 => BreakerMode::Auto,
                1 => BreakerMode::Observe,
                2 => BreakerMode::Closed,
                3 => BreakerMode::Open,
                _ => BreakerMode::Off,
            },
            machine: match (self.0 >> MACHINE) & 0b11 {
                0 => Machine::Closed,
                1 => Machine::Ramping,
                2 => Machine::Open,
                _ => Machine::HalfOpen,
            },
            openings: u8::try_from((self.0 >> OPENINGS) & 0b1_1111).unwrap_or(MOST_DOUBLINGS),
            generation: self.generation(),
            moment: Stamp::from_micros((self.0 >> MOMENT) * 1000),
        }
    }
}

impl Parts {
    /// The moment is cut to a millisecond: open never lasts longer than was said.
    pub(super) fn word(self) -> Word {
        let mode = match self.mode {
            BreakerMode::Auto => 0,
            BreakerMode::Observe => 1,
            BreakerMode::Closed => 2,
            BreakerMode::Open => 3,
            BreakerMode::Off => 4,
        };
        let machine = match self.machine {
            Machine::Closed => 0,
            Machine::Ramping => 1,
            Machine::Open => 2,
            Machine::HalfOpen => 3,
        };
        let moment = (self.moment.as_micros() / 1000).min((1 << (64 - MOMENT)) - 1);
        Word(
            mode | (machine << MACHINE)
                | (u64::from(self.openings.min(MOST_DOUBLINGS)) << OPENINGS)
                | (u64::from(self.generation) << GENERATION)
                | (moment << MOMENT),
        )
    }

    /// The same with another machine, and so a generation of its own.
    pub(super) const fn moved(self, machine: Machine, moment: Stamp) -> Self {
        Self { machine, moment, generation: self.generation.wrapping_add(1), ..self }
    }

    /// Whether the machine runs in this mode.
    pub(super) const fn runs(self) -> bool {
        matches!(self.mode, BreakerMode::Auto | BreakerMode::Observe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_comes_back() {
        for mode in [
            BreakerMode::Auto,
            BreakerMode::Observe,
            BreakerMode::Closed,
            BreakerMode::Open,
            BreakerMode::Off,
        ] {
            for machine in [Machine::Closed, Machine::Ramping, Machine::Open, Machine::HalfOpen] {
                for (openings, generation, millis) in [(0, 0, 1), (31, u16::MAX, (1 << 38) - 1), (5, 300, 7)]
                {
                    let moment = Stamp::from_micros(millis * 1000);
                    let parts = Parts { mode, machine, openings, generation, moment };
                    assert_eq!(parts.word().parts(), parts);
                    assert_eq!(parts.word().generation(), generation);
                    let plain = machine == Machine::Closed
                        && matches!(mode, BreakerMode::Auto | BreakerMode::Observe);
                    assert_eq!(parts.word().is_plainly_closed(), plain, "{parts:?}");
                }
            }
        }
    }
}
