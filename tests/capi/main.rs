//! The C ABI, from programs in C under valgrind and from Python.
//!
//! To build the library takes a minute, so this is done with `GROUPCACHE_REQUIRE_C=1` only, and then
//! it is a failure if gcc, valgrind or Python is missing.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "this is all test code"
)]
#![cfg(target_os = "linux")]

mod cluster;
mod ends;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// After how many seconds a program that hangs is ended.
const PATIENCE: &str = "240";

/// The library for C, and the programs that use it.
struct Built {
    folder: PathBuf,
}

/// What is built once for all tests, or nothing if that is not asked for.
fn built() -> Option<&'static Built> {
    static BUILT: OnceLock<Option<Built>> = OnceLock::new();
    BUILT.get_or_init(Built::new).as_ref()
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Built {
    fn new() -> Option<Built> {
        if env::var_os("GROUPCACHE_REQUIRE_C").is_none() {
            eprintln!("notice: the C ABI is not tested without GROUPCACHE_REQUIRE_C=1");
            return None;
        }
        // A folder of its own: that of the cargo that runs this is locked while it builds.
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("capi");
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["rustc", "--release", "--lib", "--features", "capi,auth"])
            .args(["--crate-type", "cdylib,staticlib"])
            .current_dir(repository())
            .env("CARGO_TARGET_DIR", &target);
        succeed(&mut cargo);
        let built = Built {
            folder: target.join("release"),
        };
        let shared = ["-lgroupcache_sync"];
        built.compile("whole.c", "whole", &shared);
        built.compile("fork.c", "fork", &shared);
        built.compile("member.c", "member", &shared);
        let archive = built.folder.join("libgroupcache_sync.a");
        let archived = [archive.to_str().unwrap(), "-lm", "-ldl"];
        built.compile("member.c", "member-static", &archived);
        Some(built)
    }

    fn compile(&self, source: &str, program: &str, libraries: &[&str]) {
        let folder = self.folder.display();
        let mut gcc = Command::new("gcc");
        gcc.args(["-std=c11", "-D_GNU_SOURCE", "-pthread", "-g", "-O1"])
            .args(["-Wall", "-Wextra", "-Werror"])
            .arg(format!("-I{}", repository().join("include").display()))
            .arg(repository().join("tests/capi").join(source))
            .arg("-o")
            .arg(self.program(program))
            .args([format!("-L{folder}"), format!("-Wl,-rpath,{folder}")])
            .args(libraries);
        succeed(&mut gcc);
    }

    fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A program, ended if it hangs.
    fn run(&self, name: &str) -> Command {
        let mut command = Command::new("timeout");
        command.arg(PATIENCE).arg(self.program(name));
        command
    }

    /// The same under valgrind, whose every complaint is status 99: also of a single byte that was
    /// not freed, in whatever way, but for what `valgrind.supp` names.
    fn run_watched(&self, name: &str, leaks: Leaks) -> Command {
        let suppressions = repository().join("tests/capi/valgrind.supp");
        let mut command = Command::new("timeout");
        command
            .args([PATIENCE, "valgrind", "--quiet", "--error-exitcode=99"])
            .arg(format!("--suppressions={}", suppressions.display()));
        match leaks {
            Leaks::AreErrors => command.args([
                "--leak-check=full",
                "--show-leak-kinds=all",
                "--errors-for-leak-kinds=all",
            ]),
            Leaks::AreMeant => command.arg("--leak-check=no"),
        };
        command.arg(self.program(name));
        command
    }
}

enum Leaks {
    AreErrors,
    /// A child leaves alone what belongs to its parent.
    AreMeant,
}

fn outcome(command: &mut Command) -> Output {
    match command.output() {
        Ok(output) => output,
        Err(error) => panic!("{command:?}: {error}"),
    }
}

fn succeed(command: &mut Command) -> String {
    let output = outcome(command);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

#[test]
fn a_program_that_does_everything_has_no_error_and_no_leak() {
    let Some(built) = built() else { return };
    let said = succeed(&mut built.run_watched("whole", Leaks::AreErrors));
    assert_eq!(said, "all is as it should be\n");
}

#[test]
fn one_value_that_is_not_freed_would_be_seen() {
    let Some(built) = built() else { return };
    let mut forgetful = built.run_watched("whole", Leaks::AreErrors);
    let output = outcome(forgetful.arg("forget"));
    assert_eq!(output.status.code(), Some(99));
}

#[test]
fn a_forked_child_is_told_so() {
    let Some(built) = built() else { return };
    for mut command in [
        built.run("fork"),
        built.run_watched("fork", Leaks::AreMeant),
    ] {
        assert_eq!(succeed(&mut command), "all is as it should be\n");
    }
}

#[test]
fn threads_of_python_share_one_load() {
    let Some(built) = built() else { return };
    let mut python = Command::new("timeout");
    python
        .args([PATIENCE, "python3", "-X", "dev", "-W", "error"])
        .arg(repository().join("examples/python/demo.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env(
            "GROUPCACHE_LIBRARY",
            built.folder.join("libgroupcache_sync.so"),
        );
    let said = succeed(&mut python);
    assert!(said.contains("32 threads, 1 load"), "{said}");
}

/// The one struct whose fields the module of Python names.
#[test]
fn the_counters_of_python_are_those_of_the_header() {
    let read = |path: &str| fs::read_to_string(repository().join(path)).unwrap();
    let header = read("include/groupcache.h");
    let fields = header.split("} groupcache_group_stats;").next().unwrap();
    let fields = fields.rsplit("typedef struct {").next().unwrap().lines();
    let fields = fields.filter_map(|line| line.trim().strip_prefix("uint64_t "));
    let fields: Vec<&str> = fields.map(|field| field.trim_end_matches(';')).collect();
    let module = read("examples/python/groupcache.py");
    let names = module.split("STATS = \"\"\"").nth(1).unwrap();
    let names = names.split("\"\"\"").next().unwrap();
    let names: Vec<&str> = names.split_whitespace().collect();
    assert!(fields.len() >= 27);
    assert_eq!(names, fields);
}
