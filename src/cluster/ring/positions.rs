//! A position for each slot, in as few bytes as the number of peers allows: a look-up had better find
//! it in the processor's cache.

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Positions {
    OneByte(Vec<u8>),
    TwoBytes(Vec<u16>),
    FourBytes(Vec<u32>),
}

impl Positions {
    /// Without slots yet, for positions below `peers` in so many slots.
    pub(super) fn with_capacity(slots: usize, peers: usize) -> Positions {
        match peers {
            0..=0x100 => Positions::OneByte(Vec::with_capacity(slots)),
            0x101..=0x1_0000 => Positions::TwoBytes(Vec::with_capacity(slots)),
            _ => Positions::FourBytes(Vec::with_capacity(slots)),
        }
    }

    /// Gives the next slot its position.
    pub(super) fn push(&mut self, position: u32) {
        match self {
            Positions::OneByte(positions) => positions.push(position as u8),
            Positions::TwoBytes(positions) => positions.push(position as u16),
            Positions::FourBytes(positions) => positions.push(position),
        }
    }

    /// The position of a slot; `None` if there is none.
    pub(super) fn get(&self, slot: usize) -> Option<u32> {
        match self {
            Positions::OneByte(positions) => positions.get(slot).map(|&at| at.into()),
            Positions::TwoBytes(positions) => positions.get(slot).map(|&at| at.into()),
            Positions::FourBytes(positions) => positions.get(slot).copied(),
        }
    }
}
