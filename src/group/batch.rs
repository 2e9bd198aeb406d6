//! `Batch`: a request to an owner for many keys at once.

use std::iter;
use std::time::Duration;

use super::fetch::{Fetched, MAX_COMBINED_VALUE};
use super::load::Role;
use super::shared::Shared;
use crate::cache::key::{KeyRef, MAX_KEY_BYTES};
use crate::cluster::batching::Follower;
use crate::cluster::calls::CallLimit;
use crate::cluster::remote::{Failure, OwnedQuery, Query, QueryResult, Remote};
use crate::protocol::hash::hash_of_key;
use crate::protocol::{
    self, GroupCommand, Item, MAX_COMMAND, MAX_KEYS, ProtocolError, Status, Terms, decode_batch,
};
use crate::runtime::clock::Deadline;
use crate::runtime::sync::Arc;
use crate::transport::peer::{Call, Reply};
use crate::value::Cacheable;

/// The answer to one request for many keys.
pub(super) enum Batch {
    /// An item for each of the first of the keys.
    Items(Vec<Item>),
    NoSuchGroup,
    /// The peer does not know such requests.
    Unknown,
}

/// A key that is not in memory, and the index of its answer.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) at: usize,
    pub(super) key: KeyRef<'a>,
    /// Hits of a mirrored copy that its owner does not know of.
    pub(super) unreported: u32,
}

impl<'a> Wanted<'a> {
    /// The same, now that the owner knows of all hits.
    fn reported(self) -> Wanted<'a> {
        Wanted {
            unreported: 0,
            ..self
        }
    }
}

impl<V: Cacheable> Shared<V> {
    /// Asks the owner, or the deputy, for all of `wanted`, in as few requests as possible, again and again as long as it
    /// is loading. Calls `settle` with the index in `wanted` and the answer of each key, as soon as
    /// there is one: others wait for it.
    pub(super) fn ask_many(
        &self,
        owner: &Arc<Remote>,
        role: Role,
        wanted: &[Wanted<'_>],
        deadline: Deadline,
        mut settle: impl FnMut(usize, Result<Fetched, Failure>),
    ) {
        // From here on `at` is the index in `wanted`.
        let in_order = wanted.iter().enumerate();
        let mut open: Vec<_> = in_order.map(|(at, &one)| Wanted { at, ..one }).collect();
        self.counters.fetches.add_many(open.len());
        let until = self.end_of_patience();
        let rest = loop {
            // A request for one key is a simpler one.
            if open.len() < 2 || !owner.takes_batches() {
                break None;
            }
            let asked_at = self.cluster.clock.now();
            let patience = self.patience_of_batch(deadline);
            let queries = open
                .iter()
                .map(|one| self.query(one.key.text(), one.unreported));
            let terms = Terms {
                patience: Some(patience),
                max_body: Some(self.cluster.settings.limits.max_body),
                as_deputy: role == Role::Deputy,
                ..self.terms(deadline, 0)
            };
            let limit = self.cluster.limit();
            let items = match self.ask_batch(owner, queries, &terms, limit, deadline) {
                Ok(Batch::Items(items)) => items,
                Ok(Batch::Unknown) => break None,
                Ok(Batch::NoSuchGroup) => break Some(Ok(Fetched::NoSuchGroup)),
                Err(failure) => break Some(Err(failure)),
            };
            let mut loading = Vec::new();
            let answered = items.len();
            for (one, item) in open.drain(..answered).zip(items) {
                match Fetched::of(item) {
                    Some(answer) => settle(one.at, Ok(answer)),
                    None => loading.push(one.reported()),
                }
            }
            let is_all_loading = loading.len() == answered;
            open.append(&mut loading);
            if is_all_loading {
                if let Some(end) = self.still_loading(asked_at, patience, until) {
                    break Some(end);
                }
            }
        };
        for one in open {
            let ask = || self.ask_singly(owner, role, one.key, deadline, one.unreported);
            settle(one.at, rest.clone().unwrap_or_else(ask));
        }
    }

    /// The patience of a request for many keys. Less than for one key: values that are loaded already
    /// wait for those that are not, and are to arrive before the caller's time is up.
    fn patience_of_batch(&self, deadline: Deadline) -> Duration {
        let usual = self.patience() / 4;
        let left = deadline.remaining(self.cluster.clock.now());
        left.map_or(usual, |left| usual.min(left / 2))
    }

    /// The query for a key of this group.
    pub(super) fn query<'a>(&'a self, key: &'a str, hits: u32) -> Query<'a> {
        Query {
            group: &self.name,
            key,
            hits,
        }
    }

    /// Asks for as many, from the first, as fit into one request, which is for the group of the first.
    /// The request, and the hashes by which its answer is checked, are made of the queries alone: a
    /// caller that asks for others asks for exactly what they asked for (P3).
    pub(super) fn ask_batch<'a>(
        &self,
        owner: &Arc<Remote>,
        queries: impl Iterator<Item = Query<'a>>,
        terms: &Terms,
        limit: CallLimit,
        deadline: Deadline,
    ) -> Result<Batch, Failure> {
        let mut left = MAX_COMMAND;
        let mut queries = queries.take(MAX_KEYS).peekable();
        let group = queries.peek().map_or("", |first| first.group);
        let fits = |query: &Query<'_>| {
            let rest = left.checked_sub(query.key.len() + KEY_OVERHEAD);
            left = rest.unwrap_or(0);
            query.group == group && rest.is_some()
        };
        let queries = queries.take_while(fits);
        let keys: Vec<(&str, u32)> = queries.map(|query| (query.key, query.hits)).collect();
        let hashes = || keys.iter().map(|(key, _)| hash_of_key(group, key));
        let target = protocol::target(group, None);
        let call = Call::new("POST", target, terms.to_header())
            .with_body(GroupCommand::Get(keys.clone()).encode());
        let read = |status, reply: Reply| match status {
            Status::Ok => match decode_batch(reply.body, hashes())? {
                items if items.is_empty() => Err(ProtocolError("it answers for no key")),
                items => Ok(Batch::Items(items)),
            },
            Status::NoSuchGroup => Ok(Batch::NoSuchGroup),
            // The answers of older nodes that do not know the command.
            Status::BadRequest | Status::WrongMethod | Status::Foreign => Ok(Batch::Unknown),
            _ => Err(ProtocolError("it refuses the request")),
        };
        let batch = self.cluster.call(owner, call, limit, deadline, read)?;
        match batch {
            Batch::NoSuchGroup => self.report_missing_group(owner),
            Batch::Unknown => owner.set_no_batches(),
            Batch::Items(_) => {}
        }
        Ok(batch)
    }

    /// Asks for a key and for those of all `others` at once, as far as the owner has them in memory, and
    /// answers the others. `None` if this key is to be asked for by itself.
    pub(super) fn ask_together(
        &self,
        owner: &Arc<Remote>,
        own: Query<'_>,
        others: Vec<Follower<OwnedQuery, QueryResult>>,
        deadline: Deadline,
    ) -> Option<Result<Fetched, Failure>> {
        let terms = Terms {
            patience: Some(Duration::ZERO),
            max_body: Some(MAX_COMBINED_ANSWER),
            ..self.terms(deadline, 0)
        };
        let asked = others.iter().map(|follower| follower.query().query());
        let limit = self.cluster.limit();
        let queries = iter::once(own).chain(asked);
        match self.ask_batch(owner, queries, &terms, limit, deadline) {
            Ok(Batch::Items(items)) => {
                let mut items = items.into_iter();
                let own = items.next()?;
                for (follower, item) in others.into_iter().zip(items) {
                    follower.answer(Ok(item)); // a caller without an item asks by itself
                }
                Fetched::of(own).map(Ok)
            }
            Ok(Batch::NoSuchGroup | Batch::Unknown) => None,
            // The time of this caller was up, not that of the others (I6).
            Err(Failure::Deadline) => Some(Err(Failure::Deadline)),
            Err(failure) => {
                for follower in others {
                    follower.answer(Err(failure.clone()));
                }
                Some(Err(failure))
            }
        }
    }
}

/// The longest answer to several callers together, in bytes: large values gain nothing by combining.
const MAX_COMBINED_ANSWER: usize = 1 << 20;

const _: () = assert!(MAX_COMBINED_VALUE < MAX_COMBINED_ANSWER);

/// The bytes of a key in a command besides its text, at most.
const KEY_OVERHEAD: usize = 16;

const _: () = assert!(MAX_KEY_BYTES + KEY_OVERHEAD <= MAX_COMMAND); // any one key fits
