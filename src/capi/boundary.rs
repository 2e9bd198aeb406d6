//! The boundary to C: a panic becomes a status, and a failure the text of this thread.

use std::cell::RefCell;
use std::ffi::{CString, c_char};

use super::status::{Failure, groupcache_status};
use crate::runtime::sync::thread_local;
use crate::runtime::user_code;

thread_local! {
    static LAST: RefCell<Last> = RefCell::default();
}

/// The last failure of a thread. Its text is made when it is asked for: most callers, told that
/// there is no value, never do.
#[derive(Default)]
struct Last {
    failure: Option<Failure>,
    text: CString,
}

/// Runs what a function does. What it unwinds over is the work of this one call, or of the library,
/// whose state outlives panics by its guards (I3).
pub(super) fn status(work: impl FnOnce() -> Result<(), Failure>) -> groupcache_status {
    let failure = match user_code::call(work) {
        Ok(Ok(())) => return groupcache_status::Ok,
        Ok(Err(failure)) => failure,
        Err(panicked) => Failure::Panic(panicked.0),
    };
    let status = failure.status();
    // A destructor of a thread that ends may come too late for a text.
    let _ = LAST.try_with(|last| last.borrow_mut().failure = Some(failure));
    status
}

/// Runs what a function does that has no status; `otherwise` is for when it fails.
pub(super) fn answer<T>(otherwise: T, work: impl FnOnce() -> Result<T, Failure>) -> T {
    let mut answer = otherwise;
    status(|| {
        answer = work()?;
        Ok(())
    });
    answer
}

/// What went wrong, in words, when a call on this thread last failed: each function that does not
/// return `GROUPCACHE_STATUS_OK`, or returns what it says means failure. Never `NULL`. Valid until
/// the next call on this thread.
#[unsafe(no_mangle)]
pub extern "C" fn groupcache_error_text() -> *const c_char {
    let text = LAST.try_with(|last| {
        let mut last = last.borrow_mut();
        if let Some(failure) = last.failure.take() {
            last.text =
                CString::new(failure.to_string().replace('\0', "\u{fffd}")).unwrap_or_default();
        }
        last.text.as_ptr()
    });
    text.unwrap_or(c"".as_ptr())
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;
    use crate::error::Error;

    fn text() -> String {
        // SAFETY: it is a text that ends with NUL, valid until the next call on this thread.
        unsafe { CStr::from_ptr(groupcache_error_text()) }
            .to_str()
            .unwrap()
            .to_owned()
    }

    #[test]
    fn a_panic_becomes_a_status_and_a_text() {
        let outcome = status(|| panic!("out of ideas"));
        assert_eq!(outcome, groupcache_status::Panic);
        assert!(text().contains("out of ideas"), "{}", text());
        assert_eq!(answer(7, || panic!("again")), 7);
        assert!(text().contains("again"));
    }

    #[test]
    fn a_text_stays_until_the_next_failure_and_is_of_its_thread() {
        assert_eq!(text(), "");
        status(|| Err(Error::NotFound.into()));
        assert_eq!(status(|| Ok(())), groupcache_status::Ok);
        assert_eq!(text(), Error::NotFound.to_string());
        assert_eq!(text(), Error::NotFound.to_string());
        assert_eq!(std::thread::spawn(text).join().unwrap(), "");
        status(|| Err(Failure::Argument("a\0b".to_owned())));
        assert_eq!(text(), "a\u{fffd}b");
    }
}
