//! `cluster`: the peers of a node, who owns which key, and what each of them has been told.
//!
//! Imports `runtime`, `protocol`, `transport`, `auth`, `stats` and `error`. In this order: `ring` (who owns a
//! key), `members` (the list of peers that is in force), `circuit` and `probe` (peers that do not answer),
//! `batching` (requests of many callers as one), `remote` (all that is known of one peer), `journal` (the
//! removals that some peer lacks), `change` (what a request that removes or sets carries), and `hub`, which
//! is what the groups of a node share.

pub(crate) mod batching;
pub(crate) mod change;
mod circuit;
pub(crate) mod hub;
pub(crate) mod journal;
pub(crate) mod members;
mod probe;
pub(crate) mod remote;
pub(crate) mod ring;
