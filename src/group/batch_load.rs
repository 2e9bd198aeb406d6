//! Loading many keys at once, by the batch loader.

use super::load::{Role, refuse, result_of};
use super::outcome::Outcome;
use super::shared::Shared;
use crate::error::Error;
use crate::flight::leader::Guard;
use crate::loader::BatchLoader;
use crate::runtime::clock::Deadline;
use crate::runtime::sync::Arc;
use crate::runtime::user_code;
use crate::value::Cacheable;

impl<V: Cacheable> Shared<V> {
    /// Loads the values of several flights at once, and ends them. The outcomes are in the order of
    /// `guards`.
    pub(super) fn run_batch_loader(
        self: &Arc<Self>,
        load_many: &BatchLoader<V>,
        guards: Vec<Guard<Outcome<V>>>,
        role: Role,
        is_part: bool,
    ) -> Vec<Outcome<V>> {
        if role != Role::Owner {
            return self.load_together(load_many, guards, role, is_part);
        }
        let mut outcomes = Vec::with_capacity(guards.len());
        let mut rest = Vec::new();
        for taken_over in self.take_over_many(guards, Deadline::NEVER, Role::Owner) {
            match taken_over {
                Ok(outcome) => outcomes.push(Some(outcome)),
                Err(guard) => {
                    outcomes.push(None);
                    rest.push(guard);
                }
            }
        }
        let loaded = self.load_together(load_many, rest, role, is_part);
        let mut loaded = loaded.into_iter();
        let or_loaded = |outcome: Option<_>| outcome.or_else(|| loaded.next());
        outcomes.into_iter().filter_map(or_loaded).collect()
    }

    /// Runs the batch loader for flights that are led, and ends them.
    fn load_together(
        self: &Arc<Self>,
        load_many: &BatchLoader<V>,
        guards: Vec<Guard<Outcome<V>>>,
        role: Role,
        is_part: bool,
    ) -> Vec<Outcome<V>> {
        if guards.is_empty() {
            return Vec::new();
        }
        let Some(permit) = self.bulkhead.enter(&self.name, is_part) else {
            return guards.into_iter().map(refuse).collect();
        };
        let leading: Vec<_> = guards.iter().map(Guard::lead).collect();
        self.counters.loads.add_many(guards.len());
        self.counters.loader_runs.add();
        let keys: Vec<&str> = guards.iter().map(|guard| guard.key().text()).collect();
        let loaded = self.timed_load(&keys, || user_code::load(|| load_many(&keys)));
        drop(permit);
        let mut loaded = result_of(loaded);
        let finish = |guard: Guard<Outcome<V>>| {
            let of_key = match &mut loaded {
                Ok(found) => found.remove(guard.key().text()).ok_or(Error::NotFound),
                Err(error) => Err(error.clone()),
            };
            let of_key = of_key.and_then(|loaded| self.weigh_loaded(loaded));
            self.finish_load(guard, Deadline::NEVER, of_key, role)
        };
        let outcomes = guards.into_iter().map(finish).collect();
        drop(leading);
        // Values of keys that nobody asked for are dropped one by one, should the drop of one panic.
        let unasked = loaded.into_iter().flatten();
        unasked.for_each(|(_, loaded)| user_code::dispose(loaded));
        outcomes
    }
}
