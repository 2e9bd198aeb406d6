//! A group as peers see it: requests are answered here and never forwarded (I5).

use std::collections::HashMap;

use super::answer::item_of_error;
use super::load::Role;
use super::outcome::Outcome;
use super::pending::Pending;
use super::registry::{Begun, Serve};
use super::request::{
    AnswerForm, KEY_BYTES, LoadTerms, RequestKey, RequestKeys, WAITER_BYTES, patience_of,
};
use super::shared::Shared;
use super::waiter_set::{ValueBudget, WaiterSet};
use crate::cache::entry::Tier;
use crate::cache::key::KeyRef;
use crate::cache::shards::Found;
use crate::error::Error;
use crate::flight::waiter::Waiter;
use crate::protocol::account::{Charge, Requester};
use crate::protocol::{GroupCommand, Item, Response, Status, Terms, decode_set};
use crate::runtime::clock::Deadline;
use crate::runtime::flow::Flow;
use crate::runtime::sync::{Arc, RandomState};
use crate::runtime::user_code;
use crate::stats::GroupStats;
use crate::stats::latency::Latencies;
use crate::value::Cacheable;

/// The longest answer to a batch, in bytes, unless its first value alone is longer.
const MAX_BATCH: usize = 4 << 20;

impl<V: Cacheable> Serve for Shared<V> {
    fn begin_get(self: Arc<Self>, key: &str, terms: &Terms, requester: &Requester) -> Begun {
        self.counters.served.add();
        let form = AnswerForm::Single(self.cluster.settings.dialect.spoken(terms.native));
        match self.serve_hit(
            self.cache.hash(key),
            terms.hits,
            role_of(terms),
            requester.flow(),
        ) {
            Some(item) => {
                Begun::Ready(self.respond(form, [(key, item)].into_iter(), requester.charge()))
            }
            None => {
                let key = RequestKey {
                    key: key.to_owned(),
                    item: None,
                    waiter: None,
                };
                self.begin_loads(vec![key], form, terms, requester, requester.charge())
            }
        }
    }

    fn answer_put(&self, key: &str, body: &[u8], terms: &Terms, requester: &Requester) -> Response {
        // The value is copied out of the body.
        let Some(_copying) = requester.charge_copy(body.len()) else {
            return self.respond_to_error(&Error::Overloaded);
        };
        let (bytes, life) = match decode_set(&self.name, key, body) {
            Ok(set) => set,
            Err(error) => return Response::text(Status::BadRequest, self.ring(), error.0),
        };
        if bytes.len() > self.cluster.settings.max_value {
            return Response::too_large(self.ring(), bytes.len());
        }
        let value = match user_code::load(|| self.codec.decode(bytes)) {
            Ok(Ok(value)) => value,
            undecoded => {
                user_code::dispose(undecoded);
                let text = "the value cannot be decoded";
                return Response::text(Status::BadRequest, self.ring(), text);
            }
        };
        match self.put(key, value, life, self.cluster.change_info(terms)) {
            Ok(true) => Response::new(Status::Ok, self.ring()),
            Ok(false) => {
                let text = "its sender has changed the key since";
                Response::text(Status::Superseded, self.ring(), text)
            }
            Err(error) => self.respond_to_error(&error),
        }
    }

    fn answer_delete(&self, key: &str, terms: &Terms) -> Response {
        self.remove_for_peer(&[key], terms);
        Response::new(Status::Ok, self.ring())
    }

    fn begin_command(self: Arc<Self>, body: &[u8], terms: &Terms, requester: &Requester) -> Begun {
        let ready = |status| Begun::Ready(Response::new(status, self.ring()));
        match GroupCommand::decode(body) {
            Ok(GroupCommand::Get(keys)) => self.begin_get_many(&keys, terms, requester),
            Ok(GroupCommand::Remove(keys)) => {
                self.remove_for_peer(&keys, terms);
                ready(Status::Ok)
            }
            Ok(GroupCommand::Offer(keys)) => self.begin_take_over(&keys, terms, requester),
            Ok(GroupCommand::Clear) if terms.copies => {
                self.drop_copies();
                ready(Status::Ok)
            }
            Ok(GroupCommand::Clear) => {
                self.invalidate_all(self.cluster.change_info(terms));
                ready(Status::Ok)
            }
            Ok(GroupCommand::Peek(keys)) => {
                let items = keys
                    .iter()
                    .map(|&(key, removed)| (key, self.peek_if_applied(key, removed)));
                let form = AnswerForm::Batch(self.max_batch(terms));
                Begun::Ready(self.respond(form, items, requester.charge()))
            }
            Err(error) => Begun::Ready(Response::text(error.status(), self.ring(), error.0)),
        }
    }

    fn forget_copies(&self, key: Option<&str>) {
        match key {
            Some(key) => self.drop_copy(key),
            None => self.drop_copies(),
        }
    }

    fn hand_over(self: Arc<Self>, deadline: Deadline) {
        self.offer(deadline);
    }

    fn stats(&self) -> GroupStats {
        Shared::stats(self)
    }

    fn latencies(&self) -> Latencies {
        Shared::latencies(self)
    }

    fn hottest(&self, n: usize) -> Vec<(String, u64)> {
        Shared::hottest(self, n)
    }
}

impl<V: Cacheable> Shared<V> {
    /// The longest answer that the requester and this node agree on, in bytes.
    fn max_batch(&self, terms: &Terms) -> usize {
        let own_max = self.cluster.settings.limits.max_body.min(MAX_BATCH);
        terms.max_body.map_or(own_max, |max| max.min(own_max))
    }

    fn begin_get_many(
        self: Arc<Self>,
        keys: &[(&str, u32)],
        terms: &Terms,
        requester: &Requester,
    ) -> Begun {
        let form = AnswerForm::Batch(self.max_batch(terms));
        let mut charge = requester.charge();
        let first = self.first_keys(keys, terms, requester.flow(), &mut charge);
        if first.is_empty() && !keys.is_empty() {
            return Begun::Ready(self.respond_to_error(&Error::Overloaded));
        }
        if !terms.peeks {
            self.counters.served.add_many(first.len());
        }
        self.begin_loads(first, form, terms, requester, charge)
    }

    /// The first of `keys`, as many as fit into the answer and as `charge` can pay for, each with its item
    /// if that is in memory. The requester asks for the rest again: it need not be encoded now, nor be
    /// held.
    fn first_keys(
        self: &Arc<Self>,
        keys: &[(&str, u32)],
        terms: &Terms,
        flow: Flow,
        charge: &mut Charge,
    ) -> Vec<RequestKey> {
        let max = self.max_batch(terms);
        let (mut first, mut bytes) = (Vec::new(), 0);
        for &(key, hits) in keys {
            if bytes > max || !charge.grow(KEY_BYTES + key.len()) {
                break;
            }
            let hashed = self.cache.hash(key);
            let item = match terms.peeks {
                true => Some(self.peek(hashed)),
                false => self.serve_hit(hashed, hits, role_of(terms), flow),
            };
            let length = item.as_ref().map_or(0, Item::value_len);
            if !charge.grow(length) {
                break;
            }
            bytes += length;
            first.push(RequestKey {
                key: key.to_owned(),
                item,
                waiter: None,
            });
        }
        first
    }

    /// The item of a key from memory, if there is one.
    fn serve_hit(
        self: &Arc<Self>,
        key: KeyRef<'_>,
        hits: u32,
        role: Role,
        flow: Flow,
    ) -> Option<Item> {
        let is_of_use = |(found, _): &(Found<V>, f64)| {
            role != Role::Deputy || found.tier == Tier::Main // as `recheck`
        };
        let answer = self.cache.answer(key, hits).filter(is_of_use);
        let Some((found, rate)) = answer else {
            let absences = self.absences.as_ref();
            if absences.is_some_and(|absences| absences.recheck(key)) {
                self.counters.served_hits.add();
                return Some(item_of_error(&Error::NotFound));
            }
            let outcome = self.failed_lately(key)?;
            return Some(self.item(key.text(), outcome));
        };
        self.counters.served_hits.add();
        if found.is_stale {
            self.renew(key, role, flow);
        }
        Some(self.item_of_value(key.text(), &found.value, found.expires, rate))
    }

    /// Has the keys without an item loaded. `charge` pays for the keys and the items.
    fn begin_loads(
        self: &Arc<Self>,
        mut keys: Vec<RequestKey>,
        form: AnswerForm,
        terms: &Terms,
        requester: &Requester,
        mut charge: Charge,
    ) -> Begun {
        let now = self.cluster.clock.now();
        let patience = patience_of(terms, &self.cluster);
        let load_deadline = terms
            .remaining
            .map_or(Deadline::NEVER, |remaining| Deadline::after(now, remaining));
        if patience.is_zero() {
            // The requester would not wait for a load: its value might be lost, and be loaded again (P1).
            for key in &mut keys {
                let loading = || Item::Status(Status::Loading, String::new());
                key.item.get_or_insert_with(loading);
            }
        }
        let (role, flow) = (role_of(terms), requester.flow());
        let waiters = self.queue_keys(&mut keys, load_deadline, role, flow, &mut charge);
        if waiters.is_empty() {
            let items = keys.into_iter().map(|key| (key.key, key.item));
            let items = items.filter_map(|(key, item)| Some((key, item?)));
            return Begun::Ready(self.respond(form, items, charge));
        }
        let budget = match form {
            // A single value is answered as soon as it is loaded.
            AnswerForm::Single(_) => ValueBudget::unlimited(),
            AnswerForm::Batch(max) => ValueBudget::new(max, requester.charge()),
        };
        let set = WaiterSet::new(self, budget, waiters);
        let load = LoadTerms {
            deadline: load_deadline,
            falls_back: terms.falls_back,
        };
        let keys = RequestKeys { keys, form, charge };
        Begun::Pending(Pending::new(set, keys, now + patience, load))
    }

    /// Waits for the flights of the keys without an item, and leaves new flights to the pool. A key that
    /// stands in the request twice has one waiter. A key that `charge` cannot pay for is overloaded.
    fn queue_keys(
        self: &Arc<Self>,
        keys: &mut [RequestKey],
        deadline: Deadline,
        role: Role,
        flow: Flow,
        charge: &mut Charge,
    ) -> Vec<Waiter<Outcome<V>>> {
        let (mut waiters, mut new) = (Vec::new(), Vec::new());
        let mut indexes: HashMap<&str, usize, RandomState> = HashMap::default();
        for key in keys.iter_mut().filter(|key| key.item.is_none()) {
            if let Some(&index) = indexes.get(&*key.key) {
                key.waiter = Some(index);
                continue;
            }
            if !charge.grow(WAITER_BYTES + 2 * key.key.len()) {
                key.item = Some(item_of_error(&Error::Overloaded));
                continue;
            }
            let (waiter, queued) = self.loads.queue(self.cache.hash(&key.key), deadline);
            key.waiter = Some(waiters.len());
            indexes.insert(&key.key, waiters.len());
            waiters.push(waiter);
            new.extend(queued);
        }
        let at_once = self.bulkhead.max();
        self.queue_loads(new, at_once, role, flow);
        self.queue_too(&waiters, at_once, role, flow);
        waiters
    }

    /// Carries out a removal that a peer has sent: of the values, or of copies alone.
    fn remove_for_peer(&self, keys: &[&str], terms: &Terms) {
        let info = self.cluster.change_info(terms);
        for key in keys {
            match terms.copies {
                true => self.drop_copy(key),
                false => self.invalidate(key, info),
            }
        }
    }
}

/// Why this node loads what a peer requests.
fn role_of(terms: &Terms) -> Role {
    match terms.as_deputy {
        true => Role::Deputy,
        false => Role::Owner,
    }
}
