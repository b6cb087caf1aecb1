//! The index of idempotency keys: memory, rebuilt from the table, kept up by every commit.
//!
//! Both what an entry is found by and the payload hash in it are keyed and stand in hidden columns: the table alone can
//! rebuild the index, and neither confirms a guess.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use catalog::ids::{PolicyVersion, RecordId, StreamName};
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::execute_stream;
use futures::TryStreamExt;

use crate::table::{self, ScanRequest, Table, TableState};

use super::outcome::Receipt;

/// What the index needs of a row.
const COLUMNS: [&str; 6] = [
    "key_digest",
    "payload_hash",
    "record_id",
    "policy_version",
    "stream",
    "leaf_index",
];

/// What a key is found by: [`crate::record::canonical::key_digest`].
pub(crate) type KeyDigest = String;

/// A record that is in the table.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) payload_hash: String,
    pub(crate) receipt: Receipt,
}

/// The records of one table by key.
#[derive(Debug, Default)]
pub(crate) struct Index {
    known: HashMap<KeyDigest, Known>,
    /// Files whose rows are in `known`.
    files: HashSet<String>,
}

impl Index {
    pub(crate) fn get(&self, key: &KeyDigest) -> Option<&Known> {
        self.known.get(key)
    }

    /// Reads the files of `state` that the index has not seen: all of them after a start, those of other writers (or
    /// of a commit whose answer was lost) later.
    pub(crate) async fn catch_up(
        &mut self,
        table: &Table,
        state: &Arc<TableState>,
    ) -> Result<(), table::Error> {
        let new = Arc::new(state.only(|path| !self.files.contains(path)));
        if new.file_count() == 0 {
            return Ok(());
        }
        let projection = COLUMNS
            .iter()
            .filter_map(|name| state.schema.index_of(name).ok())
            .collect();
        let request = ScanRequest {
            projection,
            predicate: None,
            target_partitions: 1,
        };
        let plan = table.scan(Arc::clone(&new), request).await?;
        let mut rows =
            execute_stream(plan, Arc::new(TaskContext::default())).map_err(unreadable)?;
        while let Some(batch) = rows.try_next().await.map_err(unreadable)? {
            self.add_rows(&batch)?;
        }
        self.files.extend(new.paths().map(str::to_owned));
        Ok(())
    }

    fn add_rows(&mut self, batch: &RecordBatch) -> Result<(), table::Error> {
        let text = |name: &str| {
            let column = batch
                .column_by_name(name)
                .and_then(|column| column.as_string_opt::<i32>());
            column.ok_or_else(malformed)
        };
        let (keys, hashes, ids) = (
            text("key_digest")?,
            text("payload_hash")?,
            text("record_id")?,
        );
        let (policies, streams) = (text("policy_version")?, text("stream")?);
        let leaves = batch
            .column_by_name("leaf_index")
            .and_then(|column| column.as_primitive_opt::<Int64Type>());
        let leaves = leaves.ok_or_else(malformed)?;
        for row in (0..batch.num_rows()).filter(|row| keys.is_valid(*row)) {
            let receipt = Receipt {
                record_id: RecordId::parse(ids.value(row)).map_err(|_| malformed())?,
                policy_version: PolicyVersion::parse(policies.value(row))
                    .map_err(|_| malformed())?,
                stream: StreamName::parse(streams.value(row)).map_err(|_| malformed())?,
                leaf_index: leaves.value(row),
                duplicate: true,
            };
            let known = Known {
                payload_hash: hashes.value(row).to_owned(),
                receipt,
            };
            self.known.insert(keys.value(row).to_owned(), known);
        }
        Ok(())
    }
}

fn malformed() -> table::Error {
    table::Error::Tampered {
        what: "a stored record has no receipt",
    }
}

/// A file that does not decrypt keeps the tenant from writing: to go on could store a record twice.
fn unreadable(_: DataFusionError) -> table::Error {
    table::Error::Tampered {
        what: "stored records cannot be read back",
    }
}
