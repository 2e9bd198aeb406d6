//! `Socket`: a TCP stream whose every wait ends in time.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
#[cfg(unix)]
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

#[cfg(unix)]
use socket2::SockRef;

/// By how much a wait may be too long for the sake of fewer calls to the system, whose own timers
/// are as coarse.
const SLACK: Duration = Duration::from_millis(2);

pub(super) struct Socket {
    stream: TcpStream,
    until: Instant,
    /// What the system knows of it.
    timeout: Duration,
}

impl Socket {
    pub(super) fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Socket> {
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        Ok(Socket {
            stream,
            until: Instant::now(),
            timeout: Duration::ZERO,
        })
    }

    /// Sets when all that is waited for from now on has to be here.
    pub(super) fn set_deadline(&mut self, until: Instant) {
        self.until = until;
    }

    /// Whether the other side still holds it and has said nothing, as far as can be seen from here.
    pub(super) fn is_quiet(&self) -> bool {
        matches!(peek(&self.stream), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// The timeout of a socket is one for each wait; this makes it one for all of them together.
    fn limit(&mut self) -> io::Result<()> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        if self.timeout.abs_diff(left) > SLACK {
            self.stream.set_read_timeout(Some(left))?;
            self.stream.set_write_timeout(Some(left))?;
            self.timeout = left;
        }
        Ok(())
    }
}

/// Looks at what has come, without waiting, in one call to the system.
#[cfg(unix)]
fn peek(stream: &TcpStream) -> io::Result<usize> {
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    SockRef::from(stream).recv_with_flags(&mut [MaybeUninit::uninit()], flags)
}

/// Looks at what has come, without waiting.
#[cfg(not(unix))]
fn peek(stream: &TcpStream) -> io::Result<usize> {
    stream.set_nonblocking(true)?;
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).and(peeked)
}

impl Read for Socket {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.limit()?;
        self.stream.read(bytes)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.limit()?;
        self.stream.write(bytes)
    }

    /// All at once: TLS has its records one by one.
    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.limit()?;
        self.stream.write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let socket = Socket::connect(address, Duration::from_secs(60)).unwrap();
        (socket, listener.accept().unwrap().0)
    }

    #[test]
    fn a_byte_now_and_then_does_not_make_the_time_longer() {
        let (mut socket, mut other) = pair();
        let begin = Instant::now();
        socket.set_deadline(begin + Duration::from_millis(50));
        let error = loop {
            other.write_all(&[1]).unwrap();
            match socket.read(&mut [0; 1]) {
                Ok(count) => assert_eq!(count, 1),
                Err(error) => break error,
            }
        };
        assert!(matches!(
            error.kind(),
            ErrorKind::TimedOut | ErrorKind::WouldBlock
        ));
        assert!(begin.elapsed() >= Duration::from_millis(50));
    }

    #[test]
    fn silence_ends_in_time_and_a_later_deadline_waits_anew() {
        let (mut socket, mut other) = pair();
        socket.set_deadline(Instant::now() + Duration::from_millis(5));
        assert!(socket.read(&mut [0; 1]).is_err());
        socket.set_deadline(Instant::now() + Duration::from_secs(60));
        other.write_all(&[7]).unwrap();
        assert_eq!(socket.read(&mut [0; 1]).unwrap(), 1);
    }

    #[test]
    fn what_the_other_side_does_with_an_idle_connection_is_seen() {
        let (socket, mut other) = pair();
        assert!(socket.is_quiet());
        other.write_all(&[7]).unwrap();
        while socket.is_quiet() {}
        let (socket, other) = pair();
        drop(other);
        while socket.is_quiet() {}
    }
}
