//! What C passed, checked as far as it can be.

use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;
use std::slice;

use super::status::Failure;

/// A pointer that must not be `NULL`.
pub(super) fn given<T>(argument: Option<T>, name: &'static str) -> Result<T, Failure> {
    argument.ok_or(Failure::Null(name))
}

/// So many things in a row. `NULL` is none.
///
/// # Safety
///
/// `start` is `NULL`, or has `len` of them for as long as `'a`.
pub(super) unsafe fn list<'a, T>(
    start: *const T,
    len: usize,
    name: &'static str,
) -> Result<&'a [T], Failure> {
    if len == 0 {
        return Ok(&[]);
    }
    if start.is_null() {
        return Err(Failure::Null(name));
    }
    if len > isize::MAX as usize / size_of::<T>().max(1) {
        return Err(Failure::Argument(format!(
            "no memory holds {len} of {name}"
        )));
    }
    // SAFETY: it is not null and not too long, and all else is promised by the caller.
    Ok(unsafe { slice::from_raw_parts(start, len) })
}

/// A text of this length.
///
/// # Safety
///
/// As for [`list`].
pub(super) unsafe fn text<'a>(
    start: *const c_char,
    len: usize,
    name: &'static str,
) -> Result<&'a str, Failure> {
    // SAFETY: the caller promises the same.
    let bytes = unsafe { list(start.cast::<u8>(), len, name) }?;
    std::str::from_utf8(bytes).map_err(|_| Failure::NotUtf8(name))
}

/// A text that ends with NUL.
///
/// # Safety
///
/// `start` is `NULL`, or such a text for as long as `'a`.
pub(super) unsafe fn c_text<'a>(
    start: *const c_char,
    name: &'static str,
) -> Result<&'a str, Failure> {
    if start.is_null() {
        return Err(Failure::Null(name));
    }
    // SAFETY: it is not null, and the caller promises that it ends with NUL.
    let text = unsafe { CStr::from_ptr(start) };
    text.to_str().map_err(|_| Failure::NotUtf8(name))
}

/// Gives C a handle, which comes back as a `Box`.
pub(super) fn hand_out<T>(out: &mut MaybeUninit<*mut T>, handle: T) {
    out.write(Box::into_raw(Box::new(handle)));
}
