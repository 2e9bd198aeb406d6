//! `Socket`: a TCP stream with a timeout for silence and one for a whole call.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
#[cfg(unix)]
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

#[cfg(unix)]
use socket2::SockRef;

/// How many bytes the peer must receive or send to count as not silent: a byte now and then does not
/// prolong a call.
const PROGRESS: usize = 64 << 10;

/// After a body was written, the peer is given one more [`Patience::silence`] for each so many bytes of it,
/// because the system may still be sending them.
const UNDER_WAY: usize = 1 << 20;

/// By how much a wait may be too long, to save system calls. The timers of the system are as coarse.
const SLACK: Duration = Duration::from_millis(2);

pub(super) struct Socket {
    stream: TcpStream,
    patience: Patience,
    /// When the peer counts as silent, unless it makes progress.
    silent_at: Instant,
    /// How many bytes were sent and received since the last progress.
    moved: usize,
    /// After progress: how many times [`Patience::silence`] the next wait may last.
    renewal: Option<u32>,
    /// Whether there was progress at all.
    has_moved: bool,
    /// The timeout that is set in the system.
    timeout: Duration,
}

/// How long a call may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) begin: Instant,
    /// How long the peer may be silent: until its answer begins, and then for each [`PROGRESS`] bytes.
    pub(super) silence: Duration,
    /// How long the whole call may take.
    pub(super) whole: Duration,
}

impl Patience {
    /// The patience of a call that has to be finished at `until`.
    pub(super) fn until(until: Instant) -> Patience {
        let begin = Instant::now();
        let whole = until.saturating_duration_since(begin);
        Patience {
            begin,
            silence: whole,
            whole,
        }
    }

    fn end(&self) -> Instant {
        self.begin + self.whole
    }
}

impl Socket {
    pub(super) fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Socket> {
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        let patience = Patience::until(Instant::now());
        Ok(Socket {
            stream,
            patience,
            silent_at: patience.end(),
            moved: 0,
            renewal: None,
            has_moved: false,
            timeout: Duration::ZERO,
        })
    }

    /// Begins a call with this patience.
    pub(super) fn set_patience(&mut self, patience: Patience) {
        self.patience = patience;
        self.silent_at = patience.begin + patience.silence;
        self.moved = 0;
        self.renewal = None;
        self.has_moved = false;
    }

    /// Notes that a whole body was written to the system: the peer may not have received it yet.
    pub(super) fn note_sent(&mut self, length: usize) {
        let under_way = u32::try_from(length / UNDER_WAY).unwrap_or(u32::MAX);
        self.renewal = Some(under_way.saturating_add(1));
        self.moved = 0;
    }

    /// Notes that the answer has begun.
    pub(super) fn note_answer(&mut self) {
        self.renewal = Some(1);
        self.moved = 0;
    }

    /// After a timeout: whether the peer was silent for too long. If not, the whole call took too long.
    pub(super) fn was_silent(&self) -> bool {
        !self.has_moved || self.silent_at < self.patience.end()
    }

    fn note_moved(&mut self, count: usize) {
        self.moved += count;
        if self.moved >= PROGRESS {
            self.renewal = Some(1);
            self.moved = 0;
        }
    }

    /// Whether the peer has neither closed the connection nor sent anything, as far as the system knows.
    pub(super) fn is_quiet(&self) -> bool {
        matches!(peek(&self.stream), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Sets the timeout of the next wait. The timeout of a socket is for each wait, however few bytes come;
    /// this limits the time for [`PROGRESS`] bytes, and that of the whole call.
    fn limit(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if let Some(times) = self.renewal.take() {
            // The time of the whole call is the limit anyway.
            let silence = self.patience.silence.saturating_mul(times);
            self.silent_at = now + silence.min(self.patience.whole);
            self.has_moved = true;
        }
        let until = self.silent_at.min(self.patience.end());
        let left = until.saturating_duration_since(now);
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

/// Peeks at the received bytes without blocking, in one system call.
#[cfg(unix)]
fn peek(stream: &TcpStream) -> io::Result<usize> {
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    SockRef::from(stream).recv_with_flags(&mut [MaybeUninit::uninit()], flags)
}

/// Peeks at the received bytes without blocking.
#[cfg(not(unix))]
fn peek(stream: &TcpStream) -> io::Result<usize> {
    stream.set_nonblocking(true)?;
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).and(peeked)
}

impl Read for Socket {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.limit()?;
        let count = self.stream.read(bytes)?;
        self.note_moved(count);
        Ok(count)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.limit()?;
        let count = self.stream.write(bytes)?;
        self.note_moved(count);
        Ok(count)
    }

    /// In one system call: TLS passes its records as separate slices.
    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.limit()?;
        let count = self.stream.write_vectored(parts)?;
        self.note_moved(count);
        Ok(count)
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
        let socket = Socket::connect(address, LONG).unwrap();
        (socket, listener.accept().unwrap().0)
    }

    const LONG: Duration = Duration::from_secs(60);

    fn patience(silence: Duration, whole: Duration) -> Patience {
        Patience {
            begin: Instant::now(),
            silence,
            whole,
        }
    }

    fn is_timeout(error: &io::Error) -> bool {
        matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
    }

    #[test]
    fn a_byte_now_and_then_does_not_make_the_time_longer() {
        let (mut socket, mut other) = pair();
        let short = Duration::from_millis(50);
        socket.set_patience(patience(short, LONG));
        let begin = Instant::now();
        let error = loop {
            other.write_all(&[1]).unwrap();
            match socket.read(&mut [0; 1]) {
                Ok(count) => assert_eq!(count, 1),
                Err(error) => break error,
            }
        };
        assert!(is_timeout(&error) && socket.was_silent());
        assert!(begin.elapsed() >= short);
    }

    #[test]
    fn silence_ends_in_time_and_a_later_call_waits_anew() {
        let (mut socket, mut other) = pair();
        socket.set_patience(patience(Duration::from_millis(5), LONG));
        assert!(is_timeout(&socket.read(&mut [0; 1]).unwrap_err()));
        assert!(socket.was_silent());
        socket.set_patience(patience(LONG, LONG));
        other.write_all(&[7]).unwrap();
        assert_eq!(socket.read(&mut [0; 1]).unwrap(), 1);
    }

    #[test]
    fn an_answer_with_progress_takes_as_long_as_the_whole_call_may() {
        let (mut socket, mut other) = pair();
        let whole = Duration::from_millis(1_500);
        socket.set_patience(patience(whole / 2, whole));
        let begin = Instant::now();
        let sender = std::thread::spawn(move || {
            // Until the peer closes.
            while other.write_all(&[1; PROGRESS]).is_ok() {}
        });
        let mut bytes = vec![0; PROGRESS];
        let error = loop {
            if let Err(error) = socket.read(&mut bytes) {
                break error;
            }
        };
        assert!(is_timeout(&error) && !socket.was_silent());
        assert!(begin.elapsed() >= whole, "twice what silence may take");
        drop(socket);
        sender.join().unwrap();
    }

    #[test]
    fn a_body_that_is_under_way_is_waited_for_by_its_length() {
        let (mut socket, _other) = pair();
        let short = Duration::from_millis(20);
        socket.set_patience(patience(short, LONG));
        let begin = Instant::now();
        socket.note_sent(3 * UNDER_WAY);
        assert!(is_timeout(&socket.read(&mut [0; 1]).unwrap_err()));
        assert!(begin.elapsed() >= 4 * short);
        assert!(socket.was_silent());
    }

    #[test]
    fn bytes_and_the_end_of_an_idle_connection_are_seen() {
        let (socket, mut other) = pair();
        assert!(socket.is_quiet());
        other.write_all(&[7]).unwrap();
        while socket.is_quiet() {}
        let (socket, other) = pair();
        drop(other);
        while socket.is_quiet() {}
    }
}
