//! The least that a program does. Start it twice, each with its own address first, and type keys:
//! `cargo run --example simple -- 127.0.0.1:7001 127.0.0.1:7002`
#![allow(clippy::print_stdout)] // shows what it got

use std::time::Duration;

use groupcache_sync::{Group, Json, Node, Server};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct User {
    name: String,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let addresses: Vec<String> = std::env::args().skip(1).collect();
    let mine = addresses.first().ok_or("give an address, host:port")?;

    let node = Node::new(&format!("http://{mine}"))?;
    let users: Group<User> = node
        .group_builder("users", 64 << 20) // bytes of memory
        .codec(Json)
        .ttl(Duration::from_secs(300))
        .build(|key| {
            println!("loading user {key} here"); // such as from a database
            let name = format!("user number {}", key.parse::<u64>()?);
            Ok(User { name })
        })?;
    let server = Server::bind(&node, mine)?; // serves peers until dropped
    node.set_peers(addresses.iter().map(|address| format!("http://{address}")))?;

    for key in std::io::stdin().lines() {
        match users.get(&key?) {
            Ok(user) => println!("{}", user.name),
            Err(error) => println!("{error}"),
        }
    }
    // At the end of the input: the others take over what this process has in memory.
    if let Err(error) = server.leave_and_shutdown(Duration::from_secs(10)) {
        println!("{error}");
    }
    Ok(())
}
