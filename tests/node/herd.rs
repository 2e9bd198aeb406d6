//! A herd: every thread of every process asks for every cold key, all from the same moment on.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use crate::origin::Origin;
use crate::process::{Cluster, eventually};

/// Nobody is taken for dead because the machine is busy.
const PATIENT: &[&str] = &[
    "--connect-timeout-ms",
    "30000",
    "--fetch-timeout-ms",
    "30000",
];

/// Processes, threads for each, keys and rounds: `GROUPCACHE_HERD`, in the form `8x32x1000x20`.
fn sizes() -> [usize; 4] {
    let told = std::env::var("GROUPCACHE_HERD").unwrap_or_else(|_| "4x8x200x1".to_owned());
    let sizes: Result<Vec<usize>, _> = told.split('x').map(str::parse).collect();
    let sizes = sizes.ok().and_then(|sizes| sizes.try_into().ok());
    sizes.unwrap_or_else(|| panic!("GROUPCACHE_HERD is not like 8x32x1000x20: {told}"))
}

#[test]
fn a_herd_loads_each_key_once_in_the_whole_cluster() {
    let [processes, threads, keys, rounds] = sizes();
    for round in 0..rounds {
        let origin = Origin::start();
        let cluster = Cluster::start(processes, &origin, PATIENT);
        let keys: Vec<String> = (0..keys).map(|n| format!("herd-{n}")).collect();
        let start = Barrier::new(processes * threads + 1);
        let mut begun = Instant::now();
        thread::scope(|scope| {
            for node in cluster.nodes() {
                for _ in 0..threads {
                    let ask_for_all = || {
                        start.wait();
                        for key in &keys {
                            let reply = node.get(key);
                            assert_eq!(reply.status, 200, "{key}: {reply:?}");
                            assert_eq!(reply.text(), format!("value of {key}"));
                        }
                    };
                    let builder = thread::Builder::new().stack_size(512 << 10);
                    builder.spawn_scoped(scope, ask_for_all).unwrap();
                }
            }
            start.wait();
            begun = Instant::now();
        });
        let took = begun.elapsed();
        for key in &keys {
            assert_eq!(origin.asked(key), 1, "{key} in round {round}");
        }
        let sum = |counter: &str| cluster.count(counter);
        assert_eq!(sum("gets"), (processes * threads * keys.len()) as u64);
        assert_eq!(sum("loads"), keys.len() as u64);
        for counter in ["load_errors", "fetch_errors", "flights", "evictions"] {
            assert_eq!(sum(counter), 0, "{counter}");
        }
        for node in cluster.nodes() {
            // What it owns it has loaded, and what it is the deputy for it is handed meanwhile.
            eventually("a node has nothing else", || {
                let stats = node.stats();
                let count = |name: &str| stats[name].as_u64().unwrap();
                count("loads") + count("deputy_copies") == count("main_items")
            });
        }
        eprintln!(
            "herd round {round}: {processes} processes x {threads} threads x {} keys, {} loads, \
             {} fetches, {took:?}",
            keys.len(),
            sum("loads"),
            sum("fetches"),
        );
    }
}
