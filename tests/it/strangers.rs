//! Those who share a secret, and strangers who do not: who comes first at a listener.

use std::io::{BufRead, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use groupcache_sync::{
    Call, CallError, Error, Group, Keyring, Limits, Link, Node, Peer, Reply, Server, ServerBuilder,
    Transport, Value,
};

use crate::cluster::eventually;
use crate::hostile::connect_from;
use crate::server::{Client, request};

const SECRET: &str = "a secret that peers have in common";
const SERVED: &str = "http://127.0.0.1:1";

/// Notes what a node asks its peer, who never answers.
#[derive(Clone, Default)]
struct Noting(Arc<Mutex<Option<Call>>>);

impl Transport for Noting {
    fn link(&self, _: &Peer, _: &Limits) -> Result<Arc<dyn Link>, Error> {
        Ok(Arc::new(self.clone()))
    }
}

impl Link for Noting {
    fn call(&self, call: &Call, _: Duration) -> Result<Reply, CallError> {
        if call.target.contains("/things") {
            *self.0.lock().unwrap() = Some(call.clone());
        }
        Err(CallError::Unreachable("it only listens".to_owned()))
    }
}

/// What a peer that has the secret sends to [`SERVED`].
fn signed(ask: impl FnOnce(&Group, &str)) -> Vec<u8> {
    let noting = Noting::default();
    let node = Node::builder("http://127.0.0.1:2").unwrap();
    let node = node.keyring(Keyring::new(SECRET).unwrap());
    let node = node.transport(Arc::new(noting.clone())).build().unwrap();
    node.set_peers([SERVED, "http://127.0.0.1:2"]).unwrap();
    let group = node.group_builder("things", 8 << 20);
    let group: Group = group.build(|_| Ok(Value::default())).unwrap();
    let owned = |key: &String| node.owner(key).address() == SERVED;
    let key = (0..).map(|key: u32| key.to_string()).find(owned).unwrap();
    ask(&group, &key);
    let call = noting.0.lock().unwrap().take().unwrap();
    let headers = format!(
        "X-Groupcache: {}\r\nX-Groupcache-Auth: {}\r\nContent-Length: {}\r\n",
        call.header,
        call.auth,
        call.body.len()
    );
    let head = request(call.method, &call.target, &headers);
    [head.as_bytes(), &call.body].concat()
}

fn signed_get() -> Vec<u8> {
    signed(|group, key| drop(group.get(key)))
}

fn guarded(settings: impl FnOnce(ServerBuilder) -> ServerBuilder) -> (Node, Group, Server) {
    let node = Node::builder(SERVED).unwrap();
    let node = node.keyring(Keyring::new(SECRET).unwrap()).build().unwrap();
    let group = node.group_builder("things", 8 << 20);
    let group: Group = group.build(|key| Ok(Value::from(key))).unwrap();
    let server = settings(Server::builder(&node)).bind("127.0.0.1:0");
    (node, group, server.unwrap())
}

/// Connections of strangers whose bodies do not come.
fn strangers(server: &Server, count: usize) -> Vec<Client> {
    let begin = |_| {
        let mut client = connect_from([127, 0, 0, 2], server.local_addr());
        let headers = "Content-Length: 100\r\n";
        let head = request("PUT", "/_groupcache/things/a", headers);
        let _ = client.0.get_mut().write_all(head.as_bytes());
        client
    };
    (0..count).map(begin).collect()
}

#[test]
fn those_who_have_proved_who_they_are_keep_their_places() {
    let (_node, _group, server) = guarded(|settings| settings.max_connections(16));
    let get = signed_get();
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
    let (_node, _group, server) = guarded(|settings| settings.max_connections(4));
    let get = signed_get();
    let peers = Mutex::new(Vec::new());
    for _ in 0..8 {
        eventually("one that is idle makes room", || {
            let mut peer = Client::connect(server.local_addr());
            let is_sent = peer.0.get_mut().write_all(&get).is_ok();
            let is_served = is_sent && peer.0.fill_buf().is_ok_and(|bytes| !bytes.is_empty());
            let is_served = is_served && peer.answer().status == 200;
            peers.lock().unwrap().push(peer);
            is_served
        });
    }
}

#[test]
fn strangers_leave_memory_to_those_who_prove_who_they_are() {
    let (_node, group, server) = guarded(|settings| settings.max_buffered(4 << 20));
    let mut strangers: Vec<Client> = (0..8)
        .map(|_| Client::connect(server.local_addr()))
        .collect();
    for client in &mut strangers {
        let headers = "Content-Length: 600000\r\n";
        client.send(request("PUT", "/_groupcache/things/a", headers));
        // One that is refused does not read on.
        let _ = client.0.get_mut().write_all(&[0; 500_000]);
    }
    let mut peer = Client::connect(server.local_addr());
    peer.send(signed_get());
    assert_eq!(peer.answer().status, 200);
    let mut put_key = String::new();
    let put = signed(|group, key| {
        let _ = group.set(key, Value::from(vec![1; 1 << 20]));
        put_key = key.to_owned();
    });
    peer.send(put);
    assert_eq!(peer.answer().status, 200);
    assert_eq!(group.get(&put_key).unwrap().len(), 1 << 20);
}
