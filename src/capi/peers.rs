//! `groupcache_peers`: what a node knows of its peers.

use std::ffi::{CString, c_char};
use std::mem::MaybeUninit;

use super::argument::{given, hand_out};
use super::boundary::{answer, status};
use super::node::groupcache_node;
use super::stats::fill;
use super::status::{Failure, groupcache_status};
use crate::stats::{CircuitState, PeerStats};

/// What a node knew of its peers, itself included, when it was asked. Any number of threads may read
/// it.
pub struct groupcache_peers(Vec<Known>);

struct Known {
    id: CString,
    address: CString,
    stats: PeerStats,
}

/// What a node knows of a peer.
#[repr(C)]
pub struct groupcache_peer {
    /// Its name on the ring. Valid until the peers are freed.
    pub id: *const c_char,
    /// Where it listens. Valid until the peers are freed.
    pub address: *const c_char,
    /// Its share of the keys, of 1.
    pub ring_share: f64,
    /// Calls made to it.
    pub calls: u64,
    /// Calls that failed: refused, silent, or with a protocol error.
    pub call_errors: u64,
    /// Calls that were given up because their caller's time was over.
    pub abandoned_calls: u64,
    /// Requests that were sent again, on another connection.
    pub retries: u64,
    /// How often it was found to be unreachable.
    pub circuit_openings: u64,
    /// Removals that it has missed, and that will be delivered when it is back.
    pub pending_removals: u64,
    /// Whether it is this node.
    pub is_this_node: bool,
    /// Whether it has said that it leaves, and has not come back since: it then owns nothing.
    pub has_left: bool,
    /// Whether it is unreachable: it failed too often, and is probed until it answers.
    pub is_unreachable: bool,
}

impl Known {
    fn new(stats: PeerStats) -> Known {
        // Addresses and ids come from texts that ended with NUL, or have none by their syntax.
        let text = |text: &str| CString::new(text).unwrap_or_default();
        Known {
            id: text(&stats.id),
            address: text(&stats.address),
            stats,
        }
    }

    fn peer(&self) -> groupcache_peer {
        let stats = &self.stats;
        groupcache_peer {
            id: self.id.as_ptr(),
            address: self.address.as_ptr(),
            ring_share: stats.ring_share,
            calls: stats.calls,
            call_errors: stats.call_errors,
            abandoned_calls: stats.abandoned_calls,
            retries: stats.retries,
            circuit_openings: stats.circuit_openings,
            pending_removals: stats.pending_removals,
            is_this_node: stats.is_this_node,
            has_left: stats.has_left,
            is_unreachable: stats.circuit == CircuitState::Open,
        }
    }
}

/// Tells what a node knows of its peers, itself included. Free it with `groupcache_peers_free`.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_node_peers(
    node: Option<&groupcache_node>,
    peers_out: Option<&mut MaybeUninit<*mut groupcache_peers>>,
) -> groupcache_status {
    status(|| {
        let out = given(peers_out, "peers_out")?;
        let stats = given(node, "node")?.get()?.stats();
        let peers = stats.peers.into_iter().map(Known::new);
        hand_out(out, groupcache_peers(peers.collect()));
        Ok(())
    })
}

/// How many peers there are. 0 for `NULL`.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_peers_len(peers: Option<&groupcache_peers>) -> usize {
    answer(0, || Ok(peers.map_or(0, |peers| peers.0.len())))
}

/// The peer at `index`. `size` is `sizeof(groupcache_peer)`, as for `groupcache_group_get_stats`.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_peers_get(
    peers: Option<&groupcache_peers>,
    index: usize,
    peer_out: *mut groupcache_peer,
    size: usize,
) -> groupcache_status {
    status(|| {
        let peers = given(peers, "peers")?;
        let Some(known) = peers.0.get(index) else {
            let len = peers.0.len();
            let reason = format!("the index {index} is beyond the {len} peers");
            return Err(Failure::Argument(reason));
        };
        // SAFETY: the header demands `size` bytes.
        unsafe { fill(peer_out, size, known.peer()) }
    })
}

/// Frees the peers. `NULL` is fine.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_peers_free(peers: Option<Box<groupcache_peers>>) {
    status(|| {
        drop(peers);
        Ok(())
    });
}
