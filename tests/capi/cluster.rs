//! Two processes of C and a node of Rust are one cache.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use groupcache_sync::{Group, Node, Server, Value};

use crate::{Leaks, built};

const KEYS: usize = 200;

/// Under valgrind everything takes long: a peer that does is not unreachable.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process of `member.c`.
struct Member {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    url: String,
}

impl Member {
    fn start(mut command: Command) -> Member {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        let mut member = Member {
            process,
            orders,
            answers,
            url: String::new(),
        };
        let ready = member.answer();
        member.url = ready.strip_prefix("ready ").unwrap().to_owned();
        member
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn ask(&mut self, order: &str) -> String {
        writeln!(self.orders, "{order}").unwrap();
        let answer = self.answer();
        match answer.strip_prefix("ok") {
            Some(rest) => rest.trim_start().to_owned(),
            None => panic!("{order}: {answer:?}"),
        }
    }

    /// How many loads it ran, and how many values it fetched.
    fn stats(&mut self) -> (u64, u64) {
        let answer = self.ask("stats");
        let (loads, fetches) = answer.split_once(' ').unwrap();
        (loads.parse().unwrap(), fetches.parse().unwrap())
    }

    fn quit(mut self) {
        writeln!(self.orders, "quit").unwrap();
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

fn rust_node() -> (Node, Group, Server) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let node = Node::builder(url.as_str())
        .unwrap()
        .connect_timeout(PATIENCE)
        .fetch_timeout(PATIENCE)
        .build()
        .unwrap();
    let group = node
        .group_builder("things", 1 << 20)
        .build(|key| Ok(Value::from(value_of(key))))
        .unwrap();
    let server = Server::from_listener(&node, listener).unwrap();
    (node, group, server)
}

fn value_of(key: &str) -> String {
    format!("value of {key}")
}

fn key(n: usize) -> String {
    format!("key:{n}/\u{e4}?&=")
}

#[test]
fn two_processes_of_c_and_a_node_of_rust_are_one_cache() {
    let Some(built) = built() else { return };
    let mut watched = Member::start(built.run_watched("member", Leaks::AreErrors));
    let mut linked_statically = Member::start(built.run("member-static"));
    let (node, group, _server) = rust_node();
    let urls = [
        watched.url.clone(),
        linked_statically.url.clone(),
        node.this().address(),
    ];
    node.set_peers(urls.iter().map(String::as_str)).unwrap();
    for member in [&mut watched, &mut linked_statically] {
        member.ask(&format!("peers {}", urls.join(" ")));
    }

    everybody_asks_for_every_key(&mut [&mut watched, &mut linked_statically], &group);
    let (in_watched, in_static, in_rust) =
        (watched.stats(), linked_statically.stats(), group.stats());
    let loads = in_watched.0 + in_static.0 + in_rust.loads;
    assert_eq!(loads, KEYS as u64, "one load for each key");
    for fetches in [in_watched.1, in_static.1, in_rust.fetches] {
        assert!(fetches > 0, "nothing came from peers");
    }

    let keys: Vec<String> = (0..100).map(key).collect();
    let wanted: Vec<String> = keys
        .iter()
        .map(|key| format!("[{}]", value_of(key)))
        .collect();
    let many = linked_statically.ask(&format!("many {}", keys.join(" ")));
    assert_eq!(many, wanted.join(" "));

    changes_are_seen_everywhere(&mut watched, &mut linked_statically, &group);
    watched.quit();
    linked_statically.quit();
}

/// All at the same time, the same keys.
fn everybody_asks_for_every_key(members: &mut [&mut Member], group: &Group) {
    let start = Barrier::new(members.len() + 1);
    thread::scope(|scope| {
        for member in members.iter_mut() {
            scope.spawn(|| {
                start.wait();
                for n in 0..KEYS {
                    assert_eq!(member.ask(&format!("get {}", key(n))), value_of(&key(n)));
                }
            });
        }
        start.wait();
        for n in 0..KEYS {
            assert_eq!(
                group.get(&key(n)).unwrap().as_bytes(),
                value_of(&key(n)).as_bytes()
            );
        }
    });
}

fn changes_are_seen_everywhere(one: &mut Member, other: &mut Member, group: &Group) {
    for n in 0..20 {
        let key = key(n);
        one.ask(&format!("set {key} new-{n}"));
        let new = format!("new-{n}");
        assert_eq!(other.ask(&format!("get {key}")), new);
        assert_eq!(group.get(&key).unwrap().as_bytes(), new.as_bytes());
        group.remove(&key).unwrap();
        assert_eq!(one.ask(&format!("get {key}")), value_of(&key));
        other.ask(&format!("remove {key}"));
        assert_eq!(group.try_get(&key), None);
    }
}
