//! What the writer and the callers share: where frames lie, and how to read them back.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::error::Error;
use super::frame::{Content, parse};
use super::index::{Index, Location};
use super::sealed::SealedFrame;
use super::segment;
use crate::disk::Disk;

/// What the writer and the callers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) folder: PathBuf,
    pub(super) id: Uuid,
    pub(super) last: AtomicU64,
    index: Mutex<Index>,
}

impl Shared {
    pub(super) fn new(disk: Arc<dyn Disk>, folder: PathBuf, id: Uuid, index: Index) -> Self {
        Self {
            disk,
            folder,
            id,
            last: AtomicU64::new(0),
            index: Mutex::new(index),
        }
    }

    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The frames at these locations, by origin.
    pub(super) fn read(&self, locations: &[(u64, Location)]) -> Result<Vec<SealedFrame>, Error> {
        let mut by_segment: BTreeMap<u64, Vec<&(u64, Location)>> = BTreeMap::new();
        for located in locations {
            by_segment
                .entry(located.1.segment)
                .or_default()
                .push(located);
        }
        let mut frames = Vec::with_capacity(locations.len());
        for (segment, located) in by_segment {
            let salt = self.index().segments.get(&segment).map(|held| held.salt);
            let salt = salt.ok_or(io::Error::from(ErrorKind::NotFound));
            let opened = salt.and_then(|salt| {
                let file = self.disk.open(&segment::path(&self.folder, segment))?;
                Ok((salt, file))
            });
            let (salt, file) = opened.map_err(Error::io("a segment cannot be opened"))?;
            for (origin, location) in located {
                let mut bytes = vec![0; location.length];
                file.read_exact_at(&mut bytes, location.offset)
                    .map_err(Error::io("a segment cannot be read"))?;
                match parse(&salt, location.offset, &bytes).map(|parsed| parsed.content) {
                    Some(Content::Data(data)) => frames.push(data.sealed(&location.key)),
                    _ => {
                        return Err(Error::Corrupt {
                            segment,
                            position: *origin,
                        });
                    }
                }
            }
        }
        frames.sort_unstable_by_key(|frame| frame.origin);
        Ok(frames)
    }
}
