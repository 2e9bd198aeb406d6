//! `transport`: how a request gets to a peer and its answer back.
//!
//! Imports `runtime`, `protocol`, `stats` and `error`. In this order: `peer` (a peer's address, and the
//! trait [`Transport`](peer::Transport)), `client` (the HTTP/1.1 client with its connections), `stream`
//! (a socket with or without TLS) and `tls` (certificates).

pub(crate) mod client;
pub(crate) mod peer;
pub(crate) mod stream;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(not(feature = "tls"))]
#[path = "tls/absent.rs"]
pub(crate) mod tls;
