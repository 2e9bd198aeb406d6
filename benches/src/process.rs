//! Other processes that a benchmark starts and stops.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::Failure;

/// Ticks in a second of `/proc`, which are the same on every Linux that programs see.
const TICKS: u32 = 100;

/// Whether one of the places where programs are has this one.
#[must_use]
pub fn is_installed(program: &str) -> bool {
    let places = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&places).any(|place| place.join(program).is_file())
}

/// The time for which a process has used processors, its own code and the system's: in `/proc`, so
/// on Linux; elsewhere none.
#[must_use]
pub fn cpu_time(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name before it may hold anything, the fields after it are numbers.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |field: &str| field.parse::<u32>().unwrap_or_default();
    let used: u32 = fields.split_whitespace().skip(11).take(2).map(ticks).sum();
    Duration::from_secs(u64::from(used)) / TICKS
}

/// The time for which this thread has used a processor. To ask takes a system call.
#[must_use]
pub fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// A process that ends with its starter: when dropped, or when its input ends. It talks in lines.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts `command`.
    ///
    /// # Errors
    ///
    /// The system's, if it cannot.
    pub fn start(command: &mut Command) -> Result<Process, Failure> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("a process without an output")?;
        Ok(Process {
            child,
            output: BufReader::new(output),
        })
    }

    /// Starts this program once more, with these arguments.
    ///
    /// # Errors
    ///
    /// The system's, if it cannot.
    pub fn start_self(arguments: &[&str]) -> Result<Process, Failure> {
        Process::start(Command::new(std::env::current_exe()?).args(arguments))
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it says.
    ///
    /// # Errors
    ///
    /// If it has ended.
    pub fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err("a process has ended".into());
        }
        Ok(line.trim_end().to_owned())
    }

    /// Tells it a line.
    ///
    /// # Errors
    ///
    /// If it has ended.
    pub fn tell(&mut self, line: &str) -> Result<(), Failure> {
        let input = self
            .child
            .stdin
            .as_mut()
            .ok_or("a process without an input")?;
        Ok(writeln!(input, "{line}")?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Builds a Go program from one file and the packages of the system. Nothing is fetched. `None`,
/// and a word about it, where there is no Go or no such package.
///
/// # Errors
///
/// If the compiler cannot be run.
pub fn build_go(source: &Path, folder: &Path) -> Result<Option<std::path::PathBuf>, Failure> {
    if !is_installed("go") {
        eprintln!("notice: no Go here (packages golang-go, golang-github-golang-groupcache-dev)");
        return Ok(None);
    }
    let program = folder.join("go-groupcache");
    let built = Command::new("go")
        .arg("build")
        .arg("-o")
        .arg(&program)
        .arg(source)
        .env("GO111MODULE", "off")
        .env("GOPATH", "/usr/share/gocode")
        .env("GOCACHE", folder.join("go-cache"))
        .output()?;
    if !built.status.success() {
        let error = String::from_utf8_lossy(&built.stderr);
        eprintln!(
            "notice: the Go program does not build (packages golang-go, golang-github-golang-groupcache-dev): {error}"
        );
        return Ok(None);
    }
    Ok(Some(program))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_answers_and_has_used_little() {
        let mut cat = Process::start(&mut Command::new("cat")).unwrap();
        cat.tell("hello").unwrap();
        assert_eq!(cat.line().unwrap(), "hello");
        assert!(cpu_time(cat.id()) < Duration::from_secs(1));
        assert!(is_installed("cat") && !is_installed("no-such-program"));
    }
}
