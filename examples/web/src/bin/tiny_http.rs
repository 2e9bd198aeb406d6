//! A program that runs tiny_http, and hands to the node what is for it. For trusted networks only:
//! see the README of the crate.

use std::io::Cursor;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use groupcache_sync::answer_tiny_http;
use groupcache_sync_web::{page, start, wait};

/// Threads that answer: more than pages are loaded at once, as each load holds one.
const THREADS: usize = 32;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (address, node, pages) = start()?;
    let listener = TcpListener::bind(&address)?;
    let server =
        tiny_http::Server::from_listener(listener, None).map_err(|error| error.to_string())?;
    let server = Arc::new(server);
    for _ in 0..THREADS {
        let (server, node, pages) = (Arc::clone(&server), node.clone(), pages.clone());
        thread::spawn(move || {
            for request in server.incoming_requests() {
                // Given back if it is not for the node.
                let Some(request) = answer_tiny_http(&node, request) else {
                    continue;
                };
                let (status, body) = page(&pages, request.url());
                let length = Some(body.len());
                let status = tiny_http::StatusCode(status);
                let response =
                    tiny_http::Response::new(status, Vec::new(), Cursor::new(body), length, None);
                // Who has gone away needs no answer.
                let _ = request.respond(response);
            }
        });
    }
    Ok(wait(&address)?)
}
