//! One binary of integration tests, with a module per promise (P1 to P6 of the crate's design) and
//! one per engine.
#![allow(clippy::unwrap_used, clippy::panic)] // a test that goes wrong had better stop

mod absences;
mod accounts;
mod api;
#[cfg(feature = "auth")]
mod auth;
mod certificates;
mod client;
mod cluster;
mod deputies;
mod discovery;
mod expiry;
mod extremes;
mod failures;
mod foreign_code;
mod gate;
mod golang;
mod hostile;
mod journal;
mod latency;
mod layout;
mod loaders;
mod logs;
mod many;
#[cfg(feature = "metrics")]
mod metrics;
mod overload;
mod p1_one_load;
mod p2_invalidation;
mod p3_right_bytes;
mod p4_deadlines;
mod p5_bounds;
mod p6_partition;
mod protocol;
mod queued_loads;
mod server;
mod stand_ins;
mod status;
#[cfg(feature = "auth")]
mod strangers;
mod succession;
#[cfg(feature = "tiny_http")]
mod tiny;
mod tls;
