//! The only place where a plan becomes rows.
//!
//! Invariant: no row leaves before the evidence of its decision is durable, none after the decision has expired, none from
//! a plan that was not verified just before; and a stream that ends without an error has given every row.

use std::fmt;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use catalog::clock::Clock;
use catalog::evidence::EvidenceReceipt;
use catalog::guard::{Decision, Denial, Permit, Read};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{FutureExt, StreamExt, stream};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::account::Account;
use super::error::Error;
use super::evened::evened;
use super::planning::{Planned, Work, panicked};
use super::reuse::Slot;
use super::{sanitize, verify_physical, verify_scans};

/// Batches as they come. An error is an [`Error`], for [`Error::from_stream`] to take out.
pub(super) type BatchStream = SendableRecordBatchStream;

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

    /// What there is to say of the plan.
    pub fn account(&self) -> &Account {
        &self.planned.account
    }

    /// The same plan, to be run on the evidence of this permit; of another decision there is none.
    pub(super) fn witnessed(self, permit: &Permit<Read>) -> Result<Self, Error> {
        if permit.decision().id != self.decision.id {
            tracing::error!("a plan was to be run under a permit that it was not made for");
            return Err(Error::Internal);
        }
        Ok(Self {
            evidence: permit.receipt(),
            ..self
        })
    }

    /// Starts the plan.
    ///
    /// # Errors
    /// When the decision has expired, or the plan is no longer what was verified.
    pub(super) fn execute(self) -> Result<BatchStream, Error> {
        if self.clock.now() >= self.decision.expires_at {
            return Err(Error::Denied(Denial::InvalidToken));
        }
        let schema = self.schema();
        let rows = match self.planned.work {
            Work::Rows(rows) => given(&rows.schema(), vec![rows]),
            Work::Plan {
                plan,
                context,
                leaves,
            } => {
                verify_physical::verify(&plan, self.decision.id, leaves.memory)?;
                verify_scans::verify(&plan, &self.decision)?;
                match (
                    self.planned.slot.as_ref().and_then(Slot::rows),
                    self.planned.slot,
                ) {
                    (Some(rows), _) => given(&plan.schema(), rows),
                    (None, Some(slot)) => slot.keeping(self.planned.share.run(plan, context)),
                    (None, None) => self.planned.share.run(plan, context),
                }
            }
        };
        let rows = if self.decision.rows.is_some() {
            evened(rows)
        } else {
            rows
        };
        let expires_in = self.decision.expires_at.since(self.clock.now());
        let ends = Instant::now() + self.deadline.min(expires_in.unwrap_or_default());
        let running = Running {
            rows: Ending::new(rows, ends),
            schema: Arc::clone(&schema),
            evidence: Some(self.evidence),
            over: if expires_in.is_some_and(|left| left < self.deadline) {
                || Error::Denied(Denial::InvalidToken)
            } else {
                || Error::Deadline
            },
            decision: self.decision,
            clock: self.clock,
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
    rows: Ending,
    schema: SchemaRef,
    decision: Arc<Decision>,
    /// Until the first batch.
    evidence: Option<EvidenceReceipt>,
    clock: Arc<dyn Clock>,
    /// What it means that the time is over: that of the query, or that of the decision.
    over: fn() -> Error,
}

impl Running {
    async fn next(&mut self) -> Result<Option<RecordBatch>, Error> {
        let polled = AssertUnwindSafe(self.rows.next()).catch_unwind();
        let batch = polled
            .await
            .map_err(|panic| panicked(panic.as_ref()))?
            .ok_or_else(self.over)?
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

/// Rows that are given up when their time is over, whether or not anybody asks for them: whoever reads slowly, or not at
/// all, keeps what a query holds no longer than others.
struct Ending {
    rows: Arc<Mutex<Option<SendableRecordBatchStream>>>,
    ends: Instant,
    timer: AbortHandle,
}

impl Ending {
    fn new(rows: SendableRecordBatchStream, ends: Instant) -> Self {
        let rows = Arc::new(Mutex::new(Some(rows)));
        let held = Arc::downgrade(&rows);
        let timer = tokio::spawn(async move {
            sleep_until(ends).await;
            if let Some(held) = held.upgrade() {
                let rows = held.lock().unwrap_or_else(PoisonError::into_inner).take();
                drop(rows);
            }
        });
        Self {
            rows,
            ends,
            timer: timer.abort_handle(),
        }
    }

    /// The next batch, or the end; `None` when the time is over.
    async fn next(&mut self) -> Option<Option<Result<RecordBatch, DataFusionError>>> {
        let polled = poll_fn(|context| {
            let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
            match rows.as_mut() {
                Some(rows) => rows.poll_next_unpin(context).map(Some),
                None => Poll::Ready(None),
            }
        });
        timeout_at(self.ends, polled).await.ok().flatten()
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

/// Rows that are there.
fn given(schema: &SchemaRef, rows: Vec<RecordBatch>) -> SendableRecordBatchStream {
    let rows = stream::iter(rows.into_iter().map(Ok));
    Box::pin(RecordBatchStreamAdapter::new(Arc::clone(schema), rows))
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

#[cfg(test)]
mod tests {
    use catalog::context::Role;
    use catalog::evidence::{EvidenceRef, EvidenceUnavailable};
    use futures::channel::oneshot;

    use super::super::testing::{Caller, ONE, at};
    use super::*;

    async fn started(sql: &str) -> (Caller, oneshot::Sender<()>, BatchStream) {
        let caller = Caller::new(ONE, Role::Reader);
        let planned = caller.plan(sql).await.expect("planned");
        let (durable, durably) = oneshot::channel();
        let evidence = durably.map(|outcome| match outcome {
            Ok(()) => Ok(EvidenceRef("evidence".to_owned())),
            Err(_) => Err(EvidenceUnavailable),
        });
        let plan = caller.verified_with(planned, evidence.boxed().shared());
        let stream = plan.execute().expect("started");
        (caller, durable, stream)
    }

    #[tokio::test]
    async fn nothing_leaves_before_the_evidence_is_durable() {
        for sql in [
            "SELECT * FROM records",
            "SHOW TABLES",
            "SELECT 1 WHERE false",
        ] {
            let (_caller, durable, mut stream) = started(sql).await;
            let early = tokio::time::timeout(Duration::from_millis(50), stream.next()).await;
            assert!(early.is_err(), "{sql}");
            durable.send(()).expect("someone waits");
            let mut rest = stream.collect::<Vec<_>>().await.into_iter();
            assert!(rest.all(|batch| batch.is_ok()), "{sql}");
        }
    }

    #[tokio::test]
    async fn without_evidence_there_is_no_answer_not_even_an_empty_one() {
        for sql in ["SELECT * FROM records", "SELECT 1 WHERE false"] {
            let (_caller, durable, mut stream) = started(sql).await;
            drop(durable);
            let error = stream.next().await.expect("an item").expect_err(sql);
            let error = Error::from_stream(error);
            assert!(
                matches!(error, Error::Denied(Denial::EvidenceUnavailable)),
                "{sql}: {error:?}"
            );
            assert!(stream.next().await.is_none(), "{sql}");
        }
    }

    #[tokio::test]
    async fn a_decision_that_expires_on_the_way_ends_the_stream_with_an_error() {
        let (caller, durable, mut stream) = started("SELECT * FROM records").await;
        durable.send(()).expect("someone waits");
        assert!(stream.next().await.expect("a batch").is_ok());
        caller.clock.set(at(2_000_000));
        let error = stream.next().await.expect("an item").expect_err("expired");
        assert!(matches!(
            Error::from_stream(error),
            Error::Denied(Denial::InvalidToken)
        ));
    }

    #[tokio::test]
    async fn rows_are_given_up_at_their_end_though_nobody_asks_for_them() {
        let (held, given_up) = oneshot::channel::<()>();
        let rows = stream::once(async move {
            let _held = held;
            std::future::pending().await
        });
        let schema = Arc::new(arrow::datatypes::Schema::empty());
        let rows = Box::pin(RecordBatchStreamAdapter::new(schema, rows));
        let ends = Instant::now() + Duration::from_millis(10);
        let mut ending = Ending::new(rows, ends);
        assert!(given_up.await.is_err(), "dropped");
        assert!(ending.next().await.is_none());
    }

    #[tokio::test]
    async fn a_stream_that_panics_ends_in_an_error() {
        let caller = Caller::new(ONE, Role::Reader);
        let schema = caller.plan("SELECT 1").await.expect("planned").schema;
        let rows = stream::once(async { std::panic::resume_unwind(Box::new("a value")) });
        let mut running = Running {
            rows: Ending::new(
                Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), rows)),
                Instant::now() + Duration::from_secs(1),
            ),
            schema,
            decision: Arc::clone(caller.viewer.decision()),
            evidence: None,
            clock: caller.clock,
            over: || Error::Deadline,
        };
        assert!(matches!(running.next().await, Err(Error::Internal)));
    }
}
