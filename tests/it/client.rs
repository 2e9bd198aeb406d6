//! The client of the HTTP transport: how long a peer may take, and what becomes of connections.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use groupcache_sync::{CircuitState, Clock, Error, Group, Node, NodeBuilder, Peer, Server, Value};

use crate::cluster::ends;

const SECOND: Duration = Duration::from_secs(1);

/// Only a hang lets a test fail by it.
const LONG: Duration = Duration::from_secs(60);

/// A piece that counts as progress.
const PIECE: usize = 64 << 10;

/// How fast a [`Slow`] way lets bytes through.
#[derive(Clone, Copy)]
struct Pace {
    bytes: usize,
    pause: Duration,
}

/// Slower than all of it may take at once, and much faster than silence.
const STEADY: Pace = Pace {
    bytes: PIECE,
    pause: Duration::from_millis(40),
};

const TRICKLE: Pace = Pace {
    bytes: 1,
    pause: Duration::from_millis(20),
};

/// A node that fetches from another one, which is reached by a slow way.
struct Fixture {
    asker: Node,
    group: Group,
    owned: Group,
    key: String,
    way: SocketAddr,
    _server: Server,
}

/// What an asker has whose owner is of no use.
fn loaded_here() -> Value {
    Value::from("loaded here")
}

fn length_in(head: &str) -> usize {
    let lines = head.lines().map(str::to_ascii_lowercase);
    let mut lengths = lines.filter_map(|line| {
        let digits = line.strip_prefix("content-length:")?.trim().to_owned();
        digits.parse().ok()
    });
    lengths.next().unwrap_or(0)
}

/// The head of a message, and how long its body is.
fn read_head(from: &mut impl BufRead) -> io::Result<(String, usize)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    let length = length_in(&head);
    Ok((head, length))
}

/// Hands on so many bytes.
fn carry(mut from: impl Read, mut to: impl Write, length: usize, pace: Pace) -> io::Result<()> {
    let mut piece = vec![0; pace.bytes];
    let mut left = length;
    while left > 0 {
        let size = left.min(pace.bytes);
        from.read_exact(&mut piece[..size])?;
        to.write_all(&piece[..size])?;
        left -= size;
        if length > PIECE {
            thread::sleep(pace.pause);
        }
    }
    Ok(())
}

/// Hands requests on to `server`, and its answers back, until one side closes.
fn hand_on(client: &TcpStream, server: SocketAddr, pace: Pace) -> io::Result<()> {
    let server = TcpStream::connect(server)?;
    let (mut asks, mut answers) = (BufReader::new(client), BufReader::new(&server));
    loop {
        for (from, mut to) in [
            (&mut asks as &mut dyn BufRead, &server),
            (&mut answers, client),
        ] {
            let (head, length) = read_head(&mut &mut *from)?;
            to.write_all(head.as_bytes())?;
            carry(from, to, length, pace)?;
        }
    }
}

/// A slow way to where a server will be, which is told to it later.
fn slow_way(pace: Pace) -> (SocketAddr, impl FnOnce(SocketAddr)) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let way = listener.local_addr().unwrap();
    let open = move |server: SocketAddr| {
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // One that gives up closes it.
                thread::spawn(move || drop(hand_on(&client, server, pace)));
            }
        });
    };
    (way, open)
}

fn address(socket: SocketAddr) -> String {
    format!("http://{socket}")
}

/// A value of `length` bytes that its owner has, at the end of a slow way.
fn fixture(pace: Pace, length: usize, settings: impl Fn(NodeBuilder) -> NodeBuilder) -> Fixture {
    let (way, open) = slow_way(pace);
    let owner = Node::new(&address(way)).unwrap();
    let owned = owner.group_builder("things", 64 << 20);
    let owned = owned.build(move |_| Ok(Value::from(vec![7; length])));
    let server = Server::bind(&owner, "127.0.0.1:0").unwrap();
    open(server.local_addr());
    let asker = settings(Node::builder("http://asker:1").unwrap());
    let asker = asker.build().unwrap();
    let group = asker.group_builder("things", 64 << 20);
    let group = group.build(|_| Ok(loaded_here())).unwrap();
    for node in [&owner, &asker] {
        node.set_peers([address(way), "http://asker:1".into()])
            .unwrap();
    }
    let key = key_owned_by(&asker, way);
    Fixture {
        asker,
        group,
        owned: owned.unwrap(),
        key,
        way,
        _server: server,
    }
}

fn key_owned_by(node: &Node, way: SocketAddr) -> String {
    let is_owned = |key: &String| node.owner(key).address() == address(way);
    let mut keys = (0..).map(|number| format!("key {number}"));
    keys.find(is_owned).unwrap()
}

impl Fixture {
    fn circuit(&self) -> CircuitState {
        let peers = self.asker.stats().peers;
        let mut peers = peers.iter();
        let owner = peers.find(|peer| peer.address == address(self.way));
        owner.unwrap().circuit
    }
}

#[test]
fn a_large_value_that_comes_steadily_may_take_longer_than_silence() {
    // 32 pieces take 1.3 s at least.
    let fixture = fixture(STEADY, 32 * PIECE, |node| node.fetch_timeout(SECOND));
    let began = Instant::now();
    assert_eq!(fixture.group.get(&fixture.key).unwrap().len(), 32 * PIECE);
    assert!(began.elapsed() > SECOND, "the trap was set");
    assert_eq!(fixture.group.stats().fetch_errors, 0);
}

#[test]
fn a_large_value_that_is_sent_steadily_may_take_longer_than_silence() {
    let fixture = fixture(STEADY, 1, |node| node.fetch_timeout(SECOND));
    let value = Value::from(vec![9; 32 * PIECE]);
    let began = Instant::now();
    fixture.group.set(&fixture.key, value.clone()).unwrap();
    assert!(began.elapsed() > SECOND, "the trap was set");
    assert_eq!(fixture.owned.get(&fixture.key).unwrap(), value);
}

#[test]
fn an_answer_that_trickles_is_given_up_and_the_value_loaded_here() {
    let settings = |node: NodeBuilder| {
        node.fetch_timeout(SECOND / 4)
            .load_timeout(LONG)
            .circuit_failures(1)
    };
    let fixture = fixture(TRICKLE, 2 * PIECE, settings);
    let (group, key) = (fixture.group.clone(), fixture.key.clone());
    let got = ends("a byte now and then keeps it", move || group.get(&key));
    assert_eq!(got.unwrap(), loaded_here());
    assert_eq!(
        fixture.circuit(),
        CircuitState::Open,
        "it counts as silence"
    );
}

#[test]
fn the_deadline_of_a_caller_holds_also_while_an_answer_comes_steadily() {
    let settings = |node: NodeBuilder| node.fetch_timeout(SECOND / 2).circuit_failures(1);
    // 200 pieces take 8 s at least.
    let fixture = fixture(STEADY, 200 * PIECE, settings);
    let began = Instant::now();
    let got = fixture.group.get_timeout(&fixture.key, SECOND);
    assert!(matches!(got, Err(Error::Deadline)), "{got:?}");
    let took = began.elapsed();
    assert!(took >= SECOND && took < 6 * SECOND, "{took:?}");
    assert_eq!(fixture.circuit(), CircuitState::Closed, "it is not blamed");
}

#[test]
fn an_answer_that_never_gets_done_ends_by_the_load_timeout_and_opens_no_circuit() {
    let settings = |node: NodeBuilder| {
        node.fetch_timeout(SECOND / 2)
            .load_timeout(SECOND)
            .circuit_failures(1)
    };
    let fixture = fixture(STEADY, 200 * PIECE, settings);
    assert_eq!(fixture.group.get(&fixture.key).unwrap(), loaded_here());
    assert_eq!(fixture.circuit(), CircuitState::Closed, "it was not silent");
}

#[test]
fn idle_connections_are_closed_in_time_though_no_call_comes() {
    // Also those to one that has left the list, and is told of removals for some minutes.
    for leaves in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let way = listener.local_addr().unwrap();
        let clock = Clock::manual();
        let builder = Node::builder("http://asker:1").unwrap();
        let asker = builder.clock(clock.clone()).build().unwrap();
        let list = |peers: &[String]| {
            let peers = peers.iter().map(|peer| Peer::new(peer).unwrap());
            asker.set_peers(peers.collect::<Vec<_>>()).unwrap();
        };
        list(&["http://asker:1".into(), address(way)]);
        let group = asker.group_builder("things", 1 << 20);
        let group = group.build(|_| Ok(loaded_here())).unwrap();
        let key = key_owned_by(&asker, way);
        let asks = thread::spawn(move || group.get(&key));
        let (mut peer, _) = listener.accept().unwrap();
        peer.set_read_timeout(Some(LONG)).unwrap();
        let mut reader = BufReader::new(peer.try_clone().unwrap());
        let (_, length) = read_head(&mut reader).unwrap();
        io::copy(&mut reader.by_ref().take(length as u64), &mut io::sink()).unwrap();
        // Whole, so that the connection stays; and of no use, so that no more is asked.
        peer.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        assert_eq!(asks.join().unwrap().unwrap(), loaded_here());
        if leaves {
            list(&["http://asker:1".into()]);
        }
        clock.advance(Duration::from_secs(29));
        peer.set_nonblocking(true).unwrap();
        let error = reader.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock, "not before its time");
        peer.set_nonblocking(false).unwrap();
        clock.advance(SECOND);
        assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0, "leaves: {leaves}");
    }
}
