//! The C ABI (feature `capi`): what `include/groupcache.h` declares.
//!
//! One file for each type of C: `node`, `peers`, `group`, `load` (what a loader fills), `value`,
//! `values`, `server`, `setting`, `stats`, `status`. What they share: `boundary` (no panic goes on
//! into C, and the text of the last error), `argument` (what C passed), `local` (what a forked child
//! must not touch), `end` (what may still call into C).
//!
//! The rules of the interface are those of the header, whose preamble is in `cbindgen.toml`. The
//! functions are not `unsafe` to declare, as no Rust code can name them: what their callers owe is
//! the C contract, that a pointer is `NULL` or good for what its type says, and a handle neither
//! freed nor, where it is passed as non-`const`, in use elsewhere.
#![allow(
    unsafe_code,
    reason = "C has no other terms; each use says why it is sound"
)]
#![allow(
    non_camel_case_types,
    unreachable_pub,
    reason = "the names are those of the header, and what it shows must be `pub`"
)]

mod argument;
mod boundary;
mod end;
mod group;
mod load;
mod local;
mod node;
mod peers;
mod server;
mod setting;
mod stats;
mod status;
mod value;
mod values;

use std::ffi::c_char;
use std::time::Duration;

use crate::runtime::clock::{Clock, Deadline};

/// A timeout that never ends.
pub const GROUPCACHE_NEVER: u64 = u64::MAX;

/// A life that is the group's default.
pub const GROUPCACHE_DEFAULT_TTL: u64 = u64::MAX;

/// The version of the library, such as "0.1.0". Valid for ever.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The deadline that C means by a timeout in milliseconds from now.
fn deadline(timeout_ms: u64) -> Deadline {
    match timeout_ms {
        GROUPCACHE_NEVER => Deadline::NEVER,
        timeout => Deadline::after(Clock::system().now(), Duration::from_millis(timeout)),
    }
}

/// The life that C means by milliseconds.
fn ttl(ttl_ms: u64) -> Option<Duration> {
    (ttl_ms != GROUPCACHE_DEFAULT_TTL).then(|| Duration::from_millis(ttl_ms))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_header_is_of_this_version() {
        let header = include_str!("../../include/groupcache.h");
        let define = concat!(
            "#define GROUPCACHE_VERSION \"",
            env!("CARGO_PKG_VERSION"),
            "\"\n"
        );
        assert!(
            header.contains(define),
            "change it in cbindgen.toml: {define}"
        );
    }
}
