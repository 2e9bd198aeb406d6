//! `groupcache_group`: a group whose values are bytes.

use std::ffi::{c_char, c_void};
use std::mem::MaybeUninit;

use super::argument::{c_text, given, hand_out, list, text};
use super::boundary::status;
use super::deadline;
use super::end::{End, PATIENCE};
use super::load::{CLoader, User, groupcache_destructor, groupcache_loader};
use super::local::Local;
use super::node::groupcache_node;
use super::setting::{groupcache_option, with_group_options};
use super::stats::{fill, groupcache_group_stats};
use super::status::{Failure, groupcache_status};
use super::ttl;
use super::value::groupcache_value;
use super::values::groupcache_values;
use crate::error::Error;
use crate::group::Group;
use crate::loader::Loaded;
use crate::runtime::sync::Arc;
use crate::value::Value;

/// A named cache with a loader, shared by all nodes that have a group of this name: a handle to it.
/// All its functions may be called from any thread, also from inside a loader, but for
/// `groupcache_group_free`.
///
/// A value is bytes. A group of a program in Rust that has the same name and another type shows its
/// encoded form.
pub struct groupcache_group(Local<(Group, Arc<End>)>);

fn group_of(group: Option<&groupcache_group>) -> Result<&Group, Failure> {
    given(group, "group")?.0.get().map(|(group, _)| group)
}

/// Makes a group of a node, which may hold up to `capacity_bytes` of keys, values and overhead. The
/// node serves it until `groupcache_node_remove_group` or its own end, whatever becomes of handles.
///
/// `user` goes to each call of `loader`. It is freed by `destructor`, which may be `NULL`, when no
/// loader can be called any more, and also if this fails. `options` may be `NULL` if there are none.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_group_new(
    node: Option<&groupcache_node>,
    name: *const c_char,
    capacity_bytes: usize,
    loader: groupcache_loader,
    user: *mut c_void,
    destructor: groupcache_destructor,
    options: *const groupcache_option,
    options_len: usize,
    group_out: Option<&mut MaybeUninit<*mut groupcache_group>>,
) -> groupcache_status {
    let user = User { user, destructor };
    status(move || {
        let load = given(loader, "loader")?;
        let out = given(group_out, "group_out")?;
        let node = given(node, "node")?;
        let (node, end) = (node.get()?, node.end()?);
        // SAFETY: the header demands a text that ends with NUL.
        let name = unsafe { c_text(name, "name") }?;
        // SAFETY: the header demands `options_len` of them.
        let options = unsafe { list(options, options_len, "options") }?;
        let builder = with_group_options(node.group_builder(name, capacity_bytes), options)?;
        let live = end.begin_loader();
        let group = builder.build_with(CLoader::new(load, user, live))?;
        end.begin_group();
        hand_out(out, groupcache_group(Local::new((group, Arc::clone(end)))));
        Ok(())
    })
}

/// Gets the value of a key: from memory, from its owner or from the loader. Blocks until it is here,
/// at most `timeout_ms`.
///
/// With `GROUPCACHE_NEVER` a load runs on this thread. Else it runs on one of the node's, so that
/// the timeout holds: a load that takes longer completes, and its value is cached.
///
/// `GROUPCACHE_STATUS_NOT_FOUND` if there is no value. Free the value with `groupcache_value_free`.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_group_get(
    group: Option<&groupcache_group>,
    key: *const c_char,
    key_len: usize,
    timeout_ms: u64,
    value_out: Option<&mut MaybeUninit<*mut groupcache_value>>,
) -> groupcache_status {
    status(|| {
        let (group, out) = (group_of(group)?, given(value_out, "value_out")?);
        // SAFETY: the header demands `key_len` bytes.
        let key = unsafe { text(key, key_len, "key") }?;
        let value = match deadline(timeout_ms).instant() {
            Some(instant) => group.get_deadline(key, instant),
            None => group.get(key),
        };
        hand_out(out, groupcache_value(value?));
        Ok(())
    })
}

/// Gets the value of a key if it is in the memory of this process, else
/// `GROUPCACHE_STATUS_NOT_FOUND`. Never blocks, loads or fetches.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_group_try_get(
    group: Option<&groupcache_group>,
    key: *const c_char,
    key_len: usize,
    value_out: Option<&mut MaybeUninit<*mut groupcache_value>>,
) -> groupcache_status {
    status(|| {
        let (group, out) = (group_of(group)?, given(value_out, "value_out")?);
        // SAFETY: the header demands `key_len` bytes.
        let key = unsafe { text(key, key_len, "key") }?;
        let value = group.try_get(key).ok_or(Error::NotFound)?;
        hand_out(out, groupcache_value(value));
        Ok(())
    })
}

/// Gets the values of many keys, with one request for each owner. Blocks until all are here, at most
/// `timeout_ms`. Each key has an outcome of its own: this fails only if an argument cannot be used.
///
/// `keys` and `key_lens` have `count` entries each. Free the values with `groupcache_values_free`.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_group_get_many(
    group: Option<&groupcache_group>,
    keys: *const *const c_char,
    key_lens: *const usize,
    count: usize,
    timeout_ms: u64,
    values_out: Option<&mut MaybeUninit<*mut groupcache_values>>,
) -> groupcache_status {
    status(|| {
        let (group, out) = (group_of(group)?, given(values_out, "values_out")?);
        // SAFETY: the header demands `count` of each.
        let keys = unsafe { list(keys, count, "keys") }?;
        // SAFETY: as above.
        let lens = unsafe { list(key_lens, count, "key_lens") }?;
        let pairs = keys.iter().zip(lens);
        // SAFETY: the header demands of each key that it has its length.
        let keys = pairs.map(|(&key, &len)| unsafe { text(key, len, "keys") });
        let keys: Vec<&str> = keys.collect::<Result<_, _>>()?;
        let values = match deadline(timeout_ms).instant() {
            Some(instant) => group.get_many_deadline(&keys, instant),
            None => group.get_many(&keys),
        };
        hand_out(out, groupcache_values(values));
        Ok(())
    })
}

/// Gives a key a value: at its owner, while all other nodes delete theirs. The bytes are copied.
/// `ttl_ms` is as for `groupcache_load_value`. Blocks until all have answered or their time is up.
///
/// `GROUPCACHE_STATUS_UNREACHED` if peers could not be told, whom the text names. They are told to
/// remove theirs as soon as they answer; if the owner is among them, the value is not set.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_group_set(
    group: Option<&groupcache_group>,
    key: *const c_char,
    key_len: usize,
    bytes: *const u8,
    len: usize,
    ttl_ms: u64,
) -> groupcache_status {
    status(|| {
        let group = group_of(group)?;
        // SAFETY: the header demands `key_len` bytes.
        let key = unsafe { text(key, key_len, "key") }?;
        // SAFETY: the header demands `len` bytes.
        let value = Value::copy_from(unsafe { list(bytes, len, "bytes") }?);
        let ttl = ttl(ttl_ms);
        Ok(group.set(key, Loaded { value, ttl })?)
    })
}

/// Removes the value of a key, from this node and from all peers. Blocks until all have answered or
/// their time is up. A get that starts on any of them after this has returned sees no value whose
/// load began before.
///
/// `GROUPCACHE_STATUS_UNREACHED` if peers could not be told, whom the text names: it is removed
/// everywhere else, and they are told again as soon as they answer.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_group_remove(
    group: Option<&groupcache_group>,
    key: *const c_char,
    key_len: usize,
) -> groupcache_status {
    status(|| {
        let group = group_of(group)?;
        // SAFETY: the header demands `key_len` bytes.
        Ok(group.remove(unsafe { text(key, key_len, "key") }?)?)
    })
}

/// Removes all values of this group, from this node and from all peers. Blocks and fails as
/// `groupcache_group_remove`.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_group_clear(group: Option<&groupcache_group>) -> groupcache_status {
    status(|| Ok(group_of(group)?.clear()?))
}

/// Tells what happened in this group on this node. `size` is `sizeof(groupcache_group_stats)`:
/// so a program and a library of different versions agree on what both know. Fields that this
/// library does not know are set to 0.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_group_get_stats(
    group: Option<&groupcache_group>,
    stats_out: *mut groupcache_group_stats,
    size: usize,
) -> groupcache_status {
    status(|| {
        let stats = groupcache_group_stats::from(group_of(group)?.stats());
        // SAFETY: the header demands `size` bytes.
        unsafe { fill(stats_out, size, stats) }
    })
}

/// Frees a handle to a group. `NULL` is fine. The node goes on to serve the group. Where the node was
/// freed before, this waits up to 1 s until no loader of the group runs any more and its destructor
/// has returned.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_group_free(group: Option<Box<groupcache_group>>) {
    status(|| {
        // A forked child leaves alone what is its parent's.
        if let Some(Ok((group, end))) = group.map(|group| (*group).0.into_inner()) {
            drop(group);
            end.end_group();
            end.wait(PATIENCE);
        }
        Ok(())
    });
}
