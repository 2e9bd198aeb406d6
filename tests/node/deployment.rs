//! What is said of the `node` example elsewhere is true: in the files that deploy it, and in
//! `docs/OPERATIONS.md`.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::process;

fn read(path: &str) -> String {
    fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The words of `text` that begin like this, and go on with small letters and these characters.
fn words<'a>(text: &'a str, start: &str, more: &str) -> BTreeSet<&'a str> {
    let belongs = |c: char| c.is_ascii_lowercase() || more.contains(c);
    let begins = text.match_indices(start);
    let words = begins.map(|(at, _)| {
        let rest = &text[at..];
        let end = start.len() + rest[start.len()..].find(|c| !belongs(c)).unwrap_or(0);
        rest[..end].trim_end_matches(|c| !belongs(c))
    });
    let is_word = |word: &&str| word.chars().any(|c| c.is_ascii_lowercase());
    words.filter(is_word).collect()
}

#[test]
fn flags_that_are_used_elsewhere_exist() {
    let help = process::run(&["--help"]);
    let help = String::from_utf8(help.stdout).unwrap();
    let known = words(&help, "--", "-");
    assert!(known.len() > 20, "{help}");
    for (path, least) in [
        ("examples/kubernetes/cache.yaml", 9),
        ("examples/systemd/groupcache-node.service", 9),
        ("docs/OPERATIONS.md", 10),
    ] {
        let text = read(path);
        let used = words(&text, "--", "-");
        let used: Vec<_> = used
            .iter()
            .filter(|flag| !flag.starts_with("--from"))
            .collect();
        assert!(used.len() >= least, "{path}: {used:?}");
        for flag in used {
            assert!(known.contains(flag), "{path}: there is no {flag}");
        }
    }
}

#[test]
fn each_metric_is_explained_and_no_other() {
    let (page, source) = (read("docs/OPERATIONS.md"), read("src/observe/names.rs"));
    let published = words(&source, "\"groupcache_", "_");
    let published: BTreeSet<_> = published.iter().map(|name| &name[1..]).collect();
    assert!(published.len() > 30, "{published:?}");
    assert_eq!(words(&page, "groupcache_", "_"), published);
}

/// The number behind `start`.
fn number(text: &str, start: &str) -> u64 {
    let (_, rest) = text.split_once(start).unwrap();
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap();
    rest[..end].parse().unwrap()
}

#[test]
fn there_is_time_to_leave_and_room_for_the_cache() {
    for (path, grace, memory) in [
        (
            "examples/kubernetes/cache.yaml",
            "terminationGracePeriodSeconds: ",
            "limits: { memory: ",
        ),
        (
            "examples/systemd/groupcache-node.service",
            "TimeoutStopSec=",
            "MemoryHigh=",
        ),
    ] {
        let text = read(path);
        let leave = number(&text, "--leave-ms=") / 1_000;
        assert!(number(&text, grace) > leave + 10, "{path}");
        let cache = number(&text, "--cache-bytes=") >> 20;
        // Of each of the two addresses, with its connections.
        let under_way = (number(&text, "--max-buffered=") >> 20) + 64;
        // The longest answer of `/get-many`, and what is on its way from the origin.
        let own = 96 + 32;
        let needed = cache + cache / 2 + 2 * under_way + own;
        assert!(number(&text, memory) >= needed, "{path}: {needed}");
        // The sum that is shown there.
        assert!(
            text.contains(&format!("= {needed} MiB")),
            "{path}: {needed}"
        );
    }
}

#[test]
fn systemd_knows_every_line_of_the_unit() {
    let unit = read("examples/systemd/groupcache-node.service");
    let program = process::program();
    // It looks for the programs, too.
    let unit = unit.replace("/usr/local/bin/groupcache-node", program.to_str().unwrap());
    let file = format!("{}/groupcache-node.service", env!("CARGO_TARGET_TMPDIR"));
    fs::write(&file, unit).unwrap();
    let Ok(output) = Command::new("systemd-analyze")
        .args(["verify", &file])
        .output()
    else {
        eprintln!("no systemd-analyze: not tried");
        return;
    };
    // What it does not know, it ignores with a warning. It may have others, about the machine.
    let said = String::from_utf8_lossy(&output.stderr);
    let warned = said.lines().any(|line| line.contains("groupcache-node"));
    assert!(!warned, "{said}");
}

#[test]
fn the_manifests_are_yaml() {
    const CHECK: &str = "import sys\ntry: import yaml\nexcept ImportError: sys.exit(77)\n\
                         all = list(yaml.safe_load_all(open(sys.argv[1])))\n\
                         kinds = [one['kind'] for one in all]\n\
                         assert {'Service', 'Deployment', 'NetworkPolicy'} <= set(kinds), kinds";
    let path = format!(
        "{}/examples/kubernetes/cache.yaml",
        env!("CARGO_MANIFEST_DIR")
    );
    let Ok(status) = Command::new("python3").args(["-c", CHECK, &path]).status() else {
        eprintln!("no python3: not tried");
        return;
    };
    if status.code() == Some(77) {
        eprintln!("no yaml for python3: not tried");
        return;
    }
    assert!(status.success());
}
