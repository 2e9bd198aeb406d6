//! Answers that break off at every byte.

use std::time::{Duration, Instant};

use groupcache_sync::{Deadline, Group, Node, Peer, Source, Value};

use crate::origin::Origin;
use crate::process::Process;
use crate::proxy::{End, Link, Rule};
use crate::{alone_if_measured, size, value_of};

/// How many answers break off if the environment does not say so: about.
const INJECTIONS: usize = 400;

/// An answer that is larger than what is read at once breaks off at some of its bytes only.
const LARGE: usize = 64 << 10;
const STEP: usize = 997;

/// A node in this process, whose one peer is a process behind a link.
struct Pair {
    node: Node,
    group: Group,
    link: Link,
    /// How many keys there were.
    keys: usize,
    _owner: Process,
    _origin: Origin,
}

/// What became of the answers that broke off.
#[derive(Debug, Default)]
struct Told {
    injections: usize,
    errors: u64,
    retries: u64,
}

impl Pair {
    fn start() -> Pair {
        let origin = Origin::start_slow(Duration::ZERO, value_of);
        let owner = Process::start_with_log(
            "warn",
            &origin,
            &["--self", "owner=http://owner:1", "--cluster", "pair"],
        );
        let link = Link::start();
        link.lead_to(&owner.url);
        let this = Peer::new("http://asker:1").unwrap();
        let node = Node::builder(this.clone()).unwrap();
        let node = node.cluster("pair").build().unwrap();
        let group = node.group_builder("objects", 64 << 20).hot_bytes(0);
        let group = group.deputy_bytes(0); // nobody but the test asks
        let group = group.build(|key| Ok(Value::from(value_of(key)))).unwrap();
        let owning = Peer::new(&link.url()).unwrap().with_name("owner");
        node.set_peers([this, owning]).unwrap();
        Pair {
            node,
            group,
            link,
            keys: 0,
            _owner: owner,
            _origin: origin,
        }
    }

    /// Gets a value, which must be the right one, and tells where it came from.
    fn get(&self, key: &str) -> Source {
        let got = self.group.get_entry(key, Deadline::NEVER).unwrap();
        assert_eq!(*got.value, *value_of(key), "a wrong value of {key}");
        got.source
    }

    /// A new key whose value has so many bytes, and which the peer has. That it can be asked shows
    /// that what happened before has harmed no connection.
    fn key(&mut self, length: usize) -> String {
        for _ in 0..100 {
            self.keys += 1;
            let key = format!("{}@{length}", self.keys);
            if self.get(&key) == Source::Peer {
                return key;
            }
        }
        panic!("the peer is unreachable, or owns nothing");
    }

    /// Calls that failed, and those that were made a second time.
    fn failures(&self) -> (u64, u64) {
        let stats = self.node.stats();
        let peer = stats.peers.iter().find(|peer| !peer.is_this_node).unwrap();
        (peer.call_errors, peer.retries)
    }

    /// Has the answers to `ask` break off, at one of these bytes each.
    fn break_off(
        &mut self,
        offsets: impl Iterator<Item = usize>,
        length: usize,
        told: &mut Told,
        ask: impl Fn(&Pair, &[String]),
    ) {
        for offset in offsets {
            for end in [End::Close, End::Reset] {
                let keys = [(); 3].map(|()| self.key(length));
                let (errors, retries) = self.failures();
                self.link.set_once(Rule::Cut(offset, end));
                ask(self, &keys);
                assert!(self.link.is_done(), "nobody has asked");
                let (errors, retries) = {
                    let (all_errors, all_retries) = self.failures();
                    (all_errors - errors, all_retries - retries)
                };
                if (errors, retries) == (0, 0) && self.link.last_answer().len() <= offset {
                    continue; // it is whole: the numbers in its head have fewer digits than usual
                }
                // What breaks off before its first byte is asked for again, if the connection was
                // an old one; of what is reset, the first bytes may be lost.
                let may_retry = offset == 0 || end == End::Reset;
                let is_counted = (errors, retries) == (1, 0) || may_retry && retries == 1;
                assert!(is_counted, "{offset} {end:?}: {errors} {retries}");
                told.injections += 1;
                told.errors += errors;
                told.retries += retries;
            }
        }
    }

    /// How long the answer to `ask` is.
    fn length_of_answer(&mut self, length: usize, ask: impl Fn(&Pair, &[String])) -> usize {
        let keys = [(); 3].map(|()| self.key(length));
        ask(self, &keys);
        self.link.last_answer().len()
    }
}

fn ask_for_one(pair: &Pair, keys: &[String]) {
    pair.get(&keys[0]);
}

fn ask_for_all(pair: &Pair, keys: &[String]) {
    for (key, got) in keys.iter().zip(pair.group.get_many(keys)) {
        assert_eq!(*got.unwrap(), *value_of(key), "a wrong value of {key}");
    }
}

#[test]
fn answers_that_break_off_are_failures_and_nothing_else() {
    let _turn = alone_if_measured();
    let measured: Option<usize> = size("GROUPCACHE_FAULT_INJECTIONS");
    // In small at every third byte, at each where it is measured.
    let step = if measured.is_some() { 1 } else { 3 };
    let injections = measured.unwrap_or(INJECTIONS);
    let (begun, mut pair, mut told) = (Instant::now(), Pair::start(), Told::default());
    let all = |length: usize| (0..length).step_by(step);
    // A quarter of them are of batches, which have three values.
    let length = pair.length_of_answer(injections * 3 / 8, ask_for_one);
    pair.break_off(all(length), injections * 3 / 8, &mut told, ask_for_one);
    let batch = injections / 8 / 3;
    let length = pair.length_of_answer(batch, ask_for_all);
    pair.break_off(all(length), batch, &mut told, ask_for_all);
    let length = pair.length_of_answer(LARGE, ask_for_one);
    pair.break_off(all(length).step_by(STEP), LARGE, &mut told, ask_for_one);
    assert!(told.injections >= injections / step, "{told:?}");
    eprintln!(
        "answers that break off: {told:?}, 0 wrong, in {:.1?}",
        begun.elapsed()
    );
}
