//! What a worker does: it takes tasks, serves connections, and parks those that have to wait.

use std::time::Instant;

use super::connection::BoxedConnection;
use super::requests::Next;
use super::shared::Shared;
use super::task_queue::Task;
use super::traffic::Traffic;
use super::wait::Wait;
use crate::group::Pending;
use crate::protocol::{Response, Status};
use crate::runtime::sync::Arc;
use crate::runtime::user_code;

impl Shared {
    /// What a thread of a worker pool runs.
    pub(crate) fn work(self: &Arc<Self>, pool: Traffic) -> impl FnOnce() + Send + use<> {
        let shared = Arc::clone(self);
        move || {
            let mut has_served = false;
            while let Some(task) = shared.workers(pool).next(has_served) {
                has_served = true;
                let served = user_code::call(|| shared.perform(task, pool));
                if served.is_err() {
                    log::error!(target: "groupcache", "answering a request panicked");
                }
            }
        }
    }

    /// Queues tasks for a worker pool, or drops them if the server has stopped.
    pub(crate) fn push(self: &Arc<Self>, pool: Traffic, tasks: impl IntoIterator<Item = Task>) {
        drop(self.workers(pool).push(tasks, || self.work(pool)));
    }

    fn perform(self: &Arc<Self>, task: Task, pool: Traffic) {
        match task {
            Task::Serve(connection) => self.serve(connection, pool),
            Task::TimeOut(key, pending) => {
                if let Some(response) = pending.give_up() {
                    self.resume(key, response);
                }
            }
            Task::Cancel(pending) => drop(pending),
        }
    }

    fn serve(self: &Arc<Self>, mut connection: BoxedConnection, pool: Traffic) {
        match connection.run(self, pool) {
            Next::Wait(wait) => self.park(connection, wait),
            Next::Load(pending) => self.park_for_load(connection, pending),
            Next::Queue(other) => self.push(other, [Task::Serve(connection)]),
            Next::Close => {}
        }
    }

    /// Parks a connection, or closes it where there is no room for what it keeps.
    pub(crate) fn park(&self, mut connection: BoxedConnection, wait: Wait) {
        connection.prepare_to_wait(wait);
        if !self.has_room(&mut connection) {
            return;
        }
        let due = connection.due(wait, &self.settings);
        debug_assert!(due.is_some(), "only a load has no deadline here");
        drop(self.parked.insert(connection, wait, due));
    }

    /// Parks a connection until its load ends or its deadline passes. Whichever comes first takes it out and
    /// answers. A client that leaves takes it out too: then the load answers nobody.
    fn park_for_load(self: &Arc<Self>, mut connection: BoxedConnection, pending: Pending) {
        connection.prepare_to_wait(Wait::Load);
        if !self.has_room(&mut connection) {
            return;
        }
        // The node may have a clock of its own, but the client waits in real time.
        let now = self.node.clock().now();
        let timeout = pending.deadline().saturating_duration_since(now);
        let due = Instant::now().checked_add(timeout);
        let Ok(key) = self.parked.insert(connection, Wait::Load, None) else {
            return;
        };
        // Weak: the load must not keep the server alive.
        let shared = Arc::downgrade(self);
        pending.notify(move |response| {
            if let Some(shared) = shared.upgrade() {
                shared.resume(key, response);
            }
        });
        drop(self.parked.attach(key, pending, due));
    }

    /// Queues a parked connection to send the answer of its load, if the connection is still parked.
    fn resume(self: &Arc<Self>, key: usize, mut response: Response) {
        let Some((mut connection, pending)) = self.parked.take(key) else {
            return;
        };
        drop(pending);
        if !self.evict_readers(&mut connection, |connection| {
            connection.charge_answer(&response)
        }) {
            response = self.node.respond(
                Status::Overloaded,
                "too many answers wait for their readers",
            );
        }
        connection.answer(response, self.is_draining());
        if !self.has_room(&mut connection) {
            return;
        }
        self.push(Traffic::Peers, [Task::Serve(connection)]);
    }
}
