//! The protocol of groupcache-sync as a small state machine, explored completely by `stateright`.
//!
//! `tests/model/check spec` explores it. [`setup`] says what may happen in a plan and which [`fault`] is put
//! in, [`plans`] and [`code_plans`] have the plans, [`faulty`] those that show the faults; [`state`] and
//! [`msg`] are the cluster, [`machine`] what can happen in it and what must hold. The rest is the protocol:
//! `gets` (a get), `serve` (a request at its receiver), [`stand_ins`] (an owner that is away), `hand_over`
//! (values from the memory of another node), `rounds` (who is told of a change when), `changes` (what a node
//! does with `remove`, `set` and `clear`), `late` (what is delivered later) and `cluster` (nodes that come
//! and go).
//!
//! There are three protocols ([`setup::Protocol`]): the one *of the code*, one with *deputies* that answer
//! from every tier and so need three rounds, and one without deputies, as older nodes have it. The plans of
//! the first explore the most.
//!
//! # What is left out, and why that is right
//!
//! - **A value** is the set of changes of its key that had begun when its load began. So a value is old
//!   for a change exactly if P2 says so.
//! - **Time** is chance: a call fails, a value expires, or a former owner is not asked any more, whenever
//!   the plan has some of that left. A circuit that is open is a call that fails at once. A failure is
//!   free where the peer is down, or has lost the request by its end.
//! - **The network** keeps no order and may keep a message for ever. A lost message is one that comes
//!   after its caller has given up. A `GET` or a delivery may come twice; a change is never sent twice.
//! - **`loading`** is an answer that has not come: the requester waits for the same load.
//! - **Steps of one node** are one step, but where they are explored (`fine`): removals as mark, drop,
//!   mark; flights as look-up and end. A get that misses, joins and asks in one step loses nothing: a
//!   removal in between marks the flight, as it does before the request arrives.
//! - **A copy is always kept** where it may be: each key is popular.
//! - **Two keys** share the circuit, the pending marks, the list and a clear. All of these are chance, or
//!   only make a node keep less; so plans have one key, except those with a clear and a crash.
//! - **Nodes** are told apart by their rank for a key, so plans go through the callers and the victims.
//! - **Offers of a node that leaves** run the same flight as the load of the new owner, and are not
//!   explored apart. Marks of several peers are fetched in one step. A process has one former ring.
//! - **An offer** is one key. What bounds the work (parts, turns, bytes) only makes a deputy take less.
//! - **A queued flight** has the role of whoever began it, not of who runs it first.
//! - **A fallback** is kept as a copy; the code keeps it in main memory where copies have no room.
//! - **What a peer has missed** is kept at the caller alone; the code gives it to another node as well. So the
//!   model excuses more where a caller crashes.
//! - What is not here at all: signatures, other dialects, bounds of the journal, deadlines of callers,
//!   batches (`get_many` does the same by key), negative caching, values past their expiry, more than one
//!   change of the list.
//!
//! # What must hold
//!
//! P1, P2, I5, that what was missed is delivered, that what is handed over does not outlive the memory of
//! removals, and that every get ends: see [`machine`]. P2 is exact.
//! A get on a node that a change has reached sees no older value, with one exception: a value that came
//! from a node which the error named, or which the caller's list lacked. That exception ends when these
//! nodes have been told and the copies were removed once more. It stays for a fetch that began before
//! that, and where the node that had still to tell them has crashed.
//!
//! # Holes
//!
//! *The list changes during a change.* A node whose ring changes *after* it has answered a change, and before
//! the last peer has, may fetch an old value from a new owner that is told later, and keeps it: nobody tells it
//! again, as its answer named the old ring. The plans of [`plans::holes`] show it, for the list and for a
//! departure. With stamps (below, rule 9) they hold.
//!
//! *The owner is started again during a change* ([`code_plans::restarts`]). It has carried the change out, ends,
//! and returns with an empty memory before its deputy has been told. The caller has noted the change before
//! it told anybody, so the owner gets the tombstone with the marks of its peers. But if it does not reach
//! the caller then, it takes the old value over from the deputy, and keeps it until that expires: the
//! second round leaves the owner out. The plan holds if it does not (`owner_again`).
//!
//! # The protocol of the code
//!
//! 1. A get asks the owner; if the call is refused or the circuit open, the deputy; if that is known to be
//!    away too, the next in rank that is not. Who is that itself loads as the deputy would, and keeps the
//!    value in main memory. After silence, or if the one asked instead fails, the process loads for itself.
//! 2. The deputy answers from **main memory alone**, or from a load. It may have a copy that it fetched after
//!    it was told of a removal and before the owner was.
//! 3. `remove` and `set` are noted in the tombstones of the caller, and then take **two** rounds: the owner and the deputy at the same time, then the caller
//!    itself, then all others. In the second round the deputy is told again, unless the caller owns the key:
//!    it may have fetched such a copy. `clear` tells all nodes twice.
//! 4. A flight that asks one who comes *after* the deputy is marked stale at once: that one may be told later
//!    than the asker. So its answer is not kept, and no later get joins.
//! 5. An owner offers keys to its deputy. The deputy asks the owner, inside a flight of `loads` that removals
//!    mark, for what that has in main memory, with the stamp of the last removal. It keeps the value in main
//!    memory, for no longer than removals are remembered. A flight that gets nothing is released: gets of its
//!    node join anew, and a peer that waits for it loads for itself.
//! 6. A removal of copies drops also what is in main memory, on all nodes but the owner, and marks loads.
//!
//! Mostly the second round would mend what 5 takes without the stamp. Not where the owner misses the removal,
//! and then leaves the list: the deputy owns what it has taken, and a removal of copies leaves it there.
//!
//! P1: a crash of the owner costs one load in the whole cluster, and none if the deputy has been handed the
//! value; so does that of the deputy after it, and one for each get on its way to the deputy. It costs one
//! more for each peer that waits for the deputy's flight of 5 just then. A copy that reaches the deputy late
//! takes the place of the value in its main memory: then the return of the owner costs a load.
//!
//! # The rules for deputies that answer from every tier
//!
//! 1. The deputy of a key is who would own it without its owner: the next in rank. So it is the owner as
//!    soon as the list lacks the owner, and the former owner as soon as a new owner joins.
//! 2. A get asks the deputy if the call to the owner fails or its circuit is open, with a flag. If that
//!    fails too, or this process is the deputy, the process loads. One who asks does so inside its
//!    flight of `fetches`, so that its callers wait for one answer.
//! 3. The deputy answers from memory, whatever tier has the value, or from a load in its own `loads`,
//!    which everyone joins who asks it. It asks nobody, neither owner, former owner nor next deputy
//!    (I5): waits go from `fetches` to `loads` and from `loads` to the loader, also with deputies. A node
//!    that owns the key by its own list answers as the owner.
//! 4. What a deputy loads or is offered is kept for a deputy life, in a place that every removal reaches:
//!    also `clear`, and removals of copies.
//! 5. `remove` and `set` tell the owner first, **then the deputy alone, then all others**. The caller
//!    drops its own copy after the deputy has answered, unless it is the owner or the deputy itself.
//!    Otherwise a node that has dropped its copy fetches the old value from the deputy and keeps it.
//! 6. `clear` has **three** rounds instead of two: the deputy may copy from an owner that is told later,
//!    and another node from that deputy.
//! 7. Removals that are pending for a deputy count as those for an owner: what it answers is used and not
//!    kept. An error that names the deputy means what one that names the owner means.
//! 8. An owner that returns, or is new, asks the former owner (which is the deputy) before it loads, as
//!    always: after the marks of all peers, with the stamp of the last removal. The deputy gives what it
//!    has as the owner or as the deputy, never a copy. A deputy takes an offered value in the same way:
//!    inside a flight that removals mark, and not against a removal that the owner has not carried out.
//! 9. *Instead of 5 and 6:* a request for a value says which removal of its key (or of all) the asker
//!    knows of last, and who is asked carries that out first if it has not. Then the order in which nodes
//!    are told does not matter, one round of a clear less will do, no second pass is needed, and the hole
//!    above is closed: [`plans::stamped`].
//!
//! P1 with these deputies: a crash of the owner costs one load of a key in the whole cluster. Its return costs
//! none, unless a get was on its way to the deputy just then: one more.

mod changes;
mod cluster;
pub mod code_plans;
pub mod fault;
pub mod faulty;
mod gets;
mod hand_over;
mod late;
pub mod machine;
pub mod msg;
pub mod plans;
mod rounds;
mod serve;
pub mod setup;
pub mod stand_ins;
pub mod state;
pub mod witness;
