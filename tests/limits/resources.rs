//! What the system does not give: descriptors, threads, memory, and a process that goes on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::cgroup::Cgroup;
use crate::gauge::{Gauge, Times};
use crate::origin::Origin;
use crate::process::{Cluster, PATIENCE, Process, STEADY, eventually};
use crate::{Over, alone_if_measured, size};

/// How often a test asks for something at most before that must have happened, in time.
const GUARD: Duration = Duration::from_secs(10);

fn address(url: &str) -> SocketAddr {
    url.strip_prefix("http://").unwrap().parse().unwrap()
}

/// Asks on a connection of its own whether somebody is there.
fn is_served(address: SocketAddr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        stream.write_all(b"GET /_groupcache/ HTTP/1.1\r\nHost: h\r\n\r\n")?;
        stream.read_exact(&mut [0; 12])
    };
    ask().is_ok()
}

/// Those who do nothing at one address leave descriptors for the other.
#[test]
fn idle_connections_of_peers_leave_descriptors_to_the_front() {
    let _turn = alone_if_measured();
    let origin = Origin::start();
    let wrapper = ["sh", "-c", "ulimit -n 1024; exec \"$@\"", "sh"];
    let node = Process::start_under(&wrapper, &origin, STEADY);
    let peers = address(&node.url);
    // Those of this test itself.
    assert!(rlimit::increase_nofile_limit(4_096).unwrap() >= 2_048);
    let _idle: Vec<TcpStream> = (0..1_500)
        .map(|_| TcpStream::connect(peers).unwrap())
        .collect();
    for key in (0..30).map(|number| format!("new {number}")) {
        assert_eq!(node.get(&key).status, 200);
    }
    let fds = Gauge::of(node.pid()).fds;
    assert!(fds < 1_000, "{fds}");
}

#[test]
fn a_shortage_of_descriptors_ends_when_they_are_given_back() {
    let _turn = alone_if_measured();
    let origin = Origin::start();
    let other = Process::start(&origin, STEADY);
    let wrapper = ["sh", "-c", "ulimit -n 64; exec \"$@\"", "sh"];
    let node = Process::start_under(&wrapper, &origin, STEADY);
    for each in [&node, &other] {
        assert_eq!(each.set_peers(&[&node.url, &other.url]).status, 200);
    }
    let ask_both = |prefix: &str| {
        for key in (0..32).map(|n| format!("{prefix}{n}")) {
            let reply = node.get(&key);
            assert_eq!(
                (reply.status, reply.text()),
                (200, &*format!("value of {key}"))
            );
        }
    };
    ask_both("before ");
    let peers = address(&node.url);
    // The system takes them, whether the process has room for them or not.
    let mut clients: Vec<TcpStream> = (0..200)
        .map(|_| TcpStream::connect(peers).unwrap())
        .collect();
    eventually("it has no descriptor left", || {
        Gauge::of(node.pid()).fds >= 60
    });
    // Each has a request that never ends, so that none makes room.
    let asked = clients.iter_mut().map(|client| {
        client.write_all(
            b"PUT /_groupcache/objects/k HTTP/1.1\r\nHost: h\r\nX-Groupcache: v=1\r\nContent-Length: 9\r\n\r\n",
        )
    });
    let asked = asked.filter(Result::is_ok).count();
    eventually("nobody is served any more", || !is_served(peers));
    let most = Gauge::of(node.pid()).fds;
    assert!(most <= 64);
    drop(clients);
    let released = Instant::now();
    while !is_served(peers) {
        assert!(released.elapsed() < GUARD, "it does not serve again");
    }
    let served = released.elapsed();
    // As a client of its peer and of the origin too.
    ask_both("after ");
    let whole = released.elapsed();
    eprintln!(
        "{most} of 64 descriptors, {asked} connections; served again after {served:?}, all of it \
         after {whole:?}"
    );
}

#[test]
fn without_more_threads_it_goes_on_with_those_it_has() {
    let _turn = alone_if_measured();
    let Some(cgroup) = Cgroup::new("pids") else {
        return;
    };
    let origin = Origin::start();
    let wrapper = cgroup.wrapper();
    let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    let node = Process::start_under(&wrapper, &origin, &[]);
    assert_eq!(node.get_within("warm", 20_000).status, 200);
    let threads = Gauge::of(node.pid()).threads;
    cgroup.set("pids.max", threads).unwrap();
    const CLIENTS: usize = 64;
    let (start, served, short) = (
        Barrier::new(CLIENTS),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (start, served, short, node) = (&start, &served, &short, &node);
            scope.spawn(move || {
                start.wait();
                assert!(is_served_in_time(address(&node.url)));
                assert_eq!(node.get("warm").status, 200);
                // There is a thread for loads.
                match node.get_within(&format!("cold {client}"), 20_000).status {
                    200 => served.fetch_add(1, Ordering::Relaxed),
                    503 => short.fetch_add(1, Ordering::Relaxed),
                    status => panic!("{status}"),
                };
            });
        }
    });
    assert!(Gauge::of(node.pid()).threads <= threads);
    assert!(served.load(Ordering::Relaxed) > 0);
    assert!(node.log().contains("cannot start"), "{}", node.log());
    cgroup.set("pids.max", threads + 1_000).unwrap();
    assert_eq!(node.get("cold again").status, 200);
    eprintln!(
        "{threads} threads and no more: {served:?} loads, {short:?} refused of {CLIENTS}; then again \
         {} threads",
        Gauge::of(node.pid()).threads
    );
}

fn is_served_in_time(address: SocketAddr) -> bool {
    let end = Instant::now() + PATIENCE;
    while !is_served(address) {
        if Instant::now() > end {
            return false;
        }
    }
    true
}

/// Sizes from 1 byte to 1 MiB, as many of each power of two: xorshift, with a seed of its own.
struct Sizes(u64);

impl Sizes {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let exponent = (self.0 >> 11) as f64 / (1_u64 << 53) as f64 * 20.0;
        exponent.exp2() as usize
    }
}

/// The budget of the cache, in KiB.
const BUDGET: u64 = 64 << 10;

/// Sets so many values in a node that runs under `wrapper`.
fn set_values(sets: u64, wrapper: &[&str]) -> Gauge {
    const CLIENTS: u64 = 4;
    let origin = Origin::start();
    let budget = (BUDGET << 10).to_string();
    let node = Process::start_under(wrapper, &origin, &["--cache-bytes", &budget]);
    let begun = Instant::now();
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let node = &node;
            scope.spawn(move || {
                let mut sizes = Sizes(0x9E37_79B9_7F4A_7C15 ^ client);
                let bytes = "v".repeat(1 << 20);
                for number in 0..sets / CLIENTS {
                    let reply = node.put(&format!("{client} {number}"), &bytes[..sizes.next()]);
                    assert_eq!(reply.status, 200, "{reply:?}");
                }
            });
        }
    });
    let gauge = Gauge::of(node.pid());
    eprintln!(
        "{sets} sets in {:.1?}, a budget of {BUDGET} KiB, of which {} are used: RSS {} KiB, at most \
         {}",
        begun.elapsed(),
        node.count("main_bytes") >> 10,
        gauge.rss,
        gauge.peak,
    );
    gauge
}

#[test]
fn memory_stays_near_the_budget_whatever_the_sizes() {
    let _turn = alone_if_measured();
    let sets = size("GROUPCACHE_SETS").unwrap_or(4_000);
    let cgroup = Cgroup::new("memory");
    let enter = cgroup.as_ref().map(Cgroup::wrapper);
    let enter = enter.iter().flatten().map(String::as_str);
    let wrapper: Vec<&str> = enter.chain(["env"]).collect();
    if let Some(cgroup) = &cgroup {
        cgroup.set("memory.limit_in_bytes", 128 << 20).unwrap();
        eprintln!("in a control group of 128 MiB:");
    }
    let gauge = set_values(sets, &wrapper);
    assert!(gauge.peak <= BUDGET * 5 / 4 + (32 << 10), "{gauge:?}");
}

#[test]
fn slow_loads_both_ways_do_not_wait_for_each_other_and_hits_go_on() {
    const WORKERS: &str = "4";
    const CLIENTS: usize = 32;
    let _turn = alone_if_measured();
    let origin = Origin::start();
    let args: Vec<&str> = [STEADY, &["--loader-threads", WORKERS]].concat();
    let cluster = Cluster::start(2, &origin, &args);
    let keys: Vec<String> = (0..CLIENTS).map(|n| format!("slow {n}")).collect();
    for node in cluster.nodes() {
        assert_eq!(node.get("warm").status, 200);
    }
    keys.iter().for_each(|key| origin.hold(key));
    let mut times = Times::default();
    thread::scope(|scope| {
        for node in cluster.nodes() {
            for key in &keys {
                scope.spawn(move || assert_eq!(node.get(key).text(), format!("value of {key}")));
            }
        }
        eventually("each asks the other", || {
            cluster.nodes().iter().all(|node| node.count("served") >= 4)
        });
        for _ in 0..500 {
            for node in cluster.nodes() {
                let begun = Instant::now();
                assert_eq!(node.get("warm").status, 200);
                times.add(begun.elapsed());
            }
        }
        keys.iter().for_each(|key| origin.release(key));
    });
    for key in &keys {
        assert_eq!(origin.asked(key), 1, "{key}");
    }
    eprintln!(
        "{CLIENTS} slow loads each way with {WORKERS} threads; meanwhile hits in {:?}, one of a \
         hundred in {:?}",
        times.of_thousand(500),
        times.of_thousand(990)
    );
}

/// What a client saw last.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The connection was closed between two answers, or before the first.
    Clean,
    /// An answer began and did not end.
    CutShort,
}

/// Asks again and again until the server ends.
fn ask_until_the_end(address: SocketAddr, answered: &AtomicUsize, over: &AtomicBool) -> End {
    let request = b"GET /k/key HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut room = vec![0; 64 << 10];
    while !over.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect(address) else {
            return End::Clean;
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        loop {
            if stream.write_all(request).is_err() {
                break;
            }
            let mut length = 0;
            loop {
                match stream.read(&mut room[length..]) {
                    Ok(0) | Err(_) if length == 0 => break,
                    Ok(0) | Err(_) => return End::CutShort,
                    Ok(count) => length += count,
                }
                if room[..length].ends_with(b"value of key") {
                    break;
                }
            }
            if length == 0 {
                break;
            }
            assert!(room.starts_with(b"HTTP/1.1 200 "));
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }
    End::Clean
}

#[test]
fn an_end_under_load_cuts_no_answer_short() {
    const CLIENTS: usize = 8;
    let _turn = alone_if_measured();
    let origin = Origin::start();
    let mut node = Process::start(&origin, &[]);
    let front = address(&node.front);
    let (answered, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| ask_until_the_end(front, &answered, &over)))
            .collect();
        while answered.load(Ordering::Relaxed) < 1_000 {
            thread::yield_now();
        }
        let _over = Over(&over);
        let told = Instant::now();
        node.signal("TERM");
        assert!(node.wait().success(), "{}", node.log());
        let took = told.elapsed();
        for client in clients {
            assert_eq!(client.join().unwrap(), End::Clean);
        }
        eprintln!("{answered:?} answers to {CLIENTS} clients; ended after {took:?}");
        assert!(took < GUARD);
    });
}
