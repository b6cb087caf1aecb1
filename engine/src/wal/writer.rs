//! The one thread that writes: it takes what has queued up, makes one write and one sync of it, and answers all.
//!
//! An idle log syncs at once, a busy one shares a sync among all that came during the last. After any error the segment
//! is never written again: the group goes into a fresh one at the same positions, and only if that fails too is it
//! answered with an error, and the positions are given to the next group, in another segment again.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use catalog::clock::{self, Random};
use catalog::keys::EpochKey;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::error::AppendError;
use super::frame::{FRAME_OVERHEAD_MAX, Header, Link};
use super::index::{Holding, Location};
use super::reserve;
use super::sealed::{Chain, SealedFrame, SealedKey, seal};
use super::segment::{Current, Places};
use super::shared::Shared;
use super::source::Source;
use super::{Appended, Payload, Settings};
use crate::disk::DiskLock;

/// Frames and payload bytes that share one sync at most.
const GROUP_FRAMES_MAX: usize = 4096;
pub(super) const GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long a fresh segment is waited with after the last could not be made: bounds the attempts on a broken disk.
const RETRY_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 0 } else { 20 });

/// A frame that waits.
pub(super) struct Job {
    pub(super) source: Source,
    pub(super) key: Arc<EpochKey>,
    pub(super) payload: Payload,
    pub(super) reply: oneshot::Sender<Result<Appended, AppendError>>,
    pub(super) since: Instant,
    pub(super) _room: OwnedSemaphorePermit,
}

/// What the writer can be asked for.
pub(super) enum Command {
    Append(Job),
    /// Something was released: see what can go.
    Tidy,
    CarryForward(Source, oneshot::Sender<Result<(), AppendError>>),
    Close(oneshot::Sender<()>),
}

/// The writer's own state.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) settings: Settings,
    pub(super) random: Arc<dyn Random>,
    /// The last durable frame.
    pub(super) chain: Chain,
    /// The newest segment that has its name, how much of it is durable, and the one before.
    pub(super) last: Link,
    pub(super) behind: Link,
    /// `None` after a failure, until a fresh segment was made.
    pub(super) current: Option<Current>,
    /// Whether the last attempt to make a segment failed.
    pub(super) ailing: bool,
    pub(super) _lock: DiskLock,
}

impl Writer {
    /// Serves until it is told to close or nobody is left.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut held = None;
        let reply = loop {
            let next = held.take().or_else(|| queue.try_recv().ok());
            let next = next.or_else(|| {
                self.confirm();
                queue.blocking_recv()
            });
            match next {
                Some(Command::Append(job)) => {
                    let (jobs, other) = gather(job, &mut queue);
                    held = other;
                    self.commit(jobs);
                    self.tidy();
                }
                Some(Command::Tidy) => self.tidy(),
                Some(Command::CarryForward(source, reply)) => {
                    let carried = self.carry(Some(&source));
                    self.tidy();
                    let _ = reply.send(carried.map_err(|error| refusal(&error)));
                }
                Some(Command::Close(reply)) => break Some(reply),
                None => break None,
            }
        };
        queue.close();
        if self.current.as_ref().is_some_and(|file| !file.confirmed) {
            self.mark_low();
        }
        drop(self);
        if let Some(reply) = reply {
            let _ = reply.send(());
        }
    }

    /// Commits one group and answers every job of it.
    pub(super) fn commit(&mut self, jobs: Vec<Job>) {
        let (jobs, frames) = self.seal(jobs);
        if jobs.is_empty() {
            return;
        }
        metrics::histogram!("trailhouse_wal_group_frames").record(jobs.len() as f64);
        let outcome = self.write(&frames).map_err(|error| refusal(&error));
        for (job, frame) in jobs.into_iter().zip(&frames) {
            let appended = outcome.map(|()| Appended {
                position: frame.position,
                digest: frame.digest,
            });
            metrics::histogram!("trailhouse_wal_append_seconds").record(job.since.elapsed());
            let _ = job.reply.send(appended);
        }
    }

    /// Seals what there is room for, and answers the rest.
    fn seal(&mut self, jobs: Vec<Job>) -> (Vec<Job>, Vec<SealedFrame>) {
        let fitting = self.admit(jobs);
        if fitting.is_empty() {
            return Default::default();
        }
        if let Err(error) = self.roll() {
            let refusal = refusal(&error);
            for job in fitting {
                let _ = job.reply.send(Err(refusal));
            }
            return Default::default();
        }
        let (mut kept, mut frames) = (Vec::new(), Vec::new());
        let mut chain = self.chain;
        for job in fitting {
            match self.seal_one(&job, &mut chain) {
                Some(frame) => {
                    frames.push(frame);
                    kept.push(job);
                }
                None => {
                    let _ = job.reply.send(Err(AppendError::Failed));
                }
            }
        }
        (kept, frames)
    }

    /// The jobs that there is room for; the others are answered.
    fn admit(&self, jobs: Vec<Job>) -> Vec<Job> {
        let used = self.shared.index().bytes();
        let mut room = self.settings.bytes_max.saturating_sub(used);
        let mut fitting = Vec::with_capacity(jobs.len());
        for job in jobs {
            let needed = job.payload.len() as u64 + FRAME_OVERHEAD_MAX;
            if needed <= room {
                room -= needed;
                fitting.push(job);
            } else {
                let _ = job.reply.send(Err(AppendError::Full));
            }
        }
        fitting
    }

    fn seal_one(&mut self, job: &Job, chain: &mut Chain) -> Option<SealedFrame> {
        let current = self.current.as_mut()?;
        let random = &*self.random;
        let epoch = job.key.wrapped().epoch_id;
        let (key, sealed) = current.key(&job.source, epoch, |home| {
            SealedKey::make(&job.source, home, &job.key, random)
        })?;
        let position = chain.position + 1;
        let ciphertext = seal(self.shared.id, &key, &sealed, position, &job.payload).ok()?;
        chain.push(&job.source, position, &ciphertext);
        Some(SealedFrame {
            position,
            digest: chain.digest,
            origin: position,
            origin_digest: chain.digest,
            key: sealed,
            ciphertext,
        })
    }

    /// Makes frames durable: in the current segment, or if that fails in a fresh one.
    pub(super) fn write(&mut self, frames: &[SealedFrame]) -> io::Result<()> {
        match self.append(frames) {
            Ok(places) => {
                self.settle(frames, &places);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a segment of the log failed and is left behind"
                );
                self.current = None;
                self.start(frames)
            }
        }
    }

    fn append(&mut self, frames: &[SealedFrame]) -> io::Result<Places> {
        let current = self.current.as_mut().ok_or(ErrorKind::NotConnected)?;
        let (places, length) = current.write(frames)?;
        let since = Instant::now();
        let synced = current.sync(length);
        metrics::histogram!("trailhouse_wal_sync_seconds").record(since.elapsed());
        synced?;
        current.confirmed = false;
        self.last.length = length;
        Ok(places)
    }

    /// Starts a fresh segment when there is none or the current one is large enough.
    pub(super) fn roll(&mut self) -> io::Result<()> {
        match &self.current {
            Some(current) if current.length < self.settings.segment_bytes_max => Ok(()),
            _ => self.start(&[]),
        }
    }

    /// Makes the next segment, which begins with `frames`; they are durable when this returns.
    pub(super) fn start(&mut self, frames: &[SealedFrame]) -> io::Result<()> {
        self.current = None;
        if self.ailing {
            std::thread::sleep(RETRY_PAUSE);
        }
        self.ailing = true;
        let first = self.chain.position + 1;
        // A segment without a durable frame is replaced by the one that begins where it did.
        let behind = if self.last.first == first {
            self.behind
        } else {
            self.last
        };
        let header = Header {
            repaired: false,
            log: self.shared.id,
            salt: clock::array(&*self.random),
            first,
            digest: self.chain.digest,
            low: self.shared.index().low(first),
            previous: behind,
            born: 0,
        };
        let salt = header.salt;
        let (current, places) =
            Current::create(&*self.shared.disk, &self.shared.folder, header, frames)?;
        self.ailing = false;
        self.behind = behind;
        self.last = Link {
            first,
            length: current.length,
        };
        let holding = Holding::new(salt, current.length);
        self.shared.index().segments.insert(first, holding);
        self.current = Some(current);
        self.settle(frames, &places);
        Ok(())
    }

    /// Takes note of frames that are durable.
    fn settle(&mut self, frames: &[SealedFrame], places: &Places) {
        let mut index = self.shared.index();
        let Link { first, length } = self.last;
        if let Some(holding) = index.segments.get_mut(&first) {
            holding.bytes = length;
        }
        for (frame, (offset, length)) in frames.iter().zip(places) {
            let location = Location {
                segment: first,
                offset: *offset,
                length: *length,
                key: Arc::clone(&frame.key),
            };
            index.insert(frame.origin, location);
        }
        drop(index);
        if let Some(frame) = frames.last() {
            self.chain = Chain {
                position: frame.position,
                digest: frame.digest,
            };
            self.shared.last.store(frame.position, Ordering::Release);
        }
    }

    /// Writes, without a sync, that all is durable: after the end of the process damage can be told from a torn write.
    pub(super) fn confirm(&mut self) {
        let next = self.chain.position + 1;
        if let Some(current) = self.current.as_mut().filter(|file| !file.confirmed) {
            let low = self.shared.index().low(current.first);
            if current.write_confirm(next, low).is_err() {
                // The next write goes over it, and will meet the same disk.
                tracing::warn!("the end of the log could not be confirmed");
            }
        }
    }
}

/// What else has queued up, within the bounds of a group, and the command that ended it.
fn gather(first: Job, queue: &mut mpsc::Receiver<Command>) -> (Vec<Job>, Option<Command>) {
    let mut bytes = first.payload.len();
    let mut jobs = vec![first];
    while jobs.len() < GROUP_FRAMES_MAX && bytes < GROUP_BYTES_MAX {
        match queue.try_recv() {
            Ok(Command::Append(job)) => {
                bytes += job.payload.len();
                jobs.push(job);
            }
            Ok(other) => return (jobs, Some(other)),
            Err(_) => break,
        }
    }
    (jobs, None)
}

fn refusal(error: &io::Error) -> AppendError {
    tracing::warn!(
        error = error as &dyn std::error::Error,
        "frames were not acknowledged"
    );
    if reserve::is_full(error) {
        AppendError::Full
    } else {
        AppendError::Failed
    }
}
