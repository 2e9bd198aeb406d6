//! `groupcache_node`: this process in the cluster.

use std::ffi::c_char;
use std::mem::MaybeUninit;
use std::time::Duration;

use super::argument::{c_text, given, hand_out, list, text};
use super::boundary::status;
use super::end::{End, PATIENCE};
use super::local::{Local, begin};
use super::setting::{groupcache_option, with_node_options};
use super::stats::{fill, groupcache_node_stats};
use super::status::{Failure, groupcache_status};
use super::value::groupcache_value;
use crate::error::Error;
use crate::node::Node;
use crate::runtime::sync::Arc;
use crate::value::Value;

/// This process in the cluster: it holds groups and knows the peers. All its functions may be called
/// from any thread, but for `groupcache_node_free`.
pub struct groupcache_node(Local<(Node, Arc<End>)>);

impl groupcache_node {
    pub(super) fn get(&self) -> Result<&Node, Failure> {
        self.0.get().map(|(node, _)| node)
    }

    pub(super) fn end(&self) -> Result<&Arc<End>, Failure> {
        self.0.get().map(|(_, end)| end)
    }
}

fn node_of(node: Option<&groupcache_node>) -> Result<&Node, Failure> {
    given(node, "node")?.get()
}

/// Makes the node that peers reach at `address`, such as "http://10.0.0.5:7000". It is alone until
/// `groupcache_node_set_peers`, and peers reach it once a server serves it. It starts no thread yet.
/// `GROUPCACHE_STATUS_FORKED` in a child of a process that had a node when it forked.
/// `options` may be `NULL` if there are none.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_node_new(
    address: *const c_char,
    options: *const groupcache_option,
    options_len: usize,
    node_out: Option<&mut MaybeUninit<*mut groupcache_node>>,
) -> groupcache_status {
    status(|| {
        let out = given(node_out, "node_out")?;
        begin()?;
        // SAFETY: the header demands a text that ends with NUL.
        let address = unsafe { c_text(address, "address") }?;
        // SAFETY: the header demands `options_len` of them.
        let options = unsafe { list(options, options_len, "options") }?;
        let node = with_node_options(Node::builder(address)?, options)?.build()?;
        let end = End::of(&node);
        hand_out(out, groupcache_node(Local::new((node, end))));
        Ok(())
    })
}

/// Replaces the list of all peers, by their addresses, this node included. Takes effect at once.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_node_set_peers(
    node: Option<&groupcache_node>,
    addresses: *const *const c_char,
    count: usize,
) -> groupcache_status {
    status(|| {
        let node = node_of(node)?;
        // SAFETY: the header demands `count` of them.
        let addresses = unsafe { list(addresses, count, "addresses") }?.iter();
        // SAFETY: the header demands texts that end with NUL.
        let addresses = addresses.map(|&address| unsafe { c_text(address, "addresses") });
        let addresses: Vec<&str> = addresses.collect::<Result<_, _>>()?;
        Ok(node.set_peers(addresses)?)
    })
}

/// Adds a peer to the list.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_node_add_peer(
    node: Option<&groupcache_node>,
    address: *const c_char,
) -> groupcache_status {
    status(|| {
        let node = node_of(node)?;
        // SAFETY: the header demands a text that ends with NUL.
        Ok(node.add_peer(unsafe { c_text(address, "address") }?)?)
    })
}

/// Removes a peer from the list; `GROUPCACHE_STATUS_NOT_FOUND` if it was not there.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_node_remove_peer(
    node: Option<&groupcache_node>,
    address: *const c_char,
) -> groupcache_status {
    status(|| {
        let node = node_of(node)?;
        // SAFETY: the header demands a text that ends with NUL.
        match node.remove_peer(unsafe { c_text(address, "address") }?)? {
            true => Ok(()),
            false => Err(Error::NotFound.into()),
        }
    })
}

/// Tells which peer owns a key, as this node sees it: its address, as a value.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_node_owner(
    node: Option<&groupcache_node>,
    key: *const c_char,
    key_len: usize,
    address_out: Option<&mut MaybeUninit<*mut groupcache_value>>,
) -> groupcache_status {
    status(|| {
        let (node, out) = (node_of(node)?, given(address_out, "address_out")?);
        // SAFETY: the header demands `key_len` bytes.
        let owner = node.owner(unsafe { text(key, key_len, "key") }?);
        hand_out(out, groupcache_value(Value::from(owner.address())));
        Ok(())
    })
}

/// Stops serving a group and forgets it; `GROUPCACHE_STATUS_NOT_FOUND` if there is none of this
/// name. Handles to it still serve their cache and load.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_node_remove_group(
    node: Option<&groupcache_node>,
    name: *const c_char,
) -> groupcache_status {
    status(|| {
        let node = node_of(node)?;
        // SAFETY: the header demands a text that ends with NUL.
        match node.remove_group(unsafe { c_text(name, "name") }?) {
            true => Ok(()),
            false => Err(Error::NotFound.into()),
        }
    })
}

/// Takes this node off the ring and hands over what it has in memory, for a process that is about to
/// end; stop its server afterwards. Blocks until that is done, at most about `timeout_ms`.
/// `GROUPCACHE_STATUS_UNREACHED` if peers could not be told, whom the text names.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_node_leave(
    node: Option<&groupcache_node>,
    timeout_ms: u64,
) -> groupcache_status {
    status(|| Ok(node_of(node)?.leave(Duration::from_millis(timeout_ms))?))
}

/// Tells what this node knows of itself. `size` is `sizeof(groupcache_node_stats)`, as for
/// `groupcache_group_get_stats`.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_node_get_stats(
    node: Option<&groupcache_node>,
    stats_out: *mut groupcache_node_stats,
    size: usize,
) -> groupcache_status {
    status(|| {
        let stats = groupcache_node_stats::from(node_of(node)?.stats());
        // SAFETY: the header demands `size` bytes.
        unsafe { fill(stats_out, size, stats) }
    })
}

/// Frees a node, whatever it returns. `NULL` is fine. Its groups end and its threads stop, unless a
/// server still serves it. Handles to its groups serve their cache and load, until they are freed too.
///
/// Once its servers are stopped and the handles to its groups freed, no loader runs any more and all
/// destructors have returned when this returns `GROUPCACHE_STATUS_OK`: the host may end. It waits for
/// that up to `timeout_ms`, and returns `GROUPCACHE_STATUS_DEADLINE` if a loader still runs. The thread
/// that runs it ends after it, and calls its destructor.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_node_close(
    node: Option<Box<groupcache_node>>,
    timeout_ms: u64,
) -> groupcache_status {
    status(|| match node {
        Some(node) => close(*node, Duration::from_millis(timeout_ms)),
        None => Ok(()),
    })
}

/// Frees a node, as `groupcache_node_close` with a timeout of 1 s, and does not tell whether that was
/// enough. `groupcache_group_free` and `groupcache_server_stop` wait as long where the node was freed
/// before.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_node_free(node: Option<Box<groupcache_node>>) {
    status(|| match node {
        Some(node) => close(*node, PATIENCE),
        None => Ok(()),
    });
}

fn close(node: groupcache_node, timeout: Duration) -> Result<(), Failure> {
    // A forked child leaves alone what is its parent's.
    let Ok((node, end)) = node.0.into_inner() else {
        return Ok(());
    };
    drop(node);
    end.wait(timeout)
        .then_some(())
        .ok_or(Error::Deadline.into())
}
