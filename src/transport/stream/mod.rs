//! `Stream`: bytes to and from the other side of a connection, as they are or through TLS.
//!
//! Both sides use it, over whatever socket is theirs: the client over one that waits, the listener
//! over one that does not. Without TLS nothing stands between them and the socket.

#[cfg(feature = "tls")]
mod secured;

use std::io::{self, IoSlice, Read, Write};

#[cfg(feature = "tls")]
pub(crate) use secured::Secured;

pub(crate) enum Stream<S> {
    Plain(S),
    /// Boxed: it is large.
    #[cfg(feature = "tls")]
    Tls(Box<Secured<S>>),
}

impl<S> Stream<S> {
    pub(crate) fn socket(&self) -> &S {
        match self {
            Stream::Plain(socket) => socket,
            #[cfg(feature = "tls")]
            Stream::Tls(secured) => secured.socket(),
        }
    }

    pub(crate) fn socket_mut(&mut self) -> &mut S {
        match self {
            Stream::Plain(socket) => socket,
            #[cfg(feature = "tls")]
            Stream::Tls(secured) => secured.socket_mut(),
        }
    }

    /// Whether both sides have yet to agree on keys.
    pub(crate) fn is_handshaking(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            #[cfg(feature = "tls")]
            Stream::Tls(secured) => secured.is_handshaking(),
        }
    }

    /// Whether something has come that is not a whole record yet.
    pub(crate) fn has_part(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            #[cfg(feature = "tls")]
            Stream::Tls(secured) => secured.has_part(),
        }
    }

    /// Whether what was written, or what TLS itself has to say, has yet to reach the socket: see
    /// [`flush`](Write::flush).
    pub(crate) fn wants_write(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            #[cfg(feature = "tls")]
            Stream::Tls(secured) => secured.wants_write(),
        }
    }

    /// How much it keeps of what has come and of what is to be sent, in bytes.
    pub(crate) fn kept(&self) -> usize {
        match self {
            Stream::Plain(_) => 0,
            #[cfg(feature = "tls")]
            Stream::Tls(secured) => secured.kept(),
        }
    }

    /// Whether all that has come was read, and more may come.
    pub(crate) fn is_quiet(&mut self) -> bool {
        match self {
            Stream::Plain(_) => true,
            #[cfg(feature = "tls")]
            Stream::Tls(secured) => secured.is_quiet(),
        }
    }
}

impl<S: Read + Write> Stream<S> {
    /// Has the other side know that there is no more to come, as far as the socket takes it at
    /// once. Without TLS its end says so.
    pub(crate) fn send_close(&mut self) {
        match self {
            Stream::Plain(_) => {}
            #[cfg(feature = "tls")]
            Stream::Tls(secured) => secured.send_close(),
        }
    }
}

impl<S: Read + Write> Read for Stream<S> {
    /// Through TLS also [`Interrupted`](io::ErrorKind::Interrupted), where something has come that
    /// is no data.
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(bytes),
            #[cfg(feature = "tls")]
            Stream::Tls(secured) => secured.read(bytes),
        }
    }
}

impl<S: Read + Write> Write for Stream<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(bytes),
            #[cfg(feature = "tls")]
            Stream::Tls(secured) => secured.write(bytes),
        }
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write_vectored(parts),
            #[cfg(feature = "tls")]
            Stream::Tls(secured) => secured.write_vectored(parts),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.flush(),
            #[cfg(feature = "tls")]
            Stream::Tls(secured) => secured.flush(),
        }
    }
}
