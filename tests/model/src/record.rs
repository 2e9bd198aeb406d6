//! What happened in a simulated cluster with faults, and whether the promises hold for it.
//!
//! A *process* is a node from its start to its crash. What is held against each promise:
//!
//! P1: no process has two loads of a key at the same time, and one more for each time that the key
//! was removed, set or cleared there (by a call, perhaps in two rounds, or by a delivery): what is loaded from then on is
//! another generation. When exactly a generation begins cannot be seen from outside, so all changes
//! before are counted; some runs have none. In a run with gets only and without faults, a key is
//! loaded once in the cluster.
//!
//! P2: a get that begins after a change has returned sees nothing older than the change's begin.
//! Left out, because it is not promised:
//! - a change whose process crashed before it returned: nobody was told that it holds;
//! - a change during which the peer lists differed, or a get was under way that began before they
//!   were equal again: it may have asked one who is not the owner any more;
//! - gets on a process that the change names as unreached or that was not in the caller's list, if
//!   it started before the change returned (until settled, see below);
//! - all gets of a key whose owner is or was such a one since the change began: those who were
//!   reached fetch what that one still holds, and may keep a copy;
//! - values of a set that named the owner as unreached, or whose process crashed: the value may
//!   arrive at any later moment.
//!
//! P2, settled: when the network has been whole for long enough, removals that were missed have
//! been delivered again and copies have expired, and no get sees anything older than any change,
//! also of those that were left out for being unreached. Left out: changes of processes that have
//! crashed since, which took with them what they owed, and runs whose lists changed, as what is
//! owed to a peer goes when it leaves the list.
//!
//! That there is no value is held to the same: a get that says so saw a load that found nothing.
//!
//! P3: a value belongs to its key.
//!
//! P6: a process that does not own a key loads it at most once per fallback life, unless it was
//! ever changed there (as above). Left out: loads that failed, values with a life of their own, and runs
//! whose lists changed. Nor does any process run more loads at a time than it may.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::history::{Moment, read_stamp, stamp};

/// A node from its start to its crash: the number of its node, and of its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// The number of the node.
    pub node: usize,
    /// When it started.
    pub began: Moment,
}

/// What a run does besides gets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// No fault, no change, no expiry: a key is loaded once.
    pub calm: bool,
    /// Values have a life of their own.
    pub expiry: bool,
    /// Lists change.
    pub lists: bool,
    /// Nodes leave in good order, and others own their keys until they are back.
    pub leaves: bool,
    /// How long a value lives that was loaded by one who does not own it.
    pub fallback_life: Duration,
    /// That there is no value is kept for as long, at least.
    pub keeps_absences: bool,
    /// How many loads a process may run at a time.
    pub max_loads: Option<usize>,
}

#[derive(Clone, Debug)]
struct Change {
    is_set: bool,
    key: Option<String>,
    process: Process,
    began: Moment,
    ended: Moment,
    /// Nodes that are not in the list, or are named as unreached.
    untold: BTreeSet<usize>,
}

/// A change as one node carries it out.
#[derive(Clone, Debug)]
struct Carried {
    node: usize,
    key: Option<String>,
    began: Moment,
    ended: Option<Moment>,
}

#[derive(Clone, Debug)]
struct Got {
    process: Process,
    key: String,
    began: Moment,
    ended: Moment,
    /// Its bytes, that there is no value, or the error.
    result: Result<Option<String>, String>,
}

#[derive(Clone, Debug)]
struct Load {
    process: Process,
    key: String,
    began: Moment,
    ended: Option<(Moment, Duration)>,
    time: Duration,
    end: End,
}

/// How a load ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With a value.
    Found,
    /// There is none.
    Absent,
    /// It failed.
    Failed,
}

/// Who owns each key for a node, from a moment on.
#[derive(Clone, Debug)]
struct View {
    node: usize,
    from: Moment,
    list: BTreeSet<usize>,
    owners: BTreeMap<String, usize>,
}

#[derive(Clone, Debug, Default)]
struct Events {
    crashes: Vec<(Process, Moment)>,
    changes: Vec<Change>,
    carried: Vec<Carried>,
    gets: Vec<Got>,
    loads: Vec<Load>,
    views: Vec<View>,
    /// From and to when lists differed.
    unsettled: Vec<(Moment, Moment)>,
}

/// The record of one run. Its own locks are not modelled: they are held for no time at all.
#[derive(Debug, Default)]
pub struct Record {
    now: AtomicU64,
    events: Mutex<Events>,
}

#[allow(clippy::unwrap_used)] // a poisoned lock means that the run has failed already
impl Record {
    /// The next moment.
    pub fn tick(&self) -> Moment {
        self.now.fetch_add(1, Ordering::SeqCst)
    }

    fn note<R>(&self, note: impl FnOnce(&mut Events) -> R) -> R {
        note(&mut self.events.lock().unwrap())
    }

    /// Notes that a node starts.
    pub fn starts(&self, node: usize) -> Process {
        let began = self.tick();
        Process { node, began }
    }

    /// Notes that a process is gone.
    pub fn crashed(&self, process: Process) {
        let at = self.tick();
        self.note(|events| events.crashes.push((process, at)));
    }

    /// Notes the list of a node and whom it takes for the owner of each key.
    pub fn sees(&self, node: usize, list: BTreeSet<usize>, owners: BTreeMap<String, usize>) {
        let from = self.tick();
        self.note(|events| {
            events.views.push(View {
                node,
                from,
                list,
                owners,
            });
        });
    }

    /// The nodes in the list of a node.
    #[must_use]
    pub fn list_of(&self, node: usize) -> BTreeSet<usize> {
        self.note(|events| {
            let mut views = events.views.iter().rev();
            views.find(|view| view.node == node).unwrap().list.clone()
        })
    }

    /// Notes that lists differed from `began` until now.
    pub fn lists_differed(&self, began: Moment) {
        let ended = self.tick();
        self.note(|events| events.unsettled.push((began, ended)));
    }

    /// Notes that a load begins: its number, and the bytes of its value.
    pub fn load_begins(&self, process: Process, key: &str, time: Duration) -> (usize, String) {
        let began = self.tick();
        let number = self.note(|events| {
            events.loads.push(Load {
                process,
                key: key.to_owned(),
                began,
                ended: None,
                time,
                end: End::Found,
            });
            events.loads.len() - 1
        });
        (number, stamp(key, began))
    }

    /// Notes that a load ends.
    pub fn load_ends(&self, number: usize, time: Duration, end: End) {
        let ended = Some((self.tick(), time));
        self.note(|events| {
            events.loads[number].ended = ended;
            events.loads[number].end = end;
        });
    }

    /// Notes that a node begins to carry out a change.
    pub fn carries(&self, node: usize, key: Option<&str>) -> usize {
        let began = self.tick();
        self.note(|events| {
            events.carried.push(Carried {
                node,
                key: key.map(str::to_owned),
                began,
                ended: None,
            });
            events.carried.len() - 1
        })
    }

    /// Notes that it has done so.
    pub fn carried(&self, number: usize) {
        let ended = Some(self.tick());
        self.note(|events| events.carried[number].ended = ended);
    }

    /// Notes a change that has returned. `untold` are those that it names and those not in the list.
    pub fn changed(
        &self,
        process: Process,
        key: Option<&str>,
        is_set: bool,
        began: Moment,
        untold: BTreeSet<usize>,
    ) {
        let ended = self.tick();
        self.note(|events| {
            events.changes.push(Change {
                is_set,
                key: key.map(str::to_owned),
                process,
                began,
                ended,
                untold,
            });
        });
    }

    /// Notes a get that has returned.
    pub fn got(
        &self,
        process: Process,
        key: &str,
        began: Moment,
        result: Result<Option<String>, String>,
    ) {
        let ended = self.tick();
        self.note(|events| {
            events.gets.push(Got {
                process,
                key: key.to_owned(),
                began,
                ended,
                result,
            });
        });
    }

    /// How many loads of `key` began after `since`.
    #[must_use]
    pub fn loads_since(&self, key: &str, since: Moment) -> usize {
        self.note(|events| {
            let loads = events.loads.iter();
            loads
                .filter(|load| load.key == key && load.began > since)
                .count()
        })
    }

    /// All that happened, as text: the same for two runs of one seed.
    #[must_use]
    pub fn text(&self) -> String {
        self.note(|events| format!("{events:#?}"))
    }

    /// What the run contained: gets, loads, changes, changes that P2 was checked for.
    #[must_use]
    pub fn summary(&self) -> [usize; 4] {
        self.note(|events| {
            let checked = events.changes.iter().filter(|c| events.holds(c)).count();
            [
                events.gets.len(),
                events.loads.len(),
                events.changes.len(),
                checked,
            ]
        })
    }

    /// Checks all promises. Gets that began after `settled` must see no value older than any change.
    ///
    /// # Panics
    ///
    /// Panics with the events that contradict a promise.
    pub fn check(&self, terms: Terms, settled: Moment) {
        self.note(|events| {
            events.check_values(terms, settled);
            events.check_loads(terms);
        });
    }
}

impl Events {
    fn died(&self, process: Process) -> Option<Moment> {
        let mut crashes = self.crashes.iter();
        crashes
            .find(|(dead, _)| *dead == process)
            .map(|crash| crash.1)
    }

    fn died_by(&self, process: Process, moment: Moment) -> bool {
        self.died(process).is_some_and(|died| died < moment)
    }

    /// Whether a change is one that P2 speaks of.
    fn holds(&self, change: &Change) -> bool {
        let differed = |&(from, to): &(Moment, Moment)| {
            let gets = self.gets.iter();
            let under_way = gets.filter(|got| got.began < to && got.ended > to);
            let to = under_way.map(|got| got.ended).max().unwrap_or(to);
            from < change.ended && change.began < to
        };
        !self.died_by(change.process, change.ended) && !self.unsettled.iter().any(differed)
    }

    /// Whether one of `nodes` was taken for the owner of `key` by anybody in that time.
    fn owned_by(&self, nodes: &BTreeSet<usize>, key: &str, from: Moment, to: Moment) -> bool {
        let in_force = |(at, view): (usize, &View)| {
            let mut later = self.views[at + 1..].iter();
            let replaced = later.any(|next| next.node == view.node && next.from < from);
            view.from < to && !replaced && nodes.contains(&view.owners[key])
        };
        self.views.iter().enumerate().any(in_force)
    }

    /// How new a value is: the moment when it may have been made at the latest.
    fn value_ended(&self, key: &str, began: Moment) -> Moment {
        if self
            .loads
            .iter()
            .any(|load| load.began == began && load.key == key)
        {
            return began;
        }
        let set = self
            .changes
            .iter()
            .find(|change| change.is_set && change.began == began);
        match set {
            Some(set)
                if !self.died_by(set.process, set.ended)
                    && !self.owned_by(&set.untold, key, set.began, set.ended) =>
            {
                set.ended
            }
            _ => Moment::MAX,
        }
    }

    /// When the last load of a key began that found nothing and that a get may have seen.
    fn absence_seen(&self, got: &Got) -> Moment {
        let loads = self.loads.iter();
        let seen = loads.filter(|load| {
            load.key == got.key && load.end == End::Absent && load.began < got.ended
        });
        let last = seen.map(|load| load.began).max();
        last.unwrap_or_else(|| panic!("no load has found nothing: {got:?}\n{self:#?}"))
    }

    fn check_values(&self, terms: Terms, settled: Moment) {
        for got in &self.gets {
            let value_ended = match &got.result {
                Err(_) => continue,
                Ok(None) => self.absence_seen(got),
                Ok(Some(bytes)) => {
                    let (value_key, value_began) = read_stamp(bytes);
                    assert_eq!(got.key, value_key, "P3: bytes of another key: {got:?}");
                    self.value_ended(&got.key, value_began)
                }
            };
            if self.died_by(got.process, got.ended) {
                continue;
            }
            for change in &self.changes {
                let concerns = change.key.as_ref().is_none_or(|key| *key == got.key);
                if !concerns || change.ended >= got.began || value_ended >= change.began {
                    continue;
                }
                let untold = &change.untold;
                let was_told = (!untold.contains(&got.process.node)
                    || got.process.began > change.ended)
                    && !self.owned_by(untold, &got.key, change.began, got.ended);
                assert!(
                    !(was_told && self.holds(change)),
                    "P2: {got:?} began after {change:?} ended and saw an older value\n{self:#?}"
                );
                let is_settled =
                    got.began > settled && !terms.lists && self.died(change.process).is_none();
                assert!(
                    !is_settled,
                    "P2, settled: {got:?} saw a value older than {change:?}\n{self:#?}"
                );
            }
        }
    }

    /// How often `key` may have been changed on a node before that moment.
    fn changes_on(&self, node: usize, key: &str, before: Moment) -> usize {
        let concerns = |change: &&Carried| {
            change.node == node
                && change.key.as_ref().is_none_or(|changed| changed == key)
                && change.began < before
        };
        self.carried.iter().filter(concerns).count()
    }

    /// How many loads of a process and a key are running at that moment.
    fn running(&self, process: Process, key: &str, at: Moment) -> usize {
        let is_running = |load: &&Load| {
            load.process == process
                && load.key == key
                && load.began <= at
                && load.ended.is_none_or(|ended| ended.0 > at)
        };
        self.loads.iter().filter(is_running).count()
    }

    /// How many loads of a process are running at that moment.
    fn all_running(&self, process: Process, at: Moment) -> usize {
        let loads = self.loads.iter();
        let is_running = |load: &&Load| {
            let has_ended = load.ended.is_some_and(|ended| ended.0 < at);
            load.process == process && load.began <= at && !has_ended
        };
        loads.filter(is_running).count()
    }

    fn check_loads(&self, terms: Terms) {
        for (at, first) in self.loads.iter().enumerate() {
            let running = self.all_running(first.process, first.began);
            assert!(
                terms.max_loads.is_none_or(|max| running <= max),
                "{first:?} is one of {running} at a time\n{self:#?}"
            );
            for second in &self.loads[at + 1..] {
                if first.key != second.key {
                    continue;
                }
                assert!(!terms.calm, "P1: {first:?} and {second:?}\n{self:#?}");
                if first.process != second.process {
                    continue;
                }
                let node = first.process.node;
                let changes = self.changes_on(node, &first.key, second.began);
                let running = self.running(second.process, &second.key, second.began);
                assert!(
                    running <= 1 + 2 * changes, // a clear is carried out in two rounds
                    "P1: {second:?} is one of {running} at a time\n{self:#?}"
                );
                let Some((ended, time)) = first.ended.filter(|ended| ended.0 < second.began) else {
                    continue;
                };
                let own = BTreeSet::from([node]);
                let fallback = changes == 0
                    && !terms.lists
                    && !terms.leaves
                    && !terms.expiry
                    && (first.end == End::Found
                        || first.end == End::Absent && terms.keeps_absences)
                    && !self.owned_by(&own, &first.key, 0, ended);
                assert!(
                    !(fallback && second.time < time + terms.fallback_life),
                    "P6: {first:?} and soon {second:?}\n{self:#?}"
                );
            }
        }
    }
}
