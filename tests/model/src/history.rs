//! What happened in a run, and whether P1, P2 and P3 hold for it.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// A moment in a run: later ones have larger numbers.
pub type Moment = u64;

/// The groups of every node in a model. They have the same keys and never the same value.
pub const GROUPS: [&str; 2] = ["g", "h"];

/// A key of one of the groups.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Name {
    /// The number of the group in [`GROUPS`].
    pub group: usize,
    /// The key.
    pub key: String,
}

impl Name {
    /// The name of `key` in a group.
    pub fn new(group: usize, key: &str) -> Name {
        let key = key.to_owned();
        Name { group, key }
    }

    /// The bytes of a value of this name whose load, or whose `set`, began at that moment.
    pub fn stamp(&self, began: Moment) -> String {
        format!("{}/{}@{began}", GROUPS[self.group], self.key)
    }

    /// The name in the bytes of a value, and the moment.
    ///
    /// # Panics
    ///
    /// Panics if they are no stamp.
    #[allow(clippy::unwrap_used)] // only values with a stamp are ever made
    pub fn of_stamp(bytes: &str) -> (Name, Moment) {
        let (name, began) = bytes.rsplit_once('@').unwrap();
        let (group, key) = name.split_once('/').unwrap();
        let group = GROUPS.iter().position(|name| *name == group).unwrap();
        (Name::new(group, key), began.parse().unwrap())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", GROUPS[self.group], self.key)
    }
}

/// What a change is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One key of a group.
    Key(Name),
    /// All keys of a group.
    Group(usize),
    /// Perhaps every key of every group.
    Any,
}

impl Scope {
    /// Whether a key of this name is changed.
    pub fn concerns(&self, name: &Name) -> bool {
        match self {
            Scope::Key(changed) => changed == name,
            Scope::Group(group) => *group == name.group,
            Scope::Any => true,
        }
    }
}

/// A change, from its call to its return.
#[derive(Clone, Debug)]
struct Change {
    /// Whether it gave the key a value. Such a value may have come at any moment of the call, so a
    /// change at the same time may be either before or after it.
    is_set: bool,
    scope: Scope,
    began: Moment,
    ended: Moment,
}

/// A get that returned a value.
#[derive(Clone, Debug)]
struct Got {
    name: Name,
    began: Moment,
    /// When the load of the value began, or the call that set it.
    value_began: Moment,
    value_name: Name,
}

/// The history of one run. Its own locks are not modelled: they are held for no time at all.
#[derive(Debug, Default)]
pub struct History {
    now: AtomicU64,
    changes: Mutex<Vec<Change>>,
    gets: Mutex<Vec<Got>>,
    /// The names of all loads.
    loads: Mutex<Vec<Name>>,
}

#[allow(clippy::unwrap_used)] // a poisoned lock means that the run has failed already
impl History {
    /// The next moment.
    pub fn tick(&self) -> Moment {
        self.now.fetch_add(1, Ordering::SeqCst)
    }

    /// Notes that a load begins; returns the bytes that tell so.
    pub fn load_begins(&self, name: &Name) -> String {
        let began = self.tick();
        self.loads.lock().unwrap().push(name.clone());
        name.stamp(began)
    }

    /// Notes a removal of a key or of a group: it held on every node that is looked at.
    pub fn removed(&self, scope: Scope, began: Moment) {
        self.changed(scope, began, false);
    }

    /// Notes that `name` was set to the stamp of this moment.
    pub fn set(&self, name: Name, began: Moment) {
        self.changed(Scope::Key(name), began, true);
    }

    fn changed(&self, scope: Scope, began: Moment, is_set: bool) {
        let ended = self.tick();
        self.changes.lock().unwrap().push(Change {
            is_set,
            scope,
            began,
            ended,
        });
    }

    /// Notes a get that began at this moment and returned these bytes.
    pub fn got(&self, name: Name, began: Moment, bytes: &str) {
        let (value_name, value_began) = Name::of_stamp(bytes);
        self.gets.lock().unwrap().push(Got {
            name,
            began,
            value_began,
            value_name,
        });
    }

    /// How often `key` was loaded in the first group.
    pub fn loads_of(&self, key: &str) -> usize {
        self.loads_in(0, key)
    }

    /// How often `key` was loaded in a group.
    pub fn loads_in(&self, group: usize, key: &str) -> usize {
        let name = Name::new(group, key);
        let loads = self.loads.lock().unwrap();
        loads.iter().filter(|loaded| **loaded == name).count()
    }

    /// How many gets returned a value.
    pub fn gets(&self) -> usize {
        self.gets.lock().unwrap().len()
    }

    /// Checks P2 and P3 for every get.
    ///
    /// # Panics
    ///
    /// Panics with the events that contradict a promise.
    pub fn check(&self) {
        let changes = self.changes.lock().unwrap();
        for got in self.gets.lock().unwrap().iter() {
            assert_eq!(
                got.name, got.value_name,
                "P3: the value of another key or group: {got:?}"
            );
            // A value that was set is as new as its call's end; one that was loaded, as its begin.
            let of_set = changes
                .iter()
                .find(|set| set.is_set && set.began == got.value_began);
            let value_ended = of_set.map_or(got.value_began, |set| set.ended);
            for change in changes.iter() {
                let concerns = change.scope.concerns(&got.name);
                let before = change.ended < got.began;
                assert!(
                    !(concerns && before && value_ended < change.began),
                    "P2: {got:?} began after {change:?} ended and saw an older value\n{self:#?}"
                );
            }
        }
    }
}
