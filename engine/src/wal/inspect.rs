//! Looking at a log without opening it: nothing is written to its segments, and its generation stays.

use super::error::Error;
use super::recovery;
use super::scan;
use super::{Recovery, Settings, Unreleased};
use crate::disk::Disk;

/// What a log holds.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// What opening it would find; the generation is that of the last opening.
    pub found: Recovery,
    /// The first position of each segment, which is its file name, and its size in bytes.
    pub segments: Vec<(u64, u64)>,
    /// Whole frames at the end of which it is not certain that they were acknowledged. They count as if they were.
    pub uncertain_frames: u64,
}

/// Reads the whole log, which nobody may have open.
pub(super) fn inspect(settings: &Settings, disk: &dyn Disk) -> Result<Inspection, Error> {
    let _lock = recovery::lock(settings, disk)?;
    let identity = recovery::identity(settings, disk)?.ok_or(Error::Foreign {
        what: "no identity",
    })?;
    let loaded = scan::load(disk, &settings.folder, identity.id)?;
    let sources = loaded.index.pending().into_iter();
    let segments = loaded.index.segments.iter();
    let uncertain_frames = loaded.tail.len() as u64;
    Ok(Inspection {
        segments: segments
            .map(|(first, holding)| (*first, holding.bytes))
            .collect(),
        uncertain_frames,
        found: Recovery {
            id: identity.id,
            generation: identity.generation,
            sources: sources
                .map(|(source, frames, bytes)| Unreleased {
                    source,
                    frames,
                    bytes,
                })
                .collect(),
            torn_bytes: loaded.torn_bytes,
            last_position: loaded.chain.position + uncertain_frames,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::Wal;
    use super::super::testing::World;
    use super::*;
    use crate::disk::SystemDisk;

    #[tokio::test]
    async fn a_closed_log_tells_what_it_holds_and_stays_as_it_is() {
        let world = World::new(&["acme", "other"]).await;
        let nothing = Wal::inspect(&world.settings(), &SystemDisk);
        assert!(matches!(nothing, Err(Error::Foreign { .. })));
        let (wal, opened) = world.open();
        for (source, payload) in [(0, "a"), (1, "b"), (0, "c")] {
            world.append(&wal, source, payload.as_bytes()).await;
        }
        let in_use = Wal::inspect(&world.settings(), &SystemDisk);
        assert!(matches!(in_use, Err(Error::Locked)));
        wal.close().await;
        let files = world.files();
        let seen = Wal::inspect(&world.settings(), &SystemDisk).unwrap();
        assert_eq!(world.files(), files);
        assert_eq!((seen.found.id, seen.found.generation), (opened.id, 1));
        assert_eq!(seen.found.last_position, 3);
        let certain: u64 = seen.found.sources.iter().map(|source| source.frames).sum();
        assert_eq!(certain + seen.uncertain_frames, 3);
        let sizes: u64 = files
            .iter()
            .filter(|(name, _)| name.ends_with(".wal"))
            .map(|(_, bytes)| bytes.len() as u64)
            .sum();
        let segments: u64 = seen.segments.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(segments, sizes);
        let (_, opened) = world.open();
        assert_eq!((opened.generation, opened.last_position), (2, 3));
    }
}
