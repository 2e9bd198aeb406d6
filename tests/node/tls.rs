//! Nodes that prove to each other who they are.

use crate::certificates::{Authority, Files};
use crate::origin::Origin;
use crate::process::{Cluster, STEADY};

#[test]
fn nodes_talk_through_tls_and_take_new_certificates() {
    let authority = Authority::new();
    let files = Files::new("node");
    files.write(&authority.identity(), &authority);
    let paths = files.paths();
    let [certificate, key, authorities] = paths.each_ref().map(|path| path.to_str().unwrap());
    let tls = ["--tls-cert", certificate, "--tls-key", key];
    let more = ["--tls-ca", authorities, "--tls-client-auth"];
    let origin = Origin::start();
    let mut cluster = Cluster::start(2, &origin, &[STEADY, &tls, &more].concat());
    let all_is_well = |cluster: &Cluster, prefix: &str| {
        for owner in [0, 1] {
            let key = cluster.key_of(owner, prefix);
            assert_eq!(cluster[1 - owner].get(&key).source, "peer");
            assert_eq!(cluster[owner].get(&key).source, "main");
        }
        assert_eq!(cluster.count("fetch_errors"), 0);
    };
    all_is_well(&cluster, "first-");

    // Who comes without TLS is not served.
    let plain = cluster[0].url.replace("https://", "http://");
    assert!(ureq::get(format!("{plain}/_groupcache/")).call().is_err());

    if cfg!(unix) {
        files.write(&authority.identity(), &authority);
        for node in cluster.nodes() {
            node.signal("HUP");
            node.wait_for_log("the certificates were read again");
        }
        all_is_well(&cluster, "second-");
        std::fs::write(certificate, "nothing of use").unwrap();
        for node in cluster.nodes() {
            node.signal("HUP");
            node.wait_for_log("the old certificates stay");
        }
        all_is_well(&cluster, "third-");
    }

    // Who has a certificate of another authority is not asked, and everybody goes on.
    let stranger = Authority::new();
    files.write(&stranger.identity(), &stranger);
    cluster.kill(1);
    let other = Cluster::start(1, &origin, &[STEADY, &tls, &more].concat());
    let urls = [&*cluster[0].url, &*other[0].url];
    assert_eq!(cluster[0].set_peers(&urls).status, 200);
    for number in 0..50 {
        let reply = cluster[0].get(&format!("unreachable-{number}"));
        assert_eq!((reply.status, &*reply.source), (200, "load"), "{reply:?}");
    }
    cluster[0].wait_for_log("invalid peer certificate: UnknownIssuer");
    assert_eq!(other.count("served"), 0);
}
