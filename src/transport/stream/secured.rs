//! `Secured`: a socket with TLS.
//!
//! Every step does as much as the socket allows, so that blocking and non-blocking sockets can be used:
//! [`rustls`] itself does no input or output.

use std::io::{self, ErrorKind, IoSlice, Read, Write};

use rustls::Connection;

/// The most bytes without data. Every handshake and every record is shorter.
const MAX_SILENT: usize = 256 << 10;

/// About the size of an idle session, and the most bytes that it buffers for the socket.
const SESSION: usize = 12 << 10;
const MAX_UNSENT: usize = 64 << 10;

pub(crate) struct Secured<S> {
    session: Connection,
    socket: S,
    /// How many bytes have come since the last data.
    silent: usize,
}

impl<S> Secured<S> {
    pub(crate) fn new(session: impl Into<Connection>, socket: S) -> Secured<S> {
        Secured {
            session: session.into(),
            socket,
            silent: 0,
        }
    }

    pub(super) fn socket(&self) -> &S {
        &self.socket
    }

    pub(super) fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    pub(super) fn has_part(&self) -> bool {
        self.silent > 0
    }

    pub(super) fn wants_write(&self) -> bool {
        self.session.wants_write()
    }

    /// About the size of its buffers, in bytes: unsent bytes count as the most that `rustls` buffers.
    pub(super) fn kept(&self) -> usize {
        let unsent = if self.wants_write() { MAX_UNSENT } else { 0 };
        SESSION + self.silent + unsent
    }

    pub(super) fn is_quiet(&mut self) -> bool {
        let state = self.session.process_new_packets();
        state.is_ok_and(|state| state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed())
    }

    /// Takes received data, or the end of the stream; `None` if there is neither.
    fn take(&mut self, bytes: &mut [u8]) -> Option<io::Result<usize>> {
        match self.session.reader().read(bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            taken => {
                self.silent = 0;
                Some(taken)
            }
        }
    }
}

impl<S: Read + Write> Secured<S> {
    /// Does the handshake, over a blocking socket.
    pub(crate) fn handshake(&mut self) -> io::Result<()> {
        while self.session.is_handshaking() {
            self.send()?;
            if self.session.is_handshaking() && self.receive()? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    pub(super) fn send_close(&mut self) {
        self.session.send_close_notify();
        // If that fails, the peer sees the end of the connection.
        let _ = self.send();
    }

    /// Reads once from the socket; gives the number of bytes.
    fn receive(&mut self) -> io::Result<usize> {
        let count = self.session.read_tls(&mut self.socket)?;
        let was_handshaking = self.session.is_handshaking();
        if let Err(error) = self.session.process_new_packets() {
            // An alert tells the peer why. If it cannot be sent, the error is the same.
            let _ = self.send();
            return Err(explain(error, was_handshaking));
        }
        if was_handshaking && !self.session.is_handshaking() {
            self.silent = 0;
        } else {
            self.silent += count;
        }
        if self.silent > MAX_SILENT {
            return Err(io::Error::new(ErrorKind::InvalidData, "much but no data"));
        }
        Ok(count)
    }

    /// Writes all unsent bytes to the socket.
    fn send(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            if self.session.write_tls(&mut self.socket)? == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }
}

impl<S: Read + Write> Read for Secured<S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if let Some(taken) = self.take(bytes) {
            return taken;
        }
        // If the peer has closed after it sent data, that data can still be read.
        let sent = self.send();
        let received = self.receive();
        received.map_err(|error| sent.err().unwrap_or(error))?;
        let taken = self.take(bytes);
        taken.unwrap_or_else(|| Err(ErrorKind::Interrupted.into()))
    }
}

impl<S: Read + Write> Write for Secured<S> {
    /// Takes `bytes` as long as the socket does, and up to 64 KiB more.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        loop {
            // First, so that the end of a handshake is sent together with the first data.
            taken += self.session.writer().write(&bytes[taken..])?;
            match self.send() {
                Err(error) if taken == 0 => return Err(error),
                Err(_) => return Ok(taken), // the next write returns it again
                Ok(()) if taken == bytes.len() => return Ok(taken),
                Ok(()) => {}
            }
        }
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut taken = 0;
        for part in parts {
            match self.write(part) {
                Err(error) if taken == 0 => return Err(error),
                Err(_) => break,
                Ok(count) => taken += count,
            }
            if self.wants_write() {
                break;
            }
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

fn explain(error: rustls::Error, was_handshaking: bool) -> io::Error {
    match error {
        rustls::Error::InvalidMessage(_) if was_handshaking => {
            let reason = format!("it does not speak TLS: {error}");
            io::Error::new(ErrorKind::InvalidData, reason)
        }
        error => io::Error::new(ErrorKind::InvalidData, error),
    }
}
