//! The same table in a session of DataFusion's own, without a guard: nothing is verified, masked or withheld.
//!
//! What it has in common with a guarded session, so that the guards are all that is different: the table is looked up at
//! its newest version when a statement names it, the same code prunes its files and builds the scan over them, the columns
//! are those that the caller of the guarded session sees, and as many streams are wanted.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{
    CatalogProvider, MemoryCatalogProvider, SchemaProvider, Session, TableProvider,
};
use datafusion::common::DFSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::config::SessionConfig;
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use engine::query::Limits;
use engine::table::{ScanRequest, Table, TableState};

use crate::world::TENANT;

const SCHEMA: &str = "audit";
const RECORDS: &str = "records";

/// A session with everything that DataFusion gives one, made once for all statements.
pub(crate) struct BareSession(SessionContext);

impl BareSession {
    /// Over these columns of a table.
    #[expect(
        clippy::disallowed_methods,
        reason = "what sessions of the product are compared with"
    )]
    pub(crate) fn new(table: Arc<Table>, state: &TableState, seen: &SchemaRef) -> Self {
        let config = SessionConfig::new()
            .with_default_catalog_and_schema(TENANT, SCHEMA)
            .with_create_default_catalog_and_schema(false)
            .with_target_partitions(Limits::default().target_partitions);
        let session = SessionContext::new_with_config(config);
        let columns = seen.fields().iter();
        let columns = columns.map(|field| state.schema.index_of(field.name()).unwrap());
        let columns: Arc<[usize]> = columns.collect();
        let schema = Arc::new(state.schema.project(&columns).unwrap());
        let catalog = MemoryCatalogProvider::new();
        let tables = Arc::new(OneTable {
            table,
            schema,
            columns,
        });
        catalog.register_schema(SCHEMA, tables).unwrap();
        session.register_catalog(TENANT, Arc::new(catalog));
        Self(session)
    }

    /// From the text to the plan that would run.
    #[expect(
        clippy::disallowed_methods,
        reason = "what planning of the product is compared with"
    )]
    pub(crate) async fn plan(&self, sql: &str) -> Result<Arc<dyn ExecutionPlan>> {
        self.0.sql(sql).await?.create_physical_plan().await
    }
}

#[derive(Debug)]
struct OneTable {
    table: Arc<Table>,
    schema: SchemaRef,
    columns: Arc<[usize]>,
}

#[async_trait]
impl SchemaProvider for OneTable {
    fn table_names(&self) -> Vec<String> {
        vec![RECORDS.to_owned()]
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if name != RECORDS {
            return Ok(None);
        }
        Ok(Some(Arc::new(BareTable {
            table: Arc::clone(&self.table),
            state: self.table.state().await.map_err(external)?,
            schema: Arc::clone(&self.schema),
            columns: Arc::clone(&self.columns),
        })))
    }

    fn table_exist(&self, name: &str) -> bool {
        name == RECORDS
    }
}

#[derive(Debug)]
struct BareTable {
    table: Arc<Table>,
    state: Arc<TableState>,
    schema: SchemaRef,
    columns: Arc<[usize]>,
}

#[async_trait]
impl TableProvider for BareTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let stored = DFSchema::try_from(Arc::clone(&self.state.schema))?;
        let predicate = conjunction(filters.iter().cloned())
            .map(|filter| session.create_physical_expr(filter, &stored))
            .transpose()?;
        let projection = match projection {
            Some(wanted) => wanted.iter().map(|&column| self.columns[column]).collect(),
            None => self.columns.to_vec(),
        };
        let request = ScanRequest {
            projection,
            predicate,
            target_partitions: session.config().target_partitions(),
        };
        let scan = self.table.scan(Arc::clone(&self.state), request).await;
        scan.map_err(external)
    }
}

fn external(error: engine::table::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
