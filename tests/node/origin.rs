//! An HTTP origin inside the test, which counts what it is asked for and can hold its answers.
//!
//! It shares no code with the listener of the crate: a thread for each connection, on `std::net`.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use percent_encoding::percent_decode_str;

use crate::process::PATIENCE;

/// Answers `GET /<key>` with `value of <key>`, unless told otherwise. Stopped when dropped.
pub(crate) struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// How long it takes for each answer.
    delay: Duration,
    /// What it usually answers; `value of <key>` if there is nothing here.
    value_of: Option<fn(&str) -> Vec<u8>>,
}

#[derive(Default)]
struct State {
    answers: HashMap<String, Answer>,
    asked: HashMap<String, usize>,
    held: HashSet<String>,
    broken: HashSet<String>,
    /// One in so many requests fails; 0: none.
    failing: usize,
    requests: usize,
    connections: Vec<(TcpStream, JoinHandle<()>)>,
    stopped: bool,
}

/// What is answered for a key.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// A header line, or nothing.
    pub(crate) header: String,
    pub(crate) body: Vec<u8>,
}

impl Origin {
    pub(crate) fn start() -> Origin {
        Origin::serve(Shared::default())
    }

    /// One that takes its time for each answer, which is usually `value_of` the key.
    pub(crate) fn start_slow(delay: Duration, value_of: fn(&str) -> Vec<u8>) -> Origin {
        Origin::serve(Shared {
            delay,
            value_of: Some(value_of),
            ..Shared::default()
        })
    }

    fn serve(shared: Shared) -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(shared);
        let accepting = Arc::clone(&shared);
        let acceptor = thread::spawn(move || accept(&listener, &accepting));
        Origin {
            address,
            shared,
            acceptor: Some(acceptor),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets what is answered for `key` from now on.
    pub(crate) fn answer(&self, key: &str, status: u16, header: &str, body: &str) {
        let answer = Answer {
            status,
            header: header.into(),
            body: body.as_bytes().to_vec(),
        };
        self.shared.state.lock().answers.insert(key.into(), answer);
    }

    /// Holds the answers for `key` until [`release`](Origin::release).
    pub(crate) fn hold(&self, key: &str) {
        self.shared.state.lock().held.insert(key.into());
    }

    pub(crate) fn release(&self, key: &str) {
        self.shared.state.lock().held.remove(key);
        self.shared.changed.notify_all();
    }

    /// Closes the connection, once, instead of answering for `key`.
    pub(crate) fn break_off(&self, key: &str) {
        self.shared.state.lock().broken.insert(key.into());
    }

    /// Has one in so many requests fail from now on, by a status or a closed connection in turn.
    pub(crate) fn fail_one_in(&self, requests: usize) {
        self.shared.state.lock().failing = requests;
    }

    /// How many requests for `key` have come.
    pub(crate) fn asked(&self, key: &str) -> usize {
        let state = self.shared.state.lock();
        state.asked.get(key).copied().unwrap_or(0)
    }

    /// How many requests have come.
    pub(crate) fn requests(&self) -> usize {
        self.shared.state.lock().requests
    }

    /// All keys that were ever asked for.
    pub(crate) fn keys(&self) -> HashSet<String> {
        self.shared.state.lock().asked.keys().cloned().collect()
    }

    /// Waits until `count` requests for `key` have come.
    pub(crate) fn wait_until_asked(&self, key: &str, count: usize) {
        let end = Instant::now() + PATIENCE;
        let mut state = self.shared.state.lock();
        while state.asked.get(key).copied().unwrap_or(0) < count {
            let timed_out = self.shared.changed.wait_until(&mut state, end).timed_out();
            assert!(!timed_out, "nobody asks the origin for {key:?}");
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.state.lock().stopped = true;
        self.shared.changed.notify_all();
        // Wakes the acceptor, which then sees that it is to stop.
        let _ = TcpStream::connect(self.address);
        let acceptor = self.acceptor.take().map(JoinHandle::join);
        let connections = std::mem::take(&mut self.shared.state.lock().connections);
        for (stream, thread) in connections {
            let _ = stream.shutdown(Shutdown::Both);
            let _ = thread.join();
        }
        let failed = matches!(acceptor, Some(Err(_)));
        assert!(!failed || thread::panicking(), "the origin panicked");
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let stream = stream.unwrap();
        if shared.state.lock().stopped {
            return;
        }
        let handle = stream.try_clone().unwrap();
        let serving = Arc::clone(shared);
        // A connection that breaks is the client's affair.
        let thread = thread::spawn(move || drop(serve(stream, &serving)));
        let mut state = shared.state.lock();
        let is_open = |(_, thread): &(TcpStream, JoinHandle<()>)| !thread.is_finished();
        state.connections.retain(is_open);
        state.connections.push((handle, thread));
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(target) = read_request(&mut reader)? {
        let Some(answer) = shared.answer(&key_of(&target)) else {
            return stream.shutdown(Shutdown::Both);
        };
        thread::sleep(shared.delay);
        let mut message = format!(
            "HTTP/1.1 {} Status\r\nContent-Length: {}\r\n",
            answer.status,
            answer.body.len()
        );
        if !answer.header.is_empty() {
            message += &(answer.header + "\r\n");
        }
        let mut message = (message + "\r\n").into_bytes();
        message.extend(answer.body);
        stream.write_all(&message)?;
    }
    Ok(())
}

impl Shared {
    /// The answer, once it may be given; `None` if the connection is to be closed instead.
    fn answer(&self, key: &str) -> Option<Answer> {
        let mut state = self.state.lock();
        *state.asked.entry(key.into()).or_default() += 1;
        self.changed.notify_all();
        while state.held.contains(key) && !state.stopped {
            self.changed.wait(&mut state);
        }
        let usual = || Answer {
            status: 200,
            header: String::new(),
            body: match self.value_of {
                Some(value_of) => value_of(key),
                None => format!("value of {key}").into_bytes(),
            },
        };
        let mut answer = state.answers.get(key).cloned().unwrap_or_else(usual);
        let mut is_broken = state.broken.remove(key) || state.stopped;
        state.requests += 1;
        if state.failing > 0 && state.requests % state.failing == 0 {
            answer.status = 500;
            is_broken |= state.requests / state.failing % 2 == 0;
        }
        (!is_broken).then_some(answer)
    }
}

/// The target of the next request, `None` at the end of the connection.
fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<String>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut body = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            body = value.trim().parse().unwrap_or(0);
        }
    }
    std::io::copy(&mut reader.take(body), &mut std::io::sink())?;
    Ok(Some(target))
}

/// The key, if the target is one: a single segment, in which all else is escaped.
fn key_of(target: &str) -> String {
    match target.strip_prefix('/') {
        Some(encoded) if !encoded.contains(['/', '?', '#', '+', '.']) => {
            percent_decode_str(encoded).decode_utf8_lossy().into_owned()
        }
        _ => format!("no key: {target}"),
    }
}
