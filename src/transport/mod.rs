//! `transport`: sends requests to peers and receives their answers.
//!
//! Imports `runtime`, `protocol`, `stats` and `error`. In this order: `peer` (a peer with its address, and
//! the trait [`Transport`](peer::Transport)), `stream` (a socket with or without TLS), `tls` (certificates)
//! and `client` (the HTTP/1.1 client with its connections).

pub(crate) mod client;
pub(crate) mod peer;
pub(crate) mod stream;
#[cfg(feature = "tls")]
pub(crate) mod tls;
#[cfg(not(feature = "tls"))]
#[path = "tls/absent.rs"]
pub(crate) mod tls;
