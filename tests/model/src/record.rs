//! What happened in a simulated cluster with faults, and whether the promises hold for it.
//!
//! A *process* is a node from its start to its crash. All of this is held by group: the groups have the
//! same keys, and each value names its own. What is held against each promise:
//!
//! P1: no process has two loads of a key at the same time, and one more for each time that the key
//! was removed, set or cleared there (by a call, perhaps in two rounds, or by a delivery): what is loaded from then on is
//! another generation. When exactly a generation begins cannot be seen from outside, so all changes
//! before are counted; some runs have none. A process that is back in its list, or has just started, may
//! learn from each of its peers what it has missed, so a change of its list counts as one change for each
//! node. In a run with gets only and without faults, a key is loaded once in the cluster.
//!
//! P2, at once: a get that begins after a change has returned sees nothing older than the change's begin,
//! also while lists differ, on every process that was told: the changing one, and those that were in
//! its list for the whole of the call and that it does not name as unreached. Left out, because it is
//! not promised:
//! - a change whose process crashed before it returned: nobody was told that it holds;
//! - gets on a process that was not told (until settled, see below), unless it started after the change
//!   had returned; one that started during the call counts as not told;
//! - all gets of a key for which anybody has ever taken a process for the owner, or for the deputy, that was
//!   not told: those who were told fetch what that one still holds, may take it over from it, and may keep a
//!   copy;
//! - changes and gets from the first departure of a node in good order until settled: who takes whom for
//!   the owner cannot be seen from outside then;
//! - values of a set that named an owner as unreached, or whose process crashed: the value may arrive
//!   at any later moment. But an owner knows what is older of one sender: a later change of the same
//!   process is not undone by it, unless a process has started since, which may not know.
//!
//! P2, settled: when all lists are the same again and the network has been whole for [`BOUND`], removals
//! that were missed have been delivered and copies made before have expired, and no get sees anything older
//! than any change: also of those that were left out for being unreached, absent from a list for a while, or
//! not in it yet. Left out: changes of processes that have gone since, which took with them what they
//! owed.
//!
//! That there is no value is held to the same: a get that says so saw a load that found nothing.
//!
//! P3: a value belongs to its key and its group.
//!
//! P6: a process that does not own a key loads it at most once per fallback life, unless it was
//! ever changed there (as above). Left out: loads that failed, values with a life of their own, and runs
//! whose lists changed. Nor does any process run more loads of a group at a time than it may.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::history::{Moment, Name, Scope};

/// How long a copy lives that a process keeps of a value that it does not own, at most.
pub const COPY_LIFE: Duration = Duration::from_secs(2);

/// How long after the last fault no get sees a removed value any more: what a peer has missed is
/// delivered within five seconds, and one round of the keeper; a fetch that was under way then takes a
/// second; and what it brought from the one who had not been told lives on as a copy.
pub const BOUND: Duration = Duration::from_secs(5 + 1 + 1).saturating_add(COPY_LIFE);

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
    scope: Scope,
    process: Process,
    began: Moment,
    ended: Moment,
    /// Nodes that it names as unreached.
    unreached: BTreeSet<usize>,
}

/// A change as one node carries it out.
#[derive(Clone, Debug)]
struct Carried {
    node: usize,
    scope: Scope,
    began: Moment,
    ended: Option<Moment>,
}

#[derive(Clone, Debug)]
struct Got {
    process: Process,
    name: Name,
    began: Moment,
    ended: Moment,
    /// Its bytes, that there is no value, or the error.
    result: Result<Option<String>, String>,
}

#[derive(Clone, Debug)]
struct Load {
    process: Process,
    name: Name,
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

/// Who owns each key for a node, from a moment on. It takes some time to come into force.
#[derive(Clone, Debug)]
struct View {
    node: usize,
    from: Moment,
    since: Moment,
    list: BTreeSet<usize>,
    /// Those who are asked for each key: its owner, and its deputy.
    holders: BTreeMap<String, Vec<usize>>,
}

#[derive(Clone, Debug, Default)]
struct Events {
    starts: Vec<Process>,
    crashes: Vec<(Process, Moment)>,
    changes: Vec<Change>,
    carried: Vec<Carried>,
    gets: Vec<Got>,
    loads: Vec<Load>,
    views: Vec<View>,
    /// When the first node left in good order, and when all was settled after that.
    departures: Option<(Moment, Moment)>,
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
        let process = Process { node, began };
        self.note(|events| events.starts.push(process));
        process
    }

    /// Notes that a process is gone.
    pub fn crashed(&self, process: Process) {
        let at = self.tick();
        self.note(|events| events.crashes.push((process, at)));
    }

    /// Notes the list that a node was given from a moment on, and whom it takes for the owner of each
    /// key since.
    pub fn sees(
        &self,
        node: usize,
        from: Moment,
        list: BTreeSet<usize>,
        holders: BTreeMap<String, Vec<usize>>,
    ) {
        let since = self.tick();
        self.note(|events| {
            events.views.push(View {
                node,
                from,
                since,
                list,
                holders,
            });
        });
    }

    /// Notes that nodes left from `began` on, and that all is settled now.
    pub fn nodes_left(&self, began: Moment) {
        let ended = self.tick();
        self.note(|events| events.departures = Some((began, ended)));
    }

    /// Notes that a load begins: its number, and the bytes of its value.
    pub fn load_begins(&self, process: Process, name: &Name, time: Duration) -> (usize, String) {
        let began = self.tick();
        let number = self.note(|events| {
            events.loads.push(Load {
                process,
                name: name.clone(),
                began,
                ended: None,
                time,
                end: End::Found,
            });
            events.loads.len() - 1
        });
        (number, name.stamp(began))
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
    pub fn carries(&self, node: usize, scope: Scope) -> usize {
        let began = self.tick();
        self.note(|events| {
            events.carried.push(Carried {
                node,
                scope,
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

    /// Notes a change that has returned, and the nodes that it names as unreached.
    pub fn changed(
        &self,
        process: Process,
        scope: Scope,
        is_set: bool,
        began: Moment,
        unreached: BTreeSet<usize>,
    ) {
        let ended = self.tick();
        self.note(|events| {
            events.changes.push(Change {
                is_set,
                scope,
                process,
                began,
                ended,
                unreached,
            });
        });
    }

    /// Notes a get that has returned.
    pub fn got(
        &self,
        process: Process,
        name: Name,
        began: Moment,
        result: Result<Option<String>, String>,
    ) {
        let ended = self.tick();
        self.note(|events| {
            events.gets.push(Got {
                process,
                name,
                began,
                ended,
                result,
            });
        });
    }

    /// How many loads of a key began after `since`.
    #[must_use]
    pub fn loads_since(&self, name: &Name, since: Moment) -> usize {
        self.note(|events| {
            let loads = events.loads.iter();
            loads
                .filter(|load| load.name == *name && load.began > since)
                .count()
        })
    }

    /// All that happened, as text: the same for two runs of one seed.
    #[must_use]
    pub fn text(&self) -> String {
        self.note(|events| format!("{events:#?}"))
    }

    /// What the run contained: gets, loads, changes, changes that held everywhere when they returned.
    #[must_use]
    pub fn summary(&self) -> [usize; 4] {
        self.note(|events| {
            let is_for_all = |change: &&Change| events.untold(change).is_empty();
            let holding = events.changes.iter().filter(|change| events.holds(change));
            let checked = holding.filter(is_for_all).count();
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
            events.check_values(settled);
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

    /// Whether a change is one that P2 speaks of at once.
    fn holds(&self, change: &Change) -> bool {
        !self.died_by(change.process, change.ended)
    }

    /// Whether nobody can tell who owned what at some moment of that time.
    fn meets_departures(&self, began: Moment, ended: Moment) -> bool {
        let departures = self.departures;
        departures.is_some_and(|(from, to)| from < ended && began < to)
    }

    /// The views that were in force at any moment of that time.
    fn views(&self, from: Moment, to: Moment) -> impl Iterator<Item = &View> {
        let in_force = move |(at, view): &(usize, &View)| {
            let mut later = self.views[at + 1..].iter();
            let replaced = later.any(|next| next.node == view.node && next.since < from);
            view.from < to && !replaced
        };
        self.views
            .iter()
            .enumerate()
            .filter(in_force)
            .map(|(_, view)| view)
    }

    /// The nodes that a change may not have told: those that it names, those that were not in the list of
    /// its process all the time, and those that started meanwhile.
    fn untold(&self, change: &Change) -> BTreeSet<usize> {
        let (from, to) = (change.began, change.ended);
        let own: Vec<_> = self
            .views(from, to)
            .filter(|view| view.node == change.process.node)
            .collect();
        let nodes: BTreeSet<usize> = self.starts.iter().map(|process| process.node).collect();
        let is_listed = |node: &usize| own.iter().all(|view| view.list.contains(node));
        let started = |node: &usize| {
            let mut starts = self.starts.iter();
            starts.any(|process| process.node == *node && (from..=to).contains(&process.began))
        };
        let is_untold =
            |node: &usize| change.unreached.contains(node) || !is_listed(node) || started(node);
        let others = nodes
            .into_iter()
            .filter(|&node| node != change.process.node);
        others.filter(is_untold).collect()
    }

    /// Whether one of `nodes` was taken for the owner of `key`, or for its deputy, by anybody in that time.
    fn held_by(&self, nodes: &BTreeSet<usize>, key: &str, from: Moment, to: Moment) -> bool {
        self.views(from, to).any(|view| {
            view.holders[key]
                .iter()
                .any(|holder| nodes.contains(holder))
        })
    }

    /// How new a value is: the moment when it may have been made at the latest, as far as a later change
    /// may have to do with it.
    fn value_ended(&self, name: &Name, began: Moment, change: &Change) -> Moment {
        let mut loads = self.loads.iter();
        if loads.any(|load| load.began == began && load.name == *name) {
            return began;
        }
        let mut changes = self.changes.iter();
        let set = changes.find(|change| change.is_set && change.began == began);
        let Some(set) = set else {
            return Moment::MAX; // it has not returned
        };
        let nobody_is_new = !self.starts.iter().any(|process| process.began > began);
        let is_over = !self.died_by(set.process, set.ended)
            && !self.held_by(&self.untold(set), &name.key, set.began, set.ended);
        if is_over || set.process == change.process && nobody_is_new {
            set.ended
        } else {
            Moment::MAX
        }
    }

    /// When the last load of a key began that found nothing and that a get may have seen.
    fn absence_seen(&self, got: &Got) -> Moment {
        let loads = self.loads.iter();
        let seen = loads.filter(|load| {
            load.name == got.name && load.end == End::Absent && load.began < got.ended
        });
        let last = seen.map(|load| load.began).max();
        last.unwrap_or_else(|| panic!("no load has found nothing: {got:?}\n{self:#?}"))
    }

    fn check_values(&self, settled: Moment) {
        for got in &self.gets {
            let value = match &got.result {
                Err(_) => continue,
                Ok(None) => None,
                Ok(Some(bytes)) => {
                    let (value_name, began) = Name::of_stamp(bytes);
                    assert_eq!(
                        got.name, value_name,
                        "P3: the value of another key or group: {got:?}"
                    );
                    Some(began)
                }
            };
            if !self.died_by(got.process, got.ended) {
                self.check_age(got, value, settled);
            }
        }
    }

    /// Checks that a get saw nothing older than the changes before it: a value whose load or `set` began
    /// at that moment, or that there is none.
    fn check_age(&self, got: &Got, value: Option<Moment>, settled: Moment) {
        for change in &self.changes {
            if !change.scope.concerns(&got.name) || change.ended >= got.began {
                continue;
            }
            let value_ended = match value {
                Some(began) => self.value_ended(&got.name, began, change),
                None => self.absence_seen(got),
            };
            if value_ended >= change.began {
                continue;
            }
            let is_settled = got.began > settled && !self.died_by(change.process, settled);
            assert!(
                !is_settled,
                "P2, settled: {got:?} saw a value older than {change:?}\n{self:#?}"
            );
            let untold = self.untold(change);
            let was_told = !untold.contains(&got.process.node) || got.process.began > change.ended;
            let holds = was_told
                && self.holds(change)
                && !self.meets_departures(change.began, change.ended)
                && !self.meets_departures(got.began, got.ended)
                && !self.held_by(&untold, &got.name.key, 0, got.ended);
            assert!(
                !holds,
                "P2: {got:?} began after {change:?} ended and saw an older value\n{self:#?}"
            );
        }
    }

    /// How many generations of a key may have begun on a node before that moment, besides the first.
    fn generations(&self, node: usize, name: &Name, before: Moment) -> usize {
        let concerns = |change: &&Carried| {
            change.node == node && change.scope.concerns(name) && change.began < before
        };
        // A clear is carried out in two rounds.
        let changes = 2 * self.carried.iter().filter(concerns).count();
        let of_node = |view: &&View| view.node == node && view.from < before;
        let lists = self.views.iter().filter(of_node).count();
        let nodes: BTreeSet<usize> = self.starts.iter().map(|process| process.node).collect();
        changes + nodes.len() * lists.saturating_sub(1)
    }

    /// Whether a key has never been changed on a node before that moment.
    fn is_unchanged(&self, node: usize, name: &Name, before: Moment) -> bool {
        let mut carried = self.carried.iter();
        !carried.any(|change| {
            change.node == node && change.scope.concerns(name) && change.began < before
        })
    }

    /// How many loads of a process and a key are running at that moment.
    fn running(&self, process: Process, name: &Name, at: Moment) -> usize {
        let is_running = |load: &&Load| {
            load.process == process
                && load.name == *name
                && load.began <= at
                && load.ended.is_none_or(|ended| ended.0 > at)
        };
        self.loads.iter().filter(is_running).count()
    }

    /// How many loads of a group are running in a process at that moment.
    fn all_running(&self, process: Process, group: usize, at: Moment) -> usize {
        let loads = self.loads.iter();
        let is_running = |load: &&Load| {
            let has_ended = load.ended.is_some_and(|ended| ended.0 < at);
            load.process == process && load.name.group == group && load.began <= at && !has_ended
        };
        loads.filter(is_running).count()
    }

    fn check_loads(&self, terms: Terms) {
        for (at, first) in self.loads.iter().enumerate() {
            let running = self.all_running(first.process, first.name.group, first.began);
            assert!(
                terms.max_loads.is_none_or(|max| running <= max),
                "{first:?} is one of {running} at a time\n{self:#?}"
            );
            for second in &self.loads[at + 1..] {
                if first.name != second.name {
                    continue;
                }
                assert!(!terms.calm, "P1: {first:?} and {second:?}\n{self:#?}");
                if first.process != second.process {
                    continue;
                }
                let node = first.process.node;
                let generations = self.generations(node, &first.name, second.began);
                let running = self.running(second.process, &second.name, second.began);
                assert!(
                    running <= 1 + generations,
                    "P1: {second:?} is one of {running} at a time\n{self:#?}"
                );
                let Some((ended, time)) = first.ended.filter(|ended| ended.0 < second.began) else {
                    continue;
                };
                let own = BTreeSet::from([node]);
                let fallback = self.is_unchanged(node, &first.name, second.began)
                    && !terms.lists
                    && !terms.leaves
                    && !terms.expiry
                    && (first.end == End::Found
                        || first.end == End::Absent && terms.keeps_absences)
                    && !self.held_by(&own, &first.name.key, 0, ended);
                assert!(
                    !(fallback && second.time < time + terms.fallback_life),
                    "P6: {first:?} and soon {second:?}\n{self:#?}"
                );
            }
        }
    }
}
