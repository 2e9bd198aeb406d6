//! The order of the house: imports go one way, and no circle of files is left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The folders and top files of `src` from the ground up: each may import those before it.
const ORDER: &[&str] = &[
    "runtime",
    "value",
    "cache",
    "flight",
    "error",
    "loader",
    "codec",
    "protocol",
    "stats",
    "transport",
    "auth",
    "cluster",
    "group",
    "observe",
    "node",
    "discovery",
    "serve",
    "server",
    "testing",
    "capi",
];

/// The most lines of a file of `src` without its tests.
const MOST_LINES: usize = 500;

/// Files by their module path, with their code: no comments and no tests.
type Files = BTreeMap<String, String>;

/// Without tests and comments.
fn code_of(source: &str) -> String {
    let code = source.split("#[cfg(test)]\nmod tests").next();
    let lines = code.unwrap_or_default().lines();
    let lines = lines.filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn read_files(folder: &Path, module: &str, files: &mut Files) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let inner = match module {
            "" => stem.clone(),
            _ => format!("{module}::{stem}"),
        };
        if path.is_dir() {
            read_files(&path, &inner, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") && stem != "tests" {
            let name = if stem == "mod" {
                module.to_owned()
            } else {
                inner
            };
            files.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
}

fn files() -> Files {
    let mut files = Files::new();
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    read_files(&src, "", &mut files);
    files.remove("lib");
    assert!(files.len() > 100, "only {} files are read", files.len());
    files
}

/// The paths behind each `crate::` and `super::`, as paths from the root.
fn paths(module: &str, code: &str) -> BTreeSet<String> {
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    let mut found = BTreeSet::new();
    for (word, base) in [("crate::", ""), ("super::", parent)] {
        for (at, _) in code.match_indices(word) {
            if code[..at].ends_with(|before: char| before.is_alphanumeric() || before == ':') {
                continue;
            }
            let rest = &code[at + word.len()..];
            let names = match rest.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap_or_default(),
                None => rest,
            };
            for name in names.split(',') {
                let is_path = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
                let name: String = name.trim().chars().take_while(is_path).collect();
                let name = name.trim_end_matches(':');
                found.insert(match base {
                    "" => name.to_owned(),
                    _ => format!("{base}::{name}"),
                });
                if !rest.starts_with('{') {
                    break;
                }
            }
        }
    }
    found
}

/// The file that a path leads into.
fn file_of<'a>(files: &'a Files, path: &str) -> Option<&'a str> {
    let mut path = path;
    loop {
        if let Some((file, _)) = files.get_key_value(path) {
            return Some(file);
        }
        path = path.rsplit_once("::")?.0;
    }
}

/// Which files each file imports, but for the folder that it is in: a folder's first file says what is
/// in it, and may name what all of it uses.
fn imports(files: &Files) -> BTreeMap<&str, BTreeSet<&str>> {
    let is_in = |inner: &str, outer: &str| inner.starts_with(&format!("{outer}::"));
    files
        .iter()
        .map(|(module, source)| {
            let paths = paths(module, &code_of(source));
            let others = paths.iter().filter_map(|path| file_of(files, path));
            let others = others
                .filter(|other| other != module && !is_in(module, other) && !is_in(other, module));
            (module.as_str(), others.collect())
        })
        .collect()
}

fn folder_of(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

fn rank(module: &str) -> usize {
    let folder = folder_of(module);
    let rank = ORDER.iter().position(|&name| name == folder);
    rank.unwrap_or_else(|| panic!("{folder} has no place in the order"))
}

#[test]
fn imports_go_one_way() {
    let files = files();
    let mut seen = 0;
    for (module, others) in imports(&files) {
        for other in others {
            seen += 1;
            assert!(
                rank(other) <= rank(module),
                "{module} imports {other}, which stands above it"
            );
        }
    }
    assert!(seen > 300, "the check reads nothing: {seen} imports");
}

/// A file of a circle, if there is one: files that import nothing are taken away until none is left.
fn circle<'a>(imports: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Vec<&'a str> {
    let mut left = imports.clone();
    loop {
        let names: BTreeSet<&str> = left.keys().copied().collect();
        let before = left.len();
        left.retain(|_, others| others.iter().any(|other| names.contains(other)));
        if left.len() == before {
            return left.into_keys().collect();
        }
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let files = files();
    let left = circle(&imports(&files));
    assert!(left.is_empty(), "in a circle, or above one: {left:?}");
}

#[test]
fn no_file_is_longer_than_can_be_read_at_once() {
    for (module, source) in files() {
        let code = source.split("#[cfg(test)]\nmod tests {").next();
        let lines = code.unwrap_or_default().lines().count();
        assert!(lines <= MOST_LINES, "{module} has {lines} lines");
    }
}

#[test]
fn every_folder_says_what_lives_in_it() {
    let all = files();
    for (module, source) in &all {
        let inner = format!("{module}::");
        let is_folder = !module.contains("::") && all.keys().any(|other| other.starts_with(&inner));
        if is_folder {
            let header = source.lines().take_while(|line| line.starts_with("//!"));
            assert!(
                header.count() >= 3,
                "{module} does not say what lives in it"
            );
        }
    }
}

/// Whether a text has this word.
fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .any(|other| other == word)
}

fn read_tests(folder: &Path, texts: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            read_tests(&path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with(file!())
        {
            texts.push(fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_promise_and_invariant_is_named_where_it_is_kept_and_where_it_is_tested() {
    let files = files();
    let mut tests = Vec::new();
    read_tests(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"),
        &mut tests,
    );
    let promises = (1..=6).map(|number| format!("P{number}"));
    let invariants = (1..=8).map(|number| format!("I{number}"));
    let architecture =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ARCHITECTURE.md"));
    let architecture = architecture.unwrap();
    for name in promises.chain(invariants) {
        assert!(
            files.values().any(|text| has_word(text, &name)),
            "{name} in src"
        );
        assert!(
            tests.iter().any(|text| has_word(text, &name)),
            "{name} in tests"
        );
        assert!(
            has_word(&architecture, &name),
            "{name} in docs/ARCHITECTURE.md"
        );
    }
}

#[test]
fn the_check_itself_sees_imports_and_circles() {
    let source = "use crate::node::Node;\nfn f() { crate::server::x() }\nuse super::{a, b::c};\n// crate::no\n\
                  #[cfg(test)]\nmod tests { use crate::hidden::X; }";
    let found: Vec<String> = paths("w::m", &code_of(source)).into_iter().collect();
    assert_eq!(found, ["node::Node", "server::x", "w::a", "w::b::c"]);
    let one_way = BTreeMap::from([("a", BTreeSet::from(["b"])), ("b", BTreeSet::new())]);
    assert!(circle(&one_way).is_empty());
    let circular = BTreeMap::from([("a", BTreeSet::from(["b"])), ("b", BTreeSet::from(["a"]))]);
    assert_eq!(circle(&circular), ["a", "b"]);
}
