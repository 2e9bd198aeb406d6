//! `group`: a named cache with a loader, from a get to its value, from a change to all caches, and as
//! peers see it.
//!
//! Imports `flight`, `cache`, `loader`, `codec`, `protocol`, `stats` and `cluster`. Read in this order:
//!
//! * The state: `entry` and `outcome`, a value as callers and flights have it; `weight`, `lifetime`,
//!   `counters`, `timing`, `reports`, `absences`, `failures`, `bulkhead` and `capacity`, the parts of a group;
//!   `shared`, all of them together; `builder` and `build`, how a group is made.
//! * A get: `handle`, the methods of `Group`; `get`, its way to a value; `load`, `batch_load` and
//!   `queue`, if this process loads; `fetch` and `batch`, if another one does; `renew`, values past
//!   their expiry; `hand_over`, values of other nodes that need not be loaded; `offer`, how a node has
//!   others take its values over.
//! * Many keys: `waiter_set`, waiters of several flights; `many`, `get_many`.
//! * A change: `change`, `remove`, `set` and `clear` on all nodes; `invalidate` and `set`, on this one.
//! * A request of a peer: `request`, its keys; `answer`, what is answered; `pending`, a request parked
//!   while a load runs; `registry`, the groups of a node; `serve`, how a group answers.
//! * `sweep`: what expires is dropped; `stats`: what happened.

mod absences;
mod answer;
mod batch;
mod batch_load;
mod build;
mod builder;
mod bulkhead;
mod capacity;
mod change;
mod counters;
mod entry;
mod failures;
mod fetch;
mod get;
mod hand_over;
mod handle;
mod invalidate;
mod lifetime;
mod load;
mod many;
mod offer;
mod outcome;
mod pending;
mod queue;
mod registry;
mod renew;
mod reports;
mod request;
mod serve;
mod set;
mod shared;
mod stats;
mod sweep;
mod timing;
mod waiter_set;
mod weight;

pub use builder::GroupBuilder;
#[allow(deprecated, reason = "the old name stays for now")]
pub use entry::Got;
pub use entry::{Entry, Source};
pub use handle::Group;
pub use pending::Pending;
pub(crate) use registry::{Begun, Registry, Serve};
