//! A control group (version 1) for one process, with a limit.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io, process, thread};

/// Removed when dropped; the process must have ended by then.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// A group of this controller, such as `memory`. `None`, with a notice, where the system has
    /// none, or not for us.
    pub(crate) fn new(controller: &str) -> Option<Cgroup> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("groupcache-{}-{made}", process::id());
        let path = PathBuf::from("/sys/fs/cgroup").join(controller).join(name);
        let group = Cgroup(path);
        let made = fs::create_dir(&group.0);
        // Version 2, and a plain directory, have other files.
        if made.is_err() || !group.0.join("tasks").exists() {
            eprintln!("notice: no control group of {controller} here: not tried");
            return None;
        }
        Some(group)
    }

    pub(crate) fn set(&self, file: &str, limit: u64) -> io::Result<()> {
        fs::write(self.0.join(file), limit.to_string())
    }

    /// The command that makes a process of the group out of the one that follows it.
    pub(crate) fn wrapper(&self) -> [String; 4] {
        let procs = self.0.join("cgroup.procs");
        let enter = format!("echo $$ > {}; exec \"$@\"", procs.display());
        ["sh".into(), "-c".into(), enter, "sh".into()]
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The system may need a moment to see that the process has ended.
        let end = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.0).is_err() && self.0.exists() && Instant::now() < end {
            thread::yield_now();
        }
    }
}
