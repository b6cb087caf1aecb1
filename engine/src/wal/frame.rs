//! The frames of a segment, byte by byte. All numbers are little-endian.
//!
//! ```text
//!  0  4  "THWF"
//!  4  4  length of the body
//!  8  4  CRC32C of: the segment's salt, the frame's offset in the file (u64), the length (u32), the body
//! 12  .. body:  kind (u8), durable (u64), then by kind
//!        1 data     position u64, key number u32, digest 32, ciphertext
//!        2 key      number u32, home u64, tenant, silo, table, purpose, sealed key, KMS key id, epoch id 16, wrapped epoch
//!        3 carried  position u64, key number u32, digest 32, origin u64, digest at the origin 32, ciphertext
//!        4 confirm  next position u64, low u64
//!        5 lost     last position u64: every position up to there is lost (a repaired segment only)
//! ```
//!
//! Texts and keys inside a key frame are prefixed by their length (u32). The nth key frame of a segment has number n,
//! from 0, and stands before the first frame that names it. `durable` is the offset up to which the file had been synced
//! when the frame was written: a broken region below the `durable` of a later frame was once acknowledged, one above
//! all of them is what a loss of power leaves. A confirm frame says the same when no frame follows for a while. Salt and
//! offset in the checksum keep a frame of another place from being taken for one of this.

use std::sync::Arc;

use catalog::keys::{KeyId, WrappedEpoch, push_prefixed};
use uuid::Uuid;

use super::sealed::{Digest, SealedFrame, SealedKey};
use super::source::{Fields, Source};

/// What every frame begins with.
pub(super) const MARKER: [u8; 4] = *b"THWF";
/// Bytes before a frame's body.
const PREFIX_LEN: usize = 12;
/// Bytes that a frame of data has besides the ciphertext, about.
pub(super) const DATA_OVERHEAD: usize = 128;
/// More than the frame, and its key frame, take beside the payload.
pub(super) const FRAME_OVERHEAD_MAX: u64 = 2048;

/// No data frame is shorter: prefix, kind, durable, position, key number, digest, authentication tag.
pub(super) const MIN_DATA_LEN: u64 = 12 + 1 + 8 + 8 + 4 + 32 + 16;

const DATA: u8 = 1;
const KEY: u8 = 2;
const CARRIED: u8 = 3;
const CONFIRM: u8 = 4;
const LOST: u8 = 5;

/// A frame as it was read.
pub(super) struct Parsed<'a> {
    /// Bytes in the file, from the marker to the end of the body.
    pub(super) length: usize,
    pub(super) durable: u64,
    pub(super) content: Content<'a>,
}

/// What a frame says.
pub(super) enum Content<'a> {
    Data(Data<'a>),
    Key { number: u32, key: SealedKey },
    Confirm { next: u64, low: u64 },
    Lost { last: u64 },
}

/// A data frame or a carried one.
pub(super) struct Data<'a> {
    pub(super) position: u64,
    pub(super) key_number: u32,
    pub(super) digest: Digest,
    pub(super) origin: u64,
    pub(super) origin_digest: Digest,
    pub(super) ciphertext: &'a [u8],
}

impl Data<'_> {
    pub(super) fn sealed(&self, key: &Arc<SealedKey>) -> SealedFrame {
        SealedFrame {
            position: self.position,
            digest: self.digest,
            origin: self.origin,
            origin_digest: self.origin_digest,
            key: Arc::clone(key),
            ciphertext: self.ciphertext.to_vec(),
        }
    }
}

/// Frames on their way into one place of a segment.
pub(super) struct Encoder<'a> {
    salt: &'a [u8; 16],
    start: u64,
    durable: u64,
    pub(super) bytes: Vec<u8>,
}

impl<'a> Encoder<'a> {
    /// Frames from offset `start` on, of a file that is durable up to `durable`.
    pub(super) fn new(salt: &'a [u8; 16], start: u64, durable: u64) -> Self {
        Self {
            salt,
            start,
            durable,
            bytes: Vec::new(),
        }
    }

    /// The offset at which the next frame will stand.
    pub(super) fn offset(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Makes room for so many bytes more.
    pub(super) fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }

    pub(super) fn data(&mut self, frame: &SealedFrame, key_number: u32) {
        let carried = frame.origin != frame.position;
        self.push(if carried { CARRIED } else { DATA }, |body| {
            body.extend_from_slice(&frame.position.to_le_bytes());
            body.extend_from_slice(&key_number.to_le_bytes());
            body.extend_from_slice(&frame.digest);
            if carried {
                body.extend_from_slice(&frame.origin.to_le_bytes());
                body.extend_from_slice(&frame.origin_digest);
            }
            body.extend_from_slice(&frame.ciphertext);
        });
    }

    pub(super) fn key(&mut self, key: &SealedKey, number: u32) {
        self.push(KEY, |body| {
            body.extend_from_slice(&number.to_le_bytes());
            body.extend_from_slice(&key.home.to_le_bytes());
            key.source.push(body);
            push_prefixed(body, &key.sealed);
            push_prefixed(body, key.epoch.master_key_id.as_str().as_bytes());
            body.extend_from_slice(&key.epoch.epoch_id);
            push_prefixed(body, &key.epoch.wrapped);
        });
    }

    pub(super) fn confirm(&mut self, next: u64, low: u64) {
        self.push(CONFIRM, |body| {
            body.extend_from_slice(&next.to_le_bytes());
            body.extend_from_slice(&low.to_le_bytes());
        });
    }

    pub(super) fn lost(&mut self, last: u64) {
        self.push(LOST, |body| body.extend_from_slice(&last.to_le_bytes()));
    }

    fn push(&mut self, kind: u8, content: impl FnOnce(&mut Vec<u8>)) {
        let offset = self.offset();
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&MARKER);
        self.bytes.extend_from_slice(&[0; PREFIX_LEN - 4]);
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&self.durable.to_le_bytes());
        content(&mut self.bytes);
        let body = start + PREFIX_LEN;
        // The log refuses payloads long before a body comes near 4 GiB.
        let length = u32::try_from(self.bytes.len() - body).unwrap_or(u32::MAX);
        let checksum = checksum(self.salt, offset, length, &self.bytes[body..]);
        self.bytes[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
        self.bytes[start + 8..body].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// The frame at the beginning of `bytes`, which stand at `offset` of a segment; `None` if there is no whole one.
pub(super) fn parse<'a>(salt: &[u8; 16], offset: u64, bytes: &'a [u8]) -> Option<Parsed<'a>> {
    let mut fields = Fields(bytes);
    if fields.array()? != MARKER {
        return None;
    }
    let length = fields.u32()?;
    let expected = fields.u32()?;
    let body = fields.take(usize::try_from(length).ok()?)?;
    if checksum(salt, offset, length, body) != expected {
        return None;
    }
    let mut fields = Fields(body);
    let [kind] = fields.array()?;
    let durable = fields.u64()?;
    let content = match kind {
        DATA | CARRIED => Content::Data(parse_data(&mut fields, kind == CARRIED)?),
        KEY => {
            let number = fields.u32()?;
            let key = parse_key(&mut fields)?;
            Content::Key { number, key }
        }
        CONFIRM => Content::Confirm {
            next: fields.u64()?,
            low: fields.u64()?,
        },
        LOST => Content::Lost {
            last: fields.u64()?,
        },
        _ => return None,
    };
    fields.0.is_empty().then_some(Parsed {
        length: PREFIX_LEN + body.len(),
        durable,
        content,
    })
}

fn parse_data<'a>(fields: &mut Fields<'a>, carried: bool) -> Option<Data<'a>> {
    let position = fields.u64()?;
    let key_number = fields.u32()?;
    let digest = fields.array()?;
    let (origin, origin_digest) = if carried {
        (fields.u64()?, fields.array()?)
    } else {
        (position, digest)
    };
    Some(Data {
        position,
        key_number,
        digest,
        origin,
        origin_digest,
        ciphertext: fields.rest(),
    })
}

fn parse_key(fields: &mut Fields<'_>) -> Option<SealedKey> {
    let home = fields.u64()?;
    let source = Source::parse(fields)?;
    let sealed = fields.prefixed()?.to_vec();
    let master_key_id = KeyId::parse(fields.text()?).ok()?;
    let epoch = WrappedEpoch {
        master_key_id,
        epoch_id: fields.array()?,
        wrapped: fields.prefixed()?.to_vec(),
    };
    Some(SealedKey {
        source,
        home,
        epoch,
        sealed,
    })
}

fn checksum(salt: &[u8; 16], offset: u64, length: u32, body: &[u8]) -> u32 {
    let start = crc32c::crc32c(salt);
    let start = crc32c::crc32c_append(start, &offset.to_le_bytes());
    let start = crc32c::crc32c_append(start, &length.to_le_bytes());
    crc32c::crc32c_append(start, body)
}

/// The head of a segment. All numbers are little-endian.
///
/// ```text
///   0  8  "THWALSEG"
///   8  4  version: 1
///  12  4  flags: bit 0 = repaired, counts to its end
///  16 16  the log's id
///  32 16  salt, random
///  48  8  first position, which is also the file's name
///  56 32  digest of the chain before the first position
///  88  8  low: the first position of the oldest segment that still counted; everything below was released
///  96  8  the first position of the segment before this one (0 = there was none)
/// 104  8  the length up to which that one counts; what lies behind was never acknowledged, or is in here again
/// 112  8  born: the length of this file when it got its name, all of it durable
/// 120  4  CRC32C of bytes 0..120
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) repaired: bool,
    pub(super) log: Uuid,
    pub(super) salt: [u8; 16],
    pub(super) first: u64,
    pub(super) digest: Digest,
    pub(super) low: u64,
    pub(super) previous: Link,
    pub(super) born: u64,
}

/// A segment and how much of it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) first: u64,
    pub(super) length: u64,
}

impl Link {
    pub(super) const NONE: Self = Self {
        first: 0,
        length: 0,
    };
}

/// Why a head cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadFault {
    Damaged,
    /// Whole, and of another version of the format.
    OtherVersion,
}

/// Bytes in a segment's head.
pub(super) const HEADER_LEN: usize = 124;

impl Header {
    const MAGIC: [u8; 8] = *b"THWALSEG";
    const VERSION: u32 = 1;

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        bytes.extend_from_slice(&Self::MAGIC);
        bytes.extend_from_slice(&Self::VERSION.to_le_bytes());
        bytes.extend_from_slice(&u32::from(self.repaired).to_le_bytes());
        bytes.extend_from_slice(self.log.as_bytes());
        bytes.extend_from_slice(&self.salt);
        bytes.extend_from_slice(&self.first.to_le_bytes());
        bytes.extend_from_slice(&self.digest);
        for number in [
            self.low,
            self.previous.first,
            self.previous.length,
            self.born,
        ] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The head at the beginning of a file.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, HeadFault> {
        let (version, head) = Self::fields(bytes).ok_or(HeadFault::Damaged)?;
        if version == Self::VERSION {
            Ok(head)
        } else {
            Err(HeadFault::OtherVersion)
        }
    }

    fn fields(bytes: &[u8]) -> Option<(u32, Self)> {
        let (head, _) = bytes.split_at_checked(HEADER_LEN)?;
        let (checked, expected) = head.split_last_chunk::<4>()?;
        let mut fields = Fields(checked);
        let known = fields.array()? == Self::MAGIC;
        if !known || crc32c::crc32c(checked) != u32::from_le_bytes(*expected) {
            return None;
        }
        let version = fields.u32()?;
        let head = Self {
            repaired: fields.u32()? & 1 == 1,
            log: Uuid::from_bytes(fields.array()?),
            salt: fields.array()?,
            first: fields.u64()?,
            digest: fields.array()?,
            low: fields.u64()?,
            previous: Link {
                first: fields.u64()?,
                length: fields.u64()?,
            },
            born: fields.u64()?,
        };
        Some((version, head))
    }
}
