//! `groupcache_values`: what a get of many keys has brought.

use std::mem::MaybeUninit;

use super::argument::given;
use super::boundary::{answer, status};
use super::status::{Failure, groupcache_status};
use crate::error::Error;
use crate::value::Value;

/// What a get of many keys has brought: for each key a value or why there is none, in the order of
/// the keys. Any number of threads may read it.
pub struct groupcache_values(pub(super) Vec<Result<Value, Error>>);

/// How many keys there were. 0 for `NULL`.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_values_len(values: Option<&groupcache_values>) -> usize {
    answer(0, || Ok(values.map_or(0, |values| values.0.len())))
}

/// How the get of the key at `index` ended, and if that is `GROUPCACHE_STATUS_OK` the bytes of its
/// value, valid until the values are freed. Of others, `groupcache_error_text` has the text, as if
/// this call had failed.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_values_get(
    values: Option<&groupcache_values>,
    index: usize,
    bytes_out: Option<&mut MaybeUninit<*const u8>>,
    len_out: Option<&mut MaybeUninit<usize>>,
) -> groupcache_status {
    status(|| {
        let values = given(values, "values")?;
        let (bytes_out, len_out) = (given(bytes_out, "bytes_out")?, given(len_out, "len_out")?);
        let Some(outcome) = values.0.get(index) else {
            let len = values.0.len();
            let reason = format!("the index {index} is beyond the {len} values");
            return Err(Failure::Argument(reason));
        };
        let value = outcome.as_ref().map_err(Clone::clone)?;
        bytes_out.write(value.as_ptr());
        len_out.write(value.len());
        Ok(())
    })
}

/// Frees the values. `NULL` is fine.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_values_free(values: Option<Box<groupcache_values>>) {
    status(|| {
        drop(values);
        Ok(())
    });
}
