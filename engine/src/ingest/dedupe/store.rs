//! The index's file: opened, checked, set aside where it is not whole, and asked.
//!
//! Every page has a checksum, and opening the file verifies all of them, so that a byte that changed while nobody
//! looked is no wrong answer later. A file that does not pass is renamed and a new one begun; whoever asks then is told
//! that nothing is covered, and reads the table.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use redb::backends::InMemoryBackend;
use redb::{
    Builder, Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, TableError,
    WriteTransaction,
};

use super::entry::{self, KeyDigest, Known};
use super::{Error, Place};

/// What is appended to the name of a file that is not used any more.
const ASIDE: &str = "damaged";
/// Layout of the tables and of their entries.
const FORMAT: &[u8] = b"1";
const FORMAT_KEY: &str = "format";
/// Transactions after which one is made durable.
const TRANSACTIONS_UNSYNCED_MAX: usize = 256;
/// The same by entries: until then the pages they replace cannot be used again.
const ENTRIES_UNSYNCED_MAX: usize = 8_192;

/// `format`, and the mark of each place: table version (little endian) and table id.
const MARKS: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("marks");

/// Up to where a place's entries go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    /// Which table, as its log names it: one that was replaced has another.
    pub(super) table_id: String,
    /// The version whose files are all in the index, with those of every version before.
    pub(super) version: u64,
}

/// Where reading a table goes on.
pub(super) enum Resume {
    /// With the rows that came after this version; with all of them.
    After(Option<u64>),
    /// The file has more than the state.
    Ahead,
}

/// An index that is open.
#[derive(Debug)]
pub(super) struct Store {
    database: Database,
    /// Which opening this is, of all of this process.
    pub(super) generation: usize,
    /// The places whose mark was compared with their table since the opening.
    covered: Mutex<HashMap<Place, Mark>>,
    unsynced_transactions: AtomicUsize,
    unsynced_entries: AtomicUsize,
}

/// Why the file did not do as asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// Another process has it open.
    #[error("the index is in use by another process")]
    InUse,
    /// It is not one of ours, or not whole.
    #[error("the index is damaged")]
    Damaged,
    /// The disk failed.
    #[error("the disk of the index failed")]
    Disk(#[source] std::io::Error),
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        use std::io::ErrorKind;
        match error.into() {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Self::InUse,
            // What does not begin as a file of this kind does, or ends too early.
            redb::Error::Io(error)
                if matches!(
                    error.kind(),
                    ErrorKind::InvalidData | ErrorKind::UnexpectedEof | ErrorKind::InvalidInput
                ) =>
            {
                Self::Damaged
            }
            redb::Error::Io(error) => Self::Disk(error),
            redb::Error::PreviousIo => Self::Disk(std::io::Error::other("failed before")),
            _ => Self::Damaged,
        }
    }
}

/// Runs something over bytes that may be anything: a panic of the library is damage.
fn contained<T>(act: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or(Err(Fault::Damaged))
}

impl Store {
    /// Opens the file, which may be new, or an index in memory. One that cannot be used is set aside, once.
    pub(super) fn open(
        path: Option<&Path>,
        cache_bytes: usize,
        generation: usize,
    ) -> Result<Self, Fault> {
        let database = match path {
            None => contained(|| create(None, cache_bytes))?,
            Some(path) => match contained(|| create(Some(path), cache_bytes)) {
                Err(Fault::Damaged) => {
                    tracing::warn!(
                        "the index of idempotency keys is damaged: it is set aside and built anew"
                    );
                    std::fs::rename(path, aside(path)).map_err(Fault::Disk)?;
                    contained(|| create(Some(path), cache_bytes))?
                }
                opened => opened?,
            },
        };
        Ok(Self {
            database,
            generation,
            covered: Mutex::default(),
            unsynced_transactions: AtomicUsize::new(0),
            unsynced_entries: AtomicUsize::new(0),
        })
    }

    /// What is known under these keys; `None` when the place is not covered.
    pub(super) fn get(
        &self,
        place: &Place,
        keys: &[KeyDigest],
    ) -> Result<Option<Vec<Option<Known>>>, Fault> {
        if self.covered(place).is_none() {
            return Ok(None);
        }
        contained(|| {
            let name = place.table();
            let reading = self.database.begin_read()?;
            let table = match reading.open_table(definition(&name)) {
                Ok(table) => table,
                Err(TableError::TableDoesNotExist(_)) => return Ok(Some(vec![None; keys.len()])),
                Err(error) => return Err(error.into()),
            };
            let mut found = Vec::with_capacity(keys.len());
            for key in keys {
                let known = match table.get(key)? {
                    Some(value) => {
                        Some(entry::decode(&place.tenant, value.value()).ok_or(Fault::Damaged)?)
                    }
                    None => None,
                };
                found.push(known);
            }
            Ok(Some(found))
        })
    }

    /// How far this place is covered, as was compared with its table since the opening.
    pub(super) fn covered(&self, place: &Place) -> Option<Mark> {
        let covered = self.covered.lock().unwrap_or_else(PoisonError::into_inner);
        covered.get(place).cloned()
    }

    pub(super) fn uncover(&self, place: &Place) {
        let mut covered = self.covered.lock().unwrap_or_else(PoisonError::into_inner);
        covered.remove(place);
    }

    /// The mark in the file, if it is one of this table and not ahead of it. Otherwise what the file has of the place
    /// is dropped: it is of another table, or of one that was put back to an earlier state. While a process runs
    /// (`is_known`) no table is put back: then `now` is merely old.
    pub(super) fn resume(
        &self,
        place: &Place,
        now: &Mark,
        is_known: bool,
    ) -> Result<Resume, Fault> {
        contained(|| {
            let name = place.table();
            let writing = self.writing(0)?;
            let version = {
                let mut marks = writing.open_table(MARKS)?;
                let found = marks
                    .get(name.as_str())?
                    .and_then(|value| Mark::decode(value.value()));
                if is_known && found.as_ref().is_some_and(|mark| mark.is_ahead_of(now)) {
                    return Ok(Resume::Ahead);
                }
                let fits = found.filter(|mark| now.covers(mark));
                if fits.is_none() {
                    self.uncover(place);
                    marks.remove(name.as_str())?;
                }
                fits.map(|mark| mark.version)
            };
            if version.is_none() {
                writing.delete_table(definition(&name))?;
            }
            writing.commit()?;
            Ok(Resume::After(version))
        })
    }

    /// Writes entries, and moves the mark of the place if one is given.
    pub(super) fn put(
        &self,
        place: &Place,
        entries: &[(KeyDigest, Known)],
        mark: Option<&Mark>,
    ) -> Result<(), Fault> {
        contained(|| {
            let name = place.table();
            let writing = self.writing(entries.len())?;
            {
                let mut table = writing.open_table(definition(&name))?;
                // Neighbours share the pages on the way to them.
                let mut entries: Vec<_> = entries.iter().collect();
                entries.sort_unstable_by_key(|(key, _)| *key);
                for (key, known) in entries {
                    table.insert(key, entry::encode(known).as_slice())?;
                }
            }
            if let Some(mark) = mark {
                let mut marks = writing.open_table(MARKS)?;
                marks.insert(name.as_str(), mark.encode().as_slice())?;
            }
            writing.commit()?;
            Ok(())
        })?;
        if let Some(mark) = mark {
            let mut covered = self.covered.lock().unwrap_or_else(PoisonError::into_inner);
            covered.insert(place.clone(), mark.clone());
        }
        Ok(())
    }

    /// Drops a place.
    pub(super) fn forget(&self, place: &Place) -> Result<(), Fault> {
        self.uncover(place);
        contained(|| {
            let name = place.table();
            let writing = self.writing(0)?;
            writing.open_table(MARKS)?.remove(name.as_str())?;
            writing.delete_table(definition(&name))?;
            writing.commit()?;
            Ok(())
        })
    }

    /// A transaction that is durable once in a while: what a crash takes is read from the table again.
    fn writing(&self, entries: usize) -> Result<WriteTransaction, Fault> {
        let mut writing = self.database.begin_write()?;
        let transactions = self.unsynced_transactions.fetch_add(1, Ordering::Relaxed) + 1;
        let entries = self.unsynced_entries.fetch_add(entries, Ordering::Relaxed) + entries;
        if transactions < TRANSACTIONS_UNSYNCED_MAX && entries < ENTRIES_UNSYNCED_MAX {
            writing.set_durability(Durability::None)?;
        } else {
            self.unsynced_transactions.store(0, Ordering::Relaxed);
            self.unsynced_entries.store(0, Ordering::Relaxed);
        }
        Ok(writing)
    }
}

impl Mark {
    /// Whether everything up to `other` is covered.
    pub(super) fn covers(&self, other: &Self) -> bool {
        self.table_id == other.table_id && self.version >= other.version
    }

    fn is_ahead_of(&self, other: &Self) -> bool {
        self.table_id == other.table_id && self.version > other.version
    }

    fn encode(&self) -> Vec<u8> {
        [&self.version.to_le_bytes(), self.table_id.as_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, table_id) = bytes.split_first_chunk::<8>()?;
        Some(Self {
            table_id: std::str::from_utf8(table_id).ok()?.to_owned(),
            version: u64::from_le_bytes(*version),
        })
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::InUse => Self::InUse,
            Fault::Damaged => Self::Stale,
            Fault::Disk(error) => Self::Disk(error),
        }
    }
}

fn create(path: Option<&Path>, cache_bytes: usize) -> Result<Database, Fault> {
    let mut builder = Builder::new();
    builder
        .set_cache_size(cache_bytes)
        .set_check_integrity_on_open(true);
    let database = match path {
        Some(path) => builder.create(path)?,
        None => builder.create_with_backend(InMemoryBackend::new())?,
    };
    let writing = database.begin_write()?;
    let is_new = writing.list_tables()?.next().is_none();
    {
        let mut marks = writing.open_table(MARKS)?;
        if is_new {
            marks.insert(FORMAT_KEY, FORMAT)?;
        }
        let format = marks.get(FORMAT_KEY)?;
        if format.is_none_or(|format| format.value() != FORMAT) {
            return Err(Fault::Damaged);
        }
    }
    writing.commit()?;
    Ok(database)
}

fn definition(name: &str) -> TableDefinition<'_, &'static KeyDigest, &'static [u8]> {
    TableDefinition::new(name)
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ASIDE);
    PathBuf::from(name)
}
