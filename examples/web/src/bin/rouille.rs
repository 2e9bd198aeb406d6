//! A rouille application that mounts the peer endpoint: any framework can do it like this, as
//! `Node::answer` needs no socket. For trusted networks only, as rouille runs on tiny_http.

use std::io::Read;
use std::thread;

use groupcache_sync::Node;
use groupcache_sync_web::{page, start, wait};
use rouille::{Request, Response, ResponseBody};

/// A little more than the node's `max_value`.
const MAX_BODY: u64 = 17 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (address, node, pages) = start()?;
    let server = rouille::Server::new(&address, move |request| {
        // As it came: rouille's `url()` is decoded, and a key may have an encoded slash.
        if node.serves(request.raw_url()) {
            return answer(&node, request);
        }
        let (status, body) = page(&pages, request.raw_url());
        Response {
            status_code: status,
            headers: Vec::new(),
            data: ResponseBody::from_data(body),
            upgrade: None,
        }
    });
    let server = server.map_err(|error| error.to_string())?.pool_size(32);
    thread::spawn(move || server.run());
    Ok(wait(&address)?)
}

/// Answers a request of a peer.
fn answer(node: &Node, request: &Request) -> Response {
    let mut body = Vec::new();
    let data = request.data();
    let read = data.map(|data| data.take(MAX_BODY).read_to_end(&mut body));
    if matches!(read, Some(Err(_))) || body.len() as u64 == MAX_BODY {
        return Response::empty_400();
    }
    let mut asked = groupcache_sync::Request::new(request.method(), request.raw_url());
    for (name, value) in request.headers() {
        asked = asked.header(name, value);
    }
    let answer = node.answer(&asked.body(&body));
    let headers = answer.headers();
    Response {
        status_code: answer.status(),
        headers: headers
            .map(|(name, value)| (name.into(), value.to_owned().into()))
            .collect(),
        data: ResponseBody::from_data(answer.body().concat()),
        upgrade: None,
    }
}
