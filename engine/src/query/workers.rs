//! Threads that queries run on, so that a query which keeps a processor busy delays other queries at most, and never a
//! request that is not one.
//!
//! Rows cross over to whoever asked for them through a channel with room for one batch: a client that reads slowly slows
//! its query down, and one that goes away ends it.

use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use datafusion::error::DataFusionError;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::{FutureExt, Stream, StreamExt};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::AbortHandle;

use super::error::Error;
use super::planning::panicked;

/// Stack of a thread: every step of a plan is a frame or two, and plans are up to 150 steps deep.
const STACK_BYTES: usize = 16 * 1024 * 1024;
/// Threads for reading files, at most.
const READERS_MAX: usize = 64;

/// The threads.
#[derive(Debug)]
pub(super) struct Workers {
    /// Until the workers are dropped.
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Workers {
    pub(super) fn start(threads: usize) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .max_blocking_threads(READERS_MAX)
            .thread_name("query")
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs a plan. `held` is what the query holds until its last row, or until nobody wants more.
    pub(super) fn run<T: Send + 'static>(
        &self,
        held: T,
        plan: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
    ) -> SendableRecordBatchStream {
        let schema = plan.schema();
        let (rows, arriving) = mpsc::channel(1);
        let running = self.handle.spawn(async move {
            let _held = held;
            let running = AssertUnwindSafe(pass(plan, context, &rows)).catch_unwind();
            let last = match running.await {
                Ok(Ok(())) => Ok(None),
                Ok(Err(error)) => Err(error),
                Err(panic) => Err(panicked(panic.as_ref()).into()),
            };
            // Nobody may be waiting any more.
            let _ = rows.send(last).await;
        });
        Box::pin(Rows {
            schema,
            arriving,
            running: running.abort_handle(),
            ended: false,
        })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Waiting for threads is nothing that the thread of whoever drops this may do.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A batch, or nothing when there are no more.
type Arrival = Result<Option<RecordBatch>>;

async fn pass(
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    rows: &Sender<Arrival>,
) -> Result<()> {
    let mut stream = execute_stream(plan, context)?;
    while let Some(batch) = stream.next().await {
        if rows.send(Ok(Some(batch?))).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The rows of a plan that runs elsewhere, for as long as somebody wants them.
struct Rows {
    schema: SchemaRef,
    arriving: Receiver<Arrival>,
    running: AbortHandle,
    ended: bool,
}

impl Stream for Rows {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let arrived = match self.arriving.poll_recv(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(arrived)) => arrived.transpose(),
            // The end is announced: a query that just stops was not done.
            Poll::Ready(None) => Some(Err(DataFusionError::from(Error::Internal))),
        };
        self.ended = !matches!(arrived, Some(Ok(_)));
        Poll::Ready(arrived)
    }
}

impl RecordBatchStream for Rows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        self.running.abort();
    }
}
