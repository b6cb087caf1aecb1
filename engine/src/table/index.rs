//! What a table is at a version, folded from its log entry by entry.
//!
//! ```text
//! TableState @7 ──entry 8──▶ TableState @8      states share their file lists; a fold costs what the entry says
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use arrow::datatypes::{Schema, SchemaRef};
use catalog::keys::EpochKey;
use deltalake_core::kernel::engine::arrow_conversion::TryIntoArrow;
use deltalake_core::kernel::{Action, Add, Metadata, Protocol};
use futures::TryStreamExt;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::Error;
use super::commit::{COMMIT_ID, VACUUMED};
use super::files::{Files, rows_of};
use super::key_material::KeyMaterial;
use super::layout::{Partition, TableName, id_of, prefixed};
use super::log::{Log, Read};
use super::stats::FileStats;
use crate::record::schema::PARTITIONS;

/// The tag that says how the other tags are to be read.
pub(crate) const TAG_VERSION: &str = "th.v";
/// The tag with the digest of the file's bytes.
pub(crate) const TAG_SHA256: &str = "th.sha256";
/// The tag with the file's key material.
pub(crate) const TAG_KEY: &str = "th.dek";
/// The tag with the file's sealed statistics.
pub(crate) const TAG_STATS: &str = "th.stats";
/// The value of [`TAG_VERSION`].
pub(crate) const FORMAT: &str = "1";

/// What the application ids begin with whose versions are the tree sizes of logs.
pub(super) const TREE_SIZE: &str = "th.log:";
/// What the commit info keys begin with that say where a segment of a log begins: `<stream>:<number of the leaf, 20
/// digits>` follows.
pub(crate) const SEGMENT: &str = "th.segment:";
const UNEVEN: Error = Error::Tampered {
    what: "the rows in the log are not the leaves that it counts",
};

/// One data file as the log describes it.
#[derive(Debug)]
pub(crate) struct DataFile {
    pub(crate) path: String,
    pub(crate) partition: Partition,
    pub(crate) size: u64,
    pub(crate) sha256: String,
    pub(crate) key: KeyMaterial,
    /// The version since which all its rows are in the table: not that of a rewrite, which adds none.
    rows_since: u64,
    /// The row count in the clear. The sealed one must be the same.
    count: u64,
    sealed_stats: String,
    stats: OnceLock<FileStats>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PlainStats {
    num_records: u64,
}

impl DataFile {
    fn from_add(add: &Add, version: u64) -> Result<Self, Error> {
        let read = || {
            let partition = Partition::from_log(&add.partition_values)?;
            let plain: PlainStats = serde_json::from_str(add.stats.as_deref()?).ok()?;
            let tags = add.tags.as_ref()?;
            let tag = |name: &str| tags.get(name)?.as_deref();
            let sound = tag(TAG_VERSION)? == FORMAT
                && add.deletion_vector.is_none()
                && partition.owns(&add.path);
            sound.then_some(())?;
            Some(Self {
                path: add.path.clone(),
                partition,
                size: u64::try_from(add.size).ok()?,
                sha256: tag(TAG_SHA256)?.to_owned(),
                key: KeyMaterial::from_json(tag(TAG_KEY)?).ok()?,
                rows_since: version,
                count: plain.num_records,
                sealed_stats: tag(TAG_STATS)?.to_owned(),
                stats: OnceLock::new(),
            })
        };
        read().ok_or(Error::Tampered {
            what: "the log names a file that this product did not write",
        })
    }

    /// How many rows the log says it has.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// A digest of all that the log says of it.
    pub(super) fn digest(&self) -> Result<[u8; 32], Error> {
        let mut digest = Sha256::new();
        let key = self.key.to_json()?;
        let texts = [&self.path, &self.sha256, &self.sealed_stats, &key];
        digest.update(prefixed(&texts.map(String::as_str)));
        digest.update(prefixed(&self.partition.0.each_ref().map(String::as_str)));
        digest.update(self.size.to_le_bytes());
        digest.update(self.count.to_le_bytes());
        Ok(digest.finalize().into())
    }

    /// The file's statistics, verified.
    pub(crate) fn stats(&self, table: &TableName, epoch: &EpochKey) -> Result<&FileStats, Error> {
        if let Some(stats) = self.stats.get() {
            return Ok(stats);
        }
        let aad = table.stats_aad(&self.path, self.size, &self.sha256);
        let stats = FileStats::open(&self.sealed_stats, epoch, &aad)?;
        if stats.count != self.count {
            return Err(Error::Tampered {
                what: "the row count in the log is not the sealed one",
            });
        }
        Ok(self.stats.get_or_init(|| stats))
    }
}

/// A table at one version.
#[derive(Debug, Clone)]
pub struct TableState {
    /// The version: the number of the last log entry that this state knows.
    pub version: u64,
    /// The digest of the log up to that entry.
    pub(crate) log_digest: [u8; 32],
    /// The columns, those of the partition included, in the table's order.
    pub schema: SchemaRef,
    metadata: Metadata,
    files: Files,
    txns: HashMap<String, i64>,
    /// The digest of the files, once somebody asked for it.
    file_set: OnceLock<[u8; 32]>,
    /// The leaves of all logs together, as the entries say; `None` when the rows of this table are no leaves.
    leaves: Option<i128>,
    info: HashMap<String, Value>,
    /// The segments of logs, by where they begin: there is a new one each hour, and states share them until then.
    segments: Arc<BTreeMap<String, String>>,
    /// Files that rewrites have taken out, and when, in milliseconds since 1970, until they are gone from the store.
    taken_out: Arc<HashMap<Uuid, i64>>,
}

impl TableState {
    /// The last version that an application id committed, if it ever did.
    pub fn txn(&self, app_id: &str) -> Option<i64> {
        self.txns.get(app_id).copied()
    }

    /// The application ids that have committed.
    pub(crate) fn app_ids(&self) -> impl Iterator<Item = &str> {
        self.txns.keys().map(String::as_str)
    }

    /// The value that the last commit which had one gave to a `th.` key of its commit info.
    pub fn info(&self, key: &str) -> Option<&Value> {
        self.info.get(key)
    }

    /// The segments of a stream's log that begin with the leaf `from` or after it: each with its first leaf.
    pub(crate) fn segments_from(
        &self,
        stream: &str,
        from: u64,
    ) -> impl Iterator<Item = (u64, &str)> {
        let keys = format!("{stream}:{from:020}")..format!("{stream};");
        let begun = self.segments.range(keys);
        begun.filter_map(|(key, segment)| {
            let (_, first) = key.rsplit_once(':')?;
            Some((first.parse().ok()?, segment.as_str()))
        })
    }

    /// The segment of a stream's log that a leaf is in, and the number of its first leaf.
    pub(crate) fn segment_at(&self, stream: &str, leaf: u64) -> Option<(u64, &str)> {
        let keys = format!("{stream}:")..=format!("{stream}:{leaf:020}");
        let (key, segment) = self.segments.range(keys).next_back()?;
        let (_, first) = key.rsplit_once(':')?;
        Some((first.parse().ok()?, segment.as_str()))
    }

    /// How many rows the log says the table has.
    pub fn row_count(&self) -> u64 {
        self.files.rows
    }

    /// How many files hold them.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// The same state with those of its files only that have rows which came after `version`, for readers that have seen
    /// the others. `None`: all of them.
    pub(crate) fn with_rows_after(&self, version: Option<u64>) -> Self {
        let is_new =
            |file: &&Arc<DataFile>| version.is_none_or(|version| file.rows_since > version);
        self.with_files(self.files.iter().filter(is_new).cloned().collect())
    }

    /// The same state with no file but this.
    pub(super) fn with_only(&self, file: &Arc<DataFile>) -> Self {
        self.with_files(vec![Arc::clone(file)])
    }

    fn with_files(&self, these: Vec<Arc<DataFile>>) -> Self {
        let mut files = Files::default();
        files.add(these);
        Self {
            files,
            file_set: OnceLock::new(),
            ..self.clone()
        }
    }

    /// The id that the table got when it was made: another table in its place has another.
    pub(crate) fn table_id(&self) -> &str {
        self.metadata.id()
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &Arc<DataFile>> {
        self.files.iter()
    }

    /// The digest of the table's files, made once for each state.
    pub(crate) fn file_set_root(&self) -> [u8; 32] {
        *self
            .file_set
            .get_or_init(|| super::file_set::root(self.files()))
    }

    /// Files that rewrites have taken out, by the ids in their names, and when, in milliseconds since 1970.
    pub(super) fn taken_out(&self) -> &HashMap<Uuid, i64> {
        &self.taken_out
    }

    pub(crate) fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The state after the first entry, which must say what the table is.
    pub(super) fn first(entry: &Read) -> Result<Self, Error> {
        let actions = &entry.actions;
        let metadata = actions.iter().find_map(|action| match action {
            Action::Metadata(metadata) => Some(metadata.clone()),
            _ => None,
        });
        let protocol = actions
            .iter()
            .any(|action| matches!(action, Action::Protocol(_)));
        let (Some(metadata), true) = (metadata, protocol) else {
            return Err(Error::Tampered {
                what: "the log does not begin with a table",
            });
        };
        let mut state = Self {
            version: 0,
            log_digest: [0; 32],
            schema: schema_of(&metadata)?,
            metadata,
            files: Files::default(),
            file_set: OnceLock::new(),
            txns: HashMap::new(),
            leaves: None,
            info: HashMap::new(),
            segments: Arc::default(),
            taken_out: Arc::default(),
        };
        state.apply(0, entry)?;
        Ok(state)
    }

    pub(super) fn apply(&mut self, version: u64, entry: &Read) -> Result<(), Error> {
        self.log_digest = entry.digest(&self.log_digest);
        self.file_set = OnceLock::new();
        let mut added = Vec::new();
        let mut rewritten = Vec::new();
        let mut taken_out = HashSet::new();
        let mut replaced = HashSet::new();
        let leaves_before = self.leaves.unwrap_or(0);
        for action in &entry.actions {
            match action {
                Action::Add(add) => {
                    let file = DataFile::from_add(add, version)?;
                    if add.data_change {
                        added.push(file);
                    } else {
                        // A file that is said anew, as after a change of keys, takes its own place.
                        replaced.insert(add.path.as_str());
                        rewritten.push(file);
                    }
                }
                Action::Remove(remove) => {
                    taken_out.insert(remove.path.as_str());
                    if let Some(id) = id_of(&remove.path) {
                        let at = remove.deletion_timestamp.unwrap_or_default();
                        Arc::make_mut(&mut self.taken_out).insert(id, at);
                    }
                }
                Action::Txn(txn) => {
                    self.move_txn(&txn.app_id, txn.version);
                }
                Action::Metadata(metadata) => {
                    self.schema = schema_of(metadata)?;
                    self.metadata = metadata.clone();
                }
                Action::Protocol(protocol) => check_protocol(protocol)?,
                Action::CommitInfo(commit) => {
                    for (key, value) in &commit.info {
                        if let Some(begin) = key.strip_prefix(SEGMENT) {
                            let segment = value.as_str().unwrap_or_default().to_owned();
                            Arc::make_mut(&mut self.segments).insert(begin.to_owned(), segment);
                        } else if key == VACUUMED {
                            let before = value.as_i64().unwrap_or_default();
                            Arc::make_mut(&mut self.taken_out).retain(|_, at| *at >= before);
                        } else if key.starts_with("th.") && key != COMMIT_ID {
                            self.info.insert(key.clone(), value.clone());
                        }
                    }
                }
                Action::Cdc(_) | Action::DomainMetadata(_) => {
                    return Err(Error::Tampered {
                        what: "the log has an action that this product does not write",
                    });
                }
            }
        }
        let rows_added = self.put(added, rewritten, &taken_out, &replaced)?;
        self.version = version;
        // An entry that rewrites files adds rows that have their leaves already, and leaves none out.
        if !taken_out.is_empty() || !replaced.is_empty() {
            return self.check_whole();
        }
        let is_uneven = |leaves: i128| leaves - leaves_before != i128::from(rows_added);
        if self.leaves.is_some_and(is_uneven) {
            return Err(UNEVEN);
        }
        Ok(())
    }

    /// Changes the files. Those that were rewritten have as many rows as those whose place they take. Returns how many rows
    /// are new.
    fn put(
        &mut self,
        added: Vec<DataFile>,
        mut rewritten: Vec<DataFile>,
        taken_out: &HashSet<&str>,
        replaced: &HashSet<&str>,
    ) -> Result<u64, Error> {
        let gone = self.files.remove(&(taken_out | replaced));
        let found = gone.iter().map(|file| file.path.as_str());
        if found.filter(|path| taken_out.contains(path)).count() < taken_out.len() {
            return Err(UNEVEN);
        }
        if let Some(since) = gone.iter().map(|file| file.rows_since).max() {
            for file in &mut rewritten {
                file.rows_since = since;
            }
        }
        let share = |files: Vec<DataFile>| files.into_iter().map(Arc::new).collect::<Vec<_>>();
        let (added, rewritten) = (share(added), share(rewritten));
        if rows_of(&rewritten) != rows_of(&gone) {
            return Err(UNEVEN);
        }
        let rows_added = rows_of(&added);
        self.files.add([added, rewritten].concat());
        Ok(rows_added)
    }

    fn move_txn(&mut self, app_id: &str, version: i64) {
        let before = self.txns.insert(app_id.to_owned(), version).unwrap_or(0);
        if app_id.starts_with(TREE_SIZE) {
            let grown = i128::from(version) - i128::from(before);
            self.leaves = Some(self.leaves.unwrap_or(0) + grown);
        }
    }

    /// Every leaf has its row, and every row is one leaf: an entry that was removed, emptied or repeated shows here.
    fn check_whole(&self) -> Result<(), Error> {
        let rows = i128::from(self.row_count());
        match self.leaves {
            Some(leaves) if leaves != rows => Err(UNEVEN),
            _ => Ok(()),
        }
    }
}

/// Reads a whole log. `None` when there is no table.
pub(crate) async fn load(log: &Log) -> Result<Option<TableState>, Error> {
    let length = log.length().await?;
    let mut entries = Box::pin(log.first(length));
    let mut state: Option<TableState> = None;
    while let Some(entry) = entries.try_next().await? {
        match &mut state {
            None => state = Some(TableState::first(&entry)?),
            Some(state) => state.apply(state.version + 1, &entry)?,
        }
    }
    drop(entries);
    match state {
        None => Ok(None),
        // Others may have committed since the listing.
        Some(state) => {
            let state = refresh(log, Arc::new(state)).await?;
            state.check_whole()?;
            Ok(Some(Arc::unwrap_or_clone(state)))
        }
    }
}

/// Folds the entries that came since `state`; gives back the same state when none did.
pub(crate) async fn refresh(
    log: &Log,
    mut state: Arc<TableState>,
) -> Result<Arc<TableState>, Error> {
    while let Some(entry) = log.read(state.version + 1).await? {
        let next = Arc::make_mut(&mut state);
        next.apply(next.version + 1, &entry)?;
    }
    Ok(state)
}

fn schema_of(metadata: &Metadata) -> Result<SchemaRef, Error> {
    let unreadable = || Error::Tampered {
        what: "the schema in the log cannot be read",
    };
    let columns = metadata.parse_schema().map_err(|_| unreadable())?;
    let schema: Schema = (&columns).try_into_arrow().map_err(|_| unreadable())?;
    let partitioned = metadata.partition_columns() == PARTITIONS;
    if !partitioned
        || !PARTITIONS
            .iter()
            .all(|name| schema.field_with_name(name).is_ok())
    {
        return Err(Error::Tampered {
            what: "the table is partitioned in another way",
        });
    }
    Ok(Arc::new(schema))
}

/// Only the features that this product writes: reader 1, writer 2. Anything else would be read wrongly.
fn check_protocol(protocol: &Protocol) -> Result<(), Error> {
    let known = protocol.min_reader_version() == 1
        && protocol.min_writer_version() <= 2
        && protocol.reader_features().is_none()
        && protocol.writer_features().is_none();
    if known {
        Ok(())
    } else {
        Err(Error::Tampered {
            what: "the table asks for a protocol that is not this product's",
        })
    }
}

#[cfg(test)]
impl DataFile {
    /// A file of this size, under no key.
    pub(super) fn stored(path: &str, size: u64) -> Self {
        Self {
            size,
            ..Self::named(path)
        }
    }

    /// A file with one row and this path.
    pub(super) fn named(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            partition: Partition(["s".into(), "d".into(), "r".into()]),
            size: 1,
            sha256: String::new(),
            key: crate::table::testing::no_key(),
            rows_since: 0,
            count: 1,
            sealed_stats: String::new(),
            stats: OnceLock::new(),
        }
    }
}
