//! The barest HTTP client there is.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::Failure;

/// Only a hang lets it pass.
const GUARD: Duration = Duration::from_secs(30);

/// Room for what an answer has besides the value.
const OVERHEAD: usize = 2 << 10;

/// A connection that sends what costs it nothing, at once.
///
/// # Errors
///
/// The system's, if it cannot.
pub fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(GUARD))?;
    Ok(stream)
}

/// A connection to a server that answers with values up to a size.
#[derive(Debug)]
pub struct Http {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Http {
    /// Connects.
    ///
    /// # Errors
    ///
    /// The system's, if it cannot.
    pub fn connect(server: SocketAddr, max_value: usize) -> io::Result<Http> {
        Ok(Http {
            stream: connect(server)?,
            answer: vec![0; max_value + OVERHEAD],
        })
    }

    /// Asks for a key of a group, and gives the length of the body of the answer.
    ///
    /// # Errors
    ///
    /// If the server hangs up or does not answer with 200.
    pub fn get(&mut self, group: &str, key: &str) -> Result<usize, Failure> {
        self.ask(group, key)?;
        self.answer()
    }

    /// Sends the request for a key of a group.
    ///
    /// # Errors
    ///
    /// If the server has hung up.
    pub fn ask(&mut self, group: &str, key: &str) -> io::Result<()> {
        let request = format!("GET /_groupcache/{group}/{key} HTTP/1.1\r\nhost: server\r\n\r\n");
        self.stream.write_all(request.as_bytes())
    }

    /// Reads an answer, and gives the length of its body.
    ///
    /// # Errors
    ///
    /// If the server hangs up or does not answer with 200.
    pub fn answer(&mut self) -> Result<usize, Failure> {
        let (mut filled, mut body) = (0, None);
        loop {
            let read = self.stream.read(&mut self.answer[filled..])?;
            if read == 0 {
                return Err("the server hung up, or its answer is too long".into());
            }
            filled += read;
            if body.is_none() {
                body = body_of(&self.answer[..filled])?;
            }
            match body {
                Some((start, length)) if filled >= start + length => return Ok(length),
                _ => {}
            }
        }
    }
}

/// Where the body of an answer begins, and its length, once its head is here.
fn body_of(answer: &[u8]) -> Result<Option<(usize, usize)>, Failure> {
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&answer[..head])?;
    if !text.starts_with("HTTP/1.1 200") {
        return Err(format!("not a value: {text}").into());
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(body_of(&answer[..20]).unwrap(), None);
        assert_eq!(body_of(answer).unwrap(), Some((38, 3)));
        assert!(body_of(b"HTTP/1.1 404 Not Found\r\n\r\n").is_err());
    }
}
