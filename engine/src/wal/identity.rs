//! Which log this is, and whose: `wal.id`, made with the folder and rewritten at every start.
//!
//! `"THWALID1"`, the id (16 bytes), the generation (u64 LE), the node's name (u32 LE length, UTF-8), CRC32C of all that
//! (u32 LE). The generation grows with every start: a folder that was restored from a copy shows itself by an older one.

use std::io::{self, ErrorKind};
use std::path::Path;

use catalog::clock::{self, Random};
use catalog::keys::push_prefixed;
use uuid::Uuid;

use super::error::Error;
use super::segment::publish;
use super::source::Fields;
use crate::disk::Disk;

const FILE: &str = "wal.id";
const MAGIC: [u8; 8] = *b"THWALID1";

/// A log's name, whose it is, and how old.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) id: Uuid,
    pub(super) generation: u64,
    pub(super) node: String,
}

impl Identity {
    /// The identity of the folder; `None` if it has none yet.
    pub(super) fn read(disk: &dyn Disk, folder: &Path) -> Result<Option<Self>, Error> {
        match disk.read(&folder.join(FILE)) {
            Ok(bytes) => Self::parse(&bytes).map(Some).ok_or(Error::Foreign {
                what: "its identity is damaged",
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("its identity cannot be read")(error)),
        }
    }

    /// A new log.
    pub(super) fn make(node: &str, random: &dyn Random) -> Self {
        Self {
            id: uuid::Builder::from_random_bytes(clock::array(random)).into_uuid(),
            generation: 0,
            node: node.to_owned(),
        }
    }

    /// The same log as of this generation, durable when this returns.
    pub(super) fn raise(
        &mut self,
        generation: u64,
        disk: &dyn Disk,
        folder: &Path,
    ) -> io::Result<()> {
        self.generation = generation;
        publish(disk, &folder.join(FILE), &self.encode()).map(drop)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(self.id.as_bytes());
        bytes.extend_from_slice(&self.generation.to_le_bytes());
        push_prefixed(&mut bytes, self.node.as_bytes());
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (checked, expected) = bytes.split_last_chunk::<4>()?;
        let mut fields = Fields(checked);
        let known = fields.array()? == MAGIC;
        let identity = Self {
            id: Uuid::from_bytes(fields.array()?),
            generation: fields.u64()?,
            node: fields.text()?.to_owned(),
        };
        let whole = fields.0.is_empty() && crc32c::crc32c(checked) == u32::from_le_bytes(*expected);
        (known && whole).then_some(identity)
    }
}
