//! `Task` and `TaskQueue`: what waits for a worker, and in which order it is done.

use std::collections::VecDeque;

use super::connection::BoxedConnection;
use crate::group::Pending;

/// Something for a worker to do.
pub(crate) enum Task {
    /// Serve a connection that has something to read or to write.
    Serve(BoxedConnection),
    /// Answer the parked connection with this key that its load takes too long.
    TimeOut(usize, Pending),
    /// Cancel the request of a client that has closed its connection.
    Cancel(Pending),
}

impl Task {
    pub(crate) fn class(&self) -> Class {
        match self {
            Task::Serve(connection) if connection.is_authenticated() => Class::Peer,
            Task::Serve(_) | Task::TimeOut(..) => Class::Other,
            Task::Cancel(_) => Class::Cleanup,
        }
    }
}

/// Whom a task is for.
#[derive(Clone, Copy)]
pub(crate) enum Class {
    /// A peer that has authenticated itself.
    Peer,
    Other,
    /// Nobody: the client has left.
    Cleanup,
}

const CLASSES: usize = 3;

/// The order in which the classes are tried, by turn. Half of the turns begin with peers, and a quarter
/// each with the others and with the cleanup: however many tasks one class has, it does not delay the
/// others for long.
const TURNS: [[Class; CLASSES]; 4] = [
    [Class::Peer, Class::Other, Class::Cleanup],
    [Class::Other, Class::Peer, Class::Cleanup],
    [Class::Peer, Class::Other, Class::Cleanup],
    [Class::Cleanup, Class::Peer, Class::Other],
];

const _: () = assert!(
    Class::Cleanup as usize + 1 == CLASSES,
    "each class has a queue"
);

pub(crate) struct TaskQueue<T> {
    /// By the number of the class.
    waiting: [VecDeque<T>; CLASSES],
    turn: usize,
}

impl<T> TaskQueue<T> {
    pub(crate) fn new() -> TaskQueue<T> {
        TaskQueue {
            waiting: [VecDeque::new(), VecDeque::new(), VecDeque::new()],
            turn: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.iter().all(VecDeque::is_empty)
    }

    pub(crate) fn push(&mut self, class: Class, task: T) {
        self.waiting[class as usize].push_back(task);
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let order = TURNS[self.turn];
        self.turn = (self.turn + 1) % TURNS.len();
        let mut classes = order.into_iter();
        classes.find_map(|class| self.waiting[class as usize].pop_front())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_have_half_of_the_turns_and_no_class_waits_for_ever() {
        let mut queue = TaskQueue::new();
        for number in 0..100 {
            queue.push(Class::Other, ("other", number));
            queue.push(Class::Cleanup, ("cleanup", number));
            queue.push(Class::Peer, ("peer", number));
        }
        let first: Vec<_> = (0..40).filter_map(|_| queue.pop()).collect();
        for (class, count) in [("peer", 20), ("other", 10), ("cleanup", 10)] {
            let of_class = first.iter().filter(|(other, _)| *other == class);
            let numbers: Vec<_> = of_class.map(|(_, number)| *number).collect();
            assert_eq!(numbers, (0..count).collect::<Vec<_>>(), "{class}");
        }
        assert_eq!(queue.len(), 260);
        assert_eq!(std::iter::from_fn(|| queue.pop()).count(), 260);
        assert!(queue.is_empty());
    }
}
