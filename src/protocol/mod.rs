//! `protocol`: the bytes that nodes exchange, and the memory that they may take. No socket, no thread.
//!
//! Imports `runtime`, `value` and the keys of `cache`. In this order: `hash`, `dialect`, `target` (paths),
//! `terms` (the header that native peers exchange), `status`, `field` (protocol buffers field by field),
//! `answer` (a value in a message), `group_command` (a command to a group) and `batch` (the answer to one),
//! `node_command` (a command to a node), `golang` (how Go peers differ), `account` (how much memory
//! requesters may take), `request`, `response`, and `http1` (heads of HTTP/1.1). `docs/PROTOCOL.md`
//! describes the protocol for other implementations.

pub(crate) mod account;
mod answer;
mod batch;
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
pub(crate) use batch::*;
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
