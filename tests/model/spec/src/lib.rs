//! The protocol as a small state machine.
pub mod setup;
pub mod state;
pub mod witness;
pub mod machine;
pub mod plans;
mod changes;
mod cluster;
mod gets;
mod serve;
