//! The plans that show the faults.

use crate::code_plans::{dropped_and_missed, forgetting, lost, offers, returned};
use crate::fault::Fault;
use crate::machine::{DELIVERED, ENDS, I5, LIFE, P1, P2};
use crate::plans::{
    calm, change, crash, differ, fine, holes, join, late_set, leave, less_clear, lost_owner, stamp,
};
use crate::setup::{Kind, Protocol, Setup, bit};

/// Every fault, with the promise that it breaks and the plans that show it.
#[must_use]
pub fn faulty() -> Vec<(Fault, &'static str, Vec<Setup>)> {
    let mut all = Vec::new();
    for protocol in [Protocol::Alone, Protocol::Deputies, Protocol::Coded] {
        all.extend(faults_of_all(protocol));
    }
    all.extend(faults_of_deputies());
    all.extend(faults_of_code());
    all
}

type Shown = (Fault, &'static str, Vec<Setup>);

fn shown(fault: Fault, promise: &'static str, plans: impl IntoIterator<Item = Setup>) -> Shown {
    (
        fault,
        promise,
        plans.into_iter().map(|plan| plan.with(fault)).collect(),
    )
}

fn faults_of_all(protocol: Protocol) -> Vec<Shown> {
    let one = |caller| change(protocol, "remove", caller, Kind::Remove(0));
    let quick = |caller| Setup {
        failures: 0,
        ..one(caller)
    };
    vec![
        shown(Fault::NoMarkBefore, P2, [fine(protocol, 0)]),
        shown(Fault::NoMarkAfter, P2, [fine(protocol, 0)]),
        shown(Fault::KeepStale, P2, [quick(0)]),
        shown(Fault::JoinStale, P2, [quick(0)]),
        shown(Fault::KeepCopies, P2, [quick(0)]),
        shown(Fault::OwnerWithOthers, P2, [quick(2), quick(1)]),
        shown(Fault::IgnorePending, P2, [one(1)]),
        shown(Fault::NoCopyRemovals, P2, [one(1), one(2)]),
        shown(Fault::LateToOwnersOnly, DELIVERED, [one(0)]),
        shown(Fault::NotPending, DELIVERED, [one(0)]),
        shown(Fault::NotNamed, P2, [one(0)]),
        shown(Fault::NewcomerNotTold, DELIVERED, [join(protocol, 0)]),
        shown(Fault::NoSecondPass, P2, [differ(protocol, 1)]),
        shown(
            Fault::ListNotChecked,
            P2,
            [join(protocol, 0), join(protocol, 1)],
        ),
        shown(
            Fault::TakeOverRemoved,
            P2,
            [join(protocol, 0), join(protocol, 1)],
        ),
        shown(
            Fault::PeekNotApplied,
            P2,
            [join(protocol, 0), join(protocol, 1)],
        ),
        shown(
            Fault::KeepTakenOver,
            P2,
            [join(protocol, 0), join(protocol, 1)],
        ),
        shown(Fault::LateSet, P2, [late_set(protocol, 1)]),
        shown(Fault::OneRoundLess, P2, [less_clear(protocol)]),
        shown(Fault::NoHandOver, DELIVERED, [leave(protocol, 0)]),
        shown(Fault::NoSharedFlight, P1, [calm(protocol, 0)]),
        shown(Fault::KeepNothing, P1, [calm(protocol, 0)]),
        shown(Fault::NoTimeout, ENDS, [lost_owner(protocol)]),
    ]
}

fn faults_of_deputies() -> Vec<Shown> {
    let protocol = Protocol::Deputies;
    let twice = |caller| Setup {
        failures: 2,
        ..change(protocol, "remove", caller, Kind::Remove(0))
    };
    let one = |caller| change(protocol, "remove", caller, Kind::Remove(0));
    let offered = |caller, failures| Setup {
        offers: 1,
        failures,
        ..one(caller)
    };
    vec![
        shown(Fault::DeputyWithOthers, P2, [one(0), one(2)]),
        shown(Fault::DeputyBeforeOwner, P2, [one(2), one(0)]),
        shown(Fault::CallerBeforeDeputy, P2, [one(2)]),
        shown(Fault::DeputyNotTold, P2, [one(0)]),
        shown(Fault::CopiesWithoutSpare, P2, [offered(2, 1)]),
        shown(Fault::IgnoreDeputyPending, P2, [twice(2)]),
        shown(Fault::DeputyForwards, I5, [one(0)]),
        shown(Fault::DeputyForgets, P1, [lost_owner(protocol)]),
        shown(Fault::DeputyAlone, P1, [lost_owner(protocol)]),
        shown(Fault::OwnerDoesNotAsk, P1, [lost_owner(protocol)]),
        shown(Fault::OfferStale, P2, [offered(0, 0), offered(2, 0)]),
        shown(
            Fault::IgnoreStamps,
            P2,
            holes(protocol).into_iter().map(stamp),
        ),
    ]
}

fn faults_of_code() -> Vec<Shown> {
    let protocol = Protocol::Coded;
    let remove = Kind::Remove(0);
    let one = |caller| change(protocol, "remove", caller, remove);
    let quick = |caller| Setup {
        failures: 0,
        ..one(caller)
    };
    let clear = |caller| change(protocol, "clear", caller, Kind::Clear);
    let twice = Setup {
        failures: 2,
        askers: 0b100,
        ..one(2)
    };
    let missed = Setup {
        askers: bit(0),
        ..dropped_and_missed(1)
    };
    let returned = Setup {
        offers: 0,
        askers: 0b011,
        ..returned(2, 3)
    };
    // One brings the deputy a copy, one brings that on, and one sees it.
    let asked_thrice = Setup {
        gets: 3,
        askers: 0b110,
        ..one(2)
    };
    vec![
        shown(Fault::DeputyWithOthers, P2, [one(0), one(2)]),
        shown(Fault::CallerBeforeDeputy, P2, [quick(2)]),
        shown(
            Fault::NotedLate,
            P2,
            [crash(protocol, 1, 0), crash(protocol, 2, 0)],
        ),
        shown(Fault::DeputyToldOnce, P2, [quick(2)]),
        shown(Fault::DeputyCopies, P2, [asked_thrice]),
        shown(Fault::DeputyNotTold, P2, [quick(0)]),
        shown(Fault::ClearKeepsDeputy, P2, [clear(0)]),
        shown(Fault::IgnoreDeputyPending, P2, [twice]),
        shown(Fault::DeputyForwards, I5, [one(0)]),
        shown(Fault::DeputyForgets, P1, [lost_owner(protocol)]),
        shown(Fault::DeputyAlone, P1, [lost_owner(protocol)]),
        shown(Fault::OwnerDoesNotAsk, P1, [lost_owner(protocol)]),
        shown(
            Fault::OfferStale,
            P2,
            [offers(0, remove), offers(2, remove)],
        ),
        shown(
            Fault::OfferNotMarked,
            P2,
            [offers(0, remove), offers(2, remove)],
        ),
        shown(Fault::OfferUnchecked, P2, [missed]),
        shown(Fault::NoRelease, ENDS, [offers(0, remove)]),
        shown(Fault::PeekCopies, P2, [returned]),
        shown(Fault::LiveOn, LIFE, [forgetting(2)]),
        shown(
            Fault::JoinOther,
            P2,
            [1, 2].map(|caller| lost(caller, remove)),
        ),
        shown(
            Fault::KeepOther,
            P2,
            [1, 2].map(|caller| lost(caller, remove)),
        ),
    ]
}
