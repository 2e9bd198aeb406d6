//! What the three programs have in common: a node, its group of pages, and its peers.
//!
//! Each takes its own address and those of the others, serves `/page/<name>`, and has the peer
//! endpoint on the same port: `rouille 127.0.0.1:7001 127.0.0.1:7002`. They can be mixed. They end
//! with their standard input.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use groupcache_sync::{Error, Group, Node, Value};

/// A node at the first of the addresses of the command line, which are all there are.
///
/// # Errors
///
/// If there is no address, or one that cannot be used.
pub fn start() -> Result<(String, Node, Group), Box<dyn std::error::Error>> {
    let addresses: Vec<String> = std::env::args().skip(1).collect();
    let mine = addresses.first().ok_or("give an address, host:port")?;
    let node = Node::new(&format!("http://{mine}"))?;
    let (place, loads) = (mine.clone(), AtomicU64::new(0));
    let pages = node.group_builder("pages", 64 << 20).build(move |name| {
        std::thread::sleep(Duration::from_millis(5)); // such as a template and some queries
        let load = loads.fetch_add(1, Ordering::Relaxed);
        Ok(Value::from(format!("{name}, load {load} at {place}\n")))
    })?;
    node.set_peers(addresses.iter().map(|address| format!("http://{address}")))?;
    Ok((mine.clone(), node, pages))
}

/// What the application answers: a status and a body.
#[must_use]
pub fn page(pages: &Group, path: &str) -> (u16, Vec<u8>) {
    let Some(name) = path.strip_prefix("/page/") else {
        return (404, b"no such page\n".to_vec());
    };
    match pages.get(name) {
        Ok(page) => (200, page.to_vec()),
        Err(Error::NotFound) => (404, b"no such page\n".to_vec()),
        Err(error) => (500, format!("{error}\n").into_bytes()),
    }
}

/// Says that it serves, and waits for the end.
///
/// # Errors
///
/// If the standard input or output fails.
#[allow(clippy::print_stdout, reason = "this is how a user knows")]
pub fn wait(address: &str) -> std::io::Result<()> {
    println!("http://{address}/page/hello");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}
