//! A table as one caller sees it: the only table provider over records that a session holds.
//!
//! Invariant: nothing of a client's reaches storage but a predicate that cannot fail, over columns that the caller sees
//! exactly as they are stored. The plan it returns is a leaf: what lies behind is not in any tree that a rule rewrites.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType, col, lit};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion::physical_plan::ExecutionPlan;

use super::error::Error;
use super::guarded_exec::{GuardedScanExec, Parts};
use super::leakproof::below_the_guard;
use super::rows::RowFilter;
use super::source::{Layout, RawScan, RecordSource};
use super::table_name::TableName;
use super::viewer::{TENANT, View, Viewer};

/// One table, one caller, one version of the data.
pub(crate) struct GuardedTable {
    viewer: Arc<Viewer>,
    table: TableName,
    source: Arc<dyn RecordSource>,
    view: Arc<View>,
}

impl GuardedTable {
    /// The table behind `source` as `viewer` sees it.
    pub(super) fn new(
        viewer: Arc<Viewer>,
        table: TableName,
        source: Arc<dyn RecordSource>,
    ) -> Self {
        let view = Arc::new(viewer.view(table, &source.schema()));
        Self {
            viewer,
            table,
            source,
            view,
        }
    }

    /// Under which decision it was made.
    pub(crate) fn decision_id(&self) -> [u8; 32] {
        self.viewer.decision().id
    }

    pub(crate) fn table(&self) -> TableName {
        self.table
    }

    /// Which version of the table it shows.
    pub(crate) fn version(&self) -> u64 {
        self.source.version()
    }

    /// The columns as the caller sees them.
    pub(crate) fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// What of a filter may be evaluated on stored rows.
    fn below(&self, filter: &Expr) -> Option<Expr> {
        below_the_guard(filter, |name| {
            let is_stored_as_seen = self.view.mask_of(name)?.is_clear();
            let field = self.view.schema.field_with_name(name).ok()?;
            is_stored_as_seen.then(|| field.data_type().clone())
        })
    }

    /// The rows to ask storage for: the tenant's, and of those the ones that the row policy may show and that the client's
    /// leakproof filters want.
    fn predicate(
        &self,
        rows: Option<&RowFilter>,
        filters: &[Expr],
    ) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        let schema = DFSchema::try_from(self.source.schema())?;
        let tenant = match self.source.layout() {
            Layout::OneTenant => None,
            Layout::Mixed => Some(col(TENANT).eq(lit(self.viewer.tenant()))),
        };
        let wanted = filters.iter().filter_map(|filter| self.below(filter));
        let visible = rows.into_iter().flat_map(RowFilter::pruning);
        let predicate = tenant.into_iter().chain(visible).chain(wanted);
        let predicate = predicate.reduce(Expr::and);
        predicate
            .map(|predicate| {
                create_physical_expr(
                    &predicate,
                    &schema,
                    &ExecutionProps::new(),
                    &PhysicalPlanningContext::default(),
                )
            })
            .transpose()
    }
}

#[async_trait]
impl TableProvider for GuardedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.view.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        // Never exact: the filter stays above the guard, on what the caller sees, and the copy below only prunes.
        let taken = filters.iter().map(|filter| {
            if self.below(filter).is_some() {
                TableProviderFilterPushDown::Inexact
            } else {
                TableProviderFilterPushDown::Unsupported
            }
        });
        Ok(taken.collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let session = state.config().get_extension::<Viewer>();
        if session.is_none_or(|session| session.decision().id != self.decision_id()) {
            tracing::error!("a guarded table was scanned in a session of another decision");
            return Err(Error::Internal.into());
        }
        let shown: Vec<usize> = match projection {
            Some(projection) => projection.clone(),
            None => (0..self.view.columns.len()).collect(),
        };
        let stored = self.source.schema();
        let rows = RowFilter::of(self.viewer.decision(), self.table, &stored)?;
        let parts = Parts::for_columns(&self.view, &stored, &shown, rows)?;
        let partitions = state.config().target_partitions();
        let raw = RawScan {
            projection: parts.stored.clone(),
            predicate: self.predicate(parts.rows(), filters)?,
            target_partitions: partitions,
        };
        let inner = self.source.scan(raw).await?;
        let is_filtered = filters.iter().any(|filter| self.below(filter).is_some());
        let guarded = GuardedScanExec::new(
            Arc::clone(&self.viewer),
            (self.table, Arc::clone(&self.source)),
            (inner, partitions),
            parts,
            is_filtered,
        )?;
        Ok(Arc::new(guarded))
    }
}

impl fmt::Debug for GuardedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedTable")
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}
