//! `groupcache_value`: bytes that a get has brought.

use std::mem::MaybeUninit;

use super::boundary::{answer, status};
use crate::value::Value;

/// Bytes that a get has brought. They stay as they are until `groupcache_value_free`, also when the
/// cache, the group and the node are gone; any number of threads may read them.
pub struct groupcache_value(pub(super) Value);

/// The bytes of a value, and how many they are. Not `NULL`, unless `value` is; not to be read if
/// there are none. Valid until the value is freed. `len_out` may be `NULL`.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_value_bytes(
    value: Option<&groupcache_value>,
    len_out: Option<&mut MaybeUninit<usize>>,
) -> *const u8 {
    answer(std::ptr::null(), || {
        let bytes = value.map(|value| value.0.as_bytes());
        if let Some(out) = len_out {
            out.write(bytes.map_or(0, <[u8]>::len));
        }
        Ok(bytes.map_or(std::ptr::null(), <[u8]>::as_ptr))
    })
}

/// Frees a value. `NULL` is fine.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_value_free(value: Option<Box<groupcache_value>>) {
    status(|| {
        drop(value);
        Ok(())
    });
}
