//! The status page in a real browser: `.ci/long browser` runs it, as not every machine has one.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value as Json;

use crate::origin::Origin;
use crate::process::{Cluster, Process, STEADY, eventually};

const MARKUP: &str = "<img src=x onerror=\"document.title='broken'\">";

/// Asks for these keys and others, again and again, until told to stop.
fn use_much(node: &Process, keys: &[String; 2], stop: &AtomicBool) {
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        for key in [&keys[0], &keys[1], &format!("once-{round}")] {
            assert_eq!(node.get(key).status, 200);
        }
    }
}

fn look(url: &str) -> Json {
    let browser = std::env::var("GROUPCACHE_BROWSER").unwrap_or_else(|_| "chromium".into());
    let target = std::env::current_exe().unwrap();
    let target: PathBuf = target.ancestors().nth(3).unwrap().into();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node/browser.py");
    let mut command = Command::new("python3");
    let output = command.args([script, &browser, url]).arg(&target).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    eprintln!("screenshots: {}/status-*.png", target.display());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
#[ignore = "needs a browser: `.ci/long browser`"]
fn the_status_page_is_drawn_live_and_can_be_read_on_a_phone() {
    let origin = Origin::start();
    let page = ["--status-page", "--status-keys", "5"];
    let mut cluster = Cluster::start(3, &origin, &[STEADY, &page].concat());
    // Those of the node that is looked at, which has them in its memory.
    let much = [MARKUP, "popular "].map(|prefix| cluster.key_of(0, prefix));
    cluster.kill(2);
    let mut keys = 0;
    eventually("the circuit opens", || {
        keys += 1;
        assert_eq!(cluster[0].get(&format!("unreachable-{keys}")).status, 200);
        let stats = cluster[0].stats().to_string();
        stats.contains("\"open\"")
    });
    let stop = AtomicBool::new(false);
    let seen = thread::scope(|scope| {
        for node in [&cluster[0], &cluster[1]] {
            scope.spawn(|| use_much(node, &much, &stop));
        }
        let seen = look(&format!("{}/_groupcache-status", cluster[0].url));
        stop.store(true, Ordering::Relaxed);
        seen
    });
    for view in ["desktop", "dark", "phone", "small"] {
        let (text, seen) = (seen[view]["text"].as_str().unwrap(), &seen[view]);
        for part in [
            "3 members, 1 unreachable.",
            "Rates and latencies are those of the last",
            "(this node)",
            "% of the keys",
            "● up: circuit closed",
            "✕ unreachable: circuit open",
            "Hit ratio",
            "Where gets are answered",
            "hot cache",
            "fetched from a peer",
            "50 % within",
            "Hottest keys",
            &format!("{} – ", much[1]),
            &much[0], // as text
        ] {
            assert!(text.contains(part), "{view}: no {part} in\n{text}");
        }
        for node in [&cluster[0], &cluster[1], &cluster[2]] {
            assert!(text.contains(&node.url), "{view}: {text}");
        }
        assert!(!text.contains("does not answer"), "{view}: {text}");
        assert_eq!(seen["title"], format!("groupcache {}", cluster[0].url));
        assert_eq!(seen["elements"], 0, "{view}: foreign elements");
        // Nothing is wider than the screen, or cut off in it.
        assert_eq!(seen["width"], seen["screen"], "{view}");
        assert_eq!(seen["cut"], 0, "{view}");
    }
    // It goes on by itself.
    assert!(seen["small"]["points"][0].as_u64().unwrap() > 2, "{seen}");
    assert_ne!(seen["dark"]["colour"], seen["desktop"]["colour"]);
}
