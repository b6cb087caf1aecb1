//! How an object gets onto a disk so that it is whole and stays: write beside it, sync, give it its name, sync the directory.
//!
//! The same code runs on the operating system's disk and, in tests, on one that loses power.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::disk::{Disk, DiskFile};

/// How many directories are remembered as already durable before the memory starts afresh.
const SYNCED_DIRECTORIES_MAX: usize = 65_536;
/// Linux and the BSDs: this process, or all together, have as many files open as they may.
const TOO_MANY_OPEN: [i32; 2] = [23, 24];

/// Objects as files: everything that must be synced goes through here.
///
/// After one failed sync the kernel may have dropped dirty pages and would report success on the next try, so nothing
/// is written any more until the objects are opened again.
#[derive(Debug)]
pub(crate) struct Objects {
    disk: Arc<dyn Disk>,
    synced: Mutex<HashSet<PathBuf>>,
    failed: AtomicBool,
    staged: AtomicU64,
}

/// How an object gets its name.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Publish {
    /// Only if nobody has it: `AlreadyExists` otherwise, and then what is there is durable.
    Create,
    /// In place of what has it.
    Replace,
}

/// A file without its name yet, removed when it is dropped: after a link a second name goes, after a rename nothing is
/// there.
#[derive(Debug)]
pub(crate) struct Staged {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Box<dyn DiskFile>,
}

impl Drop for Staged {
    fn drop(&mut self) {
        // A leftover is never listed and never read; failing to remove it is no reason to fail a write.
        let _ = self.disk.remove(&self.path);
    }
}

impl Staged {
    /// Writes a part of the object.
    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }
}

impl Objects {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Self {
        Self {
            disk,
            synced: Mutex::new(HashSet::new()),
            failed: AtomicBool::new(false),
            staged: AtomicU64::new(0),
        }
    }

    /// Whether writes are still taken.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other(
                "an earlier sync failed; the store takes no more writes",
            ));
        }
        Ok(())
    }

    /// Writes an object. It is durable once this returns `Ok`, and never there in part.
    pub(crate) fn put<'b>(
        &self,
        target: &Path,
        parts: impl IntoIterator<Item = &'b [u8]>,
        how: Publish,
    ) -> io::Result<()> {
        let staged = self.stage(target)?;
        let mut offset = 0;
        for part in parts {
            staged.write_at(part, offset)?;
            offset += part.len() as u64;
        }
        self.publish(&staged, target, how)
    }

    /// Opens a fresh file beside `target`. Its name ends in `#` and digits, which lists leave out.
    pub(crate) fn stage(&self, target: &Path) -> io::Result<Staged> {
        self.check()?;
        let parent = parent_of(target)?;
        self.make_durable(parent)?;
        loop {
            let number = self.staged.fetch_add(1, Ordering::Relaxed);
            let mut name = target.as_os_str().to_owned();
            name.push(format!("#{}{number:012}", std::process::id()));
            let path = PathBuf::from(name);
            match self.disk.create(&path) {
                Ok(file) => {
                    let disk = Arc::clone(&self.disk);
                    return Ok(Staged { disk, path, file });
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    self.synced().remove(parent);
                    self.make_durable(parent)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives a file its name once all of it is on disk.
    pub(crate) fn publish(&self, staged: &Staged, target: &Path, how: Publish) -> io::Result<()> {
        self.watch(staged.file.sync_data())?;
        let parent = parent_of(target)?;
        match how {
            Publish::Create => {
                let linked = self.disk.link(&staged.path, target);
                // Whoever learns that the name is taken will act on it, so what is there must be durable as well.
                if !matches!(&linked, Err(error) if error.kind() != ErrorKind::AlreadyExists) {
                    self.sync_directory(parent)?;
                }
                linked
            }
            Publish::Replace => {
                self.disk.rename(&staged.path, target)?;
                self.sync_directory(parent)
            }
        }
    }

    /// Makes `directory` and the entries that lead to it durable, once.
    pub(crate) fn make_durable(&self, directory: &Path) -> io::Result<()> {
        if self.synced().contains(directory) {
            return Ok(());
        }
        self.watch_directory(self.disk.create_directories(directory))?;
        let mut synced = self.synced();
        if synced.len() >= SYNCED_DIRECTORIES_MAX {
            synced.clear();
        }
        synced.insert(directory.to_path_buf());
        Ok(())
    }

    /// Makes the names in a directory durable.
    pub(crate) fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.watch_directory(self.disk.sync_directory(path))
    }

    /// Passes the outcome of a sync on, and remembers a failure.
    fn watch(&self, synced: io::Result<()>) -> io::Result<()> {
        if synced.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        synced
    }

    /// The same for directories. One that could not be made or opened was not synced, but nothing is lost by that: the
    /// caller fails, and the next one may find room or a free descriptor.
    fn watch_directory(&self, synced: io::Result<()>) -> io::Result<()> {
        match synced {
            Err(error) if was_not_open(&error) => Err(error),
            other => self.watch(other),
        }
    }

    fn synced(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.synced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn was_not_open(error: &io::Error) -> bool {
    let too_many = error.raw_os_error();
    too_many.is_some_and(|number| TOO_MANY_OPEN.contains(&number))
        || matches!(
            error.kind(),
            ErrorKind::NotFound
                | ErrorKind::PermissionDenied
                | ErrorKind::AlreadyExists
                | ErrorKind::NotADirectory
                | ErrorKind::InvalidFilename
                | ErrorKind::StorageFull
                | ErrorKind::QuotaExceeded
        )
}

/// The directory of an object.
pub(crate) fn parent_of(path: &Path) -> io::Result<&Path> {
    path.parent()
        .ok_or_else(|| io::Error::other("the object has no directory"))
}
