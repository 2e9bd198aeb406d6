//! What those may do who listen on the network, and send again what they have recorded.

use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use crate::alone_if_measured;
use crate::hostile::messages::answer;
use crate::hostile::other::{CLUSTER, Other, SECRET, connect};
use crate::hostile::trial::SecretFile;
use crate::origin::Origin;
use crate::process::{Process, program};
use crate::proxy::Link;

/// Sends recorded bytes, and tells the status of the answer.
fn replay(address: SocketAddr, bytes: &[u8]) -> Option<u16> {
    let mut stream = connect([127, 0, 2, 1], address).unwrap();
    stream.write_all(bytes).unwrap();
    answer(&mut stream, Duration::from_secs(10))
}

#[test]
fn a_recorded_change_is_never_made_again_not_even_after_a_restart() {
    let _turn = alone_if_measured();
    let (secret, origin, link) = (SecretFile::new(), Origin::start(), Link::start());
    let start = |listen: &str| {
        let flags = ["--secret-file", secret.path(), "--cluster", CLUSTER];
        Process::start_at(listen, Command::new(program()), "warn", &origin, &flags)
    };
    let mut node = start("127.0.0.1:0");
    link.lead_to(&node.url);
    let other = Other::at(&node, &link.url(), Some(SECRET));
    let change = link.last_change();
    assert!(change.starts_with(b"PUT "), "nothing was recorded");
    let listen = node.url.strip_prefix("http://").unwrap().to_owned();
    let address = listen.parse().unwrap();
    let mut taken = Vec::new();
    if replay(address, &change) != Some(401) {
        taken.push("at once");
    }
    node.kill();
    node = start(&listen);
    let removes = node.count("removes");
    if replay(address, &change) != Some(401) {
        taken.push("after a restart");
    }
    // Peers go on: they learn that the node is another one by now.
    for _ in 0..3 {
        other.get_new().unwrap();
    }
    if replay(address, &change) != Some(401) || node.count("removes") != removes {
        taken.push("after a restart that its peers know of");
    }
    assert!(taken.is_empty(), "it is made again {taken:?}");
}
