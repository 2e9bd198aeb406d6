//! `Queue`: the jobs that wait for a thread. Fair, bounded, and without a lock.
//!
//! Jobs that were submitted together form a batch, and the batches of one [`Flow`] take turns, one job
//! at a time: a large batch does not delay all others. The flows take turns too, by the keys that ran for
//! them (start-time fair queueing: Goyal, Vin, Cheng, SIGCOMM 1996): a flow with many jobs does not delay
//! the others, however many batches it has.
//!
//! The queue is bounded in keys and in their bytes. Each flow may have as much as is left free for all
//! others (Choudhury and Hahne's "dynamic threshold", IEEE/ACM ToN 1998). So a flow that is alone takes
//! half of the queue, and each further one half of what is left: there is room for a newcomer unless very
//! many flows have very many jobs.

use std::collections::{BTreeMap, BTreeSet};

use super::job::{Job, Work};
use crate::runtime::flow::Flow;

/// How many keys may wait for a thread, and how many bytes they may have together.
pub(super) const MAX_QUEUED_KEYS: usize = 32_768;
pub(super) const MAX_QUEUED_BYTES: usize = 32 << 20;

#[derive(Default)]
pub(super) struct Queue {
    batches: BTreeMap<u64, Batch>,
    /// The flows that have jobs, or whose share of the time is used up for now.
    flows: BTreeMap<Flow, FlowQueue>,
    /// The flows that have a job to run now, in the order of their turns.
    turns: BTreeSet<Turn>,
    /// The flows that have no job, by the virtual time at which they may be forgotten.
    idle_flows: BTreeSet<(u64, Flow)>,
    /// How many keys ran for the flow whose turn was last: a flow that comes back or is new counts as
    /// if as many had run for it.
    virtual_time: u64,
    /// The last number that was given to a batch, a turn or a job.
    last_number: u64,
    queued_jobs: usize,
    queued_keys: usize,
    queued_bytes: usize,
}

/// When a flow has its turn: by how many keys ran for it. [`Flow::Load`] comes first: loads under way
/// hold a thread while they wait for it, and others wait for them.
type Turn = (bool, u64, Flow);

/// The jobs of one flow.
#[derive(Default)]
struct FlowQueue {
    /// The batches that have a job to run now, in the order of their turns.
    turns: BTreeMap<u64, u64>,
    keys: usize,
    bytes: usize,
    /// How many keys ran for this flow, in virtual time: at least [`Queue::virtual_time`] when its
    /// first job is queued.
    served: u64,
}

/// Jobs that were submitted together.
struct Batch {
    flow: Flow,
    jobs: BTreeMap<u64, Queued>,
    /// How many of them may run at once, and how many do.
    at_once: usize,
    running: usize,
    turn: Option<u64>,
}

/// A job in the queue, with what is left of it in keys and bytes.
pub(super) struct Queued {
    job: Box<dyn Job>,
    keys: usize,
    bytes: usize,
}

/// A key of a job in the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueuedKey {
    batch: u64,
    job: u64,
    bytes: usize,
}

impl Queue {
    /// Whether no job waits or runs.
    pub(super) fn is_idle(&self) -> bool {
        let is_idle = self.batches.is_empty();
        debug_assert!(
            !is_idle
                || self.turns.is_empty()
                    && (self.queued_jobs, self.queued_keys, self.queued_bytes) == (0, 0, 0),
            "the counts are those of the batches"
        );
        is_idle
    }

    /// How many jobs wait.
    pub(super) fn len(&self) -> usize {
        self.queued_jobs
    }

    /// The keys that wait, and their bytes.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.queued_keys, self.queued_bytes)
    }

    #[cfg(test)]
    pub(super) fn batches(&self) -> usize {
        self.batches.len()
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Queues as many of the jobs as there is room for, from the first on; gives the others back.
    pub(super) fn add_batch(
        &mut self,
        works: Vec<Work>,
        at_once: usize,
        flow: Flow,
    ) -> (Vec<QueuedKey>, Vec<Work>) {
        let number = self.next_number();
        let (mut queued_keys, mut jobs) = (Vec::new(), BTreeMap::new());
        let mut works = works.into_iter();
        let mut refused = Vec::new();
        for work in works.by_ref() {
            // A job without keys counts as one with one key.
            let keys = work.key_bytes.len().max(1);
            let bytes = work.key_bytes.iter().sum::<usize>();
            if !self.has_room(flow, keys, bytes) {
                refused.push(work);
                break;
            }
            self.queued_jobs += 1;
            self.count(flow, |keys_before, bytes_before| {
                *keys_before += keys;
                *bytes_before += bytes;
            });
            let job = self.next_number();
            queued_keys.extend(work.key_bytes.iter().map(|&bytes| QueuedKey {
                batch: number,
                job,
                bytes,
            }));
            let queued = Queued {
                job: work.job,
                keys,
                bytes,
            };
            jobs.insert(job, queued);
        }
        refused.extend(works);
        debug_assert!(self.queued_keys <= MAX_QUEUED_KEYS && self.queued_bytes <= MAX_QUEUED_BYTES);
        if !jobs.is_empty() {
            let batch = Batch {
                flow,
                jobs,
                at_once: at_once.max(1),
                running: 0,
                turn: None,
            };
            self.batches.insert(number, batch);
            self.give_turn(number);
        }
        (queued_keys, refused)
    }

    /// Whether there is room for a job, and then as much room left as its flow has taken. A load under
    /// way takes all that is free: what it waits for is a part of it.
    fn has_room(&self, flow: Flow, keys: usize, bytes: usize) -> bool {
        let free_keys = MAX_QUEUED_KEYS.saturating_sub(self.queued_keys);
        let free_bytes = MAX_QUEUED_BYTES.saturating_sub(self.queued_bytes);
        let own = |queue: &FlowQueue| (queue.keys, queue.bytes);
        let (own_keys, own_bytes) = match flow {
            Flow::Load => (0, 0),
            _ => self.flows.get(&flow).map_or((0, 0), own),
        };
        own_keys.saturating_add(keys) <= free_keys && own_bytes.saturating_add(bytes) <= free_bytes
    }

    /// Changes the keys and bytes that are queued in all, and those of one flow.
    fn count(&mut self, flow: Flow, change: impl Fn(&mut usize, &mut usize)) {
        change(&mut self.queued_keys, &mut self.queued_bytes);
        let virtual_time = self.virtual_time;
        let queue = self.flows.entry(flow).or_insert_with(|| FlowQueue {
            served: virtual_time,
            ..FlowQueue::default()
        });
        if queue.keys == 0 {
            self.idle_flows.remove(&(queue.served, flow));
            queue.served = queue.served.max(virtual_time);
        }
        change(&mut queue.keys, &mut queue.bytes);
        if queue.keys == 0 {
            self.idle_flows.insert((queue.served, flow));
            self.forget_idle_flows();
        }
    }

    /// Forgets the flows that have no job and for which no more keys ran than for the others.
    fn forget_idle_flows(&mut self) {
        let has_jobs = self.queued_jobs > 0;
        while let Some(&(served, flow)) = self.idle_flows.first() {
            if served > self.virtual_time && has_jobs {
                break;
            }
            self.idle_flows.remove(&(served, flow));
            self.flows.remove(&flow);
        }
    }

    /// Gives a batch its next turn among those of its flow, if it has a job that may run and has no
    /// turn yet.
    fn give_turn(&mut self, number: u64) {
        let next = self.next_number();
        let Some(batch) = self.batches.get_mut(&number) else {
            return;
        };
        if batch.turn.is_some() || batch.jobs.is_empty() || batch.running >= batch.at_once {
            return;
        }
        batch.turn = Some(next);
        let flow = batch.flow;
        if let Some(queue) = self.flows.get_mut(&flow) {
            queue.turns.insert(next, number);
            self.turns.insert(turn_of(flow, queue));
        }
    }

    /// Takes the turn of a batch back, if it has one.
    fn take_turn(&mut self, number: u64) {
        let Some(batch) = self.batches.get_mut(&number) else {
            return;
        };
        let (flow, turn) = (batch.flow, batch.turn.take());
        if let (Some(turn), Some(queue)) = (turn, self.flows.get_mut(&flow)) {
            queue.turns.remove(&turn);
            if queue.turns.is_empty() {
                self.turns.remove(&turn_of(flow, queue));
            }
        }
    }

    /// Takes the next job out, with the number of its batch.
    pub(super) fn pop(&mut self) -> Option<(u64, Box<dyn Job>)> {
        let &(_, served, flow) = self.turns.first()?;
        let (_, &number) = self.flows.get(&flow)?.turns.first_key_value()?;
        self.take_turn(number);
        let batch = self.batches.get_mut(&number)?;
        let (_, queued) = batch.jobs.pop_first()?;
        batch.running += 1;
        debug_assert!(batch.running <= batch.at_once);
        self.queued_jobs -= 1;
        if flow != Flow::Load {
            self.virtual_time = self.virtual_time.max(served);
        }
        self.charge(flow, queued.keys);
        self.count(flow, |keys, bytes| {
            *keys -= queued.keys;
            *bytes -= queued.bytes;
        });
        self.give_turn(number);
        Some((number, queued.job))
    }

    /// Notes that so many more keys run for a flow, which puts off its next turn.
    fn charge(&mut self, flow: Flow, keys: usize) {
        let Some(queue) = self.flows.get_mut(&flow) else {
            return;
        };
        let had_turn = self.turns.remove(&turn_of(flow, queue));
        queue.served = queue.served.saturating_add(keys as u64);
        if had_turn {
            self.turns.insert(turn_of(flow, queue));
        }
    }

    /// Notes that a job of a batch has ended.
    pub(super) fn end(&mut self, number: u64) {
        if let Some(batch) = self.batches.get_mut(&number) {
            batch.running -= 1;
        }
        self.give_turn(number);
        self.remove_if_empty(number);
    }

    fn remove_if_empty(&mut self, number: u64) {
        let Some(batch) = self.batches.get(&number) else {
            return;
        };
        if batch.jobs.is_empty() {
            let is_over = batch.running == 0;
            self.take_turn(number);
            if is_over {
                self.batches.remove(&number);
            }
        }
    }

    /// Takes a key out of its job; gives the job back if that was its last key. `None` also if the job
    /// runs already.
    pub(super) fn forget(&mut self, key: QueuedKey) -> Option<Queued> {
        let batch = self.batches.get_mut(&key.batch)?;
        let queued = batch.jobs.get_mut(&key.job)?;
        queued.keys -= 1;
        queued.bytes -= key.bytes;
        let is_empty = queued.keys == 0;
        let forgotten = is_empty.then(|| batch.jobs.remove(&key.job)).flatten();
        let flow = batch.flow;
        self.queued_jobs -= usize::from(is_empty);
        self.remove_if_empty(key.batch);
        self.count(flow, |keys, bytes| {
            *keys -= 1;
            *bytes -= key.bytes;
        });
        forgotten
    }
}

fn turn_of(flow: Flow, queue: &FlowQueue) -> Turn {
    (flow != Flow::Load, queue.served, flow)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Job for Nothing {
        fn run(self: Box<Self>) {}
    }

    fn work(keys: usize) -> Work {
        Work {
            job: Box::new(Nothing),
            key_bytes: vec![10; keys],
        }
    }

    fn works(count: usize) -> Vec<Work> {
        (0..count).map(|_| work(1)).collect()
    }

    fn peer(number: u8) -> Flow {
        Flow::Network(Some([10, 0, 0, number].into()))
    }

    /// Runs the next job; gives the flow it ran for.
    fn pop(queue: &mut Queue) -> Flow {
        let (number, _) = queue.pop().unwrap();
        let flow = queue.batches[&number].flow;
        queue.end(number);
        flow
    }

    #[test]
    fn a_flow_that_was_served_much_waits_also_if_its_queue_was_empty() {
        let mut queue = Queue::default();
        queue.add_batch(vec![work(100)], 1, peer(1));
        queue.add_batch(works(10), 10, peer(2));
        assert_eq!(pop(&mut queue), peer(1));
        queue.add_batch(vec![work(100)], 1, peer(1));
        let order: Vec<_> = (0..11).map(|_| pop(&mut queue)).collect();
        assert_eq!(order[10], peer(1), "{order:?}");
        assert!(queue.is_idle() && queue.flows.is_empty() && queue.idle_flows.is_empty());
    }

    #[test]
    fn a_job_without_keys_has_its_turn_too() {
        let mut queue = Queue::default();
        let (queued_keys, refused) = queue.add_batch(vec![work(0)], 1, peer(1));
        assert!(queued_keys.is_empty() && refused.is_empty());
        assert_eq!(pop(&mut queue), peer(1));
        assert!(queue.is_idle() && queue.flows.is_empty());
    }

    #[test]
    fn there_is_room_for_a_newcomer_however_many_flows_there_are() {
        let mut queue = Queue::default();
        for number in 0..9 {
            queue.add_batch(works(MAX_QUEUED_KEYS), 1, peer(number));
        }
        let (room, _) = queue.add_batch(works(32), 1, peer(9));
        assert_eq!(room.len(), 32);
        // What a load waits for is part of it, and takes all there is.
        let queued = queue.queued_keys;
        let (nested, _) = queue.add_batch(works(MAX_QUEUED_KEYS), 1, Flow::Load);
        assert_eq!(nested.len(), MAX_QUEUED_KEYS - queued);
    }

    #[test]
    fn a_job_whose_keys_are_forgotten_leaves_the_queue_with_its_counts() {
        let mut queue = Queue::default();
        let (keys, _) = queue.add_batch(vec![work(2)], 1, peer(1));
        assert!(queue.forget(keys[0]).is_none());
        assert_eq!((queue.queued_keys, queue.queued_bytes), (1, 10));
        assert!(queue.forget(keys[1]).is_some());
        assert!(queue.forget(keys[1]).is_none(), "it is gone");
        assert!(queue.is_idle() && queue.flows.is_empty() && queue.idle_flows.is_empty());
    }
}
