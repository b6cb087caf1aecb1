//! Clearing away: released segments are removed, and what stands in their way is carried forward.
//!
//! Segments go from the oldest on. Which is the oldest that still counts is made durable first, in a confirm frame:
//! without that a segment that is missing could not be told from one that was removed.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use super::reserve;
use super::segment;
use super::source::Source;
use super::writer::{GROUP_BYTES_MAX, Writer};

/// A fully released segment is left behind when it is this part of the largest.
const IDLE_PART: u64 = 64;
/// Below this size it is not worth the syncs.
const IDLE_BYTES_MIN: u64 = 4096;

impl Writer {
    /// Removes what is released, and moves what stands in its way.
    pub(super) fn tidy(&mut self) {
        self.leave_idle_segment();
        self.leave_failed_segment();
        self.remove_released();
        while self.should_carry() {
            if let Err(error) = self.carry(None) {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "frames of the log could not be carried forward"
                );
                break;
            }
            self.remove_released();
        }
        metrics::gauge!("trailhouse_wal_bytes").set(self.shared.index().bytes() as f64);
    }

    /// Starts afresh when the current segment is large and nothing in the log is needed any more.
    fn leave_idle_segment(&mut self) {
        let bytes = (self.settings.segment_bytes_max / IDLE_PART).max(IDLE_BYTES_MIN);
        let idle = self.current.as_ref().is_some_and(|current| {
            current.length > bytes && self.shared.index().low(u64::MAX) == u64::MAX
        });
        if idle && self.start(&[]).is_err() {
            tracing::warn!("no fresh segment of the log could be made");
        }
    }

    /// After a failure nothing can be removed until a fresh segment was made, and on a full disk no append makes one.
    fn leave_failed_segment(&mut self) {
        let index = self.shared.index();
        let releasable = index
            .oldest()
            .is_some_and(|first| first < index.low(u64::MAX));
        drop(index);
        if self.current.is_some() || !releasable {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let made = reserve::with_room(&*shared.disk, &shared.folder, || self.start(&[]));
        if made.is_err() {
            tracing::warn!("no fresh segment of the log could be made");
        }
    }

    /// Keeps room for the next time the disk is full.
    pub(super) fn keep_reserve(&self) {
        let made = reserve::make(&self.settings, &*self.shared.disk, &*self.random);
        if made.is_err() {
            tracing::warn!("the log has no reserve on its disk");
        }
    }

    fn remove_released(&mut self) {
        if self.released_segments().is_empty() || !self.mark_low() {
            return;
        }
        let released = self.released_segments();
        self.forget(&released);
        self.keep_reserve();
    }

    /// Removes segments that are below the durable mark.
    pub(super) fn forget(&self, segments: &[u64]) {
        if segments.is_empty() {
            return;
        }
        for first in segments {
            match self
                .shared
                .disk
                .remove(&segment::path(&self.shared.folder, *first))
            {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    tracing::warn!("a released segment of the log could not be removed");
                    return;
                }
                _ => {}
            }
            self.shared.index().segments.remove(first);
        }
        if self
            .shared
            .disk
            .sync_directory(&self.shared.folder)
            .is_err()
        {
            // Should they reappear, the next start removes them.
            tracing::warn!("the removal of released segments is not durable yet");
        }
    }

    fn released_segments(&self) -> Vec<u64> {
        let Some(current) = &self.current else {
            return Vec::new();
        };
        let index = self.shared.index();
        let low = index.low(current.first);
        index
            .segments
            .range(..low)
            .map(|(first, _)| *first)
            .collect()
    }

    /// Makes durable which segments still count. Without that a missing one could not be told from a released one.
    pub(super) fn mark_low(&mut self) -> bool {
        let next = self.chain.position + 1;
        let Some(current) = self.current.as_mut() else {
            return false;
        };
        let low = self.shared.index().low(current.first);
        let length = current.write_confirm(next, low);
        let marked = length.and_then(|length| current.sync(length));
        match marked {
            Ok(()) => {
                self.last.length = current.length;
                true
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a segment of the log failed and is left behind"
                );
                self.current = None;
                false
            }
        }
    }

    /// Whether the oldest segment is in the way of the others, and mostly released.
    fn should_carry(&self) -> bool {
        let Some(current) = &self.current else {
            return false;
        };
        let index = self.shared.index();
        let oldest = index.segments.first_key_value();
        index.bytes() > self.settings.bytes_max / 2
            && oldest.is_some_and(|(first, holding)| {
                *first < current.first
                    && holding.frames > 0
                    && holding.frame_bytes <= holding.bytes / 2
            })
    }

    /// Copies unreleased frames into the current segment: those of one source in all older ones, or all in the oldest.
    pub(super) fn carry(&mut self, of: Option<&Source>) -> io::Result<()> {
        self.roll()?;
        let current = self.current.as_ref().map_or(0, |current| current.first);
        let locations = self.shared.index().before(current, of);
        let mut rest = locations.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fitting = rest.iter().take_while(|(_, location)| {
                bytes += location.length;
                bytes <= GROUP_BYTES_MAX
            });
            let count = fitting.count().max(1);
            let (group, later) = rest.split_at(count);
            let frames = self.shared.read(group).map_err(io::Error::other)?;
            self.roll()?;
            let mut chain = self.chain;
            let frames: Vec<_> = frames
                .into_iter()
                .map(|frame| frame.carried(&mut chain))
                .collect();
            self.write(&frames)?;
            rest = later;
        }
        Ok(())
    }
}
