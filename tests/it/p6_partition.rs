//! P6: in a partition each side serves, and loads a key at most once per fallback life where it reaches
//! neither the owner nor the deputy. `deputies.rs` has what deputies do.

use std::time::Duration;

use groupcache_sync::{CircuitState, Clock, Fault};

use crate::cluster::{Cluster, address, eventually, value_of};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_owner_and_a_deputy_that_are_away_are_replaced_by_a_local_load_for_the_fallback_life() {
    for hot_bytes in [None, Some(0)] {
        let cluster = Cluster::with(
            4,
            Clock::manual(),
            |node| node,
            |group| match hot_bytes {
                Some(bytes) => group.hot_bytes(bytes),
                None => group,
            },
            |key| Ok(value_of(key)),
        );
        let key = cluster.key_owned_by(3);
        let deputy = cluster.deputy_of(&key);
        for gone in [3, deputy] {
            let refuses = Some(Fault::Refuses);
            cluster.network.set_fault(&address(gone), refuses);
        }
        for life in 1..=3 {
            for _ in 0..10 {
                for node in (0..3).filter(|&node| node != deputy) {
                    assert_eq!(cluster.groups[node].get(&key).unwrap(), value_of(&key));
                }
            }
            assert_eq!(
                cluster.loads.of(&key),
                2 * life,
                "one per process that cannot reach it"
            );
            cluster.advance(2 * SECOND);
        }
    }
}

#[test]
fn all_is_normal_again_within_five_seconds_of_healing() {
    let cluster = Cluster::new(3);
    let owned: Vec<String> = (0..300)
        .map(|number| format!("key {number}"))
        .filter(|key| cluster.nodes[0].owner(key).address() == address(2))
        .collect();
    cluster.network.set_fault(&address(2), Some(Fault::Refuses));
    for key in &owned {
        assert_eq!(cluster.groups[0].get(key).unwrap(), value_of(key));
    }
    let state = || {
        let peers = cluster.nodes[0].stats().peers;
        peers
            .iter()
            .find(|peer| peer.address == address(2))
            .unwrap()
            .circuit
    };
    assert_eq!(state(), CircuitState::Open);
    let calls = || {
        let peers = cluster.nodes[0].stats().peers;
        let to_owner = peers.iter().filter(|peer| peer.address == address(2));
        to_owner.map(|peer| peer.calls).sum::<u64>()
    };
    assert_eq!(calls(), 3, "after three failures no caller pays any more");

    cluster.network.set_fault(&address(2), None);
    let healed = cluster.clock.now();
    // The keeper may find it healed at its first probe, or after its pause.
    eventually("its circuit closes", || {
        if cluster.clock.sleepers() > 0 && cluster.clock.now() == healed {
            cluster.advance(SECOND);
        }
        state() == CircuitState::Closed
    });
    cluster.advance(2 * SECOND);
    let before = cluster.groups[0].stats().loads;
    for key in &owned {
        assert_eq!(cluster.groups[0].get(key).unwrap(), value_of(key));
    }
    assert_eq!(
        cluster.groups[0].stats().loads,
        before,
        "the owner answers again"
    );
}

#[test]
fn peers_come_and_go_under_load_without_a_failed_get() {
    let cluster = Cluster::with(
        4,
        Clock::system(),
        |node| node.fetch_timeout(60 * SECOND),
        |group| group,
        |key| Ok(value_of(key)),
    );
    let all: Vec<String> = (0..4).map(address).collect();
    std::thread::scope(|scope| {
        let getters: Vec<_> = (0..4)
            .map(|node| {
                let group = &cluster.groups[node];
                scope.spawn(move || {
                    for step in 0..2_000 {
                        let key = format!("key {}", step % 500);
                        assert_eq!(group.get(&key).unwrap(), value_of(&key));
                    }
                })
            })
            .collect();
        let mut round = 0;
        while getters.iter().any(|getter| !getter.is_finished()) {
            let gone = round % 4;
            for (index, node) in cluster.nodes.iter().enumerate() {
                if index != gone {
                    assert!(node.remove_peer(&all[gone]).unwrap());
                }
            }
            for (index, node) in cluster.nodes.iter().enumerate() {
                if index != gone {
                    node.add_peer(&all[gone]).unwrap();
                }
            }
            round += 1;
            std::thread::yield_now();
        }
    });
    let rings: Vec<u64> = cluster.nodes.iter().map(|node| node.stats().ring).collect();
    assert!(
        rings.iter().all(|ring| *ring == rings[0]),
        "all agree again"
    );
    assert!(
        cluster
            .nodes
            .iter()
            .all(|node| node.stats().peers.len() == 4)
    );
}
