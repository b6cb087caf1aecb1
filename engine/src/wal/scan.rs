//! Reading the log back: which frames are there, and whether any that was acknowledged is not.
//!
//! Every segment but the newest must be whole up to the length its successor names, hold every position up to the
//! successor's first, and end on the digest the successor begins with. In the newest one a broken region is what a loss
//! of power leaves only while nothing that follows says otherwise.

use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::error::Error;
use super::frame::{self, Content, Data, HEADER_LEN, HeadFault, Header, Link};
use super::index::{Holding, Index, Location};
use super::sealed::{Chain, Digest, SealedFrame, SealedKey};
use super::segment;
use crate::disk::Disk;

/// A data frame in a segment.
pub(super) struct Found {
    pub(super) offset: u64,
    pub(super) length: usize,
    pub(super) position: u64,
    pub(super) origin: u64,
    /// The digest before it; `None` behind lost frames.
    pub(super) before: Option<Digest>,
    pub(super) key: Arc<SealedKey>,
}

/// A segment read from its beginning up to the first byte that is not as it was written.
pub(super) struct Walk {
    pub(super) frames: Vec<Found>,
    pub(super) keys: Vec<Arc<SealedKey>>,
    /// Behind the last frame that is whole.
    pub(super) end: u64,
    /// Below, everything was durable when the last of the frames was written.
    pub(super) durable: u64,
    /// The position expected next, and the digest before it; `None` behind lost frames.
    pub(super) next: u64,
    pub(super) digest: Option<Digest>,
    pub(super) low: u64,
}

/// Reads the frames of a segment up to the offset `until`.
pub(super) fn walk(header: &Header, bytes: &[u8], until: u64) -> Walk {
    let mut walk = Walk {
        frames: Vec::new(),
        keys: Vec::new(),
        end: HEADER_LEN as u64,
        durable: header.born,
        next: header.first,
        digest: Some(header.digest),
        low: header.low,
    };
    let limit = usize::try_from(until).map_or(bytes.len(), |until| until.min(bytes.len()));
    let mut rest = bytes.get(HEADER_LEN..limit).unwrap_or_default();
    while let Some(parsed) = frame::parse(&header.salt, walk.end, rest) {
        if walk.take(&parsed).is_none() {
            break;
        }
        walk.end += parsed.length as u64;
        rest = &rest[parsed.length..];
    }
    walk
}

impl Walk {
    /// Goes on by one frame; `None` if it does not belong here.
    fn take(&mut self, parsed: &frame::Parsed<'_>) -> Option<()> {
        match &parsed.content {
            Content::Data(data) => {
                let key = self.keys.get(usize::try_from(data.key_number).ok()?)?;
                let key = Arc::clone(key);
                let before = self.digest;
                self.chain(data, &key)?;
                self.frames.push(Found {
                    offset: self.end,
                    length: parsed.length,
                    position: data.position,
                    origin: data.origin,
                    before,
                    key,
                });
            }
            Content::Key { number, key } => {
                if usize::try_from(*number).ok()? != self.keys.len() {
                    return None;
                }
                self.keys.push(Arc::new(key.clone()));
            }
            Content::Confirm { next, low } => {
                if *next != self.next {
                    return None;
                }
                self.low = self.low.max(*low);
            }
            Content::Lost { last } => {
                self.next = last.checked_add(1)?;
                self.digest = None;
            }
        }
        self.durable = self.durable.max(parsed.durable);
        Some(())
    }

    fn chain(&mut self, data: &Data<'_>, key: &SealedKey) -> Option<()> {
        if data.position != self.next {
            return None;
        }
        if let Some(digest) = self.digest {
            let mut chain = Chain {
                position: data.position - 1,
                digest,
            };
            chain.push(&key.source, data.origin, data.ciphertext);
            if chain.digest != data.digest {
                return None;
            }
        }
        self.next = data.position.checked_add(1)?;
        self.digest = Some(data.digest);
        Some(())
    }
}

/// Whether a whole frame behind `end` says that what stands at `end` was once durable.
pub(super) fn was_durable(header: &Header, bytes: &[u8], end: u64) -> bool {
    whole_frames(header, bytes, end).any(|(_, parsed)| parsed.durable > end)
}

/// The frames behind `end` that are whole, wherever they begin.
pub(super) fn whole_frames<'a>(
    header: &'a Header,
    bytes: &'a [u8],
    end: u64,
) -> impl Iterator<Item = (u64, frame::Parsed<'a>)> {
    let start = usize::try_from(end).unwrap_or(usize::MAX);
    bytes
        .windows(frame::MARKER.len())
        .enumerate()
        .skip(start)
        .filter(|(_, window)| *window == frame::MARKER)
        .filter_map(move |(at, _)| {
            let parsed = frame::parse(&header.salt, at as u64, &bytes[at..])?;
            Some((at as u64, parsed))
        })
}

/// A log as it was found.
pub(super) struct Loaded {
    pub(super) index: Index,
    /// Where the chain stands behind the last frame that is durable for certain.
    pub(super) chain: Chain,
    /// The frames behind that: whole, and perhaps not durable.
    pub(super) tail: Vec<SealedFrame>,
    pub(super) last: Link,
    pub(super) behind: Link,
    /// Bytes of frames that a loss of power left incomplete.
    pub(super) torn_bytes: u64,
    /// Files of segments that were released before.
    pub(super) leftovers: Vec<u64>,
}

/// Reads the whole log.
pub(super) fn load(disk: &dyn Disk, folder: &Path, id: Uuid) -> Result<Loaded, Error> {
    let mut firsts = segments(disk, folder)?;
    let mut loaded = Loaded {
        index: Index::default(),
        chain: Chain::START,
        tail: Vec::new(),
        last: Link::NONE,
        behind: Link::NONE,
        torn_bytes: 0,
        leftovers: Vec::new(),
    };
    let Some(newest) = firsts.last().copied() else {
        return Ok(loaded);
    };
    let (header, bytes) = read(disk, folder, id, newest)?;
    let last = walk_newest(&header, &bytes)?;
    loaded.leftovers = firsts.clone();
    loaded.leftovers.retain(|first| *first < last.low);
    firsts.retain(|first| *first >= last.low);
    if firsts.first() != Some(&last.low) {
        return Err(Error::Missing { position: last.low });
    }
    let mut newer = header.clone();
    let mut older = Vec::new();
    for first in firsts.iter().rev().skip(1) {
        let (header, bytes) = read(disk, folder, id, *first)?;
        let walk = walk_before(&header, &bytes, &newer)?;
        older.push((header.clone(), walk, bytes.len()));
        newer = header;
    }
    for (header, walk, length) in older.iter().rev() {
        loaded.note(header, walk, *length, u64::MAX);
    }
    loaded.take_newest(&header, &last, &bytes);
    Ok(loaded)
}

impl Loaded {
    /// Indexes the frames of a segment below an offset.
    fn note(&mut self, header: &Header, walk: &Walk, length: usize, below: u64) {
        let holding = Holding::new(header.salt, length as u64);
        self.index.segments.insert(header.first, holding);
        for found in walk.frames.iter().filter(|found| found.offset < below) {
            let location = Location {
                segment: header.first,
                offset: found.offset,
                length: found.length,
                key: Arc::clone(&found.key),
            };
            self.index.insert(found.origin, location);
        }
    }

    fn take_newest(&mut self, header: &Header, walk: &Walk, bytes: &[u8]) {
        self.note(header, walk, bytes.len(), walk.durable);
        self.torn_bytes = bytes.len() as u64 - walk.end;
        self.behind = header.previous;
        self.last = Link {
            first: header.first,
            length: walk.durable,
        };
        self.tail = walk
            .frames
            .iter()
            .filter(|found| found.offset >= walk.durable)
            .filter_map(|found| sealed(header, bytes, found))
            .collect();
        let before = walk
            .frames
            .iter()
            .find(|found| found.offset >= walk.durable)
            .map_or((walk.next, walk.digest), |found| {
                (found.position, found.before)
            });
        self.chain = Chain {
            position: before.0 - 1,
            digest: before.1.unwrap_or_default(),
        };
    }
}

/// The frame that was found there.
pub(super) fn sealed(header: &Header, bytes: &[u8], found: &Found) -> Option<SealedFrame> {
    let start = usize::try_from(found.offset).ok()?;
    let parsed = frame::parse(&header.salt, found.offset, bytes.get(start..)?)?;
    match parsed.content {
        Content::Data(data) => Some(data.sealed(&found.key)),
        Content::Key { .. } | Content::Confirm { .. } | Content::Lost { .. } => None,
    }
}

/// The first positions of the segments in the folder, in order.
pub(super) fn segments(disk: &dyn Disk, folder: &Path) -> Result<Vec<u64>, Error> {
    let names = disk
        .list(folder)
        .map_err(Error::io("it cannot be listed"))?;
    let mut firsts: Vec<u64> = names
        .iter()
        .filter_map(|name| segment::first_of(name))
        .collect();
    firsts.sort_unstable();
    Ok(firsts)
}

/// A segment's head and all its bytes.
pub(super) fn read(
    disk: &dyn Disk,
    folder: &Path,
    id: Uuid,
    first: u64,
) -> Result<(Header, Vec<u8>), Error> {
    let bytes = disk
        .read(&segment::path(folder, first))
        .map_err(Error::io("a segment cannot be read"))?;
    let damaged = Error::Corrupt {
        segment: first,
        position: first,
    };
    let header = match Header::parse(&bytes) {
        Ok(header) if header.first == first => header,
        Ok(_) | Err(HeadFault::Damaged) => return Err(damaged),
        Err(HeadFault::OtherVersion) => {
            return Err(Error::Foreign {
                what: "a segment of another version",
            });
        }
    };
    if header.log != id {
        return Err(Error::Foreign {
            what: "a segment is of another log",
        });
    }
    Ok((header, bytes))
}

/// Reads the newest segment.
fn walk_newest(header: &Header, bytes: &[u8]) -> Result<Walk, Error> {
    let walk = walk(header, bytes, u64::MAX);
    if walk.end < walk.durable || was_durable(header, bytes, walk.end) {
        return Err(Error::Corrupt {
            segment: header.first,
            position: walk.next,
        });
    }
    Ok(walk)
}

/// Reads a segment that has a successor.
fn walk_before(header: &Header, bytes: &[u8], successor: &Header) -> Result<Walk, Error> {
    let until = if header.repaired {
        bytes.len() as u64
    } else if successor.previous.first == header.first {
        successor.previous.length
    } else {
        return Err(Error::Missing {
            position: successor.previous.first,
        });
    };
    let walk = walk(header, bytes, until);
    // The one or the other is not known where frames were lost.
    let digest_fits =
        successor.repaired || walk.digest.is_none_or(|digest| digest == successor.digest);
    if walk.end != until || walk.next != successor.first || !digest_fits {
        return Err(Error::Corrupt {
            segment: header.first,
            position: walk.next,
        });
    }
    Ok(walk)
}
