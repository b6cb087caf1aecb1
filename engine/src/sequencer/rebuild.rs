//! Leaves made from the rows again, in the order of their numbers: for the tree of a log whose table does not say it, and
//! for who publishes a log and has missed some.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use catalog::ids::StreamName;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::{PhysicalExpr, expressions};
use datafusion::physical_plan::execute_stream;
use futures::TryStreamExt;

use crate::record::views_of;
use crate::seal::{Hash, leaf_hash_of};
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
    Ok(Tree::over(leaves(table, state, stream, 0..size).await?))
}

/// The leaves of these numbers, all of which the table must have.
pub(crate) async fn leaves(
    table: &Table,
    state: &Arc<TableState>,
    stream: &str,
    numbers: Range<i64>,
) -> Result<Vec<Hash>, LaneError> {
    let request = ScanRequest {
        projection: (0..state.schema.fields().len()).collect(),
        predicate: Some(among(state, &numbers)?),
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
        let read = read.ok_or(MISFIT)?.into_iter();
        leaves.extend(read.filter(|(number, _)| numbers.contains(number)));
    }
    leaves.sort_unstable_by_key(|(number, _)| *number);
    if !leaves.iter().map(|(number, _)| *number).eq(numbers) {
        return Err(MISFIT);
    }
    Ok(leaves.into_iter().map(|(_, leaf)| leaf).collect())
}

/// Rows that have one of these numbers.
fn among(state: &TableState, numbers: &Range<i64>) -> Result<Arc<dyn PhysicalExpr>, LaneError> {
    let column = || expressions::col("leaf_index", &state.schema);
    let bound = |operator, number| {
        let bound = expressions::lit(number);
        expressions::binary(column()?, operator, bound, &state.schema)
    };
    let among = || {
        let (first, end) = (
            bound(Operator::GtEq, numbers.start)?,
            bound(Operator::Lt, numbers.end)?,
        );
        expressions::binary(first, Operator::And, end, &state.schema)
    };
    among().map_err(|_| LaneError::Unavailable)
}

fn leaves_of(batch: &RecordBatch, stream: &str) -> Option<Vec<(i64, Hash)>> {
    let numbers = batch
        .column_by_name("leaf_index")?
        .as_primitive_opt::<Int64Type>()?;
    let mut leaves = Vec::new();
    for (row, number) in views_of(batch).ok()?.zip(numbers.iter()) {
        let row = row.ok()?;
        if row.stream == stream {
            leaves.push((number?, leaf_hash_of(&row).ok()?));
        } else {
            // A name that is none is no other stream's either.
            StreamName::parse(row.stream).ok()?;
        }
    }
    Some(leaves)
}
