//! Who goes on beside an attack: a peer of the node, and newcomers.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use groupcache_sync::{Deadline, Group, Keyring, LoadError, Node, Peer, Source, Value};
use socket2::{Domain, Socket, Type};

use crate::gauge::Times;
use crate::hostile::messages::{answer, request};
use crate::process::Process;

/// What the nodes of a row share, where they share a secret.
pub(crate) const SECRET: &str = "a secret of thirty-two bytes 123";

/// How long it waits for anything: then it has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it does something else between two requests.
const PAUSE: Duration = Duration::from_millis(2);

/// How often there is a newcomer, and how often a change, in requests.
const NEWCOMER: usize = 25;
const CHANGE: usize = 10;

/// A node in this process, which owns nothing and has the node under attack for a peer.
pub(crate) struct Other {
    node: Node,
    group: Group,
    owner: Peer,
    address: SocketAddr,
    /// A key that the node under attack has, and one that is changed.
    warm: String,
    changed: String,
    new: AtomicUsize,
    /// How long the values are that it sets.
    change_bytes: AtomicUsize,
}

/// What it has seen.
#[derive(Default)]
pub(crate) struct Seen {
    /// How long they took.
    pub(crate) gets: Times,
    pub(crate) changes: Times,
    pub(crate) failures: Vec<String>,
}

/// The name of the cluster of a node that is attacked.
pub(crate) const CLUSTER: &str = "attacked";

impl Other {
    pub(crate) fn of(process: &Process, secret: Option<&str>) -> Other {
        Other::at(process, &process.url, secret)
    }

    /// One that reaches the node at this address.
    pub(crate) fn at(process: &Process, url: &str, secret: Option<&str>) -> Other {
        let this = Peer::new("http://other:1").unwrap();
        let builder = Node::builder(this.clone()).unwrap().cluster(CLUSTER);
        let mut builder = builder.connect_timeout(PATIENCE).fetch_timeout(PATIENCE);
        if let Some(secret) = secret {
            builder = builder.keyring(Keyring::new(secret).unwrap());
        }
        let node = builder.build().unwrap();
        let group = node.group_builder("objects", 1 << 20).hot_bytes(0);
        let group = group.build(|_| Err::<Value, LoadError>("the node has not given it".into()));
        let owner = Peer::new(url).unwrap().with_name(&process.url);
        node.set_peers([this, owner.clone()]).unwrap();
        let mut other = Other {
            node,
            group: group.unwrap(),
            owner,
            address: url.strip_prefix("http://").unwrap().parse().unwrap(),
            warm: String::new(),
            changed: String::new(),
            new: AtomicUsize::new(0),
            change_bytes: AtomicUsize::new(100 << 10),
        };
        (other.warm, other.changed) = (other.new_key(), other.new_key());
        for _ in 0..20 {
            other.get(&other.warm).unwrap();
            other.change().unwrap();
        }
        other
    }

    /// A key that nobody has asked for, and that the node under attack owns.
    fn new_key(&self) -> String {
        loop {
            let number = self.new.fetch_add(1, Ordering::Relaxed);
            let key = format!("other-{number}");
            if self.node.owner(&key).address() == self.owner.address() {
                return key;
            }
        }
    }

    fn get(&self, key: &str) -> Result<(), String> {
        let deadline = Deadline::after(Instant::now(), PATIENCE);
        let got = self.group.get_entry(key, deadline);
        let got = got.map_err(|error| format!("get: {error}"))?;
        let is_right = got.source == Source::Peer && got.value.ends_with(key.as_bytes());
        is_right
            .then_some(())
            .ok_or_else(|| format!("{key} from {}", got.source))
    }

    /// Has the node load what nobody has asked for.
    pub(crate) fn get_new(&self) -> Result<(), String> {
        self.get(&self.new_key())
    }

    /// From now on it sets small values alone: where nobody is told apart, others may take the room for
    /// larger ones, and no more.
    pub(crate) fn change_little(&self) {
        self.change_bytes.store(20 << 10, Ordering::Relaxed);
    }

    /// Sets a value for which the node needs room.
    fn change(&self) -> Result<(), String> {
        let value = Value::from(vec![b'x'; self.change_bytes.load(Ordering::Relaxed)]);
        let set = self.group.set(&self.changed, value);
        set.map_err(|error| format!("set: {error}"))
    }

    /// Asks again and again until it is over, and counts its turns.
    pub(crate) fn watch(&self, over: &AtomicBool, turns: &AtomicUsize) -> Seen {
        let mut seen = Seen::default();
        for number in 1.. {
            if over.load(Ordering::Relaxed) {
                break;
            }
            let begun = Instant::now();
            let done = if number % CHANGE == 0 {
                let done = self.change();
                seen.changes.add(begun.elapsed());
                done
            } else {
                let done = self.get(&self.warm);
                seen.gets.add(begun.elapsed());
                done
            };
            let newcomer = (number % NEWCOMER == 0).then(|| newcomer(self.address));
            let done = done.and_then(|()| newcomer.unwrap_or(Ok(())));
            match done {
                Ok(()) => drop(turns.fetch_add(1, Ordering::Relaxed)),
                Err(failure) => seen.failures.push(failure),
            }
            thread::sleep(PAUSE);
        }
        seen
    }
}

/// Connects from an address of its own, and asks whether somebody is there. Any answer is one.
pub(crate) fn newcomer(address: SocketAddr) -> Result<(), String> {
    let mut stream = connect([127, 0, 9, 1], address).map_err(|error| format!("new: {error}"))?;
    let asked = stream.write_all(&request("GET", "/_groupcache/", "", &[]));
    asked.map_err(|error| format!("new: {error}"))?;
    let status = answer(&mut stream, PATIENCE);
    status
        .map(|_| ())
        .ok_or_else(|| "new: no answer".to_owned())
}

pub(crate) fn connect(from: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}
