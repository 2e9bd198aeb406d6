//! `protocol`: the bytes that nodes exchange, and what they cost. No socket, no thread.
//!
//! Imports `runtime`, `value` and the keys of `cache`. In this order: `hash`, `dialect`, `target` (paths),
//! `status`, `terms` (the header that native peers exchange), `field` and `answer` (a value as it travels),
//! `group_command` (what a group is asked to do), `node command` (what a node is asked to do), `golang` (what Go peers
//! spell in another way), `account` (how much memory those who ask may take), `request`, `response`, and
//! `http1` (heads of HTTP/1.1). `docs/PROTOCOL.md` tells all of it to those who write another
//! implementation.

pub(crate) mod account;
mod answer;
pub(crate) mod dialect;
mod field;
mod golang;
mod group_command;
pub(crate) mod hash;
pub(crate) mod http1;
mod node_command;
mod request;
mod response;
mod status;
mod target;
mod terms;
#[cfg(test)]
mod tests;

pub(crate) use answer::*;
pub(crate) use field::ProtocolError;
pub(crate) use group_command::*;
pub(crate) use node_command::*;
pub use request::Request;
pub(crate) use request::*;
pub use response::Response;
pub(crate) use response::*;
pub(crate) use status::*;
pub(crate) use target::*;
pub(crate) use terms::*;
