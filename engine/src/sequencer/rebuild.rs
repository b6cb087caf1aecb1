//! The tree of a log whose table does not say it, made from the rows: every leaf again, in the order of their numbers.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::execute_stream;
use futures::TryStreamExt;

use crate::record::rows::records_of;
use crate::seal::{Hash, leaf_hash};
use crate::table::{ScanRequest, Table, TableState};

use super::LaneError;
use super::tree::{self, Tree};

const MISFIT: LaneError =
    LaneError::Fault("the rows of a table do not make the log that the table says it has");

/// Reads the whole table; it costs what that costs, once.
pub(super) async fn tree(
    table: &Table,
    state: &Arc<TableState>,
    stream: &str,
) -> Result<Tree, LaneError> {
    let size = state.txn(&tree::log_app_id(stream)).unwrap_or(0);
    let request = ScanRequest {
        projection: (0..state.schema.fields().len()).collect(),
        predicate: None,
        target_partitions: 1,
    };
    let plan = table.scan(Arc::clone(state), request).await?;
    let context = Arc::new(TaskContext::default());
    let mut batches = execute_stream(plan, context).map_err(|_| LaneError::Unavailable)?;
    let mut leaves: Vec<(i64, Hash)> = Vec::new();
    while let Some(batch) = batches
        .try_next()
        .await
        .map_err(|_| LaneError::Unavailable)?
    {
        let stream = stream.to_owned();
        let read = tokio::task::spawn_blocking(move || leaves_of(&batch, &stream));
        let read = read.await.map_err(|_| LaneError::Unavailable)?;
        leaves.extend(read.ok_or(MISFIT)?);
    }
    leaves.sort_unstable_by_key(|(number, _)| *number);
    let whole = leaves
        .iter()
        .zip(0_i64..)
        .all(|((number, _), expected)| *number == expected);
    let count = i64::try_from(leaves.len()).map_err(|_| LaneError::Unavailable)?;
    if !whole || count != size {
        return Err(MISFIT);
    }
    Ok(Tree::over(leaves.into_iter().map(|(_, leaf)| leaf)))
}

fn leaves_of(batch: &RecordBatch, stream: &str) -> Option<Vec<(i64, Hash)>> {
    let numbers = batch
        .column_by_name("leaf_index")?
        .as_primitive_opt::<Int64Type>()?;
    let rows = records_of(batch).ok()?;
    rows.iter()
        .zip(numbers.iter())
        .filter(|(row, _)| row.stream.as_str() == stream)
        .map(|(row, number)| Some((number?, leaf_hash(row).ok()?)))
        .collect()
}
