//! What groups cost in memory, by what the process holds: a binary of its own, so that nothing else
//! allocates meanwhile.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic)] // a test that goes wrong had better stop

use groupcache_sync::{Group, Node, Value};

const GROUPS: usize = 3_000;
const CAPACITY: usize = 64 << 10;

/// The most that a small group may cost beside its entries, in bytes.
const MOST: usize = 4 << 10;

/// The bytes of this process in memory.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4_096
}

#[test]
fn a_small_group_costs_at_most_4_kib_beside_its_entries_and_says_so() {
    let node = Node::new("http://127.0.0.1:1").unwrap();
    let before = resident();
    let groups: Vec<Group> = (0..GROUPS)
        .map(|n| {
            let group = node.group_builder(&format!("tenant {n}"), CAPACITY);
            group.build(|key| Ok(Value::from(key))).unwrap()
        })
        .collect();
    let built = (resident() - before) / GROUPS;
    for group in &groups {
        for key in ["a", "b", "c"] {
            group.get(key).unwrap();
            group.get(key).unwrap();
        }
    }
    let used = (resident() - before) / GROUPS;
    let stats = groups[0].stats();
    let entries = stats.main_bytes as usize;
    let stated = stats.overhead_bytes as usize;
    println!(
        "each of {GROUPS} groups: built {built}, used {used}, of that entries {entries}; stated {stated}"
    );
    assert!(built <= MOST, "{built} bytes when built");
    assert!(used <= MOST + entries, "{used} bytes when used");
    assert!(stated <= MOST, "it states {stated} bytes");
    let truth = used - entries.min(used);
    assert!(
        stated >= truth / 2 && stated <= truth + truth / 2 + 512,
        "it states {stated} bytes and takes {truth}"
    );
}
