//! Where the lines of the log go, and what a panic leaves there.
//!
//! Invariant: a line that cannot be written is dropped and counted, and nothing else comes of it. A full disk or a reader
//! that went away must not end a server, which has records to keep.

use std::io::Write;
use std::panic::PanicHookInfo;

use catalog::clock::{Clock, SystemClock};
use serde_json::json;

use crate::config::LogFormat;

/// Counts what could not be written.
pub(super) const LOST: &str = "trailhouse_log_lines_lost_total";

/// A writer that never fails: it takes a line whole, or drops it.
#[derive(Debug)]
pub(super) struct Lossy<W>(pub(super) W);

impl<W: Write> Write for Lossy<W> {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        if self.0.write_all(line).is_err() {
            metrics::counter!(LOST).increment(1);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        // A line is counted once, and its bytes were taken.
        self.0.flush().or(Ok(()))
    }
}

/// Says where it was that something panicked. The usual hook would print the panic's text as well, and an index or a
/// conversion that fails quotes what it failed on.
///
/// A panic in here would abort the process, and what panicked may have been the log itself, in the middle of a line or
/// of a span. So this goes past it.
pub(super) fn panicked(format: LogFormat, mut to: impl Write, panic: &PanicHookInfo<'_>) {
    let at = panic.location().map(ToString::to_string);
    let thread = std::thread::current();
    let line = line(format, at.as_deref(), thread.name().unwrap_or_default());
    // There is nobody to tell.
    let _ = to.write_all(line.as_bytes());
}

fn line(format: LogFormat, at: Option<&str>, thread: &str) -> String {
    let timestamp = SystemClock.now();
    match format {
        LogFormat::Json => {
            let line = json!({
                "timestamp": timestamp.to_string(), "level": "ERROR", "message": "a panic", "at": at,
                "thread": thread, "target": module_path!(),
            });
            format!("{line}\n")
        }
        LogFormat::Text => format!(
            "{timestamp} ERROR {}: a panic at={:?} thread={thread:?}\n",
            module_path!(),
            at.unwrap_or_default()
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::observe::Metrics;

    /// A log that can be looked at.
    #[derive(Clone, Debug, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// A disk without space.
    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(Error::from(ErrorKind::StorageFull))
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Err(Error::from(ErrorKind::StorageFull))
        }
    }

    #[test]
    fn a_panic_is_logged_without_its_text_wherever_it_happens() {
        for format in [LogFormat::Json, LogFormat::Text] {
            let lines = Lines::default();
            let written = lines.clone();
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                panicked(format, Full, panic);
                panicked(format, written.clone(), panic);
            }));
            let value = "canary".to_owned();
            let panicking = move || u32::try_from(value.len() as u64 + (1 << 40)).expect(&value);
            let outcome = std::panic::catch_unwind(panicking);
            std::panic::set_hook(before);
            assert!(outcome.is_err());
            let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            let said = ["a panic", "ERROR", "observe/lines.rs"];
            assert!(said.iter().all(|said| text.contains(said)), "{text}");
            assert!(text.ends_with('\n') && text.lines().count() == 1, "{text}");
            assert!(!text.contains("canary"), "{text}");
        }
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted_and_no_error() {
        let metrics = Metrics::install(10).unwrap();
        let log = tracing_subscriber::fmt()
            .with_writer(|| Lossy(Full))
            .finish();
        tracing::subscriber::with_default(log, || tracing::error!("nobody reads this"));
        Lossy(Full).flush().unwrap();
        let text = metrics.render();
        assert!(text.contains(&format!("\n{LOST} ")), "{text}");
    }
}
