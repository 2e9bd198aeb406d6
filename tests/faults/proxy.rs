//! The way from one process to another, which goes wrong when it is told to: a TCP proxy that knows
//! where a request and an answer begin and end. Where the processes speak TLS, so does it, on both
//! sides.
//!
//! It accepts connections even where it then says nothing, so a partition made of it is one in which
//! connections are made and packets get lost. A thread for each connection, on `std::net`.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use socket2::SockRef;

/// What becomes of an answer.
#[derive(Clone)]
pub(crate) enum Rule {
    Pass,
    /// Neither the request nor an answer arrives. The connection stays.
    Lose,
    /// So many bytes of the answer arrive.
    Cut(usize, End),
    /// Half of the answer arrives, and then nothing. The connection stays.
    Halve,
    /// The answer arrives one byte at a time, each after this time.
    Drip(Duration),
    /// Something else arrives instead.
    Say(Vec<u8>, End),
    /// Something else arrives, and then this again and again until nobody listens.
    Repeat(Vec<u8>, Vec<u8>),
}

/// What becomes of the connection then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It goes on.
    Stay,
    Close,
    Reset,
    Silence,
}

/// A link, on a port of its own. Stopped when dropped.
pub(crate) struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// What a link does TLS with.
pub(crate) struct Ends {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
}

struct Shared {
    state: Mutex<State>,
    ends: Option<Arc<Ends>>,
}

#[derive(Default)]
struct State {
    target: Option<SocketAddr>,
    rule: Option<Rule>,
    /// For the next answer to anything but a probe, before `rule`.
    once: Option<Rule>,
    seen: Seen,
    /// Connections on which nothing will come.
    silent: usize,
    last_change: Vec<u8>,
    last_answer: Vec<u8>,
    open: Vec<Open>,
    stopped: bool,
}

/// Requests that have come, and the bytes of these and their answers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) probes: u64,
    pub(crate) others: u64,
    pub(crate) bytes: u64,
}

/// A connection, as long as its thread runs.
struct Open {
    number: usize,
    streams: Vec<Arc<TcpStream>>,
    thread: JoinHandle<()>,
}

impl Link {
    /// One that leads nowhere yet.
    pub(crate) fn start() -> Link {
        Link::start_with(None)
    }

    /// One between processes that speak TLS, if it has what that takes.
    pub(crate) fn start_with(ends: Option<Arc<Ends>>) -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            ends,
        });
        let accepting = Arc::clone(&shared);
        let acceptor = thread::spawn(move || accept(&listener, &accepting));
        Link {
            address,
            shared,
            acceptor: Some(acceptor),
        }
    }

    pub(crate) fn url(&self) -> String {
        let scheme = self.shared.ends.as_ref().map_or("http", |_| "https");
        format!("{scheme}://{}", self.address)
    }

    /// Leads new connections there.
    pub(crate) fn lead_to(&self, url: &str) {
        let target = url.rsplit('/').next().unwrap().parse().unwrap();
        self.shared.state.lock().target = Some(target);
    }

    /// What becomes of answers from now on.
    pub(crate) fn set(&self, rule: Rule) {
        self.shared.state.lock().rule = Some(rule);
    }

    /// What becomes of the next answer.
    pub(crate) fn set_once(&self, rule: Rule) {
        self.shared.state.lock().once = Some(rule);
    }

    /// Whether what [`set_once`](Link::set_once) said has been done.
    pub(crate) fn is_done(&self) -> bool {
        self.shared.state.lock().once.is_none()
    }

    pub(crate) fn seen(&self) -> Seen {
        self.shared.state.lock().seen
    }

    /// How many connections the other side keeps although nothing comes.
    pub(crate) fn silent(&self) -> usize {
        self.shared.state.lock().silent
    }

    /// The last `PUT` to the process behind it, as it came.
    pub(crate) fn last_change(&self) -> Vec<u8> {
        self.shared.state.lock().last_change.clone()
    }

    /// The last answer of the process behind it, as it came.
    pub(crate) fn last_answer(&self) -> Vec<u8> {
        self.shared.state.lock().last_answer.clone()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.state.lock().stopped = true;
        // Wakes the acceptor, which then sees that it is to stop.
        let _ = TcpStream::connect(self.address);
        let acceptor = self.acceptor.take().map(JoinHandle::join);
        let open = std::mem::take(&mut self.shared.state.lock().open);
        for open in open {
            for stream in open.streams {
                let _ = stream.shutdown(Shutdown::Both);
            }
            let _ = open.thread.join();
        }
        let failed = matches!(acceptor, Some(Err(_)));
        assert!(!failed || thread::panicking(), "the link panicked");
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for (number, stream) in listener.incoming().enumerate() {
        let stream = Arc::new(stream.unwrap());
        let mut state = shared.state.lock();
        if state.stopped {
            return;
        }
        let (client, serving) = (Arc::clone(&stream), Arc::clone(shared));
        let thread = thread::Builder::new().stack_size(256 << 10);
        let thread = thread.spawn(move || {
            // A connection that breaks is what this is for.
            let _ = serving.serve(number, &client);
            // The last handle closes it: only then is a reset sent.
            serving
                .state
                .lock()
                .open
                .retain(|open| open.number != number);
        });
        state.open.push(Open {
            number,
            streams: vec![stream],
            thread: thread.unwrap(),
        });
    }
}

impl Shared {
    /// Carries requests and answers, one after the other.
    fn serve(&self, number: usize, client: &Arc<TcpStream>) -> io::Result<()> {
        client.set_nodelay(true)?;
        let mut requests = BufReader::new(self.accept(client)?);
        let mut upstream = None;
        while let Some(request) = read_message(&mut requests)? {
            let rule = self.rule(&request);
            let side = requests.get_mut();
            let end = match &rule {
                Rule::Lose => End::Silence,
                Rule::Say(bytes, end) => say(side, bytes, *end)?,
                Rule::Repeat(first, again) => {
                    say(side, first, End::Stay)?;
                    loop {
                        say(side, again, End::Stay)?;
                    }
                }
                Rule::Pass | Rule::Cut(..) | Rule::Halve | Rule::Drip(_) => {
                    let Ok(answer) = self.ask(number, &mut upstream, &request) else {
                        return reset(client);
                    };
                    self.tell(side, &answer, &rule)?
                }
            };
            match end {
                End::Stay => {}
                End::Close => return Ok(()),
                End::Reset => return reset(client),
                End::Silence => return self.say_nothing(side),
            }
        }
        Ok(())
    }

    /// What becomes of this request.
    fn rule(&self, request: &[u8]) -> Rule {
        let mut state = self.state.lock();
        state.seen.bytes += request.len() as u64;
        if request.starts_with(b"GET /_groupcache/ ") {
            state.seen.probes += 1;
        } else {
            state.seen.others += 1;
            if request.starts_with(b"PUT ") {
                request.clone_into(&mut state.last_change);
            }
            if let Some(once) = state.once.take() {
                return once;
            }
        }
        state.rule.clone().unwrap_or(Rule::Pass)
    }

    /// Has the process behind it answer.
    fn ask(
        &self,
        number: usize,
        upstream: &mut Option<BufReader<Side>>,
        request: &[u8],
    ) -> io::Result<Vec<u8>> {
        let upstream = match upstream {
            Some(upstream) => upstream,
            None => upstream.insert(BufReader::new(self.connect(number)?)),
        };
        say(upstream.get_mut(), request, End::Stay)?;
        let answer = read_message(upstream)?;
        let answer = answer.ok_or(ErrorKind::UnexpectedEof)?;
        let mut state = self.state.lock();
        state.seen.bytes += answer.len() as u64;
        state.last_answer.clone_from(&answer);
        drop(state);
        Ok(answer)
    }

    /// The side of whoever asks.
    fn accept(&self, client: &Arc<TcpStream>) -> io::Result<Side> {
        let handle = Handle(Arc::clone(client));
        let Some(ends) = &self.ends else {
            return Ok(Box::new(handle));
        };
        let session = ServerConnection::new(Arc::clone(&ends.server));
        let session = session.map_err(io::Error::other)?;
        Ok(Box::new(StreamOwned::new(session, handle)))
    }

    /// The side of the process behind it.
    fn connect(&self, number: usize) -> io::Result<Side> {
        let target = self.state.lock().target;
        let target = target.ok_or(ErrorKind::NotConnected)?;
        let stream = Arc::new(TcpStream::connect(target)?);
        stream.set_nodelay(true)?;
        let mut state = self.state.lock();
        let mut open = state.open.iter_mut();
        if let Some(open) = open.find(|open| open.number == number) {
            open.streams.push(Arc::clone(&stream));
        }
        let handle = Handle(stream);
        let Some(ends) = &self.ends else {
            return Ok(Box::new(handle));
        };
        let name = ServerName::from(target.ip());
        let session = ClientConnection::new(Arc::clone(&ends.client), name);
        let session = session.map_err(io::Error::other)?;
        Ok(Box::new(StreamOwned::new(session, handle)))
    }

    /// Hands on as much of an answer as the rule says.
    fn tell(&self, client: &mut Side, answer: &[u8], rule: &Rule) -> io::Result<End> {
        // A link that has broken since the request loses the answer.
        if matches!(self.state.lock().rule, Some(Rule::Lose)) {
            return Ok(End::Silence);
        }
        match rule {
            Rule::Cut(length, end) => say(client, &answer[..(*length).min(answer.len())], *end),
            Rule::Halve => say(client, &answer[..answer.len() / 2], End::Silence),
            Rule::Drip(pause) => {
                for byte in answer {
                    thread::sleep(*pause);
                    say(client, std::slice::from_ref(byte), End::Stay)?;
                }
                Ok(End::Stay)
            }
            _ => say(client, answer, End::Stay),
        }
    }

    /// Keeps the connection until the other side has had enough.
    fn say_nothing(&self, client: &mut Side) -> io::Result<()> {
        let mut unread = [0; 1 << 10];
        self.state.lock().silent += 1;
        while client.read(&mut unread).is_ok_and(|count| count > 0) {}
        self.state.lock().silent -= 1;
        Ok(())
    }
}

/// One side of a link, with TLS or without.
type Side = Box<dyn Stream>;

trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

/// A connection that its [`Open`] can end.
struct Handle(Arc<TcpStream>);

impl Read for Handle {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.as_ref().read(bytes)
    }
}

impl Write for Handle {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.as_ref().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn say(side: &mut Side, bytes: &[u8], end: End) -> io::Result<End> {
    side.write_all(bytes)?;
    side.flush()?;
    Ok(end)
}

/// Has the connection end with a reset once it is dropped.
fn reset(client: &TcpStream) -> io::Result<()> {
    SockRef::from(client).set_linger(Some(Duration::ZERO))
}

/// The next request or answer, whole; `None` at the end of the connection.
fn read_message(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let (mut message, mut length) = (Vec::new(), 0);
    loop {
        let begin = message.len();
        if reader.read_until(b'\n', &mut message)? == 0 {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&message[begin..]);
        if line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap();
            }
        }
    }
    let head = message.len();
    reader.take(length).read_to_end(&mut message)?;
    let is_whole = (message.len() - head) as u64 == length;
    is_whole
        .then_some(Some(message))
        .ok_or_else(|| ErrorKind::UnexpectedEof.into())
}
