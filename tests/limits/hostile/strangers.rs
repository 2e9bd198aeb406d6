//! What those may do who reach the port and have nothing else.

use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::hostile::messages::{GROUP, answer, field, request, request_with};
use crate::hostile::trial::{Attacker, Row};
use crate::origin::Origin;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The places of a server, and how many one address may have of them.
const PLACES: usize = 16_384;
const OF_ADDRESS: usize = 1_024;

/// A key whose value does not come while the attack lasts.
const HELD: &str = "held";

pub(crate) const UPLOADS: Row = Row {
    name: "18 uploads, a byte short",
    has_secret: true,
    peers: 0,
    origin: Origin::start,
    attack: uploads,
};

#[test]
fn uploads_of_strangers_hold_back_no_signed_request() {
    UPLOADS.hold();
}

fn uploads(attacker: &mut Attacker<'_>) {
    let body = vec![0; (16 << 20) + 999];
    let mut open = Vec::new();
    for number in 0..18 {
        // The last ones are small: there may be no room for large ones any more.
        let length = if number < 16 { body.len() } else { 66_000 };
        let mut bytes = request("PUT", &format!("{GROUP}/x"), "", &body[..length]);
        bytes.pop();
        open.extend(attacker.ask(1, &bytes));
    }
    attacker.wait_for_turns(50);
    drop(open);
}

pub(crate) const SLOW_BODIES: Row = Row {
    name: "16,384 bodies that never come",
    has_secret: false,
    peers: 0,
    origin: Origin::start,
    attack: slow_bodies,
};

#[test]
fn bodies_that_never_come_keep_nobody_out() {
    SLOW_BODIES.hold();
}

fn slow_bodies(attacker: &mut Attacker<'_>) {
    let bytes = request("PUT", &format!("{GROUP}/x"), "", &[0; 100]);
    take_all_places(attacker, &bytes[..bytes.len() - 100]);
}

pub(crate) const SLOW_HEADS: Row = Row {
    name: "16,384 heads that never come",
    has_secret: false,
    peers: 0,
    origin: Origin::start,
    attack: slow_heads,
};

#[test]
fn heads_that_never_come_keep_nobody_out() {
    SLOW_HEADS.hold();
}

fn slow_heads(attacker: &mut Attacker<'_>) {
    take_all_places(
        attacker,
        b"GET /_groupcache/objects/x HTTP/1.1\r\nHost: h\r\nX: ",
    );
}

/// Has as many connections as there are places begin with this, and go on with nothing.
fn take_all_places(attacker: &mut Attacker<'_>, start: &[u8]) {
    let count = attacker.room_for(PLACES);
    let mut open = Vec::new();
    for number in 0..count {
        open.extend(attacker.ask((number / OF_ADDRESS) as u8 + 1, start));
    }
    attacker.wait_for_turns(50);
    drop(open);
}

pub(crate) const HALF_CLOSED: Row = Row {
    name: "half-closed clients",
    has_secret: false,
    peers: 0,
    origin: holding,
    attack: half_closed,
};

#[test]
fn half_closed_clients_are_answered_and_leave_nothing_behind() {
    HALF_CLOSED.hold();
}

fn holding() -> Origin {
    let origin = Origin::start();
    origin.hold(HELD);
    origin
}

fn half_closed(attacker: &mut Attacker<'_>) {
    let get = |key: &str| request("GET", &format!("{GROUP}/{key}"), ";w=5000", &[]);
    let closing = |attacker: &mut Attacker<'_>, key: &str| -> Option<TcpStream> {
        let stream = attacker.ask(1, &get(key))?;
        stream.shutdown(Shutdown::Write).ok()?;
        Some(stream)
    };
    // A load is not waited for on behalf of such a client: what it asks for has to be here.
    let first = attacker.ask(1, &get("here"));
    let mut statuses = vec![first.and_then(|mut stream| answer(&mut stream, PATIENCE))];
    for _ in 1..100 {
        let stream = closing(attacker, "here");
        statuses.push(stream.and_then(|mut stream| answer(&mut stream, PATIENCE)));
    }
    let unanswered = statuses.iter().filter(|status| **status != Some(200));
    let unanswered = unanswered.count();
    attacker.expect(
        unanswered == 0,
        format!("{unanswered} of 100 are not answered"),
    );
    let open: Vec<_> = (0..100).map(|_| closing(attacker, HELD)).collect();
    attacker.wait_for_turns(20);
    drop(open);
    attacker.trial.origin.release(HELD);
}

pub(crate) const PATHS: Row = Row {
    name: "keys that are paths",
    has_secret: false,
    peers: 0,
    origin: Origin::start,
    attack: paths,
};

#[test]
fn keys_that_are_paths_reach_the_loader_as_keys() {
    PATHS.hold();
}

fn paths(attacker: &mut Attacker<'_>) {
    let keys = [
        "../../etc/passwd",
        "..%2F..%2Fetc%2Fpasswd",
        "%2e%2e/%2e%2e/%2e%2e",
        "%252e%252e%252f",
        "/etc/passwd",
        "http:%2F%2F127.0.0.1:1%2Fx",
        "//127.0.0.1:1/x",
        "a%00b",
        "a%0d%0aX-Injected:%20y%0d%0a%0d%0aGET%20%2Fother",
        "x?y=z",
        "x#y",
        "..;/x",
        "%c0%ae%c0%ae",
        "%ff",
        ".",
        "..",
        "+",
    ];
    for key in keys {
        let target = format!("{GROUP}/{key}");
        let stream = attacker.ask(1, &request("GET", &target, "", &[]));
        let status = stream.and_then(|mut stream| answer(&mut stream, PATIENCE));
        // What is no key is refused, and what is one has the value of this one key.
        let is_answered = matches!(status, Some(200 | 400 | 404));
        attacker.expect(is_answered, format!("{key}: {status:?}"));
    }
    let asked = attacker.trial.origin.keys();
    let odd: Vec<_> = asked
        .iter()
        .filter(|key| key.starts_with("no key"))
        .collect();
    attacker.expect(odd.is_empty(), format!("the origin was asked for {odd:?}"));
}

pub(crate) const PAGES: Row = Row {
    name: "pages of other origins",
    has_secret: false,
    peers: 0,
    origin: Origin::start,
    attack: pages,
};

#[test]
fn pages_of_other_origins_change_and_read_nothing() {
    PAGES.hold();
}

fn pages(attacker: &mut Attacker<'_>) {
    const PAGE: &str = "Origin: http://evil.example\r\nSec-Fetch-Site: cross-site\r\n\
                        Sec-Fetch-Mode: no-cors\r\nContent-Type: text/plain\r\n";
    const NATIVE: &str = "X-Groupcache: v=1\r\n";
    let (clear, key) = (&[8, 1][..], format!("{GROUP}/here"));
    let remove = field(2, b"here");
    let departure = field(1, attacker.trial.node.url.as_bytes());
    let set = [field(1, b"objects"), field(2, b"here"), field(3, b"evil")].concat();
    let both = format!("{NATIVE}{PAGE}");
    let warm = attacker.ask(1, &request("GET", &key, "", &[]));
    warm.and_then(|mut stream| answer(&mut stream, PATIENCE));
    let here = |attacker: &Attacker<'_>| attacker.trial.node.get("here");
    let requests = [
        ("clear", "POST", GROUP, PAGE, clear),
        ("clear, no Origin", "POST", GROUP, "", clear),
        ("remove", "POST", GROUP, PAGE, &remove),
        ("departure", "POST", "/_groupcache/", PAGE, &departure),
        ("set", "PUT", &key, PAGE, &set),
        ("set, no Origin", "PUT", &key, "", &set),
        ("delete", "DELETE", &key, PAGE, &[]),
        ("delete, no Origin", "DELETE", &key, "", &[]),
        ("read", "GET", &key, PAGE, &[]),
        ("read, after a preflight", "GET", &key, &both, &[]),
        ("clear, after a preflight", "POST", GROUP, &both, clear),
        ("preflight", "OPTIONS", &key, PAGE, &[]),
        ("alive", "GET", "/_groupcache/", PAGE, &[]),
    ];
    for (name, method, target, lines, body) in requests {
        let stream = attacker.ask(1, &request_with(method, target, lines, body));
        let status = stream.and_then(|mut stream| answer(&mut stream, PATIENCE));
        let is_refused = status.is_some_and(|status| (400..500).contains(&status));
        attacker.expect(is_refused, format!("{name}: {status:?}"));
        let reply = here(attacker);
        let is_there = reply.source == "main" && reply.text() == "value of here";
        attacker.expect(is_there, format!("{name}: the value has gone"));
        let stats = attacker.trial.node.stats();
        let peers = stats["peers"].as_array().unwrap();
        let has_left = peers.iter().any(|peer| peer["has_left"] == true);
        attacker.expect(!has_left, format!("{name}: a peer has left"));
    }
}
