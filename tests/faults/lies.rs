//! Answers that are none.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::alone_if_measured;
use crate::fleet::Fleet;
use crate::gauge::Gauge;
use crate::process::{Process, eventually};
use crate::proxy::{End, Rule};
use crate::value_of;

/// The largest value that travels, and 1 MiB, in KiB; and what is read of the program when it first
/// runs these parts of it.
const MORE_MEMORY: u64 = (16 << 10) + (1 << 10) + 512;

/// The timeouts of a fetch and of the load that follows, and ten times what that takes.
const GUARD: Duration = Duration::from_secs(10);

/// What an answer says, and what is to become of it.
struct Lie {
    name: &'static str,
    rule: Rule,
    /// Where the value comes from in the end.
    source: &'static str,
    /// How many failures of the peer are counted.
    errors: u64,
}

fn lie(name: &'static str, rule: Rule) -> Lie {
    Lie {
        name,
        rule,
        source: "load",
        errors: 1,
    }
}

/// What is to be taken for what it is.
fn truth(name: &'static str, rule: Rule) -> Lie {
    Lie {
        source: "peer",
        errors: 0,
        ..lie(name, rule)
    }
}

fn random_bytes(mut state: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < 4 << 10 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes
}

fn head(fields: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nX-Groupcache: v=1;s=ok\r\n{fields}\r\n\r\n").into_bytes()
}

/// One without a body.
fn answer(code: &str, status: &str) -> Vec<u8> {
    let fields = format!("X-Groupcache: v=1;s={status}\r\nContent-Length: 0");
    format!("HTTP/1.1 {code}\r\n{fields}\r\n\r\n").into_bytes()
}

fn lies(trap: &str, of_another_key: &[u8], right: &[u8]) -> Vec<Lie> {
    let say = |bytes: Vec<u8>| Rule::Say(bytes, End::Close);
    let stay = |bytes: Vec<u8>| Rule::Say(bytes, End::Stay);
    let body_at = right
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap()
        + 4;
    let body = &right[body_at..];
    let with_body = |fields: &str| {
        let fields = format!("{fields}Content-Length: {}", body.len());
        [&head(&fields), body].concat()
    };
    let redirect = format!("HTTP/1.1 302 Found\r\nLocation: {trap}\r\nContent-Length: 0\r\n\r\n");
    let megabyte = vec![b'x'; 1 << 20];
    let chunk = [b"100000\r\n", &megabyte[..], b"\r\n"].concat();
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(100);
    let deflated = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &random_bytes(7)].concat();
    let length = format!(
        "Content-Encoding: gzip\r\nContent-Length: {}",
        deflated.len()
    );
    vec![
        lie("random bytes", say(random_bytes(0x9E37_79B9_7F4A_7C15))),
        lie(
            "random bytes in a body",
            stay([&head("Content-Length: 4096")[..], &random_bytes(3)].concat()),
        ),
        lie(
            "a length of 10 GB",
            Rule::Say(head("Content-Length: 10000000000"), End::Silence),
        ),
        lie(
            "a length of 2^64",
            Rule::Say(head("Content-Length: 18446744073709551616"), End::Silence),
        ),
        lie(
            "16 MiB announced, none sent",
            Rule::Say(head("Content-Length: 16777216"), End::Silence),
        ),
        lie(
            "an endless body",
            Rule::Repeat(head("Transfer-Encoding: chunked"), chunk),
        ),
        lie(
            "endless headers",
            Rule::Repeat(b"HTTP/1.1 200 OK\r\nX: ".to_vec(), megabyte),
        ),
        lie("endless interim answers", Rule::Repeat(Vec::new(), interim)),
        lie("1 byte/s", Rule::Drip(Duration::from_secs(1))),
        lie("silence", Rule::Lose),
        lie("a redirect", stay(redirect.into_bytes())),
        lie("gzip", stay([&head(&length)[..], &deflated].concat())),
        lie("the answer for another key", stay(of_another_key.to_vec())),
        lie("an answer without a value", stay(head("Content-Length: 0"))),
        lie("a status that is none", stay(answer("299 So", "ok"))),
        truth(
            "the truth, and then another answer",
            stay([right, of_another_key].concat()),
        ),
        truth(
            "the truth, in another form",
            stay(with_body("X-Unknown: 1\r\n")),
        ),
        // It may be full rather than a liar: nobody waits for it, but it is not counted.
        Lie {
            errors: 0,
            ..lie("loading, at once", stay(answer("202 Accepted", "loading")))
        },
    ]
}

/// Gets the value of a key, which must be the right one, and tells where it came from.
fn get(node: &Process, key: &str) -> String {
    let reply = node.get(key);
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.body, value_of(key), "a wrong value of {key}");
    reply.source
}

#[test]
fn lies_of_a_peer_are_not_believed() {
    let _turn = alone_if_measured();
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let trap_url = format!(
        "http://{}/_groupcache/objects/x",
        trap.local_addr().unwrap()
    );
    let fleet = Fleet::start(2, &["--deputy-bytes", "0"]); // nobody but the test asks
    let (asker, link) = (fleet.node(0), fleet.link(0, 1));
    let mut numbers = 0..;
    // New keys, which the other node owns and has.
    let mut key = || loop {
        let key = format!("lie-{}", numbers.next().unwrap());
        if get(&asker, &key) == "peer" {
            return key;
        }
    };
    // A process that has worked a little has the memory that it needs for that.
    for _ in 0..100 {
        key();
    }
    let other = link.last_answer();
    key();
    let names = lies(&trap_url, &other, &link.last_answer());
    let before = Gauge::of(asker.pid());
    for number in 0..names.len() {
        let asked = key();
        let right = link.last_answer();
        let lie = lies(&trap_url, &other, &right).swap_remove(number);
        let errors = fleet.of_peer(0, 1, "call_errors");
        link.set_once(lie.rule);
        let begun = Instant::now();
        let source = get(&asker, &asked);
        let took = begun.elapsed();
        let errors = fleet.of_peer(0, 1, "call_errors") - errors;
        assert!(link.is_done(), "{}: nobody has asked", lie.name);
        let expected = (lie.source, lie.errors);
        assert_eq!((&*source, errors), expected, "{}", lie.name);
        assert!(took < GUARD, "{}: {took:?}", lie.name);
        key(); // the next answer is believed
        eprintln!(
            "{:36} {took:>9.1?}, from {source}, {errors} peer error",
            lie.name
        );
    }
    assert!(trap.accept().is_err(), "the redirect was followed");
    let after = Gauge::of(asker.pid());
    eprintln!("memory: {} KiB, at most {} later", before.rss, after.peak);
    assert!(
        after.peak <= before.peak.max(before.rss) + MORE_MEMORY,
        "{before:?} {after:?}"
    );
    eventually("the connections of liars are closed", || {
        get(&asker, "a key");
        Gauge::of(asker.pid()).fds <= before.fds + 2
    });
}
