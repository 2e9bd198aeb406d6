//! Requests as bytes: what no client of this crate would send.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::Duration;

/// Where the keys of the nodes are.
pub(crate) const GROUP: &str = "/_groupcache/objects";

/// How many keys one batch may have.
pub(crate) const MAX_KEYS: usize = 1_024;

pub(crate) fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A field of a message that has a length.
pub(crate) fn field(number: u64, value: &[u8]) -> Vec<u8> {
    let tag = varint(number << 3 | 2);
    [tag, varint(value.len() as u64), value.to_vec()].concat()
}

/// The command `get` for these keys.
pub(crate) fn get_command(keys: impl IntoIterator<Item = String>) -> Vec<u8> {
    keys.into_iter()
        .flat_map(|key| field(3, key.as_bytes()))
        .collect()
}

/// A request as a peer sends it, with these pairs behind the version.
pub(crate) fn request(method: &str, target: &str, pairs: &str, body: &[u8]) -> Vec<u8> {
    request_with(
        method,
        target,
        &format!("X-Groupcache: v=1{pairs}\r\n"),
        body,
    )
}

/// A request with these header lines.
pub(crate) fn request_with(method: &str, target: &str, lines: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("{method} {target} HTTP/1.1\r\nHost: h\r\n{lines}Content-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// The status of the next answer, whose body is read too; `None` if none comes in time.
pub(crate) fn answer(stream: &mut TcpStream, patience: Duration) -> Option<u16> {
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    let (mut bytes, mut room) = (Vec::new(), [0; 16 << 10]);
    loop {
        if let Some((status, length)) = parse(&bytes) {
            if bytes.len() >= length {
                return Some(status);
            }
        }
        match stream.read(&mut room) {
            // Who closes may do so in the middle of a refusal.
            Ok(0) => return parse(&bytes).map(|(status, _)| status),
            Ok(count) => bytes.extend(&room[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return parse(&bytes).map(|(status, _)| status),
        }
    }
}

/// The status of an answer whose head is here, and how long it is in all.
fn parse(bytes: &[u8]) -> Option<(u16, usize)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]);
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "));
    let length: usize = length.map_or(Some(0), |length| length.parse().ok())?;
    Some((status, end + length))
}
