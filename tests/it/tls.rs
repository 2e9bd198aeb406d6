//! TLS between nodes, over real sockets.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use groupcache_sync::{
    Deadline, Error, Group, HttpResponse, Keyring, Network, Node, NodeBuilder, Peer, Server,
    ServerBuilder, Source, Tls, Value,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::certificates::{Authority, Files, Identity, NOW, Years};

/// Only a hang lets it pass.
const GUARD: Duration = Duration::from_secs(60);

fn tls(identity: &Identity, trusted: &Authority) -> Tls {
    let (certificate, key) = (&identity.certificate, &identity.key);
    let authority = trusted.pem();
    Tls::from_pem(certificate.as_bytes(), key.as_bytes(), authority.as_bytes()).unwrap()
}

/// A node that is served, and a group whose loader counts.
struct Service {
    node: Node,
    things: Group,
    loads: Arc<AtomicUsize>,
    server: Server,
}

/// What a loader makes of a key: a whole number is so many bytes.
fn value_of(key: &str) -> Value {
    match key.rsplit(' ').next().map(str::parse) {
        Some(Ok(length)) if key.starts_with("large") => Value::from(
            (0..length)
                .map(|at: usize| (at % 251) as u8)
                .collect::<Vec<_>>(),
        ),
        _ => Value::from(format!("value of {key}")),
    }
}

struct Setup {
    scheme: &'static str,
    tls: Option<Tls>,
    node: fn(NodeBuilder) -> NodeBuilder,
    server: fn(ServerBuilder) -> ServerBuilder,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            scheme: "https",
            tls: None,
            // Only a hang is a peer that is unreachable.
            node: |node| node.connect_timeout(GUARD).fetch_timeout(GUARD),
            server: |server| server,
        }
    }
}

impl Setup {
    fn with(tls: Tls) -> Setup {
        Setup {
            tls: Some(tls),
            ..Setup::default()
        }
    }

    fn plain() -> Setup {
        Setup {
            scheme: "http",
            ..Setup::default()
        }
    }

    fn serve(self) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("{}://{}", self.scheme, listener.local_addr().unwrap());
        let mut builder = (self.node)(Node::builder(&address).unwrap());
        if let Some(tls) = self.tls {
            builder = builder.tls(tls);
        }
        let node = builder.build().unwrap();
        let loads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&loads);
        let things = node.group_builder("things", 256 << 20).hot_bytes(0);
        let things = things.build(move |key| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(value_of(key))
        });
        let server = (self.server)(Server::builder(&node));
        Service {
            server: server.from_listener(listener).unwrap(),
            things: things.unwrap(),
            node,
            loads,
        }
    }
}

impl Service {
    fn address(&self) -> String {
        self.node.this().address()
    }

    fn socket(&self) -> SocketAddr {
        self.server.local_addr()
    }

    fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }

    /// Has this node know `other` by this address.
    fn knows(&self, address: &str) {
        self.node.set_peers([&*self.address(), address]).unwrap();
    }

    /// The key of this number and kind that the peer owns, as this node sees it.
    fn key_of_peer(&self, prefix: &str, suffix: &str, number: usize) -> String {
        let keys = (0..).map(|at: usize| format!("{prefix}{at}{suffix}"));
        let mut owned = keys.filter(|key| self.node.owner(key) != *self.node.this());
        owned.nth(number).unwrap()
    }

    fn fetch(&self, key: &str) -> Source {
        let got = self.things.get_entry(key, Deadline::NEVER).unwrap();
        assert_eq!(got.value, value_of(key), "{key}");
        got.source
    }

    /// Whether the peer is reached.
    fn reaches_peer(&self) -> bool {
        let key = self.key_of_peer("key ", "", 0);
        self.things.remove(&key).is_ok() && self.fetch(&key) == Source::Peer
    }

    /// A get of what the peer owns is loaded here; says why.
    fn falls_back(&self) -> String {
        let key = self.key_of_peer("key ", "", 0);
        let before = self.loads();
        assert_eq!(self.fetch(&key), Source::Load);
        assert_eq!(self.loads(), before + 1);
        match self.things.remove(&key) {
            Err(Error::Unreached { peers }) => peers[0].reason.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn fetch_errors(&self) -> u64 {
        self.things.stats().fetch_errors
    }
}

/// Two nodes with certificates of one authority, which require those of each other and know each
/// other.
fn pair() -> (Authority, [Service; 2]) {
    let authority = Authority::new();
    let services = [(); 2].map(|()| {
        let tls = tls(&authority.identity(), &authority).require_client_certificates();
        Setup::with(tls).serve()
    });
    let [one, other] = &services;
    one.knows(&other.address());
    other.knows(&one.address());
    (authority, services)
}

/// A client that is no node.
type Client = StreamOwned<ClientConnection, TcpStream>;

fn client(address: SocketAddr, trusted: &Authority, identity: Option<&Identity>) -> Client {
    let mut roots = RootCertStore::empty();
    let pem = trusted.pem();
    roots
        .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let chain = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
            config.with_client_auth_cert(vec![chain], key).unwrap()
        }
    };
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let session = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(session, connect(address))
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(GUARD)).unwrap();
    stream.set_write_timeout(Some(GUARD)).unwrap();
    stream
}

/// Asks for `path`, and for the end of the connection; gives all that comes until then.
fn ask(client: &mut Client, path: &str) -> std::io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    client.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn nodes_get_set_and_remove_through_tls() {
    let (_, [one, other]) = pair();
    let key = one.key_of_peer("key ", "", 0);
    assert_eq!(one.fetch(&key), Source::Peer);
    assert_eq!((one.loads(), other.loads()), (0, 1));
    one.things.remove(&key).unwrap();
    assert_eq!(one.fetch(&key), Source::Peer);
    assert_eq!(other.loads(), 2);
    one.things.set(&key, Value::from("set")).unwrap();
    assert_eq!(other.things.get(&key).unwrap(), Value::from("set"));
    assert_eq!(other.loads(), 2);

    let keys: Vec<String> = (1..200).map(|n| one.key_of_peer("key ", "", n)).collect();
    for (key, value) in keys.iter().zip(one.things.get_many(&keys)) {
        assert_eq!(value.unwrap(), value_of(key));
    }
    assert_eq!((one.loads(), other.loads()), (0, 201));
    assert_eq!(one.fetch_errors() + other.fetch_errors(), 0);
}

#[test]
fn signed_requests_go_through_tls_as_others_do() {
    let authority = Authority::new();
    let services = [(); 2].map(|()| {
        let setup = Setup {
            node: |node| {
                let keyring = Keyring::new("a secret of thirty-two bytes 123").unwrap();
                let node = node.connect_timeout(GUARD).fetch_timeout(GUARD);
                node.keyring(keyring)
            },
            ..Setup::with(tls(&authority.identity(), &authority))
        };
        setup.serve()
    });
    let [one, other] = &services;
    one.knows(&other.address());
    other.knows(&one.address());
    assert!(one.reaches_peer() && other.reaches_peer());
    let mut stranger = client(one.socket(), &authority, None);
    let answer = ask(&mut stranger, "/_groupcache/things/key").unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}

/// Idle connections of strangers have all the memory that strangers may have: who comes next is let in
/// all the same, as each of them can give way.
#[test]
fn idle_strangers_shut_nobody_out_of_a_port_with_tls() {
    const IDLE: usize = 64;
    let authority = Authority::new();
    let setup = Setup {
        node: |node| node.keyring(Keyring::new("a secret of thirty-two bytes 123").unwrap()),
        server: |server| server.max_buffered(1 << 20),
        ..Setup::with(tls(&authority.identity(), &authority))
    };
    let service = setup.serve();
    let connect = |_| TcpStream::connect(service.socket()).unwrap();
    let _idle: Vec<TcpStream> = (0..IDLE).map(connect).collect();
    let mut last = client(service.socket(), &authority, None);
    let answer = ask(&mut last, "/_groupcache/things/key").unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}

#[test]
fn large_values_travel_both_ways() {
    let (_, [one, other]) = pair();
    for length in [1 << 14, (1 << 16) + 1, 5_000_000, 16 << 20] {
        let suffix = format!(" {length}");
        let key = one.key_of_peer("large ", &suffix, 0);
        assert_eq!(one.fetch(&key), Source::Peer, "{length}");
        let key = one.key_of_peer("large ", &suffix, 1);
        let value = value_of(&key);
        assert_eq!(value.len(), length);
        one.things.set(&key, value.clone()).unwrap();
        assert_eq!(other.things.get(&key).unwrap(), value, "{length}");
    }
    assert_eq!((one.loads(), other.loads()), (0, 4));
    assert_eq!(one.fetch_errors() + other.fetch_errors(), 0);
}

#[test]
fn many_threads_share_connections() {
    let (_, [one, other]) = pair();
    let keys: Vec<String> = (0..64).map(|n| one.key_of_peer("key ", "", n)).collect();
    crate::cluster::together(16, |thread| {
        for round in 0..50 {
            let key = &keys[(7 * thread + round) % keys.len()];
            assert_eq!(one.things.get(key).unwrap(), value_of(key));
        }
    });
    assert_eq!((one.loads(), other.loads()), (0, 64));
    assert_eq!(one.fetch_errors(), 0);
}

/// A node asks a server of this certificate.
fn ask_server_with(signer: &Authority, trusted: &Authority, host: &str, years: Years) -> String {
    let server = tls(&signer.identity_of(host, years), signer);
    let (server, asker) = (
        Setup::with(server).serve(),
        Setup::with(tls(&trusted.identity(), trusted)).serve(),
    );
    asker.knows(&server.address());
    let reason = asker.falls_back();
    assert_eq!(server.loads(), 0, "{reason}");

    // It is nobody else's trouble: neither of others who ask…
    let mut client = client(asker.socket(), trusted, None);
    let answer = ask(&mut client, "/_groupcache/things/key").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // … nor of other peers.
    let good = Setup::with(tls(&trusted.identity(), trusted)).serve();
    asker.knows(&good.address());
    assert!(asker.reaches_peer());
    reason
}

#[test]
fn a_server_that_proves_nothing_is_not_asked() {
    let [ours, foreign] = [(); 2].map(|()| Authority::new());
    let here = "127.0.0.1";
    for (signer, host, years, expected) in [
        (&foreign, here, NOW, "UnknownIssuer"),
        (&ours, here, (2001, 2002), "expired"),
        (&ours, here, (2098, 2099), "not valid yet"),
        (&ours, "127.0.0.2", NOW, "not valid for name"),
        (&ours, "localhost", NOW, "not valid for name"),
    ] {
        let reason = ask_server_with(signer, &ours, host, years);
        assert!(reason.contains(expected), "{reason}");
    }
}

#[test]
fn a_name_is_proved_as_an_address_is() {
    let authority = Authority::new();
    let identity = authority.identity_of("localhost", NOW);
    let [one, other] = [(); 2].map(|()| Setup::with(tls(&identity, &authority)).serve());
    // Another address of the same peer.
    let named = Peer::new(&format!("https://localhost:{}", other.socket().port())).unwrap();
    let peers = [one.node.this().clone(), named.with_name(other.address())];
    one.node.set_peers(peers).unwrap();
    let key = one.key_of_peer("key ", "", 0);
    assert_eq!(one.fetch(&key), Source::Peer);
}

#[test]
fn clients_without_a_certificate_are_refused_where_one_is_required() {
    let (authority, [one, _other]) = pair();
    let refused = |identity: Option<&Identity>| {
        let mut client = client(one.socket(), &authority, identity);
        ask(&mut client, "/_groupcache/things/key")
            .unwrap_err()
            .to_string()
    };
    let error = refused(None);
    assert!(error.contains("CertificateRequired"), "{error}");
    let foreign = Authority::new().identity();
    let error = refused(Some(&foreign));
    assert!(error.contains("UnknownCA"), "{error}");
    let old = authority.identity_of("127.0.0.1", (2001, 2002));
    let error = refused(Some(&old));
    assert!(error.contains("CertificateExpired"), "{error}");
    assert_eq!(one.loads(), 0);

    let mut welcome = client(one.socket(), &authority, Some(&authority.identity()));
    let answer = ask(&mut welcome, "/_groupcache/").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(one.reaches_peer());
}

#[test]
fn a_node_with_a_foreign_certificate_falls_back() {
    let (authority, [one, other]) = pair();
    let stranger = Setup::with(tls(&Authority::new().identity(), &authority)).serve();
    stranger.knows(&one.address());
    let reason = stranger.falls_back();
    assert!(reason.contains("UnknownCA"), "{reason}");
    assert_eq!(one.loads(), 0);
    assert!(one.reaches_peer() && other.reaches_peer());
}

#[test]
fn who_does_not_speak_tls_is_refused_and_the_other_way_round() {
    let authority = Authority::new();
    let ours = || Setup::with(tls(&authority.identity(), &authority)).serve();
    let (secure, plain) = (ours(), Setup::plain().serve());

    plain.knows(&secure.address().replace("https", "http"));
    let reason = plain.falls_back();
    assert!(reason.contains("speaks TLS"), "{reason}");

    secure.knows(&plain.address().replace("http", "https"));
    let reason = secure.falls_back();
    assert!(reason.contains("does not speak TLS"), "{reason}");

    let (other, another) = (ours(), Setup::plain().serve());
    other.knows(&secure.address());
    another.knows(&plain.address());
    assert!(other.reaches_peer() && another.reaches_peer());
}

/// Connections that begin a handshake and do not go on: every other one sends the beginning of a
/// first message.
fn stall(address: SocketAddr) -> Vec<TcpStream> {
    let stall = |number: usize| {
        let mut stream = connect(address);
        if number % 2 == 1 {
            let hello = [0x16, 3, 1, 1, 0, 1, 0, 0, 0xfc, 3, 3];
            stream
                .write_all(&hello[..number % hello.len() + 1])
                .unwrap();
        }
        stream
    };
    (0..200).map(stall).collect()
}

#[test]
fn stalled_handshakes_keep_nobody_waiting() {
    let authority = Authority::new();
    let setup = |server| Setup {
        server,
        ..Setup::with(tls(&authority.identity(), &authority))
    };
    let server = setup(|server| server.workers(2).head_timeout(10 * GUARD)).serve();
    let stalled = stall(server.socket());
    let asker = setup(|server| server).serve();
    asker.knows(&server.address());
    for number in 0..100 {
        let key = asker.key_of_peer("key ", "", number);
        assert_eq!(asker.fetch(&key), Source::Peer);
        // A new connection for each.
        let mut client = client(server.socket(), &authority, None);
        let answer = ask(&mut client, "/_groupcache/").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    for stream in &stalled {
        stream.set_nonblocking(true).unwrap();
        let peeked = stream.peek(&mut [0]).map_err(|error| error.kind());
        assert_eq!(
            peeked,
            Err(ErrorKind::WouldBlock),
            "it was there all the time"
        );
    }
    // They have asked nothing, so that a gentle end does not wait for them.
    assert!(server.server.shutdown(GUARD));
}

#[test]
fn stalled_handshakes_make_room_for_others() {
    let authority = Authority::new();
    let server = Setup {
        server: |server| server.max_connections(200).head_timeout(GUARD),
        ..Setup::with(tls(&authority.identity(), &authority))
    };
    let server = server.serve();
    let _stalled = stall(server.socket());
    let mut client = client(server.socket(), &authority, None);
    let answer = ask(&mut client, "/_groupcache/").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn stalled_handshakes_are_cut_off_in_time() {
    let authority = Authority::new();
    let server = Setup {
        server: |server| {
            let server = server.head_timeout(Duration::from_millis(200));
            server.idle_timeout(10 * GUARD)
        },
        ..Setup::with(tls(&authority.identity(), &authority))
    };
    let server = server.serve();
    for mut stream in stall(server.socket()) {
        // What was sent and not read may make the end a reset.
        let read = stream.read(&mut [0; 16]).map_err(|error| error.kind());
        assert!(
            matches!(read, Ok(0) | Err(ErrorKind::ConnectionReset)),
            "{read:?}"
        );
    }
    crate::cluster::eventually(
        "one that goes on is served, though it has little time",
        || {
            ask(
                &mut client(server.socket(), &authority, None),
                "/_groupcache/",
            )
            .is_ok()
        },
    );
}

#[test]
fn a_byte_now_and_then_does_not_make_the_time_longer() {
    let authority = Authority::new();
    let server = Setup {
        server: |server| server.head_timeout(Duration::from_millis(200)),
        ..Setup::with(tls(&authority.identity(), &authority))
    };
    let server = server.serve();
    let trickle = |mut stream: TcpStream, head: &[u8]| {
        stream.write_all(head).unwrap();
        let start = Instant::now();
        while stream.write_all(&[3]).is_ok() {
            assert!(start.elapsed() < GUARD, "it is still open");
            thread::sleep(Duration::from_millis(5));
        }
    };
    // The first message of a handshake, which is to have 16,000 bytes.
    let hello = [0x16, 3, 1, 0x3e, 0x80, 1, 0, 0x3e, 0x7c];
    trickle(connect(server.socket()), &hello);
    // A record with data, behind a request that was answered.
    let served = || {
        let mut client = client(server.socket(), &authority, None);
        let request = b"GET /_groupcache/ HTTP/1.1\r\nHost: h\r\n\r\n";
        client.write_all(request).ok()?;
        (client.read(&mut [0; 16]).ok()? > 0).then_some(client)
    };
    // Its handshake has little time as well.
    let client = (0..100).find_map(|_| served()).unwrap();
    trickle(client.sock, &[0x17, 3, 3, 0x3e, 0x80]);
}

/// What a client says first.
fn client_hello(authority: &Authority) -> Vec<u8> {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = client(nobody.local_addr().unwrap(), authority, None);
    let mut hello = Vec::new();
    client.conn.write_tls(&mut hello).unwrap();
    hello
}

#[test]
fn what_is_no_handshake_harms_nobody() {
    let seed = RandomState::new().hash_one(0);
    println!("seed {seed}");
    let mut state = seed | 1;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let authority = Authority::new();
    let server = Setup {
        server: |server| server.workers(2),
        ..Setup::with(tls(&authority.identity(), &authority))
    };
    let server = server.serve();
    let hello = client_hello(&authority);
    for round in 0..300 {
        let mut bytes = hello.clone();
        match round % 3 {
            0 => bytes = (0..random(20_000)).map(|_| random(256) as u8).collect(),
            1 => bytes.truncate(random(hello.len())),
            _ => {
                for _ in 0..=random(4) {
                    bytes[random(hello.len())] = random(256) as u8;
                }
            }
        }
        let mut stream = connect(server.socket());
        // It may be refused before all is said.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let is_tls = answer
            .first()
            .is_none_or(|kind| [0x15, 0x16].contains(kind));
        assert!(is_tls, "round {round}: {answer:?}");
    }
    let mut client = client(server.socket(), &authority, None);
    assert!(ask(&mut client, "/_groupcache/").is_ok());
    assert_eq!(server.loads(), 0);
}

#[test]
fn a_peer_that_stalls_its_handshake_is_away() {
    let authority = Authority::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let asker = Setup {
        node: |node| node.fetch_timeout(Duration::from_millis(200)),
        ..Setup::with(tls(&authority.identity(), &authority))
    };
    let asker = asker.serve();
    asker.knows(&format!("https://{}", silent.local_addr().unwrap()));
    let reason = asker.falls_back();
    assert!(reason.contains("no answer in time"), "{reason}");
}

#[test]
fn an_idle_connection_that_was_closed_is_not_a_peer_that_is_away() {
    let authority = Authority::new();
    let setup = |server| Setup {
        server,
        ..Setup::with(tls(&authority.identity(), &authority))
    };
    let asker = setup(|server| server).serve();
    let server = setup(|server| server.idle_timeout(Duration::from_millis(50))).serve();
    asker.knows(&server.address());
    for number in 0..5 {
        let key = asker.key_of_peer("key ", "", number);
        assert_eq!(asker.fetch(&key), Source::Peer);
        thread::sleep(Duration::from_millis(200)); // in which it is closed, as a rule
        asker.things.remove(&key).unwrap();
    }
    assert_eq!(asker.fetch_errors(), 0);
}

/// A proxy that hands on `limit` bytes of answers and then closes.
fn cut_after(server: SocketAddr, limit: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut asker, _) = listener.accept().unwrap();
        drop(listener); // who tries again is refused
        let mut inner = connect(server);
        let (mut requests, mut forward) = (asker.try_clone().unwrap(), inner.try_clone().unwrap());
        let requests = thread::spawn(move || {
            let _ = std::io::copy(&mut requests, &mut forward);
        });
        let handed = std::io::copy(&mut (&mut inner).take(limit as u64), &mut asker);
        assert_eq!(handed.unwrap(), limit as u64);
        asker.shutdown(Shutdown::Both).unwrap();
        inner.shutdown(Shutdown::Both).unwrap();
        requests.join().unwrap();
    });
    address
}

#[test]
fn an_answer_that_breaks_off_is_none() {
    let authority = Authority::new();
    let ours = || Setup::with(tls(&authority.identity(), &authority)).serve();
    let server = ours();
    // Within the handshake, within a record and between records of the answer.
    for limit in [100, 20_000, 60_000, 200_000] {
        let asker = ours();
        asker.knows(&format!("https://{}", cut_after(server.socket(), limit)));
        let key = asker.key_of_peer("large ", " 300000", 0);
        assert_eq!(asker.fetch(&key), Source::Load, "{limit}");
        assert_eq!(asker.fetch_errors(), 1, "{limit}");
    }
}

/// The certificate that a server shows to a new connection.
fn shown(address: SocketAddr, trusted: &Authority, as_node: &Identity) -> CertificateDer<'static> {
    let mut client = client(address, trusted, Some(as_node));
    ask(&mut client, "/_groupcache/").unwrap();
    client.conn.peer_certificates().unwrap()[0].clone()
}

fn der(identity: &Identity) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()
}

#[test]
fn certificates_are_reloaded_without_a_restart() {
    let [old, new] = [(); 2].map(|()| Authority::new());
    let [first, second] = [&old, &new].map(Authority::identity);
    let files = Files::new("reload");
    files.write(&first, &old);
    let [certificate, key, authorities] = files.paths();
    let tls = Tls::from_files(certificate, key, authorities).unwrap();
    let tls = tls.require_client_certificates();
    let server = Setup::with(tls.clone()).serve();
    assert_eq!(shown(server.socket(), &old, &first), der(&first));

    // A broken file is refused, whichever it is, and changes nothing.
    for path in files.paths() {
        for content in [Some("no PEM"), None] {
            match content {
                Some(content) => fs::write(&path, content).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let error = tls.reload().unwrap_err();
            assert!(matches!(error, Error::Tls { .. }), "{error}");
            assert!(
                error.to_string().contains(path.to_str().unwrap()),
                "{error}"
            );
            assert_eq!(shown(server.socket(), &old, &first), der(&first));
        }
        files.write(&first, &old);
    }
    // So is the key of another certificate.
    fs::write(&files.paths()[1], &second.key).unwrap();
    assert!(tls.reload().is_err());
    assert_eq!(shown(server.socket(), &old, &first), der(&first));

    files.write(&second, &new);
    tls.reload().unwrap();
    assert_eq!(shown(server.socket(), &new, &second), der(&second));
    // Who was trusted before is not now.
    let mut former = client(server.socket(), &new, Some(&first));
    assert!(ask(&mut former, "/_groupcache/").is_err());
}

#[test]
fn a_reload_fails_no_request() {
    let authority = Authority::new();
    let identities = [(); 2].map(|()| authority.identity());
    let services = [(); 2].map(|()| {
        let tls = tls(&identities[0], &authority).require_client_certificates();
        // Few requests for each connection, so that many are made meanwhile.
        let service = Setup {
            server: |server| server.idle_timeout(Duration::from_millis(1)),
            ..Setup::with(tls.clone())
        };
        (tls, service.serve())
    });
    let [(_, one), (_, other)] = &services;
    one.knows(&other.address());
    other.knows(&one.address());
    let keys: Vec<String> = (0..16).map(|n| one.key_of_peer("key ", "", n)).collect();
    let done = AtomicBool::new(false);
    let asked = AtomicUsize::new(0);
    thread::scope(|scope| {
        for thread in 0..4 {
            let (keys, done, asked) = (&keys, &done, &asked);
            scope.spawn(move || {
                for round in 0.. {
                    let key = &keys[(thread + round) % keys.len()];
                    assert_eq!(one.things.get(key).unwrap(), value_of(key));
                    asked.fetch_add(1, Ordering::SeqCst);
                    if done.load(Ordering::SeqCst) {
                        return;
                    }
                }
            });
        }
        for round in 0..40 {
            let before = asked.load(Ordering::SeqCst);
            crate::cluster::eventually("requests go on", || {
                asked.load(Ordering::SeqCst) >= before + 4
            });
            let identity = &identities[round % 2];
            for (tls, _) in &services {
                let (certificate, key) = (&identity.certificate, &identity.key);
                let pem = authority.pem();
                let replaced = tls.replace(certificate.as_bytes(), key.as_bytes(), pem.as_bytes());
                replaced.unwrap();
            }
        }
        done.store(true, Ordering::SeqCst);
    });
    assert_eq!(one.fetch_errors(), 0);
    assert_eq!(one.loads(), 0);
}

#[test]
fn an_application_on_the_same_port_is_reached_through_tls() {
    let authority = Authority::new();
    let server = Setup {
        server: |server| {
            server.fallback(|request| HttpResponse::text(200, &"x".repeat(request.path().len())))
        },
        ..Setup::with(tls(&authority.identity(), &authority))
    };
    let server = server.serve();
    // Its end is a proper one, or this would be an error.
    let answer = ask(&mut client(server.socket(), &authority, None), "/1234").unwrap();
    assert!(answer.ends_with("\r\n\r\nxxxxx"), "{answer}");

    // Requests that come in one record are answered one after the other.
    let mut client = client(server.socket(), &authority, None);
    let request = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: h\r\n{more}\r\n");
    let requests = request("/1", "") + &request("/_groupcache/things/slow", "");
    let requests = requests + &request("/12", "") + &request("/123", "Connection: close\r\n");
    client.write_all(requests.as_bytes()).unwrap();
    let mut answers = Vec::new();
    client.read_to_end(&mut answers).unwrap();
    let answers = String::from_utf8_lossy(&answers);
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 4, "{answers}");
    assert!(answers.ends_with("\r\n\r\nxxxx"), "{answers}");
}

#[test]
fn an_address_with_tls_takes_a_certificate() {
    let has_advice = |error: Error| error.to_string().contains("NodeBuilder::tls");
    let node = Node::new("https://127.0.0.1:1").unwrap_err();
    assert!(has_advice(node));
    let node = Node::new("http://127.0.0.1:1").unwrap();
    let peers = ["http://127.0.0.1:1", "https://127.0.0.1:2"];
    let refused = node.set_peers(peers).unwrap_err();
    assert!(matches!(refused, Error::InvalidPeer { .. }), "{refused}");
    assert!(has_advice(refused));
    assert_eq!(node.stats().peers.len(), 1, "nothing has changed");

    // Another transport may do without, but a server may not pretend.
    let node = Network::new()
        .builder("https://127.0.0.1:1")
        .unwrap()
        .build()
        .unwrap();
    let server = Server::bind(&node, "127.0.0.1:0");
    assert!(matches!(
        server,
        Err(Error::InvalidSetting { setting: "tls", .. })
    ));
    let _plain = Server::builder(&node).plain().bind("127.0.0.1:0").unwrap();
}

#[test]
fn what_cannot_be_used_is_named() {
    let authority = Authority::new();
    let [one, other] = [(); 2].map(|()| authority.identity());
    let pem = authority.pem();
    let refused = |certificates: &str, key: &str, authorities: &str| {
        let tls = Tls::from_pem(
            certificates.as_bytes(),
            key.as_bytes(),
            authorities.as_bytes(),
        );
        tls.unwrap_err().to_string()
    };
    assert!(refused("", &one.key, &pem).contains("no certificate"));
    assert!(refused(&one.certificate, "", &pem).contains("no private key"));
    assert!(refused(&one.certificate, &one.key, "").contains("no certificate"));
    assert!(refused(&one.certificate, &other.key, &pem).contains("KeyMismatch"));
    // The files were mixed up: the key is not shown.
    let mixed = refused(&one.certificate, &one.certificate, &one.key);
    assert!(
        !mixed.contains("BEGIN") && mixed.contains("the key"),
        "{mixed}"
    );

    let tls = tls(&one, &authority);
    assert!(tls.reload().unwrap_err().to_string().contains("replace"));
    assert!(
        tls.replace(b"", one.key.as_bytes(), pem.as_bytes())
            .is_err()
    );
    let secret = one.key.lines().nth(1).unwrap();
    assert!(!format!("{tls:?}").contains(secret));
}
