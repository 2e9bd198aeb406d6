//! The loads that wait for a thread of the pool.
//!
//! A queued flight has no leader, and its callers only wait. The pool runs it, or a get without a
//! deadline that comes first.

use super::load::Role;
use super::outcome::Outcome;
use super::shared::Shared;
use crate::error::Error;
use crate::flight::queued::Queued;
use crate::flight::waiter::Waiter;
use crate::runtime::clock::Deadline;
use crate::runtime::flow::Flow;
use crate::runtime::pool::{self, Job, Refused, Work};
use crate::runtime::sync::Arc;
use crate::runtime::user_code;
use crate::value::Cacheable;

impl<V: Cacheable> Shared<V> {
    /// Leaves new flights to the pool, on behalf of `flow`, `at_once` of them at a time, or to any
    /// thread that runs them first. Those that cannot be queued end with the reason.
    pub(super) fn queue_loads(
        self: &Arc<Self>,
        mut queued: Vec<Queued<Outcome<V>>>,
        at_once: usize,
        role: Role,
        flow: Flow,
    ) {
        queued.retain(|queued| !self.finish_queued_if_cached(queued, role));
        let Some((taken, refused)) = self.offer_loads(&queued, at_once, role, flow) else {
            return;
        };
        for queued in &queued[taken..] {
            if let Some(guard) = queued.start(self.cluster.clock.now()) {
                guard.finish(Err(refused.clone()));
            }
        }
    }

    /// Queues flights that others have queued on behalf of `flow` too: each runs when the first of its
    /// entries has its turn. Those that a load waits for do not wait for their turn among all.
    pub(super) fn queue_too<'a>(
        self: &Arc<Self>,
        waiters: impl IntoIterator<Item = &'a Waiter<Outcome<V>>>,
        at_once: usize,
        role: Role,
        flow: Flow,
    ) {
        let flow = pool::effective_flow(flow);
        let waiters = waiters.into_iter();
        let queued: Vec<_> = waiters
            .filter_map(|waiter| waiter.queued_besides(flow))
            .collect();
        // Where the queue is full, they keep the entries they have.
        self.offer_loads(&queued, at_once, role, flow);
    }

    /// Has the pool run flights that are queued, on behalf of `flow`, `at_once` of them at a time, unless
    /// another thread does first. Where it does not take all of them, returns how many it has taken,
    /// from the first, and why it refused the others.
    pub(super) fn offer_loads(
        self: &Arc<Self>,
        queued: &[Queued<Outcome<V>>],
        at_once: usize,
        role: Role,
        flow: Flow,
    ) -> Option<(usize, Error)> {
        if queued.is_empty() {
            return None;
        }
        let pool = &self.cluster.pool;
        let (entries, refused) = match pool.submit(self.works(queued, role), at_once, flow) {
            Ok(entries) => (entries, Error::Overloaded),
            Err(Refused::Full | Refused::Closed) => (Vec::new(), Error::Overloaded),
            Err(Refused::NoThread(source)) => {
                let source = Arc::new(source);
                (Vec::new(), Error::Thread { source })
            }
        };
        debug_assert!(entries.len() <= queued.len());
        for (queued, &entry) in queued.iter().zip(&entries) {
            queued.hold(pool::effective_flow(flow), Box::new(pool.ticket(entry)));
        }
        if entries.len() == queued.len() {
            return None;
        }
        let now = self.cluster.clock.now();
        self.reports.full_pool(&self.name, now);
        Some((entries.len(), refused))
    }

    /// The jobs that run these flights: one for all where they are loaded together.
    fn works(self: &Arc<Self>, queued: &[Queued<Outcome<V>>], role: Role) -> Vec<Work> {
        let is_part = user_code::inside_a_loader();
        let work = |queued: &[Queued<Outcome<V>>]| Work {
            key_bytes: queued.iter().map(Queued::key_bytes).collect(),
            job: Box::new(PooledLoads {
                group: Arc::clone(self),
                queued: queued.to_vec(),
                role,
                is_part,
            }),
        };
        match self.batch_loader {
            Some(_) => vec![work(queued)],
            None => queued.chunks(1).map(work).collect(),
        }
    }

    /// Step 3 for a flight that is queued: ends it with what is in memory. Tells whether it has ended.
    pub(super) fn finish_queued_if_cached(&self, queued: &Queued<Outcome<V>>, role: Role) -> bool {
        let Some(key) = queued.key() else {
            return true; // nobody wants it any more
        };
        let Some(outcome) = self.recheck(key.as_ref(), role) else {
            return false;
        };
        if let Some(guard) = queued.start(self.cluster.clock.now()) {
            guard.finish(outcome);
        }
        true
    }
}

/// A job of the pool that runs flights: one, or several that are loaded together.
struct PooledLoads<V: Cacheable> {
    group: Arc<Shared<V>>,
    queued: Vec<Queued<Outcome<V>>>,
    role: Role,
    /// Whether they were queued inside a loader, and so are part of its load.
    is_part: bool,
}

impl<V: Cacheable> Job for PooledLoads<V> {
    fn run(self: Box<Self>) {
        let now = self.group.cluster.clock.now();
        let started = self.queued.iter().filter_map(|queued| queued.start(now));
        let mut guards: Vec<_> = started.collect();
        // The outcome of a load reaches its waiters by its guard.
        match (&self.group.batch_loader, guards.len()) {
            (Some(load_many), 2..) => {
                let group = &self.group;
                let _ = group.run_batch_loader(load_many, guards, self.role, self.is_part);
            }
            _ => {
                if let Some(guard) = guards.pop() {
                    let deadline = guard.latest_deadline().unwrap_or(Deadline::NEVER);
                    let group = &self.group;
                    let _ = group.run_load(guard, deadline, self.role, self.is_part);
                }
            }
        }
    }
}
