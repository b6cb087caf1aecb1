//! Where the lines of the log go, and what a panic leaves there.
//!
//! Invariant: a line that cannot be written is dropped and counted, and nothing else comes of it. A full disk, a reader
//! that went away or one that has stopped reading must neither end nor hold up a server, which has records to keep. So
//! one thread writes, and all others only queue.

use std::io::Write;
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::time::{Duration, Instant};

use catalog::clock::{Clock, SystemClock};
use serde_json::json;

use crate::config::LogFormat;

/// Counts what could not be written.
pub(super) const LOST: &str = "trailhouse_log_lines_lost_total";
/// Lines that wait for the one who reads them; the next one is dropped.
const WAITING_MAX: usize = 4_096;
/// How often it is looked whether lines still wait, at the end.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// The log's lines on their way. Writing never fails and never waits: it takes a line whole, or drops it.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    queue: SyncSender<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
}

impl Lines {
    /// Starts the thread that writes.
    pub(super) fn start(mut to: impl Write + Send + 'static) -> std::io::Result<Self> {
        let (queue, lines) = mpsc::sync_channel::<Vec<u8>>(WAITING_MAX);
        let waiting = Arc::new(AtomicUsize::new(0));
        let left = Arc::clone(&waiting);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                for line in lines {
                    if to.write_all(&line).is_err() {
                        lost();
                    }
                    left.fetch_sub(1, Ordering::AcqRel);
                }
            })?;
        Ok(Self { queue, waiting })
    }

    /// Returns once every line is written, or after this time.
    pub(super) fn settle(&self, time_max: Duration) {
        let end = Instant::now() + time_max;
        while self.waiting.load(Ordering::Acquire) > 0 && Instant::now() < end {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        if self.queue.try_send(line.to_vec()).is_err() {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            lost();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn lost() {
    metrics::counter!(LOST).increment(1);
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
    use std::sync::Mutex;

    use super::*;
    use crate::observe::Metrics;

    /// A log that can be looked at.
    #[derive(Clone, Debug, Default)]
    struct Shown(Arc<Mutex<Vec<u8>>>);

    impl Write for Shown {
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
            let lines = Shown::default();
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

    /// A pipe whose reader has stopped to read.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted_and_no_error() {
        let metrics = Metrics::install(10).unwrap();
        let lines = Lines::start(Full).unwrap();
        let to = lines.clone();
        let log = tracing_subscriber::fmt()
            .with_writer(move || to.clone())
            .finish();
        tracing::subscriber::with_default(log, || tracing::error!("nobody reads this"));
        lines.settle(Duration::from_secs(30));
        let text = metrics.render();
        assert!(text.contains(&format!("\n{LOST} ")), "{text}");
    }

    #[test]
    fn nobody_waits_for_a_reader_that_has_stopped() {
        let (reads, stuck) = mpsc::channel();
        let mut lines = Lines::start(Stuck(stuck)).unwrap();
        for _ in 0..2 * WAITING_MAX {
            lines.write_all(b"a line\n").unwrap();
        }
        lines.settle(Duration::ZERO);
        assert!(lines.waiting.load(Ordering::Acquire) >= WAITING_MAX);
        // It reads again.
        drop(reads);
        lines.settle(Duration::from_secs(30));
        assert_eq!(lines.waiting.load(Ordering::Acquire), 0);
    }
}
