//! Our server, asked by the barest client there is: tells its part of the time from our client's.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use groupcache_sync_benches::Failure;

use crate::contender::{Cell, Contender, Run, connect, run_threads};
use crate::ours::GROUP;

/// Room for what an answer has besides the value.
const OVERHEAD: usize = 2 << 10;

pub(crate) struct BareClient {
    pub(crate) address: SocketAddr,
    pub(crate) server: u32,
}

impl Contender for BareClient {
    fn name(&self) -> &'static str {
        "bare client, our server"
    }

    fn run(&self, cell: &Cell<'_>) -> Result<Run, Failure> {
        run_threads(cell, || {
            let mut server = connect(self.address)?;
            let mut answer = vec![0; cell.bytes + OVERHEAD];
            Ok(move |key: &str| {
                let length = ask(&mut server, key, &mut answer)?;
                // The message around the value has a few bytes of its own.
                Ok(if length >= cell.bytes {
                    cell.bytes
                } else {
                    length
                })
            })
        })
    }

    fn processes(&self) -> Vec<u32> {
        vec![std::process::id(), self.server]
    }
}

/// Gives the length of the answer's body.
fn ask(server: &mut TcpStream, key: &str, answer: &mut [u8]) -> Result<usize, Failure> {
    let request = format!("GET /_groupcache/{GROUP}/{key} HTTP/1.1\r\nhost: server\r\n\r\n");
    server.write_all(request.as_bytes())?;
    let (mut filled, mut body) = (0, None);
    loop {
        let read = server.read(&mut answer[filled..])?;
        if read == 0 {
            return Err("the server hung up, or its answer is too long".into());
        }
        filled += read;
        if body.is_none() {
            body = body_of(&answer[..filled])?;
        }
        match body {
            Some((start, length)) if filled >= start + length => return Ok(length),
            _ => {}
        }
    }
}

/// Where the body of an answer begins, and its length, once its head is here.
fn body_of(answer: &[u8]) -> Result<Option<(usize, usize)>, Failure> {
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&answer[..head])?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let matches = name.eq_ignore_ascii_case("content-length");
        matches.then(|| value.trim().parse::<usize>().ok())?
    });
    Ok(Some((
        head + 4,
        length.ok_or("an answer without a length")?,
    )))
}
