//! Files and folders that only their owner can use, and that exist whole and durably or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::KeyError;
use crate::clock::{self, Random};

/// Makes a folder for the owner alone; one that is there must not let others put files into it.
pub(super) fn make_folder(path: &Path) -> Result<(), KeyError> {
    if let Some(parent) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .map_err(KeyError::unavailable)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => sync_parent(path).map_err(KeyError::unavailable),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let metadata = fs::metadata(path).map_err(KeyError::unavailable)?;
            if metadata.permissions().mode() & 0o022 == 0 {
                Ok(())
            } else {
                Err(KeyError::Exposed)
            }
        }
        Err(error) => Err(KeyError::unavailable(error)),
    }
}

/// Fills `bytes` from a file of just that length, which only its owner may read; `false` if there is none.
pub(super) fn read_exactly(path: &Path, bytes: &mut [u8]) -> Result<bool, KeyError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(KeyError::unavailable(error)),
    };
    let metadata = file.metadata().map_err(KeyError::unavailable)?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(KeyError::Exposed);
    }
    if metadata.len() != bytes.len() as u64 {
        return Err(KeyError::Malformed);
    }
    file.read_exact(bytes).map_err(KeyError::unavailable)?;
    Ok(true)
}

/// Whether there is such a file.
pub(super) fn exists(path: &Path) -> Result<bool, KeyError> {
    path.try_exists().map_err(KeyError::unavailable)
}

/// Creates a whole, durable file; `false` if there is one of that name, which is then left as it is, and is durable too
/// when this returns: whoever made it may not have come so far yet, and the caller is about to build on it.
pub(super) fn create_file(
    path: &Path,
    bytes: &[u8],
    random: &dyn Random,
) -> Result<bool, KeyError> {
    let suffix = u64::from_le_bytes(clock::array(random));
    let temporary = path.with_file_name(format!(".new-{suffix:016x}"));
    let outcome = write_synced(&temporary, bytes).and_then(|()| fs::hard_link(&temporary, path));
    let removed = fs::remove_file(&temporary);
    match outcome.and(removed) {
        Ok(()) => durable(path, true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && exists(path)? => {
            durable(path, false)
        }
        Err(error) => Err(KeyError::unavailable(error)),
    }
}

fn durable(path: &Path, created: bool) -> Result<bool, KeyError> {
    sync_parent(path)
        .map(|()| created)
        .map_err(KeyError::unavailable)
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the creation or removal of a file durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent != Path::new("") => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}
