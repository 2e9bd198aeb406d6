//! Faults that are put into the protocol by hand, to see that the model finds them.

/// A fault that is put into the protocol by hand, to see that the model finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A removal does not mark the flights before it drops the value.
    NoMarkBefore,
    /// A removal does not mark the flights after it has dropped the value.
    NoMarkAfter,
    /// What a stale flight brings is kept all the same.
    KeepStale,
    /// A stale flight stays in the table, and later gets join it.
    JoinStale,
    /// A removal drops what the node owns, and no copies.
    KeepCopies,
    /// All nodes are told at the same time, the owner too.
    OwnerWithOthers,
    /// The answer of a node that has still to be told a removal is kept.
    IgnorePending,
    /// Once a peer is told late, the others are not told of their copies.
    NoCopyRemovals,
    /// Late removals are delivered to owners of the key only.
    LateToOwnersOnly,
    /// A peer that was not reached is not named.
    NotNamed,
    /// A peer that was not reached is named, and not told later: the journal forgets the change.
    NotPending,
    /// A node that is new in the list is told nothing of what was removed before.
    NewcomerNotTold,
    /// A change that met another ring is not sent again.
    NoSecondPass,
    /// A change of the list in the middle of a change is not noticed.
    ListNotChecked,
    /// A value is taken over from a former owner whatever was removed.
    TakeOverRemoved,
    /// A former owner answers a peek whether it has carried the removal out or not.
    PeekNotApplied,
    /// What is taken over is kept although a removal came in between.
    KeepTakenOver,
    /// A set that comes after a later change of its caller is carried out.
    LateSet,
    /// All nodes are told of a clear once less.
    OneRoundLess,
    /// A node that leaves does not hand over what it has still to tell.
    NoHandOver,
    /// A second get of a key does not join the flight of the first one.
    NoSharedFlight,
    /// A value is not in memory when its flight ends.
    KeepNothing,
    /// A get waits for a node that has crashed.
    NoTimeout,
    /// Deputies: the deputy is told with the others, not before them.
    DeputyWithOthers,
    /// Deputies: the caller drops its own copy before the deputy is told.
    CallerBeforeDeputy,
    /// Deputies: the deputy is told before the owner.
    DeputyBeforeOwner,
    /// Deputies: a removal does not reach what a node has as the deputy.
    DeputyNotTold,
    /// Deputies: a removal of copies leaves what a node has as the deputy, and offers are taken whatever
    /// was removed. (Each alone is harmless.)
    CopiesWithoutSpare,
    /// Deputies: the answer of a deputy that has still to be told a removal is kept.
    IgnoreDeputyPending,
    /// Deputies: a deputy asks the owner, or the next deputy.
    DeputyForwards,
    /// Deputies: what a deputy loads is not kept.
    DeputyForgets,
    /// Deputies: each request to a deputy is a load of its own.
    DeputyAlone,
    /// Deputies: an owner that returns does not ask its deputy.
    OwnerDoesNotAsk,
    /// Deputies: a deputy keeps an offered value in spite of a mark.
    OfferStale,
    /// Requests that say what the asker knows of: the node that is asked does not look at that.
    IgnoreStamps,
    /// Coded: the caller notes a change in its tombstones only when it carries it out.
    NotedLate,
    /// Coded: a deputy takes an offered value whatever was removed.
    OfferUnchecked,
    /// Coded: a removal does not mark a flight that takes an offered value.
    OfferNotMarked,
    /// Coded: a flight that takes an offered value, and gets none, is not released.
    NoRelease,
    /// Coded: what is taken over may be a copy.
    PeekCopies,
    /// Coded: a deputy answers from copies too.
    DeputyCopies,
    /// Coded: a deputy is not told once more with the others.
    DeputyToldOnce,
    /// Coded: a clear leaves what a node has as the deputy.
    ClearKeepsDeputy,
    /// Coded: what a deputy was handed outlives the memory of removals.
    LiveOn,
    /// Coded: gets join a flight that asks one who comes after the deputy.
    JoinOther,
    /// Coded: what one answers who comes after the deputy is kept.
    KeepOther,
}
