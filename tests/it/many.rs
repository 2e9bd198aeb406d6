//! `get_many`: as a get of each key, but one request for each owner, and each key by itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;

use groupcache_sync::{
    Call, CallError, Clock, Deadline, Error, Fault, Group, Limits, Link, LoadError, Loaded,
    Network, Node, NodeBuilder, Peer, Reply, Request, Source, Transport, Value,
};

use crate::cluster::{Cluster, GROUP, address, eventually, together, value_of};

const SECOND: Duration = Duration::from_secs(1);

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("key {number}")).collect()
}

fn calls(node: &Node) -> u64 {
    node.stats().peers.iter().map(|peer| peer.calls).sum()
}

#[test]
fn each_owner_is_asked_once_and_loads_each_key_once() {
    let cluster = Cluster::new(4);
    let keys = keys(400);
    let values = cluster.groups[0].get_many(&keys);
    for (key, value) in keys.iter().zip(values) {
        assert_eq!(value.unwrap(), value_of(key));
        assert_eq!(cluster.loads.of(key), 1);
    }
    assert_eq!(calls(&cluster.nodes[0]), 3);
    let stats = cluster.groups[0].stats();
    assert_eq!((stats.gets, stats.leads, stats.flights), (400, 400, 0));
    let served: u64 = cluster
        .groups
        .iter()
        .map(|group| group.stats().served)
        .sum();
    assert_eq!(served, stats.fetches);
    assert_eq!(served + stats.loads, 400);
}

#[test]
fn what_is_in_memory_is_not_asked_for() {
    let cluster = Cluster::new(2);
    let own = cluster.key_owned_by(0);
    cluster.groups[0].get(&own).unwrap();
    let got = cluster.groups[0].get_many_entries(&[&own], Deadline::NEVER);
    assert_eq!(got[0].as_ref().unwrap().source, Source::Main);
    assert_eq!(calls(&cluster.nodes[0]), 0);
    let theirs = cluster.key_owned_by(1);
    let got = cluster.groups[0].get_many_entries(&[own, theirs], Deadline::NEVER);
    let sources = got.into_iter().map(|got| got.unwrap().source);
    assert_eq!(sources.collect::<Vec<_>>(), [Source::Main, Source::Peer]);
}

#[test]
fn the_same_key_twice_costs_as_much_as_once() {
    let cluster = Cluster::new(2);
    let (own, theirs) = (cluster.key_owned_by(0), cluster.key_owned_by(1));
    let asked = [&own, &theirs, &own, &theirs, &theirs];
    for (key, value) in asked.iter().zip(cluster.groups[0].get_many(&asked)) {
        assert_eq!(value.unwrap(), value_of(key));
    }
    assert_eq!(cluster.loads.all(), 2);
    assert_eq!(cluster.groups[1].stats().served, 1);
    assert!(cluster.groups[0].get_many::<&str>(&[]).is_empty());
}

#[test]
fn each_key_has_an_answer_of_its_own() {
    let load = |key: &str| match key.rsplit(' ').next() {
        Some("1" | "2" | "3") => Err(LoadError::NotFound),
        Some("4" | "5" | "6") => Err("no database".into()),
        Some("7" | "8" | "9") => panic!("a bug"),
        _ => Ok(value_of(key)),
    };
    let cluster = Cluster::with(
        3,
        Clock::manual(),
        |node| node,
        |group| group.hand_on_load_errors(true),
        load,
    );
    let mut keys = keys(30);
    keys.push("k".repeat(20_000));
    let answers = cluster.groups[0].get_many(&keys);
    assert_eq!(answers.len(), 31);
    for (number, answer) in answers.into_iter().enumerate() {
        match (number, answer) {
            (1..=3, Err(Error::NotFound)) => {}
            (4..=6, Err(Error::Load { .. } | Error::OwnerLoad { .. })) => {}
            (7..=9, Err(Error::Panicked { .. } | Error::OwnerLoad { .. })) => {}
            (30, Err(Error::KeyTooLong { .. })) => {}
            (number, Ok(value)) => assert_eq!(value, value_of(&keys[number])),
            (number, Err(error)) => panic!("{number}: {error:?}"),
        }
    }
}

#[test]
fn an_owner_that_is_away_is_replaced_by_loads_here() {
    let cluster = Cluster::new(3);
    cluster.network.set_fault(&address(1), Some(Fault::Refuses));
    let keys = keys(100);
    for (key, value) in keys.iter().zip(cluster.groups[0].get_many(&keys)) {
        assert_eq!(value.unwrap(), value_of(key));
        assert_eq!(cluster.loads.of(key), 1);
    }
    let stats = cluster.groups[0].stats();
    assert!(stats.fetch_errors > 10, "{stats:?}");
    assert_eq!(stats.flights, 0);
    // One failure of the peer, not one for each key: its circuit is not open yet.
    let errors: u64 = cluster.nodes[0]
        .stats()
        .peers
        .iter()
        .map(|peer| peer.call_errors)
        .sum();
    assert_eq!(errors, 1);
}

#[test]
fn an_answer_that_does_not_fit_is_asked_for_in_parts() {
    let large = |key: &str| Value::from(key.repeat(200_000));
    let cluster = Cluster::with(
        2,
        Clock::system(),
        |node| node,
        |group| group.hot_bytes(0),
        move |key| Ok(large(key)),
    );
    let theirs: Vec<String> = keys(30)
        .into_iter()
        .filter(|key| cluster.nodes[0].owner(key).address() == address(1))
        .collect();
    for (key, value) in theirs.iter().zip(cluster.groups[0].get_many(&theirs)) {
        assert_eq!(value.unwrap(), large(key));
        assert_eq!(cluster.loads.of(key), 1);
    }
    let calls = calls(&cluster.nodes[0]);
    assert!((2..=theirs.len() as u64).contains(&calls), "{calls} calls");
}

#[test]
fn more_keys_than_fit_into_a_request_are_asked_for_in_parts() {
    let cluster = Cluster::new(2);
    let keys = keys(5_000);
    let values = cluster.groups[0].get_many(&keys);
    assert!(
        keys.iter()
            .zip(values)
            .all(|(key, value)| value.unwrap() == value_of(key))
    );
    assert_eq!(cluster.loads.all(), 5_000);
    let long: Vec<String> = (0..200).map(|number| format!("{number:015000}")).collect();
    let values = cluster.groups[0].get_many(&long);
    assert!(
        long.iter()
            .zip(values)
            .all(|(key, value)| value.unwrap() == value_of(key))
    );
    let calls = calls(&cluster.nodes[0]);
    assert!((4..=8).contains(&calls), "{calls} calls");
}

/// A cluster whose loader waits for the gate with keys that end in 7.
fn gated(gate: mpsc::Receiver<()>) -> Cluster {
    let gate = Arc::new(Mutex::new(gate));
    Cluster::with(
        2,
        Clock::system(),
        |node| {
            node.loader_threads(32)
                .fetch_timeout(Duration::from_secs(2))
        },
        |group| group,
        move |key| {
            if key.ends_with('7') {
                gate.lock().unwrap().recv()?;
            }
            Ok(value_of(key))
        },
    )
}

#[test]
fn slow_loads_are_asked_for_again_and_the_others_are_not() {
    let (release, gate) = mpsc::channel::<()>();
    let cluster = gated(gate);
    let theirs = |key: &String| cluster.nodes[0].owner(key).address() == address(1);
    let keys: Vec<String> = keys(100).into_iter().filter(theirs).collect();
    let slow = keys.iter().filter(|key| key.ends_with('7')).count();
    assert!(slow > 1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let twice = (keys.len() + 2 * slow) as u64;
            eventually("it is told that they are loading", || {
                cluster.groups[1].stats().served >= twice
            });
            (0..slow).for_each(|_| release.send(()).unwrap());
        });
        for (key, value) in keys.iter().zip(cluster.groups[0].get_many(&keys)) {
            assert_eq!(value.unwrap(), value_of(key));
        }
    });
    assert_eq!(cluster.loads.all(), keys.len());
    let stats = cluster.groups[1].stats();
    let again = stats.served - keys.len() as u64;
    assert_eq!(again % slow as u64, 0, "{stats:?}");
    assert_eq!(cluster.groups[0].stats().fetch_errors, 0);
}

#[test]
fn all_keys_have_one_deadline() {
    let (release, gate) = mpsc::channel::<()>();
    let cluster = gated(gate);
    let keys = keys(20);
    let answers = cluster.groups[0].get_many_timeout(&keys, Duration::from_secs(3));
    for (key, answer) in keys.iter().zip(answers) {
        match answer {
            Ok(value) => assert_eq!(value, value_of(key)),
            Err(error) => {
                assert!(key.ends_with('7'), "{key}: {error}");
                assert!(matches!(error, Error::Deadline), "{error:?}");
            }
        }
    }
    (0..2).for_each(|_| release.send(()).unwrap());
    // The loads that outlived their caller are cached all the same.
    let cached = || cluster.groups.iter().map(|group| group.stats().main_items);
    eventually("they are cached", || cached().sum::<u64>() == 20);
}

#[test]
fn what_is_loaded_comes_before_the_deadline_though_the_rest_does_not() {
    let (release, gate) = mpsc::channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    // So patient that an owner would wait for its loads far beyond the deadline.
    let cluster = Cluster::with(
        2,
        Clock::system(),
        |node| node.fetch_timeout(Duration::from_secs(600)),
        |group| group,
        move |key| {
            if key.ends_with('7') {
                gate.lock().unwrap().recv()?;
            }
            Ok(value_of(key))
        },
    );
    let theirs = |key: &String| cluster.nodes[0].owner(key).address() == address(1);
    let keys: Vec<String> = keys(40).into_iter().filter(theirs).collect();
    let slow = keys.iter().filter(|key| key.ends_with('7')).count();
    assert!(slow > 0);
    let answers = cluster.groups[0].get_many_timeout(&keys, Duration::from_secs(2));
    for (key, answer) in keys.iter().zip(answers) {
        assert_eq!(answer.is_ok(), !key.ends_with('7'), "{key}: {answer:?}");
    }
    (0..slow).for_each(|_| release.send(()).unwrap());
}

#[test]
fn batches_and_single_gets_of_the_same_keys_share_their_loads() {
    let cluster = Cluster::with(
        3,
        Clock::system(),
        |node| node.fetch_timeout(Duration::from_secs(30)),
        |group| group,
        |key| {
            std::thread::yield_now();
            Ok(value_of(key))
        },
    );
    let keys = keys(500);
    together(12, |thread| {
        let group = &cluster.groups[thread % 3];
        let mut keys = keys.clone();
        keys.rotate_left(thread * 37);
        if thread % 2 == 0 {
            for (keys, at) in keys.chunks(100).zip(0..) {
                let values = group.get_many(keys);
                for (key, value) in keys.iter().zip(values) {
                    assert_eq!(value.unwrap(), value_of(key), "part {at}");
                }
            }
        } else {
            for key in &keys {
                assert_eq!(group.get(key).unwrap(), value_of(key));
            }
        }
    });
    for key in &keys {
        assert_eq!(cluster.loads.of(key), 1, "{key}");
    }
    assert!(
        cluster
            .groups
            .iter()
            .all(|group| group.stats().flights == 0)
    );
}

#[test]
fn a_batch_loader_loads_what_is_missing_at_once_at_the_owner() {
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let network = Network::new();
    let build = |index: usize| {
        let node = network.node(&address(index)).unwrap();
        let sizes = Arc::clone(&sizes);
        let group = node
            .group_builder(GROUP, 1 << 20)
            .batch_loader(move |keys| {
                sizes.lock().unwrap().push(keys.len());
                let found = keys.iter().filter(|key| !key.contains("missing"));
                Ok(found
                    .map(|key| {
                        (
                            key.to_string(),
                            Loaded::new(value_of(key)).ttl(Duration::from_secs(9)),
                        )
                    })
                    .collect::<HashMap<_, _>>())
            });
        let group = group.build(|_| Err("one by one".into())).unwrap();
        (node, group)
    };
    let (first, on_first) = build(0);
    let (second, on_second) = build(1);
    for node in [&first, &second] {
        node.set_peers([address(0), address(1)]).unwrap();
    }
    let mut asked = keys(40);
    asked.extend((0..40).map(|number| format!("missing {number}")));
    let timeouts = [
        Deadline::NEVER,
        Deadline::after(std::time::Instant::now(), Duration::from_secs(60)),
    ];
    for (group, deadline) in [&on_first, &on_second].into_iter().zip(timeouts) {
        for (key, got) in asked.iter().zip(group.get_many_entries(&asked, deadline)) {
            match got {
                Ok(got) => {
                    assert_eq!(got.value, value_of(key));
                    assert!(got.remaining.unwrap() <= Duration::from_secs(9));
                }
                Err(error) => {
                    assert!(matches!(error, Error::NotFound), "{error:?}");
                    assert!(key.contains("missing"));
                }
            }
        }
    }
    let sizes = sizes.lock().unwrap();
    // All keys at first, then again those without a value.
    assert_eq!(sizes.len(), 4, "{sizes:?}");
    assert_eq!(sizes.iter().sum::<usize>(), 80 + 40);
    let stats = [on_first.stats(), on_second.stats()];
    assert_eq!(stats.iter().map(|stats| stats.loads).sum::<u64>(), 80 + 40);
    assert_eq!(stats.iter().map(|stats| stats.loader_runs).sum::<u64>(), 4);
}

#[test]
fn a_batch_loader_that_fails_or_panics_fails_its_keys_only() {
    let node = Network::new().node(&address(0)).unwrap();
    let group = node
        .group_builder(GROUP, 1 << 20)
        .batch_loader(|keys| -> Result<HashMap<String, Value>, LoadError> {
            if keys.contains(&"bug") {
                panic!("a bug");
            }
            Err("no database".into())
        })
        .build(|key| Ok(value_of(key)))
        .unwrap();
    assert_eq!(group.get("a").unwrap(), value_of("a"));
    let answers = group.get_many(&["a", "b", "c"]);
    assert!(answers[0].is_ok());
    assert!(
        answers[1..]
            .iter()
            .all(|answer| matches!(answer, Err(Error::Load { .. })))
    );
    let answers = group.get_many(&["a", "bug", "c"]);
    assert!(
        answers[1..]
            .iter()
            .all(|answer| matches!(answer, Err(Error::Panicked { .. })))
    );
    assert_eq!(group.stats().flights, 0);
    // One key is a load like any other.
    assert_eq!(group.get_many(&["b"])[0].as_ref().unwrap(), &value_of("b"));
}

/// Two nodes whose loader of a number gets the number before it, in either process.
fn chain(
    groups: &'static OnceLock<Vec<Group>>,
    settings: impl Fn(NodeBuilder) -> NodeBuilder,
) -> Cluster {
    let cluster = Cluster::with(
        2,
        Clock::system(),
        settings,
        |group| group,
        |key| {
            let number: usize = key.parse()?;
            if number > 0 {
                let groups = groups.get().ok_or("no groups yet")?;
                groups[number % 2].get(&(number - 1).to_string())?;
            }
            Ok(Value::from(key))
        },
    );
    groups.set(cluster.groups.clone()).unwrap();
    cluster
}

#[test]
fn loads_of_a_batch_may_need_other_keys_of_it() {
    static GROUPS: OnceLock<Vec<Group>> = OnceLock::new();
    let settings = |node: NodeBuilder| node.loader_threads(16).fetch_timeout(8 * SECOND);
    let cluster = chain(&GROUPS, settings);
    let keys: Vec<String> = (0..16).rev().map(|number| number.to_string()).collect();
    for (key, value) in keys.iter().zip(cluster.groups[0].get_many(&keys)) {
        assert_eq!(value.unwrap(), Value::from(&**key));
        assert_eq!(cluster.loads.of(key), 1, "{key}");
    }
}

#[test]
fn loads_of_a_batch_that_need_each_other_end_with_pools_of_one_thread() {
    static GROUPS: OnceLock<Vec<Group>> = OnceLock::new();
    // While the one thread of a process waits for the other process, another one takes its part.
    let cluster = chain(&GROUPS, |node| {
        let node = node.loader_threads(1).load_timeout(2 * SECOND);
        node.fetch_timeout(SECOND / 10)
    });
    let keys: Vec<String> = (0..8).rev().map(|number| number.to_string()).collect();
    for (key, value) in keys.iter().zip(cluster.groups[0].get_many(&keys)) {
        assert_eq!(value.unwrap(), Value::from(&**key));
    }
}

#[test]
fn a_batch_inside_a_loader_runs_there_and_a_cycle_is_an_error() {
    static GROUP_OF_TEST: OnceLock<Group> = OnceLock::new();
    let cluster = Cluster::with(
        2,
        Clock::manual(),
        |node| node.loader_threads(1),
        |group| group,
        |key| {
            if key != "sum" {
                return Ok(value_of(key));
            }
            let group = GROUP_OF_TEST.get().ok_or("no group yet")?;
            let found = group.get_many(&["a", "b", "c", "d", "sum"]);
            let errors = found
                .iter()
                .filter(|found| matches!(found, Err(Error::Cycle)));
            let values = found.iter().filter(|found| found.is_ok());
            Ok(Value::from(format!(
                "{} {}",
                values.count(),
                errors.count()
            )))
        },
    );
    let owner = (0..2)
        .find(|&at| cluster.nodes[0].owner("sum").address() == address(at))
        .unwrap();
    GROUP_OF_TEST.set(cluster.groups[owner].clone()).unwrap();
    let sum = cluster.groups[owner].get("sum").unwrap();
    assert_eq!(sum, Value::from("4 1"));
}

/// Answers commands as a node does that knows none but `clear` and `remove`.
struct Older {
    node: Node,
    batches: Arc<AtomicUsize>,
}

impl Transport for Older {
    fn link(&self, _: &Peer, _: &Limits) -> Result<Arc<dyn Link>, Error> {
        Ok(Arc::new(Older {
            node: self.node.clone(),
            batches: Arc::clone(&self.batches),
        }))
    }
}

impl Link for Older {
    fn call(&self, call: &Call, _: Duration) -> Result<Reply, CallError> {
        let mut body = &call.body[..];
        if call.method == "POST" {
            self.batches.fetch_add(1, Ordering::SeqCst);
            body = &[];
        }
        let request = Request::new(call.method, &call.target);
        let response = self
            .node
            .answer(&request.header("X-Groupcache", &call.header).body(body));
        let header = response.headers().find(|(name, _)| *name == "X-Groupcache");
        Ok(Reply {
            status: response.status(),
            header: header.map(|(_, value)| value.to_owned()),
            body: response.body().concat(),
        })
    }
}

#[test]
fn a_peer_that_knows_no_batches_is_asked_for_each_key() {
    let batches = Arc::new(AtomicUsize::new(0));
    let older = Node::new(&address(1)).unwrap();
    let loads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&loads);
    let _on_older = older
        .group_builder(GROUP, 1 << 20)
        .build(move |key| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(value_of(key))
        })
        .unwrap();
    let transport = Older {
        node: older.clone(),
        batches: Arc::clone(&batches),
    };
    let node = Node::builder(address(0))
        .unwrap()
        .transport(Arc::new(transport))
        .build()
        .unwrap();
    let group = node
        .group_builder(GROUP, 1 << 20)
        .build(|_| Err("not here".into()))
        .unwrap();
    node.set_peers([address(0), address(1)]).unwrap();
    older.set_peers([address(0), address(1)]).unwrap();
    let theirs: Vec<String> = keys(100)
        .into_iter()
        .filter(|key| node.owner(key).address() == address(1))
        .collect();
    for (key, value) in theirs.iter().zip(group.get_many(&theirs)) {
        assert_eq!(value.unwrap(), value_of(key));
    }
    assert_eq!(batches.load(Ordering::SeqCst), 1);
    assert_eq!(loads.load(Ordering::SeqCst), theirs.len());
    let stats = group.stats();
    assert_eq!(
        (stats.fetches, stats.fetch_errors),
        (theirs.len() as u64, 0)
    );
}

#[test]
fn callers_who_wait_for_many_hanging_peers_share_the_helpers_of_their_node() {
    const CALLERS: usize = 30;
    const HELPERS: usize = 64;
    let cluster = Cluster::new(13);
    for peer in 1..13 {
        cluster
            .network
            .set_fault(&address(peer), Some(Fault::Hangs));
    }
    let group = &cluster.groups[0];
    let time = Duration::from_millis(500);
    std::thread::scope(|scope| {
        let owned = |key: &String| cluster.nodes[0].owner(key).address() != address(0);
        let gets: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let keys = (0..400).map(|number| format!("{number} of {caller}"));
                let keys: Vec<String> = keys.filter(owned).collect();
                scope.spawn(move || group.get_many_timeout(&keys, time))
            })
            .collect();
        // Each caller waits for a peer, and so does each helper.
        eventually("they wait", || {
            cluster.clock.sleepers() >= CALLERS + HELPERS
        });
        for _ in 0..1_000 {
            std::thread::yield_now();
        }
        let waiting = cluster.clock.sleepers();
        // Their time is up, also for the peers whose turn has not come.
        cluster.advance(time);
        for get in gets {
            for outcome in get.join().unwrap() {
                assert!(matches!(outcome, Err(Error::Deadline)), "{outcome:?}");
            }
        }
        assert_eq!(waiting, CALLERS + HELPERS);
    });
}
