//! What an audit has read of data files, kept so that one that was interrupted goes on where it was.
//!
//! The file has one JSON line for each data file whose bytes were those that the log names and whose rows had leaves, written
//! when that file was done: `{"object", "sha256", "rows", "misplaced": [leaf, …], "leaves": {"<stream>": "<base64>"}}`, of each
//! leaf its number as u64 LE and its hash, one after the other. The first line says which table's it is. A line that was cut
//! off is as if it were not there. A file that has a line is not read again while it is there and the log names the same
//! digest; what else an audit does, it does anew. Whoever can write this file can make an audit see other leaves than the
//! rows have: it belongs to whoever audits.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use catalog::ids::{SiloId, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::seal::Hash;

const FORMAT: &str = "trailhouse-audited-files-1";
/// Bytes of a leaf in a line.
const LEAF_BYTES: usize = 8 + 32;

/// Rows of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FileLeaves {
    pub(super) rows: u64,
    /// By stream, as the rows name it.
    pub(super) leaves: BTreeMap<String, Vec<(u64, Hash)>>,
    /// Those that say another segment than the commits.
    pub(super) misplaced: Vec<u64>,
}

/// The files that an audit has read.
#[derive(Debug)]
pub struct AuditedFiles {
    file: Mutex<File>,
    known: HashMap<(String, String), FileLeaves>,
}

/// Why what was kept is not gone on from.
#[derive(Debug, thiserror::Error)]
pub enum NotResumed {
    /// The file.
    #[error("the file of an earlier audit cannot be read or written")]
    Disk(#[from] io::Error),
    /// Of something else.
    #[error("the file is not that of an audit of this tenant: name another, or remove it")]
    Foreign,
}

#[derive(Serialize, Deserialize)]
struct Line {
    object: String,
    sha256: String,
    rows: u64,
    misplaced: Vec<u64>,
    leaves: BTreeMap<String, String>,
}

impl AuditedFiles {
    /// Goes on from the file of this path, or begins one.
    ///
    /// # Errors
    /// If it cannot be read or written, or is of another tenant.
    pub fn open(path: &Path, tenant: &TenantId, silo: &SiloId) -> Result<Self, NotResumed> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)?;
        let head = json!({"format": FORMAT, "tenant": tenant, "silo": silo}).to_string() + "\n";
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
                let Some((at, read)) = line.strip_suffix('\n').and_then(read_line) else {
                    break;
                };
                known.insert(at, read);
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
            file: Mutex::new(file),
            known,
        })
    }

    /// How many files were read before.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// What was read of this object, if it had these bytes.
    pub(super) fn of(&self, object: &str, sha256: &str) -> Option<&FileLeaves> {
        self.known.get(&(object.to_owned(), sha256.to_owned()))
    }

    /// Keeps what was read of it. Where that cannot be done, nothing is lost but the time to read it again.
    pub(super) fn keep(&self, object: &str, sha256: &str, read: &FileLeaves) {
        if let Err(error) = self.written(object, sha256, read) {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(object, error, "what was read of a file is not kept");
        }
    }

    fn written(&self, object: &str, sha256: &str, read: &FileLeaves) -> io::Result<()> {
        let leaves = read.leaves.iter().map(|(stream, leaves)| {
            let mut bytes = Vec::with_capacity(leaves.len() * LEAF_BYTES);
            for (number, leaf) in leaves {
                bytes.extend(number.to_le_bytes());
                bytes.extend(leaf);
            }
            (stream.clone(), BASE64.encode(bytes))
        });
        let line = Line {
            object: object.to_owned(),
            sha256: sha256.to_owned(),
            rows: read.rows,
            misplaced: read.misplaced.clone(),
            leaves: leaves.collect(),
        };
        let line = serde_json::to_string(&line)? + "\n";
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(line.as_bytes())
    }
}

fn read_line(line: &str) -> Option<((String, String), FileLeaves)> {
    let line: Line = serde_json::from_str(line).ok()?;
    let mut leaves = BTreeMap::new();
    for (stream, text) in line.leaves {
        let bytes = BASE64.decode(text).ok()?;
        let (found, []) = bytes.as_chunks::<LEAF_BYTES>() else {
            return None;
        };
        let found = found.iter().filter_map(|bytes| {
            let (number, leaf) = bytes.split_first_chunk::<8>()?;
            Some((u64::from_le_bytes(*number), leaf.try_into().ok()?))
        });
        leaves.insert(stream, found.collect());
    }
    let read = FileLeaves {
        rows: line.rows,
        leaves,
        misplaced: line.misplaced,
    };
    Some(((line.object, line.sha256), read))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_gone_on_from_and_a_line_that_was_cut_off_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.ndjson");
        let (tenant, silo) = (
            TenantId::parse("acme").unwrap(),
            SiloId::parse("eu").unwrap(),
        );
        let open = || AuditedFiles::open(&path, &tenant, &silo).unwrap();
        let read = |number: u64| FileLeaves {
            rows: 2,
            leaves: BTreeMap::from([(
                "s".to_owned(),
                vec![(number, [7; 32]), (number + 1, [8; 32])],
            )]),
            misplaced: vec![number],
        };
        let files = open();
        assert!(files.is_empty());
        files.keep("one", "d1", &read(1));
        files.keep("two", "d2", &read(1 << 40));
        let files = open();
        assert_eq!(files.len(), 2);
        assert_eq!(files.of("one", "d1"), Some(&read(1)));
        assert_eq!(files.of("two", "d2"), Some(&read(1 << 40)));
        assert_eq!(files.of("one", "d2"), None);
        let whole = std::fs::read(&path).unwrap();
        for end in 0..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            let files = open();
            assert!(files.len() < 2);
            files.keep("two", "d2", &read(5));
            assert_eq!(open().of("two", "d2"), Some(&read(5)), "{end}");
        }
        for other in ["x", "{}\n", "[]"] {
            std::fs::write(&path, other).unwrap();
            let refused = AuditedFiles::open(&path, &tenant, &silo);
            assert!(matches!(refused, Err(NotResumed::Foreign)), "{other}");
        }
        let other = TenantId::parse("initech").unwrap();
        std::fs::write(&path, whole).unwrap();
        assert!(AuditedFiles::open(&path, &other, &silo).is_err());
    }
}
