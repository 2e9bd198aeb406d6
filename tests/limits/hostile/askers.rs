//! What those may do whom a node asks: peers that lie, are late or have gone, and whoever is found
//! at the address of a peer.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::alone_if_measured;
use crate::client::Client;
use crate::gauge::{CLOSE_WAIT, Times, tcp_sockets};
use crate::hostile::fake::{FakePeer, keys_of, ok, said, value};
use crate::hostile::messages::field;
use crate::hostile::trial::measured;
use crate::origin::Origin;
use crate::process::{Cluster, Process, program, run};

/// Nothing is mirrored, and no former owner is asked.
const PLAIN: &[&str] = &["--hot-bytes", "0", "--warm-up-ms", "0"];

/// Some keys are loaded by the node itself: so many are tried.
const KEYS: usize = 1_000;

fn with_peer(origin: &Origin, peer: &FakePeer) -> Process {
    let node = Process::start_with_log("warn", origin, PLAIN);
    assert_eq!(node.set_peers(&[&node.url, &peer.url()]).status, 200);
    node
}

#[test]
fn an_answer_too_many_is_not_taken_for_that_to_the_next_key() {
    let _turn = alone_if_measured();
    let has_lied = Arc::new(AtomicBool::new(false));
    let lying = Arc::clone(&has_lied);
    let peer = FakePeer::start(move |asked| {
        if asked.method != "GET" {
            return said("400 Bad Request", "bad-request", b"\n");
        }
        let mut answer = ok(&value(&asked.key));
        if !lying.swap(true, Ordering::SeqCst) {
            answer.extend(said("404 Not Found", "not-found", b"\n"));
        }
        answer
    });
    let origin = Origin::start();
    let node = with_peer(&origin, &peer);
    let mut wrong = Vec::new();
    for key in (0..KEYS).map(|number| format!("key-{number}")) {
        let reply = node.get(&key);
        if (reply.status, reply.text()) != (200, &*format!("value of {key}")) {
            wrong.push((key, reply.status));
        }
    }
    assert!(has_lied.load(Ordering::SeqCst), "the peer was never asked");
    assert_eq!(wrong, []);
}

/// An owner that takes as long for many keys as for one. Whoever asks it for others too gives its
/// own caller the answer at once.
#[test]
fn whoever_asks_for_others_keeps_no_answer_back() {
    const DELAY: Duration = Duration::from_millis(50);
    const CLIENTS: usize = 32;
    let _turn = alone_if_measured();
    let peer = FakePeer::start(|asked| {
        thread::sleep(DELAY);
        if asked.method == "GET" {
            return ok(&value(&asked.key));
        }
        let items = keys_of(&asked.body);
        let items = items.iter().flat_map(|key| field(1, &value(key)));
        ok(&items.collect::<Vec<_>>())
    });
    let origin = Origin::start();
    let node = with_peer(&origin, &peer);
    let end = Instant::now() + measured().unwrap_or(Duration::from_millis(500));
    let mut times = Times::default();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                scope.spawn({
                    let node = &node;
                    move || ask_for_new(node, client, end)
                })
            })
            .collect();
        for client in clients {
            times.extend(&client.join().unwrap());
        }
    });
    let (p50, longest) = (times.of_thousand(500), times.of_thousand(1_000));
    eprintln!(
        "an owner that takes {DELAY:?}: half of {CLIENTS} clients have it after {p50:.1?}, all after {longest:.1?}"
    );
    assert!(p50 >= DELAY, "nobody has asked the owner");
    // The request under way, and one's own.
    assert!(measured().is_none() || longest <= 4 * DELAY, "{longest:?}");
}

/// How long gets took that the peer answered.
fn ask_for_new(node: &Process, client: usize, end: Instant) -> Times {
    let address = node.front.strip_prefix("http://").unwrap().parse().unwrap();
    let (mut connection, mut times) = (Client::connect(address).unwrap(), Times::default());
    for number in 0.. {
        let begun = Instant::now();
        if begun > end {
            break;
        }
        let target = format!("/k/new-{client}-{number}");
        let (status, _) = connection.ask("GET", &target, &[]).unwrap();
        assert_eq!(status, 200);
        // What the node loads itself takes no time.
        if begun.elapsed() > Duration::from_millis(25) {
            times.add(begun.elapsed());
        }
    }
    times
}

/// Idle connections to a peer that has gone are closed after a while, also if nobody asks any more:
/// that takes too long for all but the long runs.
#[test]
fn connections_to_a_peer_that_has_gone_are_closed() {
    /// How long a connection may be idle, and how often somebody looks.
    const IDLE: Duration = Duration::from_secs(30 + 10);
    if measured().is_none_or(|time| time < Duration::from_secs(30)) {
        return;
    }
    let _turn = alone_if_measured();
    let origin = Origin::start_slow(Duration::from_millis(50), |key| key.as_bytes().to_vec());
    let mut cluster = Cluster::start(2, &origin, PLAIN);
    thread::scope(|scope| {
        for number in 0..64 {
            let node = &cluster[0];
            scope.spawn(move || assert_eq!(node.get(&format!("key-{number}")).status, 200));
        }
    });
    let port: u16 = cluster[1].url.rsplit(':').next().unwrap().parse().unwrap();
    let to_peer = || {
        let sockets = tcp_sockets().into_iter();
        sockets
            .filter(|socket| socket.remote_port == port)
            .collect::<Vec<_>>()
    };
    let kept = to_peer().len();
    assert!(kept > 1, "one connection was enough");
    cluster.kill(1);
    let (gone, mut left) = (Instant::now(), usize::MAX);
    while left > 0 && gone.elapsed() < IDLE {
        thread::sleep(Duration::from_secs(1));
        let sockets = to_peer().into_iter();
        left = sockets.filter(|socket| socket.state == CLOSE_WAIT).count();
    }
    eprintln!(
        "{kept} connections to a peer that has gone, {left} of them after {:.0?}",
        gone.elapsed()
    );
    assert_eq!(left, 0);
}

/// Two clusters with the same keys, of which one gets the address of a peer of the other.
fn cross(flags_of: impl Fn(&str) -> Vec<String>) {
    let _turn = alone_if_measured();
    let own = Origin::start_slow(Duration::ZERO, |key| format!("ours {key}").into_bytes());
    let foreign = Origin::start_slow(Duration::ZERO, |key| format!("theirs {key}").into_bytes());
    let start = |listen: &str, origin: &Origin, cluster: &str| {
        let flags = flags_of(cluster);
        let flags = flags
            .iter()
            .map(String::as_str)
            .chain(PLAIN.iter().copied());
        let command = Command::new(program());
        Process::start_at(listen, command, "warn", origin, &flags.collect::<Vec<_>>())
    };
    let node = start("127.0.0.1:0", &own, "ours");
    let mut peer = start("127.0.0.1:0", &own, "ours");
    for each in [&node, &peer] {
        assert_eq!(each.set_peers(&[&node.url, &peer.url]).status, 200);
    }
    let keys = |prefix: &'static str| (0..100).map(move |number| format!("{prefix}-{number}"));
    for key in keys("before") {
        assert_eq!(node.get(&key).text(), format!("ours {key}"));
    }
    assert!(node.count("fetches") > 0);
    peer.kill();
    let stranger = start(
        peer.url.strip_prefix("http://").unwrap(),
        &foreign,
        "theirs",
    );
    // Until it has been asked for values, if it ever is: the peer that it was is probed each second.
    let (begun, mut more) = (Instant::now(), 0..);
    while begun.elapsed() < Duration::from_secs(3) && stranger.count("served") == 0 {
        node.get(&format!("more-{}", more.next().unwrap()));
    }
    for key in keys("theirs") {
        assert_eq!(stranger.put(&key, "theirs set").status, 200);
    }
    let mut wrong = Vec::new();
    let mut check = |what: &str, text: &str, expected: &str| {
        if text != expected {
            wrong.push(format!("{what}: {text}"));
        }
    };
    for key in keys("new") {
        check("a get", node.get(&key).text(), &format!("ours {key}"));
    }
    for key in keys("session") {
        node.put(&key, "ours set");
    }
    for key in keys("theirs") {
        node.delete(&key);
        check("a removal", stranger.get(&key).text(), "theirs set");
    }
    for key in keys("session") {
        check("a set", stranger.get(&key).text(), &format!("theirs {key}"));
    }
    eprintln!("{} of 300 values of the other cluster", wrong.len());
    assert!(wrong.is_empty(), "{}, the first: {}", wrong.len(), wrong[0]);
}

#[test]
fn nothing_crosses_to_another_cluster_at_the_address_of_a_peer() {
    // A node that knows no names has nothing to tell the clusters apart by.
    let has_names = String::from_utf8_lossy(&run(&["--help"]).stdout).contains("--cluster ");
    cross(|cluster| match has_names {
        true => vec!["--cluster".to_owned(), cluster.to_owned()],
        false => Vec::new(),
    });
}

#[test]
fn nothing_crosses_to_a_cluster_of_another_secret() {
    let folder = std::env::temp_dir().join(format!("groupcache-clusters-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let outcome = std::panic::catch_unwind(|| {
        cross(|cluster| {
            let path = folder.join(cluster);
            std::fs::write(&path, format!("the secret of the cluster {cluster}\n")).unwrap();
            vec![
                "--secret-file".to_owned(),
                path.to_str().unwrap().to_owned(),
            ]
        });
    });
    std::fs::remove_dir_all(&folder).unwrap();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}
