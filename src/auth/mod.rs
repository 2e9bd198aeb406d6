//! `auth`: which requests are meant for this node, and which come from its peers.
//!
//! Imports `runtime`, `protocol`, the peers of `transport`, `stats`, `error`, and the keys of `cache`. In
//! this order: `gate` (requests from pages in browsers, or that are meant for another cluster or peer),
//! `signature` (how a secret signs a request), `keyring` (the secrets, which change without a restart),
//! `refusal` (why a request is refused, and how old it may be), `nonces` (changes that were accepted),
//! and `guard` (signs requests to peers, and checks requests to this node).

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
pub(crate) mod refusal;
#[cfg(feature = "auth")]
pub(crate) mod signature;
