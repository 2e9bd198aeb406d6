//! Who may ask the front, and for what: not everybody who reaches it is a friend.

use std::net::{IpAddr, TcpListener, UdpSocket};

use serde_json::json;

use crate::origin::Origin;
use crate::process::{Process, STEADY};

/// An address of this machine that is no loopback address. Nothing is sent.
fn outside() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().unwrap().ip();
    (!address.is_loopback()).then_some(address)
}

/// A node whose front takes connections from everywhere, and the port of it.
fn open_to_all(origin: &Origin, front: &str) -> (Process, String) {
    let node = Process::start(origin, &["--front", front]);
    let port = node.front.rsplit(':').next().unwrap().to_owned();
    (node, port)
}

#[test]
fn only_this_host_changes_the_list_of_peers() {
    let origin = Origin::start();
    let (mut node, port) = open_to_all(&origin, "0.0.0.0:0");
    let before = node.stats()["ring"].clone();
    let list = [&*node.url.clone(), "http://127.0.0.1:1"];
    if let Some(outside) = outside() {
        node.front = format!("http://{outside}:{port}");
        let reply = node.set_peers(&list);
        assert_eq!(reply.status, 403, "{reply:?}");
        assert!(reply.text().contains("--discover"), "{reply:?}");
        assert_eq!(node.stats()["ring"], before);
        assert_eq!(node.get("k").status, 200, "all else it may");
    } else {
        eprintln!("NOTICE: there are loopback addresses alone: no other one is tried");
    }
    node.front = format!("http://127.0.0.1:{port}");
    assert_eq!(node.set_peers(&list).status, 200);
    assert_ne!(node.stats()["ring"], before);
}

#[test]
fn this_host_is_known_by_its_ipv6_addresses_too() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("NOTICE: there is no IPv6: not tried");
        return;
    }
    let origin = Origin::start();
    let (mut node, port) = open_to_all(&origin, "[::]:0");
    let url = node.url.clone();
    // The node sees the first one as ::ffff:127.0.0.1.
    for host in ["127.0.0.1", "[::1]"] {
        node.front = format!("http://{host}:{port}");
        assert_eq!(node.set_peers(&[&url]).status, 200, "{host}");
    }
}

#[test]
fn a_node_that_discovers_its_peers_is_told_of_them_by_nobody_else() {
    let origin = Origin::start();
    let file = format!("groupcache-discovered-{}", std::process::id());
    let file = std::env::temp_dir().join(file);
    std::fs::write(&file, "").unwrap();
    let source = format!("file:{}", file.display());
    let node = Process::start(&origin, &["--discover", &source]);
    let before = node.stats()["ring"].clone();
    let reply = node.set_peers(&[&node.url, "http://127.0.0.1:1"]);
    assert_eq!(reply.status, 409, "{reply:?}");
    assert!(reply.text().contains("--discover"), "{reply:?}");
    assert_eq!(node.stats()["ring"], before);
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn pages_in_browsers_change_and_read_nothing() {
    let origin = Origin::start();
    let node = Process::start(&origin, &[]);
    assert_eq!(node.put("kept", "value").status, 200);
    let before = node.stats()["ring"].clone();
    let list = [&*node.url, "http://127.0.0.1:1"].join("\n");
    let refused = |method: &str, path: &str, header: (&str, &str), body: &str| {
        let reply = node.ask(method, path, &[header], body.as_bytes());
        assert_eq!(reply.status, 403, "{method} {path} {header:?}: {reply:?}");
        assert!(reply.text().contains("page"), "{reply:?}");
    };
    let headers = [
        ("Origin", "http://elsewhere.test"),
        ("Origin", "null"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
    ];
    for header in headers {
        for path in ["/k/kept", "/k/other", "/health", "/stats", "/elsewhere"] {
            refused("GET", path, header, "");
        }
        refused("PUT", "/k/kept", header, "another value");
        refused("DELETE", "/k/kept", header, "");
        refused("POST", "/get-many", header, "[\"other\"]");
        refused("PUT", "/peers", header, &list);
    }
    assert_eq!(node.get("kept").text(), "value");
    assert_eq!(node.stats()["ring"], before);
    assert!(origin.keys().is_empty(), "nothing is loaded for them");
    // What somebody types into a browser is no request of a page.
    let typed = [("Sec-Fetch-Site", "none")];
    for path in ["/k/kept", "/health", "/stats"] {
        assert_eq!(node.ask("GET", path, &typed, &[]).status, 200, "{path}");
    }
}

#[test]
fn each_line_of_cache_control_counts_for_a_value_that_is_set() {
    let origin = Origin::start();
    let node = Process::start(&origin, &[]);
    for (lines, text) in [
        (["public", "no-store"], "value of k"),
        (["max-age=60", "max-age=0"], "value of k"),
        (["public", "max-age=60"], "set"),
    ] {
        let lines = lines.map(|line| ("Cache-Control", line));
        assert_eq!(node.ask("PUT", "/k/k", &lines, b"set").status, 200);
        assert_eq!(node.get("k").text(), text, "{lines:?}");
    }
}

#[test]
fn memory_for_what_is_under_way_is_bounded_at_both_addresses() {
    let origin = Origin::start();
    let small = [STEADY, &["--max-buffered", "65536"]].concat();
    let [small, other] = [&*small, STEADY].map(|args| Process::start(&origin, args));
    for node in [&small, &other] {
        assert_eq!(node.set_peers(&[&small.url, &other.url]).status, 200);
    }
    // One that it owns, so that the other one sends it the value.
    let mut keys = (0..1_000).map(|n| format!("k{n}"));
    let key = keys.find(|key| small.get(key).source == "load").unwrap();
    let large = "v".repeat(100_000);
    assert_eq!(small.put(&key, &large).status, 503, "of a client");
    let reply = other.put(&key, &large);
    assert_eq!(reply.status, 207, "of a peer: {}", reply.text());
    assert_eq!(reply.json()["unreached"][0]["peer"], json!(small.url));
    for node in [&small, &other] {
        assert_eq!(node.put(&key, "short").status, 200);
    }
}
