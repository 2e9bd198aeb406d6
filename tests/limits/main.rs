//! The `node` example as real processes at their limits: hostile clients, a system that has no more
//! to give, and hours of work.
//!
//! In every run all of it is tried in small, and nothing is asserted that depends on the speed of
//! the machine. `.ci/run` and `.ci/long` measure: then a bound on latency is asserted too, and
//! that memory is given back, by the program with jemalloc (package `node-jemalloc`).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "this is all test code, and each test tells what it saw"
)]
#![cfg(target_os = "linux")] // what a process takes is read from /proc

mod attacks;
#[allow(dead_code, reason = "the tests of the library use the rest of it")]
#[path = "../it/certificates.rs"]
mod certificates;
mod cgroup;
mod client;
mod gauge;
mod hostile;
#[allow(dead_code, reason = "the harness of the tests of `node`")]
#[path = "../node/origin.rs"]
mod origin;
#[allow(dead_code, reason = "the harness of the tests of `node`")]
#[path = "../node/process.rs"]
mod process;
#[allow(dead_code, reason = "the network of the tests of faults")]
#[path = "../faults/proxy.rs"]
mod proxy;
mod resources;
#[allow(dead_code, reason = "the tests of faults use the rest of it")]
#[path = "../faults/security.rs"]
mod security;
mod soak;

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A size from the environment.
fn size<T: FromStr>(name: &str) -> Option<T> {
    let told = std::env::var(name).ok()?;
    let size = told.parse().ok();
    Some(size.unwrap_or_else(|| panic!("{name} is not a number: {told}")))
}

/// Ends what goes on until then when it is dropped: also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Where the tests measure, they run one after the other: each has the machine for itself. In small they run side
/// by side, as most of their time they wait.
fn alone_if_measured() -> Option<MutexGuard<'static, ()>> {
    static TURN: Mutex<()> = Mutex::new(());
    let sizes = [
        "GROUPCACHE_HOSTILE_SECONDS",
        "GROUPCACHE_SETS",
        "GROUPCACHE_SOAK_SECONDS",
    ];
    let measures = sizes.iter().any(|name| std::env::var_os(name).is_some());
    measures.then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner))
}
