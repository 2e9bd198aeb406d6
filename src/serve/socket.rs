//! The sockets of a server: `listen` makes the one that listens, and `Socket` is that of a connection.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{Domain, SockRef, Type};

use super::buffer::is_transient;
use crate::transport::stream::Stream;

/// How many connections the system may hold that are not accepted yet.
const BACKLOG: i32 = 4_096;

/// About how many bytes of an answer the system keeps for each client that does not read. Left alone, it
/// keeps megabytes, and copying them takes time from other connections.
const SEND_BUFFER: usize = 256 << 10;

/// How long a blocking socket waits for the next request of a connection that has just been answered.
const READ_WAIT: Duration = Duration::from_millis(2);

/// How long a blocking socket waits for its client to read.
const WRITE_WAIT: Duration = Duration::from_millis(5);

const _: () = assert!(
    !READ_WAIT.is_zero() && !WRITE_WAIT.is_zero(),
    "sockets accept no timeout of zero"
);

pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Connections of a server that has just ended would keep its port busy for a minute. On
    // Windows the option means that others may take the port away.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The socket of a connection, with TLS or without, and how it is set.
pub(crate) struct Socket {
    pub(crate) stream: Stream<TcpStream>,
    is_registered: bool,
    is_blocking: bool,
    has_timeouts: bool,
}

impl Socket {
    pub(crate) fn new(stream: Stream<TcpStream>) -> Socket {
        Socket {
            stream,
            is_registered: false,
            is_blocking: false, // as it was accepted
            has_timeouts: false,
        }
    }

    /// Has `registry` watch the socket.
    pub(crate) fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        if self.is_registered {
            return registry.reregister(self.stream.socket_mut(), token, interest);
        }
        registry.register(self.stream.socket_mut(), token, interest)?;
        self.is_registered = true;
        Ok(())
    }

    pub(crate) fn deregister(&mut self, registry: &Registry) {
        if self.is_registered {
            // It can fail only if it was not registered.
            let _ = registry.deregister(self.stream.socket_mut());
            self.is_registered = false;
        }
    }

    pub(crate) fn is_blocking(&self) -> bool {
        self.is_blocking
    }

    /// A blocking socket waits up to a timeout that is set once. Another one does not wait at all.
    pub(crate) fn set_blocking(&mut self, blocking: bool) -> io::Result<()> {
        if blocking == self.is_blocking {
            return Ok(());
        }
        let socket = SockRef::from(self.stream.socket());
        if blocking && !self.has_timeouts {
            socket.set_read_timeout(Some(READ_WAIT))?;
            socket.set_write_timeout(Some(WRITE_WAIT))?;
            self.has_timeouts = true;
        }
        socket.set_nonblocking(!blocking)?;
        self.is_blocking = blocking;
        Ok(())
    }

    /// Whether the client has not closed the connection.
    pub(crate) fn is_connected(&self) -> bool {
        let stream = self.stream.socket();
        let socket = SockRef::from(stream);
        // A blocking socket would wait for more bytes.
        let peek = || -> io::Result<usize> {
            socket.set_nonblocking(true)?;
            let seen = stream.peek(&mut [0]);
            socket.set_nonblocking(!self.is_blocking)?;
            seen
        };
        match peek() {
            Ok(count) => count > 0,
            Err(error) => is_transient(&error),
        }
    }
}
