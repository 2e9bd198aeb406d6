//! `auth`: which requests are for this node, and from its peers.
//!
//! Imports `runtime`, `protocol`, `transport`'s peers, `stats` and `error`. In this order: `gate` (requests
//! that browsers are made to send, or that are meant for another cluster), `signature` (how a secret signs
//! a request), `keyring` (the secrets, which change without a restart), `nonces` (requests that were seen)
//! and `guard` (signs what this node asks, and checks what it is asked).

pub(crate) mod gate;
#[cfg(feature = "auth")]
pub(crate) mod guard;
#[cfg(not(feature = "auth"))]
#[path = "guard/none.rs"]
pub(crate) mod guard;
#[cfg(feature = "auth")]
pub(crate) mod keyring;
#[cfg(feature = "auth")]
pub(crate) mod nonces;
#[cfg(feature = "auth")]
pub(crate) mod signature;
