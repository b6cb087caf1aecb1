//! Durable file operations: what the log and the file-system store may ask of a disk, and nothing else.
//!
//! Two implementations keep one contract, and one suite runs on both: the operating system's, and in tests a machine
//! that loses power (`simulated`). Whoever writes through this seam says with each call what must survive.

#[cfg(test)]
mod contract;
#[cfg(test)]
pub(crate) mod simulated;
mod system;

use std::fmt;
use std::io;
use std::path::Path;

pub use system::SystemDisk;

/// A lock on a file, held until it is dropped or its process ends.
pub type DiskLock = Box<dyn fmt::Debug + Send + Sync>;

/// A disk.
///
/// Contract: bytes survive a loss of power once [`DiskFile::sync_data`] returned `Ok`, names once
/// [`Disk::sync_directory`] did; before that any part of what was written since may be gone. `rename` and `link` are
/// atomic: afterwards a name leads to the old file or to the new one. After a failed sync nobody knows what is on disk,
/// and a later `Ok` for the same file says nothing about the bytes written before.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Creates a file; `AlreadyExists` if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file to read from.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// A whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// The names in a directory, in no order; what is not UTF-8 is not of ours and left out.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;

    /// Gives a file a second name; `AlreadyExists` if that is taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file another name, in place of the file that had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a name, and the file with its last one.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes a directory and those above it. Durable when it returns.
    fn create_directories(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// Locks a file, which is made when absent, against every other process and caller; `None` if it is locked.
    fn lock(&self, path: &Path) -> io::Result<Option<DiskLock>>;
}

/// An open file.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Writes at `offset`, beyond the end too. After an error any part of it may have been written.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Fills `bytes` from `offset` on; `UnexpectedEof` if there are fewer.
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;

    /// Makes everything written so far, and the length, durable.
    fn sync_data(&self) -> io::Result<()>;
}
