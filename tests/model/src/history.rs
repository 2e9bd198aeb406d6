//! What happened in a run, and whether P1, P2 and P3 hold for it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// A moment in a run: later ones have larger numbers.
pub type Moment = u64;

/// A change of a key (or, without one, of all keys), from its call to its return.
#[derive(Clone, Debug)]
struct Change {
    /// Whether it gave the key a value. Such a value may have come at any moment of the call, so a
    /// change at the same time may be either before or after it.
    is_set: bool,
    key: Option<String>,
    began: Moment,
    ended: Moment,
}

/// A get that returned a value.
#[derive(Clone, Debug)]
struct Got {
    key: String,
    began: Moment,
    /// When the load of the value began, or the call that set it.
    value_began: Moment,
    value_key: String,
}

/// The history of one run. Its own locks are not modelled: they are held for no time at all.
#[derive(Debug, Default)]
pub struct History {
    now: AtomicU64,
    changes: Mutex<Vec<Change>>,
    gets: Mutex<Vec<Got>>,
    /// The keys of all loads.
    loads: Mutex<Vec<String>>,
}

#[allow(clippy::unwrap_used)] // a poisoned lock means that the run has failed already
impl History {
    /// The next moment.
    pub fn tick(&self) -> Moment {
        self.now.fetch_add(1, Ordering::SeqCst)
    }

    /// Notes that a load begins; returns the bytes that tell so.
    pub fn load_begins(&self, key: &str) -> String {
        let began = self.tick();
        self.loads.lock().unwrap().push(key.to_owned());
        stamp(key, began)
    }

    /// Notes that `key` was removed, or all keys were: it held on every node that is looked at.
    pub fn removed(&self, key: Option<&str>, began: Moment) {
        self.changed(key, began, false);
    }

    /// Notes that `key` was set to the stamp of this moment.
    pub fn set(&self, key: &str, began: Moment) {
        self.changed(Some(key), began, true);
    }

    fn changed(&self, key: Option<&str>, began: Moment, is_set: bool) {
        let ended = self.tick();
        let key = key.map(str::to_owned);
        self.changes.lock().unwrap().push(Change {
            is_set,
            key,
            began,
            ended,
        });
    }

    /// Notes a get that began at this moment and returned these bytes.
    pub fn got(&self, key: &str, began: Moment, bytes: &str) {
        let (value_key, value_began) = read_stamp(bytes);
        self.gets.lock().unwrap().push(Got {
            key: key.to_owned(),
            began,
            value_began,
            value_key,
        });
    }

    /// How often `key` was loaded.
    pub fn loads_of(&self, key: &str) -> usize {
        self.loads
            .lock()
            .unwrap()
            .iter()
            .filter(|loaded| *loaded == key)
            .count()
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
            assert_eq!(got.key, got.value_key, "P3: bytes of another key: {got:?}");
            // A value that was set is as new as its call's end; one that was loaded, as its begin.
            let of_set = changes
                .iter()
                .find(|set| set.is_set && set.began == got.value_began);
            let value_ended = of_set.map_or(got.value_began, |set| set.ended);
            for change in changes.iter() {
                let concerns = change.key.as_ref().is_none_or(|key| *key == got.key);
                let before = change.ended < got.began;
                assert!(
                    !(concerns && before && value_ended < change.began),
                    "P2: {got:?} began after {change:?} ended and saw an older value\n{self:#?}"
                );
            }
        }
    }
}

/// The bytes of a value: its key, and when its load or its `set` began.
pub fn stamp(key: &str, began: Moment) -> String {
    format!("{key}@{began}")
}

#[allow(clippy::unwrap_used)] // only values with a stamp are ever made
pub(crate) fn read_stamp(bytes: &str) -> (String, Moment) {
    let (key, began) = bytes.rsplit_once('@').unwrap();
    (key.to_owned(), began.parse().unwrap())
}
