//! The shape of a scan under a row policy: as many partitions, in the same order, whatever there is to be hidden.
//!
//! Planners build on both, and what they build shows: a plan with one node more can be one too many. How many files may hold
//! a row that is asked for, and whether they overlap in time, depends on rows that the policy hides; so none of it is
//! told. Partitions of the source are spread over those of the scan, merged where the scan has an order, and sorted where
//! the source has none.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr, expressions};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::sorts::streaming_merge::StreamingMergeBuilder;
use datafusion::physical_plan::stream::{EmptyRecordBatchStream, RecordBatchStreamAdapter};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::{StreamExt, stream};

use crate::table::{SORT, SORT_OPTIONS};

/// What a planner sees of a scan beside its columns.
#[derive(Debug)]
pub(super) struct Shape {
    partitions: usize,
    /// Over the columns that are read.
    order: Option<LexOrdering>,
}

impl Shape {
    /// So many partitions, in the order of files as far as this says that their columns may be told.
    pub(super) fn new(
        partitions: usize,
        read: &Arc<dyn ExecutionPlan>,
        is_told: impl Fn(usize) -> bool,
    ) -> Result<Self> {
        let schema = read.schema();
        let mut keys = Vec::new();
        for name in SORT {
            match schema.index_of(name) {
                Ok(index) if is_told(index) => {
                    let column = expressions::col(name, &schema)?;
                    keys.push(PhysicalSortExpr::new(column, SORT_OPTIONS));
                }
                _ => break,
            }
        }
        Ok(Self {
            partitions: partitions.max(1),
            order: LexOrdering::new(keys),
        })
    }

    pub(super) fn partitions(&self) -> usize {
        self.partitions
    }

    pub(super) fn order(&self) -> Option<&LexOrdering> {
        self.order.as_ref()
    }

    /// The source, each of whose partitions has the order.
    pub(super) fn ordered(&self, source: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(order) = &self.order else {
            return Ok(source);
        };
        let properties = source.equivalence_properties();
        if properties.ordering_satisfy(order.iter().cloned())? {
            return Ok(source);
        }
        let sorted = SortExec::new(order.clone(), source).with_preserve_partitioning(true);
        Ok(Arc::new(sorted))
    }

    /// The rows of one partition, of a source that was [ordered](Self::ordered).
    pub(super) fn rows(
        &self,
        source: &Arc<dyn ExecutionPlan>,
        partition: usize,
        context: &Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let theirs = 0..source.output_partitioning().partition_count();
        let theirs = theirs.skip(partition).step_by(self.partitions);
        let streams = theirs.map(|one| source.execute(one, Arc::clone(context)));
        let mut streams = streams.collect::<Result<Vec<_>>>()?;
        let schema = source.schema();
        if streams.len() < 2 {
            let empty = || Box::pin(EmptyRecordBatchStream::new(schema)) as _;
            return Ok(streams.pop().unwrap_or_else(empty));
        }
        let Some(order) = &self.order else {
            let rows = stream::iter(streams).flatten();
            return Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)));
        };
        let metrics = ExecutionPlanMetricsSet::new();
        let memory = MemoryConsumer::new("merge of a scan").register(context.memory_pool());
        StreamingMergeBuilder::new()
            .with_streams(streams)
            .with_schema(schema)
            .with_expressions(order)
            .with_metrics(BaselineMetrics::new(&metrics, partition))
            .with_batch_size(context.session_config().batch_size())
            .with_reservation(memory)
            .build()
    }
}
