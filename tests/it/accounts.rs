//! What clients may take of a listener together: memory, places, and the time of its threads.

use std::io::{BufRead, ErrorKind, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use groupcache_sync::{
    Bytes, Clock, Codec, CodecError, Group, HttpResponse, Node, Server, ServerBuilder, Value,
};

use crate::cluster::eventually;
use crate::hostile::connect_from;
use crate::server::{Client, GUARD, request, serve, serve_loads, slow_loader};

/// Asks for these keys at once, with an hour's patience.
fn ask_for<K: AsRef<str>>(keys: impl IntoIterator<Item = K>, group: &str) -> Vec<u8> {
    ask_within(Duration::from_secs(3_600), keys, group)
}

fn ask_within<K: AsRef<str>>(
    patience: Duration,
    keys: impl IntoIterator<Item = K>,
    group: &str,
) -> Vec<u8> {
    let mut body = Vec::new();
    for key in keys {
        let key = key.as_ref();
        body.extend([0x1a, u8::try_from(key.len()).unwrap()]);
        body.extend(key.as_bytes());
    }
    let headers = format!(
        "X-Groupcache: v=1;w={}\r\nContent-Length: {}\r\n",
        patience.as_millis(),
        body.len()
    );
    let head = request("POST", &format!("/_groupcache/{group}"), &headers);
    [head.as_bytes(), &body].concat()
}

/// A value that counts those of its kind, and weighs 4 MiB.
#[derive(Clone)]
struct Heavy {
    _alive: Arc<Alive>,
}

struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

struct OfHeavy;

impl Codec<Heavy> for OfHeavy {
    fn encode(&self, _: &Heavy) -> Result<Value, CodecError> {
        Ok(Value::from("heavy"))
    }

    fn decode(&self, _: Value) -> Result<Heavy, CodecError> {
        Err("it is never sent here".into())
    }
}

#[test]
fn values_that_wait_for_the_rest_of_batches_share_one_bound() {
    let node = Node::new("http://127.0.0.1:1").unwrap();
    let server = Server::builder(&node).max_buffered(16 << 20);
    let server = server.bind("127.0.0.1:0").unwrap();
    let (release, released) = mpsc::channel::<()>();
    let (released, alive) = (Mutex::new(released), Arc::<AtomicUsize>::default());
    let counted = Arc::clone(&alive);
    // Nothing is cached of so small a group.
    let group = node.group_builder("heavy", 1 << 20).codec(OfHeavy);
    let group = group.weigher(|_| 4 << 20).build(move |key| {
        if key == "slow" {
            let _ = released.lock().unwrap().recv();
        }
        counted.fetch_add(1, Ordering::SeqCst);
        let _alive = Arc::new(Alive(Arc::clone(&counted)));
        Ok(Heavy { _alive })
    });
    let group = group.unwrap();
    // As often as they like: what they take they give back.
    for round in 0..3_u64 {
        let mut clients: Vec<Client> = (0..8)
            .map(|number| {
                let mut client = Client::connect(server.local_addr());
                client.send(ask_for(["slow", &format!("{round}-{number}")], "heavy"));
                client
            })
            .collect();
        let loads = 9 * round + 8;
        eventually("all but the slow one are loaded", || {
            let stats = group.stats();
            stats.loads == loads + 1 && stats.flights == 1
        });
        eventually("they hold three of 4 MiB in 14, and no more", || {
            alive.load(Ordering::SeqCst) == 3
        });
        release.send(()).unwrap();
        for client in &mut clients {
            assert_eq!(client.answer().status, 200);
        }
    }
}

#[test]
fn the_keys_of_batches_that_wait_share_one_bound() {
    let (release, load) = slow_loader();
    let service = serve_loads(|settings| settings.max_buffered(4 << 20), load);
    let mut clients: Vec<Client> = (0..64).map(|_| service.connect()).collect();
    for client in &mut clients {
        client.send(ask_for(["slow"; 1_024], "things"));
    }
    eventually("it is being loaded", || service.things.stats().flights == 1);
    let mut refused = 0;
    for client in &mut clients {
        let stream = client.0.get_ref();
        stream
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        if client.0.fill_buf().is_ok() {
            let answer = client.answer();
            assert!(answer.status == 503 || answer.has("overloaded"));
            refused += 1;
        }
    }
    assert!((32..60).contains(&refused), "{refused} of 64");
    // Nobody else is refused for those that wait.
    service.connect().assert_open();
    release.send(()).unwrap();
    drop(clients);
    eventually("there is room again", || {
        let mut client = service.connect();
        client.send(ask_for(["quick"; 1_024], "things"));
        client.answer().status == 200
    });
}

#[test]
fn bodies_that_do_not_come_give_way() {
    let service = serve(|settings| {
        let settings = settings.max_connections(64).body_timeout(10 * GUARD);
        settings.max_connections_per_address(64)
    });
    let mut waiting: Vec<Client> = (0..64).map(|_| service.connect()).collect();
    for client in &mut waiting {
        let headers = "Content-Length: 100\r\nExpect: 100-continue\r\n";
        client.send(request("PUT", "/_groupcache/things/a", headers));
        assert_eq!(client.head().status, 100);
    }
    for _ in 0..32 {
        eventually("one of them makes room", || service.connect().is_served());
    }
}

#[test]
fn heads_that_do_not_end_share_one_bound_and_make_room_for_others() {
    let service = serve(|settings| settings.max_buffered(1 << 20).head_timeout(10 * GUARD));
    let start = request("GET", "/_groupcache/things/a", &"X: y\r\n".repeat(90));
    let start = format!("{}X: {}", start.trim_end(), "y".repeat(7_000));
    let mut clients: Vec<Client> = (0..200).map(|_| service.connect()).collect();
    for client in &mut clients {
        let _ = client.0.get_mut().write_all(start.as_bytes());
        client.0.get_ref().set_nonblocking(true).unwrap();
    }
    eventually("no more of them are kept than there is room for", || {
        let is_kept = |client: &&Client| {
            let seen = client.0.get_ref().peek(&mut [0]);
            seen.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
        };
        clients.iter().filter(is_kept).count() <= (1 << 20) / 7_000
    });
    for _ in 0..200 {
        service.connect().assert_open();
    }
}

#[test]
fn nobody_is_waited_for_longer_than_a_load_may_take() {
    let node = Node::builder("http://127.0.0.1:1").unwrap();
    let node = node.load_timeout(Duration::from_millis(200));
    let node = node.build().unwrap();
    let (_release, load) = slow_loader();
    let group = node.group_builder("things", 1 << 20);
    let _group: Group = group.build(move |key| Ok(load(key))).unwrap();
    let server = Server::bind(&node, "127.0.0.1:0").unwrap();
    let mut client = Client::connect(server.local_addr());
    let asked = Instant::now();
    let headers = "X-Groupcache: v=1;w=3600000\r\n";
    client.send(request("GET", "/_groupcache/things/slow", headers));
    assert_eq!(client.answer().status, 202);
    assert!(asked.elapsed() >= Duration::from_millis(200));
}

/// Tells which threads encode.
struct Telling(mpsc::Sender<String>);

impl Codec<String> for Telling {
    fn encode(&self, value: &String) -> Result<Value, CodecError> {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let _ = self.0.send(name);
        Bytes.encode(&Value::from(value.as_str()))
    }

    fn decode(&self, _: Value) -> Result<String, CodecError> {
        Err("it is never sent here".into())
    }
}

#[test]
fn what_is_given_up_is_answered_by_a_worker() {
    let node = Node::new("http://127.0.0.1:1").unwrap();
    let (_release, load) = slow_loader();
    let (tell, told) = mpsc::channel();
    let group = node.group_builder("told", 1 << 20).codec(Telling(tell));
    let _group = group
        .weigher(|_| 1)
        .build(move |key| Ok(load(key).as_str().map(str::to_owned)?))
        .unwrap();
    let server = Server::bind(&node, "127.0.0.1:0").unwrap();
    let mut client = Client::connect(server.local_addr());
    let patience = Duration::from_millis(200);
    client.send(ask_within(patience, ["quick", "slow"], "told"));
    assert!(client.answer().has("value of quick"));
    assert_eq!(told.recv().unwrap(), "groupcache-peer");
}

/// What the application answers, unless the connection is refused.
fn ask_for_anything(client: &mut Client) -> Option<u16> {
    let ask = request("GET", "/of-the-application", "");
    client.0.get_mut().write_all(ask.as_bytes()).ok()?;
    let is_answered = client.0.fill_buf().is_ok_and(|bytes| !bytes.is_empty());
    is_answered.then(|| client.answer().status)
}

#[test]
fn neither_peers_nor_the_application_take_all_places() {
    let (release, gate) = mpsc::channel::<()>();
    let (gate, inside) = (Mutex::new(gate), Arc::<AtomicUsize>::default());
    let entered = Arc::clone(&inside);
    let settings = |settings: ServerBuilder| {
        settings.max_connections(8).fallback(move |_| {
            entered.fetch_add(1, Ordering::SeqCst);
            let _ = gate.lock().unwrap().recv();
            HttpResponse::new(200)
        })
    };
    let service = serve(settings);
    let mut clients: Vec<Client> = (0..6).map(|_| service.connect()).collect();
    for client in &mut clients {
        client.send(request("GET", "/of-the-application", ""));
    }
    eventually("they are inside", || inside.load(Ordering::SeqCst) == 6);
    for _ in 0..8 {
        eventually("more of them are told that there is no place", || {
            ask_for_anything(&mut service.connect()) == Some(503)
        });
    }
    eventually("a peer finds a place", || service.connect().is_served());
    drop(release);
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
}

#[test]
fn where_one_kind_has_all_its_places_an_idle_one_of_it_makes_room() {
    let settings = |settings: ServerBuilder| {
        let settings = settings.max_connections(8);
        settings.fallback(|_| HttpResponse::new(200))
    };
    let service = serve(settings);
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..6 {
        let mut client = service.connect();
        assert_eq!(ask_for_anything(&mut client), Some(200));
        clients.push(client);
    }
    eventually("one that is idle makes room", || {
        ask_for_anything(&mut service.connect()) == Some(200)
    });
}

/// What comes of loads in their order, while one that begins with `first` holds the only thread.
struct InOrder {
    node: Node,
    things: Group,
    order: Arc<Mutex<Vec<String>>>,
    release: mpsc::Sender<()>,
}

impl InOrder {
    fn new() -> InOrder {
        let node = Node::builder("http://127.0.0.1:1").unwrap();
        let node = node.loader_threads(1).build().unwrap();
        let (release, released) = mpsc::channel();
        let released = Mutex::new(released);
        let order: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = Arc::clone(&order);
        let things = node.group_builder("things", 1 << 20).build(move |key| {
            noted.lock().unwrap().push(key.to_owned());
            if key == "first" {
                let _ = released.lock().unwrap().recv();
            }
            Ok(Value::from(key))
        });
        InOrder {
            node,
            things: things.unwrap(),
            order,
            release,
        }
    }

    fn has_queued(&self, flights: u64) {
        eventually("all are queued", || self.things.stats().flights == flights);
    }

    fn place_of(&self, key: &str) -> usize {
        let order = self.order.lock().unwrap();
        order.iter().position(|other| other == key).unwrap()
    }
}

/// One client asks for many values that are stale: they are renewed in its turns, and not in those of
/// the application.
#[test]
fn renewals_for_a_peer_do_not_delay_the_loads_of_the_application() {
    const STALE: usize = 200;
    let node = Node::builder("http://127.0.0.1:1").unwrap();
    let clock = Clock::manual();
    let node = node.loader_threads(1).clock(clock.clone()).build().unwrap();
    let (release, released) = mpsc::channel();
    let released = Mutex::new(released);
    let renewed: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&renewed);
    let things = node.group_builder("things", 1 << 20);
    let things = things.ttl(Duration::from_secs(10));
    let things = things.stale_while_revalidate(Duration::from_secs(1_000));
    let things: Group = things
        .build(move |key| {
            if key == "first" {
                let _ = released.lock().unwrap().recv();
            }
            noted.lock().unwrap().push(key.to_owned());
            Ok(Value::from(key))
        })
        .unwrap();
    let keys: Vec<String> = (0..STALE).map(|key| key.to_string()).collect();
    for key in &keys {
        things.get(key).unwrap();
    }
    clock.advance(Duration::from_secs(20));
    renewed.lock().unwrap().clear();
    let server = Server::bind(&node, "127.0.0.1:0").unwrap();
    let has = |flights: u64| eventually("all are queued", || things.stats().flights == flights);
    let mut greedy = connect_from([127, 0, 0, 2], server.local_addr());
    let mut held = connect_from([127, 0, 0, 2], server.local_addr());
    held.send(ask_for(["first"], "things"));
    has(1);
    greedy.send(ask_for(&keys, "things"));
    assert_eq!(greedy.answer().status, 200);
    has(STALE as u64 + 1);
    std::thread::scope(|scope| {
        let own = scope.spawn(|| things.get_timeout("own", Duration::from_secs(1_000)));
        has(STALE as u64 + 2);
        release.send(()).unwrap();
        assert_eq!(own.join().unwrap().unwrap(), Value::from("own"));
    });
    assert_eq!(held.answer().status, 200);
    has(0);
    let renewed = renewed.lock().unwrap();
    let place = renewed.iter().position(|key| key == "own").unwrap();
    assert!(place <= 8, "after {place} renewals");
}

/// One peer has many batches queued; another one, and the application, ask for what is in none and in
/// the last of them.
#[test]
fn the_batches_of_one_peer_do_not_delay_the_loads_of_others() {
    let loads = InOrder::new();
    let server = Server::bind(&loads.node, "127.0.0.1:0").unwrap();
    let mut greedy: Vec<Client> = Vec::new();
    for batch in 0..40_u64 {
        let mut client = connect_from([127, 0, 0, 2], server.local_addr());
        let mut keys: Vec<String> = (0..10).map(|key| format!("{batch}-{key}")).collect();
        if batch == 0 {
            keys[0] = "first".to_owned();
        }
        client.send(ask_for(keys, "things"));
        greedy.push(client);
        loads.has_queued(10 * batch + 10);
    }
    let mut peer = connect_from([127, 0, 0, 3], server.local_addr());
    peer.send(ask_for(["39-9", "peer"], "things"));
    loads.has_queued(401);
    std::thread::scope(|scope| {
        let things = &loads.things;
        let own = scope.spawn(|| things.get_timeout("own", Duration::from_secs(60)));
        loads.has_queued(402);
        loads.release.send(()).unwrap();
        assert_eq!(own.join().unwrap().unwrap(), Value::from("own"));
    });
    assert!(peer.answer().has("39-9"));
    for client in &mut greedy {
        assert_eq!(client.answer().status, 200);
    }
    for key in ["own", "peer", "39-9"] {
        assert!(loads.place_of(key) <= 8, "{:?}", loads.order);
    }
}
