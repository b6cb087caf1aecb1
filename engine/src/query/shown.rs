//! One stream of a guarded scan on its way to the caller: the tenant's rows, asserted, those that the row policy shows, and
//! their masks.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, kernels::cmp};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use datafusion::common::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, stream};

use super::error::Error;
use super::evened::evened;
use super::guarded_exec::Parts;
use super::sanitize;
use super::source::Layout;
use super::viewer::Viewer;

/// What the caller sees of stored rows.
pub(super) fn shown(
    rows: SendableRecordBatchStream,
    viewer: Arc<Viewer>,
    parts: Arc<Parts>,
    layout: Layout,
) -> SendableRecordBatchStream {
    let (schema, is_restricted) = (Arc::clone(parts.schema()), parts.rows().is_some());
    let shown = Shown {
        rows,
        viewer,
        parts,
        layout,
        waiting: None,
        step: FIRST_ROWS,
    };
    let shown = stream::try_unfold(shown, |mut shown| async move {
        let batch = shown.next().await?;
        Ok(batch.map(|batch| (batch, shown)))
    });
    let shown = Box::pin(RecordBatchStreamAdapter::new(schema, shown));
    // What an expression meets first, and with what, hangs on where a batch ends.
    if is_restricted { evened(shown) } else { shown }
}

/// Rows that are masked first. A query that wants a few of them stops there; one that wants more gets more at a time.
const FIRST_ROWS: usize = 256;

/// One partition on its way to the caller.
struct Shown {
    rows: SendableRecordBatchStream,
    viewer: Arc<Viewer>,
    parts: Arc<Parts>,
    layout: Layout,
    /// Own rows that are not masked yet.
    waiting: Option<RecordBatch>,
    step: usize,
}

impl Shown {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let batch = match self.waiting.take() {
            Some(batch) => batch,
            None => match self.rows.next().await {
                Some(batch) => {
                    let batch = batch.map_err(|error| sanitize::scan(&error))?;
                    let own = own_rows(batch, self.viewer.tenant(), self.layout)?;
                    self.parts
                        .visible(own)
                        .map_err(|error| unmaskable(&error))?
                }
                None => return Ok(None),
            },
        };
        let step = self.step.min(batch.num_rows());
        if step < batch.num_rows() && self.parts.is_masked() {
            self.waiting = Some(batch.slice(step, batch.num_rows() - step));
            self.step = self.step.saturating_mul(4);
            return self.show(&batch.slice(0, step));
        }
        self.show(&batch)
    }

    fn show(&self, batch: &RecordBatch) -> Result<Option<RecordBatch>> {
        let shown = self.parts.show(batch);
        Ok(Some(shown.map_err(|error| unmaskable(&error))?))
    }
}

/// The rows of the tenant. In a table of one tenant a row of another is a fault: nothing more is shown.
fn own_rows(batch: RecordBatch, tenant: &str, layout: Layout) -> Result<RecordBatch, Error> {
    let tenants = batch.columns().first().ok_or(Error::Internal)?;
    let own = is_tenant(tenants, tenant).ok_or(Error::Internal)?;
    if own.true_count() == batch.num_rows() {
        return Ok(batch);
    }
    match layout {
        Layout::OneTenant => {
            tracing::error!("a table of one tenant gave a row of another");
            Err(Error::Internal)
        }
        Layout::Mixed => filter_record_batch(&batch, &own).map_err(|_| Error::Internal),
    }
}

/// Which rows are the tenant's; nothing if the column is of a type that cannot be compared.
fn is_tenant(tenants: &ArrayRef, tenant: &str) -> Option<BooleanArray> {
    if *tenants.data_type() != DataType::Utf8 {
        return None;
    }
    let own = arrow::array::Scalar::new(arrow::array::StringArray::from(vec![tenant]));
    cmp::eq(tenants.as_string::<i32>(), &own).ok()
}

fn unmaskable(error: &ArrowError) -> Error {
    // The kind of fault, never its text: that may quote a value.
    let kind = match error {
        ArrowError::SchemaError(_) => "schema",
        _ => "values",
    };
    tracing::error!(kind, "a batch could not be masked");
    Error::Internal
}
