//! Those who share a secret, and strangers who do not: who comes first at a listener.

use std::io::{BufRead, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use groupcache_sync::{
    Call, CallError, Error, Group, Keyring, Limits, Link, Node, Peer, Reply, Request, Server,
    ServerBuilder, Transport, Value,
};

use crate::cluster::eventually;
use crate::hostile::connect_from;
use crate::server::{Client, request};

const SECRET: &str = "a secret that peers have in common";
const SERVED: &str = "http://127.0.0.1:1";

/// Notes what a node asks its peer. Reads are answered, which names the process that changes are to be
/// signed for; changes do not arrive.
#[derive(Clone)]
struct Noting {
    served: Node,
    last: Arc<Mutex<Option<Call>>>,
}

impl Transport for Noting {
    fn link(&self, _: &Peer, _: &Limits) -> Result<Arc<dyn Link>, Error> {
        Ok(Arc::new(self.clone()))
    }
}

impl Link for Noting {
    fn call(&self, call: &Call, _: Duration) -> Result<Reply, CallError> {
        if call.target.contains("/things") {
            *self.last.lock().unwrap() = Some(call.clone());
        }
        if call.method != "GET" {
            return Err(CallError::Unreachable("it was noted".to_owned()));
        }
        let request = Request::new(call.method, &call.target)
            .header("X-Groupcache", &call.header)
            .header("X-Groupcache-Auth", &call.auth);
        let response = self.served.answer(&request);
        let header = response.headers().find(|(name, _)| *name == "X-Groupcache");
        Ok(Reply {
            status: response.status(),
            header: header.map(|(_, value)| value.to_owned()),
            body: response.body().concat(),
        })
    }
}

/// What a peer that has the secret sends to [`SERVED`], which is `served`.
fn signed(served: &Node, ask: impl FnOnce(&Group, &str)) -> Vec<u8> {
    let noting = Noting {
        served: served.clone(),
        last: Arc::default(),
    };
    let node = Node::builder("http://127.0.0.1:2").unwrap();
    let node = node.keyring(Keyring::new(SECRET).unwrap());
    let node = node.warm_up(Duration::ZERO); // it asks nobody but for what it is to ask
    let node = node.transport(Arc::new(noting.clone())).build().unwrap();
    node.set_peers([SERVED, "http://127.0.0.1:2"]).unwrap();
    let group = node.group_builder("things", 8 << 20);
    let group: Group = group.build(|_| Ok(Value::default())).unwrap();
    let owned = |key: &String| node.owner(key).address() == SERVED;
    let key = (0..).map(|key: u32| key.to_string()).find(owned).unwrap();
    ask(&group, &key);
    let call = noting.last.lock().unwrap().take().unwrap();
    let headers = format!(
        "X-Groupcache: {}\r\nX-Groupcache-Auth: {}\r\nContent-Length: {}\r\n",
        call.header,
        call.auth,
        call.body.len()
    );
    let head = request(call.method, &call.target, &headers);
    [head.as_bytes(), &call.body].concat()
}

fn signed_get(served: &Node) -> Vec<u8> {
    signed(served, |group, key| drop(group.get(key)))
}

fn signed_batch(served: &Node) -> Vec<u8> {
    let batch = signed(served, |group, key| {
        let _ = group.get(key); // which tells for which process to sign
        let keys: Vec<String> = (0..32).map(|number| format!("batch-{number}")).collect();
        drop(group.get_many(&keys));
    });
    assert!(batch.starts_with(b"POST"));
    batch
}

/// A new connection on which this was answered, if it has a place.
fn served(server: &Server, request: &[u8]) -> Option<Client> {
    let mut peer = Client::connect(server.local_addr());
    let is_sent = peer.0.get_mut().write_all(request).is_ok();
    let is_answered = is_sent && peer.0.fill_buf().is_ok_and(|bytes| !bytes.is_empty());
    (is_answered && peer.answer().status == 200).then_some(peer)
}

fn guarded(settings: impl FnOnce(ServerBuilder) -> ServerBuilder) -> (Node, Group, Server) {
    let node = Node::builder(SERVED).unwrap();
    let node = node.keyring(Keyring::new(SECRET).unwrap());
    let node = node.legacy_signatures(true).build().unwrap();
    let group = node.group_builder("things", 8 << 20);
    let group: Group = group.build(|key| Ok(Value::from(key))).unwrap();
    let server = settings(Server::builder(&node)).bind("127.0.0.1:0");
    (node, group, server.unwrap())
}

/// Connections of strangers whose heads do not end.
fn strangers(server: &Server, count: usize) -> Vec<Client> {
    let begin = |_| {
        let mut client = connect_from([127, 0, 0, 2], server.local_addr());
        let head = b"PUT /_groupcache/things/a HTTP/1.1\r\nHost: h\r\n";
        let _ = client.0.get_mut().write_all(head);
        client
    };
    (0..count).map(begin).collect()
}

#[test]
fn those_who_have_proved_who_they_are_keep_their_places() {
    let (node, _group, server) = guarded(|settings| settings.max_connections(16));
    let get = signed_get(&node);
    let mut peers: Vec<Client> = (0..4)
        .map(|_| Client::connect(server.local_addr()))
        .collect();
    for peer in &mut peers {
        peer.send(&get);
        assert_eq!(peer.answer().status, 200);
    }
    let _strangers = strangers(&server, 100);
    for peer in &mut peers {
        peer.send(&get);
        assert_eq!(peer.answer().status, 200);
    }
    // Also those who come later.
    let mut late = Client::connect(server.local_addr());
    late.send(&get);
    assert_eq!(late.answer().status, 200);
}

#[test]
fn a_peer_finds_a_place_where_all_are_those_of_peers() {
    let (node, _group, server) = guarded(|settings| settings.max_connections(4));
    let get = signed_get(&node);
    let peers = Mutex::new(Vec::new());
    for _ in 0..8 {
        eventually("one that is idle makes room", || {
            let peer = served(&server, &get);
            let has_place = peer.is_some();
            peers.lock().unwrap().extend(peer);
            has_place
        });
    }
}

/// Whoever has recorded a get may repeat it for a while, and so seem to be a peer: that does not keep
/// others out.
#[test]
fn connections_that_begin_with_a_recorded_get_give_way() {
    let (node, _group, server) = guarded(|settings| settings.max_connections(16));
    let get = signed_get(&node);
    let record = |_| {
        let mut client = connect_from([127, 0, 0, 2], server.local_addr());
        client.send(&get);
        assert_eq!(client.answer().status, 200);
        let _ = client.0.get_mut().write_all(b"P"); // and no more
        client
    };
    let _recorded: Vec<Client> = (0..16).map(record).collect();
    eventually("a peer has a place", || served(&server, &get).is_some());
}

/// The head of a request that was recorded proves nothing of one who never sends the rest.
#[test]
fn connections_with_a_recorded_head_alone_give_way() {
    // No time ends what they have begun.
    let (node, _group, server) = guarded(|settings| {
        settings
            .max_connections(16)
            .body_timeout(Duration::from_secs(600))
    });
    let get = signed_get(&node);
    let batch = signed_batch(&node);
    let head = &batch[..batch.len() - 1];
    for _ in 0..64 {
        let mut client = connect_from([127, 0, 0, 2], server.local_addr());
        let _ = client.0.get_mut().write_all(head);
        std::mem::forget(client); // it stays until the test ends
    }
    for _ in 0..4 {
        // While workers look at all of the heads, none gives way.
        eventually("a peer has a place", || served(&server, &get).is_some());
    }
}

#[test]
fn a_recorded_head_with_another_body_proves_nothing() {
    let (node, _group, server) = guarded(|settings| settings);
    let mut batch = signed_batch(&node);
    *batch.last_mut().unwrap() ^= 1;
    let mut client = Client::connect(server.local_addr());
    let end = batch.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let (head, body) = batch.split_at(end.unwrap() + 2);
    // The head is judged by itself.
    client.send([head, b"Expect: 100-continue\r\n\r\n"].concat());
    assert_eq!(client.head().status, 100);
    client.send(&body[2..]);
    assert_eq!(client.answer().status, 401);
    client.assert_closed();
}

/// What a recorded get brings need not be read.
#[test]
fn connections_that_do_not_read_what_a_recorded_get_brings_give_way() {
    let (node, group, server) = guarded(|settings| settings.max_connections(16));
    let mut key = String::new();
    let large = signed(&node, |group, of_served| {
        key = of_served.to_owned();
        drop(group.get(of_served));
    });
    let _ = group.set(&key, Value::from(vec![1; 4 << 20]));
    let small = signed_batch(&node);
    let unread = |_| {
        let mut client = connect_from([127, 0, 0, 2], server.local_addr());
        let _ = client.0.get_mut().write_all(&large);
        client
    };
    let _unread: Vec<Client> = (0..16).map(unread).collect();
    eventually("a peer has a place", || served(&server, &small).is_some());
}

#[test]
fn who_can_prove_no_further_request_is_no_peer_any_more() {
    let (node, _group, server) = guarded(|settings| settings);
    let mut client = Client::connect(server.local_addr());
    client.send(signed_get(&node));
    assert_eq!(client.answer().status, 200);
    client.send(request("GET", "/_groupcache/things/a", ""));
    assert_eq!(client.answer().status, 401);
    client.assert_closed();
}

#[test]
fn strangers_leave_memory_to_those_who_prove_who_they_are() {
    let (node, group, server) = guarded(|settings| settings.max_buffered(6 << 20));
    let mut strangers: Vec<Client> = (0..8)
        .map(|_| Client::connect(server.local_addr()))
        .collect();
    for client in &mut strangers {
        // A code of the scheme before is known to be wrong only once the body is here.
        let auth = format!("v=1;t=1;n={:032x};m={:064x}", 1, 1);
        let headers =
            format!("X-Groupcache: v=1\r\nX-Groupcache-Auth: {auth}\r\nContent-Length: 600000\r\n");
        client.send(request("PUT", "/_groupcache/things/a", &headers));
        // One that is refused does not read on.
        let _ = client.0.get_mut().write_all(&[0; 500_000]);
    }
    let mut peer = Client::connect(server.local_addr());
    peer.send(signed_get(&node));
    assert_eq!(peer.answer().status, 200);
    let mut put_key = String::new();
    let put = signed(&node, |group, key| {
        let _ = group.get(key);
        let _ = group.set(key, Value::from(vec![1; 1 << 20]));
        put_key = key.to_owned();
    });
    peer.send(put);
    assert_eq!(peer.answer().status, 200);
    assert_eq!(group.get(&put_key).unwrap().len(), 1 << 20);
}
