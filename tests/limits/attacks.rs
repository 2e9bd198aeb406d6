//! What hostile clients do, each at a fixed rate: on few processors an attacker that takes what it
//! can would be measured, not the server.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

/// A server under attack.
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) over: AtomicBool,
}

/// What became of the requests and the connections of an attack.
pub(crate) type Told = BTreeMap<String, usize>;

pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Target, &mut Told),
    /// What it must be told at least once.
    pub(crate) refusal: Option<&'static str>,
}

const fn attack(
    name: &'static str,
    run: fn(&Target, &mut Told),
    refusal: Option<&'static str>,
) -> Attack {
    Attack { name, run, refusal }
}

pub(crate) const ATTACKS: &[Attack] = &[
    attack("1,000 heads at 1 byte/s", slow_heads, None),
    attack("1,000 bodies at 1 byte/s", slow_bodies, None),
    attack("answers of 4 MiB, 100/s, unread", unread_answers, None),
    attack("endless pipelined GETs, unread", pipelined, None),
    attack(
        "declared lengths to 2^64, 200/s",
        declared_lengths,
        Some("413"),
    ),
    attack("header lines of 64 MiB, 20/s", endless_headers, Some("431")),
    attack("100 and more headers, 200/s", many_headers, Some("431")),
    attack("request lines of 64 KiB, 200/s", long_lines, Some("414")),
    attack("bodies of 200 MiB, 20/s", huge_bodies, Some("413")),
    attack("smuggling, 500/s", smuggling, Some("400")),
    attack("TLS to the plain port, 500/s", tls, Some("400")),
    attack("1,000 connections/s, kept", flood, None),
    attack("1,000 connections/s, reset", resets, None),
    attack("10,000 idle connections", idle, None),
];

/// Where a value is that is larger than the buffers of a socket.
pub(crate) const LARGE: &str = "/_groupcache/objects/large";
const SMALL: &str = "/_groupcache/objects/small";

/// How many connections come from one address.
const OF_ADDRESS: usize = 1_000;

impl Target {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Connects from an address of the attackers, the more of which there are the larger `number`.
    fn connect(&self, number: usize) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        let from = SocketAddr::from(([127, 0, 1, (number / OF_ADDRESS) as u8 + 1], 0));
        socket.bind(&from.into())?;
        socket.connect(&self.address.into())?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    /// Does something so many times a second, until it is over.
    fn every(&self, per_second: u32, mut act: impl FnMut(usize)) {
        let (start, step) = (Instant::now(), Duration::from_secs(1) / per_second);
        for number in 0.. {
            if self.is_over() {
                return;
            }
            act(number);
            let next = start + step * number as u32;
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
}

fn note(told: &mut Told, what: &str) {
    *told.entry(what.to_owned()).or_default() += 1;
}

/// What the server has said, if anything: a status, or that it closed.
fn heard(stream: &mut TcpStream) -> Option<String> {
    let mut head = [0; 512];
    match stream.read(&mut head) {
        Ok(0) => Some("closed".to_owned()),
        Ok(count) => {
            let text = String::from_utf8_lossy(&head[..count]);
            let status = text.strip_prefix("HTTP/1.1 ");
            Some(
                status
                    .map_or("more", |rest| rest.get(..3).unwrap_or("?"))
                    .to_owned(),
            )
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(_) => Some("reset".to_owned()),
    }
}

/// The first thing the server says within a second.
fn answer(stream: &mut TcpStream) -> String {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    heard(stream).unwrap_or_else(|| "nothing".to_owned())
}

/// Sends `bytes` on a connection of its own, as often as the server takes it, and notes the answer.
fn ask(target: &Target, number: usize, bytes: &[u8], times: usize, told: &mut Told) {
    let Ok(mut stream) = target.connect(number % OF_ADDRESS) else {
        return note(told, "not connected");
    };
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
    for _ in 0..times {
        if stream.write_all(bytes).is_err() {
            break;
        }
    }
    note(told, &answer(&mut stream));
}

/// Has 1,000 connections begin with `start`, and go on with a byte each second. New ones take the
/// place of those that are cut off.
fn drip(target: &Target, start: &[u8], told: &mut Told) {
    const COUNT: usize = 1_000;
    let mut streams: Vec<Option<TcpStream>> = (0..COUNT).map(|_| None).collect();
    target.every(COUNT as u32, |number| {
        let number = number % COUNT;
        let mut stream = streams[number].take();
        if let Some(what) = stream.as_mut().and_then(heard) {
            note(told, &what);
            stream = None;
        }
        streams[number] = match stream {
            Some(mut stream) => stream.write_all(b"x").is_ok().then_some(stream),
            None => {
                let stream = target.connect(number);
                let stream = stream.and_then(|mut stream| stream.write_all(start).map(|()| stream));
                note(
                    told,
                    if stream.is_ok() {
                        "opened"
                    } else {
                        "not connected"
                    },
                );
                stream.ok()
            }
        };
    });
}

fn slow_heads(target: &Target, told: &mut Told) {
    drip(
        target,
        b"GET /_groupcache/objects/small HTTP/1.1\r\nHost: h\r\nX: ",
        told,
    );
}

fn slow_bodies(target: &Target, told: &mut Told) {
    let start = "PUT /_groupcache/objects/x HTTP/1.1\r\nHost: h\r\nX-Groupcache: v=1\r\nContent-Length: 100000\r\n\r\n";
    drip(target, start.as_bytes(), told);
}

/// Has one connection after the other send `request`, if there is room, and read nothing.
fn read_nothing(
    target: &Target,
    connections: usize,
    per_second: u32,
    request: &[u8],
    told: &mut Told,
) {
    let mut streams: Vec<_> = (0..connections).map(|_| None).collect();
    target.every(per_second, |number| {
        let number = number % connections;
        let mut stream = match streams[number].take() {
            Some(stream) => stream,
            None => match target.connect(number) {
                Ok(stream) => stream,
                Err(_) => return note(told, "not connected"),
            },
        };
        streams[number] = match stream.write(request) {
            Ok(_) => Some(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Some(stream),
            Err(_) => {
                note(told, "cut off");
                None
            }
        };
    });
}

fn unread_answers(target: &Target, told: &mut Told) {
    let request = format!("GET {LARGE} HTTP/1.1\r\nHost: h\r\n\r\n");
    read_nothing(target, 1_000, 100, request.as_bytes(), told);
}

fn pipelined(target: &Target, told: &mut Told) {
    let request = format!("GET {SMALL} HTTP/1.1\r\nHost: h\r\n\r\n");
    // As many as the system takes: 1,000 requests every millisecond.
    read_nothing(target, 4, 1_000, request.repeat(1_000).as_bytes(), told);
}

fn put_of(length: &str) -> String {
    format!(
        "PUT /_groupcache/objects/x HTTP/1.1\r\nHost: h\r\nX-Groupcache: v=1\r\nContent-Length: {length}\r\n\r\n"
    )
}

fn declared_lengths(target: &Target, told: &mut Told) {
    let lengths = [
        "1000000000000",
        "9223372036854775807",
        "18446744073709551615",
    ];
    let requests = lengths.map(put_of);
    target.every(200, |number| {
        ask(
            target,
            number,
            requests[number % requests.len()].as_bytes(),
            1,
            told,
        );
    });
}

fn endless_headers(target: &Target, told: &mut Told) {
    let part = [b'a'; 64 << 10];
    target.every(20, |number| {
        let Ok(mut stream) = target.connect(number % OF_ADDRESS) else {
            return note(told, "not connected");
        };
        let _ = stream.set_nonblocking(false);
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nX: ");
        let parts = (0..1_024).take_while(|_| stream.write_all(&part).is_ok());
        let sent = parts.count();
        note(
            told,
            if sent == 1_024 {
                "64 MiB taken"
            } else {
                "not taken"
            },
        );
        note(told, &answer(&mut stream));
    });
}

fn many_headers(target: &Target, told: &mut Told) {
    let headers = "X: y\r\n".repeat(101);
    let request = format!("GET {SMALL} HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
    target.every(200, |number| {
        ask(target, number, request.as_bytes(), 1, told)
    });
}

fn long_lines(target: &Target, told: &mut Told) {
    let request = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(64 << 10));
    target.every(200, |number| {
        ask(target, number, request.as_bytes(), 1, told)
    });
}

fn huge_bodies(target: &Target, told: &mut Told) {
    let mut body = put_of("209715200").into_bytes();
    body.resize(1 << 20, 0);
    target.every(20, |number| ask(target, number, &body, 200, told));
}

fn smuggling(target: &Target, told: &mut Told) {
    let put = "PUT /_groupcache/objects/small HTTP/1.1\r\nHost: h\r\nX-Groupcache: v=1\r\n";
    let smuggled =
        "DELETE /_groupcache/objects/small HTTP/1.1\r\nHost: h\r\nX-Groupcache: v=1\r\n\r\n";
    let requests = [
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: xyz",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length : 5",
        "X: a\r\n b",
        "X: a\0b",
        "Host: h",
    ]
    .map(|headers| format!("{put}{headers}\r\n\r\n0\r\n\r\n{smuggled}"));
    target.every(500, |number| {
        ask(
            target,
            number,
            requests[number % requests.len()].as_bytes(),
            1,
            told,
        );
    });
}

fn tls(target: &Target, told: &mut Told) {
    // The beginning of a ClientHello.
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 500]].concat();
    target.every(500, |number| ask(target, number, &hello, 1, told));
}

fn flood(target: &Target, told: &mut Told) {
    let mut streams = Vec::new();
    target.every(1_000, |_| {
        // All from one address, which may have 1,024.
        match target.connect(0) {
            Ok(stream) => streams.push(stream),
            Err(_) => return note(told, "not connected"),
        }
        note(told, "opened");
        if streams.len() == 4_000 {
            streams.drain(..2_000);
        }
    });
    note_heard(&mut streams, told);
}

fn resets(target: &Target, told: &mut Told) {
    target.every(1_000, |number| {
        let Ok(mut stream) = target.connect(number % OF_ADDRESS) else {
            return note(told, "not connected");
        };
        let _ = stream.write_all(b"GET /_groupcache/objects/small HTTP/1.1\r\n");
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        note(told, "reset by us");
    });
}

fn idle(target: &Target, told: &mut Told) {
    let mut streams = Vec::new();
    target.every(5_000, |number| {
        if streams.len() < 10_000 {
            match target.connect(number) {
                Ok(stream) => streams.push(stream),
                Err(_) => return note(told, "not connected"),
            }
            note(told, "opened");
        }
    });
    note_heard(&mut streams, told);
}

fn note_heard(streams: &mut [TcpStream], told: &mut Told) {
    for what in streams.iter_mut().filter_map(heard) {
        note(told, &what);
    }
}
