//! What of the log still counts: where each unreleased frame lies, and what each segment holds.
//!
//! Memory goes with the number of unreleased frames, which their owners hold in memory as well.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::sealed::SealedKey;
use super::source::Source;

/// Where a frame lies.
#[derive(Debug, Clone)]
pub(super) struct Location {
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) length: usize,
    pub(super) key: Arc<SealedKey>,
}

/// What a segment holds.
#[derive(Debug, Clone)]
pub(super) struct Holding {
    pub(super) salt: [u8; 16],
    /// Its size on disk.
    pub(super) bytes: u64,
    /// Unreleased frames in it, and their bytes.
    pub(super) frames: u64,
    pub(super) frame_bytes: u64,
}

impl Holding {
    pub(super) fn new(salt: [u8; 16], bytes: u64) -> Self {
        Self {
            salt,
            bytes,
            frames: 0,
            frame_bytes: 0,
        }
    }
}

/// Unreleased frames by source and origin, and the segments that exist.
#[derive(Debug, Default)]
pub(super) struct Index {
    sources: HashMap<Source, BTreeMap<u64, Location>>,
    pub(super) segments: BTreeMap<u64, Holding>,
}

impl Index {
    /// Takes note of a frame; one of the same origin elsewhere no longer counts.
    pub(super) fn insert(&mut self, origin: u64, location: Location) {
        if let Some(holding) = self.segments.get_mut(&location.segment) {
            holding.frames += 1;
            holding.frame_bytes += location.length as u64;
        }
        let frames = match self.sources.get_mut(&location.key.source) {
            Some(frames) => frames,
            None => self.sources.entry(location.key.source.clone()).or_default(),
        };
        if let Some(before) = frames.insert(origin, location) {
            self.uncount(&before);
        }
    }

    /// Forgets the source's frames up to a position.
    pub(super) fn release(&mut self, source: &Source, up_to: u64) {
        let Some(frames) = self.sources.get_mut(source) else {
            return;
        };
        let kept = up_to
            .checked_add(1)
            .map_or_else(BTreeMap::new, |next| frames.split_off(&next));
        let released = std::mem::replace(frames, kept);
        if frames.is_empty() {
            self.sources.remove(source);
        }
        for location in released.values() {
            self.uncount(location);
        }
    }

    fn uncount(&mut self, location: &Location) {
        if let Some(holding) = self.segments.get_mut(&location.segment) {
            holding.frames = holding.frames.saturating_sub(1);
            holding.frame_bytes = holding.frame_bytes.saturating_sub(location.length as u64);
        }
    }

    /// The source's frames in order.
    pub(super) fn of(&self, source: &Source) -> Vec<(u64, Location)> {
        let frames = self.sources.get(source).into_iter().flatten();
        frames
            .map(|(origin, location)| (*origin, location.clone()))
            .collect()
    }

    /// Frames in segments that begin before `current`: of one source, or all that lie in the oldest segment.
    pub(super) fn before(&self, current: u64, of: Option<&Source>) -> Vec<(u64, Location)> {
        let oldest = self.oldest();
        let mut found: Vec<_> = self
            .sources
            .iter()
            .filter(|(source, _)| of.is_none_or(|of| of == *source))
            .flat_map(|(_, frames)| frames)
            .filter(|(_, location)| match of {
                Some(_) => location.segment < current,
                None => location.segment < current && Some(location.segment) == oldest,
            })
            .map(|(origin, location)| (*origin, location.clone()))
            .collect();
        found.sort_unstable_by_key(|(origin, _)| *origin);
        found
    }

    /// Sources with unreleased frames: how many, and how many bytes in the log.
    pub(super) fn pending(&self) -> Vec<(Source, u64, u64)> {
        self.sources
            .iter()
            .map(|(source, frames)| {
                let bytes = frames.values().map(|frame| frame.length as u64).sum();
                (source.clone(), frames.len() as u64, bytes)
            })
            .collect()
    }

    /// All segments together, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.values().map(|holding| holding.bytes).sum()
    }

    /// The first position of the oldest segment.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.segments.keys().next().copied()
    }

    /// The first position of the oldest segment that must be kept; `current` always is.
    pub(super) fn low(&self, current: u64) -> u64 {
        self.segments
            .iter()
            .find(|(first, holding)| **first >= current || holding.frames > 0)
            .map_or(current, |(first, _)| *first)
    }
}
