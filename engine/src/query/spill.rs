//! What queries put on disk when their memory is used up: nothing in clear, and nothing that outlives the query.
//!
//! Each query has one file at most, made when it first spills and without a name from then on: the system takes it back
//! with the last handle, whatever becomes of the process. The key is random, made with the query and never stored.
//!
//! The file is an array of places of [`PLACE_BYTES`]. A frame takes one place: AES-256-GCM of up to [`FRAME_BYTES`], tag
//! last, under a nonce that counts the frames of the query (4 zero bytes, u64 LE). Which frames make up a spilled file,
//! where they lie, how long they are and under which nonce is kept in memory only, so that a frame that was changed, moved
//! or brought back from earlier does not open. The reader of these files trusts what they hold: it must be what was written.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use bytes::Bytes;
use catalog::clock::Random;
use catalog::keys::{NONCE_LEN, SecretKey, TAG_LEN};
use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::execution::spill_file::{SpillFile, SpillWriter, TempFileFactory};
use futures::{Stream, StreamExt, stream};
use tokio::task::spawn_blocking;

use super::error::Error;
use crate::disk::{Disk, DiskFile};

/// Bytes of a frame before it is sealed, at most.
const FRAME_BYTES: usize = 64 * 1024;
/// Bytes that a frame takes on disk.
const PLACE_BYTES: u64 = (FRAME_BYTES + TAG_LEN) as u64;
/// What the names of files in the folder begin with, for as long as they have one.
const PREFIX: &str = "spill-";

/// The folder that all queries of a process spill to.
#[derive(Debug)]
pub(super) struct SpillFolder {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    bytes_max: u64,
    bytes: AtomicU64,
}

impl SpillFolder {
    /// A folder that is made when it is needed. What a process that ended between two steps has left there is removed.
    pub(super) fn new(disk: Arc<dyn Disk>, path: PathBuf, bytes_max: u64) -> Self {
        let left = disk.list(&path).unwrap_or_default();
        for name in left.iter().filter(|name| name.starts_with(PREFIX)) {
            // A file that another process makes right now loses only the name that it would drop by itself.
            if disk.remove(&path.join(name)).is_err() {
                tracing::warn!("a file left in the spill folder cannot be removed");
            }
        }
        Self {
            disk,
            path,
            bytes_max,
            bytes: AtomicU64::new(0),
        }
    }

    /// Bytes on disk now.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: u64) -> Result<(), Error> {
        let room = |taken: u64| Some(taken + bytes).filter(|taken| *taken <= self.bytes_max);
        let taken = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        match taken {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::limit("it needs more room on disk than there is")),
        }
    }

    /// A file without a name, to write to and to read from.
    fn create(&self, random: &dyn Random) -> io::Result<Handles> {
        let mut number = [0; 16];
        random.fill(&mut number);
        let name = format!("{PREFIX}{:032x}", u128::from_le_bytes(number));
        let path = self.path.join(name);
        self.disk.create_directories(&self.path)?;
        let write = self.disk.create(&path)?;
        let read = self.disk.open(&path);
        self.disk.remove(&path)?;
        Ok(Handles { write, read: read? })
    }
}

#[derive(Debug)]
struct Handles {
    write: Box<dyn DiskFile>,
    read: Box<dyn DiskFile>,
}

/// What one query has on disk.
pub(super) struct QuerySpill {
    folder: Arc<SpillFolder>,
    cipher: Aes256Gcm,
    random: Arc<dyn Random>,
    space: Mutex<Space>,
}

#[derive(Debug, Default)]
struct Space {
    handles: Option<Arc<Handles>>,
    /// Frames sealed so far.
    sealed: u64,
    /// Places of the file.
    places: u64,
    /// Those of them that nobody uses any more.
    free: Vec<u64>,
}

/// Where a frame is, and what it takes to open it.
#[derive(Debug, Clone, Copy)]
struct Frame {
    place: u64,
    length: usize,
    nonce: u64,
}

impl QuerySpill {
    pub(super) fn new(folder: Arc<SpillFolder>, random: Arc<dyn Random>) -> Arc<Self> {
        let key = SecretKey::random(&*random);
        Arc::new(Self {
            folder,
            cipher: Aes256Gcm::new(key.expose().into()),
            random,
            space: Mutex::default(),
        })
    }

    fn space(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a frame of this length, and the file it is in.
    fn place(&self, length: usize) -> io::Result<(Frame, Arc<Handles>)> {
        let mut space = self.space();
        let handles = match &space.handles {
            Some(handles) => Arc::clone(handles),
            None => {
                let made = Arc::new(self.folder.create(&*self.random)?);
                space.handles = Some(Arc::clone(&made));
                made
            }
        };
        let place = match space.free.pop() {
            Some(place) => place,
            None => {
                self.folder.take(PLACE_BYTES).map_err(io::Error::other)?;
                space.places += 1;
                space.places - 1
            }
        };
        let nonce = space.sealed;
        space.sealed += 1;
        let frame = Frame {
            place,
            length,
            nonce,
        };
        Ok((frame, handles))
    }

    /// Seals the bytes and puts them on disk. A frame that fails takes its place with it.
    fn write(&self, bytes: &mut Vec<u8>) -> io::Result<Frame> {
        let (frame, handles) = self.place(bytes.len())?;
        let buffer = InOutBuf::from(bytes.as_mut_slice());
        let tag = self
            .cipher
            .encrypt_inout_detached(&frame.nonce().into(), b"", buffer)
            .map_err(|_| io::Error::other(Error::Internal))?;
        bytes.extend_from_slice(&tag);
        handles
            .write
            .write_all_at(bytes, frame.place * PLACE_BYTES)
            .inspect_err(|error| {
                tracing::warn!(kind = ?error.kind(), "a query cannot write to the spill folder");
            })?;
        Ok(frame)
    }

    fn read(&self, frame: Frame) -> Result<Bytes, Error> {
        let handles = self.space().handles.clone().ok_or(Error::Internal)?;
        let mut bytes = vec![0; frame.length + TAG_LEN];
        handles
            .read
            .read_exact_at(&mut bytes, frame.place * PLACE_BYTES)
            .map_err(|error| {
                tracing::error!(kind = ?error.kind(), "what a query spilled cannot be read");
                Error::Unavailable
            })?;
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(bytes.get(frame.length..).ok_or(Error::Internal)?);
        bytes.truncate(frame.length);
        let buffer = InOutBuf::from(bytes.as_mut_slice());
        self.cipher
            .decrypt_inout_detached(&frame.nonce().into(), b"", buffer, &tag.into())
            .map_err(|_| {
                tracing::error!("what a query spilled was changed on disk");
                Error::Internal
            })?;
        Ok(bytes.into())
    }
}

impl Frame {
    fn nonce(self) -> [u8; NONCE_LEN] {
        let mut nonce = [0; NONCE_LEN];
        nonce[NONCE_LEN - 8..].copy_from_slice(&self.nonce.to_le_bytes());
        nonce
    }
}

impl Drop for QuerySpill {
    fn drop(&mut self) {
        let bytes = self.space().places * PLACE_BYTES;
        self.folder.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl fmt::Debug for QuerySpill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuerySpill").finish_non_exhaustive()
    }
}

/// Makes the files that a query's operators spill to.
#[derive(Debug, Clone)]
pub(super) struct Spills(pub(super) Arc<QuerySpill>);

impl TempFileFactory for Spills {
    fn create_temp_file(&self, _description: &str) -> Result<Arc<dyn SpillFile>> {
        Ok(Arc::new(Spilled(Arc::new(Frames {
            spill: Arc::clone(&self.0),
            frames: Mutex::default(),
        }))))
    }
}

/// The frames of one file of an operator's, in their order.
#[derive(Debug)]
struct Frames {
    spill: Arc<QuerySpill>,
    frames: Mutex<Vec<Frame>>,
}

impl Frames {
    fn frames(&self) -> MutexGuard<'_, Vec<Frame>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        let frames = std::mem::take(&mut *self.frames());
        let places = frames.into_iter().map(|frame| frame.place);
        self.spill.space().free.extend(places);
    }
}

/// A file as the engine sees it.
#[derive(Debug)]
struct Spilled(Arc<Frames>);

impl SpillFile for Spilled {
    fn size(&self) -> Option<u64> {
        let frames = self.0.frames();
        Some(frames.iter().map(|frame| frame.length as u64).sum())
    }

    /// What is there when it is asked for, frame by frame.
    fn read_stream(&self) -> Result<Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>> {
        let frames = stream::try_unfold((Arc::clone(&self.0), 0), |(file, next)| async move {
            let Some(frame) = file.frames().get(next).copied() else {
                return Ok(None);
            };
            let spill = Arc::clone(&file.spill);
            let read = spawn_blocking(move || spill.read(frame)).await;
            let bytes = read.map_err(|_| Error::Internal)??;
            Ok::<_, DataFusionError>(Some((bytes, (file, next + 1))))
        });
        Ok(frames.boxed())
    }

    fn open_writer(&self) -> Result<Box<dyn SpillWriter>> {
        Ok(Box::new(Writer {
            file: Arc::clone(&self.0),
            pending: Vec::with_capacity(FRAME_BYTES + TAG_LEN),
        }))
    }
}

struct Writer {
    file: Arc<Frames>,
    pending: Vec<u8>,
}

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(FRAME_BYTES - self.pending.len());
        self.pending.extend_from_slice(&bytes[..taken]);
        if self.pending.len() == FRAME_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.pending.is_empty() {
            let written = self.file.spill.write(&mut self.pending);
            self.pending.clear();
            self.file.frames().push(written?);
        }
        Ok(())
    }
}

impl SpillWriter for Writer {
    fn finish(&mut self) -> Result<()> {
        Ok(io::Write::flush(self)?)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use catalog::clock::SystemRandom;
    use futures::TryStreamExt;

    use super::*;
    use crate::disk::SystemDisk;

    /// A folder with room for so many frames.
    fn folder(path: &std::path::Path, frames: u64) -> Arc<SpillFolder> {
        let bytes_max = frames * PLACE_BYTES;
        let disk = Arc::new(SystemDisk);
        Arc::new(SpillFolder::new(disk, path.join("spill"), bytes_max))
    }

    fn file(spill: &Arc<QuerySpill>) -> Arc<dyn SpillFile> {
        let files = Spills(Arc::clone(spill));
        files.create_temp_file("a test").expect("a file")
    }

    /// Bytes that differ from place to place.
    fn bytes(length: usize) -> Vec<u8> {
        let numbers = (0..length / 8 + 1).flat_map(|number| number.to_le_bytes());
        numbers.take(length).collect()
    }

    async fn read(file: &Arc<dyn SpillFile>) -> Result<Vec<u8>, Error> {
        let chunks: Result<Vec<Bytes>> = file.read_stream().expect("a stream").try_collect().await;
        chunks
            .map(|chunks| chunks.concat())
            .map_err(Error::from_stream)
    }

    #[tokio::test]
    async fn what_is_written_is_read_and_lies_nowhere_in_clear() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = folder(home.path(), 100);
        let spill = QuerySpill::new(Arc::clone(&folder), Arc::new(SystemRandom));
        let (one, two) = (file(&spill), file(&spill));
        let text = bytes(3 * FRAME_BYTES + 1_000);
        let (mut writer, mut other) = (
            one.open_writer().expect("a writer"),
            two.open_writer().expect("a writer"),
        );
        for part in text.chunks(10_007) {
            writer.write_all(part).expect("written");
            other
                .write_all(&part[..10.min(part.len())])
                .expect("written");
            other.flush().expect("flushed");
        }
        // Read while it is written, as far as it was flushed.
        let early = read(&one).await.expect("bytes");
        assert_eq!(early, text[..3 * FRAME_BYTES]);
        writer.finish().expect("finished");
        assert_eq!(read(&one).await.expect("bytes"), text);
        assert_eq!(one.size(), Some(text.len() as u64));
        assert_eq!(read(&two).await.expect("bytes").len(), 200);
        let names = SystemDisk.list(&home.path().join("spill")).expect("names");
        assert!(names.is_empty(), "{names:?}");
        let handles = spill.space().handles.clone().expect("a file");
        let mut raw = vec![0; FRAME_BYTES];
        handles.read.read_exact_at(&mut raw, 0).expect("bytes");
        let clear = &text[5_000..5_064];
        assert!(text.windows(64).any(|window| window == clear));
        assert!(!raw.windows(64).any(|window| window == clear));
        drop((one, two, writer, other));
        assert!(folder.bytes() > 0);
        drop(spill);
        assert_eq!(folder.bytes(), 0);
    }

    #[tokio::test]
    async fn what_was_changed_or_moved_on_disk_does_not_open() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = folder(home.path(), 100);
        let spill = QuerySpill::new(folder, Arc::new(SystemRandom));
        let file = file(&spill);
        let mut writer = file.open_writer().expect("a writer");
        writer.write_all(&bytes(2 * FRAME_BYTES)).expect("written");
        writer.finish().expect("finished");
        let handles = spill.space().handles.clone().expect("a file");
        let mut first = vec![0; FRAME_BYTES + TAG_LEN];
        let mut second = first.clone();
        handles.read.read_exact_at(&mut first, 0).expect("a frame");
        let read_at = |bytes: &mut Vec<u8>| handles.read.read_exact_at(bytes, PLACE_BYTES);
        read_at(&mut second).expect("a frame");
        for (change, at) in [
            (vec![first[0] ^ 1], 0),
            (vec![first[FRAME_BYTES] ^ 1], FRAME_BYTES as u64),
            (second, 0),
        ] {
            handles.write.write_all_at(&change, at).expect("changed");
            let refused = read(&file).await;
            assert!(matches!(refused, Err(Error::Internal)), "{refused:?}");
            handles.write.write_all_at(&first, 0).expect("restored");
            assert!(read(&file).await.is_ok());
        }
    }

    #[tokio::test]
    async fn room_is_bounded_and_comes_back() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = folder(home.path(), 2);
        let full = bytes(FRAME_BYTES);
        let query = || QuerySpill::new(Arc::clone(&folder), Arc::new(SystemRandom));
        let (spill, other) = (query(), query());
        let one = file(&spill);
        let mut writer = one.open_writer().expect("a writer");
        writer.write_all(&full).expect("room");
        let two = file(&other);
        let mut second = two.open_writer().expect("a writer");
        second.write_all(&full).expect("room");
        let refused = writer.write_all(&full).expect_err("no room");
        let refused = super::super::sanitize::running(&DataFusionError::IoError(refused));
        assert!(
            matches!(refused, Error::LimitExceeded { .. }),
            "{refused:?}"
        );
        // A file that is done with leaves its place to the next of its query, and a query its room to the others.
        drop((one, writer));
        let again = file(&spill);
        let mut writer = again.open_writer().expect("a writer");
        writer.write_all(&full).expect("its own place");
        assert_eq!(read(&again).await.expect("bytes"), full);
        drop((two, second, other));
        writer.write_all(&full).expect("the other's room");
    }

    #[test]
    fn what_an_earlier_process_left_is_removed() {
        let home = tempfile::tempdir().expect("a folder");
        let path = home.path().join("spill");
        std::fs::create_dir(&path).expect("made");
        for name in ["spill-00", "notes"] {
            std::fs::write(path.join(name), "x").expect("written");
        }
        folder(home.path(), 1);
        assert_eq!(SystemDisk.list(&path).expect("names"), ["notes"]);
    }
}
