//! A request of a peer for keys, and for how long it may wait.

use std::time::Duration;

use crate::cluster::state::Cluster;
use crate::protocol::account::Charge;
use crate::protocol::dialect::Dialect;
use crate::protocol::{Item, Terms};
use crate::runtime::clock::Deadline;

/// The keys of a request.
pub(super) struct RequestKeys {
    pub(super) keys: Vec<RequestKey>,
    pub(super) form: AnswerForm,
    /// Pays for the keys and their items.
    pub(super) charge: Charge,
}

/// A key of a request, and its item in the answer, if that is known yet.
pub(super) struct RequestKey {
    pub(super) key: String,
    pub(super) item: Option<Item>,
    /// The index of the waiter for its flight, if the key waits for one.
    pub(super) waiter: Option<usize>,
}

/// How the items of a request become one answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum AnswerForm {
    /// There is one key, and the requester speaks this dialect.
    Single(Dialect),
    /// A batch of up to so many bytes.
    Batch(usize),
}

/// What the requester says about the load that it waits for.
#[derive(Clone, Copy)]
pub(super) struct LoadTerms {
    /// Until when the value is of use to it.
    pub(super) deadline: Deadline,
    /// Whether it loads the value itself if the load has not begun in time.
    pub(super) falls_back: bool,
}

/// The bytes of a key of a request while the request is answered, besides its text, about.
pub(super) const KEY_BYTES: usize = size_of::<RequestKey>() + 32;

/// The bytes more of a key that waits for its flight, about.
pub(super) const WAITER_BYTES: usize = 768;

/// For how long a flight stays queued at most for a requester that is to ask again.
pub(super) const MAX_CLAIM: Duration = Duration::from_secs(3_600);

/// How long a request waits for its answer: not for ever, as it holds a connection meanwhile, and not
/// less than this node would let an owner wait, as a requester takes an early `loading` for a failure.
/// Not longer than a flight stays queued either, whatever is set.
pub(super) fn patience_of(terms: &Terms, cluster: &Cluster) -> Duration {
    let settings = &cluster.settings;
    let most = settings.load_timeout.max(settings.fetch_timeout / 2);
    let patience = terms.patience.unwrap_or(settings.load_timeout);
    patience.min(most).min(MAX_CLAIM)
}
