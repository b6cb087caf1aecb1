//! What an audit has read of data files, kept so that one that was interrupted goes on where it was.
//!
//! The file has one JSON line for each data file whose bytes were those that the log names and whose rows had leaves, written
//! when that file was done: `{"file", "rows", "streams": {"<stream>": {"leaves": "<base64>", "segments": [[rows, id], …]}}}`,
//! of each leaf its number as u64 LE and its hash, one after the other, and the segments that the rows say, in the same order.
//! `file` is a digest of the table's place, id and columns, of all that the log says of the data file, and of its size, time
//! and tag as the store lists them: while that is the same, the file is not read again. The first line says which tenant's
//! it is, and in which store.
//!
//! So what is changed *after* it was read is seen only if the store lists it as changed. An audit that comes to its end
//! therefore removes the file: the next one reads everything. Whoever can write this file can make an audit see other leaves
//! than the rows have: it belongs to whoever audits.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use catalog::ids::{SiloId, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::seal::Hash;

const FORMAT: &str = "trailhouse-audited-files-2";
/// Bytes of a leaf in a line.
const LEAF_BYTES: usize = 8 + 32;

/// Rows of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FileLeaves {
    pub(super) rows: u64,
    /// By stream, as the rows name it.
    pub(super) streams: BTreeMap<String, StreamLeaves>,
}

/// Those of one stream, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StreamLeaves {
    pub(super) leaves: Vec<(u64, Hash)>,
    /// The segments that the rows say: for how many rows, and which.
    pub(super) segments: Vec<(u64, Option<String>)>,
}

impl StreamLeaves {
    pub(super) fn push(&mut self, number: u64, leaf: Hash, segment: Option<&str>) {
        self.leaves.push((number, leaf));
        match self.segments.last_mut() {
            Some((rows, last)) if last.as_deref() == segment => *rows += 1,
            _ => self.segments.push((1, segment.map(str::to_owned))),
        }
    }

    /// The numbers of the leaves, each with the segment that its row says.
    pub(super) fn placed(&self) -> impl Iterator<Item = (u64, Option<&str>)> {
        let segments = self.segments.iter();
        let segments = segments.flat_map(|(rows, id)| (0..*rows).map(|_| id.as_deref()));
        self.leaves
            .iter()
            .map(|(number, _)| *number)
            .zip(segments.chain(std::iter::repeat(None)))
    }
}

/// The files that an audit has read. While it is there, no other audit takes the same file.
#[derive(Debug)]
pub struct AuditedFiles {
    path: PathBuf,
    file: Mutex<File>,
    /// By mark ([`crate::table::Auditor::mark`]).
    known: Mutex<HashMap<String, FileLeaves>>,
}

/// Why what was kept is not gone on from.
#[derive(Debug, thiserror::Error)]
pub enum NotResumed {
    /// The file.
    #[error("the file of an earlier audit cannot be read or written")]
    Disk(#[from] io::Error),
    /// Of something else.
    #[error(
        "the file is not that of an audit of this tenant in this store: name another, or remove it"
    )]
    Foreign,
    /// In use.
    #[error("another audit works with this file: name another, or wait for it")]
    Busy,
}

#[derive(Serialize, Deserialize)]
struct Line {
    file: String,
    rows: u64,
    streams: BTreeMap<String, StreamLine>,
}

#[derive(Serialize, Deserialize)]
struct StreamLine {
    leaves: String,
    segments: Vec<(u64, Option<String>)>,
}

impl AuditedFiles {
    /// Goes on from the file of this path, or begins one. `root` is the URL of the silo's store.
    ///
    /// # Errors
    /// If it cannot be read or written, is in use, or is of another tenant or store.
    pub fn open(
        path: &Path,
        (tenant, silo): (&TenantId, &SiloId),
        root: &str,
    ) -> Result<Self, NotResumed> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(NotResumed::Busy),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let head = json!({"format": FORMAT, "tenant": tenant, "silo": silo, "root": root});
        let head = head.to_string() + "\n";
        let mut lines = BufReader::new(&file);
        let mut line = String::new();
        let mut whole = lines.read_line(&mut line)? as u64;
        let mut known = HashMap::new();
        if !head.starts_with(&line) {
            return Err(NotResumed::Foreign);
        }
        if line == head {
            loop {
                line.clear();
                let bytes = lines.read_line(&mut line)? as u64;
                let Some((mark, read)) = line.strip_suffix('\n').and_then(read_line) else {
                    break;
                };
                known.insert(mark, read);
                whole += bytes;
            }
        } else {
            whole = 0;
        }
        drop(lines);
        // Whatever comes behind the last whole line was cut off.
        file.set_len(whole)?;
        file.seek(SeekFrom::Start(whole))?;
        if whole == 0 {
            file.write_all(head.as_bytes())?;
        }
        Ok(Self {
            path: path.to_owned(),
            file: Mutex::new(file),
            known: Mutex::new(known),
        })
    }

    /// Removes the file: the audit has come to its end, and what it read then says nothing of what is there later.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(self) -> io::Result<()> {
        std::fs::remove_file(self.path)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, FileLeaves>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was read of the file of this mark, for who asks first.
    pub(super) fn take(&self, mark: &str) -> Option<FileLeaves> {
        self.known().remove(mark)
    }

    /// Keeps what was read of it. Where that cannot be done, nothing is lost but the time to read it again.
    pub(super) fn keep(&self, mark: &str, read: &FileLeaves) {
        if let Err(error) = self.written(mark, read) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "what was read of a file is not kept");
        }
    }

    fn written(&self, mark: &str, read: &FileLeaves) -> io::Result<()> {
        let streams = read.streams.iter().map(|(stream, own)| {
            let mut bytes = Vec::with_capacity(own.leaves.len() * LEAF_BYTES);
            for (number, leaf) in &own.leaves {
                bytes.extend(number.to_le_bytes());
                bytes.extend(leaf);
            }
            let line = StreamLine {
                leaves: BASE64.encode(bytes),
                segments: own.segments.clone(),
            };
            (stream.clone(), line)
        });
        let line = Line {
            file: mark.to_owned(),
            rows: read.rows,
            streams: streams.collect(),
        };
        let line = serde_json::to_string(&line)? + "\n";
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(line.as_bytes())
    }
}

fn read_line(line: &str) -> Option<(String, FileLeaves)> {
    let line: Line = serde_json::from_str(line).ok()?;
    let mut streams = BTreeMap::new();
    for (stream, StreamLine { leaves, segments }) in line.streams {
        let bytes = BASE64.decode(leaves).ok()?;
        let (found, []) = bytes.as_chunks::<LEAF_BYTES>() else {
            return None;
        };
        let found = found.iter().filter_map(|bytes| {
            let (number, leaf) = bytes.split_first_chunk::<8>()?;
            Some((u64::from_le_bytes(*number), leaf.try_into().ok()?))
        });
        let leaves: Vec<(u64, Hash)> = found.collect();
        let rows = segments
            .iter()
            .try_fold(0, |sum: u64, (rows, _)| sum.checked_add(*rows));
        if rows != Some(leaves.len() as u64) {
            return None;
        }
        streams.insert(stream, StreamLeaves { leaves, segments });
    }
    let read = FileLeaves {
        rows: line.rows,
        streams,
    };
    Some((line.file, read))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "file:///srv/eu";

    fn read(number: u64) -> FileLeaves {
        let mut own = StreamLeaves::default();
        own.push(number, [7; 32], None);
        own.push(number + 1, [8; 32], Some("seg-1"));
        own.push(number + 9, [9; 32], Some("seg-1"));
        FileLeaves {
            rows: 3,
            streams: BTreeMap::from([("s".to_owned(), own)]),
        }
    }

    #[test]
    fn what_was_read_is_gone_on_from_and_a_line_that_was_cut_off_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.ndjson");
        let (tenant, silo) = (
            TenantId::parse("acme").unwrap(),
            SiloId::parse("eu").unwrap(),
        );
        let open = || AuditedFiles::open(&path, (&tenant, &silo), ROOT).unwrap();
        let files = open();
        assert!(files.known().is_empty());
        files.keep("one", &read(1));
        files.keep("two", &read(1 << 40));
        let refused = AuditedFiles::open(&path, (&tenant, &silo), ROOT);
        assert!(matches!(refused, Err(NotResumed::Busy)));
        drop(files);
        let files = open();
        assert_eq!(files.take("one"), Some(read(1)));
        assert_eq!(files.take("one"), None);
        assert_eq!(files.take("two"), Some(read(1 << 40)));
        drop(files);
        let whole = std::fs::read(&path).unwrap();
        for end in 0..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            let files = open();
            assert!(files.known().len() < 2);
            files.keep("two", &read(5));
            drop(files);
            assert_eq!(open().take("two"), Some(read(5)), "{end}");
        }
        for other in ["x", "{}\n", "[]"] {
            std::fs::write(&path, other).unwrap();
            let refused = AuditedFiles::open(&path, (&tenant, &silo), ROOT);
            assert!(matches!(refused, Err(NotResumed::Foreign)), "{other}");
        }
        std::fs::write(&path, whole).unwrap();
        let other = TenantId::parse("initech").unwrap();
        assert!(AuditedFiles::open(&path, (&other, &silo), ROOT).is_err());
        assert!(AuditedFiles::open(&path, (&tenant, &silo), "file:///srv/copy").is_err());
        open().remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn each_leaf_has_the_segment_of_its_row() {
        let read = read(4);
        let placed: Vec<_> = read.streams["s"].placed().collect();
        let said = Some("seg-1");
        assert_eq!(placed, [(4, None), (5, said), (13, said)]);
    }
}
