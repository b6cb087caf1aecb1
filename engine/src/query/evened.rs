//! Batches of a size that says nothing: where one ends depends on the rows that are shown, and not on those left out
//! between them.

use arrow::compute::BatchCoalescer;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, stream};

use super::error::Error;

/// Rows of a batch.
const ROWS: usize = 1024;

/// The same rows in batches of one size, the last one shorter.
pub(super) fn evened(rows: SendableRecordBatchStream) -> SendableRecordBatchStream {
    let schema = rows.schema();
    let coalescer = BatchCoalescer::new(rows.schema(), ROWS);
    let even = stream::try_unfold((rows, coalescer), |(mut rows, mut coalescer)| async move {
        loop {
            if let Some(batch) = coalescer.next_completed_batch() {
                return Ok(Some((batch, (rows, coalescer))));
            }
            let taken = match rows.next().await.transpose()? {
                Some(batch) => coalescer.push_batch(batch),
                None if coalescer.is_empty() => return Ok(None),
                None => coalescer.finish_buffered_batch(),
            };
            taken.map_err(|_| {
                tracing::error!("the batches of an answer do not fit together");
                DataFusionError::from(Error::Internal)
            })?;
        }
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, even))
}
