//! The seam between a guarded scan and what it reads.
//!
//! Two implementations: the encrypted tables, and the rows in memory with which the tests lay out what no table of ours
//! ever holds, rows of several tenants in one file.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;

use super::error::Error;
use super::table_name::TableName;

/// Stored rows, fixed at one version of their table for the time of a request.
#[async_trait]
pub(crate) trait RecordSource: fmt::Debug + Send + Sync {
    /// The stored columns, hidden ones included.
    fn schema(&self) -> SchemaRef;

    /// Which version of the table it is.
    fn version(&self) -> u64;

    /// Whether rows of other tenants can be among them.
    fn layout(&self) -> Layout;

    /// A plan that reads at least the rows that match the predicate, with these columns in this order and the types of
    /// the stored schema. It brings what it takes to run: nothing of a session's.
    async fn scan(&self, scan: RawScan) -> Result<Arc<dyn ExecutionPlan>, Error>;
}

/// What to read.
#[derive(Debug)]
pub(crate) struct RawScan {
    /// Columns of the stored schema.
    pub(crate) projection: Vec<usize>,
    /// A predicate over the stored schema, for pruning.
    pub(crate) predicate: Option<Arc<dyn PhysicalExpr>>,
    /// Streams to read in.
    pub(crate) target_partitions: usize,
}

/// What a source promises about the tenants of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// One tenant's: a row of another is a fault, and stops the query.
    OneTenant,
    /// Rows of several tenants: those of others are left out.
    #[cfg_attr(
        not(test),
        expect(
            dead_code,
            reason = "the layout of tests, and of shared tables to come"
        )
    )]
    Mixed,
}

/// Where the tables of a session come from.
#[async_trait]
pub(crate) trait Sources: fmt::Debug + Send + Sync {
    /// The caller's table of this name, as it is now.
    async fn open(&self, table: TableName) -> Result<Arc<dyn RecordSource>, Error>;
}
