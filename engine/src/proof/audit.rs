//! A tenant's tables and logs, checked from the first byte to the last: by whoever runs the product, and anyone who is
//! given a copy of the store and the keys.
//!
//! ```text
//! Delta log ──entry by entry──▶ what each commit said of the logs ───────────────┐
//! data files ──digest, decryption, rows──▶ leaves, each with its file ──tree──▶ compared: roots, tiles, checkpoint
//! ```
//! Everything that does not fit is named: the object, the leaf where one can be told, and the reason. One fault does not
//! hide the next where that can be helped.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use catalog::guard::{Permit, TenantAdmin};
use catalog::ids::{SiloId, StreamName, TenantId};
use catalog::keys::PublicKeys;
use futures::{StreamExt, stream};
use object_store::ObjectMeta;
use serde::Serialize;

use super::audited_files::{AuditedFiles, FileLeaves, StreamLeaves};
use super::audited_log::{LogAudit, Said};
use super::{Error, LogName, Logs};
use crate::record::layout::Layout;
use crate::record::views_of;
use crate::seal::{Hash, Origin, SignedCheckpoint, leaf_hash_under};
use crate::sequencer::{self, Tree};
use crate::table::{Auditor, DataFile, Fault, TableKind, TableState, entry_name, table_of};

/// Faults that a report names.
const FINDINGS_MAX: usize = 10_000;

/// What was found to be wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The object, as its path below the silo's root.
    pub object: String,
    /// The leaf that it is about, where that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaf: Option<u64>,
    /// What is wrong with it.
    pub reason: String,
}

/// What a log was found to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditedLog {
    /// Its stream.
    pub stream: StreamName,
    /// How many leaves the table has.
    pub leaves: u64,
    /// How many of them the newest checkpoint signs.
    pub signed: u64,
    /// How many of them have the seal of their segment: those of the last hour, at least, have none yet.
    pub sealed: u64,
    /// The root over those in the table, as unpadded base64url.
    pub root: String,
    /// The newest checkpoint, where it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
}

/// What was checked, and what was found.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    /// The logs.
    pub logs: Vec<AuditedLog>,
    /// Data files that were read.
    pub files: u64,
    /// Of these, those that an earlier audit had read, and this one has not.
    pub resumed: u64,
    /// Rows in them.
    pub rows: u64,
    /// Data files that no entry of a log names: left over from writes that did not come to their end, and read by nobody.
    pub unnamed: u64,
    /// The newest entries of Delta logs that no checkpoint signs yet, by table: whoever can write to the storage could have
    /// changed what they say beside the rows. Of the quarantine, which has no log of leaves, that is all of them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unsigned: BTreeMap<String, u64>,
    /// What is wrong; nothing, if all is well.
    pub findings: Vec<Finding>,
    /// What could not be read, so that nothing is said of it, nor of the logs whose rows it may have.
    pub unread: Vec<Finding>,
    /// Whether there was more than is listed.
    pub truncated: bool,
    /// The logs that were looked at, by origin.
    #[serde(skip)]
    met: BTreeSet<String>,
}

/// The number of a leaf, the leaf, and the number of the file it is in.
pub(super) type Leaf = (u64, Hash, u32);
/// Where the leaves of a stream are, in no order.
pub(super) type Leaves = Vec<Leaf>;

const ELSEWHERE: &str = "a row says another segment than the commits";
const NO_STREAM: &str = "rows of it are of a stream that the table's commits do not count";

/// What an audit is about, what it compares with, and what it goes on from.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Where the tables lie.
    pub silo: &'a SiloId,
    /// The keys that the caller trusts.
    pub keys: &'a PublicKeys,
    /// Checkpoints that they kept.
    pub kept: &'a [SignedCheckpoint],
    /// What an earlier audit has read, and where this one keeps what it reads.
    pub files: Option<&'a AuditedFiles>,
}

/// The segment that a leaf was last found in: the next one is mostly in the same.
#[derive(Default)]
struct LastSegment {
    leaves: Range<u64>,
    id: Option<String>,
}

impl LastSegment {
    /// Whether a row says the segment that the commits say of its leaf. Before the first of them nothing is said.
    fn is(&mut self, state: &TableState, stream: &str, (leaf, said): (u64, Option<&str>)) -> bool {
        if !self.leaves.contains(&leaf) {
            let own = state.segment_at(stream, leaf);
            let next = state.segments_from(stream, leaf.saturating_add(1)).next();
            *self = Self {
                leaves: own.map_or(0, |(first, _)| first)..next.map_or(u64::MAX, |(next, _)| next),
                id: own.map(|(_, id)| id.to_owned()),
            };
        }
        self.id.is_none() || self.id.as_deref() == said
    }
}

impl Audit {
    pub(super) fn find(&mut self, object: String, leaf: Option<u64>, reason: impl Into<String>) {
        if self.findings.len() == FINDINGS_MAX {
            self.truncated = true;
            return;
        }
        self.findings.push(Finding {
            object,
            leaf,
            reason: reason.into(),
        });
    }

    /// Counts the entries of a table up to its newest that no checkpoint of its logs signs.
    fn count_unsigned<'a>(
        &mut self,
        table: String,
        newest: u64,
        logs: impl Iterator<Item = &'a LogAudit>,
    ) {
        let signed = logs.filter_map(LogAudit::signed_version).max();
        let next = signed.map_or(0, |version| version.saturating_add(1));
        let unsigned = newest.saturating_add(1).saturating_sub(next);
        if unsigned > 0 {
            self.unsigned.insert(table, unsigned);
        }
    }

    /// Notes what could not be read, and why.
    fn miss(&mut self, object: String, error: &Error) {
        if self.unread.len() == FINDINGS_MAX {
            self.truncated = true;
            return;
        }
        let mut reason = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            reason = format!("{reason}: {error}");
            cause = error.source();
        }
        self.unread.push(Finding {
            object,
            leaf: None,
            reason,
        });
    }

    /// Notes that the log of this name was looked at.
    pub(super) fn meet(&mut self, origin: &Origin) {
        self.met.insert(origin.to_string());
    }

    fn add(&mut self, faults: impl IntoIterator<Item = Fault>) {
        for Fault { object, reason } in faults {
            self.find(object, None, reason);
        }
    }
}

impl Logs {
    /// Checks everything that is stored of a tenant's records, evidence and quarantine, and their logs. `progress` hears
    /// of every file: how many are done, and how many there are.
    ///
    /// # Errors
    /// If there is no such silo. What is wrong is no error, and neither is what cannot be read: both are in the audit.
    pub async fn audit(
        &self,
        permit: &Permit<TenantAdmin>,
        about: About<'_>,
        progress: impl Fn(u64, u64) + Send + Sync,
    ) -> Result<Audit, Error> {
        let tenant = permit.decision().about().clone();
        let mut audit = Audit::default();
        for kind in [
            TableKind::Records,
            TableKind::Evidence,
            TableKind::Quarantine,
        ] {
            let auditor = Arc::new(self.tables.auditor(&tenant, about.silo, kind)?);
            let done = self.audit_table(&mut audit, &auditor, (&tenant, kind, about), &progress);
            if let Err(error) = done.await {
                audit.miss(auditor.root(), &error);
            }
        }
        for kept in about.kept {
            let origin = &kept.checkpoint().origin;
            // What could not be read may have been this log.
            if audit.unread.is_empty() && !audit.met.contains(origin.as_str()) {
                let reason = "a checkpoint of it was kept, and the log is gone";
                audit.find(origin.to_string(), None, reason);
            }
        }
        Ok(audit)
    }

    async fn audit_table(
        &self,
        audit: &mut Audit,
        auditor: &Arc<Auditor>,
        (tenant, kind, about): (&TenantId, TableKind, About<'_>),
        progress: &(impl Fn(u64, u64) + Send + Sync),
    ) -> Result<(), Error> {
        let About {
            silo, keys, kept, ..
        } = about;
        let mut logs: BTreeMap<StreamName, LogAudit> = BTreeMap::new();
        let name = |stream: &StreamName| LogName {
            tenant: tenant.clone(),
            silo: silo.clone(),
            stream: stream.clone(),
        };
        let published = self.tables.published_streams(tenant, silo).await;
        let published = published.unwrap_or_else(|error| {
            // Those that the table counts are looked at all the same.
            audit.miss(auditor.root(), &error.into());
            Vec::new()
        });
        for stream in published {
            if table_of(&stream) == kind {
                let log = LogAudit::open(self, name(&stream), (keys, kept), audit).await?;
                logs.insert(stream, log);
            }
        }
        let mut said: BTreeMap<StreamName, Vec<Said>> = BTreeMap::new();
        let (state, faults) = auditor
            .history(|state| note(state, &mut said, &mut logs))
            .await?;
        audit.add(faults);
        let Some(state) = state.map(Arc::new) else {
            for log in logs.values() {
                audit.find(log.folder(), None, "the log's table is gone");
            }
            return Ok(());
        };
        let stored = auditor.stored().await?;
        let named: HashSet<&str> = state.files().map(|file| file.path.as_str()).collect();
        let is_unnamed = |path: &&String| !named.contains(path.as_str());
        audit.unnamed += stored.keys().filter(is_unnamed).count() as u64;
        let unread = audit.unread.len();
        let before = about.files.map(|files| (files, &stored));
        let (files, mut leaves) =
            Box::pin(self.read_files(audit, (auditor, &state), before, progress)).await?;
        audit.count_unsigned(auditor.root(), state.version, logs.values());
        if audit.unread.len() > unread {
            // Leaves that were not read are not missing: of the logs nothing can be said but what takes no leaves.
            logs.values().for_each(|log| log.check_entries(audit));
            return Ok(());
        }
        let table = |path: &str| auditor.fault(path, "").object;
        let streams = sequencer::streams(&state);
        for stream in streams.filter_map(|stream| StreamName::parse(stream).ok()) {
            let mut log = match logs.remove(&stream) {
                Some(log) => log,
                None => LogAudit::open(self, name(&stream), (keys, kept), audit).await?,
            };
            let own = said.remove(&stream).unwrap_or_default();
            let leaves = leaves.remove(&stream).unwrap_or_default();
            let named = |file: u32| table(&files[file as usize].path);
            let entry = |version| table(&entry_name(version));
            let found = (&*state, leaves);
            log.check(audit, self, found, &own, (&named, &entry))
                .await?;
        }
        // Rows of a log that no commit counts.
        for (_, _, file) in leaves.values().filter_map(|leaves| leaves.first()) {
            audit.add([auditor.fault(&files[*file as usize].path, NO_STREAM)]);
        }
        // A log whose table never heard of it.
        for log in logs.values() {
            audit.find(log.folder(), None, "the log's table does not know of it");
        }
        Ok(())
    }

    /// Reads all data files, several at once, but for those that were read before and are listed as they were then; leaves
    /// by stream, each with the number of its file.
    async fn read_files(
        &self,
        audit: &mut Audit,
        (auditor, state): (&Arc<Auditor>, &Arc<TableState>),
        before: Option<(&AuditedFiles, &HashMap<String, ObjectMeta>)>,
        progress: &(impl Fn(u64, u64) + Send + Sync),
    ) -> Result<(Vec<Arc<DataFile>>, BTreeMap<StreamName, Leaves>), Error> {
        let files: Vec<_> = state.files().cloned().collect();
        let at_once = std::thread::available_parallelism().map_or(1, usize::from);
        let reading: Vec<_> = files
            .iter()
            .enumerate()
            .map(|(number, file)| async move {
                let own = (auditor, state, file);
                (number, Box::pin(read_file(own, before)).await)
            })
            .collect();
        let mut reading = stream::iter(reading).buffer_unordered(at_once);
        let mut leaves: BTreeMap<StreamName, Leaves> = BTreeMap::new();
        let (mut done, all) = (0, files.len() as u64);
        while let Some((number, read)) = reading.next().await {
            done += 1;
            progress(done, all);
            let object = || auditor.fault(&files[number].path, "").object;
            match read {
                Err(error) => audit.miss(object(), &error),
                Ok(FileRead::Faulty(fault)) => audit.add([fault]),
                Ok(FileRead::Sound { read, is_resumed }) => {
                    audit.files += 1;
                    audit.resumed += u64::from(is_resumed);
                    audit.rows += read.rows;
                    let file = u32::try_from(number).unwrap_or(u32::MAX);
                    for (name, own) in read.streams {
                        let stream = StreamName::parse(&name).ok();
                        let Some(stream) = stream.filter(|stream| stream.as_str() == name) else {
                            audit.find(object(), None, NO_STREAM);
                            continue;
                        };
                        if let Some((first, rows)) = misplaced(state, &name, &own) {
                            audit.find(object(), Some(first), and_more(ELSEWHERE, rows));
                        }
                        let found = own.leaves.into_iter();
                        let found = found.map(|(index, leaf)| (index, leaf, file));
                        leaves.entry(stream).or_default().extend(found);
                    }
                }
            }
        }
        drop(reading);
        Ok((files, leaves))
    }
}

/// What became of reading a file.
enum FileRead {
    Faulty(Fault),
    Sound { read: FileLeaves, is_resumed: bool },
}

/// Reads a file on whatever core is free (hashing and decoding are most of the work), unless that was done before.
async fn read_file(
    (auditor, state, file): (&Arc<Auditor>, &Arc<TableState>, &Arc<DataFile>),
    before: Option<(&AuditedFiles, &HashMap<String, ObjectMeta>)>,
) -> Result<FileRead, Error> {
    let mut kept = None;
    if let Some((files, stored)) = before
        && let Some(listed) = stored.get(&file.path)
    {
        let mark = auditor.mark(state, file, listed)?;
        if let Some(read) = files.take(&mark) {
            let is_resumed = true;
            return Ok(FileRead::Sound { read, is_resumed });
        }
        kept = Some((files, mark));
    }
    let (auditor, state, file) = (Arc::clone(auditor), Arc::clone(state), Arc::clone(file));
    let reading = tokio::spawn(async move { auditor.rows(&state, &file, add).await });
    let read = reading
        .await
        .map_err(|_| Error::tampered("reading it broke off"))?;
    let read = match read? {
        Ok(read) => read,
        Err(fault) => return Ok(FileRead::Faulty(fault)),
    };
    if let Some((files, mark)) = kept {
        files.keep(&mark, &read);
    }
    let is_resumed = false;
    Ok(FileRead::Sound { read, is_resumed })
}

/// The first leaf whose row says another segment than the commits, and how many there are.
fn misplaced(state: &TableState, stream: &str, own: &StreamLeaves) -> Option<(u64, u64)> {
    let mut segment = LastSegment::default();
    let mut misplaced = own
        .placed()
        .filter(|placed| !segment.is(state, stream, *placed));
    let (first, _) = misplaced.next()?;
    Some((first, 1 + misplaced.count() as u64))
}

/// A reason that so many rows of a file give.
pub(super) fn and_more(reason: &str, rows: u64) -> String {
    match rows {
        1 => reason.to_owned(),
        rows => format!("{reason}, and so it is with {} more of the file", rows - 1),
    }
}

/// Notes what an entry says of the logs, and what the table is at the versions that checkpoints name.
fn note(
    state: &TableState,
    said: &mut BTreeMap<StreamName, Vec<Said>>,
    logs: &mut BTreeMap<StreamName, LogAudit>,
) {
    for stream in sequencer::streams(state) {
        let Ok(name) = StreamName::parse(stream) else {
            continue;
        };
        let (size, note) = sequencer::said(state, stream);
        let said = said.entry(name).or_default();
        // A note that is sound gives one root.
        if said
            .last()
            .is_some_and(|last| (last.size, &last.note) == (size, &note))
        {
            continue;
        }
        let tree = Tree::of(state, stream).ok();
        said.push(Said {
            version: state.version,
            size,
            note,
            root: tree.map(|tree| tree.frontier().root()),
        });
    }
    for log in logs.values_mut() {
        log.meet(state);
    }
}

/// Takes in the rows of a batch, and the leaves of those that are in a log.
fn add(read: &mut FileLeaves, batch: &RecordBatch) -> Option<()> {
    read.rows += batch.num_rows() as u64;
    let Some(numbers) = batch.column_by_name("leaf_index") else {
        // Quarantine has no log.
        return Some(());
    };
    let numbers = numbers.as_primitive_opt::<Int64Type>()?;
    let mut layout = ("", None);
    for (row, number) in views_of(batch).ok()?.zip(numbers) {
        let row = row.ok()?;
        let number = u64::try_from(number?).ok()?;
        if layout.0 != row.leaf_layout {
            layout = (row.leaf_layout, Layout::parse(row.leaf_layout).ok());
        }
        let leaf = leaf_hash_under(&row, layout.1.as_ref()?).ok()?;
        if !read.streams.contains_key(row.stream) {
            read.streams
                .insert(row.stream.to_owned(), StreamLeaves::default());
        }
        let own = read.streams.get_mut(row.stream)?;
        own.push(number, leaf, row.segment_id);
    }
    Some(())
}
