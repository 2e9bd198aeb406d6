//! `groupcache_load`: one run of a loader written in C, and what it fills.

use std::ffi::{c_char, c_void};
use std::time::Duration;

use super::argument::{c_text, given, list};
use super::boundary::{answer, status};
use super::end::LiveLoader;
use super::status::{Failure, groupcache_status};
use super::{GROUPCACHE_NEVER, ttl};
use crate::loader::{Load, LoadError, Loaded, Loader};
use crate::runtime::clock::{Clock, Deadline};
use crate::value::Value;

/// Loads the value of a key: gives it to `load` by `groupcache_load_value` and returns
/// `GROUPCACHE_STATUS_OK`, or returns `GROUPCACHE_STATUS_NOT_FOUND` if there is none, or anything
/// else if it failed, best after `groupcache_load_error` has said why.
///
/// `user` is what the group was made with. The key has no NUL at its end. The key and `load` are
/// valid until the loader returns. It may block. It is called on any thread, the caller's own or
/// one of the node's, and on several at once, but for one key only where that was removed or set
/// meanwhile. It may get other keys, but must neither free its group, node or server, nor unwind or
/// jump out.
pub type groupcache_loader = Option<
    unsafe extern "C" fn(
        user: *mut c_void,
        key: *const c_char,
        key_len: usize,
        load: *mut groupcache_load,
    ) -> i32,
>;

/// Frees what a group was made with, once, when no loader can be called with it any more. It is
/// called on any thread: that which frees the last handle, or one of the node's own, for which
/// `groupcache_node_close` waits.
pub type groupcache_destructor = Option<unsafe extern "C" fn(user: *mut c_void)>;

/// One run of a loader. Used by that run only, on its thread.
pub struct groupcache_load {
    deadline: Deadline,
    value: Option<Value>,
    ttl: Option<Duration>,
    error: Option<String>,
}

impl groupcache_load {
    fn into_outcome(self, returned: i32) -> Result<Loaded<Value>, LoadError> {
        const OK: i32 = groupcache_status::Ok as i32;
        const NOT_FOUND: i32 = groupcache_status::NotFound as i32;
        match (returned, self.value) {
            (OK, Some(value)) => Ok(Loaded {
                value,
                ttl: self.ttl,
            }),
            (OK, None) => Err("the loader returned GROUPCACHE_STATUS_OK and gave no value".into()),
            (NOT_FOUND, _) => Err(LoadError::NotFound),
            (other, _) => {
                let error = self.error;
                let error = error.unwrap_or_else(|| format!("the loader returned {other}"));
                Err(error.into())
            }
        }
    }
}

/// What a group was made with, freed when it goes.
pub(super) struct User {
    pub(super) user: *mut c_void,
    pub(super) destructor: groupcache_destructor,
}

// SAFETY: it is passed on and never looked at; the header demands of the loader that it may be
// called on any thread, several at once, and of the destructor that it may on any.
unsafe impl Send for User {}
// SAFETY: as above.
unsafe impl Sync for User {}

impl Drop for User {
    fn drop(&mut self) {
        if let Some(destructor) = self.destructor {
            // SAFETY: the header says that it is called once, with the pointer of its group.
            unsafe { destructor(self.user) };
        }
    }
}

type Function =
    unsafe extern "C" fn(*mut c_void, *const c_char, usize, *mut groupcache_load) -> i32;

pub(super) struct CLoader {
    load: Function,
    user: User,
    /// Dropped after `user`.
    _live: LiveLoader,
}

impl CLoader {
    pub(super) fn new(load: Function, user: User, live: LiveLoader) -> CLoader {
        CLoader {
            load,
            user,
            _live: live,
        }
    }
}

impl Loader<Value> for CLoader {
    fn load(&self, load: &Load<'_>) -> Result<Loaded<Value>, LoadError> {
        let key = load.key();
        let mut run = groupcache_load {
            deadline: load.deadline(),
            value: None,
            ttl: None,
            error: None,
        };
        // SAFETY: all pointers are valid until it returns, and `user` for as long as `self`; the
        // header demands the rest of the loader.
        let returned =
            unsafe { (self.load)(self.user.user, key.as_ptr().cast(), key.len(), &mut run) };
        run.into_outcome(returned)
    }
}

/// Gives the value that was loaded. The bytes are copied. `ttl_ms` is how long it lives, at most as
/// long as the group allows; `GROUPCACHE_DEFAULT_TTL` for the group's default; 0 gives it to those
/// who are waiting for it, and caches nothing. The last call counts.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_load_value(
    load: Option<&mut groupcache_load>,
    bytes: *const u8,
    len: usize,
    ttl_ms: u64,
) -> groupcache_status {
    status(|| {
        let load = given(load, "load")?;
        // SAFETY: the header demands `len` bytes.
        let bytes = unsafe { list(bytes, len, "bytes") }?;
        load.value = Some(Value::copy_from(bytes));
        load.ttl = ttl(ttl_ms);
        Ok(())
    })
}

/// Says why the load failed, in a text that ends with NUL and is copied. It becomes part of the
/// error text of all who wait for the value.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_load_error(
    load: Option<&mut groupcache_load>,
    text: *const c_char,
) -> groupcache_status {
    status(|| {
        let load = given(load, "load")?;
        // SAFETY: the header demands a text that ends with NUL.
        load.error = Some(unsafe { c_text(text, "text") }?.to_owned());
        Ok(())
    })
}

/// How many milliseconds are left until the one who asked first gives up; `GROUPCACHE_NEVER` if that
/// one never does. A load that takes longer still completes, and its value is cached.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_load_remaining_ms(load: Option<&groupcache_load>) -> u64 {
    answer(GROUPCACHE_NEVER, || {
        let load = load.ok_or(Failure::Null("load"))?;
        let remaining = load.deadline.remaining(Clock::system().now());
        let millis = remaining.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        Ok(millis.unwrap_or(GROUPCACHE_NEVER))
    })
}
