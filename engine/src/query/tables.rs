//! What a session can name: one catalog, its tenant's, with the tables that the decision allows.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::error::DataFusionError;
use tokio::sync::Mutex;

use super::error::Error;
use super::guarded::GuardedTable;
use super::information::InformationSchema;
use super::source::Sources;
use super::table_name::{AUDIT, INFORMATION_SCHEMA, TableName};
use super::viewer::Viewer;

/// The tables of one session. A table is opened when it is first named, and stays at that version: a statement that
/// names it twice sees it once.
pub(crate) struct SessionTables {
    viewer: Arc<Viewer>,
    sources: Arc<dyn Sources>,
    open: Mutex<BTreeMap<TableName, Arc<GuardedTable>>>,
}

impl SessionTables {
    pub(crate) fn new(viewer: Arc<Viewer>, sources: Arc<dyn Sources>) -> Self {
        Self {
            viewer,
            sources,
            open: Mutex::new(BTreeMap::new()),
        }
    }

    pub(crate) fn viewer(&self) -> &Arc<Viewer> {
        &self.viewer
    }

    /// The table as the caller sees it. For a table that is not in the session there is no such table.
    pub(crate) async fn guarded(&self, table: TableName) -> Result<Arc<GuardedTable>, Error> {
        if !self.viewer.may_see(table) {
            return Err(Error::invalid(format!("there is no table {table}")));
        }
        let mut open = self.open.lock().await;
        if let Some(guarded) = open.get(&table) {
            return Ok(Arc::clone(guarded));
        }
        let source = self.sources.open(table).await?;
        let guarded = Arc::new(GuardedTable::new(Arc::clone(&self.viewer), table, source));
        open.insert(table, Arc::clone(&guarded));
        Ok(guarded)
    }

    /// The table that the parts of a name resolve to.
    pub(crate) fn resolve(&self, parts: &[String]) -> Result<TableName, Error> {
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let table = match parts.as_slice() {
            [table] | [AUDIT, table] | [_, AUDIT, table] => TableName::parse(table),
            _ => None,
        };
        let seen = table.filter(|table| self.viewer.may_see(*table));
        seen.ok_or_else(|| Error::invalid(format!("there is no table {}", parts.join("."))))
    }
}

impl fmt::Debug for SessionTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionTables").finish_non_exhaustive()
    }
}

/// The catalogs of a session: one.
#[derive(Debug)]
pub(super) struct OneCatalog(pub(super) Arc<SessionTables>);

impl CatalogProviderList for OneCatalog {
    fn register_catalog(
        &self,
        _name: String,
        _catalog: Arc<dyn CatalogProvider>,
    ) -> Option<Arc<dyn CatalogProvider>> {
        tracing::error!("something tried to add a catalog to a session");
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![self.0.viewer().tenant().to_owned()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        let is_own = name.eq_ignore_ascii_case(self.0.viewer().tenant());
        is_own.then(|| Arc::new(TenantCatalog(Arc::clone(&self.0))) as Arc<dyn CatalogProvider>)
    }
}

#[derive(Debug)]
struct TenantCatalog(Arc<SessionTables>);

impl CatalogProvider for TenantCatalog {
    fn schema_names(&self) -> Vec<String> {
        vec![AUDIT.to_owned(), INFORMATION_SCHEMA.to_owned()]
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        match name {
            AUDIT => Some(Arc::new(AuditSchema(Arc::clone(&self.0)))),
            INFORMATION_SCHEMA => Some(Arc::new(InformationSchema::new(Arc::clone(&self.0)))),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct AuditSchema(Arc<SessionTables>);

#[async_trait]
impl SchemaProvider for AuditSchema {
    fn table_names(&self) -> Vec<String> {
        let tables = self.0.viewer().tables().into_iter();
        tables.map(|table| table.as_str().to_owned()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        match TableName::parse(name).filter(|table| self.0.viewer().may_see(*table)) {
            Some(table) => Ok(Some(self.0.guarded(table).await?)),
            None => Ok(None),
        }
    }

    fn table_exist(&self, name: &str) -> bool {
        TableName::parse(name).is_some_and(|table| self.0.viewer().may_see(table))
    }
}
