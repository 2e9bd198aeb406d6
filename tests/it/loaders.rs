//! Loaders that panic, that ask for other keys, and that ask for themselves.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;

use groupcache_sync::{
    Clock, Deadline, Error, Group, Json, LoadError, Network, Node, Source, Value,
};

use crate::cluster::{Cluster, address, ends, eventually, together, value_of};

#[test]
fn a_panicking_loader_gives_an_error_to_all_and_the_next_get_loads() {
    let calm = Arc::new(AtomicBool::new(false));
    let is_calm = Arc::clone(&calm);
    let waiting: Arc<OnceLock<Group>> = Arc::default();
    let group_in_loader = Arc::clone(&waiting);
    let cluster = Cluster::with(
        1,
        Clock::system(),
        |node| node,
        |group| group,
        move |key| {
            if is_calm.load(Ordering::SeqCst) {
                return Ok(value_of(key));
            }
            let group = group_in_loader.get().unwrap();
            eventually("all others wait", || group.stats().joined == 15);
            panic!("no such luck");
        },
    );
    let group = &cluster.groups[0];
    waiting.set(group.clone()).unwrap();
    for error in together(16, |_| group.get("k").unwrap_err()) {
        let Error::Panicked { message } = error else {
            panic!("{error:?}");
        };
        assert_eq!(&*message, "no such luck");
    }
    assert_eq!(cluster.loads.all(), 1);
    calm.store(true, Ordering::SeqCst);
    assert_eq!(group.get("k").unwrap(), value_of("k"));
    assert_eq!(group.stats().flights, 0);
}

/// A group whose loader may use the group itself, by the key's own rules.
fn reentrant(
    threads: usize,
    load: impl Fn(&Group, &str) -> Result<Value, LoadError> + Send + Sync + 'static,
) -> Group {
    let node = Node::builder("http://127.0.0.1:1")
        .unwrap()
        .loader_threads(threads)
        .build()
        .unwrap();
    let this: Arc<OnceLock<Group>> = Arc::default();
    let in_loader = Arc::clone(&this);
    let group = node
        .group_builder("g", 1 << 20)
        .build(move |key| load(in_loader.get().unwrap(), key))
        .unwrap();
    this.set(group.clone()).unwrap();
    group
}

fn source_of(error: &Error) -> String {
    std::error::Error::source(error)
        .map(ToString::to_string)
        .unwrap_or_default()
}

#[test]
fn a_loader_that_asks_for_its_own_key_gets_an_error() {
    let group = reentrant(1, |group, key| Ok(group.get(key)?));
    let error = group.get("k").unwrap_err();
    assert!(source_of(&error).contains("break the cycle"), "{error:?}");
    let error = group.get_timeout("k", Duration::from_secs(60)).unwrap_err();
    assert!(source_of(&error).contains("break the cycle"), "{error:?}");
}

#[test]
fn two_loaders_that_ask_for_each_others_key_get_an_error() {
    let group = reentrant(4, |group, key| {
        let other = if key == "a" { "b" } else { "a" };
        Ok(group.get(other)?)
    });
    // On one thread, and on two that start together, with and without a deadline.
    assert!(group.get("a").is_err());
    for round in 0..200 {
        let ends = together(2, |thread| {
            let key = ["a", "b"][thread];
            match round % 2 {
                0 => group.get(key),
                _ => group.get_timeout(key, Duration::from_secs(60)),
            }
        });
        assert!(ends.iter().all(Result::is_err), "{ends:?}");
    }
    assert_eq!(group.stats().flights, 0);
}

#[test]
fn nested_loads_work_with_a_pool_of_one_thread() {
    let group = reentrant(1, |group, key| {
        let depth: u32 = key.parse()?;
        if depth == 0 {
            return Ok(Value::from("ground"));
        }
        let below = (depth - 1).to_string();
        Ok(group.get_timeout(&below, Duration::from_secs(60))?)
    });
    let value = group.get_timeout("20", Duration::from_secs(60)).unwrap();
    assert_eq!(value, Value::from("ground"));
    assert_eq!(group.stats().loads, 21);
}

#[test]
fn nested_loads_across_nodes_work_with_pools_of_one_thread() {
    let groups: Arc<Mutex<Vec<Group>>> = Arc::default();
    let in_loader = Arc::clone(&groups);
    let cluster = Cluster::with(
        2,
        Clock::system(),
        |node| node.loader_threads(1).fetch_timeout(Duration::from_secs(2)),
        |group| group,
        move |key| {
            let depth: u32 = key.parse()?;
            if depth == 0 {
                return Ok(Value::from("ground"));
            }
            let group = in_loader.lock().unwrap()[depth as usize % 2].clone();
            Ok(group.get(&(depth - 1).to_string())?)
        },
    );
    *groups.lock().unwrap() = cluster.groups.clone();
    assert_eq!(cluster.groups[0].get("12").unwrap(), Value::from("ground"));
}

#[test]
fn a_failed_loader_of_the_owner_is_loaded_here_or_handed_on() {
    for hand_on in [false, true] {
        let cluster = Cluster::with(
            2,
            Clock::manual(),
            |node| node,
            |group| group.hand_on_load_errors(hand_on),
            |_| Err("no database".into()),
        );
        let key = cluster.key_owned_by(1);
        let error = cluster.groups[0].get(&key).unwrap_err();
        match error {
            Error::OwnerLoad { message, .. } if hand_on => {
                assert!(message.contains("no database"), "{message}");
            }
            Error::Load { source } if !hand_on => assert_eq!(source.to_string(), "no database"),
            other => panic!("{other:?}"),
        }
        assert_eq!(cluster.loads.of(&key), if hand_on { 1 } else { 2 });
    }
}

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct User {
    name: String,
    age: u8,
}

#[test]
fn typed_values_travel_and_a_hit_is_a_clone_of_what_was_cached() {
    use groupcache_sync::Network;
    let network = Network::new();
    let nodes = ["http://a:1", "http://b:1"].map(|address| network.node(address).unwrap());
    let groups: Vec<Group<Arc<User>>> = nodes
        .iter()
        .map(|node| {
            node.group_builder("users", 1 << 20)
                .codec(ArcUser)
                .hot_threshold(0.0)
                .build(|key| {
                    Ok(Arc::new(User {
                        name: key.to_owned(),
                        age: 7,
                    }))
                })
                .unwrap()
        })
        .collect();
    for node in &nodes {
        node.set_peers(["http://a:1", "http://b:1"]).unwrap();
    }
    for key in 0..20 {
        let key = key.to_string();
        for group in &groups {
            let first = group.get(&key).unwrap();
            assert_eq!((first.name.as_str(), first.age), (key.as_str(), 7));
            let again = group.get(&key).unwrap();
            assert!(Arc::ptr_eq(&first, &again) || group.stats().hot_items > 0);
        }
    }
    let loads: u64 = groups.iter().map(|group| group.stats().loads).sum();
    assert_eq!(loads, 20);
}

struct ArcUser;

impl groupcache_sync::Codec<Arc<User>> for ArcUser {
    fn encode(&self, user: &Arc<User>) -> Result<Value, groupcache_sync::CodecError> {
        groupcache_sync::Codec::<User>::encode(&Json, user)
    }

    fn decode(&self, bytes: Value) -> Result<Arc<User>, groupcache_sync::CodecError> {
        groupcache_sync::Codec::<User>::decode(&Json, bytes).map(Arc::new)
    }
}

#[test]
fn a_codec_that_fails_or_panics_costs_a_load_and_nothing_else() {
    struct Moody(&'static str);
    impl groupcache_sync::Codec<Value> for Moody {
        fn encode(&self, value: &Value) -> Result<Value, groupcache_sync::CodecError> {
            match self.0 {
                "encode fails" => Err("cannot encode".into()),
                "encode panics" => panic!("encode"),
                _ => Ok(value.clone()),
            }
        }
        fn decode(&self, bytes: Value) -> Result<Value, groupcache_sync::CodecError> {
            match self.0 {
                "decode fails" => Err("cannot decode".into()),
                "decode panics" => panic!("decode"),
                _ => Ok(bytes),
            }
        }
        fn weight(&self, value: &Value) -> usize {
            value.len()
        }
    }
    for mood in [
        "encode fails",
        "encode panics",
        "decode fails",
        "decode panics",
    ] {
        let network = groupcache_sync::Network::new();
        let nodes = ["http://a:1", "http://b:1"].map(|address| network.node(address).unwrap());
        let groups: Vec<Group> = nodes
            .iter()
            .map(|node| {
                let builder = node.group_builder("g", 1 << 20).codec(Moody(mood));
                builder.build(|key| Ok(value_of(key))).unwrap()
            })
            .collect();
        for node in &nodes {
            node.set_peers(["http://a:1", "http://b:1"]).unwrap();
        }
        for key in 0..20 {
            for group in &groups {
                let key = key.to_string();
                assert_eq!(group.get(&key).unwrap(), value_of(&key), "{mood}");
            }
        }
    }
}

#[test]
fn a_loader_says_how_long_its_value_lives() {
    use groupcache_sync::{Load, Loaded, Loader, Network};
    struct Brief;
    impl Loader<Value> for Brief {
        fn load(&self, load: &Load<'_>) -> Result<Loaded<Value>, LoadError> {
            Ok(Loaded::new(Value::from(load.key())).ttl(Duration::from_secs(500)))
        }
    }
    let (network, clock) = (Network::new(), Clock::manual());
    let node = network
        .builder("http://a:1")
        .unwrap()
        .clock(clock.clone())
        .build()
        .unwrap();
    let max = Duration::from_secs(60);
    let group = node
        .group_builder("g", 1 << 20)
        .max_ttl(max)
        .build_with(Brief)
        .unwrap();
    let got = group.get_entry("k", Deadline::NEVER).unwrap();
    assert_eq!((got.source, got.remaining), (Source::Load, Some(max)));
    clock.advance(Duration::from_secs(20));
    let got = group.get_entry("k", Deadline::NEVER).unwrap();
    assert_eq!(
        (got.source, got.remaining),
        (Source::Main, Some(Duration::from_secs(40)))
    );
}

/// Two nodes of one process that know each other if they are `peers`. A load waits until one of the
/// other node has begun too, and then gets the key of the other one from the group of `group_of`.
fn two_nodes(
    are_peers: bool,
    group_of: fn(usize) -> usize,
) -> ([Node; 2], Arc<OnceLock<[Group; 2]>>, [String; 2]) {
    let network = Network::new();
    let nodes = [0, 1].map(|at| {
        let builder = network.builder(address(at)).unwrap().loader_threads(1);
        let builder = builder.load_timeout(Duration::from_millis(100));
        let node = builder.warm_up(Duration::ZERO).build();
        node.inspect(|node| network.attach(node)).unwrap()
    });
    nodes[0].set_peers([0, 1].map(address)).unwrap();
    let owned = |at: usize| {
        let is_owned = |key: &String| nodes[0].owner(key).address() == address(at);
        (0..).map(|n| format!("key {n}")).find(is_owned).unwrap()
    };
    let keys = [0, 1].map(owned);
    if are_peers {
        nodes[1].set_peers([0, 1].map(address)).unwrap();
    } else {
        nodes[0].set_peers([address(0)]).unwrap();
    }
    let groups: Arc<OnceLock<[Group; 2]>> = Arc::default();
    let begun = Arc::new(AtomicUsize::new(0));
    let built = [0, 1].map(|at| {
        let (groups, begun) = (Arc::clone(&groups), Arc::clone(&begun));
        let keys = keys.clone();
        let load = move |key: &str| {
            begun.fetch_add(1, Ordering::SeqCst);
            eventually("both load", || begun.load(Ordering::SeqCst) >= 2);
            let other = &keys[usize::from(key == keys[0])];
            Ok(groups.get().unwrap()[group_of(at)].get(other)?)
        };
        nodes[at].group_builder("g", 1 << 20).build(load).unwrap()
    });
    assert!(groups.set(built).is_ok());
    (nodes, groups, keys)
}

/// What two threads get, of the group and the key with these numbers.
fn got_at_once(
    groups: &Arc<OnceLock<[Group; 2]>>,
    asked: [(usize, &String); 2],
) -> mpsc::Receiver<Result<Value, Error>> {
    let (sender, told) = mpsc::channel();
    for (at, key) in asked {
        let (groups, sender, key) = (Arc::clone(groups), sender.clone(), key.clone());
        std::thread::spawn(move || sender.send(groups.get().unwrap()[at].get(&key)));
    }
    told
}

#[test]
fn loads_of_two_nodes_that_need_each_other_end_though_others_fetch_for_them() {
    let (_nodes, groups, keys) = two_nodes(true, |at| at);
    // Each asks the other node, and leads the fetch that the load of its own node waits for.
    let told = got_at_once(&groups, [(0, &keys[1]), (1, &keys[0])]);
    let got: Vec<_> = ends("both gets", move || told.iter().collect());
    assert_eq!(got.len(), 2);
}

#[test]
fn loaders_of_two_nodes_of_one_process_that_get_from_each_other_get_an_error() {
    let (_nodes, groups, keys) = two_nodes(false, |at| 1 - at);
    let told = got_at_once(&groups, [(0, &keys[0]), (1, &keys[1])]);
    let got: Vec<_> = ends("both loads", move || told.iter().collect());
    assert!(got.len() == 2 && got.iter().all(Result::is_err), "{got:?}");
}
