//! Peers that share a secret: who is let in, who is not, and that replacing the secret fails nobody.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use groupcache_sync::{
    Begin, Call, CallError, CircuitState, Clock, Error, Group, Keyring, Limits, Link, Network,
    Node, NodeBuilder, Peer, PeerStats, Reply, Request, Response, Server, Transport, Value,
};

use crate::cluster::{address, eventually, value_of};

const SECRET: &str = "the first secret of this cluster";
const OTHER: &str = "another secret, not the first one";
const MINUTE: Duration = Duration::from_secs(60);

/// The network in memory, with all calls noted, and kept back if that is wanted.
struct Noting {
    network: Network,
    calls: Arc<Mutex<Vec<Call>>>,
    keeps_back: Arc<AtomicBool>,
}

struct NotingLink {
    link: Arc<dyn Link>,
    calls: Arc<Mutex<Vec<Call>>>,
    keeps_back: Arc<AtomicBool>,
}

impl Transport for Noting {
    fn link(&self, peer: &Peer, limits: &Limits) -> Result<Arc<dyn Link>, Error> {
        Ok(Arc::new(NotingLink {
            link: self.network.link(peer, limits)?,
            calls: Arc::clone(&self.calls),
            keeps_back: Arc::clone(&self.keeps_back),
        }))
    }
}

impl Link for NotingLink {
    fn call(&self, call: &Call, timeout: Duration) -> Result<Reply, CallError> {
        self.calls.lock().unwrap().push(call.clone());
        if self.keeps_back.load(Ordering::SeqCst) {
            return Err(CallError::Unreachable("it is kept back".into()));
        }
        self.link.call(call, timeout)
    }
}

/// Two nodes, each with settings and a clock of its own.
struct Pair {
    network: Network,
    keeps_back: Arc<AtomicBool>,
    nodes: Vec<Node>,
    groups: Vec<Group>,
    clocks: Vec<Clock>,
    calls: Arc<Mutex<Vec<Call>>>,
    loads: Arc<AtomicUsize>,
}

impl Pair {
    fn new(settings: impl Fn(usize, NodeBuilder) -> NodeBuilder) -> Pair {
        let network = Network::new();
        let keeps_back: Arc<AtomicBool> = Arc::default();
        let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
        let loads: Arc<AtomicUsize> = Arc::default();
        let clocks = vec![Clock::manual(), Clock::manual()];
        let (mut nodes, mut groups) = (Vec::new(), Vec::new());
        for (index, clock) in clocks.iter().enumerate() {
            let builder = Node::builder(address(index)).unwrap().clock(clock.clone());
            let builder = builder.warm_up(Duration::ZERO); // only what a test asks for is called
            let noting = Noting {
                network: network.clone(),
                calls: Arc::clone(&calls),
                keeps_back: Arc::clone(&keeps_back),
            };
            let node = settings(index, builder.transport(Arc::new(noting)));
            let node = node.build().unwrap();
            network.attach(&node);
            let loads = Arc::clone(&loads);
            let group = node.group_builder("g", 1 << 20).build(move |key| {
                loads.fetch_add(1, Ordering::SeqCst);
                Ok(value_of(key))
            });
            groups.push(group.unwrap());
            nodes.push(node);
        }
        for node in &nodes {
            node.set_peers((0..2).map(address)).unwrap();
        }
        Pair {
            network,
            keeps_back,
            nodes,
            groups,
            clocks,
            calls,
            loads,
        }
    }

    fn with_secrets(secrets: [Option<&str>; 2]) -> Pair {
        Pair::new(|index, node| match secrets[index] {
            Some(secret) => node.keyring(Keyring::new(secret).unwrap()),
            None => node,
        })
    }

    /// A key that node 1 owns.
    fn keys(&self) -> impl Iterator<Item = String> + use<> {
        let node = self.nodes[0].clone();
        (0..)
            .map(|number| format!("key {number}"))
            .filter(move |key| node.owner(key).address() == address(1))
    }

    fn key(&self) -> String {
        self.keys().next().unwrap()
    }

    /// What node 0 would send, signed and never seen by anybody.
    fn kept_back(&self, act: impl FnOnce(&Group)) -> Call {
        self.keeps_back.store(true, Ordering::SeqCst);
        act(&self.groups[0]);
        self.keeps_back.store(false, Ordering::SeqCst);
        self.last_call()
    }

    fn last_call(&self) -> Call {
        self.calls.lock().unwrap().last().unwrap().clone()
    }

    fn peer(&self, node: usize) -> PeerStats {
        let peers = self.nodes[node].stats().peers.into_iter();
        peers.into_iter().find(|peer| !peer.is_this_node).unwrap()
    }
}

fn ask(node: &Node, call: &Call) -> Response {
    let request = Request::new(call.method, &call.target)
        .header("X-Groupcache", &call.header)
        .header("x-groupcache-auth", &call.auth)
        .body(&call.body);
    node.answer(&request)
}

fn text(response: &Response) -> String {
    String::from_utf8(response.body().concat()).unwrap()
}

#[test]
fn peers_with_the_secret_do_everything() {
    let pair = Pair::with_secrets([Some(SECRET); 2]);
    let keys: Vec<String> = pair.keys().take(20).collect();
    assert!(pair.groups[0].get_many(&keys).iter().all(Result::is_ok));
    pair.groups[0].get(&keys[0]).unwrap();
    pair.groups[0].set(&keys[0], Value::from("set")).unwrap();
    assert_eq!(pair.groups[0].get(&keys[0]).unwrap(), Value::from("set"));
    pair.groups[0].remove(&keys[0]).unwrap();
    pair.groups[1].remove_many(&[&keys[0], &keys[1]]).unwrap();
    pair.groups[0].clear().unwrap();
    assert_eq!(pair.groups[0].get(&keys[0]).unwrap(), value_of(&keys[0]));
    for node in 0..2 {
        assert_eq!(pair.peer(node).call_errors, 0);
        assert_eq!(pair.nodes[node].stats().refused_requests, 0);
    }
    assert!(
        pair.calls
            .lock()
            .unwrap()
            .iter()
            .all(|call| !call.auth.is_empty())
    );
}

#[test]
fn who_has_no_secret_or_another_one_is_sent_away_before_anything_is_done() {
    for secret in [None, Some(OTHER)] {
        let pair = Pair::with_secrets([secret, Some(SECRET)]);
        let keys: Vec<String> = pair.keys().take(6).collect();
        for (made, key) in keys.iter().enumerate() {
            assert_eq!(
                pair.groups[0].get(key).unwrap(),
                value_of(key),
                "loaded here"
            );
            let is_open = pair.peer(0).circuit == CircuitState::Open;
            assert_eq!(is_open, made >= 2, "one who refuses us is unreachable");
        }
        assert_eq!(pair.loads.load(Ordering::SeqCst), keys.len());
        let Err(Error::Unreached { peers }) = pair.groups[0].remove("k") else {
            panic!("a change must name who refuses it");
        };
        assert_eq!(peers.len(), 1);
        let stats = pair.groups[1].stats();
        assert_eq!((stats.served, stats.loads, stats.removes), (0, 0, 0));
        assert!(pair.nodes[1].stats().refused_requests >= 3);
    }
}

#[test]
fn a_peer_that_refuses_is_probed_and_taken_back_when_it_lets_us_in() {
    let keyring = Keyring::new(OTHER).unwrap();
    let own = keyring.clone();
    let pair = Pair::new(move |index, node| match index {
        0 => node.keyring(own.clone()),
        _ => node.keyring(Keyring::new(SECRET).unwrap()),
    });
    let keys: Vec<String> = pair.keys().take(10).collect();
    for key in &keys[..3] {
        pair.groups[0].get(key).unwrap();
    }
    assert_eq!(pair.peer(0).circuit, CircuitState::Open);
    let tick = || {
        let both = pair.clocks.iter();
        both.for_each(|clock| clock.advance(Duration::from_millis(100)));
    };
    let calls = || pair.calls.lock().unwrap().len();
    let made = calls();
    eventually("the keeper probes", || {
        tick();
        calls() > made + 1
    });
    let still = pair.peer(0).circuit;
    assert_eq!(still, CircuitState::Open, "a refusal is no answer");
    keyring.replace(SECRET, None).unwrap();
    eventually("it is back", || {
        tick();
        pair.peer(0).circuit == CircuitState::Closed
    });
}

#[test]
fn a_request_fits_one_peer_one_path_and_one_body() {
    let pair = Pair::with_secrets([Some(SECRET); 2]);
    pair.groups[0].get(&pair.key()).unwrap();
    let call = pair.last_call();
    assert_eq!(ask(&pair.nodes[1], &call).status(), 200);
    // To another peer, by another method, for another key, with other terms, without its mark.
    assert_eq!(ask(&pair.nodes[0], &call).status(), 401);
    for change in [
        (|call: &mut Call| call.method = "DELETE") as fn(&mut Call),
        |call| call.target.push('x'),
        |call| call.header.push_str(";h=9"),
        |call| call.body.push(0),
        |call| call.auth.clear(),
        |call| call.auth.push('0'),
        |call| call.auth = call.auth.replace(";n=", ";n=1"),
    ] {
        let mut changed = call.clone();
        change(&mut changed);
        let refused = ask(&pair.nodes[1], &changed);
        assert_eq!(refused.status(), 401, "{changed:?}");
        let headers: Vec<_> = refused.headers().collect();
        assert!(headers.contains(&("WWW-Authenticate", "X-Groupcache-Auth")));
    }
}

#[test]
fn a_stranger_learns_nothing_of_the_ring_and_the_clocks() {
    let pair = Pair::with_secrets([Some(SECRET); 2]);
    pair.groups[0].get(&pair.key()).unwrap();
    let call = pair.last_call();
    pair.clocks[1].advance(10 * MINUTE);
    let others = [
        call.auth.replace(";n=", ";n=1"),
        String::new(),
        "v=1".to_owned(),
    ];
    for auth in others {
        let mut stranger = call.clone();
        stranger.auth = auth;
        let refused = ask(&pair.nodes[1], &stranger);
        let (_, header) = refused.headers().nth(1).unwrap();
        assert_eq!(header, "v=1;s=unauthorized");
        let text = text(&refused);
        assert!(!text.contains("node-") && !text.contains("clock"), "{text}");
    }
    let late = text(&ask(&pair.nodes[1], &call));
    assert!(
        late.contains("600.0 s behind"),
        "who has the secret: {late}"
    );
}

#[test]
fn a_change_that_was_recorded_before_a_restart_is_refused_after_it() {
    let pair = Pair::with_secrets([Some(SECRET); 2]);
    let key = pair.key();
    pair.groups[0].set(&key, Value::from("old")).unwrap();
    let set = pair.last_call();
    pair.groups[0].remove(&key).unwrap();
    let removal = pair.last_call();
    // Another process, at once, which remembers nothing.
    let node = Node::builder(address(1)).unwrap();
    let node = node.clock(pair.clocks[1].clone());
    let node = node.keyring(Keyring::new(SECRET).unwrap()).build().unwrap();
    let group: Group = node
        .group_builder("g", 1 << 20)
        .build(|key| Ok(value_of(key)))
        .unwrap();
    for recorded in [&set, &removal] {
        let refused = ask(&node, recorded);
        assert_eq!(refused.status(), 401);
        let (_, header) = refused.headers().nth(1).unwrap();
        assert!(header.starts_with("v=1;s=stale-boot;b="), "{header}");
    }
    assert_eq!((group.try_get(&key), group.stats().removes), (None, 0));
    // One that is meant for it is carried out, though its peers do not know it yet.
    pair.network.attach(&node);
    node.set_peers((0..2).map(address)).unwrap();
    pair.calls.lock().unwrap().clear();
    pair.groups[0].set(&key, Value::from("new")).unwrap();
    assert_eq!(group.try_get(&key), Some(Value::from("new")));
    let puts = |call: &&Call| call.method == "PUT";
    assert_eq!(pair.calls.lock().unwrap().iter().filter(puts).count(), 2);
    assert_eq!(
        (pair.peer(0).call_errors, node.stats().refused_requests),
        (0, 0)
    );
}

#[test]
fn a_batch_that_only_reads_may_be_repeated_and_one_that_changes_may_not() {
    let pair = Pair::with_secrets([Some(SECRET); 2]);
    let keys: Vec<String> = pair.keys().take(3).collect();
    pair.groups[0].get(&keys[0]).unwrap();
    let batch = pair.kept_back(|group| drop(group.get_many(&keys[1..])));
    assert_eq!(batch.method, "POST");
    for _ in 0..3 {
        assert_eq!(ask(&pair.nodes[1], &batch).status(), 200);
    }
    pair.clocks[1].advance(MINUTE);
    assert_eq!(
        ask(&pair.nodes[1], &batch).status(),
        401,
        "for half a minute"
    );
    pair.kept_back(|_| drop(pair.nodes[0].leave(MINUTE)));
    let calls = pair.calls.lock().unwrap().clone();
    let is_departure = |call: &Call| call.target == "/_groupcache/" && call.method == "POST";
    let departure = calls.into_iter().find(is_departure).unwrap();
    assert_eq!(ask(&pair.nodes[1], &departure).status(), 200);
    assert_eq!(ask(&pair.nodes[1], &departure).status(), 401);
}

#[test]
fn nodes_with_and_without_older_signatures_are_one_cluster() {
    for legacy in [[true, true], [true, false], [false, true]] {
        let pair = Pair::new(|index, node| {
            let node = node.keyring(Keyring::new(SECRET).unwrap());
            node.legacy_signatures(legacy[index])
        });
        let key = pair.key();
        pair.groups[0].get(&key).unwrap();
        pair.groups[0].set(&key, Value::from("set")).unwrap();
        pair.groups[1].remove(&key).unwrap();
        let both = pair.nodes.iter().map(|node| node.stats().refused_requests);
        assert_eq!(both.sum::<u64>(), 0, "{legacy:?}");
        // What an older node would have signed: no more than it knows of.
        let mut call = pair.kept_back(|group| drop(group.remove(&key)));
        let old = call.auth.split(";b=").next().unwrap().to_owned();
        call.auth = old;
        let taken = ask(&pair.nodes[1], &call).status() == 200;
        assert_eq!(taken, legacy == [true, true], "{legacy:?}");
        assert_eq!(ask(&pair.nodes[1], &call).status(), 401, "made once");
    }
}

#[test]
fn a_change_is_made_once_and_a_get_may_be_repeated() {
    let pair = Pair::with_secrets([Some(SECRET); 2]);
    let key = pair.key();
    pair.groups[0].get(&key).unwrap();
    let get = pair.last_call();
    for _ in 0..3 {
        assert_eq!(ask(&pair.nodes[1], &get).status(), 200);
    }
    let changes: [&dyn Fn(); 3] = [
        &|| pair.groups[0].set(&key, Value::from("old")).unwrap(),
        &|| pair.groups[0].remove(&key).unwrap(),
        &|| {
            pair.groups[0]
                .remove_many(&[key.as_str(), "another"])
                .unwrap()
        },
    ];
    for change in changes {
        pair.calls.lock().unwrap().clear();
        change();
        let calls = pair.calls.lock().unwrap().clone();
        assert!(!calls.is_empty());
        for call in calls {
            let refused = ask(&pair.nodes[1], &call);
            assert_eq!(refused.status(), 401, "{call:?}");
            assert!(text(&refused).contains("already"), "{}", text(&refused));
        }
    }
    // Also after the window, when it is not remembered any more.
    let change = pair.last_call();
    pair.clocks[1].advance(6 * MINUTE);
    assert_eq!(ask(&pair.nodes[1], &change).status(), 401);
}

#[test]
fn a_refusal_names_how_far_the_clocks_are_apart() {
    let pair = Pair::with_secrets([Some(SECRET); 2]);
    pair.clocks[1].advance(MINUTE / 2);
    pair.groups[0].get(&pair.key()).unwrap();
    assert_eq!(pair.peer(0).call_errors, 0, "half a minute is borne");
    pair.clocks[1].advance(MINUTE / 2);
    pair.groups[0].get(&pair.keys().nth(1).unwrap()).unwrap();
    assert_eq!(pair.peer(0).call_errors, 1, "a minute is not, of a read");
    pair.clocks[1].advance(4 * MINUTE);
    pair.groups[0].remove("k").unwrap();
    pair.clocks[1].advance(2 * MINUTE);
    let Err(Error::Unreached { peers }) = pair.groups[0].remove("k") else {
        panic!("seven minutes are too much");
    };
    let reason = &peers[0].reason;
    assert!(
        reason.contains("420.0 s behind") && reason.contains("clocks"),
        "{reason}"
    );
    let Err(Error::Unreached { peers }) = pair.groups[1].remove("k") else {
        panic!("seven minutes are too much");
    };
    assert!(
        peers[0].reason.contains("420.0 s ahead"),
        "{}",
        peers[0].reason
    );
}

#[test]
fn a_secret_is_replaced_without_a_failed_get() {
    let keyrings = [SECRET; 2].map(|secret| Keyring::new(secret).unwrap());
    let own = keyrings.clone();
    let pair = Pair::new(move |index, node| node.keyring(own[index].clone()));
    let done = AtomicBool::new(false);
    let gets = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (pair, done, gets) = (&pair, &done, &gets);
            scope.spawn(move || {
                for number in 0.. {
                    let key = format!("{thread} {number}");
                    assert_eq!(pair.groups[thread].get(&key).unwrap(), value_of(&key));
                    pair.groups[thread].remove(&key).unwrap();
                    gets.fetch_add(1, Ordering::SeqCst);
                    if done.load(Ordering::SeqCst) {
                        break;
                    }
                }
            });
        }
        let rounds: [(&str, Option<&str>); 3] =
            [(SECRET, Some(OTHER)), (OTHER, Some(SECRET)), (OTHER, None)];
        for (first, also) in rounds {
            for keyring in &keyrings {
                let before = gets.load(Ordering::SeqCst);
                eventually("there are gets meanwhile", || {
                    gets.load(Ordering::SeqCst) > before + 20
                });
                keyring.replace(first, also).unwrap();
            }
        }
        done.store(true, Ordering::SeqCst);
    });
    for node in 0..2 {
        assert_eq!(pair.peer(node).call_errors, 0);
        assert_eq!(pair.nodes[node].stats().refused_requests, 0);
    }
    let last = Pair::with_secrets([Some(SECRET), Some(OTHER)]);
    last.groups[0].get(&last.key()).unwrap();
    assert_eq!(
        ask(&pair.nodes[1], &last.last_call()).status(),
        401,
        "the old one is gone"
    );
}

#[test]
fn reads_may_be_left_open_while_changes_are_not() {
    let pair = Pair::new(|index, node| match index {
        0 => node,
        _ => node
            .keyring(Keyring::new(SECRET).unwrap())
            .unsigned_reads(true),
    });
    let keys: Vec<String> = pair.keys().take(3).collect();
    for key in &keys {
        assert_eq!(pair.groups[0].get(key).unwrap(), value_of(key));
    }
    assert_eq!(pair.peer(0).call_errors, 0);
    // Asked for many, which takes a signature, it is asked for one at a time from then on.
    let others: Vec<String> = pair.keys().skip(3).take(4).collect();
    for errors in [1, 1] {
        assert!(pair.groups[0].get_many(&others).iter().all(Result::is_ok));
        assert_eq!(pair.peer(0).call_errors, errors);
        pair.clocks[0].advance(MINUTE); // what was loaded here is gone
    }
    assert_eq!(pair.last_call().method, "GET");
    // A departure that is also a command to get "a", and that command for a group.
    let id = address(0);
    let both = [&[0x0a, id.len() as u8], id.as_bytes(), &[0x1a, 1, b'a']].concat();
    for target in ["/_groupcache/", "/_groupcache/g"] {
        let request = Request::new("POST", target).header("X-Groupcache", "v=1");
        assert_eq!(pair.nodes[1].answer(&request.body(&both)).status(), 401);
    }
    assert!(!pair.peer(1).has_left);
    let refused = |changed: Result<(), Error>| matches!(changed, Err(Error::Unreached { .. }));
    assert!(refused(pair.groups[0].remove(&keys[0])));
    assert!(refused(pair.groups[0].set(&keys[0], Value::from("x"))));
    let stats = pair.groups[1].stats();
    assert_eq!((stats.removes, stats.loads), (0, 7));
}

#[test]
fn secrets_are_never_shown_and_short_ones_refused() {
    let keyring = Keyring::new(SECRET).unwrap();
    let node = Node::builder("http://a:1")
        .unwrap()
        .keyring(keyring.clone());
    let shown = format!("{keyring:?} {node:?} {:?}", node.clone().build());
    assert!(!shown.contains("secret"), "{shown}");
    let error = Keyring::new("too short").unwrap_err().to_string();
    assert!(
        error.contains("9 bytes") && error.contains("openssl rand -hex 32"),
        "{error}"
    );
    assert!(!error.contains("too short"), "{error}");
    assert!(keyring.replace(SECRET, Some("short")).is_err());
}

#[test]
fn a_keyring_is_read_from_a_file_again_and_again() {
    let folder = std::env::temp_dir().join(format!("groupcache-keyring-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("secret");
    std::fs::write(&path, format!("{SECRET}\r\n")).unwrap();
    let keyring = Keyring::from_file(&path).unwrap();
    let own = keyring.clone();
    let pair = Pair::new(move |index, node| match index {
        0 => node.keyring(own.clone()),
        _ => node.keyring(Keyring::new(SECRET).unwrap()),
    });
    pair.groups[0].remove("a").unwrap();
    for bad in [
        "",
        "short",
        &format!("{SECRET}\n{OTHER}\n{OTHER}\n"),
        &format!("{SECRET}\nshort"),
    ] {
        std::fs::write(&path, bad).unwrap();
        assert!(
            matches!(keyring.reload(), Err(Error::InvalidSetting { .. })),
            "{bad}"
        );
        pair.groups[0].remove("a").unwrap();
    }
    std::fs::write(&path, format!("{OTHER}\n  {SECRET}\n")).unwrap();
    keyring.reload().unwrap();
    assert!(
        pair.groups[0].remove("a").is_err(),
        "it signs with the first"
    );
    pair.groups[1].remove("a").unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let error = keyring.reload().unwrap_err().to_string();
    assert!(error.contains("secret: No such file"), "{error}");
}

/// Over sockets, by both engines: the header has to make its way.
#[test]
fn both_engines_let_peers_in_and_others_not() {
    serves_peers_only(|node| {
        let server = Server::bind(node, "127.0.0.1:0").unwrap();
        (server.local_addr(), Box::new(server))
    });
    #[cfg(feature = "tiny_http")]
    serves_peers_only(|node| {
        let server = groupcache_sync::TinyServer::bind(node, "127.0.0.1:0").unwrap();
        (server.local_addr(), Box::new(server))
    });
}

type Serving = (std::net::SocketAddr, Box<dyn std::any::Any>);

fn serves_peers_only(serve: impl Fn(&Node) -> Serving) {
    let owner = Node::builder(Peer::new("http://127.0.0.1:1").unwrap().with_name("owner")).unwrap();
    let owner = owner
        .keyring(Keyring::new(SECRET).unwrap())
        .build()
        .unwrap();
    let group: Group = owner
        .group_builder("g", 1 << 20)
        .build(|key| Ok(value_of(key)))
        .unwrap();
    let (address, server) = serve(&owner);
    let at = |id: &str, address: &str| Peer::new(address).unwrap().with_name(id);
    let asker = |secret: &str| {
        let node = Node::builder(at("asker", "http://127.0.0.1:2")).unwrap();
        let keyring = Keyring::new(secret).unwrap();
        let node = node.allow_absent(true).keyring(keyring).build().unwrap();
        node.set_peers([at("owner", &format!("http://{address}"))])
            .unwrap();
        let group: Group = node
            .group_builder("g", 1 << 20)
            .build(|_| Err("only the owner loads".into()))
            .unwrap();
        (node, group)
    };
    let (_friend, friends) = asker(SECRET);
    assert_eq!(friends.get("k").unwrap(), value_of("k"));
    friends.set("k", Value::from(vec![7; 100_000])).unwrap();
    assert_eq!(friends.get("k").unwrap().len(), 100_000);
    let (_stranger, strangers) = asker(OTHER);
    assert!(matches!(strangers.get("k"), Err(Error::Load { .. })));
    assert_eq!(owner.stats().refused_requests, 1);
    let request = Request::new("GET", "/_groupcache/");
    let Begin::Ready(answer) = owner.begin(&request) else {
        panic!("it waits for nothing");
    };
    assert_eq!(answer.status(), 401, "not even whether it is alive");
    drop((server, group));
}

/// Sends a head that announces so many bytes, and gives the first line of what is answered.
fn answer_to_head(address: std::net::SocketAddr, call: &Call, length: usize) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(MINUTE)).unwrap();
    let Call {
        method,
        target,
        header,
        auth,
        ..
    } = call;
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: h\r\nX-Groupcache: {header}\r\n\
         X-Groupcache-Auth: {auth}\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

#[test]
fn a_stranger_is_refused_before_his_body_is_read() {
    let pair = Pair::with_secrets([Some(SECRET); 2]);
    let server = Server::bind(&pair.nodes[1], "127.0.0.1:0").unwrap();
    let key = pair.key();
    let value = Value::from(vec![7; 100_000]);
    pair.groups[0].set(&key, value.clone()).unwrap();
    let recorded = pair.last_call();
    let fresh = pair.kept_back(|group| drop(group.set(&key, value)));
    let length = fresh.body.len();
    let answer = |call: &Call, length| answer_to_head(server.local_addr(), call, length);
    let (go_on, refused) = ("HTTP/1.1 100 Continue\r\n", "HTTP/1.1 401 Unauthorized\r\n");
    assert_eq!(answer(&fresh, length), go_on, "a peer may send it");
    assert_eq!(answer(&fresh, length), go_on, "it is not taken yet");
    assert_eq!(
        answer(&fresh, length + 1),
        refused,
        "a body of another length"
    );
    assert_eq!(answer(&recorded, recorded.body.len()), refused, "once more");
    for auth in [&fresh.auth.replace(";n=", ";n=1"), "v=2"] {
        let mut stranger = fresh.clone();
        auth.clone_into(&mut stranger.auth);
        assert_eq!(answer(&stranger, length), refused);
        stranger.target = "/elsewhere".to_owned();
        assert_eq!(
            answer(&stranger, length),
            refused,
            "nor for what is not here"
        );
    }
    // Another body of the same length.
    let mut other = fresh.clone();
    *other.body.last_mut().unwrap() ^= 1;
    assert_eq!(ask(&pair.nodes[1], &other).status(), 401);
    assert_eq!(ask(&pair.nodes[1], &fresh).status(), 200);
}
