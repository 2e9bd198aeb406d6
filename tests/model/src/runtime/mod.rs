//! What flights use of the crate's `runtime`.

#[path = "../../../../src/runtime/clock.rs"]
pub(crate) mod clock;
#[path = "../../../../src/runtime/flow.rs"]
pub(crate) mod flow;
#[path = "../../../../src/runtime/slot.rs"]
pub(crate) mod slot;
#[path = "../../../../src/runtime/sync/mod.rs"]
pub(crate) mod sync;
