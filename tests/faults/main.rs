//! Real processes of the `node` example in a network that fails, and beside peers that fail, stop,
//! lie or see another ring. No wrong value may ever come of it, and no failed get of what can be
//! loaded.
//!
//! Where `GROUPCACHE_SECURITY` is set, the nodes share a secret and speak TLS.
//!
//! In every run all of it is tried in small. Where `GROUPCACHE_FAULT_SECONDS` says how long each
//! fault lasts, times are asserted too: `.ci/run` and `.ci/long` do so, with optimised processes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "this is all test code, and each test tells what it saw"
)]
#![cfg(target_os = "linux")] // what a process takes is read from /proc

mod answers;
#[allow(dead_code, reason = "the tests of the library use the rest of it")]
#[path = "../it/certificates.rs"]
mod certificates;
#[allow(dead_code, reason = "the tests of limits use the rest of it")]
#[path = "../limits/client.rs"]
mod client;
mod clients;
mod crash;
mod faults;
mod fleet;
#[allow(dead_code, reason = "the tests of limits use the rest of it")]
#[path = "../limits/gauge.rs"]
mod gauge;
mod lies;
#[allow(dead_code, reason = "the harness of the tests of `node`")]
#[path = "../node/origin.rs"]
mod origin;
mod overhead;
#[allow(dead_code, reason = "the harness of the tests of `node`")]
#[path = "../node/process.rs"]
mod process;
#[allow(dead_code, reason = "the tests of limits use the rest of it")]
mod proxy;
mod rings;
mod rolling;
mod security;

use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A size from the environment.
fn size<T: FromStr>(name: &str) -> Option<T> {
    let told = std::env::var(name).ok()?;
    let size = told.parse().ok();
    Some(size.unwrap_or_else(|| panic!("{name} is not a number: {told}")))
}

/// Where the tests measure, they run one after the other: each has the machine for itself. In small they run side
/// by side, as most of their time they wait.
fn alone_if_measured() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    let measures = std::env::var_os("GROUPCACHE_FAULT_SECONDS").is_some();
    measures.then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The value of a key: its name, and a checksum and bytes that belong to no other key.
fn value_of(key: &str) -> Vec<u8> {
    let mut value = format!("{key} {:08x} ", crc32fast::hash(key.as_bytes())).into_bytes();
    // A key may say how long its value is, as in `key@5000`.
    let length = key
        .rsplit_once('@')
        .map_or(100, |(_, length)| length.parse().unwrap());
    let mut state = u64::from(crc32fast::hash(&value)) | 1;
    while value.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        value.push((state >> 32) as u8);
    }
    value
}
