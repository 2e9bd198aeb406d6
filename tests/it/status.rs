//! The status page and its report.

use std::time::Duration;

use groupcache_sync::{
    Clock, Fault, Group, HttpResponse, Network, Node, NodeBuilder, Request, Response, Server,
    StatusPage, Value,
};
use serde_json::Value as Json;

use crate::cluster::{Cluster, GROUP, address};
use crate::server::{Client, request};

const PAGE: &str = "/_groupcache-status";
const REPORT: &str = "/_groupcache-status.json";

fn load(key: &str) -> Result<Value, groupcache_sync::LoadError> {
    Ok(Value::from(key))
}

fn with_page(settings: impl FnOnce(NodeBuilder) -> NodeBuilder) -> Node {
    let builder = Node::builder("http://127.0.0.1:1").unwrap();
    let builder = builder.status_page(StatusPage::new());
    settings(builder).build().unwrap()
}

fn ask(node: &Node, method: &str, target: &str) -> Response {
    node.answer(&Request::new(method, target))
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    let mut headers = response.headers();
    headers.find_map(|(other, value)| (other == name).then_some(value))
}

fn report(node: &Node) -> Json {
    let response = ask(node, "GET", REPORT);
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "Content-Type"), Some("application/json"));
    serde_json::from_slice(&response.body().concat()).unwrap()
}

#[test]
fn a_node_without_it_knows_neither_path() {
    let node = Node::new("http://127.0.0.1:1").unwrap();
    for target in [PAGE, REPORT] {
        assert_eq!(ask(&node, "GET", target).status(), 404);
        assert!(!node.serves(target));
    }
    assert!(node.serves("/_groupcache/g/k"));
}

#[test]
fn the_page_is_html_that_a_browser_keeps_to_itself() {
    let node = with_page(|node| node);
    for target in [PAGE, "/_groupcache-status?x=1"] {
        assert!(node.serves(target));
        let page = ask(&node, "GET", target);
        assert_eq!(page.status(), 200);
        let kind = header(&page, "Content-Type");
        assert_eq!(kind, Some("text/html; charset=utf-8"));
        let policy = header(&page, "Content-Security-Policy").unwrap();
        assert!(policy.starts_with("default-src 'none';"), "{policy}");
        assert_eq!(header(&page, "Cache-Control"), Some("no-store"));
    }
    assert_eq!(ask(&node, "HEAD", PAGE).status(), 200);
    for method in ["POST", "PUT", "DELETE"] {
        assert_eq!(ask(&node, method, PAGE).status(), 405);
        assert_eq!(ask(&node, method, REPORT).status(), 405);
    }
    for other in [
        "/_groupcache-statuses",
        "/_groupcache-status/",
        "/_GROUPCACHE-STATUS",
        "/",
    ] {
        assert!(!node.serves(other), "{other}");
        assert_eq!(ask(&node, "GET", other).status(), 404, "{other}");
    }
}

#[test]
fn the_page_asks_nobody_else_and_makes_no_markup_of_texts() {
    let page = include_str!("../../src/observe/status/page.html");
    let namespace = "\"http://www.w3.org/2000/svg\"";
    let rest = page.replace(namespace, "");
    for foreign in [
        "http://", "https://", "//cdn", "src=", "@import", "url(", "import(",
    ] {
        assert!(!rest.contains(foreign), "{foreign}");
    }
    for unsafe_way in [
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "Function(",
    ] {
        assert!(!page.contains(unsafe_way), "{unsafe_way}");
    }
    assert!(page.contains("width=device-width"));
    assert!(page.contains("prefers-color-scheme: dark"));
}

#[test]
fn the_report_says_what_the_node_knows() {
    let cluster = Cluster::with(
        3,
        Clock::manual(),
        |node| node.status_page(StatusPage::new()),
        |group| group,
        load,
    );
    cluster.network.set_fault(&address(2), Some(Fault::Refuses));
    let group = &cluster.groups[0];
    for at in (0..50).chain(0..50) {
        group.get(&at.to_string()).unwrap();
    }
    let (node, found) = (&cluster.nodes[0], report(&cluster.nodes[0]));
    assert_eq!(found["address"], address(0));
    assert_eq!(found["ring"], format!("{:x}", node.stats().ring));
    let peers = found["peers"].as_array().unwrap();
    assert_eq!(peers.len(), 3);
    for (peer, stats) in peers.iter().zip(node.stats().peers) {
        assert_eq!(peer["id"], stats.id);
        assert_eq!(peer["circuit"], stats.circuit.to_string());
        assert_eq!(peer["calls"], stats.calls);
        let share = peer["ring_share"].as_f64().unwrap();
        assert!((share - stats.ring_share).abs() < 1e-5);
        assert_eq!(count(&peer["latency"]), stats.latency.count());
    }
    let unreachable: Vec<_> = peers
        .iter()
        .filter(|peer| peer["circuit"] == "open")
        .collect();
    assert_eq!(unreachable.len(), 1);
    assert_eq!(unreachable[0]["address"], address(2));
    let of_group = &found["groups"][0];
    assert_eq!(of_group["name"], GROUP);
    let (stats, latencies) = (group.stats(), group.latencies());
    assert!(stats.main_hits > 0 && latencies.peer.count() > 0);
    assert_eq!(of_group["stats"]["main_hits"], stats.main_hits);
    assert_eq!(of_group["stats"]["gets"], 100);
    assert_eq!(of_group["stats"]["capacity_bytes"], 64 << 20);
    assert_eq!(
        count(&of_group["latencies"]["peer"]),
        latencies.peer.count()
    );
    assert_eq!(
        count(&of_group["latencies"]["load"]),
        latencies.load.count()
    );
}

/// How many a latency of the report counts.
fn count(latency: &Json) -> u64 {
    let buckets = latency.as_array().unwrap().iter();
    buckets.map(|bucket| bucket[1].as_u64().unwrap()).sum()
}

#[test]
fn keys_are_shown_where_that_is_allowed_and_nowhere_else() {
    let hidden = with_page(|node| node);
    let shown = with_page(|node| node.status_page(StatusPage::new().hottest_keys(2)));
    for node in [&hidden, &shown] {
        let group: Group = node.group_builder("g", 1 << 20).build(load).unwrap();
        for key in [
            "secret-a", "secret-a", "secret-a", "secret-b", "secret-b", "secret-c",
        ] {
            group.get(key).unwrap();
        }
    }
    let text = report(&hidden).to_string();
    assert!(!text.contains("secret"), "{text}");
    assert_eq!(report(&hidden)["groups"][0]["hottest"], Json::Null);
    let hottest = &report(&shown)["groups"][0]["hottest"];
    assert_eq!(hottest.as_array().unwrap().len(), 2);
    assert_eq!(hottest[0][0], "secret-a");
}

#[test]
fn names_stay_what_they_are_and_are_never_markup() {
    let page = StatusPage::new().hottest_keys(5);
    let node = with_page(|node| node.status_page(page));
    let hostile = "</script><img src=x onerror=alert(1)>\"'\\\n\u{0}\u{2028}é&";
    let group: Group = node.group_builder(hostile, 1 << 20).build(load).unwrap();
    group.get(hostile).unwrap();
    let found = report(&node);
    assert_eq!(found["groups"][0]["name"], hostile);
    assert_eq!(found["groups"][0]["hottest"][0][0], hostile);
    let text = ask(&node, "GET", REPORT).body().concat();
    assert!(!text.contains(&b'<') && !text.contains(&b'&') && !text.contains(&b'\n'));
}

#[test]
fn however_many_ask_a_report_is_made_once_a_second() {
    let clock = Clock::manual();
    let node = with_page(|node| node.clock(clock.clone()));
    let group: Group = node.group_builder("g", 1 << 20).build(load).unwrap();
    let gets = || {
        report(&node)["groups"][0]["stats"]["gets"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(gets(), 0);
    group.get("a").unwrap();
    clock.advance(Duration::from_millis(999));
    assert_eq!(gets(), 0);
    clock.advance(Duration::from_millis(1));
    assert_eq!(gets(), 1);
}

#[test]
fn the_metrics_are_beside_the_page_and_made_once_a_second() {
    const METRICS: &str = "/_groupcache-metrics";
    let without = Node::new("http://127.0.0.1:1").unwrap();
    assert_eq!(ask(&without, "GET", METRICS).status(), 404);
    assert!(!without.serves(METRICS));

    let clock = Clock::manual();
    let node = with_page(|node| node.clock(clock.clone()));
    let group: Group = node.group_builder("g", 1 << 20).build(load).unwrap();
    assert!(node.serves(METRICS));
    assert_eq!(ask(&node, "PUT", METRICS).status(), 405);
    let text = || {
        let response = ask(&node, "GET", METRICS);
        assert_eq!(response.status(), 200);
        let kind = header(&response, "Content-Type");
        assert_eq!(kind, Some("text/plain; version=0.0.4; charset=utf-8"));
        String::from_utf8(response.body().concat()).unwrap()
    };
    let before = text();
    assert!(
        before.contains("groupcache_gets_total{group=\"g\"} 0\n"),
        "{before}"
    );
    assert_eq!(before, node.prometheus());
    group.get("a").unwrap();
    clock.advance(Duration::from_millis(999));
    assert_eq!(text(), before);
    clock.advance(Duration::from_millis(1));
    assert!(text().contains("groupcache_gets_total{group=\"g\"} 1\n"));
}

#[test]
fn a_server_shows_it_beside_the_application_and_not_on_a_port_of_the_application_alone() {
    let node = with_page(|node| node);
    let serve = |serves_peers| {
        let builder = Server::builder(&node).serves_peers(serves_peers);
        let builder = builder.fallback(|_| HttpResponse::text(200, "the application"));
        builder.bind("127.0.0.1:0").unwrap()
    };
    let (both, alone) = (serve(true), serve(false));
    let mut client = Client::connect(both.local_addr());
    client.send(request("GET", PAGE, ""));
    let answer = client.answer();
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert!(answer.has("<!doctype html>"));
    client.send(request("GET", REPORT, ""));
    assert!(client.answer().has("\"peers\":["));
    client.send(request("GET", "/_groupcache-other", ""));
    assert!(client.answer().has("the application"));
    let mut client = Client::connect(alone.local_addr());
    client.send(request("GET", REPORT, ""));
    assert!(client.answer().has("the application"));
}

#[cfg(feature = "tiny_http")]
#[test]
fn the_second_engine_shows_it_too() {
    let node = with_page(|node| node);
    let server = groupcache_sync::TinyServer::bind(&node, "127.0.0.1:0").unwrap();
    let mut client = Client::connect(server.local_addr());
    client.send(request("GET", PAGE, ""));
    let answer = client.answer();
    assert_eq!(answer.status, 200);
    assert!(answer.has("<!doctype html>"));
    assert!(answer.header("content-security-policy").is_some());
}

#[cfg(feature = "auth")]
#[test]
fn a_secret_that_peers_share_does_not_guard_it() {
    let keyring = groupcache_sync::Keyring::new("0123456789abcdef0123456789abcdef").unwrap();
    let node = with_page(|node| node.keyring(keyring));
    let _group: Group = node.group_builder("g", 1 << 20).build(load).unwrap();
    assert_eq!(ask(&node, "GET", "/_groupcache/g/k").status(), 401);
    assert_eq!(ask(&node, "GET", PAGE).status(), 200);
    assert_eq!(report(&node)["refused_requests"], 1);
}

/// It is for whoever reaches the port: so nobody may have a body read there.
#[test]
fn whoever_sends_it_a_body_is_sent_away_before_that_is_here() {
    let node = with_page(|node| node);
    let server = Server::bind(&node, "127.0.0.1:0").unwrap();
    for method in ["GET", "POST", "PUT"] {
        let mut client = Client::connect(server.local_addr());
        let length = "X-Groupcache: v=1\r\nContent-Length: 1000000\r\n";
        client.send(request(method, PAGE, length));
        assert_eq!(client.answer().status, 405, "{method}");
        client.assert_closed();
    }
}

#[test]
fn a_peer_that_leaves_is_shown_as_such() {
    let network = Network::new();
    let page = StatusPage::new();
    let build = |address: &str| {
        let builder = network.builder(address).unwrap();
        let node = builder.status_page(page.clone()).build().unwrap();
        network.attach(&node);
        node.set_peers(["http://a:1", "http://b:1"]).unwrap();
        node
    };
    let (a, b) = (build("http://a:1"), build("http://b:1"));
    b.leave(Duration::from_secs(60)).unwrap();
    let has_left = |node: &Node, at: usize| report(node)["peers"][at]["has_left"] == true;
    assert!(!has_left(&a, 0) && has_left(&a, 1));
    assert!(has_left(&b, 1));
}
