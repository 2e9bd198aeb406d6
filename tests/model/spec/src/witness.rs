//! What has happened somewhere in an exploration: a model in which the interesting things never happen
//! proves nothing. It is noted beside the states, so that it makes no states of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Something that must happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A get joined the flight of another one.
    Joined,
    /// A removal marked a flight.
    Marked,
    /// A flight brought something that was not kept.
    NotKept,
    /// A removal dropped a copy.
    CopyDropped,
    /// A process loaded for an owner that it did not reach.
    FellBack,
    /// A value was not to be kept, as its sender had still to be told a removal.
    StaleForPending,
    /// A get returned an old value that came from a peer the error had named.
    OldValueOfANamedPeer,
    /// A value was taken over from a former owner or a deputy.
    TakenOver,
    /// A former owner had not carried a removal out, and gave nothing.
    PeekRefused,
    /// A pending removal was delivered.
    Delivered,
    /// Copies were removed once more.
    CopiesRemoved,
    /// A change was sent once more, as the list or a ring was another one.
    SecondPass,
    /// A set came after a later change of its caller.
    Superseded,
    /// A change named a peer.
    Named,
    /// What a node had still to tell was handed over.
    HandedOver,
    /// A node returned with empty memory.
    Returned,
    /// A deputy was asked.
    DeputyAsked,
    /// A deputy answered from memory.
    DeputyHit,
    /// A removal dropped what a deputy had.
    SpareDropped,
    /// A deputy took an offered value.
    OfferTaken,
    /// A node learned of a removal from a request.
    Learned,
    /// One stood in for an owner and its deputy.
    OtherStandsIn,
    /// A flight that was to take an offered value ended without one while others waited for it.
    Released,
    /// An owner was lost whose deputy had been handed the value.
    HadIt,
}

impl Seen {
    /// What happens in every protocol.
    pub const ALWAYS: &[Seen] = &[
        Seen::Joined,
        Seen::Marked,
        Seen::NotKept,
        Seen::CopyDropped,
        Seen::FellBack,
        Seen::StaleForPending,
        Seen::OldValueOfANamedPeer,
        Seen::TakenOver,
        Seen::PeekRefused,
        Seen::Delivered,
        Seen::CopiesRemoved,
        Seen::SecondPass,
        Seen::Superseded,
        Seen::Named,
        Seen::HandedOver,
        Seen::Returned,
    ];

    /// What happens where there are deputies.
    pub const WITH_DEPUTIES: &[Seen] = &[
        Seen::DeputyAsked,
        Seen::DeputyHit,
        Seen::SpareDropped,
        Seen::OfferTaken,
    ];

    /// What happens besides in the protocol of the code.
    pub const CODED: &[Seen] = &[Seen::OtherStandsIn, Seen::Released, Seen::HadIt];
}

/// What has happened so far.
#[derive(Clone, Debug, Default)]
pub struct Witness(Arc<AtomicU32>);

impl Witness {
    /// Notes that it has happened.
    pub fn note(&self, seen: Seen) {
        let bit = 1 << seen as u32;
        // Written seldom: all threads read it.
        if self.0.load(Ordering::Relaxed) & bit == 0 {
            self.0.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Whether it has happened.
    #[must_use]
    pub fn has(&self, seen: Seen) -> bool {
        self.0.load(Ordering::Relaxed) & (1 << seen as u32) != 0
    }
}
