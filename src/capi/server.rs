//! `groupcache_server`: the listener that peers reach a node by.

use std::ffi::{c_char, c_int};
use std::mem::MaybeUninit;
use std::time::Duration;

use super::argument::{c_text, given, hand_out};
use super::boundary::{answer, status};
use super::end::{End, PATIENCE};
use super::local::Local;
use super::node::groupcache_node;
use super::status::{Failure, groupcache_status};
use crate::error::Error;
use crate::runtime::sync::Arc;
use crate::server::Server;

/// Answers the peers of a node, on threads of its own, until it is stopped. It keeps its node.
pub struct groupcache_server(Local<(Server, Arc<End>)>);

/// Serves a node on `address`, such as "0.0.0.0:7000". Port 0 picks a free one.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_server_bind(
    node: Option<&groupcache_node>,
    address: *const c_char,
    server_out: Option<&mut MaybeUninit<*mut groupcache_server>>,
) -> groupcache_status {
    status(|| {
        let out = given(server_out, "server_out")?;
        let node = given(node, "node")?;
        // SAFETY: the header demands a text that ends with NUL.
        let address = unsafe { c_text(address, "address") }?;
        let server = Server::bind(node.get()?, address)?;
        let end = Arc::clone(node.end()?);
        hand_out(out, groupcache_server(Local::new((server, end))));
        Ok(())
    })
}

/// Serves a node on a TCP socket that listens already, such as one that a service manager opened, or
/// one whose port had to be known before the node was made. The socket belongs to the library from
/// now on, also if this fails. On Unix only.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_server_from_fd(
    node: Option<&groupcache_node>,
    fd: c_int,
    server_out: Option<&mut MaybeUninit<*mut groupcache_server>>,
) -> groupcache_status {
    status(|| {
        let listener = listener(fd)?;
        let out = given(server_out, "server_out")?;
        let node = given(node, "node")?;
        let server = Server::from_listener(node.get()?, listener)?;
        let end = Arc::clone(node.end()?);
        hand_out(out, groupcache_server(Local::new((server, end))));
        Ok(())
    })
}

#[cfg(unix)]
fn listener(fd: c_int) -> Result<std::net::TcpListener, Failure> {
    use std::os::fd::FromRawFd;
    if fd < 0 {
        return Err(Failure::Argument(format!("{fd} is no file descriptor")));
    }
    // SAFETY: the header demands an open socket that nobody else owns.
    Ok(unsafe { std::net::TcpListener::from_raw_fd(fd) })
}

#[cfg(not(unix))]
fn listener(_fd: c_int) -> Result<std::net::TcpListener, Failure> {
    let reason = "only on Unix is a socket a file descriptor; use groupcache_server_bind";
    Err(Failure::Argument(reason.to_owned()))
}

/// The port that a server listens on. 0 if that is `NULL`, or of the process that this one was
/// forked from.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_server_port(server: Option<&groupcache_server>) -> u16 {
    answer(0, || {
        let (server, _) = given(server, "server")?.0.get()?;
        Ok(server.local_addr().port())
    })
}

/// Stops a server and frees it, whatever it returns. `NULL` is fine. It accepts nothing more, and
/// requests under way have up to `timeout_ms` to be answered; `GROUPCACHE_STATUS_DEADLINE` if some
/// were not. 0 stops at once. Where the node was freed before, this waits up to 1 s longer, as
/// `groupcache_node_free` does.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_server_stop(
    server: Option<Box<groupcache_server>>,
    timeout_ms: u64,
) -> groupcache_status {
    status(|| {
        let Some(server) = server else {
            return Ok(());
        };
        let (server, end) = (*server).0.into_inner()?;
        let are_answered = server.shutdown(Duration::from_millis(timeout_ms));
        end.wait(PATIENCE);
        match are_answered {
            true => Ok(()),
            false => Err(Error::Deadline.into()),
        }
    })
}
