//! What a process holds, without what glibc keeps of it for later: a library that is loaded into the
//! process, and that gives all back to the system on a signal.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Tells it to.
pub(crate) const SIGNAL: &str = "USR1";

/// Blocked in all threads, as the first one has it so, and waited for in one of its own: memory may
/// not be touched in the handler of a signal.
const SOURCE: &str = r"
    #include <malloc.h>
    #include <pthread.h>
    #include <signal.h>
    static sigset_t asked;
    static void *trim(void *nothing) {
        for (int which; sigwait(&asked, &which) == 0;) malloc_trim(0);
        return nothing;
    }
    __attribute__((constructor)) static void start(void) {
        pthread_t thread;
        sigemptyset(&asked);
        sigaddset(&asked, SIGUSR1);
        pthread_sigmask(SIG_BLOCK, &asked, 0);
        pthread_create(&thread, 0, trim, 0);
    }
";

/// The library; `None`, with a notice, where there is no compiler of C or no glibc.
pub(crate) fn library() -> Option<&'static PathBuf> {
    static LIBRARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let (source, library) = (folder.join("trimmer.c"), folder.join("trimmer.so"));
        std::fs::write(&source, SOURCE).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-pthread", "-o"]);
        let compiled = compiler.arg(&library).arg(&source).output();
        if compiled.is_ok_and(|output| output.status.success()) {
            return Some(library);
        }
        eprintln!("notice: no C compiler with glibc: not asserted what memory is left");
        None
    });
    library.as_ref()
}
