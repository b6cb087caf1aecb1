//! Standard output, where a command line answers.
//!
//! A command does what it was asked to even when nobody can be told: what it changes is not left half done for want of a
//! reader. Afterwards it says that its answer was lost, unless the reader went away by itself, as `head` does.

use std::fmt::Display;
use std::io::{Error, ErrorKind, Write};
use std::sync::{Mutex, PoisonError};

/// The first line that was lost, in this process: as there is one standard output.
static LOST: Mutex<Option<Error>> = Mutex::new(None);

/// Writes one line of an answer.
pub(super) fn say(line: impl Display) {
    let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
    if lost.is_none() {
        *lost = writeln!(std::io::stdout(), "{line}").err();
    }
}

/// Whether everything that was said is written.
///
/// # Errors
/// Why it could not be.
pub(super) fn said() -> Result<(), Error> {
    let lost = LOST.lock().unwrap_or_else(PoisonError::into_inner).take();
    let flushed = std::io::stdout().flush();
    lost.map_or(flushed, Err).or_else(gone)
}

/// A reader that has seen enough is no fault.
pub(super) fn gone(error: Error) -> Result<(), Error> {
    match error.kind() {
        ErrorKind::BrokenPipe => Ok(()),
        _ => Err(error),
    }
}
