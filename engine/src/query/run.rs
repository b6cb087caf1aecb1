//! The only place where a plan becomes rows.
//!
//! Invariant: no row leaves before the evidence of its decision is durable, none after the decision has expired, none from
//! a plan that was not verified just before; and a stream that ends without an error has given every row.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use catalog::clock::Clock;
use catalog::evidence::EvidenceReceipt;
use catalog::guard::{Decision, Denial};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::execute_stream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{FutureExt, StreamExt, stream};
use tokio::time::{Instant, timeout_at};

use super::error::Error;
use super::planning::{Planned, Work, panicked};
use super::{sanitize, verify_physical};

/// Batches as they come. An error is an [`Error`], for [`Error::from_stream`] to take out.
pub type BatchStream = SendableRecordBatchStream;

/// A plan that has passed every gate, for one caller, once.
pub struct VerifiedPlan {
    planned: Planned,
    decision: Arc<Decision>,
    evidence: EvidenceReceipt,
    clock: Arc<dyn Clock>,
    deadline: Duration,
}

impl VerifiedPlan {
    pub(super) fn new(
        planned: Planned,
        decision: Arc<Decision>,
        evidence: EvidenceReceipt,
        clock: Arc<dyn Clock>,
        deadline: Duration,
    ) -> Self {
        Self {
            planned,
            decision,
            evidence,
            clock,
            deadline,
        }
    }

    /// The columns of the answer; those of [`super::Queries::describe`] for the same statement.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.planned.schema)
    }

    /// Names the plan in evidence.
    pub fn plan_digest(&self) -> [u8; 32] {
        self.planned.digest
    }

    /// Starts the plan.
    ///
    /// # Errors
    /// When the decision has expired, or the plan is no longer what was verified.
    pub fn execute(self) -> Result<BatchStream, Error> {
        if self.clock.now() >= self.decision.expires_at {
            return Err(Error::Denied(Denial::InvalidToken));
        }
        let schema = self.schema();
        let rows = match self.planned.work {
            Work::Rows(rows) => {
                let rows_schema = rows.schema();
                let rows = stream::iter([Ok(rows)]);
                Box::pin(RecordBatchStreamAdapter::new(rows_schema, rows))
            }
            Work::Plan {
                plan,
                context,
                leaves,
            } => {
                verify_physical::verify(&plan, self.decision.id, leaves.memory)?;
                let started = catch_unwind(AssertUnwindSafe(|| execute_stream(plan, context)));
                started
                    .map_err(|panic| panicked(panic.as_ref()))?
                    .map_err(|error| sanitize::running(&error))?
            }
        };
        let running = Running {
            rows,
            schema: Arc::clone(&schema),
            decision: self.decision,
            evidence: Some(self.evidence),
            clock: self.clock,
            ends: Instant::now() + self.deadline,
        };
        let shown = stream::try_unfold(running, |mut running| async move {
            let batch = running.next().await?;
            Ok(batch.map(|batch| (batch, running)))
        });
        let shown = shown.map(|batch| batch.map_err(|error: Error| DataFusionError::from(error)));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, shown)))
    }
}

impl fmt::Debug for VerifiedPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedPlan")
            .field("schema", &self.planned.schema)
            .finish_non_exhaustive()
    }
}

struct Running {
    rows: SendableRecordBatchStream,
    schema: SchemaRef,
    decision: Arc<Decision>,
    /// Until the first batch.
    evidence: Option<EvidenceReceipt>,
    clock: Arc<dyn Clock>,
    ends: Instant,
}

impl Running {
    async fn next(&mut self) -> Result<Option<RecordBatch>, Error> {
        let polled = AssertUnwindSafe(self.rows.next()).catch_unwind();
        let batch = timeout_at(self.ends, polled)
            .await
            .map_err(|_| Error::Deadline)?
            .map_err(|panic| panicked(panic.as_ref()))?
            .transpose()
            .map_err(|error| sanitize::running(&error))?;
        // An empty answer is an answer too.
        if let Some(evidence) = self.evidence.take() {
            let durable = evidence.await;
            durable.map_err(|_| Error::Denied(Denial::EvidenceUnavailable))?;
        }
        if self.clock.now() >= self.decision.expires_at {
            return Err(Error::Denied(Denial::InvalidToken));
        }
        batch
            .map(|batch| conformed(&batch, &self.schema))
            .transpose()
    }
}

/// The batch with the columns that were announced.
fn conformed(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, Error> {
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| {
            if column.data_type() == field.data_type() {
                Ok(Arc::clone(column))
            } else {
                arrow::compute::cast(column, field.data_type())
            }
        });
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    columns
        .collect::<Result<Vec<_>, _>>()
        .and_then(|columns| RecordBatch::try_new_with_options(Arc::clone(schema), columns, &rows))
        .map_err(|_| {
            tracing::error!("a batch does not have the columns that were announced");
            Error::Internal
        })
}
