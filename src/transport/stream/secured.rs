//! `Secured`: a socket behind TLS.
//!
//! Every step does what the socket allows and no more, so that it serves sockets that wait and such
//! that do not: [`rustls`] itself never touches one.

use std::io::{self, ErrorKind, IoSlice, Read, Write};

use rustls::Connection;

/// How much may come that is no data. A handshake is shorter, and so is every record.
const MAX_SILENT: usize = 256 << 10;

/// What a session takes that has nothing to say, about, and how much it takes at once for the socket.
const SESSION: usize = 12 << 10;
const MAX_UNSENT: usize = 64 << 10;

pub(crate) struct Secured<S> {
    session: Connection,
    socket: S,
    /// How many bytes have come since there was data.
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

    /// How much it keeps, in bytes, about: of what it has yet to send up to what `rustls` takes at once.
    pub(super) fn kept(&self) -> usize {
        let unsent = if self.wants_write() { MAX_UNSENT } else { 0 };
        SESSION + self.silent + unsent
    }

    pub(super) fn is_quiet(&mut self) -> bool {
        let state = self.session.process_new_packets();
        state.is_ok_and(|state| state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed())
    }

    /// Data that has come, or the end of it; `None` if there is neither.
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
    /// Agrees on keys with the other side, over a socket that waits.
    pub(crate) fn shake_hands(&mut self) -> io::Result<()> {
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
        // Who does not read it sees the end of the socket.
        let _ = self.send();
    }

    /// Reads once from the socket; tells how much has come.
    fn receive(&mut self) -> io::Result<usize> {
        let count = self.session.read_tls(&mut self.socket)?;
        let was_handshaking = self.session.is_handshaking();
        if let Err(error) = self.session.process_new_packets() {
            // The other side had better know why. If it does not, that changes nothing.
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

    /// Writes what there is to the socket.
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
        // The other side may have closed after it has said something: that is still to be read.
        let sent = self.send();
        let received = self.receive();
        received.map_err(|error| sent.err().unwrap_or(error))?;
        let taken = self.take(bytes);
        taken.unwrap_or_else(|| Err(ErrorKind::Interrupted.into()))
    }
}

impl<S: Read + Write> Write for Secured<S> {
    /// Takes `bytes` for as long as the socket does, and up to 64 KiB more.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        loop {
            // First of all, so that the last of a handshake goes out with the first of the data.
            taken += self.session.writer().write(&bytes[taken..])?;
            match self.send() {
                Err(error) if taken == 0 => return Err(error),
                Err(_) => return Ok(taken), // it is seen again when the rest is sent
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
