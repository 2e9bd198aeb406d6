//! A peer that is none: it answers what a test says.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use siphasher::sip::SipHasher13;

use crate::hostile::messages::{field, varint};

/// A request that has come.
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Of the path; empty if it has none.
    pub(crate) key: String,
    pub(crate) body: Vec<u8>,
}

/// Stopped when dropped.
pub(crate) struct FakePeer {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

type Answer = Box<dyn Fn(&Asked) -> Vec<u8> + Send + Sync>;

/// A connection, and the thread that serves it.
type Open = (TcpStream, JoinHandle<()>);

struct Shared {
    answer: Answer,
    /// `None` once it has stopped.
    open: Mutex<Option<Vec<Open>>>,
}

impl FakePeer {
    /// One that is alive whenever it is asked, and answers so to all else.
    pub(crate) fn start(answer: impl Fn(&Asked) -> Vec<u8> + Send + Sync + 'static) -> FakePeer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            answer: Box::new(answer),
            open: Mutex::new(Some(Vec::new())),
        });
        let accepting = Arc::clone(&shared);
        let acceptor = thread::spawn(move || accept(&listener, &accepting));
        FakePeer {
            address,
            shared,
            acceptor: Some(acceptor),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for FakePeer {
    fn drop(&mut self) {
        let open = self.shared.open.lock().take();
        // Wakes the acceptor, which then sees that it is to stop.
        let _ = TcpStream::connect(self.address);
        let _ = self.acceptor.take().map(JoinHandle::join);
        for (stream, thread) in open.into_iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let stream = stream.unwrap();
        let mut open = shared.open.lock();
        let Some(open) = open.as_mut() else { return };
        let (handle, serving) = (stream.try_clone().unwrap(), Arc::clone(shared));
        // A connection that breaks is the client's affair.
        let thread = thread::spawn(move || drop(serving.serve(stream)));
        open.retain(|(_, thread)| !thread.is_finished());
        open.push((handle, thread));
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        while let Some((target, asked)) = read(&mut reader)? {
            let bytes = if target == "/_groupcache/" {
                ok(b"alive\n")
            } else {
                (self.answer)(&asked)
            };
            stream.write_all(&bytes)?;
        }
        stream.shutdown(Shutdown::Both)
    }
}

/// The next request, `None` at the end of the connection.
fn read(reader: &mut impl BufRead) -> io::Result<Option<(String, Asked)>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ').map(str::to_owned);
    let mut word = || words.next().unwrap_or_default();
    let (method, target) = (word(), word());
    let mut length = 0;
    while line != "\r\n" {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if let Some((name, value)) = line.split_once(':') {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap();
            }
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let key = target.splitn(4, '/').nth(3).unwrap_or_default();
    let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
    Ok(Some((target, Asked { method, key, body })))
}

/// An answer of an older peer, which does not say to which request it belongs.
pub(crate) fn ok(body: &[u8]) -> Vec<u8> {
    said("200 OK", "ok", body)
}

pub(crate) fn said(code: &str, status: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {code}\r\nX-Groupcache: v=1;s={status}\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// The value of a key of the group `objects`, as a `GetResponse`.
pub(crate) fn value(key: &str) -> Vec<u8> {
    let group = b"objects";
    let named = [
        &(group.len() as u64).to_le_bytes()[..],
        group,
        key.as_bytes(),
    ]
    .concat();
    let hash =
        SipHasher13::new_with_keys(0x6772_6f75_7063_6163, 0x6865_2d72_696e_672e).hash(&named);
    let value = field(1, format!("value of {key}").as_bytes());
    [varint(101 << 3 | 1), hash.to_le_bytes().to_vec(), value].concat()
}

/// The keys of a `get` command, whatever else is in it that has a length.
pub(crate) fn keys_of(mut command: &[u8]) -> Vec<String> {
    let mut keys = Vec::new();
    while let Some((tag, rest)) = read_varint(command) {
        let Some((number, rest)) = read_varint(rest) else {
            break;
        };
        command = rest;
        if tag & 7 == 2 {
            let (bytes, rest) = rest.split_at((number as usize).min(rest.len()));
            command = rest;
            if tag >> 3 == 3 {
                keys.push(String::from_utf8_lossy(bytes).into_owned());
            }
        }
    }
    keys
}

fn read_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let length = bytes.iter().position(|byte| byte & 0x80 == 0)? + 1;
    let digits = bytes[..length].iter().rev();
    let number = digits.fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f));
    Some((number, &bytes[length..]))
}
