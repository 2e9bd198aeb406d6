//! A distributed read-through cache for programs made of threads.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod cache;
mod circuit;
mod client;
mod cluster;
mod codec;
mod deadline;
mod error;
mod flight;
mod group;
mod hot;
mod http1;
mod keeper;
mod key;
mod loader;
mod lru;
#[cfg(any(test, feature = "test-util"))]
mod memory;
mod node;
mod peer;
mod pool;
mod ring;
mod server;
mod slot;
mod stats;
mod sync;
#[cfg(feature = "tiny_http")]
mod tiny;
mod value;
mod waits;
mod wire;

pub use cache::ENTRY_OVERHEAD;
#[cfg(feature = "json")]
pub use codec::Json;
#[cfg(feature = "msgpack")]
pub use codec::MessagePack;
pub use codec::{Bytes, Codec, CodecError, Utf8};
pub use deadline::{Clock, Deadline};
pub use error::{Error, Unreached};
pub use group::{Got, Group, GroupBuilder, Pending, Source};
pub use key::MAX_KEY_BYTES;
pub use loader::{Load, LoadError, Loaded, Loader};
#[cfg(any(test, feature = "test-util"))]
pub use memory::{Fault, Network};
pub use node::{Begin, Node, NodeBuilder};
pub use peer::{Call, CallError, Limits, Link, Peer, Reply, Transport};
pub use server::{HttpRequest, HttpResponse, Server, ServerBuilder};
pub use stats::{CircuitState, GroupStats, NodeStats, PeerStats};
#[cfg(feature = "tiny_http")]
pub use tiny::{TinyServer, TinyServerBuilder, answer_tiny_http};
pub use value::{Cacheable, Value};
pub use wire::{Request, Response};
