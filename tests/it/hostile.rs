//! Clients that mean no good, at the built-in listener.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use groupcache_sync::{
    Begin, Bytes, Clock, Codec, CodecError, HttpResponse, Node, Request, ServerBuilder, Value,
};
use socket2::{Domain, Socket, Type};

use crate::cluster::{Cluster, address, eventually};
use crate::server::{Client, GUARD, request, serve, serve_loads, slow_loader};

#[test]
fn too_much_is_refused_without_reading_it() {
    let service = serve(|settings| settings.fallback(|_| HttpResponse::new(200)));
    let long = "a".repeat(18_000);
    let many = "X: y\r\n".repeat(101);
    for (bytes, status) in [
        (
            request(
                "PUT",
                "/_groupcache/things/key",
                "Content-Length: 17000000\r\n",
            ),
            413,
        ),
        (
            request(
                "PUT",
                "/_groupcache/things/key",
                "Content-Length: 99999999999999999999\r\n",
            ),
            413,
        ),
        (request("PUT", "/other", "Content-Length: 1048577\r\n"), 413),
        (
            request("GET", &format!("/_groupcache/things/{long}"), ""),
            414,
        ),
        (request("GET", "/_groupcache/things/key", &many), 431),
        (
            request(
                "GET",
                "/_groupcache/things/key",
                &format!("X: {long}{long}\r\n"),
            ),
            431,
        ),
    ] {
        let mut client = service.connect();
        client.send(&bytes);
        let answer = client.answer();
        assert_eq!(answer.status, status, "{}", &bytes[..40]);
        assert_eq!(answer.header("connection"), Some("close"));
        client.assert_closed();
    }
    service.connect().assert_open();
}

/// Where everything is allowed, a length that no memory holds is waited for and no more.
#[test]
fn a_length_without_limit_is_cut_off_in_time() {
    let service = serve(|settings| {
        let settings = settings.fallback(|_| HttpResponse::new(200));
        settings
            .max_fallback_body(usize::MAX)
            .body_timeout(Duration::from_millis(200))
    });
    let mut client = service.connect();
    let headers = format!("Content-Length: {}\r\nExpect: 100-continue\r\n", u64::MAX);
    client.send(request("PUT", "/other", &headers));
    assert_eq!(client.head().status, 100);
    client.send("a part of it");
    client.assert_closed();
    service.connect().assert_open();
}

#[test]
fn a_refusal_is_seen_by_one_who_is_still_sending() {
    let service = serve(|settings| settings);
    for _ in 0..20 {
        let mut client = service.connect();
        client.send(request(
            "PUT",
            "/_groupcache/things/key",
            "Content-Length: 99000000\r\n",
        ));
        client.send(vec![0; 200_000]);
        assert_eq!(client.answer().status, 413);
        client.assert_closed();
    }
}

#[test]
fn malformed_requests_get_400_are_cut_off_and_change_nothing() {
    let service = serve(|settings| settings);
    service.things.get("kept").unwrap();
    let put = "PUT /_groupcache/things/kept HTTP/1.1\r\nHost: h\r\nX-Groupcache: v=1\r\n";
    let body = "\r\nabcde";
    let smuggled =
        "DELETE /_groupcache/things/kept HTTP/1.1\r\nHost: h\r\nX-Groupcache: v=1\r\n\r\n";
    let bad = [
        format!("{put}Transfer-Encoding: chunked\r\nContent-Length: 5{body}"),
        format!("{put}Content-Length: 5\r\nTransfer-Encoding: chunked{body}"),
        format!("{put}Transfer-Encoding: xyz{body}"),
        format!("{put}Transfer-Encoding: identity{body}"),
        format!("{put}Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n"),
        format!("{put}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"),
        format!("{put}Transfer-Encoding : chunked{body}"),
        format!("{put}Transfer-Encoding:\tchunked{body}"),
        format!("{put}Content-Length: 5\r\nContent-Length: 5{body}"),
        format!("{put}Content-Length: 5\r\nContent-Length: 6{body}"),
        format!("{put}Content-Length: +5{body}"),
        format!("{put}Content-Length: -5{body}"),
        format!("{put}Content-Length: 0x5{body}"),
        format!("{put}Content-Length: 5, 5{body}"),
        format!("{put}Content-Length:{body}"),
        format!("{put}Content-Length: 5 5{body}"),
        format!("{put}Content-Length: 5\rX: y{body}"),
        format!("{put}Content-Length : 0{body}"),
        format!("{put}X: a\r\n b{body}"),
        format!("{put} X: a{body}"),
        format!("{put}X: a\0b{body}"),
        format!("{put}X: a\x0bb{body}"),
        "DELETE /_groupcache/things/kept HTTP/1.1\nHost: h\n\n".to_owned(),
        "DELETE /_groupcache/things/kept HTTP/1.1\r\nX-Groupcache: v=1\r\nHost: h\n\r\n".to_owned(),
        "DELETE /_groupcache/things/kept HTTP/1.1\r\nX-Groupcache: v=1\r\n Host: h\r\n\r\n".to_owned(),
        "DELETE /_groupcache/things/kept HTTP/1.1\r\nX-Groupcache: v=1\r\n\r\n".to_owned(),
        "DELETE /_groupcache/things/kept HTTP/1.1\r\nHost: h\r\nX-Groupcache: v=1\r\nHost: h\r\n\r\n".to_owned(),
        "DELETE /_groupcache/things/kept\r\n\r\n".to_owned(),
        "DELETE /_groupcache/things/kept HTTP/0.9\r\nHost: h\r\n\r\n".to_owned(),
        "DELETE /_groupcache/things/kept HTTP/1.2\r\nHost: h\r\n\r\n".to_owned(),
        "DELETE /_groupcache/things/kept HTTP/1\r\nHost: h\r\n\r\n".to_owned(),
        "DELETE /_groupcache/things/kept HTTP/2.0\r\nHost: h\r\n\r\n".to_owned(),
        "DELETE /_groupcache/things/kept HTTP/3.0\r\nHost: h\r\n\r\n".to_owned(),
        "DELETE /_groupcache/things/kept x HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "DELETE http://h/_groupcache/things/kept HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "DELETE * HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(),
        "DELETE /_groupcache/things/kept\0 HTTP/1.1\r\nHost: h\r\nX-Groupcache: v=1\r\n\r\n".to_owned(),
        "\r\nDELETE /_groupcache/things/kept HTTP/1.1\r\nHost: h\r\nX-Groupcache: v=1\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
    ];
    for bytes in bad {
        let mut client = service.connect();
        client.send(bytes.clone() + smuggled);
        let answer = client.answer();
        assert_eq!(answer.status, 400, "{bytes:?}");
        assert_eq!(answer.header("connection"), Some("close"), "{bytes:?}");
        client.assert_closed();
        assert!(service.things.try_get("kept").is_some(), "{bytes:?}");
    }
    let stats = service.things.stats();
    assert_eq!((stats.served, stats.removes), (0, 0));
}

#[test]
fn a_head_is_cut_off_after_its_total_time() {
    let service = serve(|settings| settings.head_timeout(Duration::from_millis(200)));
    let mut client = service.connect();
    let start = Instant::now();
    let endless = request("GET", "/_groupcache/things/key", &"X: y\r\n".repeat(90));
    for byte in endless.bytes() {
        // No byte comes late, but all of them do.
        std::thread::sleep(Duration::from_millis(10));
        if client.0.get_mut().write_all(&[byte]).is_err() {
            break;
        }
    }
    client.assert_closed();
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn slow_clients_hold_no_worker() {
    let service = serve(|settings| settings.workers(1));
    let mut dripping: Vec<Client> = (0..200).map(|_| service.connect()).collect();
    for client in &mut dripping {
        client.send("GET /_groupcache/things/a HTT");
    }
    let mut bodies: Vec<Client> = (0..200).map(|_| service.connect()).collect();
    for client in &mut bodies {
        client.send(request(
            "PUT",
            "/_groupcache/things/a",
            "Content-Length: 100\r\n",
        ));
        client.send([0; 50]);
    }
    let mut other = service.connect();
    for _ in 0..10 {
        assert!(other.get("quick").has("value of quick"));
    }
    for client in &mut dripping {
        client.send("P/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(client.answer().status, 200);
    }
}

#[test]
fn a_body_is_cut_off_after_its_total_time() {
    let service = serve(|settings| settings.body_timeout(Duration::from_millis(200)));
    let mut client = service.connect();
    client.send(request(
        "PUT",
        "/_groupcache/things/a",
        "Content-Length: 100\r\n",
    ));
    client.send([0; 50]);
    client.assert_closed();
}

#[test]
fn bodies_of_all_connections_together_are_bounded() {
    let service = serve(|settings| settings.max_buffered(1 << 20));
    let mut clients: Vec<Client> = (0..8).map(|_| service.connect()).collect();
    for client in &mut clients {
        client.send(request(
            "PUT",
            "/_groupcache/things/a",
            "Content-Length: 600000\r\n",
        ));
        // One that is refused does not read on.
        let _ = client.0.get_mut().write_all(&[0; 500_000]);
    }
    let mut refused = 0;
    for client in &mut clients {
        client
            .0
            .get_ref()
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        if client.0.fill_buf().is_ok() {
            let answer = client.answer();
            assert_eq!(answer.status, 503);
            // A peer is not to take the node for unreachable.
            let header = answer.header("x-groupcache").unwrap();
            assert!(header.contains("s=overloaded"), "{header}");
            refused += 1;
        }
    }
    assert!((4..8).contains(&refused), "{refused} of 8");
    service.connect().assert_open();
    drop(clients);
    let mut client = service.connect();
    eventually("there is room again", || {
        let mut client = service.connect();
        client.send(request(
            "PUT",
            "/_groupcache/things/a",
            "Content-Length: 600000\r\n",
        ));
        client.send(vec![0; 600_000]);
        client.answer().status == 400 // room for it, but it is no message
    });
    client.assert_open();
}

#[test]
fn a_reader_that_does_not_read_is_cut_off() {
    let load = |_: &str| Value::from(vec![0; 12 << 20]);
    let settings = |settings: ServerBuilder| {
        settings
            .write_timeout(Duration::from_millis(200))
            .max_connections(1)
    };
    let service = serve_loads(settings, load);
    let mut client = service.connect();
    client.send(request("GET", "/_groupcache/things/large", ""));
    client.head();
    eventually("its place is free", || service.connect().is_served());
}

#[test]
fn at_the_limit_the_longest_idle_connection_makes_room() {
    let service = serve(|settings| settings.max_connections(3));
    let mut clients: Vec<Client> = (0..3).map(|_| service.connect()).collect();
    for client in &mut clients {
        client.assert_open();
    }
    eventually("one that is idle makes room", || {
        service.connect().is_served()
    });
}

/// A client at another address of this host.
pub(crate) fn connect_from(from: [u8; 4], to: SocketAddr) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(GUARD)).unwrap();
    Client(BufReader::new(stream))
}

#[test]
fn an_address_at_its_limit_replaces_its_own_connections() {
    let service = serve(|settings| settings.max_connections_per_address(3));
    let mut other = connect_from([127, 0, 0, 2], service.address);
    other.assert_open();
    let mut clients: Vec<Client> = (0..3).map(|_| service.connect()).collect();
    // The second one never asks, so it is idle for longest.
    for client in [0, 2] {
        clients[client].assert_open();
    }
    eventually("one that is idle makes room", || {
        service.connect().is_served()
    });
    clients[1].assert_closed();
    for client in [0, 2] {
        clients[client].assert_open();
    }
    other.assert_open();
}

#[test]
fn connections_that_are_served_make_no_room() {
    let (release, load) = slow_loader();
    let service = serve_loads(|settings| settings.max_connections_per_address(3), load);
    let mut clients: Vec<Client> = (0..3).map(|_| service.connect()).collect();
    for client in &mut clients {
        client.send(request("GET", "/_groupcache/things/slow", ""));
    }
    eventually("all wait for the load", || {
        service.things.stats().served == 3
    });
    assert!(!service.connect().is_served());
    release.send(()).unwrap();
    for client in &mut clients {
        assert!(client.answer().has("value of slow"));
    }
}

#[test]
fn heads_that_do_not_end_give_way() {
    let service = serve(|settings| settings.max_connections(64).max_connections_per_address(64));
    let mut dripping: Vec<Client> = (0..64).map(|_| service.connect()).collect();
    for client in &mut dripping {
        client.send("GET /_groupcache/things/a HTT");
    }
    for _ in 0..32 {
        eventually("one of them makes room", || service.connect().is_served());
    }
}

#[test]
fn answers_that_nobody_reads_are_bounded() {
    let load = |_: &str| Value::from(vec![0; 12 << 20]);
    let settings = |settings: ServerBuilder| settings.max_buffered(32 << 20).max_connections(3);
    let service = serve_loads(settings, load);
    let ask = |key: &str| {
        let mut client = service.connect();
        let target = format!("/_groupcache/things/{key}");
        client.send(request("GET", &target, ""));
        let length = client.head().header("content-length").unwrap().parse();
        (client, vec![0; length.unwrap()])
    };
    let mut readers: Vec<_> = ["a", "b", "c"].map(ask).into();
    eventually("one is cut off", || service.connect().is_served());
    let (mut slowest, mut body) = readers.remove(0);
    assert!(slowest.0.read_exact(&mut body).is_err());
    for (client, body) in &mut readers {
        client.0.read_exact(body).unwrap();
        client.assert_open();
    }
    drop((slowest, readers));
    // However many read it, a value is in memory once.
    let mut readers = ["a"; 3].map(ask);
    for (client, body) in &mut readers {
        client.0.read_exact(body).unwrap();
        client.assert_open();
    }
}

/// A codec that is held up by its values.
struct Gate(Mutex<mpsc::Receiver<()>>);

impl Codec<Value> for Gate {
    fn encode(&self, value: &Value) -> Result<Value, CodecError> {
        Bytes.encode(value)
    }

    fn decode(&self, bytes: Value) -> Result<Value, CodecError> {
        self.0.lock().unwrap().recv()?;
        Bytes.decode(bytes)
    }
}

fn put(group: &str, key: &str) -> Vec<u8> {
    let text = |tag: u8, text: &str| [&[tag, text.len() as u8], text.as_bytes()].concat();
    let body = [text(0x0a, group), text(0x12, key), text(0x1a, "new")].concat();
    let length = format!("Content-Length: {}\r\n", body.len());
    let head = request("PUT", &format!("/_groupcache/{group}/{key}"), &length);
    [head.as_bytes(), &body].concat()
}

#[test]
fn a_put_that_was_given_up_is_not_carried_out() {
    let service = serve(|settings| settings.workers(1));
    let (open, gate) = mpsc::channel();
    let gated = service.node.group_builder("gated", 1 << 20);
    let gated = gated.codec(Gate(Mutex::new(gate)));
    let gated = gated.build(|_| Ok(Value::default())).unwrap();
    let mut first = service.connect();
    first.send(put("gated", "key"));
    // The only worker is busy, so these are read later.
    let mut gives_up = service.connect();
    gives_up.send(put("things", "given-up"));
    drop(gives_up);
    let mut stays = service.connect();
    stays.send(put("things", "wanted"));
    open.send(()).unwrap();
    assert_eq!(first.answer().status, 200);
    assert!(gated.try_get("key").is_some());
    assert_eq!(stays.answer().status, 200);
    assert!(service.things.try_get("wanted").is_some());
    assert!(service.things.try_get("given-up").is_none());
}

/// A value that counts those of its kind.
#[derive(Clone)]
struct Heavy {
    _alive: Arc<Alive>,
}

struct Alive(Arc<AtomicUsize>);

impl Heavy {
    fn new(alive: &Arc<AtomicUsize>) -> Heavy {
        alive.fetch_add(1, Ordering::SeqCst);
        Heavy {
            _alive: Arc::new(Alive(Arc::clone(alive))),
        }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Codec<Heavy> for Alive {
    fn encode(&self, _: &Heavy) -> Result<Value, CodecError> {
        Ok(Value::from("heavy"))
    }

    fn decode(&self, _: Value) -> Result<Heavy, CodecError> {
        Ok(Heavy::new(&self.0))
    }
}

#[test]
fn a_batch_that_waits_holds_no_more_than_its_answer_may_have() {
    const QUICK: usize = 40;
    let node = Node::new("http://127.0.0.1:1").unwrap();
    let (release, released) = mpsc::channel::<()>();
    let (released, alive) = (Mutex::new(released), Arc::<AtomicUsize>::default());
    let counted = Arc::clone(&alive);
    // Room for one of them.
    let group = node.group_builder("heavy", 2 << 20).shards(1);
    let group = group.codec(Alive(Arc::clone(&alive)));
    let group = group.weigher(|_| 1 << 20).build(move |key| {
        if key == "slow" {
            let _ = released.lock().unwrap().recv();
        }
        Ok(Heavy::new(&counted))
    });
    let group = group.unwrap();
    let names = (0..QUICK).map(|number| number.to_string());
    let names = std::iter::once("slow".to_owned()).chain(names);
    let body: Vec<u8> = names
        .flat_map(|name| [&[0x1a, name.len() as u8], name.as_bytes()].concat())
        .collect();
    let request = Request::new("POST", "/_groupcache/heavy").body(&body);
    let request = request.header("X-Groupcache", "v=1;w=60000");
    let Begin::Pending(pending) = node.begin(&request) else {
        panic!("it is answered before its values are here");
    };
    eventually("all the others are loaded", || group.stats().flights == 1);
    // The batch holds 4 MiB, the cache one or two.
    assert!(alive.load(Ordering::SeqCst) <= 6, "{alive:?}");
    release.send(()).unwrap();
    let response = pending.wait();
    assert_eq!(response.status(), 200);
    assert_eq!(group.stats().loads, QUICK as u64 + 1);
}

#[test]
fn large_values_of_a_cold_batch_come_in_several_answers() {
    let load = |key: &str| Ok(Value::from(key.repeat((1 << 20) / key.len())));
    let cluster = Cluster::with(2, Clock::system(), |node| node, |group| group, load);
    let keys: Vec<String> = (0..200).map(|number| format!("key {number}")).collect();
    let theirs = |key: &&String| cluster.nodes[0].owner(key).address() == address(1);
    let theirs: Vec<&String> = keys.iter().filter(theirs).take(16).collect();
    for (key, value) in theirs.iter().zip(cluster.groups[0].get_many(&theirs)) {
        assert!(value.unwrap().starts_with(key.as_bytes()));
        assert_eq!(cluster.loads.of(key), 1);
    }
}
