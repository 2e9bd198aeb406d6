//! The group as peers see it: requests are answered here and never forwarded (I5).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::load::Role;
use super::pending::{AskedLoad, Pending};
use super::seats::{Room, Seats};
use super::{Obtained, Outcome, Shared, lost_leader};
use crate::cache::entry::Stored;
use crate::cache::key::KeyRef;
use crate::cluster::state::Cluster;
use crate::error::Error;
use crate::flight::table::Waiter;
use crate::protocol::account::{Charge, Requester};
use crate::protocol::dialect::Dialect;
use crate::protocol::hash::hash_of_key;
use crate::protocol::{
    Answer, BatchWriter, GroupCommand, Item, Response, Status, Terms, decode_set,
};
use crate::runtime::clock::Deadline;
use crate::runtime::flow::Flow;
use crate::runtime::sync::{Arc, RandomState, RwLock};
use crate::runtime::user_code;
use crate::stats::GroupStats;
use crate::stats::latency::Latencies;
use crate::value::{Cacheable, Value};

/// What becomes of a request at once.
pub(crate) enum Begun {
    Ready(Response),
    Pending(Pending),
}

/// A group of any type, as a node serves it.
pub(crate) trait Serve: Send + Sync {
    fn begin_get(self: Arc<Self>, key: &str, terms: &Terms, requester: &Requester) -> Begun;
    fn answer_put(&self, key: &str, body: &[u8], terms: &Terms, requester: &Requester) -> Response;
    fn answer_delete(&self, key: &str, terms: &Terms) -> Response;
    fn begin_command(self: Arc<Self>, body: &[u8], terms: &Terms, requester: &Requester) -> Begun;
    /// Lets the copy go of a value that another node owns, or all such copies.
    fn forget_copies(&self, key: Option<&str>);
    /// Offers what is in memory to those who own it now.
    fn hand_over(self: Arc<Self>, deadline: Deadline);
    fn stats(&self) -> GroupStats;
    fn latencies(&self) -> Latencies;
    fn hottest(&self, n: usize) -> Vec<(String, u64)>;
}

/// The groups of a node by name.
#[derive(Default)]
pub(crate) struct Registry {
    groups: RwLock<HashMap<String, Arc<dyn Serve>>>,
}

impl Registry {
    pub(super) fn add<V: Cacheable>(&self, group: &Arc<Shared<V>>) -> Result<(), Error> {
        let mut groups = self.groups.write();
        if groups.contains_key(&*group.name) {
            return Err(Error::GroupExists {
                name: (*group.name).into(),
            });
        }
        groups.insert(
            (*group.name).to_owned(),
            Arc::clone(group) as Arc<dyn Serve>,
        );
        Ok(())
    }

    /// Takes a group out; dropped by the caller, as it may be the last handle (I1).
    pub(crate) fn remove(&self, name: &str) -> Option<Arc<dyn Serve>> {
        self.groups.write().remove(name)
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<dyn Serve>> {
        self.groups.read().get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<(String, Arc<dyn Serve>)> {
        let groups = self.groups.read();
        let mut all: Vec<_> = groups
            .iter()
            .map(|(name, group)| (name.clone(), Arc::clone(group)))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

impl<V: Cacheable> Serve for Shared<V> {
    fn begin_get(self: Arc<Self>, key: &str, terms: &Terms, requester: &Requester) -> Begun {
        self.counters.served.add();
        let form = Form::Single(self.cluster.settings.dialect.spoken(terms.native));
        match self.serve_hit(self.cache.hash(key), terms.hits, requester.flow()) {
            Some(item) => {
                Begun::Ready(self.respond(form, [(key, item)].into_iter(), requester.charge()))
            }
            None => {
                let order = Order {
                    key: key.to_owned(),
                    item: None,
                    seat: None,
                };
                self.begin_loads(vec![order], form, terms, requester, requester.charge())
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
        self.obey_removal(&[key], terms);
        Response::new(Status::Ok, self.ring())
    }

    fn begin_command(self: Arc<Self>, body: &[u8], terms: &Terms, requester: &Requester) -> Begun {
        let ready = |status| Begun::Ready(Response::new(status, self.ring()));
        match GroupCommand::decode(body) {
            Ok(GroupCommand::Get(keys)) => self.begin_get_many(&keys, terms, requester),
            Ok(GroupCommand::Remove(keys)) => {
                self.obey_removal(&keys, terms);
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
                    .map(|&(key, removed)| (key, self.bequeath_if_newer(key, removed)));
                let form = Form::Batch(self.max_batch(terms));
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
        self.cache.hottest(n)
    }
}

/// For how long a place in the queue is kept at most for one who is to ask again.
pub(super) const MAX_CLAIM: Duration = Duration::from_secs(3_600);

/// What a key of a request takes while the request is answered, besides its bytes, and what one takes
/// more that waits for its flight, about.
const ORDER_BYTES: usize = size_of::<Order>() + 32;
const SEAT_BYTES: usize = 768;

/// How long one who asks waits for its answer: not for ever, as it holds a connection meanwhile, and
/// not less than this node would ask for itself, as `loading` long before that is nonsense. Not longer
/// than a place in the queue is kept either, whatever is set.
pub(super) fn patience_of(terms: &Terms, cluster: &Cluster) -> Duration {
    let settings = &cluster.settings;
    let most = settings.load_timeout.max(settings.fetch_timeout / 2);
    let patience = terms.patience.unwrap_or(settings.load_timeout);
    patience.min(most).min(MAX_CLAIM)
}

impl<V: Cacheable> Shared<V> {
    pub(super) fn ring(&self) -> u64 {
        self.cluster.members().fingerprint()
    }

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
        let form = Form::Batch(self.max_batch(terms));
        let mut charge = requester.charge();
        let orders = self.take_orders(keys, terms, requester.flow(), &mut charge);
        if orders.is_empty() && !keys.is_empty() {
            return Begun::Ready(self.respond_to_error(&Error::Overloaded));
        }
        if !terms.peeks {
            self.counters.served.add_many(orders.len());
        }
        self.begin_loads(orders, form, terms, requester, charge)
    }

    /// What there is to say at once of the first of `keys`. What does not fit is asked for again: it
    /// need not be encoded now, nor be kept where others have taken the room.
    fn take_orders(
        self: &Arc<Self>,
        keys: &[(&str, u32)],
        terms: &Terms,
        flow: Flow,
        charge: &mut Charge,
    ) -> Vec<Order> {
        let max = self.max_batch(terms);
        let (mut orders, mut bytes) = (Vec::new(), 0);
        for &(key, hits) in keys {
            if bytes > max || !charge.grow(ORDER_BYTES + key.len()) {
                break;
            }
            let hashed = self.cache.hash(key);
            let item = match terms.peeks {
                true => Some(self.bequeath(hashed)),
                false => self.serve_hit(hashed, hits, flow),
            };
            let length = item.as_ref().map_or(0, Item::value_len);
            if !charge.grow(length) {
                break;
            }
            bytes += length;
            orders.push(Order {
                key: key.to_owned(),
                item,
                seat: None,
            });
        }
        orders
    }

    /// What there is to say of a key of which that is known in memory.
    fn serve_hit(self: &Arc<Self>, key: KeyRef<'_>, hits: u32, flow: Flow) -> Option<Item> {
        let Some((found, rate)) = self.cache.answer(key, hits) else {
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
            self.renew(key, flow);
        }
        Some(self.item_of_value(key.text(), &found.value, found.expires, rate))
    }

    /// Has those keys loaded of which there is nothing to say yet. `charge` pays for what is known.
    fn begin_loads(
        self: &Arc<Self>,
        mut orders: Vec<Order>,
        form: Form,
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
            // Nobody would wait for a load: what came of it might be lost, and be loaded again (P1).
            for order in &mut orders {
                let loading = || Item::Status(Status::Loading, String::new());
                order.item.get_or_insert_with(loading);
            }
        }
        let waiters = self.queue_orders(&mut orders, load_deadline, requester.flow(), &mut charge);
        if waiters.is_empty() {
            let items = orders.into_iter().map(|order| (order.key, order.item));
            let items = items.filter_map(|(key, item)| Some((key, item?)));
            return Begun::Ready(self.respond(form, items, charge));
        }
        let room = match form {
            // A single value is answered as soon as it is there.
            Form::Single(_) => Room::endless(),
            Form::Batch(max) => Room::new(max, requester.charge()),
        };
        let seats = Seats::new(self, room, waiters);
        let load = AskedLoad {
            deadline: load_deadline,
            falls_back: terms.falls_back,
        };
        let asked = Asked {
            orders,
            form,
            charge,
        };
        Begun::Pending(Pending::new(seats, asked, now + patience, load))
    }

    /// Waits for the flights of the keys of which there is nothing to say yet, and leaves those that
    /// are new to the pool. A key that stands among the orders twice has one seat. One for which there
    /// is no room is overloaded.
    fn queue_orders(
        self: &Arc<Self>,
        orders: &mut [Order],
        deadline: Deadline,
        flow: Flow,
        charge: &mut Charge,
    ) -> Vec<Waiter<Outcome<V>>> {
        let (mut waiters, mut new) = (Vec::new(), Vec::new());
        let mut seats: HashMap<&str, usize, RandomState> = HashMap::default();
        for order in orders.iter_mut().filter(|order| order.item.is_none()) {
            if let Some(&seat) = seats.get(&*order.key) {
                order.seat = Some(seat);
                continue;
            }
            if !charge.grow(SEAT_BYTES + 2 * order.key.len()) {
                order.item = Some(item_of_error(&Error::Overloaded));
                continue;
            }
            let (waiter, queued) = self.loads.queue(self.cache.hash(&order.key), deadline);
            order.seat = Some(waiters.len());
            seats.insert(&order.key, waiters.len());
            waiters.push(waiter);
            new.extend(queued);
        }
        let at_once = self.bulkhead.max();
        self.queue_loads(new, at_once, Role::Owner, flow);
        self.queue_too(&waiters, at_once, Role::Owner, flow);
        waiters
    }

    /// The answer to a request, of what there is to say of its keys, for which `charge` pays: for what
    /// is there already, and for the answer where that is a copy.
    pub(super) fn respond<K: AsRef<str>>(
        &self,
        form: Form,
        mut items: impl Iterator<Item = (K, Item)>,
        charge: Charge,
    ) -> Response {
        match form {
            Form::Single(requester) => match items.next() {
                Some((_, item)) if requester == Dialect::Golang => {
                    Response::of(self.ring(), item.for_golang())
                }
                Some((_, item)) => Response::of(self.ring(), item),
                None => Response::text(Status::BadRequest, self.ring(), "there is no key"),
            },
            Form::Batch(max) => self.respond_to_batch(max, items, charge),
        }
    }

    fn respond_to_batch<K: AsRef<str>>(
        &self,
        max: usize,
        items: impl Iterator<Item = (K, Item)>,
        mut charge: Charge,
    ) -> Response {
        let mut batch = BatchWriter::new(max);
        for (key, mut item) in items {
            if !charge.grow(item.value_len()) {
                if !batch.is_empty() {
                    break;
                }
                item = item_of_error(&Error::Overloaded);
            }
            // What does not fit is asked for again.
            if !batch.push(hash_of_key(&self.name, key.as_ref()), item) {
                break;
            }
        }
        Response::batch(self.ring(), batch, charge)
    }

    /// What there is to say of a key whose load has ended.
    pub(super) fn item(&self, key: &str, outcome: Outcome<V>) -> Item {
        match self.or_stand_in(self.cache.hash(key), outcome) {
            // Just loaded: there is no rate yet.
            Ok(obtained) => {
                self.item_of_bytes(key, self.encode_landed(&obtained), obtained.expires, 0.0)
            }
            Err(error) => item_of_error(&error),
        }
    }

    pub(super) fn item_of_value(
        &self,
        key: &str,
        value: &Stored<V>,
        expires: Option<Instant>,
        rate: f64,
    ) -> Item {
        self.item_of_bytes(key, self.encode_stored(value), expires, rate)
    }

    /// Removes what a peer says.
    fn obey_removal(&self, keys: &[&str], terms: &Terms) {
        let told = self.cluster.change_info(terms);
        for key in keys {
            match terms.copies {
                true => self.drop_copy(key),
                false => self.invalidate(key, told),
            }
        }
    }

    pub(super) fn encode_stored(&self, value: &Stored<V>) -> Result<Value, Error> {
        value
            .get()
            .map_or_else(|| Err(lost_leader()), |value| self.encode_for_peers(value))
    }

    fn item_of_bytes(
        &self,
        key: &str,
        bytes: Result<Value, Error>,
        expires: Option<Instant>,
        rate: f64,
    ) -> Item {
        let value = match bytes {
            Ok(bytes) => bytes,
            Err(error) => return item_of_error(&error),
        };
        let now = self.cluster.clock.now();
        Item::Value(Answer {
            value,
            rate: Some(rate),
            remaining: expires.map(|expires| expires.saturating_duration_since(now)),
            key_hash: Some(hash_of_key(&self.name, key)),
        })
    }

    /// The bytes of a value, made once for all who wait for the flight that brought it.
    fn encode_landed(&self, obtained: &Obtained<V>) -> Result<Value, Error> {
        let Some(encoded) = &obtained.encoded else {
            return self.encode_stored(&obtained.value);
        };
        if let Some(encoded) = encoded.get() {
            return encoded.clone();
        }
        // User code, so not inside the cell: should two come here at once, both encode.
        let bytes = self.encode_stored(&obtained.value);
        let _ = encoded.set(bytes.clone());
        bytes
    }

    fn respond_to_error(&self, error: &Error) -> Response {
        Response::of(self.ring(), item_of_error(error))
    }
}

/// How what there is to say of the keys of a request becomes one answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// There is one key, and this is what the requester speaks.
    Single(Dialect),
    /// A batch of up to so many bytes.
    Batch(usize),
}

/// What a request asks for.
pub(super) struct Asked {
    pub(super) orders: Vec<Order>,
    pub(super) form: Form,
    /// What pays for it.
    pub(super) charge: Charge,
}

/// A key of a request, and what there is to say of it, if that is known yet.
pub(super) struct Order {
    pub(super) key: String,
    pub(super) item: Option<Item>,
    /// The seat of the one who waits for its flight.
    pub(super) seat: Option<usize>,
}

/// The longest answer to a batch, in bytes, unless its first value alone is longer.
const MAX_BATCH: usize = 4 << 20;

/// What to say of a key without a value.
pub(super) fn item_of_error(error: &Error) -> Item {
    let status = match error {
        Error::NotFound => Status::NotFound,
        Error::Overloaded | Error::Thread { .. } => Status::Overloaded,
        Error::ValueTooLarge { bytes, .. } => return Item::TooLarge(*bytes),
        _ => Status::LoadFailed,
    };
    // The text of a loader's error is user code.
    let text = user_code::call(|| error.to_string());
    Item::Status(status, text.unwrap_or_else(|panicked| panicked.0))
}
