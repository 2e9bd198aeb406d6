//! `Stream`: a socket with or without TLS.
//!
//! Client and server use it: the client over a blocking socket, the server over a non-blocking one. Without
//! TLS, all calls go directly to the socket.

#[cfg(feature = "tls")]
mod secured;

use std::io::{self, IoSlice, Read, Write};

#[cfg(feature = "tls")]
pub(crate) use secured::Secured;

pub(crate) enum Stream<S> {
    Plain(S),
    /// In a box, because it is large.
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

    /// Whether the TLS handshake is not finished.
    pub(crate) fn is_handshaking(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            #[cfg(feature = "tls")]
            Stream::Tls(secured) => secured.is_handshaking(),
        }
    }

    /// Whether a part of a TLS record has come.
    pub(crate) fn has_part(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            #[cfg(feature = "tls")]
            Stream::Tls(secured) => secured.has_part(),
        }
    }

    /// Whether bytes that were written, or messages of TLS itself, have not been written to the socket yet:
    /// see [`flush`](Write::flush).
    pub(crate) fn wants_write(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            #[cfg(feature = "tls")]
            Stream::Tls(secured) => secured.wants_write(),
        }
    }

    /// The size of its buffers for received and unsent bytes.
    pub(crate) fn kept(&self) -> usize {
        match self {
            Stream::Plain(_) => 0,
            #[cfg(feature = "tls")]
            Stream::Tls(secured) => secured.kept(),
        }
    }

    /// Whether all received bytes were read, and the peer has not ended the stream.
    pub(crate) fn is_quiet(&mut self) -> bool {
        match self {
            Stream::Plain(_) => true,
            #[cfg(feature = "tls")]
            Stream::Tls(secured) => secured.is_quiet(),
        }
    }
}

impl<S: Read + Write> Stream<S> {
    /// Tells the peer that no more bytes follow (`close_notify` of TLS), if the socket takes that at once.
    /// Without TLS the end of the connection tells it.
    pub(crate) fn send_close(&mut self) {
        match self {
            Stream::Plain(_) => {}
            #[cfg(feature = "tls")]
            Stream::Tls(secured) => secured.send_close(),
        }
    }
}

impl<S: Read + Write> Read for Stream<S> {
    /// With TLS, returns [`Interrupted`](io::ErrorKind::Interrupted) if bytes have come that are no data.
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
