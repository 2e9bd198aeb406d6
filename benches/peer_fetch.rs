//! A get whose value is in the memory of another process: ours, and the least that it could cost.
//!
//! This program starts itself once more as the server of all contenders. Values have 1 KiB; the hot
//! cache is off, so that every get goes there. The anchor is a bare blocking ping-pong over TCP
//! with messages of the same size.
//!
//! To add a contender: a [`Contender`] here, its service in [`serve`] (or a process of its own).

#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark prints its tables, and a broken one had better stop"
)]

use std::hint::black_box;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use groupcache_sync::{Deadline, Group, Node, Peer, Server, Source, TinyServer, Value};
use groupcache_sync_benches::{
    Bars, Failure, Options, Table, median, nanos, percentile, ratio, rotated,
};

/// The argument that makes this program the server.
const SERVE: &str = "--serve";

const GROUP: &str = "peer";
const VALUE_BYTES: usize = 1 << 10;
const REQUEST_BYTES: usize = 64;

/// Keys of the server; each thread has its own part, so that none joins the fetch of another.
const KEYS: usize = 1_024;

const THREADS: [usize; 3] = [1, 8, 32];

/// How our median latency may compare with the anchor's, with one thread.
const BAR: f64 = 2.0;

const OURS: usize = 0;
const ANCHOR: usize = 1;

/// A way to the values of the other process.
trait Contender: Sync {
    fn name(&self) -> &'static str;

    /// What one thread uses.
    fn client(&self) -> Result<Box<dyn Client + '_>, Failure>;
}

/// One thread's end of a contender.
trait Client {
    /// Gets the value of `key` and gives its length.
    fn get(&mut self, key: &str) -> Result<usize, Failure>;
}

struct Ours {
    name: &'static str,
    group: Group,
    node: Node,
}

/// Both processes list the same two peers. Nobody ever asks the client, so it has no listener.
fn peers(server: SocketAddr) -> Result<[Peer; 2], Failure> {
    Ok([
        client()?,
        Peer::new(&format!("http://{server}"))?.id("server"),
    ])
}

fn client() -> Result<Peer, Failure> {
    Ok(Peer::new("http://127.0.0.1:1")?.id("client"))
}

impl Ours {
    fn new(name: &'static str, server: SocketAddr) -> Result<Ours, Failure> {
        let node = Node::builder(client()?)?.build()?;
        node.set_peers(peers(server)?)?;
        let group = node
            .group_builder(GROUP, 64 << 20)
            .hot_bytes(0)
            .build(|_| Err("a key of the server was loaded here".into()))?;
        Ok(Ours { name, group, node })
    }

    /// Keys that the server owns, each asked for once, so that it is cached there.
    fn keys(&self) -> Result<Vec<String>, Failure> {
        let all = (0..).map(|key| format!("key-{key:011}"));
        let owned = all.filter(|key| self.node.owner(key).name() == "server");
        let keys: Vec<String> = owned.take(KEYS).collect();
        for key in &keys {
            let got = self.group.get_with(key, Deadline::NEVER)?;
            assert_eq!(got.source, Source::Peer);
            assert_eq!(got.value.len(), VALUE_BYTES);
        }
        Ok(keys)
    }
}

impl Contender for Ours {
    fn name(&self) -> &'static str {
        self.name
    }

    fn client(&self) -> Result<Box<dyn Client + '_>, Failure> {
        Ok(Box::new(self))
    }
}

impl Client for &Ours {
    fn get(&mut self, key: &str) -> Result<usize, Failure> {
        Ok(self.group.get(key)?.len())
    }
}

/// The anchor: as many bytes there and back, and nothing else.
struct PingPong(SocketAddr);

impl Contender for PingPong {
    fn name(&self) -> &'static str {
        "TCP ping-pong"
    }

    fn client(&self) -> Result<Box<dyn Client + '_>, Failure> {
        Ok(Box::new(Pinger(connect(self.0)?)))
    }
}

struct Pinger(TcpStream);

impl Client for Pinger {
    fn get(&mut self, key: &str) -> Result<usize, Failure> {
        let mut request = [0; REQUEST_BYTES];
        request[..key.len()].copy_from_slice(key.as_bytes());
        self.0.write_all(&request)?;
        let mut answer = [0; VALUE_BYTES];
        self.0.read_exact(&mut answer)?;
        Ok(answer.len())
    }
}

/// Our server, asked by the barest client there is: tells its part of the time from our client's.
struct BareClient(SocketAddr);

impl Contender for BareClient {
    fn name(&self) -> &'static str {
        "bare client, our server"
    }

    fn client(&self) -> Result<Box<dyn Client + '_>, Failure> {
        let answer = Vec::with_capacity(2 * VALUE_BYTES);
        Ok(Box::new(BareHttp {
            server: connect(self.0)?,
            answer,
        }))
    }
}

struct BareHttp {
    server: TcpStream,
    answer: Vec<u8>,
}

impl Client for BareHttp {
    fn get(&mut self, key: &str) -> Result<usize, Failure> {
        let request = format!("GET /_groupcache/{GROUP}/{key} HTTP/1.1\r\nhost: server\r\n\r\n");
        self.server.write_all(request.as_bytes())?;
        self.answer.clear();
        let mut end = None;
        loop {
            let mut chunk = [0; 4 << 10];
            let read = self.server.read(&mut chunk)?;
            if read == 0 {
                return Err("the server hung up".into());
            }
            self.answer.extend_from_slice(&chunk[..read]);
            if end.is_none() {
                end = answer_end(&self.answer)?;
            }
            if end.is_some_and(|(_, end)| self.answer.len() >= end) {
                break;
            }
        }
        match end {
            Some((body, end)) if end - body >= VALUE_BYTES => Ok(end - body),
            _ => Err("not the value".into()),
        }
    }
}

/// Where the body of an answer begins and ends, once its head is here.
fn answer_end(answer: &[u8]) -> Result<Option<(usize, usize)>, Failure> {
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&answer[..head])?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let matches = name.eq_ignore_ascii_case("content-length");
        matches.then(|| value.trim().parse::<usize>().ok())?
    });
    let length = length.ok_or("an answer without a length")?;
    Ok(Some((head + 4, head + 4 + length)))
}

fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// Is the server of all contenders until the other end of its input goes.
fn serve() -> Result<(), Failure> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let ping_pong = TcpListener::bind(any)?;
    let ping_pong_at = ping_pong.local_addr()?;
    thread::spawn(move || {
        for stream in ping_pong.incoming().flatten() {
            thread::spawn(move || answer_pings(stream));
        }
    });

    // The port is not known before it listens, and a peer's place on the ring is its id.
    let node = Node::builder(Peer::new("http://127.0.0.1:2")?.id("server"))?.build()?;
    let _group = node
        .group_builder(GROUP, 64 << 20)
        .build(|_| Ok(Value::from(&[7; VALUE_BYTES])))?;
    let server = Server::bind(&node, any)?;
    let tiny = TinyServer::bind(&node, any)?;
    node.set_peers(peers(server.local_addr())?)?;

    println!(
        "ready {} {} {ping_pong_at}",
        server.local_addr(),
        tiny.local_addr()
    );
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn answer_pings(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut request, answer) = ([0; REQUEST_BYTES], [7; VALUE_BYTES]);
    loop {
        stream.read_exact(&mut request)?;
        stream.write_all(&answer)?;
    }
}

/// The other process. It ends with this one: when dropped, or when its input ends.
struct ServerProcess {
    child: Child,
    ours: SocketAddr,
    tiny: SocketAddr,
    ping_pong: SocketAddr,
}

impl ServerProcess {
    fn start() -> Result<ServerProcess, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(SERVE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take();
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let mut process = ServerProcess {
            child,
            ours: any,
            tiny: any,
            ping_pong: any,
        };
        let mut line = String::new();
        BufReader::new(output.ok_or("the server has no output")?).read_line(&mut line)?;
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["ready", ours, tiny, ping_pong] => {
                process.ours = ours.parse()?;
                process.tiny = tiny.parse()?;
                process.ping_pong = ping_pong.parse()?;
                Ok(process)
            }
            _ => Err(format!("the server said {line:?}").into()),
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // It may have ended by itself already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What one contender did in one round.
#[derive(Clone, Copy, Default)]
struct Run {
    per_second: f64,
    p50: f64,
    p99: f64,
}

fn run(contender: &dyn Contender, keys: &[String], threads: usize, gets: usize) -> Run {
    let start = Barrier::new(threads + 1);
    let work = |part: &[String]| -> Result<Vec<u64>, Failure> {
        let client = contender.client().and_then(|mut client| {
            // Its connection is there, and warm.
            part.iter()
                .take(8)
                .try_for_each(|key| client.get(key).map(|_| ()))?;
            Ok(client)
        });
        start.wait(); // Also if it failed, or the others would wait for ever.
        let mut client = client?;
        let mut times = Vec::with_capacity(gets);
        for key in part.iter().cycle().take(gets) {
            let begin = Instant::now();
            black_box(client.get(key)?);
            times.push(begin.elapsed().as_nanos() as u64);
        }
        Ok(times)
    };
    let (elapsed, outcomes) = thread::scope(|scope| {
        let part = |at| &keys[at * keys.len() / threads..(at + 1) * keys.len() / threads];
        let run = |at| scope.spawn(move || work(part(at)));
        let running: Vec<_> = (0..threads).map(run).collect();
        start.wait();
        let begin = Instant::now();
        let outcomes: Vec<_> = running.into_iter().map(|thread| thread.join()).collect();
        (begin.elapsed(), outcomes)
    });
    let mut times = Vec::with_capacity(threads * gets);
    for outcome in outcomes {
        match outcome.expect("a thread of a contender panicked") {
            Ok(part) => times.extend(part),
            Err(error) => panic!("{}: {error}", contender.name()),
        }
    }
    Run {
        per_second: times.len() as f64 / elapsed.as_secs_f64(),
        p50: percentile(&mut times, 0.5) as f64,
        p99: percentile(&mut times, 0.99) as f64,
    }
}

/// What all contenders did, by round.
fn measure(
    contenders: &[Box<dyn Contender + '_>],
    keys: &[String],
    threads: usize,
    options: &Options,
) -> Vec<Vec<Run>> {
    let gets = if options.quick { 400 } else { 8_000 } / threads;
    let round = |round: usize| {
        let mut runs = vec![Run::default(); contenders.len()];
        for at in rotated(contenders.len(), round) {
            runs[at] = run(&*contenders[at], keys, threads, gets);
        }
        runs
    };
    round(0); // Warms up.
    (0..options.rounds(15)).map(round).collect()
}

fn main() -> Result<ExitCode, Failure> {
    if std::env::args().any(|arg| arg == SERVE) {
        serve()?;
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options::from_args();
    let server = ServerProcess::start()?;
    let ours = Ours::new("groupcache-sync", server.ours)?;
    let keys = ours.keys()?;
    let group = ours.group.clone();
    let mut contenders: Vec<Box<dyn Contender>> = vec![
        Box::new(ours),
        Box::new(PingPong(server.ping_pong)),
        Box::new(Ours::new("over tiny_http", server.tiny)?),
        Box::new(BareClient(server.ours)),
    ];
    let mut at = 0;
    contenders.retain(|contender| {
        at += 1;
        at <= ANCHOR + 1 || options.compares_with(contender.name())
    });
    let mut times = Table::new(["", "gets/s", "p50", "p99"]);
    let against = ["ours divided by", "gets/s", "p50", "p99"];
    let mut ratios = Table::new(against);
    let mut bars = Vec::new();
    for threads in THREADS {
        let name = format!("{threads} thread{}", if threads == 1 { "" } else { "s" });
        if !options.wants(&name) {
            continue;
        }
        let rounds = measure(&contenders, &keys, threads, &options);
        let mid = |value: &dyn Fn(&[Run]) -> f64| median(rounds.iter().map(|round| value(round)));
        for (at, contender) in contenders.iter().enumerate() {
            times.row([
                format!("{name}, {}", contender.name()),
                format!("{:.0}", mid(&|runs| runs[at].per_second)),
                nanos(mid(&|runs| runs[at].p50)),
                nanos(mid(&|runs| runs[at].p99)),
            ]);
            if at == OURS {
                continue;
            }
            let p50 = mid(&|runs| runs[OURS].p50 / runs[at].p50);
            ratios.row([
                format!("{name}, {}", contender.name()),
                ratio(mid(&|runs| runs[OURS].per_second / runs[at].per_second)),
                ratio(p50),
                ratio(mid(&|runs| runs[OURS].p99 / runs[at].p99)),
            ]);
            if threads == 1 && at == ANCHOR {
                bars.push((
                    format!("{name}: our median latency / {}", contender.name()),
                    p50,
                ));
            }
        }
    }
    // Had a get been answered here or joined another, it would not belong into the tables.
    let stats = group.stats();
    assert_eq!(
        (stats.fetches, stats.fetch_errors),
        (stats.gets, 0),
        "{stats:?}"
    );
    println!("\nMedians of {} rounds\n", options.rounds(15));
    times.print();
    println!(
        "\nMedian ratios within a round: gets/s above 1 and times below 1 are in our favour\n"
    );
    ratios.print();
    println!();
    let mut verdict = Bars::default();
    for (what, p50) in bars {
        verdict.hold(&what, p50, BAR);
    }
    Ok(verdict.exit_code(options.check))
}
