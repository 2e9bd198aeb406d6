//! `serve`: what answers peers on a port.

pub(crate) mod buffer;
pub(crate) mod connection;
pub(crate) mod lane;
pub(crate) mod listener;
pub(crate) mod lobby;
pub(crate) mod message;
pub(crate) mod places;
pub(crate) mod purse;
pub(crate) mod settings;
pub(crate) mod shared;
#[cfg(feature = "tiny_http")]
pub(crate) mod tiny;
