//! Where an endpoint is, in one atomic word.

use super::{MOST_DOUBLINGS, Stamp};

/// Where an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    In,
    Out,
    Probing,
    /// Not in the group any more.
    Left,
}

/// The word of an endpoint. From the lowest bit: 2 of place, 5 of ejections, 16 of era, 38 of milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) place: Place,
    pub(super) ejections: u8,
    pub(super) era: u16,
    /// In: since when. Out: until when. Probing: the probe's deadline.
    pub(super) moment: Stamp,
}

impl Parts {
    pub(super) fn of(word: u64) -> Self {
        let [era_low, era_high, ..] = (word >> 7).to_le_bytes();
        Self {
            place: match word & 0b11 {
                0 => Place::In,
                1 => Place::Out,
                2 => Place::Probing,
                _ => Place::Left,
            },
            ejections: u8::try_from((word >> 2) & 0b1_1111).unwrap_or(MOST_DOUBLINGS),
            era: u16::from_le_bytes([era_low, era_high]),
            moment: Stamp::from_micros((word >> 23) * 1000),
        }
    }

    pub(super) fn word(self) -> u64 {
        let place = match self.place {
            Place::In => 0,
            Place::Out => 1,
            Place::Probing => 2,
            Place::Left => 3,
        };
        place
            | (u64::from(self.ejections.min(MOST_DOUBLINGS)) << 2)
            | (u64::from(self.era) << 7)
            | ((self.moment.as_micros() / 1000).min((1 << 38) - 1) << 23)
    }

    pub(super) const fn moved(self, place: Place, moment: Stamp) -> Self {
        Self { place, moment, era: self.era.wrapping_add(1), ..self }
    }
}
