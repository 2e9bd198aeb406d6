//! `cluster`: the peers of a node, the owner of each key, and which removals each peer has received.
//!
//! Imports `runtime`, `protocol`, `transport`, `auth`, `stats`, `flight`, `error`, and the keys of `cache`.
//! In this order:
//!
//! * owners: `ring` (the owner of a key), and `journal` (the removals that are pending for a peer);
//! * one peer: `circuit` and `suspicion` (peers that do not answer), `batching` (requests of many
//!   callers as one), and `remote` (all that is known of a peer);
//! * all peers: `members` (the list of peers, and the rings that are in force), `left_peers` (peers that
//!   have left the list), `change` (what a request that removes or sets carries), `group_values` (the
//!   values of a group, as the rounds see them), and `state`, with the `Cluster` that the groups of a node share;
//! * what a `Cluster` does, a file for each task: `maintenance` (its rounds), `sent_request` (checks of
//!   answers), `calls` (calls to peers), `probe` (probes of peers), `peer_list` (changes of the list),
//!   `departure` (peers that leave the ring), `propagation` (changes of this node), `delivery` (of
//!   pending removals), `handover` (of the journal, when this node leaves), `tombstone_sync` (which keys
//!   were removed recently), and `node_stats`.

pub(crate) mod batching;
pub(crate) mod calls;
pub(crate) mod change;
mod circuit;
mod delivery;
mod departure;
pub(crate) mod group_values;
mod handover;
pub(crate) mod journal;
mod left_peers;
mod maintenance;
pub(crate) mod members;
mod node_stats;
pub(crate) mod peer_list;
mod probe;
pub(crate) mod propagation;
pub(crate) mod remote;
pub(crate) mod ring;
mod sent_request;
pub(crate) mod state;
mod suspicion;
mod tombstone_sync;
