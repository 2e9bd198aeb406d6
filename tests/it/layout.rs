//! The order of the house: imports go one way.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Levels from the ground up. Within a level only from left to right: a module may import those
/// left of it and those of the levels before.
const LEVELS: &[&[&str]] = &[
    &[
        "sync", "throttle", "pace", "foreign", "fanout", "deadline", "dialect", "slot", "value",
        "origin", "account", "key", "ring", "hot", "policy", "entry", "lru", "store", "http1",
        "latency",
    ],
    &[
        "codec", "waits", "flight", "loader", "stats", "wire", "auth", "nonces",
    ],
    &["error"],
    &[
        "cache", "pool", "peer", "combiner", "keyring", "guard", "gate", "circuit", "journal",
        "change", "keeper", "remote", "members", "cluster", "probe",
    ],
    &["stream", "tls", "client", "group"],
    &["status", "node"],
    &["memory", "server", "tiny", "discovery", "metrics"],
    &["capi", "fuzz"],
];

fn rank(module: &str) -> Option<usize> {
    LEVELS
        .iter()
        .flat_map(|level| level.iter())
        .position(|&name| name == module)
}

/// The modules that a file of the crate names, outside its tests.
fn imports(source: &str) -> BTreeSet<String> {
    let code: String = source
        .split("#[cfg(test)]\nmod tests")
        .next()
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default().to_owned(),
            None => rest.to_owned(),
        };
        for name in names.split(',') {
            let name: String = name
                .trim()
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            found.insert(name);
            if !rest.starts_with('{') {
                break;
            }
        }
    }
    found
}

fn files(folder: &Path) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            // A folder belongs to the module of its name.
            let module = path.file_name().unwrap().to_str().unwrap().to_owned();
            for (_, source) in files(&path) {
                all.push((module.clone(), source));
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let module = path.file_stem().unwrap().to_str().unwrap().to_owned();
            all.push((module, fs::read_to_string(&path).unwrap()));
        }
    }
    all
}

#[test]
fn imports_go_one_way() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    for (module, source) in files(&src) {
        if module == "lib" {
            continue;
        }
        let own = rank(&module).unwrap_or_else(|| panic!("{module} has no place in the order"));
        for import in imports(&source) {
            let Some(other) = rank(&import) else {
                // Public names that doc examples and macros use by the crate's root.
                continue;
            };
            seen += 1;
            assert!(
                other <= own,
                "{module} imports {import}, which stands above it"
            );
        }
    }
    assert!(seen > 50, "the check reads nothing: {seen} imports");
}

#[test]
fn the_check_itself_sees_imports() {
    let source = "use crate::node::Node;\nfn f() { crate::server::x() }\nuse crate::{a, b::c};\n\
                  #[cfg(test)]\nmod tests { use crate::hidden::X; }";
    let found: Vec<String> = imports(source).into_iter().collect();
    assert_eq!(found, ["a", "b", "node", "server"]);
}
