//! The `node` example as real processes, tried from outside: the cache as a program keeps the
//! promises of the library, over real sockets and across crashes.
//!
//! Nothing here sleeps: a test waits for an event (the ready line, a request at the origin, a line
//! of the log, the end of a process), or asks again until a counter has moved.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "this is all test code, and a failed test shows the logs of its processes"
)]

mod browser;
#[path = "../it/certificates.rs"]
mod certificates;
mod deployment;
mod discovery;
mod front;
mod herd;
#[allow(dead_code, reason = "other tests use the rest of it")]
mod origin;
#[allow(dead_code, reason = "other tests use the rest of it")]
mod process;
mod prometheus;
mod protocol;
#[path = "../../examples/node/room.rs"]
mod room;
mod secret;
mod tls;

use std::net::TcpListener;
#[cfg(unix)]
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

use origin::Origin;
use process::{Cluster, Process, STEADY, eventually, path, run};

#[test]
fn cold_keys_asked_for_everywhere_at_once_are_loaded_once() {
    const KEYS: usize = 200;
    const THREADS: usize = 4;
    let origin = Origin::start();
    let cluster = Cluster::start(3, &origin, STEADY);
    let keys: Vec<String> = (0..KEYS).map(|n| format!("cold-{n}")).collect();
    let start = Barrier::new(3 * THREADS);
    thread::scope(|scope| {
        for node in cluster.nodes() {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    start.wait();
                    for key in &keys {
                        let reply = node.get(key);
                        assert_eq!(reply.status, 200, "{reply:?}");
                        assert_eq!(reply.text(), format!("value of {key}"));
                        let sources = ["load", "main", "peer", "joined"];
                        assert!(sources.contains(&&*reply.source), "{reply:?}");
                    }
                });
            }
        }
    });
    for key in &keys {
        assert_eq!(origin.asked(key), 1, "{key}");
    }
    assert_eq!(cluster.count("loads"), KEYS as u64);
    assert_eq!(cluster.count("load_errors"), 0);
    assert_eq!(cluster.count("fetch_errors"), 0);
    assert_eq!(cluster.count("flights"), 0);
    assert_eq!(cluster.count("main_items"), KEYS as u64);
    assert_eq!(cluster.count("fetches"), cluster.count("served"));
    for node in cluster.nodes() {
        let stats = node.stats();
        let count = |name: &str| stats[name].as_u64().unwrap();
        assert_eq!(count("gets"), (THREADS * KEYS) as u64);
        let parts = ["main_hits", "hot_hits", "joined", "leads"].map(count);
        assert_eq!(count("gets"), parts.iter().sum::<u64>(), "{stats}");
    }
}

#[test]
fn an_answer_says_where_its_value_came_from() {
    let origin = Origin::start();
    let cluster = Cluster::start(2, &origin, STEADY);
    let key = cluster.key_of(0, "source-");
    let asked = origin.asked(&key);
    origin.hold(&key);
    thread::scope(|scope| {
        let leader = scope.spawn(|| cluster[0].get(&key));
        origin.wait_until_asked(&key, asked + 1);
        let joined = cluster[0].count("joined");
        let waiter = scope.spawn(|| cluster[0].get(&key));
        eventually("a second thread joins the flight", || {
            cluster[0].count("joined") > joined
        });
        origin.release(&key);
        assert_eq!(leader.join().unwrap().source, "load");
        assert_eq!(waiter.join().unwrap().source, "joined");
    });
    assert_eq!(cluster[0].get(&key).source, "main");
    assert_eq!(cluster[1].get(&key).source, "peer");
    assert_eq!(origin.asked(&key), asked + 1);
}

#[test]
fn a_popular_value_is_mirrored() {
    let origin = Origin::start();
    let key = "popular";
    for never in [["--hot-bytes", "0"], ["--hot-ttl-ms", "0"]] {
        let cluster = Cluster::start(2, &origin, &[&STEADY[2..], &never].concat());
        for _ in 0..300 {
            cluster.nodes().iter().for_each(|node| drop(node.get(key)));
        }
        assert_eq!(cluster.count("hot_items"), 0, "{never:?}");
    }
    let before = origin.asked(key);
    let cluster = Cluster::start(2, &origin, &STEADY[2..]);
    let other = usize::from(cluster[0].get(key).source == "load");
    let mut gets = 0;
    while cluster[other].get(key).source != "hot" {
        gets += 1;
        assert!(gets < 1_000, "never mirrored");
    }
    assert!(gets > 1, "mirrored before it was popular");
    assert_eq!(cluster[other].count("hot_items"), 1);
    assert_eq!(origin.asked(key), before + 1);
}

#[test]
fn a_value_past_its_life_serves_while_it_is_renewed() {
    let origin = Origin::start();
    let node = Process::start(&origin, &["--ttl-ms", "1", "--stale-ms", "3600000"]);
    assert_eq!(node.get("k").source, "load");
    eventually("it is past its life", || node.get("k").source == "stale");
    eventually("it is renewed", || origin.asked("k") >= 2);
    assert!(node.count("stale_hits") > 0);
}

#[test]
fn what_the_origin_does_not_have_is_not_found_and_what_fails_is_not_cached() {
    let origin = Origin::start();
    let cluster = Cluster::start(2, &origin, STEADY);
    let key = cluster.key_of(0, "trouble-");
    let asked = || origin.asked(&key);

    origin.answer(&key, 404, "", "nothing here");
    let before = asked();
    for node in cluster.nodes() {
        assert_eq!(node.get(&key).status, 404);
    }
    assert_eq!(asked(), before + 2, "an answer: each get asks once");

    origin.answer(&key, 500, "", "on fire");
    let reply = cluster[0].get(&key);
    assert_eq!(reply.status, 502);
    assert!(reply.text().contains("500"), "{reply:?}");
    assert_eq!(cluster[1].get(&key).status, 502);
    // The owner's loader failed, so the other node tried for itself.
    assert_eq!(asked(), before + 5);
    // What is answered for another key is not the value of this one.
    origin.answer(&key, 302, "Location: /other", "elsewhere");
    assert_eq!(cluster[0].get(&key).status, 502);
    assert_eq!(origin.asked("other"), 0);

    // After some failures in a row the last error is given for a moment, without a load.
    origin.answer(&key, 200, "", "back");
    eventually("it is loaded again", || {
        cluster[0].get(&key).text() == "back"
    });
    assert_eq!(cluster[0].get(&key).source, "main");
    assert_eq!(cluster[1].get(&key).text(), "back");
}

#[test]
fn a_deadline_is_kept_and_the_load_still_completes() {
    let origin = Origin::start();
    let cluster = Cluster::start(2, &origin, STEADY);
    for owner in [0, 1] {
        let key = cluster.key_of(owner, "slow-");
        let asked = origin.asked(&key);
        origin.hold(&key);
        let begun = Instant::now();
        let reply = cluster[0].get_within(&key, 200);
        assert_eq!(reply.status, 504, "{reply:?}");
        let taken = begun.elapsed();
        assert!(taken >= Duration::from_millis(200), "{taken:?}");
        assert!(taken < Duration::from_secs(5), "{taken:?}");
        // Who can wait joins the load that goes on.
        origin.wait_until_asked(&key, asked + 1);
        thread::scope(|scope| {
            let gets = cluster[0].count("gets");
            let patient = scope.spawn(|| cluster[0].get(&key));
            eventually("somebody waits for the load again", || {
                cluster[0].count("gets") > gets
            });
            origin.release(&key);
            assert_eq!(patient.join().unwrap().status, 200);
        });
        assert_eq!(cluster[owner].get(&key).source, "main");
        assert_eq!(origin.asked(&key), asked + 1, "one load in all");
    }
}

#[test]
fn a_slow_load_is_asked_for_again_and_not_multiplied() {
    let origin = Origin::start();
    let args = ["--fetch-timeout-ms", "2000", "--hot-bytes", "0"];
    let cluster = Cluster::start(2, &origin, &args);
    let key = cluster.key_of(0, "slower-");
    let asked = origin.asked(&key);
    let calls = |node: &Process| {
        let stats = node.stats();
        let peers = stats["peers"].as_array().unwrap();
        peers
            .iter()
            .map(|peer| peer["calls"].as_u64().unwrap())
            .sum::<u64>()
    };
    origin.hold(&key);
    thread::scope(|scope| {
        let before = calls(&cluster[1]);
        let patient = scope.spawn(|| cluster[1].get(&key));
        eventually("the owner answers that it is loading", || {
            calls(&cluster[1]) >= before + 2
        });
        origin.release(&key);
        let reply = patient.join().unwrap();
        assert_eq!((reply.status, &*reply.source), (200, "peer"));
    });
    assert_eq!(origin.asked(&key), asked + 1);
    assert_eq!(cluster.count("fetch_errors"), 0);
}

#[test]
fn a_change_is_seen_everywhere_when_it_is_done() {
    let origin = Origin::start();
    let cluster = Cluster::start(3, &origin, STEADY);
    for owner in 0..3 {
        let key = cluster.key_of(owner, "changed-");
        let asked = origin.asked(&key);
        for (writer, node) in cluster.nodes().iter().enumerate() {
            let value = format!("set by {writer}");
            let reply = node.put(&key, &value);
            assert_eq!(reply.status, 200, "{reply:?}");
            for node in cluster.nodes() {
                assert_eq!(node.get(&key).text(), value);
            }
        }
        assert_eq!(origin.asked(&key), asked, "what is set is not loaded");
        for node in cluster.nodes() {
            origin.answer(&key, 200, "", &format!("from before {}", node.url));
            assert_eq!(node.delete(&key).status, 200);
            for other in cluster.nodes() {
                assert_eq!(other.get(&key).text(), format!("from before {}", node.url));
            }
        }
    }
    // An empty value is a value.
    assert_eq!(cluster[0].put("empty", "").status, 200);
    let reply = cluster[1].get("empty");
    assert_eq!((reply.status, reply.body.len()), (200, 0));
}

#[test]
fn without_a_peer_the_others_serve_and_name_it() {
    let origin = Origin::start();
    let mut cluster = Cluster::start(3, &origin, STEADY);
    let keys: Vec<String> = (0..30).map(|n| format!("orphan-{n}")).collect();
    for key in &keys {
        assert_eq!(cluster[0].get(key).status, 200);
    }
    let dead = cluster[2].url.clone();
    let owned = cluster[2].count("main_items");
    assert!(owned > 0, "nothing to lose");
    cluster.kill(2);

    for reply in [
        cluster[0].delete("orphan-0"),
        cluster[1].put("orphan-1", "x"),
    ] {
        assert_eq!(reply.status, 207, "{reply:?}");
        let peers = &reply.json()["unreached"];
        assert_eq!(peers.as_array().map(Vec::len), Some(1), "{peers}");
        assert_eq!(peers[0]["peer"], json!(dead));
        assert!(!peers[0]["reason"].as_str().unwrap().is_empty());
    }
    for key in &keys {
        for node in &cluster.nodes()[..2] {
            let reply = node.get(key);
            assert_eq!(reply.status, 200, "{reply:?}");
        }
    }
    let stats = cluster[0].stats();
    let peers = stats["peers"].as_array().unwrap();
    let peer = peers.iter().find(|peer| peer["id"] == json!(dead)).unwrap();
    assert_eq!(peer["circuit"], "open", "{stats}");

    // Without it in the list all is well again.
    let urls = [&*cluster[0].url, &*cluster[1].url];
    for node in &cluster.nodes()[..2] {
        assert_eq!(node.set_peers(&urls).status, 200);
    }
    assert_eq!(cluster[0].delete("orphan-0").status, 200);
}

#[cfg(unix)]
#[test]
fn a_signal_ends_it_in_good_order() {
    let origin = Origin::start();
    for signal in ["TERM", "INT"] {
        let mut node = Process::start(&origin, STEADY);
        origin.hold("under way");
        let asked = origin.asked("under way");
        thread::scope(|scope| {
            let under_way = scope.spawn(|| node.get("under way"));
            origin.wait_until_asked("under way", asked + 1);
            node.signal(signal);
            node.wait_for_log("draining");
            origin.release("under way");
            let reply = under_way.join().unwrap();
            assert_eq!(reply.status, 200, "{reply:?}");
            assert_eq!(reply.text(), "value of under way");
        });
        let status = node.wait();
        assert_eq!(status.code(), Some(0), "{status}");
        node.wait_for_log("stopped");
    }
}

#[test]
fn many_values_come_in_one_answer() {
    let origin = Origin::start();
    let cluster = Cluster::start(2, &origin, STEADY);
    origin.answer("nothing", 404, "", "");
    origin.answer("broken", 500, "", "");
    let long = "x".repeat(20_000);
    let keys = json!(["a", "b/ü?", "", "nothing", "broken", long, "a"]);
    let ask = |body: &str| cluster[1].ask("POST", "/get-many", &[], body.as_bytes());
    let reply = ask(&keys.to_string());
    assert_eq!(reply.status, 200, "{reply:?}");
    let values = reply.json();
    for key in ["a", "b/ü?", ""] {
        let value = BASE64.encode(format!("value of {key}"));
        assert_eq!(values[key], json!({ "value": value }));
        assert_eq!(origin.asked(key), 1);
    }
    assert_eq!(values["nothing"], json!({ "missing": true }));
    for key in ["broken", &long] {
        assert!(values[key]["error"].is_string(), "{}", values[key]);
    }
    assert_eq!(values.as_object().unwrap().len(), 6);
    assert_eq!(ask("[]").json(), json!({}));
    for body in ["", "{}", "[1]", "[\"a\""] {
        assert_eq!(ask(body).status, 400, "{body}");
    }
    // A list that would take much memory once it is read.
    let list = format!("[{}\"\"]", "\"\",".repeat(400_000));
    assert_eq!(ask(&list).status, 413);

    // However long they are, they come in their parts, and as one answer.
    let lengths = [3 << 20, 1, 2 << 20, 70_000];
    let large: Vec<String> = lengths.iter().map(|n| format!("large-{n}")).collect();
    for (key, length) in large.iter().zip(lengths) {
        origin.answer(key, 200, "", &"v".repeat(length));
    }
    let values = ask(&json!(large).to_string()).json();
    for (key, length) in large.iter().zip(lengths) {
        let value = values[key]["value"].as_str().unwrap();
        assert!(BASE64.decode(value).unwrap() == vec![b'v'; length], "{key}");
    }

    // One deadline for all.
    let hung: Vec<String> = (0..30).map(|n| format!("hung-{n}")).collect();
    for key in &hung {
        origin.hold(key);
    }
    let body = json!([&["a".to_owned()], &hung[..]].concat()).to_string();
    let headers = [("X-Timeout-Ms", "200")];
    let begun = Instant::now();
    let values = cluster[0]
        .ask("POST", "/get-many", &headers, body.as_bytes())
        .json();
    let taken = begun.elapsed();
    assert!(taken < Duration::from_secs(4), "{taken:?}");
    assert!(values["a"]["value"].is_string(), "{values}");
    for key in &hung {
        assert!(values[key]["error"].is_string(), "{values}");
        origin.release(key);
    }
}

#[test]
fn a_key_reaches_the_origin_as_it_is() {
    let origin = Origin::start();
    let cluster = Cluster::start(2, &origin, STEADY);
    let long = format!("long-{}", "y".repeat(15_900));
    let keys = [
        "",
        " ",
        "/",
        "//",
        ".",
        "..",
        "a/../b",
        "/etc/passwd",
        "%",
        "%2F",
        "%252F",
        "a%zz",
        "?",
        "a?b=c&d",
        "#",
        "#a",
        "+",
        "a+b c",
        "\0",
        "a\0b",
        "\r\n",
        "\t",
        "\"",
        "\\",
        "é",
        "日本語",
        "🦀",
        "e\u{301}",
        "http://other/",
        "_groupcache",
        "~-_.",
        &long,
    ];
    for key in keys {
        for node in cluster.nodes() {
            let reply = node.get(key);
            assert_eq!(reply.status, 200, "{key:?} {reply:?}");
            assert_eq!(reply.text(), format!("value of {key}"));
        }
        assert_eq!(origin.asked(key), 1, "{key:?}");
    }
    assert!(cluster[0].count("served") > 0 && cluster[1].count("served") > 0);
    let asked = keys.iter().map(ToString::to_string).collect();
    assert_eq!(origin.keys(), asked, "and no other key does");
    // Slashes that are not escaped, and escapes that need not be.
    assert_eq!(cluster[0].ask("GET", "/k/a/../b", &[], &[]).status, 200);
    assert_eq!(cluster[0].ask("GET", "/k/%C3%a9", &[], &[]).status, 200);
    assert_eq!(origin.asked("a/../b") + origin.asked("é"), 2);
}

#[test]
fn a_request_that_makes_no_sense_is_told_why() {
    let origin = Origin::start();
    let node = Process::start(&origin, &[]);
    let refused = |method: &str, path: &str, headers: &[(&str, &str)], status: u16| {
        let reply = node.ask(method, path, headers, b"");
        assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
        assert!(!reply.text().is_empty(), "{method} {path}");
    };
    for key in ["%", "%2", "%zz", "a%2", "%F0%9F", "%FF", "a?b"] {
        refused("GET", &format!("/k/{key}"), &[], 400);
    }
    let too_long = path(&"é".repeat(2_667));
    for method in ["GET", "DELETE"] {
        refused(method, &too_long, &[], 414);
    }
    assert_eq!(node.ask("PUT", &too_long, &[], b"x").status, 414);
    for timeout in ["x", "-1", "1.5", ""] {
        refused("GET", "/k/a", &[("X-Timeout-Ms", timeout)], 400);
    }
    refused("GET", "/", &[], 404);
    refused("GET", "/k", &[], 404);
    refused("POST", "/k/a", &[], 405);
    refused("PUT", "/stats", &[], 405);
    refused("GET", "/get-many", &[], 405);
    assert_eq!(node.ask("GET", "/health", &[], &[]).status, 200);
    assert_eq!(origin.keys().len(), 0);
}

#[test]
fn a_peer_list_that_makes_no_sense_changes_nothing() {
    let origin = Origin::start();
    let node = Process::start(&origin, &[]);
    let before = node.stats();
    for (list, word) in [
        (vec![], &*node.url),
        (vec!["http://127.0.0.1:1"], &node.url),
        (vec![&node.url, "127.0.0.1:1"], "127.0.0.1:1"),
        (vec![&node.url, "http://a:0"], "http://a:0"),
    ] {
        let reply = node.set_peers(&list);
        assert_eq!(reply.status, 400, "{list:?}");
        assert!(reply.text().contains(word), "{reply:?}");
    }
    assert_eq!(node.stats()["ring"], before["ring"]);
    // Blank lines, blanks and doubles do no harm.
    let list = [
        "",
        &format!(" {} ", node.url),
        &node.url,
        "http://127.0.0.1:1/",
        "",
    ];
    assert_eq!(node.set_peers(&list).status, 200);
    let stats = node.stats();
    assert_ne!(stats["ring"], before["ring"]);
    let peers = stats["peers"].as_array().unwrap();
    assert_eq!(peers.len(), 2);
    let shares: f64 = peers
        .iter()
        .map(|peer| peer["ring_share"].as_f64().unwrap())
        .sum();
    assert!((shares - 1.0).abs() < 1e-6, "{shares}");
    for peer in peers {
        assert_eq!(peer["this"], json!(peer["id"] == json!(node.url)));
        assert_eq!(peer["circuit"], "closed");
    }
    for counter in [
        "ring_mismatches",
        "loader_threads",
        "loader_threads_busy",
        "hot_bytes",
    ] {
        assert_eq!(stats[counter], 0, "{counter}");
    }
}

#[test]
fn a_connection_that_breaks_is_no_reason_to_load_twice() {
    let origin = Origin::start();
    let node = Process::start(&origin, &[]);
    // On a new connection the origin may have begun to work.
    origin.break_off("new");
    assert_eq!(node.get("new").status, 502);
    assert_eq!(origin.asked("new"), 1);
    assert_eq!(node.get("new").status, 200);
    // One that was kept may have been closed before the request came.
    origin.break_off("kept");
    assert_eq!(node.get("kept").status, 200);
    assert_eq!(origin.asked("kept"), 2);
    assert_eq!(node.count("loads"), 3);
}

#[test]
fn the_origin_says_how_long_values_live() {
    let origin = Origin::start();
    let node = Process::start(&origin, &[]);
    let asked_twice = |key: &str, cache_control: &str| {
        origin.answer(key, 200, &format!("Cache-Control: {cache_control}"), "x");
        node.get(key);
        node.get(key);
        origin.asked(key) == 2
    };
    for cache_control in [
        "no-store",
        "max-age=0",
        "public, Max-Age=0",
        "max-age=x",
        "no-cache",
        "private",
        "private, max-age=\"60\"",
        "max-age=60, s-maxage=0",
        "max-age=60\r\nAge: 60",
        "s-maxage=60\r\nAge: 61",
        "max-age=60\r\nAge: old",
        "max-age=60\r\nVary: Accept, *",
        "max-age=60\r\nCache-Control: no-store",
    ] {
        assert!(asked_twice(cache_control, cache_control), "{cache_control}");
    }
    for cache_control in [
        "",
        "public",
        "max-age=60",
        "max-age=\"60\"",
        "max-age=0, s-maxage=60",
        "max-age=60\r\nAge: 5",
        "max-age=60\r\nVary: Accept",
        "max-age=99999999999",
    ] {
        assert!(
            !asked_twice(cache_control, cache_control),
            "{cache_control}"
        );
    }
    origin.answer("short", 200, "cache-control:max-age=1", "x");
    let begun = Instant::now();
    eventually("a value expires", || {
        node.get("short");
        origin.asked("short") == 2
    });
    assert!(begun.elapsed() >= Duration::from_secs(1));

    // So does who sets one.
    let put = |life| {
        node.ask("PUT", "/k/set", &[("Cache-Control", life)], b"set")
            .status
    };
    assert_eq!(put("max-age=60"), 200);
    assert_eq!(node.get("set").text(), "set");
    assert_eq!(put("no-store"), 200);
    assert_eq!(node.get("set").text(), "value of set");
}

#[test]
fn nodes_of_a_go_cluster_share_keys_and_removals() {
    let origin = Origin::start();
    let args = [STEADY, &["--dialect", "golang"]].concat();
    let cluster = Cluster::start(2, &origin, &args);
    for number in 0..20 {
        let key = format!("go-{number}");
        let owner = cluster.owner(&key);
        assert_eq!(cluster[1 - owner].get(&key).source, "peer");
        assert_eq!(cluster[1 - owner].put(&key, "set").status, 200);
        assert_eq!(cluster[owner].get(&key).text(), "set");
    }
    assert_eq!(cluster.count("ring_mismatches"), 0);
    let stats = cluster[0].stats();
    for peer in stats["peers"].as_array().unwrap() {
        assert_eq!(peer["dialect"], "native", "{stats}");
    }
    let native = Process::start(&origin, STEADY);
    native.set_peers(&[&cluster[0].url, &cluster[1].url, &native.url]);
    cluster[0].set_peers(&[&cluster[0].url, &cluster[1].url, &native.url]);
    assert_ne!(native.stats()["ring"], cluster[0].stats()["ring"]);
}

#[test]
fn the_command_line_says_what_is_wrong_with_it() {
    let good = [
        "--listen",
        "127.0.0.1:0",
        "--front",
        "127.0.0.1:0",
        "--origin",
        "http://127.0.0.1:1",
    ];
    let with = |more: &[&'static str]| [&good[..], more].concat();
    let wrong: &[(Vec<&str>, &[&str])] = &[
        (vec![], &["--origin", "required"]),
        (good[2..].to_vec(), &["--listen", "required"]),
        (good[..4].to_vec(), &["--origin", "required"]),
        (with(&["--colour", "red"]), &["--colour", "--cache-bytes"]),
        (with(&["extra"]), &["extra"]),
        (with(&["--group"]), &["--group", "NAME"]),
        (with(&["--front", "127.0.0.1:0"]), &["--front", "twice"]),
        (
            with(&["--engine", "epoll"]),
            &["--engine", "epoll", "threads or tiny_http"],
        ),
        (
            with(&["--dialect=klingon"]),
            &["--dialect", "native or golang"],
        ),
        (
            with(&["--secret-file", "/x"]),
            &["--secret-file", "/x", "No such file"],
        ),
        (
            with(&["--tls-cert", "/x"]),
            &["--tls-cert", "--tls-key", "--tls-ca"],
        ),
        (
            with(&["--tls-client-auth=yes"]),
            &["--tls-client-auth", "no value"],
        ),
        (
            with(&["--tls-client-auth"]),
            &["--tls-cert", "needs the others"],
        ),
        (
            with(&["--tls-cert", "/x", "--tls-key", "/y", "--tls-ca", "/z"]),
            &["/x", "No such file"],
        ),
        (
            with(&["--self", "https://127.0.0.1:1"]),
            &["--self", "--tls-cert"],
        ),
        (
            with(&["--max-buffered", "0"]),
            &["--max-buffered", "1 or more"],
        ),
        (
            with(&["--max-buffered", "1", "--engine", "tiny_http"]),
            &["--engine tiny_http", "use threads"],
        ),
        (
            with(&["--loader-threads", "0"]),
            &["--loader-threads", "1 or more"],
        ),
        (
            with(&["--fetch-timeout-ms", "1s"]),
            &["--fetch-timeout-ms", "1s", "whole number"],
        ),
        (
            with(&["--connect-timeout-ms", "-1"]),
            &["--connect-timeout-ms"],
        ),
        (with(&["--ttl-ms", ""]), &["--ttl-ms"]),
        (with(&["--cache-bytes", "10"]), &["--cache-bytes", "10"]),
        (with(&["--hot-bytes", "99999999999"]), &["--hot-bytes"]),
        (with(&["--group="]), &["--group"]),
        (with(&["--self", "127.0.0.1:1"]), &["--self", "http://"]),
        (with(&["--peers", ""]), &["--peers"]),
        (
            with(&["--peers", "http://127.0.0.1:1,x"]),
            &["--peers", "x"],
        ),
        (
            with(&["--peers", "http://127.0.0.1:1"]),
            &["--peers", "this node, http://127.0.0.1:"],
        ),
        (with(&["--peers", "id=x"]), &["--peers", "x"]),
        (
            with(&["--self", "id=http://a:1", "--peers", "http://a:1"]),
            &["--peers", "this node, id,"],
        ),
        (
            with(&["--self", "http://a:1", "--peers", "http://b:1"]),
            &["--peers", "this node, http://a:1"],
        ),
        (
            vec![
                "--listen",
                "127.0.0.1:0",
                "--front",
                "127.0.0.1:0",
                "--origin",
                "https://a",
            ],
            &["--origin", "https://a", "http://"],
        ),
    ];
    for (args, words) in wrong {
        let output = run(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        for word in *words {
            assert!(
                stderr.contains(word),
                "{args:?} should name {word}: {stderr}"
            );
        }
        assert!(output.stdout.is_empty());
    }
    for (flag, other) in [("--listen", "--front"), ("--front", "--listen")] {
        for address in ["7001", "127.0.0.1", "127.0.0.1:99999", "", "/tmp/x"] {
            let args = [flag, address, other, "127.0.0.1:0", "--origin", "http://a"];
            let output = run(&args);
            assert_eq!(output.status.code(), Some(2), "{flag} {address}");
            assert!(String::from_utf8(output.stderr).unwrap().contains(flag));
        }
        // An address in use is no fault of the command line.
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let args = [flag, &address, other, "127.0.0.1:0", "--origin", "http://a"];
        let output = run(&args);
        assert_eq!(output.status.code(), Some(1), "{flag} {address}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(
            stderr.contains(flag) && stderr.contains(&address),
            "{stderr}"
        );
    }
    for origin in [
        "",
        "a",
        "http://",
        "http://:1",
        "http://a:99999",
        "http://a:x",
        "http://a/?q",
        "http://a b",
    ] {
        let output = run(&[&good[..4], &["--origin", origin]].concat());
        assert_eq!(output.status.code(), Some(2), "{origin}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("--origin"), "{stderr}");
    }

    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(
        help.contains("--loader-threads") && help.contains("/get-many"),
        "{help}"
    );
}

#[test]
fn flags_take_both_spellings_and_peers_may_be_given_at_the_start() {
    let origin = Origin::start();
    let first = Process::start(
        &origin,
        &[
            "--group=things",
            "--self",
            "http://one.test:1",
            "--peers",
            "http://one.test:1, http://two.test:2/",
        ],
    );
    let stats = first.stats();
    assert_eq!(stats["peers"].as_array().unwrap().len(), 2, "{stats}");
}

#[test]
fn flags_do_what_they_say() {
    let origin = Origin::start();
    let fresh = Process::start(&origin, &["--ttl-ms", "0"]);
    let lasting = Process::start(&origin, &["--ttl-ms", "3600000"]);
    for (node, key, asked) in [(&fresh, "fresh", 3), (&lasting, "lasting", 1)] {
        for _ in 0..3 {
            assert_eq!(node.get(key).status, 200);
        }
        assert_eq!(origin.asked(key), asked);
    }

    let small = Process::start(&origin, &["--cache-bytes", "100000"]);
    for n in 0..10 {
        assert_eq!(small.put(&format!("{n}"), &"x".repeat(30_000)).status, 200);
    }
    let bytes = small.count("main_bytes");
    assert!((60_000..=100_000).contains(&bytes), "{bytes}");
    assert_eq!(small.count("evictions") + small.count("main_items"), 10);

    // All loader threads are inside the origin.
    let narrow = Process::start(&origin, &["--loader-threads", "2"]);
    for key in ["hung", "hung too"] {
        origin.hold(key);
        assert_eq!(narrow.get_within(key, 100).status, 504);
        origin.wait_until_asked(key, 1);
    }
    assert_eq!(narrow.count("loader_threads_busy"), 2);
    assert_eq!(narrow.get_within("third", 100).status, 503);
    assert_eq!(origin.asked("third"), 0);
    assert_eq!(narrow.get("third").status, 200, "who can wait loads it");
    origin.release("hung");
    origin.release("hung too");
}

#[test]
fn large_values_travel_and_larger_ones_are_refused() {
    let origin = Origin::start();
    let cluster = Cluster::start(2, &origin, STEADY);
    for (key, bytes) in [
        ("1k", 1 << 10),
        ("64k", 1 << 16),
        ("3M", 3 << 20),
        ("16M", 16 << 20),
    ] {
        let value = "v".repeat(bytes);
        assert_eq!(cluster[0].put(key, &value).status, 200, "{key}");
        for node in cluster.nodes() {
            assert!(node.get(key).body == value.as_bytes(), "{key}");
        }
        let key = &format!("{key} of the origin");
        origin.answer(key, 200, "", &value);
        for node in cluster.nodes() {
            assert!(node.get(key).body == value.as_bytes(), "{key}");
        }
        assert_eq!(origin.asked(key), 1);
    }
    let value = "v".repeat((16 << 20) + 1);
    for (n, node) in cluster.nodes().iter().enumerate() {
        let key = cluster.key_of(n, "too-large-");
        let reply = node.put(&key, &value);
        assert_eq!(reply.status, 413, "{}", reply.text());
        assert_eq!(node.get(&key).text(), format!("value of {key}"));
    }
}

#[test]
fn many_who_wait_do_not_stop_the_others() {
    const WAITING: u64 = 200;
    let origin = Origin::start();
    let cluster = Cluster::start(2, &origin, STEADY);
    origin.hold("awaited");
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..WAITING)
            .map(|n| &cluster[(n % 2) as usize])
            .map(|node| scope.spawn(|| node.get("awaited").status))
            .collect();
        eventually("all wait", || cluster.count("gets") == WAITING);
        for node in cluster.nodes() {
            assert_eq!(node.ask("GET", "/health", &[], &[]).status, 200);
            assert_eq!(node.get("something else").status, 200);
        }
        origin.release("awaited");
        for waiting in waiting {
            assert_eq!(waiting.join().unwrap(), 200);
        }
    });
    assert_eq!(origin.asked("awaited"), 1);
}

#[test]
fn health_and_hits_are_answered_though_as_many_wait_as_may() {
    const PLACES: usize = 4;
    let origin = Origin::start();
    let node = Process::start(&origin, &["--max-waiting", "4"]);
    assert_eq!(node.get("hit").status, 200);
    let gets = node.count("gets");
    origin.hold("awaited");
    thread::scope(|scope| {
        let waiting = [(); PLACES].map(|()| scope.spawn(|| node.get("awaited").status));
        eventually("all wait", || node.count("gets") == gets + PLACES as u64);
        // More of them than there are free threads.
        for _ in 0..100 {
            assert_eq!(node.ask("GET", "/health", &[], &[]).status, 200);
            assert_eq!(node.get("hit").text(), "value of hit");
            assert_eq!(node.get("awaited").status, 503);
            assert_eq!(node.put("other", "value").status, 503);
        }
        origin.release("awaited");
        for waiting in waiting {
            assert_eq!(waiting.join().unwrap(), 200);
        }
    });
    assert_eq!(node.get("awaited").status, 200, "there is room again");
}

#[cfg(unix)]
#[test]
fn a_node_that_leaves_waits_for_another_one_that_is_not_back_yet() {
    let origin = Origin::start();
    let cluster = Cluster::start(2, &origin, &[]);
    let keys: Vec<String> = (0..100).map(|n| format!("kept-{n}")).collect();
    for key in &keys {
        cluster[0].get(key);
    }
    let mut nodes = cluster.into_nodes();
    // Each is stopped and started again, one right after the other.
    for _ in 0..2 {
        let mut old = nodes.remove(0);
        old.signal("TERM");
        assert_eq!(old.wait().code(), Some(0));
        let urls = [&*old.url, &*nodes[0].url];
        let address = old.url.strip_prefix("http://").unwrap();
        let command = Command::new(process::program());
        let new = Process::start_at(address, command, "info", &origin, &[]);
        assert_eq!(new.set_peers(&urls).status, 200);
        nodes.push(new);
    }
    for key in &keys {
        nodes[0].get(key);
        assert_eq!(origin.asked(key), 1, "{key} is handed over");
    }
}

#[test]
fn keys_are_not_logged() {
    let origin = Origin::start();
    let node = Process::start_with_log("debug", &origin, &[]);
    let gone = "http://127.0.0.1:1";
    assert_eq!(node.set_peers(&[&node.url, gone]).status, 200);
    origin.answer("secret-500", 500, "", "");
    for n in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 500] {
        let key = format!("secret-{n}");
        node.get(&key);
        node.put(&key, "secret value");
        node.delete(&key);
    }
    node.wait_for_log(gone);
    let log = node.log();
    assert!(!log.contains("secret"), "{log}");
    let node = Process::start_with_log("trace", &origin, &[]);
    node.get("secret-0");
    node.wait_for_log("/k/secret%2D0");
}

#[test]
fn a_silent_peer_is_waited_for_as_long_as_told() {
    // The system takes connections for it, and nobody ever answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let origin = Origin::start();
    let args = ["--fetch-timeout-ms", "1100", "--warm-up-ms", "0"];
    let node = Process::start(&origin, &args);
    assert_eq!(node.set_peers(&[&node.url, &silent]).status, 200);
    let mut slow = 0;
    for n in 0..100 {
        let begun = Instant::now();
        let reply = node.get(&format!("quiet-{n}"));
        assert_eq!((reply.status, &*reply.source), (200, "load"));
        slow += usize::from(begun.elapsed() >= Duration::from_millis(1_100));
    }
    assert_eq!(slow, 3, "then its circuit is open");
}

#[cfg(feature = "tiny_http")]
#[test]
fn the_other_engine_serves_peers_as_well() {
    let origin = Origin::start();
    let cluster = Cluster::start(2, &origin, &[STEADY, &["--engine", "tiny_http"]].concat());
    let keys: Vec<String> = (0..50).map(|n| format!("tiny-{n}")).collect();
    thread::scope(|scope| {
        for node in cluster.nodes() {
            scope.spawn(|| {
                for key in &keys {
                    let reply = node.get(key);
                    assert_eq!(reply.text(), format!("value of {key}"));
                }
            });
        }
    });
    for key in &keys {
        assert_eq!(origin.asked(key), 1, "{key}");
    }
    assert!(cluster.count("served") > 0);
    assert_eq!(cluster[0].delete(&keys[0]).status, 200);
    #[cfg(unix)]
    for mut node in cluster.into_nodes() {
        node.signal("TERM");
        assert_eq!(node.wait().code(), Some(0));
    }
}
