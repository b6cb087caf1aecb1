//! The leaf of every client's plan: stored rows in, what the caller may see out.
//!
//! ```text
//! source ──▶ the tenant's rows, asserted ──▶ row policy ──▶ values put back, masks ──▶ requested columns
//! ```
//! Invariant: to every rule that rewrites a plan this is a leaf without children, expressions, statistics of columns or
//! a way to take a filter or a projection. What runs inside is decided when it is made. A limit it takes: of rows that
//! the caller sees, never of rows that a policy has yet to judge.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use catalog::policy::RowRule;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{
    EquivalenceProperties, Partitioning, PhysicalExpr, PhysicalSortExpr,
};
use datafusion::physical_plan::execution_plan::{
    Boundedness, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::limit::LimitStream;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet};
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};

use super::error::Error;
use super::evolving::Upcasts;
use super::explain::guard_line;
use super::masking::ColumnMask;
use super::rows::RowFilter;
use super::sanitize;
use super::shape::Shape;
use super::shown::shown;
use super::source::{Layout, RecordSource};
use super::table_name::TableName;
use super::viewer::{TENANT, View, Viewer};

/// What a scan reads and how its columns are made from it.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    /// The stored columns to read, the tenant's first.
    pub(super) stored: Vec<usize>,
    /// The columns to show, in order.
    shown: Vec<ShownColumn>,
    /// Their schema.
    schema: SchemaRef,
    /// What old rows go through first, if a shown column needs it.
    upcasts: Option<Arc<Upcasts>>,
    /// Which rows are shown, if not all.
    rows: Option<RowFilter>,
}

#[derive(Debug, Clone)]
struct ShownColumn {
    /// Where its values stand among the stored columns that are read.
    read: usize,
    mask: ColumnMask,
}

impl Parts {
    /// What it takes to show these columns of a view. Nothing else is read: a masked column that nobody asks for costs
    /// nothing.
    pub(super) fn for_columns(
        view: &View,
        stored: &Schema,
        shown: &[usize],
        rows: Option<RowFilter>,
    ) -> Result<Self, Error> {
        let tenant = stored.index_of(TENANT).map_err(|_| Error::Internal)?;
        let mut parts = Self {
            stored: vec![tenant],
            shown: Vec::with_capacity(shown.len()),
            schema: Arc::new(view.schema.project(shown).map_err(|_| Error::Internal)?),
            upcasts: None,
            rows: None,
        };
        for index in shown {
            let column = view.columns.get(*index).ok_or(Error::Internal)?;
            let read = parts.read(column.stored);
            for needed in column.mask.needs() {
                parts.read(needed);
            }
            if column.mask.evolves() && parts.upcasts.is_none() {
                parts.upcasts.clone_from(&view.upcasts);
                for needed in view.upcasts.iter().flat_map(|upcasts| upcasts.needs()) {
                    parts.read(needed);
                }
            }
            parts.shown.push(ShownColumn {
                read,
                mask: column.mask.clone(),
            });
        }
        for needed in rows.iter().flat_map(RowFilter::needs) {
            parts.read(needed);
        }
        parts.rows = rows;
        Ok(parts)
    }

    /// The place of a stored column among those that are read; it is read from now on.
    fn read(&mut self, stored: usize) -> usize {
        if let Some(place) = self.stored.iter().position(|read| *read == stored) {
            return place;
        }
        self.stored.push(stored);
        self.stored.len() - 1
    }

    /// Which rows are shown, if not all.
    pub(super) fn rows(&self) -> Option<&RowFilter> {
        self.rows.as_ref()
    }

    /// The columns to show.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The rows that the caller may know of.
    pub(super) fn visible(&self, batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
        let Some(rows) = &self.rows else {
            return Ok(batch);
        };
        let kept = rows.keeps(batch.num_rows(), &|index| self.stored(&batch, index))?;
        filter_record_batch(&batch, &kept)
    }

    /// Where a column that is read is shown as it is stored.
    fn place_of(&self, read: usize) -> Option<usize> {
        let is_it = |column: &ShownColumn| column.read == read && column.mask.is_clear();
        self.shown.iter().position(is_it)
    }

    /// A stored column of a batch that was read.
    fn stored<'a>(&self, batch: &'a RecordBatch, index: usize) -> Result<&'a ArrayRef, ArrowError> {
        let place = self.stored.iter().position(|read| *read == index);
        place
            .and_then(|place| batch.columns().get(place))
            .ok_or_else(|| ArrowError::SchemaError("a column that was not read".to_owned()))
    }

    /// Names of the shown columns that are not as they were sent.
    fn masked(&self) -> Vec<&str> {
        let shown = self.shown.iter().zip(self.schema.fields());
        shown
            .filter(|(column, _)| !column.mask.shows_all())
            .map(|(_, field)| field.name().as_str())
            .collect()
    }

    /// Whether it takes work to show a row.
    pub(super) fn is_masked(&self) -> bool {
        self.shown.iter().any(|column| !column.mask.is_clear())
    }

    /// The batch that the caller sees.
    pub(super) fn show(&self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let lost = || ArrowError::SchemaError("a column that was not read".to_owned());
        let stored = |index: usize| self.stored(batch, index);
        let upcast = self.upcasts.as_ref();
        let upcast = upcast.map(|upcasts| upcasts.rows(&stored)).transpose()?;
        let mut columns = Vec::with_capacity(self.shown.len());
        for column in &self.shown {
            let values = batch.columns().get(column.read).ok_or_else(lost)?;
            columns.push(column.mask.apply(values, &stored, upcast.as_ref())?);
        }
        let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &rows)
    }
}

/// A column of a scan, for verifiers.
pub(super) struct Shows<'a> {
    /// What it is called.
    pub(super) name: &'a str,
    /// The stored column whose values it shows.
    pub(super) stored: Option<&'a str>,
    /// What is done to them.
    pub(super) mask: &'a ColumnMask,
}

/// A guarded scan.
pub(crate) struct GuardedScanExec {
    viewer: Arc<Viewer>,
    table: TableName,
    source: Arc<dyn RecordSource>,
    inner: Arc<dyn ExecutionPlan>,
    parts: Arc<Parts>,
    /// Under a row policy.
    shape: Option<Arc<Shape>>,
    is_filtered: bool,
    /// How many rows of each partition are wanted, if not all.
    fetch: Option<usize>,
    properties: Arc<PlanProperties>,
}

impl GuardedScanExec {
    /// Wraps the plan of a source, made for so many partitions. It must give the stored columns that the parts read, type
    /// for type.
    pub(super) fn new(
        viewer: Arc<Viewer>,
        (table, source): (TableName, Arc<dyn RecordSource>),
        (inner, partitions): (Arc<dyn ExecutionPlan>, usize),
        parts: Parts,
        is_filtered: bool,
    ) -> Result<Self> {
        let stored = source.schema();
        let promised = stored.project(&parts.stored).map_err(|_| Error::Internal)?;
        let given = inner.schema();
        let fits = promised.fields().len() == given.fields().len()
            && promised
                .fields()
                .iter()
                .zip(given.fields())
                .all(|(promised, given)| {
                    promised.name() == given.name() && promised.data_type() == given.data_type()
                });
        if !fits {
            tracing::error!(%table, "a source gave other columns than it promised");
            return Err(Error::Internal.into());
        }
        let shape = match &parts.rows {
            Some(_) => {
                let is_told = |read| parts.place_of(read).is_some();
                Some(Shape::new(partitions, &inner, is_told)?)
            }
            None => None,
        };
        let inner = match &shape {
            Some(shape) => shape.ordered(inner)?,
            None => inner,
        };
        let properties = Arc::new(properties(&inner, &parts, shape.as_ref()));
        Ok(Self {
            viewer,
            table,
            source,
            inner,
            parts: Arc::new(parts),
            shape: shape.map(Arc::new),
            is_filtered,
            fetch: None,
            properties,
        })
    }

    /// The same scan over this inner plan.
    fn over(&self, inner: Arc<dyn ExecutionPlan>, fetch: Option<usize>) -> Self {
        Self {
            viewer: Arc::clone(&self.viewer),
            table: self.table,
            source: Arc::clone(&self.source),
            inner,
            parts: Arc::clone(&self.parts),
            shape: self.shape.clone(),
            is_filtered: self.is_filtered,
            fetch,
            properties: Arc::clone(&self.properties),
        }
    }

    /// The context to read in. Who wants a few rows does not wait for many to be decoded; where most rows may be of no
    /// use, smaller batches than these would cost more than they save.
    fn reading(&self, context: Arc<TaskContext>) -> Arc<TaskContext> {
        let Some(fetch) = self.fetch else {
            return context;
        };
        let is_selective = self.is_filtered || self.parts.rows.is_some();
        let rows_min = if is_selective { 1_024 } else { 128 };
        let config = context.session_config();
        let rows = config.batch_size().min(fetch.max(rows_min));
        let config = config.clone().with_batch_size(rows);
        Arc::new(TaskContext::new(
            context.task_id(),
            context.session_id(),
            config,
            // Reading calls no function by its name.
            HashMap::new(),
            HashMap::new(),
            HashMap::new(),
            HashMap::new(),
            context.runtime_env(),
        ))
    }

    /// Under which decision it was made.
    pub(crate) fn decision_id(&self) -> [u8; 32] {
        self.viewer.decision().id
    }

    pub(crate) fn table(&self) -> TableName {
        self.table
    }

    /// Whose rows it shows.
    pub(super) fn tenant(&self) -> &str {
        self.viewer.tenant()
    }

    /// The stored column by which it knows whose a row is.
    pub(super) fn told_apart_by(&self) -> Option<&str> {
        self.stored_name(0)
    }

    /// The columns that it shows.
    pub(super) fn shows(&self) -> impl Iterator<Item = Shows<'_>> {
        let shown = self.parts.shown.iter().zip(self.parts.schema.fields());
        shown.map(|(column, field)| Shows {
            name: field.name(),
            stored: self.stored_name(column.read),
            mask: &column.mask,
        })
    }

    fn stored_name(&self, read: usize) -> Option<&str> {
        let stored = self.inner.properties().eq_properties.schema().fields();
        stored.get(read).map(|field| field.name().as_str())
    }

    /// The row policy that it enforces, if any.
    pub(crate) fn row_rule(&self) -> Option<&Arc<RowRule>> {
        self.parts.rows.as_ref().map(RowFilter::rule)
    }

    /// Rows, if their number is known and nothing of it depends on what the caller does not see.
    fn row_count(&self, args: &StatisticsArgs) -> Precision<usize> {
        let is_less = self.is_filtered || self.parts.rows.is_some() || self.fetch.is_some();
        if is_less || self.source.layout() != Layout::OneTenant {
            return Precision::Absent;
        }
        let counted = StatisticsContext::new().compute(self.inner.as_ref(), args);
        match counted.map(|statistics| statistics.num_rows) {
            Ok(Precision::Exact(rows)) => Precision::Exact(rows),
            _ => Precision::Absent,
        }
    }
}

/// Partitions and order of what is shown: of the order, as much as stands on columns that are shown as they are stored.
fn properties(
    inner: &Arc<dyn ExecutionPlan>,
    parts: &Parts,
    shape: Option<&Shape>,
) -> PlanProperties {
    let shown_as = |read: usize| {
        let place = parts.place_of(read)?;
        let field = parts.schema.fields().get(place)?;
        Some(Arc::new(Column::new(field.name(), place)) as Arc<dyn PhysicalExpr>)
    };
    let (order, partitions) = match shape {
        Some(shape) => (shape.order(), shape.partitions()),
        None => {
            let partitions = inner.output_partitioning().partition_count();
            (inner.output_ordering(), partitions)
        }
    };
    let order = order.into_iter().flatten();
    let order: Vec<PhysicalSortExpr> = order
        .map_while(|key| {
            let column = (key.expr.as_ref() as &dyn std::any::Any).downcast_ref::<Column>()?;
            let shown = shown_as(column.index())?;
            Some(PhysicalSortExpr::new(shown, key.options))
        })
        .collect();
    PlanProperties::new(
        EquivalenceProperties::new_with_orderings(Arc::clone(&parts.schema), [order]),
        Partitioning::UnknownPartitioning(partitions),
        EmissionType::Incremental,
        Boundedness::Bounded,
    )
}

impl ExecutionPlan for GuardedScanExec {
    fn name(&self) -> &str {
        "GuardedScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn replace_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(
        self: Arc<Self>,
        _children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        let inner = Arc::clone(&self.inner).reset_state()?;
        Ok(Arc::new(self.over(inner, self.fetch)))
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        // A planner that takes a limit back has put it elsewhere.
        let fetch = limit.map(|limit| self.fetch.map_or(limit, |own| own.min(limit)));
        Some(Arc::new(self.over(Arc::clone(&self.inner), fetch)))
    }

    fn fetch(&self) -> Option<usize> {
        self.fetch
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn statistics_from_inputs(
        &self,
        _input_stats: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.schema());
        statistics.num_rows = self.row_count(args);
        Ok(Arc::new(statistics))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        // A plan that was kept must not run for anyone else.
        let session = context.session_config().get_extension::<Viewer>();
        if session.is_none_or(|session| session.decision().id != self.decision_id()) {
            tracing::error!("a guarded scan was executed in a session of another decision");
            return Err(Error::Internal.into());
        }
        let context = self.reading(context);
        let rows = match &self.shape {
            Some(shape) => shape.rows(&self.inner, partition, &context),
            None => self.inner.execute(partition, context),
        };
        let rows = rows.map_err(|error| sanitize::scan(&error))?;
        let (viewer, parts) = (Arc::clone(&self.viewer), Arc::clone(&self.parts));
        let shown = shown(rows, viewer, parts, self.source.layout());
        Ok(match self.fetch {
            Some(_) => {
                let metrics = BaselineMetrics::new(&ExecutionPlanMetricsSet::new(), partition);
                Box::pin(LimitStream::new(shown, 0, self.fetch, metrics))
            }
            None => shown,
        })
    }
}

impl DisplayAs for GuardedScanExec {
    fn fmt_as(&self, _t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guard = guard_line(&self.viewer, self.table, &self.parts.masked());
        match self.fetch {
            Some(fetch) => write!(f, "{guard} fetch={fetch}"),
            None => write!(f, "{guard}"),
        }
    }
}

impl fmt::Debug for GuardedScanExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedScanExec")
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}
