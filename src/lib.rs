//! A distributed read-through cache for programs made of threads.
//!
//! Every process of a service embeds a [`Node`]. Together they form one cache: a key has one owner,
//! picked by consistent hashing; only the owner loads it, once, however many threads in however many
//! processes ask at the same time; popular values are mirrored to processes that do not own them.
//! There is no async runtime: [`Group::get`] blocks the thread that calls it.
//!
//! ```no_run
//! use groupcache_sync::{Group, LoadError, Node, Server, Value};
//! use std::time::Duration;
//!
//! let node = Node::new("http://10.0.0.5:7000")?; // how peers reach this process
//! let pages: Group = node
//!     .group_builder("pages", 64 << 20) // bytes of memory
//!     .ttl(Duration::from_secs(300))
//!     .build(|key| {
//!         // Whatever anybody asks for, it is a number from here on.
//!         let number: u64 = key.parse().map_err(|_| LoadError::NotFound)?;
//!         Ok(Value::from(format!("page {number}"))) // from a database, say
//!     })?;
//! let server = Server::bind(&node, "0.0.0.0:7000")?; // answers peers until dropped
//! node.set_peers(["http://10.0.0.5:7000", "http://10.0.0.6:7000"])?;
//! let page = pages.get("42")?;
//! # drop((page, server));
//! # Ok::<(), groupcache_sync::Error>(())
//! ```
//!
//! **A key may come from anybody who reaches the port: the loader must treat it as untrusted input.**
//! Parse it, look it up, or bind it to a query as a parameter; never make a path, a query or a
//! command of its text.
//!
//! # The loading process
//!
//! The code reads in this order; each step is a folder, whose first file says what lives in it.
//!
//! 1. Is the value in local memory, because this process owns the key (*main* cache) or because it
//!    is popular (*hot* cache)? `group`, `cache`
//! 2. Otherwise one thread per key goes on, the *leader* of the *flight*; the others wait, each with
//!    its own deadline. `flight`
//! 3. The leader looks in the caches once more, then asks the ring who owns the key. `cluster`
//! 4. This process owns it: the loader runs, unless the former owner still has the value. Another one
//!    owns it: fetch from that peer, or load here if it is unreachable. `group`, `cluster`, `transport`
//! 5. The value goes into the main or the hot cache. Only then does the flight end.
//!
//! Peers are answered by `group/serve.rs`, behind [`Node::begin`] and [`Node::answer`]; the engines in
//! `serve` bring requests there, and `auth` decides who may ask. `protocol` has the bytes that nodes
//! exchange, also with processes of golang/groupcache (see [`Dialect::Golang`]). What happened is counted
//! in `stats`; `observe` publishes and draws it. All of it stands on `runtime`: locks, clocks, threads, and
//! calls of the user's code, never under a lock.
//!
//! # The guide
//!
//! [Getting started], [when things fail], [peers and deploying], [speed], [security], [C and Python],
//! [coming from elsewhere]; and [architecture], with the promises and the invariants that the code names, [protocol],
//! [operations] and [decisions].
//!
//! [Getting started]: https://docs.rs/crate/groupcache-sync/latest/source/docs/guide/start.md
//! [when things fail]: https://docs.rs/crate/groupcache-sync/latest/source/docs/guide/failures.md
//! [peers and deploying]: https://docs.rs/crate/groupcache-sync/latest/source/docs/guide/peers.md
//! [speed]: https://docs.rs/crate/groupcache-sync/latest/source/docs/guide/speed.md
//! [security]: https://docs.rs/crate/groupcache-sync/latest/source/docs/guide/security.md
//! [C and Python]: https://docs.rs/crate/groupcache-sync/latest/source/docs/guide/languages.md
//! [coming from elsewhere]: https://docs.rs/crate/groupcache-sync/latest/source/docs/guide/migrating.md
//! [architecture]: https://docs.rs/crate/groupcache-sync/latest/source/docs/ARCHITECTURE.md
//! [protocol]: https://docs.rs/crate/groupcache-sync/latest/source/docs/PROTOCOL.md
//! [operations]: https://docs.rs/crate/groupcache-sync/latest/source/docs/OPERATIONS.md
//! [decisions]: https://docs.rs/crate/groupcache-sync/latest/source/docs/DECISIONS.md
//!
//! # Features
//!
//! `tiny_http` (default), `auth`, `capi`, `json`, `metrics`, `msgpack`, `tls`, `test-util`: see the
//! README.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::too_many_lines)]

mod auth;
mod cache;
#[cfg(feature = "capi")]
mod capi;
mod cluster;
mod codec;
mod discovery;
mod error;
mod flight;
mod group;
mod loader;
mod node;
mod observe;
mod protocol;
mod runtime;
mod serve;
mod server;
mod stats;
mod testing;
mod transport;
mod value;

#[cfg(feature = "auth")]
#[cfg_attr(docsrs, doc(cfg(feature = "auth")))]
pub use auth::keyring::Keyring;
pub use cache::key::MAX_KEY_BYTES;
pub use cache::shards::ENTRY_OVERHEAD;
pub use cache::store::EvictionCause;
#[cfg(feature = "json")]
pub use codec::Json;
#[cfg(feature = "msgpack")]
pub use codec::MessagePack;
pub use codec::{Bytes, Codec, CodecError, Utf8};
pub use discovery::{Discoverer, DiscovererBuilder, Discovery, Dns, PeerFile};
pub use error::{Error, Unreached};
#[allow(deprecated, reason = "the old name stays for now")]
pub use group::Got;
pub use group::{Entry, Group, GroupBuilder, Pending, Source};
pub use loader::{Load, LoadError, Loaded, Loader};
pub use node::{Begin, Node, NodeBuilder};
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub use observe::metrics::Metrics;
pub use observe::status::StatusPage;
pub use protocol::dialect::Dialect;
pub use protocol::{Request, Response};
pub use runtime::clock::{Clock, Deadline};
#[cfg(feature = "tiny_http")]
pub use serve::tiny::{TinyServer, TinyServerBuilder, answer_tiny_http};
pub use server::{HttpRequest, HttpResponse, Server, ServerBuilder};
pub use stats::latency::{Latencies, Latency};
pub use stats::{CircuitState, GroupStats, NodeStats, PeerStats};
#[cfg(all(feature = "auth", any(test, fuzzing)))]
#[doc(hidden)]
pub use testing::fuzz;
#[cfg(any(test, feature = "test-util"))]
pub use testing::network::{Fault, Network};
pub use transport::peer::{Call, CallError, Limits, Link, Peer, Reply, Transport};
#[cfg(feature = "tls")]
pub use transport::tls::Tls;
pub use value::{Cacheable, Value};

/// The examples of the README and of the guide are compiled as part of the tests.
#[cfg(all(doctest, feature = "json"))]
mod guide {
    #[doc = include_str!("../README.md")]
    struct Readme;

    #[doc = include_str!("../docs/guide/start.md")]
    struct Start;

    #[doc = include_str!("../docs/guide/failures.md")]
    struct Failures;

    #[doc = include_str!("../docs/guide/peers.md")]
    struct Peers;

    #[doc = include_str!("../docs/guide/security.md")]
    struct Security;

    #[doc = include_str!("../docs/guide/migrating.md")]
    struct Migrating;
}
