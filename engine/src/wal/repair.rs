//! Setting damaged segments aside, at the operator's request only.
//!
//! The damaged file is kept under `unreadable/`. In its place comes a *repaired* segment: every frame of it that is
//! whole, at its position, and for the positions in between a `lost` frame, so that no position is ever given twice and
//! the chain says where it is broken. A missing segment is replaced by one `lost` frame.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::sync::Arc;

use catalog::clock::{self, Random};
use uuid::Uuid;

use super::Settings;
use super::error::Error;
use super::frame::{Content, Encoder, HEADER_LEN, Header, Link, MIN_DATA_LEN};
use super::recovery;
use super::scan::{self, Walk};
use super::sealed::{SealedFrame, SealedKey};
use super::segment::{self, Numbers};
use super::source::Source;
use crate::disk::Disk;

/// What became of one damaged or missing segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Its first position, which is its file name.
    pub segment: u64,
    /// Positions that are lost, each with the last of its run. The last of all may be an upper bound.
    pub lost: Vec<(u64, u64)>,
    /// Frames that were saved, by source.
    pub saved: Vec<(Source, u64)>,
    /// Sources that had frames in it, as far as can be told: those that may have lost some.
    pub concerned: Vec<Source>,
}

/// A segment's replacement under way.
struct Replacement {
    header: Header,
    /// Whole frames by position.
    frames: BTreeMap<u64, SealedFrame>,
    keys: HashMap<u32, Arc<SealedKey>>,
    /// The last position the segment answers for.
    last: u64,
}

/// Sets aside every segment that keeps the log from being opened.
pub(super) fn set_aside(
    settings: &Settings,
    disk: &dyn Disk,
    random: &dyn Random,
) -> Result<Vec<SetAside>, Error> {
    let _lock = recovery::lock(settings, disk)?;
    let id = recovery::known_id(settings, disk)?;
    let repair = Repair {
        settings,
        disk,
        random,
        id,
    };
    let mut done = Vec::new();
    // Each round mends the newest fault; a fault that is found again is not one that can be mended.
    let mut before = None;
    loop {
        let (place, replacement) = match scan::load(disk, &settings.folder, id) {
            Ok(_) => return Ok(done),
            Err(Error::Corrupt { segment, position }) => {
                if before == Some((segment, position)) {
                    return Err(Error::Corrupt { segment, position });
                }
                ((segment, position), repair.salvage(segment)?)
            }
            Err(Error::Missing { position }) => {
                if before == Some((0, position)) {
                    return Err(Error::Missing { position });
                }
                ((0, position), repair.fill(position)?)
            }
            Err(error) => return Err(error),
        };
        before = Some(place);
        done.push(repair.replace(replacement)?);
    }
}

struct Repair<'a> {
    settings: &'a Settings,
    disk: &'a dyn Disk,
    random: &'a dyn Random,
    id: Uuid,
}

impl Repair<'_> {
    /// What can be saved of a damaged segment.
    fn salvage(&self, first: u64) -> Result<Replacement, Error> {
        let path = segment::path(&self.settings.folder, first);
        let bytes = self.disk.read(&path);
        let bytes = bytes.map_err(Error::io("a segment cannot be read"))?;
        let next = self.segments()?.into_iter().find(|other| *other > first);
        let Ok(header) = Header::parse(&bytes) else {
            let bound = first + bytes.len() as u64 / MIN_DATA_LEN;
            return self.empty(first, next.map_or(bound, |next| next - 1));
        };
        let walk = scan::walk(&header, &bytes, u64::MAX);
        let mut replacement = Replacement {
            header: Header {
                repaired: true,
                salt: clock::array(self.random),
                ..header.clone()
            },
            frames: BTreeMap::new(),
            keys: numbered(&walk),
            last: walk.next,
        };
        for found in &walk.frames {
            if let Some(frame) = scan::sealed(&header, &bytes, found) {
                replacement.frames.insert(frame.position, frame);
            }
        }
        replacement.take_whole_frames(&header, &bytes, &walk);
        if let Some(next) = next {
            replacement.last = next - 1;
            replacement.frames.split_off(&next);
        }
        Ok(replacement)
    }

    /// Stands for a segment that is gone.
    fn fill(&self, position: u64) -> Result<Replacement, Error> {
        let next = self.segments()?.into_iter().find(|first| *first > position);
        // The scan has seen a successor: it is the one that names the missing segment.
        let next = next.ok_or(Error::Missing { position })?;
        self.empty(position, next - 1)
    }

    /// A replacement that has lost everything.
    fn empty(&self, first: u64, last: u64) -> Result<Replacement, Error> {
        let older: Vec<u64> = self
            .segments()?
            .into_iter()
            .filter(|at| *at < first)
            .collect();
        let previous = match older.last() {
            Some(previous) => Link {
                first: *previous,
                length: self.length_before(*previous, first)?,
            },
            None => Link::NONE,
        };
        Ok(Replacement {
            header: Header {
                repaired: true,
                log: self.id,
                salt: clock::array(self.random),
                first,
                digest: [0; 32],
                low: older.first().copied().unwrap_or(first),
                previous,
                born: 0,
            },
            frames: BTreeMap::new(),
            keys: HashMap::new(),
            last,
        })
    }

    /// How much of a segment lies before a position.
    fn length_before(&self, first: u64, position: u64) -> Result<u64, Error> {
        let read = scan::read(self.disk, &self.settings.folder, self.id, first);
        let (header, bytes) = match read {
            Ok(read) => read,
            // Its own turn comes in the next round.
            Err(Error::Corrupt { .. }) => return Ok(0),
            Err(error) => return Err(error),
        };
        let walk = scan::walk(&header, &bytes, u64::MAX);
        let after = walk.frames.iter().find(|found| found.position >= position);
        Ok(after.map_or(walk.end, |found| found.offset))
    }

    fn segments(&self) -> Result<Vec<u64>, Error> {
        scan::segments(self.disk, &self.settings.folder)
    }

    /// Keeps the damaged file and puts the replacement into its place.
    fn replace(&self, mut replacement: Replacement) -> Result<SetAside, Error> {
        let folder = &self.settings.folder;
        let first = replacement.header.first;
        let path = segment::path(folder, first);
        let (body, report) = replacement.encode();
        replacement.header.born = (HEADER_LEN + body.len()) as u64;
        let mut bytes = replacement.header.encode();
        bytes.extend_from_slice(&body);
        let kept = self.keep(&path);
        kept.map_err(Error::io("a segment cannot be set aside"))?;
        segment::publish(self.disk, &path, &bytes)
            .map_err(Error::io("a segment cannot be replaced"))?;
        Ok(report)
    }

    fn keep(&self, path: &std::path::Path) -> std::io::Result<()> {
        let unreadable = self.settings.folder.join("unreadable");
        self.disk.create_directories(&unreadable)?;
        let name = path.file_name().unwrap_or_default();
        match self.disk.link(path, &unreadable.join(name)) {
            // Missing, so there is nothing to keep; or kept by an attempt that came no further.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => {}
            other => other?,
        }
        self.disk.sync_directory(&unreadable)
    }
}

fn numbered(walk: &Walk) -> HashMap<u32, Arc<SealedKey>> {
    (0..).zip(walk.keys.iter().map(Arc::clone)).collect()
}

impl Replacement {
    /// Takes the whole frames behind the damage, as far as their keys are known.
    fn take_whole_frames(&mut self, header: &Header, bytes: &[u8], walk: &Walk) {
        let mut told = false;
        for (_, parsed) in scan::whole_frames(header, bytes, walk.end) {
            match parsed.content {
                Content::Key { number, key } => {
                    self.keys.insert(number, Arc::new(key));
                }
                Content::Data(data) => {
                    self.last = self.last.max(data.position);
                    told = true;
                    if let Some(key) = self.keys.get(&data.key_number) {
                        self.frames.insert(data.position, data.sealed(key));
                    }
                }
                Content::Confirm { next, .. } => {
                    self.last = self.last.max(next - 1);
                    told = true;
                }
                Content::Lost { last, .. } => {
                    self.last = self.last.max(last);
                    told = true;
                }
            }
        }
        if !told {
            self.last += (bytes.len() as u64).saturating_sub(walk.end) / MIN_DATA_LEN;
        }
    }

    fn encode(&self) -> (Vec<u8>, SetAside) {
        let start = HEADER_LEN as u64;
        let mut encoder = Encoder::new(&self.header.salt, start, start);
        let mut numbers = Numbers::new();
        let mut lost = Vec::new();
        let mut saved: HashMap<Source, u64> = HashMap::new();
        let mut next = self.header.first;
        for (position, frame) in &self.frames {
            if *position > next {
                lost.push((next, position - 1));
                encoder.lost(position - 1);
            }
            segment::lay_out(&mut encoder, &mut numbers, std::slice::from_ref(frame));
            *saved.entry(frame.key.source.clone()).or_default() += 1;
            next = position + 1;
        }
        if self.last >= next {
            lost.push((next, self.last));
            encoder.lost(self.last);
        }
        let mut concerned: Vec<Source> = Vec::new();
        for key in self.keys.values() {
            if !concerned.contains(&key.source) {
                concerned.push(key.source.clone());
            }
        }
        let report = SetAside {
            segment: self.header.first,
            lost,
            saved: saved.into_iter().collect(),
            concerned,
        };
        (encoder.bytes, report)
    }
}
