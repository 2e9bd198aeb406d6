//! P5: memory, threads and sockets stay under configured bounds. The bytes of a cache are the sum of what
//! its entries are charged for (I4).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use groupcache_sync::{
    Bytes, Clock, Codec, CodecError, ENTRY_OVERHEAD, Loaded, Network, Node, Value,
};

use crate::cluster::{Cluster, eventually, together};

fn threads_of_ours() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks
        .flatten()
        .map(|task| std::fs::read_to_string(task.path().join("comm")));
    names
        .flatten()
        .filter(|name| name.starts_with("groupcache-"))
        .count()
}

#[test]
fn the_budget_holds_to_the_byte_under_mixed_sizes() {
    let capacity = 200_000;
    let node = Node::new("http://127.0.0.1:1").unwrap();
    let group = node
        .group_builder("g", capacity)
        .build(|key| {
            let number: usize = key.parse()?;
            // From nothing to a quarter of the capacity, in no order.
            Ok(Value::from(vec![
                0;
                number.wrapping_mul(2_654_435_761) % 50_000
            ]))
        })
        .unwrap();
    let used = || {
        let stats = group.stats();
        (stats.main_bytes + stats.hot_bytes) as usize
    };
    let most = AtomicUsize::new(0);
    together(8, |thread| {
        for number in 0..500 {
            group.get(&(number * 8 + thread).to_string()).unwrap();
            most.fetch_max(used(), Ordering::Relaxed);
        }
    });
    let most = most.into_inner();
    assert!(most <= capacity, "{most} of {capacity}");
    assert!(
        most > capacity * 9 / 10,
        "much of the capacity is never used: {most}"
    );
}

#[test]
fn an_entry_is_charged_for_its_key_its_value_and_its_overhead() {
    let cluster = Cluster::new(1);
    let group = &cluster.groups[0];
    group.get("a key").unwrap();
    let charged = "a key".len() + "value of a key".len() + ENTRY_OVERHEAD;
    assert_eq!(group.stats().main_bytes, charged as u64);
    group.remove("a key").unwrap();
    assert_eq!(group.stats().main_bytes, 0);
}

#[test]
fn a_value_larger_than_the_budget_is_served_and_evicts_nothing() {
    let node = Node::new("http://127.0.0.1:1").unwrap();
    let size = |key: &str| if key == "huge" { 20_000 } else { 100 };
    let group = node
        .group_builder("g", 10_000)
        .build(move |key| Ok(Value::from(vec![0; size(key)])))
        .unwrap();
    for key in 0..20 {
        group.get(&key.to_string()).unwrap();
    }
    let before = group.stats();
    assert_eq!(group.get("huge").unwrap().len(), 20_000);
    let after = group.stats();
    assert_eq!(
        (before.main_items, before.evictions),
        (after.main_items, after.evictions)
    );
    assert!(group.try_get("huge").is_none());
}

#[test]
fn a_value_of_half_the_budget_is_cached_whatever_the_number_of_shards() {
    for shards in [1, 2, 16, 256] {
        let node = Node::new("http://127.0.0.1:1").unwrap();
        let capacity = 100_000;
        let group = node
            .group_builder("g", capacity)
            .shards(shards)
            .build(move |key| {
                Ok(Value::from(vec![
                    0;
                    if key == "half" {
                        capacity / 2
                    } else {
                        500
                    }
                ]))
            })
            .unwrap();
        for key in 0..300 {
            group.get(&key.to_string()).unwrap();
        }
        group.get("half").unwrap();
        assert!(group.try_get("half").is_some(), "with {shards} shards");
        assert!(group.stats().main_bytes <= capacity as u64);
    }
}

#[test]
fn the_hot_cache_keeps_to_its_share_and_main_may_use_the_rest() {
    let cluster = Cluster::with(
        2,
        Clock::manual(),
        |node| node,
        |group| group.hot_threshold(0.0).hot_bytes(10_000),
        |_| Ok(Value::from(vec![0; 400])),
    );
    for key in 0..500 {
        cluster.groups[0].get(&key.to_string()).unwrap();
    }
    let stats = cluster.groups[0].stats();
    assert!(
        stats.hot_bytes <= 10_000 && stats.hot_items >= 10,
        "{stats:?}"
    );
    assert!(stats.evictions > 100, "{stats:?}");
}

#[test]
fn expired_entries_are_the_first_to_go() {
    let clock = Clock::manual();
    let network = Network::new();
    let node = network
        .builder("http://a:1")
        .unwrap()
        .clock(clock.clone())
        .build()
        .unwrap();
    let group = node
        .group_builder("g", 100 * (ENTRY_OVERHEAD + 10))
        .build(|_| Ok(Value::from("x")))
        .unwrap();
    for number in 0..50 {
        let lasting = Loaded::new(Value::from("x"));
        let brief = Loaded::new(Value::from("x")).ttl(Duration::from_secs(1));
        group.set(&format!("lasting {number}"), lasting).unwrap();
        group.set(&format!("brief {number}"), brief).unwrap();
    }
    clock.advance(Duration::from_secs(2));
    let lasting = || {
        (0..50)
            .filter(|n| group.try_get(&format!("lasting {n}")).is_some())
            .count()
    };
    let before = lasting();
    assert!(before >= 30, "{before}");
    for number in 0..30 {
        group.get(&format!("new {number}")).unwrap();
    }
    assert_eq!(
        lasting(),
        before,
        "the living were evicted while expired ones were kept"
    );
}

#[test]
fn expired_values_are_not_served_and_zero_lives_never() {
    let clock = Clock::manual();
    let second = Duration::from_secs(1);
    let cluster = Cluster::with(
        2,
        clock.clone(),
        |node| node,
        |group| group.ttl(10 * second).hot_threshold(0.0),
        |key| Ok(Value::from(key)),
    );
    let key = cluster.key_owned_by(0);
    for node in [0, 1] {
        cluster.groups[node].get(&key).unwrap();
    }
    clock.advance(10 * second - Duration::from_millis(1));
    assert!(
        cluster
            .groups
            .iter()
            .all(|group| group.try_get(&key).is_some())
    );
    clock.advance(Duration::from_millis(1));
    assert!(
        cluster
            .groups
            .iter()
            .all(|group| group.try_get(&key).is_none())
    );
    assert_eq!(cluster.loads.of(&key), 1);

    let cluster = Cluster::with(
        2,
        clock,
        |node| node,
        |group| group.ttl(Duration::ZERO).hot_threshold(0.0),
        |key| Ok(Value::from(key)),
    );
    for round in 1..=3 {
        for group in &cluster.groups {
            assert_eq!(group.get("k").unwrap(), Value::from("k"));
            assert!(group.try_get("k").is_none());
        }
        assert_eq!(cluster.loads.of("k"), 2 * round);
    }
}

#[test]
fn jitter_spreads_the_ends_of_lives() {
    let clock = Clock::manual();
    let network = Network::new();
    let node = network
        .builder("http://a:1")
        .unwrap()
        .clock(clock.clone())
        .build()
        .unwrap();
    let group = node
        .group_builder("g", 1 << 20)
        .ttl(Duration::from_secs(100))
        .ttl_jitter(0.5)
        .build(|_| Ok(Value::from("x")))
        .unwrap();
    (0..1_000).for_each(|key| drop(group.get(&key.to_string()).unwrap()));
    let alive = || {
        (0..1_000)
            .filter(|key| group.try_get(&key.to_string()).is_some())
            .count()
    };
    clock.advance(Duration::from_secs(49));
    assert_eq!(alive(), 1_000);
    clock.advance(Duration::from_secs(26));
    assert!((400..600).contains(&alive()), "{}", alive());
    clock.advance(Duration::from_secs(25));
    assert_eq!(alive(), 0);
}

/// A value that asks the group for something while it is dropped: it must not meet a lock of ours.
#[derive(Clone)]
struct Nosy(Arc<Probe>);

struct Probe(
    Option<mpsc::Sender<()>>,
    std::sync::OnceLock<groupcache_sync::Group<Nosy>>,
);

impl Drop for Probe {
    fn drop(&mut self) {
        if let (Some(sender), Some(group)) = (&self.0, self.1.get()) {
            let _ = group.stats();
            let _ = group.try_get("anything");
            let _ = sender.send(());
        }
    }
}

struct NosyCodec;

impl Codec<Nosy> for NosyCodec {
    fn encode(&self, _: &Nosy) -> Result<Value, CodecError> {
        Bytes.encode(&Value::default())
    }

    fn decode(&self, _: Value) -> Result<Nosy, CodecError> {
        Ok(Nosy(Arc::new(Probe(None, std::sync::OnceLock::new()))))
    }
}

#[test]
fn values_are_dropped_without_any_lock_held() {
    let node = Node::new("http://127.0.0.1:1").unwrap();
    let (sender, dropped) = mpsc::channel();
    let group = node
        .group_builder("g", 3 * (ENTRY_OVERHEAD + 10))
        .codec(NosyCodec)
        .shards(1)
        .build(move |_| {
            Ok(Nosy(Arc::new(Probe(
                Some(sender.clone()),
                std::sync::OnceLock::new(),
            ))))
        })
        .unwrap();
    for key in 0..10 {
        let value = group.get(&key.to_string()).unwrap();
        let _ = value.0.1.set(group.clone());
    }
    assert_eq!(dropped.try_iter().count(), 7, "evicted");
    group.remove("9").unwrap();
    group.clear().unwrap();
    assert_eq!(dropped.try_iter().count(), 3, "removed and cleared");
}

/// Other tests run in this process too: one that counts has a process of its own. Tells whether
/// this is it; if not, it has run there.
fn is_alone(test: &str) -> bool {
    const CHILD: &str = "GROUPCACHE_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            &format!("p5_bounds::{test}"),
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(CHILD, "1")
        // glibc would learn to keep what is freed: it is to be seen what this crate keeps.
        .env("MALLOC_MMAP_THRESHOLD_", "131072")
        .status()
        .unwrap();
    assert!(child.success());
    false
}

fn sockets() -> usize {
    let files = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    targets
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count()
}

/// A node on a port of its own, its group, and what serves it.
struct Part {
    group: groupcache_sync::Group,
    node: Node,
    server: groupcache_sync::Server,
}

/// Three nodes of one cluster over real sockets.
fn parts() -> Vec<Part> {
    let listeners: Vec<_> = (0..3)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let address =
        |listener: &std::net::TcpListener| format!("http://{}", listener.local_addr().unwrap());
    let addresses: Vec<String> = listeners.iter().map(address).collect();
    let part = |(listener, address): (std::net::TcpListener, &String)| {
        let node = Node::new(address).unwrap();
        let group = node.group_builder("g", 1 << 20);
        let group = group.build(|key| Ok(Value::from(key))).unwrap();
        let server = groupcache_sync::Server::from_listener(&node, listener).unwrap();
        node.set_peers(&addresses).unwrap();
        Part {
            group,
            node,
            server,
        }
    };
    listeners.into_iter().zip(&addresses).map(part).collect()
}

/// What the process has in memory, in bytes.
#[cfg(target_os = "linux")]
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() << 10
}

/// Batches of large values that nobody caches, each of which waits for a slow one.
#[cfg(target_os = "linux")]
#[test]
fn memory_stays_within_its_bound_whatever_batches_ask_for() {
    use crate::server::{Client, request};

    const MIB: usize = 1 << 20;
    if !is_alone("memory_stays_within_its_bound_whatever_batches_ask_for") {
        return;
    }
    // What loaders have is theirs.
    let node = Node::builder("http://127.0.0.1:1").unwrap();
    let node = node.loader_threads(2).build().unwrap();
    let (release, released) = mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let group = node.group_builder("g", MIB).build(move |key| {
        if key == "slow" {
            let _ = released.lock().unwrap().recv();
        }
        Ok(Value::from(vec![7; 8 * MIB]))
    });
    let group = group.unwrap();
    let server = groupcache_sync::Server::builder(&node).max_buffered(32 * MIB);
    let server = server.bind("127.0.0.1:0").unwrap();
    let start = resident();
    let mut clients = Vec::new();
    for number in 0..32_u8 {
        let mut client = Client::connect(server.local_addr());
        let body = [
            &b"\x1a\x04slow\x1a\x03k"[..],
            &[b'a' + number / 16, b'a' + number % 16],
        ]
        .concat();
        let headers = format!(
            "X-Groupcache: v=1;w=60000\r\nContent-Length: {}\r\n",
            body.len()
        );
        client.send(request("POST", "/_groupcache/g", &headers));
        client.send(&body);
        clients.push(client);
    }
    let most = AtomicUsize::new(0);
    eventually("all but the slow one are loaded", || {
        most.fetch_max(resident() - start, Ordering::Relaxed);
        let stats = group.stats();
        stats.loads == 33 && stats.flights == 1
    });
    release.send(()).unwrap();
    for client in &mut clients {
        most.fetch_max(resident() - start, Ordering::Relaxed);
        assert_eq!(client.answer().status, 200);
    }
    drop(clients);
    let most = most.into_inner() / MIB;
    assert!(most <= 32 + 64, "{most} MiB");
    eventually("it is given back", || resident() < start + 16 * MIB);
}

#[test]
fn dropping_nodes_and_servers_leaves_no_thread_and_no_socket() {
    if !is_alone("dropping_nodes_and_servers_leaves_no_thread_and_no_socket") {
        return;
    }
    let parts = parts();
    together(6, |thread| {
        for key in 0..100 {
            let key = key.to_string();
            let got = parts[thread % 3]
                .group
                .get_timeout(&key, Duration::from_secs(60));
            assert_eq!(got.unwrap(), Value::from(key));
        }
    });
    assert!(threads_of_ours() > 0 && sockets() > 3);
    drop(parts);
    eventually("all threads have ended", || threads_of_ours() == 0);
    eventually("all sockets are closed", || sockets() == 0);
}

#[test]
fn nodes_and_servers_may_end_under_load() {
    if !is_alone("nodes_and_servers_may_end_under_load") {
        return;
    }
    let (over, gets) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for part in parts() {
            for thread in 0..2 {
                let (group, over, gets) = (part.group.clone(), &over, &gets);
                scope.spawn(move || {
                    for key in (thread..).step_by(2) {
                        let key = (key % 5_000).to_string();
                        // Without its node a group goes on by itself.
                        let got = group.get_timeout(&key, Duration::from_secs(60));
                        assert_eq!(got.unwrap(), Value::from(key));
                        gets.fetch_add(1, Ordering::Relaxed);
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                });
            }
            let before = gets.load(Ordering::Relaxed);
            eventually("it is busy", || gets.load(Ordering::Relaxed) > before + 500);
            let end = std::time::Instant::now();
            let Part { node, server, .. } = part;
            assert!(server.shutdown(Duration::from_secs(60)));
            drop(node);
            // One second is what it may take; a busy machine may be slower.
            assert!(end.elapsed() < Duration::from_secs(10));
        }
        over.store(true, Ordering::Relaxed);
    });
    eventually("all threads have ended", || threads_of_ours() == 0);
    eventually("all sockets are closed", || sockets() == 0);
}

#[test]
fn dropping_everything_leaves_no_thread() {
    if !is_alone("dropping_everything_leaves_no_thread") {
        return;
    }
    let cluster = Cluster::with(
        3,
        Clock::system(),
        |node| node,
        |group| group,
        |key| Ok(Value::from(key)),
    );
    together(6, |thread| {
        for key in 0..100 {
            let timeout = Duration::from_secs(60);
            cluster.groups[thread % 3]
                .get_timeout(&key.to_string(), timeout)
                .unwrap();
        }
    });
    cluster.network.set_fault(
        &crate::cluster::address(1),
        Some(groupcache_sync::Fault::Refuses),
    );
    for key in 100..200 {
        cluster.groups[0].get(&key.to_string()).unwrap();
    }
    assert!(
        threads_of_ours() > 0,
        "there were loader threads and a keeper"
    );
    drop(cluster);
    eventually("all threads have ended", || threads_of_ours() == 0);
}
