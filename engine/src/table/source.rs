//! The data source of a scan: DataFusion's own over sealed files, closed on two sides.
//!
//! Malformed ciphertext can make a Parquet decoder panic, and its errors may quote what they stumbled over. Here a panic
//! becomes an error, and errors become [`Error`]s of this module. The object store is reached by nothing but this
//! source: it is in no session's registry.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Statistics};
use datafusion::datasource::source::{DataSource, OpenArgs};
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::{
    EquivalenceProperties, LexOrdering, Partitioning, PhysicalExpr, PhysicalSortExpr,
};
use datafusion::physical_plan::execution_plan::SchedulingType;
use datafusion::physical_plan::filter_pushdown::FilterPushdownPropagation;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{DisplayFormatType, SortOrderPushdownResult};
use futures::Stream;
use object_store::ObjectStore;
use url::Url;

use super::Error;

/// A scan over sealed files.
#[derive(Clone)]
pub(crate) struct SealedSource {
    inner: Arc<dyn DataSource>,
    store: Arc<dyn ObjectStore>,
}

impl SealedSource {
    /// The name under which a scan asks for its store. It resolves here only.
    pub(crate) const URL: &'static str = "sealed://table/";

    pub(crate) fn new(inner: impl DataSource + 'static, store: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner: Arc::new(inner),
            store,
        }
    }

    fn around(&self, inner: Arc<dyn DataSource>) -> Arc<dyn DataSource> {
        Arc::new(Self {
            inner,
            store: Arc::clone(&self.store),
        })
    }

    /// The task's context, but with this scan's store and no other.
    fn context(&self, task: &TaskContext) -> Arc<TaskContext> {
        let mut runtime: RuntimeEnv = task.runtime_env().as_ref().clone();
        runtime.object_store_registry = Arc::new(OneStore(Arc::clone(&self.store)));
        Arc::new(TaskContext::new(
            task.task_id(),
            task.session_id(),
            task.session_config().clone(),
            task.scalar_functions().clone(),
            task.higher_order_functions().clone(),
            task.aggregate_functions().clone(),
            task.window_functions().clone(),
            Arc::new(runtime),
        ))
    }
}

impl fmt::Debug for SealedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedSource").finish_non_exhaustive()
    }
}

impl DataSource for SealedSource {
    fn open(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> datafusion::common::Result<SendableRecordBatchStream> {
        self.open_with_args(OpenArgs::new(partition, context))
    }

    fn open_with_args(
        &self,
        args: OpenArgs,
    ) -> datafusion::common::Result<SendableRecordBatchStream> {
        let context = self.context(&args.context);
        let inner = self
            .inner
            .open_with_args(OpenArgs { context, ..args })
            .map_err(closed)?;
        Ok(Box::pin(SealedStream {
            schema: inner.schema(),
            inner: Some(inner),
        }))
    }

    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Paths, predicates and statistics are nobody's business.
        f.write_str("sealed")
    }

    fn repartitioned(
        &self,
        target_partitions: usize,
        file_min_size: usize,
        ordering: Option<LexOrdering>,
    ) -> datafusion::common::Result<Option<Arc<dyn DataSource>>> {
        let inner = self
            .inner
            .repartitioned(target_partitions, file_min_size, ordering)?;
        Ok(inner.map(|inner| self.around(inner)))
    }

    fn output_partitioning(&self) -> Partitioning {
        self.inner.output_partitioning()
    }

    fn eq_properties(&self) -> EquivalenceProperties {
        self.inner.eq_properties()
    }

    fn scheduling_type(&self) -> SchedulingType {
        self.inner.scheduling_type()
    }

    fn partition_statistics(
        &self,
        partition: Option<usize>,
    ) -> datafusion::common::Result<Arc<Statistics>> {
        self.inner.partition_statistics(partition)
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn DataSource>> {
        self.inner.with_fetch(limit).map(|inner| self.around(inner))
    }

    fn fetch(&self) -> Option<usize> {
        self.inner.fetch()
    }

    fn metrics(&self) -> ExecutionPlanMetricsSet {
        self.inner.metrics()
    }

    fn try_swapping_with_projection(
        &self,
        projection: &ProjectionExprs,
    ) -> datafusion::common::Result<Option<Arc<dyn DataSource>>> {
        let inner = self.inner.try_swapping_with_projection(projection)?;
        Ok(inner.map(|inner| self.around(inner)))
    }

    fn try_pushdown_filters(
        &self,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        config: &ConfigOptions,
    ) -> datafusion::common::Result<FilterPushdownPropagation<Arc<dyn DataSource>>> {
        let pushed = self.inner.try_pushdown_filters(filters, config)?;
        Ok(FilterPushdownPropagation {
            filters: pushed.filters,
            updated_node: pushed.updated_node.map(|inner| self.around(inner)),
        })
    }

    fn try_pushdown_sort(
        &self,
        order: &[PhysicalSortExpr],
    ) -> datafusion::common::Result<SortOrderPushdownResult<Arc<dyn DataSource>>> {
        Ok(self
            .inner
            .try_pushdown_sort(order)?
            .map(|inner| self.around(inner)))
    }

    fn with_preserve_order(&self, preserve_order: bool) -> Option<Arc<dyn DataSource>> {
        self.inner
            .with_preserve_order(preserve_order)
            .map(|inner| self.around(inner))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> datafusion::common::Result<TreeNodeRecursion>,
    ) -> datafusion::common::Result<TreeNodeRecursion> {
        self.inner.apply_expressions(f)
    }

    fn with_new_state(&self, state: Arc<dyn Any + Send + Sync>) -> Option<Arc<dyn DataSource>> {
        self.inner
            .with_new_state(state)
            .map(|inner| self.around(inner))
    }

    fn create_sibling_state(&self, config: &ConfigOptions) -> Option<Arc<dyn Any + Send + Sync>> {
        self.inner.create_sibling_state(config)
    }
}

/// A registry that knows one store, whatever it is asked for, and takes no other.
#[derive(Debug)]
struct OneStore(Arc<dyn ObjectStore>);

impl ObjectStoreRegistry for OneStore {
    fn register_store(&self, _: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        Some(store)
    }

    fn get_store(&self, _: &Url) -> datafusion::common::Result<Arc<dyn ObjectStore>> {
        Ok(Arc::clone(&self.0))
    }
}

struct SealedStream {
    schema: SchemaRef,
    /// Gone after the end, an error or a panic.
    inner: Option<SendableRecordBatchStream>,
}

impl Stream for SealedStream {
    type Item = datafusion::common::Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        let polled = catch_unwind(AssertUnwindSafe(|| inner.as_mut().poll_next(context)))
            .unwrap_or_else(|_| Poll::Ready(Some(Err(undecodable()))));
        match polled {
            Poll::Ready(Some(Ok(batch))) => Poll::Ready(Some(Ok(batch))),
            Poll::Ready(end) => {
                self.inner = None;
                Poll::Ready(end.map(|outcome| outcome.map_err(closed)))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl RecordBatchStream for SealedStream {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

fn undecodable() -> DataFusionError {
    DataFusionError::External(Box::new(Error::Tampered {
        what: "a data file does not decode",
    }))
}

/// Finds this module's own error under what DataFusion and Parquet wrapped around it. What else comes out of decoding
/// means that authenticated bytes made no sense, or did not authenticate.
fn closed(error: DataFusionError) -> DataFusionError {
    match own(error) {
        Ok(own) => DataFusionError::External(own),
        Err(DataFusionError::ParquetError(_) | DataFusionError::ObjectStore(_)) => undecodable(),
        Err(DataFusionError::ArrowError(error, _))
            if matches!(
                *error,
                ArrowError::ParquetError(_) | ArrowError::ExternalError(_)
            ) =>
        {
            undecodable()
        }
        Err(other) => other,
    }
}

fn own(
    error: DataFusionError,
) -> Result<Box<dyn std::error::Error + Send + Sync>, DataFusionError> {
    use parquet::errors::ParquetError;
    match error {
        DataFusionError::External(inner) if inner.is::<Error>() => Ok(inner),
        DataFusionError::Context(_, inner) => own(*inner),
        DataFusionError::ParquetError(inner) => match *inner {
            ParquetError::External(inner) if inner.is::<Error>() => Ok(inner),
            other => Err(DataFusionError::ParquetError(Box::new(other))),
        },
        DataFusionError::ArrowError(inner, context) => match *inner {
            ArrowError::ExternalError(inner) if inner.is::<Error>() => Ok(inner),
            other => Err(DataFusionError::ArrowError(Box::new(other), context)),
        },
        other => Err(other),
    }
}
