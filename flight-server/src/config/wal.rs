//! The write-ahead log: `[wal]`.

use std::path::PathBuf;
use std::time::Duration;

use engine::sequencer::{Ack, Settings};

use super::Error;
use super::raw::RawWal;
use super::resolved::{absolute, refused};

const DEFAULT_FOLDER: &str = "./trailhouse-wal";
const DEFAULT_NODE: &str = "node-1";
const MIB: u64 = 1 << 20;
/// The largest group of records has to fit into a segment.
const SEGMENT_BYTES_MIN: u64 = MIB;
const SEGMENT_BYTES_CEILING: u64 = 1 << 30;
const FLUSH_AGE_MS_CEILING: u64 = 60_000;
const IDLE_MS_MIN: u64 = 100;
const IDLE_MS_CEILING: u64 = 86_400_000;
const NODE_CHARACTERS_MAX: usize = 64;

/// The log of this node, and how it gets into the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wal {
    /// Where it lies.
    pub folder: PathBuf,
    /// The name of this node.
    pub node: String,
    /// The size of a segment.
    pub segment_bytes_max: u64,
    /// All segments together.
    pub bytes_max: u64,
    /// How tables are written.
    pub lanes: Settings,
}

pub(super) fn resolve(raw: RawWal) -> Result<Wal, Error> {
    let node = raw.node.unwrap_or_else(|| DEFAULT_NODE.to_owned());
    let ack = match raw.ack.as_deref().unwrap_or("wal") {
        "wal" => Ack::Wal,
        "commit" => Ack::Commit,
        _ => return Err(refused("wal.ack", "one of wal, commit")),
    };
    let segment_bytes_max = raw.segment_bytes.unwrap_or(64 * MIB);
    let bytes_max = raw.bytes_max.unwrap_or(1024 * MIB);
    let flush_age_ms = raw.flush_age_ms.unwrap_or(1_000);
    let folder = raw.folder.unwrap_or_else(|| DEFAULT_FOLDER.to_owned());
    let wal = Wal {
        folder: absolute("wal.folder", &folder)?,
        node,
        segment_bytes_max,
        bytes_max,
        lanes: Settings {
            ack,
            flush_age: Duration::from_millis(flush_age_ms),
            flush_bytes: raw.flush_bytes.unwrap_or(64 << 20),
            tenant_bytes_max: raw.tenant_bytes_max.unwrap_or(256 << 20),
            idle: Duration::from_millis(raw.idle_ms.unwrap_or(60_000)),
        },
    };
    check(&wal)?;
    Ok(wal)
}

fn check(wal: &Wal) -> Result<(), Error> {
    let named = |character: char| character.is_ascii_alphanumeric() || "-_".contains(character);
    let node = &wal.node;
    if node.is_empty() || node.len() > NODE_CHARACTERS_MAX || !node.chars().all(named) {
        let reason = format!("1 to {NODE_CHARACTERS_MAX} letters, digits, `-` or `_`");
        return Err(refused("wal.node", reason));
    }
    if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_CEILING).contains(&wal.segment_bytes_max) {
        let reason = format!("{SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_CEILING}");
        return Err(refused("wal.segment_bytes", reason));
    }
    if wal.bytes_max < 2 * wal.segment_bytes_max {
        return Err(refused("wal.bytes_max", "less than two segments"));
    }
    let lanes = &wal.lanes;
    let age = lanes.flush_age.as_millis();
    if !(1..=u128::from(FLUSH_AGE_MS_CEILING)).contains(&age) {
        let reason = format!("1 to {FLUSH_AGE_MS_CEILING}");
        return Err(refused("wal.flush_age_ms", reason));
    }
    let idle = lanes.idle.as_millis();
    if !(u128::from(IDLE_MS_MIN)..=u128::from(IDLE_MS_CEILING)).contains(&idle) {
        let reason = format!("{IDLE_MS_MIN} to {IDLE_MS_CEILING}");
        return Err(refused("wal.idle_ms", reason));
    }
    if lanes.flush_bytes == 0 || lanes.flush_bytes > lanes.tenant_bytes_max {
        return Err(refused("wal.flush_bytes", "1 to wal.tenant_bytes_max"));
    }
    if lanes.tenant_bytes_max as u64 > wal.bytes_max {
        return Err(refused("wal.tenant_bytes_max", "more than wal.bytes_max"));
    }
    Ok(())
}
