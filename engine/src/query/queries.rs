//! What the rest of the product asks for: a permit and a statement in, a verified plan out.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use catalog::clock::Clock;
use catalog::guard::{Decision, Permit, Read};
use catalog::keys::{KeyError, SecretKey, TenantSecret};
use catalog::policy::MaskRule;
use datafusion::common::ParamValues;
use datafusion::physical_plan::ExecutionPlan;

use super::error::Error;
use super::limits::Limits;
use super::planning::{Described, Planning};
use super::run::VerifiedPlan;
use super::source::{Layout, RawScan, RecordSource, Sources};
use super::table_name::{AUDIT, TableName};
use super::tables::SessionTables;
use super::viewer::Viewer;
use crate::table::{self, ScanRequest, Table, TableKind, TableState, Tables};

/// Queries over the tables of a process.
pub struct Queries {
    tables: Arc<Tables>,
    clock: Arc<dyn Clock>,
    limits: Limits,
}

/// A table in a caller's session.
#[derive(Debug, Clone)]
pub struct VisibleTable {
    /// Its schema in SQL.
    pub schema: String,
    /// Its name within the schema.
    pub name: String,
    /// What it is, in the words of Flight SQL.
    pub kind: String,
    /// The columns that the caller sees, with the types after masking.
    pub columns: SchemaRef,
}

impl Queries {
    /// Queries within these limits.
    pub fn new(tables: Arc<Tables>, clock: Arc<dyn Clock>, limits: Limits) -> Self {
        Self {
            tables,
            clock,
            limits,
        }
    }

    /// Says what a statement answers with and which parameters it takes.
    ///
    /// # Errors
    /// When the statement would not be planned whatever its parameters are.
    pub async fn describe(&self, permit: &Permit<Read>, sql: &str) -> Result<Described, Error> {
        self.planning(permit.decision()).await?.describe(sql).await
    }

    /// Plans a statement for the caller of a permit.
    ///
    /// # Errors
    /// When any gate refuses it. A [`Error::Denied`] is the caller's to put into evidence.
    pub async fn plan(
        &self,
        permit: &Permit<Read>,
        sql: &str,
        parameters: Option<ParamValues>,
    ) -> Result<VerifiedPlan, Error> {
        let decision = permit.decision();
        let planning = self.planning(decision).await?;
        let planned = planning.plan(sql, parameters).await?;
        Ok(VerifiedPlan::new(
            planned,
            Arc::clone(decision),
            permit.receipt(),
            Arc::clone(&self.clock),
            self.limits.deadline,
        ))
    }

    /// The tables that the caller of a permit can name.
    ///
    /// # Errors
    /// When one of them cannot be opened.
    pub async fn tables(&self, permit: &Permit<Read>) -> Result<Vec<VisibleTable>, Error> {
        let session = self.session(permit.decision()).await?;
        let mut visible = Vec::new();
        for table in session.viewer().tables() {
            let guarded = session.guarded(table).await?;
            visible.push(VisibleTable {
                schema: AUDIT.to_owned(),
                name: table.as_str().to_owned(),
                kind: "TABLE".to_owned(),
                columns: Arc::clone(&guarded.view().schema),
            });
        }
        Ok(visible)
    }

    async fn planning(&self, decision: &Arc<Decision>) -> Result<Planning, Error> {
        Ok(Planning {
            tables: Arc::new(self.session(decision).await?),
            limits: self.limits.clone(),
            now: self.clock.now(),
        })
    }

    async fn session(&self, decision: &Arc<Decision>) -> Result<SessionTables, Error> {
        let hash = self.secret(decision, MaskRule::Hash, TenantSecret::Hash);
        let token = self.secret(decision, MaskRule::Token, TenantSecret::Token);
        let viewer = Viewer::new(Arc::clone(decision), hash.await?, token.await?);
        let sources = StoredTables {
            tables: Arc::clone(&self.tables),
            decision: Arc::clone(decision),
        };
        Ok(SessionTables::new(Arc::new(viewer), Arc::new(sources)))
    }

    /// The tenant's secret for a kind of mask, if the profile has one of that kind.
    async fn secret(
        &self,
        decision: &Decision,
        rule: MaskRule,
        secret: TenantSecret,
    ) -> Result<Option<Arc<SecretKey>>, Error> {
        let used = decision.profile.fields.values().any(|used| *used == rule);
        if !used {
            return Ok(None);
        }
        let keys = self.tables.keys();
        let key = keys
            .tenant_secret(&decision.tenant, &decision.silo, secret)
            .await?;
        Ok(Some(key))
    }
}

impl fmt::Debug for Queries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queries")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// The encrypted tables of the tenant of one decision, in the silo it was decided for.
#[derive(Debug)]
struct StoredTables {
    tables: Arc<Tables>,
    decision: Arc<Decision>,
}

#[async_trait]
impl Sources for StoredTables {
    async fn open(&self, name: TableName) -> Result<Arc<dyn RecordSource>, Error> {
        let kind = match name {
            TableName::Records => TableKind::Records,
            TableName::Evidence => TableKind::Evidence,
            TableName::Quarantine => TableKind::Quarantine,
        };
        let (tenant, silo) = (&self.decision.tenant, &self.decision.silo);
        let table = self.tables.table(tenant, silo, kind).await?;
        let state = table.state().await?;
        Ok(Arc::new(PinnedTable { table, state }))
    }
}

/// A table at one version.
#[derive(Debug)]
struct PinnedTable {
    table: Arc<Table>,
    state: Arc<TableState>,
}

#[async_trait]
impl RecordSource for PinnedTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.state.schema)
    }

    /// A file of another tenant would not decrypt: its key and its place are bound to the tenant.
    fn layout(&self) -> Layout {
        Layout::OneTenant
    }

    async fn scan(&self, scan: RawScan) -> Result<Arc<dyn ExecutionPlan>, Error> {
        let request = ScanRequest {
            projection: scan.projection,
            predicate: scan.predicate,
            target_partitions: scan.target_partitions,
        };
        Ok(self.table.scan(Arc::clone(&self.state), request).await?)
    }
}

impl From<table::Error> for Error {
    fn from(error: table::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&table::Error> for Error {
    fn from(error: &table::Error) -> Self {
        match error {
            table::Error::KeyUnavailable(_) => Self::KeyUnavailable,
            table::Error::Unavailable { .. } | table::Error::Conflict => Self::Unavailable,
            table::Error::Tampered { what } => {
                tracing::error!(what, "a table failed a check");
                Self::Internal
            }
            table::Error::Malformed { what } => {
                tracing::error!(what, "a table refused a request of the query engine");
                Self::Internal
            }
        }
    }
}

impl From<KeyError> for Error {
    fn from(_error: KeyError) -> Self {
        Self::KeyUnavailable
    }
}
