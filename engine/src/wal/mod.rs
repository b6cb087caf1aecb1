//! The write-ahead log: what was acknowledged is durable here until the table has it.
//!
//! ```text
//! append --> queue --> writer thread: seal, one write, one fdatasync --> answers        (writer, sealed, frame, segment)
//! take   --> lock --> identity, which is compared with what is known of this node       (recovery, identity)
//! open   --> raise identity --> scan every segment --> index of unreleased frames       (recovery, scan, index)
//! recover--> read and open a source's frames                                            (this file)
//! release--> segments without unreleased frames are removed; stragglers are carried forward   (writer)
//! ```
//!
//! The folder: `wal.id` (identity), `lock`, `<20-digit first position>.wal` (frame, segment), `reserve` (reserve), and
//! `unreadable/` for segments that the operator had set aside. One process has it open at a time.
//!
//! - One log for all sources of a node. Positions count from 1 and have no holes; those of one source may.
//! - Nothing that was answered `Ok` is lost. What was answered with an error may be found after a restart, but never
//!   beside another frame at its position.
//! - Damage of what was acknowledged closes the log until the operator acts; nothing is skipped in silence.
//! - The log knows the keys of its frames only sealed; whoever recovers a source needs the source's keys.

mod clear;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod damage;
mod error;
mod frame;
mod identity;
mod index;
mod inspect;
mod recovery;
mod repair;
mod reserve;
mod scan;
mod sealed;
mod segment;
mod shared;
mod source;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
mod writer;

use std::collections::HashMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use catalog::clock::Random;
use catalog::keys::{EpochKey, KeyRing, SecretKey};
use tokio::sync::{Semaphore, mpsc, oneshot};
use uuid::Uuid;
use zeroize::Zeroizing;

pub use error::{AppendError, Error};
pub use inspect::Inspection;
pub use recovery::Folder;
pub use repair::SetAside;
pub use source::Source;

use crate::disk::Disk;
use sealed::SealedFrame;
use shared::Shared;
use writer::{Command, Job, Writer};

/// The largest payload of one frame, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Frames that may wait for the writer; the next one waits to be queued.
const QUEUE_FRAMES_MAX: usize = 4096;
/// Payload bytes that may wait. One frame of the largest size always fits.
const QUEUE_BYTES_MAX: usize = PAYLOAD_BYTES_MAX;
/// How often a read starts again because the frames moved under it.
const MOVES_MAX: usize = 8;

/// Where the log lies and how large it may become.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its folder, of its own, made when absent.
    pub folder: PathBuf,
    /// A segment that has reached this size is followed by the next one.
    pub segment_bytes_max: u64,
    /// All segments together; beyond that nothing is taken until something is released.
    pub bytes_max: u64,
}

/// What was found when the log was opened.
#[derive(Debug, Clone)]
pub struct Recovery {
    /// Which log this is; made with the folder.
    pub id: Uuid,
    /// The generation that it was opened as.
    pub generation: u64,
    /// Sources with frames that are not known to be in their tables.
    pub sources: Vec<Unreleased>,
    /// Bytes of unacknowledged frames that a loss of power left incomplete, and that were dropped.
    pub torn_bytes: u64,
    /// The last position that is taken, 0 if none is.
    pub last_position: u64,
}

/// A source's frames that are not known to be in its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreleased {
    /// Whose.
    pub source: Source,
    /// How many.
    pub frames: u64,
    /// Their bytes in the log.
    pub bytes: u64,
}

/// Where an acknowledged frame stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its position in the log.
    pub position: u64,
    /// The digest of the chain at that position.
    pub digest: [u8; 32],
}

/// A frame read back.
pub struct Frame {
    /// The position it was acknowledged with.
    pub position: u64,
    /// The digest of the chain at that position.
    pub digest: [u8; 32],
    /// What was appended; wiped when dropped.
    pub payload: Zeroizing<Vec<u8>>,
}

/// What is appended, in clear: shared between the log, until it is sealed, and whoever brings it into a table, and wiped
/// when nobody has it any more.
#[derive(Clone, Default)]
pub struct Payload(Arc<Zeroizing<Vec<u8>>>);

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Zeroizing::new(bytes).into()
    }
}

impl From<Zeroizing<Vec<u8>>> for Payload {
    fn from(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(Arc::new(bytes))
    }
}

impl std::ops::Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Says how much, and nothing of it.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Payload").field(&self.len()).finish()
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// The log of this process.
#[derive(Debug)]
pub struct Wal {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Command>,
    room: Arc<Semaphore>,
    generation: u64,
}

impl Wal {
    /// Takes the folder for the node of this name, or prepares one where there is none.
    pub fn take(
        settings: Settings,
        node: &str,
        disk: Arc<dyn Disk>,
        random: Arc<dyn Random>,
    ) -> Result<Folder, Error> {
        recovery::take(settings, node, disk, random)
    }

    /// Looks at a log that nobody has open, without opening it.
    pub fn inspect(settings: &Settings, disk: &dyn Disk) -> Result<Inspection, Error> {
        inspect::inspect(settings, disk)
    }

    /// Sets aside the segments that keep the log from being opened ([`Error::Corrupt`], [`Error::Missing`]): they are
    /// moved to `unreadable/`, what is whole of them stays in the log, and the rest is given up. Nothing else gives up an
    /// acknowledged frame, so this is for the operator to decide.
    pub fn set_aside(
        settings: &Settings,
        disk: &dyn Disk,
        random: &dyn Random,
    ) -> Result<Vec<SetAside>, Error> {
        repair::set_aside(settings, disk, random)
    }

    fn serve(writer: Writer, generation: u64) -> Result<Self, Error> {
        let shared = Arc::clone(&writer.shared);
        let (queue, waiting) = mpsc::channel(QUEUE_FRAMES_MAX);
        std::thread::Builder::new()
            .name("wal".to_owned())
            .spawn(move || writer.run(waiting))
            .map_err(Error::io("its thread cannot be started"))?;
        Ok(Self {
            shared,
            queue,
            room: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)),
            generation,
        })
    }

    fn recovery(&self, torn_bytes: u64) -> Recovery {
        let pending = self.shared.index().pending();
        let sources = pending
            .into_iter()
            .map(|(source, frames, bytes)| Unreleased {
                source,
                frames,
                bytes,
            });
        Recovery {
            id: self.id(),
            generation: self.generation,
            sources: sources.collect(),
            torn_bytes,
            last_position: self.last_position(),
        }
    }

    /// Which log this is.
    pub fn id(&self) -> Uuid {
        self.shared.id
    }

    /// The generation that the log was opened as.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The last position that is acknowledged or was recovered, 0 if none is.
    pub fn last_position(&self) -> u64 {
        self.shared.last.load(Ordering::Acquire)
    }

    /// The size of all segments, in bytes.
    pub fn bytes(&self) -> u64 {
        self.shared.index().bytes()
    }

    /// The source's unreleased frames in the order in which they were appended.
    pub async fn recover(&self, source: &Source, keys: &KeyRing) -> Result<Vec<Frame>, Error> {
        recover(&self.shared, source, keys).await
    }

    /// Appends a frame. It is durable when this returns `Ok`; once it is queued it goes on when the future is dropped.
    ///
    /// Frames of one source keep the order in which they were queued.
    pub async fn append(
        &self,
        source: &Source,
        key: &Arc<EpochKey>,
        payload: impl Into<Payload>,
    ) -> Result<Appended, AppendError> {
        let payload = payload.into();
        let since = Instant::now();
        let bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX).max(1);
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(AppendError::TooLarge);
        }
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await;
        let (reply, answer) = oneshot::channel();
        let job = Job {
            source: source.clone(),
            key: Arc::clone(key),
            payload,
            reply,
            since,
            _room: room.map_err(|_| AppendError::Stopped)?,
        };
        let queued = self.queue.send(Command::Append(job)).await;
        queued.map_err(|_| AppendError::Stopped)?;
        answer.await.unwrap_or(Err(AppendError::Stopped))
    }

    /// Says that the source's frames up to this position are in the table. Segments nobody needs any more go.
    pub fn release(&self, source: &Source, up_to: u64) {
        self.shared.index().release(source, up_to);
        // A full queue keeps the writer busy, and it looks for itself after each group.
        let _ = self.queue.try_send(Command::Tidy);
    }

    /// Copies the source's unreleased frames out of the older segments, so that it does not pin them. They keep their
    /// positions. The log does so by itself when it is half full; needs no keys.
    pub async fn carry_forward(&self, source: &Source) -> Result<(), AppendError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::CarryForward(source.clone(), reply);
        let queued = self.queue.send(command).await;
        queued.map_err(|_| AppendError::Stopped)?;
        answer.await.unwrap_or(Err(AppendError::Stopped))
    }

    /// Answers what has queued up and closes the log; the folder is free when this returns.
    pub async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.queue.send(Command::Close(reply)).await.is_ok() {
            // An error means that the writer is gone already.
            let _ = closed.await;
        }
    }
}

async fn recover(
    shared: &Arc<Shared>,
    source: &Source,
    keys: &KeyRing,
) -> Result<Vec<Frame>, Error> {
    let (reader, of) = (Arc::clone(shared), source.clone());
    let frames = blocking(move || read_frames(&reader, &of)).await??;
    let mut opened: HashMap<Vec<u8>, SecretKey> = HashMap::new();
    for SealedFrame { key, .. } in &frames {
        if !opened.contains_key(&key.sealed) {
            let epoch = keys.open(&source.tenant, &source.silo, source.purpose, &key.epoch);
            let epoch = epoch.await.map_err(Error::KeyUnavailable)?;
            let data_key = epoch.unwrap_dek(&key.sealed);
            let data_key = data_key.map_err(Error::KeyUnavailable)?;
            opened.insert(key.sealed.clone(), data_key);
        }
    }
    let log = shared.id;
    blocking(move || open_frames(log, &opened, frames)).await?
}

fn read_frames(shared: &Shared, source: &Source) -> Result<Vec<SealedFrame>, Error> {
    let mut moves = 0;
    loop {
        let locations = shared.index().of(source);
        match shared.read(&locations) {
            // Carried forward in the meantime, and their segment removed.
            Err(Error::Io { source, .. })
                if source.kind() == ErrorKind::NotFound && moves < MOVES_MAX =>
            {
                moves += 1;
            }
            other => return other,
        }
    }
}

fn open_frames(
    log: Uuid,
    keys: &HashMap<Vec<u8>, SecretKey>,
    frames: Vec<SealedFrame>,
) -> Result<Vec<Frame>, Error> {
    let open = |frame: SealedFrame| {
        let key = keys.get(&frame.key.sealed)?;
        let payload = sealed::open(log, key, &frame.key, frame.origin, &frame.ciphertext).ok()?;
        Some(Frame {
            position: frame.origin,
            digest: frame.origin_digest,
            payload,
        })
    };
    frames
        .into_iter()
        .map(|frame| {
            let (segment, position) = (frame.key.home, frame.origin);
            open(frame).ok_or(Error::Corrupt { segment, position })
        })
        .collect()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Stopped)
}
