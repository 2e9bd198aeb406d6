//! The built-in server has the port, and hands what is not for the node to the application.

use groupcache_sync::{HttpResponse, Server};
use groupcache_sync_web::{page, start, wait};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (address, node, pages) = start()?;
    let _server = Server::builder(&node)
        .fallback(move |request| {
            let (status, body) = page(&pages, request.path());
            HttpResponse::new(status).body(body)
        })
        .bind(&address)?;
    Ok(wait(&address)?)
}
