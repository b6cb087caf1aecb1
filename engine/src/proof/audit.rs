//! A tenant's tables and logs, checked from the first byte to the last: by whoever runs the product, and anyone who is
//! given a copy of the store and the keys.
//!
//! ```text
//! Delta log ──entry by entry──▶ what each commit said of the logs ───────────────┐
//! data files ──digest, decryption, rows──▶ leaves, each with its file ──tree──▶ compared: roots, tiles, checkpoint
//! ```
//! Everything that does not fit is named: the object, the leaf where one can be told, and the reason. One fault does not
//! hide the next where that can be helped.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use catalog::guard::{Permit, TenantAdmin};
use catalog::ids::{SiloId, StreamName, TenantId};
use catalog::keys::PublicKeys;
use futures::{StreamExt, stream};
use serde::Serialize;

use super::audited_files::{AuditedFiles, FileLeaves};
use super::audited_log::{LogAudit, Said};
use super::{Error, LogName, Logs};
use crate::record::{RecordView, views_of};
use crate::seal::{Hash, Origin, SignedCheckpoint, leaf_hash_of};
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
    /// What is wrong; nothing, if all is well.
    pub findings: Vec<Finding>,
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

/// The segment that a row was last found in: the next one is mostly in the same.
#[derive(Default)]
struct LastSegment {
    stream: String,
    leaves: Range<u64>,
    id: Option<String>,
}

impl LastSegment {
    /// Whether a row is in the segment that the commits say. Before the first of them nothing is said.
    fn has(&mut self, state: &TableState, (row, leaf): (&RecordView<'_>, u64)) -> bool {
        let stream = row.stream;
        if self.stream != stream || !self.leaves.contains(&leaf) {
            let own = state.segment_at(stream, leaf);
            let next = state.segments_from(stream, leaf + 1).next();
            *self = Self {
                stream: stream.to_owned(),
                leaves: own.map_or(0, |(first, _)| first)..next.map_or(u64::MAX, |(next, _)| next),
                id: own.map(|(_, id)| id.to_owned()),
            };
        }
        self.id.is_none() || self.id.as_deref() == row.segment_id
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
    /// Checks everything that is stored of a tenant's records, evidence and quarantine, and their logs. `progress` hears of every file: how many are done, and how
    /// many there are.
    ///
    /// # Errors
    /// If store or keys are out of reach. What is wrong is no error: it is in the audit.
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
            self.audit_table(&mut audit, &auditor, (&tenant, kind, about), &progress)
                .await?;
        }
        for kept in about.kept {
            let origin = &kept.checkpoint().origin;
            if !audit.met.contains(origin.as_str()) {
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
        for stream in self.tables.published_streams(tenant, silo).await? {
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
        audit.unnamed += stored.iter().filter(is_unnamed).count() as u64;
        let before = about.files.map(|files| (files, &stored));
        let (files, mut leaves) =
            Box::pin(self.read_files(audit, (auditor, &state), before, progress)).await?;
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

    /// Reads all data files, several at once, but for those that were read before and are still there; leaves by stream,
    /// each with the number of its file.
    async fn read_files(
        &self,
        audit: &mut Audit,
        (auditor, state): (&Arc<Auditor>, &Arc<TableState>),
        before: Option<(&AuditedFiles, &HashSet<String>)>,
        progress: &(impl Fn(u64, u64) + Send + Sync),
    ) -> Result<(Vec<Arc<DataFile>>, BTreeMap<StreamName, Leaves>), Error> {
        let files: Vec<_> = state.files().cloned().collect();
        let at_once = std::thread::available_parallelism().map_or(1, usize::from);
        let reading: Vec<_> = files
            .iter()
            .enumerate()
            .map(|(number, file)| async move {
                let object = auditor.fault(&file.path, "").object;
                let known = before
                    .filter(|(_, stored)| stored.contains(&file.path))
                    .and_then(|(files, _)| files.of(&object, &file.sha256));
                if let Some(known) = known {
                    return Ok((number, true, Ok(known.clone())));
                }
                // Hashing and decoding are most of the work: each file's on whatever core is free.
                let (auditor, state, own) =
                    (Arc::clone(auditor), Arc::clone(state), Arc::clone(file));
                let reading = tokio::spawn(async move {
                    let fold = |read: &mut FileLeaves, batch: &RecordBatch| read.add(batch, &state);
                    auditor.rows(&state, &own, fold).await
                });
                let read = reading.await;
                let read = read.map_err(|_| Error::tampered("reading stopped"))??;
                if let (Some((files, _)), Ok(read)) = (before, &read) {
                    files.keep(&object, &file.sha256, read);
                }
                Ok::<_, Error>((number, false, read))
            })
            .collect();
        let mut reading = stream::iter(reading).buffer_unordered(at_once);
        let mut leaves: BTreeMap<StreamName, Leaves> = BTreeMap::new();
        let (mut done, all) = (0, files.len() as u64);
        while let Some(read) = reading.next().await {
            let (number, is_resumed, read) = read?;
            done += 1;
            audit.resumed += u64::from(is_resumed);
            progress(done, all);
            match read {
                Err(fault) => audit.add([fault]),
                Ok(read) => {
                    audit.files += 1;
                    audit.rows += read.rows;
                    for leaf in read.misplaced {
                        let object = auditor.fault(&files[number].path, "").object;
                        let reason = "a row says another segment than the commits";
                        audit.find(object, Some(leaf), reason);
                    }
                    let file = u32::try_from(number).unwrap_or(u32::MAX);
                    for (name, found) in read.leaves {
                        let stream = StreamName::parse(&name).ok();
                        let Some(stream) = stream.filter(|stream| stream.as_str() == name) else {
                            audit.add([auditor.fault(&files[number].path, NO_STREAM)]);
                            continue;
                        };
                        let found = found.into_iter().map(|(index, leaf)| (index, leaf, file));
                        leaves.entry(stream).or_default().extend(found);
                    }
                }
            }
        }
        drop(reading);
        Ok((files, leaves))
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

impl FileLeaves {
    /// Takes in the rows of a batch, and the leaves of those that are in a log.
    fn add(&mut self, batch: &RecordBatch, state: &TableState) -> Option<()> {
        self.rows += batch.num_rows() as u64;
        let Some(numbers) = batch.column_by_name("leaf_index") else {
            // Quarantine has no log.
            return Some(());
        };
        let numbers = numbers.as_primitive_opt::<Int64Type>()?;
        let mut segment = LastSegment::default();
        for (row, number) in views_of(batch).ok()?.zip(numbers) {
            let row = row.ok()?;
            let number = u64::try_from(number?).ok()?;
            let leaf = leaf_hash_of(&row).ok()?;
            if !segment.has(state, (&row, number)) {
                self.misplaced.push(number);
            }
            match self.leaves.get_mut(row.stream) {
                Some(leaves) => leaves.push((number, leaf)),
                None => {
                    let first = vec![(number, leaf)];
                    self.leaves.insert(row.stream.to_owned(), first);
                }
            }
        }
        Some(())
    }
}
