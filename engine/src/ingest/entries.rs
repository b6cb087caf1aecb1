//! Quarantine as it lies in its table: entries, and the decisions about them, read back.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use catalog::clock::Timestamp;
use catalog::guard::Decision;
use catalog::ids::RecordId;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::execute_stream;
use futures::TryStreamExt;

use crate::record::{StoredRecord, frame};
use crate::table::{self, ScanRequest, TableKind, Tables};

use super::review::{Decided, Entry, ReviewError, State};

/// Decisions of one tenant that are looked through; beyond it entries are found in SQL.
const DECISIONS_MAX: usize = 1_000_000;
/// Columns of a decision.
const DECIDING: &[&str] = &[
    "record_id",
    "entry_id",
    "state",
    "ingested_at",
    "decision_reason",
    "decided_by",
];
/// Columns of an entry in a list.
const LISTED: &[&str] = &[
    "record_id",
    "state",
    "ingested_at",
    "stream",
    "reason",
    "policy_version",
    "correlation_id",
];
/// Columns of an entry by itself.
const WHOLE: &[&str] = &[
    "record_id",
    "state",
    "ingested_at",
    "stream",
    "reason",
    "policy_version",
    "correlation_id",
    "idempotency_key",
    "payload",
    "retention_class",
    "sealed_record",
];

/// What has been decided, by entry.
pub(super) type Decisions = HashMap<RecordId, Decided>;

/// The quarantine of one tenant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entries<'a> {
    pub(super) tables: &'a Tables,
    pub(super) decision: &'a Decision,
}

impl Entries<'_> {
    /// Hands every entry to `take`, without what is decided of it.
    pub(super) async fn each(&self, mut take: impl FnMut(Entry) + Send) -> Result<(), ReviewError> {
        self.scan(LISTED, |batch| {
            for row in entry_rows(batch) {
                take(entry_of(batch, row)?);
            }
            Ok(())
        })
        .await
    }

    /// One entry, likewise, and its record.
    pub(super) async fn find(
        &self,
        id: RecordId,
    ) -> Result<(Entry, Option<StoredRecord>), ReviewError> {
        let mut found = None;
        self.scan(WHOLE, |batch| {
            for row in entry_rows(batch) {
                let entry = entry_of(batch, row)?;
                if entry.id == id {
                    found = Some((entry, sealed(batch, row)?));
                }
            }
            Ok(())
        })
        .await?;
        found.ok_or(ReviewError::NotFound)
    }

    /// What has been decided. Of several rows about one entry the first counts: later ones repeat it.
    pub(super) async fn decisions(&self) -> Result<Decisions, ReviewError> {
        let mut rows: BTreeMap<(RecordId, RecordId), Decided> = BTreeMap::new();
        self.scan(DECIDING, |batch| {
            for row in 0..batch.num_rows() {
                if let Some((entry, id, decided)) = decided_of(batch, row)? {
                    rows.insert((entry, id), decided);
                }
            }
            if rows.len() > DECISIONS_MAX {
                return Err(ReviewError::TooMany);
            }
            Ok(())
        })
        .await?;
        let newest_first = rows.into_iter().rev();
        Ok(newest_first
            .map(|((entry, _), decided)| (entry, decided))
            .collect())
    }

    /// Hands every batch to `take`, with those of the columns that the table has.
    async fn scan(
        &self,
        columns: &[&str],
        mut take: impl FnMut(&RecordBatch) -> Result<(), ReviewError> + Send,
    ) -> Result<(), ReviewError> {
        let Decision { tenant, silo, .. } = self.decision;
        let table = self
            .tables
            .table(tenant, silo, TableKind::Quarantine)
            .await?;
        let state = table.state().await?;
        if state.file_count() == 0 {
            return Ok(());
        }
        let index = |name: &&str| state.schema.index_of(name).ok();
        let request = ScanRequest {
            projection: columns.iter().filter_map(index).collect(),
            predicate: None,
            target_partitions: 1,
        };
        let plan = table.scan(Arc::clone(&state), request).await?;
        let mut batches =
            execute_stream(plan, Arc::new(TaskContext::default())).map_err(|_| tampered())?;
        while let Some(batch) = batches.try_next().await.map_err(|_| tampered())? {
            take(&batch)?;
        }
        Ok(())
    }
}

fn text<'b>(batch: &'b RecordBatch, name: &str, row: usize) -> Option<&'b str> {
    let column = batch.column_by_name(name)?.as_string_opt::<i32>()?;
    column.is_valid(row).then(|| column.value(row))
}

fn needed<'b>(batch: &'b RecordBatch, name: &str, row: usize) -> Result<&'b str, ReviewError> {
    text(batch, name, row).ok_or_else(|| tampered().into())
}

fn instant(batch: &RecordBatch, row: usize) -> Result<Timestamp, ReviewError> {
    let column = batch
        .column_by_name("ingested_at")
        .and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    let column = column.ok_or_else(tampered)?;
    Ok(Timestamp::from_micros(column.value(row)))
}

fn id(text: &str) -> Result<RecordId, ReviewError> {
    RecordId::parse(text).map_err(|_| tampered().into())
}

/// The rows that are entries, and not decisions. The first version of the table knew no states.
fn entry_rows(batch: &RecordBatch) -> impl Iterator<Item = usize> {
    let is_entry = |row: &usize| text(batch, "state", *row).is_none_or(|state| state == "open");
    (0..batch.num_rows()).filter(is_entry)
}

fn entry_of(batch: &RecordBatch, row: usize) -> Result<Entry, ReviewError> {
    let owned = |name: &str| text(batch, name, row).map(str::to_owned);
    Ok(Entry {
        id: id(needed(batch, "record_id", row)?)?,
        at: instant(batch, row)?,
        stream: needed(batch, "stream", row)?.to_owned(),
        reason: needed(batch, "reason", row)?.to_owned(),
        policy_version: owned("policy_version"),
        correlation_id: owned("correlation_id"),
        decided: None,
        idempotency_key: owned("idempotency_key"),
        payload: owned("payload"),
    })
}

fn decided_of(
    batch: &RecordBatch,
    row: usize,
) -> Result<Option<(RecordId, RecordId, Decided)>, ReviewError> {
    let state = text(batch, "state", row).and_then(State::parse);
    let Some(state) = state.filter(|state| *state != State::Open) else {
        return Ok(None);
    };
    let owned = |name: &str| text(batch, name, row).unwrap_or_default().to_owned();
    let decided = Decided {
        state,
        reason: owned("decision_reason"),
        by: owned("decided_by"),
        at: instant(batch, row)?,
    };
    let entry = id(needed(batch, "entry_id", row)?)?;
    Ok(Some((
        entry,
        id(needed(batch, "record_id", row)?)?,
        decided,
    )))
}

fn sealed(batch: &RecordBatch, row: usize) -> Result<Option<StoredRecord>, ReviewError> {
    let column = batch.column_by_name("sealed_record");
    let column = column.and_then(|column| column.as_binary_opt::<i32>());
    let Some(column) = column.filter(|column| column.is_valid(row)) else {
        return Ok(None);
    };
    let records = frame::decode_records(column.value(row)).map_err(|_| tampered())?;
    Ok(records.into_iter().next())
}

fn tampered() -> table::Error {
    table::Error::Tampered {
        what: "quarantined records cannot be read back",
    }
}
