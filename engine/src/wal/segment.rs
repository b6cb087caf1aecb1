//! Segment files: their names, how one comes into being, and how frames are laid out in one.
//!
//! A segment gets its name only when its head, and the frames it begins with, are durable: no segment with that name is
//! ever half made, and one that begins at the position of a failed segment replaces it in one step.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use catalog::keys::SecretKey;

use super::frame::{DATA_OVERHEAD, Encoder, HEADER_LEN, Header};
use super::sealed::{SealedFrame, SealedKey};
use super::source::Source;
use crate::disk::{Disk, DiskFile};

/// Where a segment lies: 20 digits, so that names sort as numbers.
pub(super) fn path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}.wal"))
}

/// The first position a file name tells, if it is a segment's.
pub(super) fn first_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wal")?;
    let canonical = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    canonical.then(|| digits.parse().ok()).flatten()
}

/// Writes a whole file under another name, syncs it, and only then gives it its own. The open file is returned.
pub(super) fn publish(
    disk: &dyn Disk,
    target: &Path,
    bytes: &[u8],
) -> io::Result<Box<dyn DiskFile>> {
    let staged = target.with_extension("new");
    match disk.remove(&staged) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = disk.create(&staged).and_then(|file| {
        file.write_all_at(bytes, 0)?;
        file.sync_data()?;
        disk.rename(&staged, target)?;
        Ok(file)
    });
    let file = written.inspect_err(|_| {
        // On a full disk a leftover would stand in the way of the next attempt; whoever is next removes it otherwise.
        let _ = disk.remove(&staged);
    })?;
    disk.sync_directory(target.parent().unwrap_or(Path::new(".")))?;
    Ok(file)
}

/// Removes files that never got their own name.
pub(super) fn remove_staged(disk: &dyn Disk, folder: &Path) -> io::Result<()> {
    for name in disk.list(folder)? {
        if name.ends_with(".new") {
            disk.remove(&folder.join(name))?;
        }
    }
    Ok(())
}

/// Where the frames of one write came to lie, in their order: offset and length.
pub(super) type Places = Vec<(u64, usize)>;

/// The segment that is written to.
#[derive(Debug)]
pub(super) struct Current {
    file: Box<dyn DiskFile>,
    pub(super) first: u64,
    pub(super) salt: [u8; 16],
    /// Everything below is durable; the next frame goes there, over a confirm frame if there is one.
    pub(super) length: u64,
    /// Whether a confirm frame stands behind the last durable frame.
    pub(super) confirmed: bool,
    numbers: Numbers,
    /// Data keys made for this segment, by source and epoch.
    keys: HashMap<(Source, [u8; 16]), DataKey>,
}

/// A data key, open and sealed.
type DataKey = (Arc<SecretKey>, Arc<SealedKey>);

/// Which number a key has in a segment, by its sealed form, which is unique.
pub(super) type Numbers = HashMap<Vec<u8>, u32>;

impl Current {
    /// Makes the segment that begins with `frames`. `header.born` is filled in here.
    pub(super) fn create(
        disk: &dyn Disk,
        folder: &Path,
        mut header: Header,
        frames: &[SealedFrame],
    ) -> io::Result<(Self, Places)> {
        let mut numbers = Numbers::new();
        let mut encoder = Encoder::new(&header.salt, HEADER_LEN as u64, HEADER_LEN as u64);
        let places = lay_out(&mut encoder, &mut numbers, frames);
        let body = encoder.bytes;
        header.born = (HEADER_LEN + body.len()) as u64;
        let mut bytes = header.encode();
        bytes.extend_from_slice(&body);
        let file = publish(disk, &path(folder, header.first), &bytes)?;
        let current = Self {
            file,
            first: header.first,
            salt: header.salt,
            length: header.born,
            confirmed: true,
            numbers,
            keys: HashMap::new(),
        };
        Ok((current, places))
    }

    /// The data key of a source and epoch in this segment, made by `make` on first use.
    pub(super) fn key(
        &mut self,
        source: &Source,
        epoch: [u8; 16],
        make: impl FnOnce(u64) -> Option<(SecretKey, Arc<SealedKey>)>,
    ) -> Option<DataKey> {
        let at = (source.clone(), epoch);
        if let Some((key, sealed)) = self.keys.get(&at) {
            return Some((Arc::clone(key), Arc::clone(sealed)));
        }
        let (key, sealed) = make(self.first)?;
        let key = Arc::new(key);
        self.keys
            .insert(at, (Arc::clone(&key), Arc::clone(&sealed)));
        Some((key, sealed))
    }

    /// Appends frames: one write. They are durable after [`Self::sync`].
    pub(super) fn write(&mut self, frames: &[SealedFrame]) -> io::Result<(Places, u64)> {
        let mut encoder = Encoder::new(&self.salt, self.length, self.length);
        let places = lay_out(&mut encoder, &mut self.numbers, frames);
        self.file.write_all_at(&encoder.bytes, self.length)?;
        Ok((places, encoder.offset()))
    }

    /// Says behind the last durable frame that all is durable; the next write goes over it.
    pub(super) fn write_confirm(&mut self, next: u64, low: u64) -> io::Result<u64> {
        let mut encoder = Encoder::new(&self.salt, self.length, self.length);
        encoder.confirm(next, low);
        self.confirmed = true;
        self.file.write_all_at(&encoder.bytes, self.length)?;
        Ok(encoder.offset())
    }

    /// Makes everything up to `length` durable.
    pub(super) fn sync(&mut self, length: u64) -> io::Result<()> {
        self.file.sync_data()?;
        self.length = length;
        Ok(())
    }
}

/// Encodes frames, each key before the first that needs it.
pub(super) fn lay_out(
    encoder: &mut Encoder<'_>,
    numbers: &mut Numbers,
    frames: &[SealedFrame],
) -> Places {
    let mut places = Vec::with_capacity(frames.len());
    let bytes = frames.iter().map(|frame| frame.ciphertext.len());
    encoder.reserve(bytes.map(|bytes| bytes + DATA_OVERHEAD).sum());
    for frame in frames {
        let number = match numbers.get(&frame.key.sealed) {
            Some(number) => *number,
            None => {
                // A segment of 2^32 keys would be larger than any disk.
                let number = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
                encoder.key(&frame.key, number);
                numbers.insert(frame.key.sealed.clone(), number);
                number
            }
        };
        let offset = encoder.offset();
        encoder.data(frame, number);
        let length = encoder.offset() - offset;
        places.push((offset, usize::try_from(length).unwrap_or(usize::MAX)));
    }
    places
}
