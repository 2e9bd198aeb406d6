//! `Registry`: the groups of a node, without the types of their values.

use std::collections::HashMap;

use super::pending::Pending;
use super::shared::Shared;
use crate::error::Error;
use crate::protocol::account::Requester;
use crate::protocol::{Response, Terms};
use crate::runtime::clock::Deadline;
use crate::runtime::sync::{Arc, RwLock};
use crate::stats::GroupStats;
use crate::stats::latency::Latencies;
use crate::value::Cacheable;

/// What a node has for a request at once: the answer, or the promise of one.
pub(crate) enum Begun {
    Ready(Response),
    Pending(Pending),
}

/// A group as a node serves it, whatever the type of its values.
pub(crate) trait Serve: Send + Sync {
    fn begin_get(self: Arc<Self>, key: &str, terms: &Terms, requester: &Requester) -> Begun;
    fn answer_put(&self, key: &str, body: &[u8], terms: &Terms, requester: &Requester) -> Response;
    fn answer_delete(&self, key: &str, terms: &Terms) -> Response;
    fn begin_command(self: Arc<Self>, body: &[u8], terms: &Terms, requester: &Requester) -> Begun;
    /// Drops the copy of a value that another node owns; without a key, all such copies.
    fn forget_copies(&self, key: Option<&str>);
    /// Offers the keys in memory to the nodes that own them now.
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

    /// Takes a group out. The caller drops it, as it may be the last handle (I1).
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
