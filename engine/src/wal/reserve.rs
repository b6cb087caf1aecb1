//! A little room kept back on the disk, for the moment when it is full.
//!
//! Freeing space takes some: a segment is removed only after a fresh one has said, durably, that it may be. The file
//! `reserve` holds nothing; it is removed when nothing else would fit, and made again when there is room.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use catalog::clock::Random;

use super::Settings;
use super::segment::publish;
use crate::disk::Disk;

/// The part of a segment that is kept back.
const PART: u64 = 64;
const BYTES_MIN: u64 = 4096;

/// Whether an error says that there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

/// Makes the reserve if there is none. Random bytes, which no file system stores in less room.
pub(super) fn make(settings: &Settings, disk: &dyn Disk, random: &dyn Random) -> io::Result<()> {
    if disk.open(&path(&settings.folder)).is_ok() {
        return Ok(());
    }
    let bytes = (settings.segment_bytes_max / PART).max(BYTES_MIN);
    let mut bytes = vec![0; usize::try_from(bytes).unwrap_or(0)];
    random.fill(&mut bytes);
    publish(disk, &path(&settings.folder), &bytes).map(drop)
}

/// Runs `attempt`, and if the disk is full once more without the reserve.
pub(super) fn with_room<T>(
    disk: &dyn Disk,
    folder: &Path,
    mut attempt: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    match attempt() {
        Err(error) if is_full(&error) && spend(disk, folder).is_ok() => attempt(),
        outcome => outcome,
    }
}

/// Gives the reserve up. Its room may be free only when that is durable.
fn spend(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    disk.remove(&path(folder))?;
    disk.sync_directory(folder)
}

fn path(folder: &Path) -> PathBuf {
    folder.join("reserve")
}
