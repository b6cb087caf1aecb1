//! What the rest of the product asks for: a permit and a statement in, a verified plan out.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use catalog::clock::Clock;
use catalog::guard::{Decision, Permit, Read};
use catalog::keys::{KeyError, RootSecret, SecretKey, TenantSecret};
use catalog::policy::MaskRule;
use catalog::schema::{self, Schemas};
use datafusion::common::ParamValues;
use datafusion::physical_plan::ExecutionPlan;
use tokio::sync::OnceCell;

use super::about::{self, About};
use super::answering::{AnswerStream, Further, answering};
use super::error::Error;
use super::limits::Limits;
use super::planning::{Described, Planning};
use super::resources::{Resources, Usage};
use super::reuse::Reuse;
use super::run::VerifiedPlan;
use super::segments::{KnownSeals, Segments};
use super::source::{Layout, RawScan, RecordSource, Sources};
use super::table_name::{AUDIT, TableName};
use super::tables::SessionTables;
use super::viewer::Viewer;
use crate::receipt::Receipts;
use crate::record::evolve::Evolution;
use crate::table::{self, ScanRequest, Table, TableKind, TableState, Tables};

/// Queries over the tables of a process.
pub struct Queries {
    tables: Arc<Tables>,
    seals: Arc<KnownSeals>,
    schemas: Arc<Schemas>,
    receipts: Arc<Receipts>,
    /// What the names that stand for the versions of tables are keyed with.
    root: Arc<RootSecret>,
    clock: Arc<dyn Clock>,
    limits: Limits,
    resources: Arc<Resources>,
    reuse: Arc<Reuse>,
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
    /// What they are, one by one.
    pub about: Vec<About>,
}

impl VisibleTable {
    /// The table that records are appended to, as whoever may only append is told of it: what it has for every tenant.
    #[must_use]
    pub fn appendable() -> Self {
        let (columns, about) = about::appendable();
        Self {
            schema: AUDIT.to_owned(),
            name: TableName::Records.as_str().to_owned(),
            kind: "TABLE".to_owned(),
            columns,
            about,
        }
    }
}

impl Queries {
    /// Queries, each within these limits and all of them on these resources, whose answers have their receipts kept.
    pub fn new(
        tables: Arc<Tables>,
        schemas: Arc<Schemas>,
        (receipts, root): (Arc<Receipts>, Arc<RootSecret>),
        clock: Arc<dyn Clock>,
        limits: Limits,
        resources: Resources,
    ) -> Self {
        Self {
            tables,
            seals: Arc::default(),
            schemas,
            receipts,
            root,
            clock,
            reuse: Arc::new(Reuse::new(limits.reuse)),
            limits,
            resources: Arc::new(resources),
        }
    }

    /// What queries use now.
    pub fn usage(&self) -> Usage {
        self.resources.usage()
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

    /// Runs a plan under the permit that says so, and then the same statement for each further row of parameters: one
    /// answer, with one receipt at its end.
    ///
    /// # Errors
    /// When the plan is another caller's, or no key is to be had that signs the receipt.
    pub async fn answer(
        self: &Arc<Self>,
        permit: Permit<Read>,
        first: VerifiedPlan,
        further: Further,
    ) -> Result<AnswerStream, Error> {
        let decision = permit.decision();
        let keys = self.tables.keys();
        let key = keys.process_key(&decision.tenant, &decision.silo).await?;
        let state_key = self.root.get().await?.derive("table states");
        answering(Arc::clone(self), permit, (key, state_key), first, further)
    }

    pub(super) fn receipts(&self) -> &Receipts {
        &self.receipts
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
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
                about: about::columns(session.viewer(), guarded.view()),
            });
        }
        Ok(visible)
    }

    async fn planning(&self, decision: &Arc<Decision>) -> Result<Planning, Error> {
        let memory_bytes_max = self.limits.memory_bytes_max;
        let share = self.resources.share(&decision.tenant, memory_bytes_max);
        Ok(Planning {
            share: share.await?,
            tables: Arc::new(self.session(decision).await?),
            limits: self.limits.clone(),
            now: self.clock.now(),
            reuse: Arc::clone(&self.reuse),
        })
    }

    async fn session(&self, decision: &Arc<Decision>) -> Result<SessionTables, Error> {
        let hash = self.secret(decision, MaskRule::Hash, TenantSecret::Hash);
        let token = self.secret(decision, MaskRule::Token, TenantSecret::Token);
        let schemas = self.schemas.of(decision).await.map_err(schema_error)?;
        let evolution = Evolution::of(&schemas);
        let viewer = Viewer::new(
            Arc::clone(decision),
            hash.await?,
            token.await?,
            evolution.as_ref(),
        );
        let sources = StoredTables {
            tables: Arc::clone(&self.tables),
            seals: Arc::clone(&self.seals),
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

fn schema_error(error: schema::Error) -> Error {
    tracing::warn!(
        error = &error as &dyn std::error::Error,
        "the schemas of a tenant cannot be had"
    );
    match error {
        schema::Error::Keys(_) => Error::KeyUnavailable,
        _ => Error::Unavailable,
    }
}

/// The encrypted tables of the tenant of one decision, in the silo it was decided for.
#[derive(Debug)]
struct StoredTables {
    tables: Arc<Tables>,
    seals: Arc<KnownSeals>,
    decision: Arc<Decision>,
}

#[async_trait]
impl Sources for StoredTables {
    async fn open(&self, name: TableName) -> Result<Arc<dyn RecordSource>, Error> {
        let kind = match name {
            TableName::Records => TableKind::Records,
            TableName::Evidence => TableKind::Evidence,
            TableName::Quarantine => TableKind::Quarantine,
            TableName::Segments => {
                return Ok(Arc::new(Segments {
                    seals: Arc::clone(&self.seals),
                    tables: Arc::clone(&self.tables),
                    decision: Arc::clone(&self.decision),
                    rows: OnceCell::new(),
                }));
            }
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

    fn version(&self) -> u64 {
        self.state.version
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

#[cfg(test)]
mod tests {
    use arrow::array::RecordBatch;
    use arrow::util::pretty::pretty_format_batches;
    use catalog::context::Role;
    use datafusion::physical_plan::displayable;

    use super::super::hidden_rows;
    use super::super::planning::Work;
    use super::super::testing::{CANARY, Caller, ONE, OWN, World, numbered_records};
    use super::*;
    use crate::table::testing;

    /// A caller over encrypted tables on disk, three files of them.
    async fn caller(world: &testing::World, role: Role) -> Caller {
        let alone = World { foreign: 0, ..ONE };
        let files = [0, 100, 200].map(|start| numbered_records(alone, start..start + 50));
        stored(world, Caller::new(ONE, role), files.into()).await
    }

    /// A caller under a row policy over files with these rows.
    async fn restricted(world: &testing::World, files: Vec<RecordBatch>) -> Caller {
        let policy = hidden_rows::policy(hidden_rows::ROWS);
        let caller = Caller::under(ONE, Role::Investigator, &policy);
        stored(world, caller, files).await
    }

    /// The caller over encrypted tables on disk, a file for each of these batches.
    async fn stored(world: &testing::World, caller: Caller, files: Vec<RecordBatch>) -> Caller {
        let table = world.records(OWN).await;
        for rows in files {
            let state = table.state().await.expect("a state");
            let appended = table
                .append(&state, vec![rows], Vec::new(), Vec::new())
                .await;
            assert!(matches!(
                appended,
                Ok(table::AppendOutcome::Committed { .. })
            ));
        }
        let sources = StoredTables {
            tables: Arc::new(world.tables()),
            seals: Arc::default(),
            decision: Arc::clone(caller.viewer.decision()),
        };
        Caller {
            sources: Arc::new(sources),
            ..caller
        }
    }

    async fn physical(caller: &Caller, sql: &str) -> String {
        let planned = caller.plan(sql).await.expect(sql);
        match planned.work {
            Work::Plan { plan, .. } => displayable(plan.as_ref()).indent(false).to_string(),
            Work::Rows(_) => String::new(),
        }
    }

    #[tokio::test]
    async fn encrypted_tables_answer_through_the_guard() {
        let world = testing::World::new();
        let caller = caller(&world, Role::Reader).await;
        for (sql, shown) in [
            ("SELECT count(*) AS n FROM records", "150"),
            (
                "SELECT count(*) AS n FROM records WHERE action = 'Login'",
                "50",
            ),
            (
                "SELECT count(*) AS n FROM records WHERE created_at >= '2026-01-01T01:40:00Z'",
                "100",
            ),
            ("SELECT max(leaf_index) AS n FROM records", "249"),
            ("SELECT min(actor_id) AS n FROM records", "[redacted]"),
            (
                "SELECT context AS n FROM records WHERE leaf_index = 7",
                "T-7",
            ),
            (
                "SELECT count(*) AS n FROM records a JOIN records b USING (record_id)",
                "150",
            ),
            (
                "SELECT labels['env'] AS n FROM records WHERE leaf_index = 3",
                "test",
            ),
        ] {
            let rows = caller.rows(sql).await.expect(sql);
            let text = pretty_format_batches(&rows).expect("text").to_string();
            assert!(text.contains(shown), "{sql}: {text}");
            assert!(!text.contains(CANARY), "{sql}: {text}");
        }
        let everything = caller
            .observes("SELECT * FROM records ORDER BY record_id")
            .await;
        assert!(!everything.contains(CANARY), "{everything}");
        assert!(everything.contains("[redacted]"));
    }

    #[tokio::test]
    async fn the_newest_rows_come_without_a_sort() {
        let world = testing::World::new();
        let caller = caller(&world, Role::Reader).await;
        let sql = "SELECT record_id, action FROM records \
                   ORDER BY created_at DESC, record_id DESC LIMIT 10";
        let plan = physical(&caller, sql).await;
        assert!(!plan.contains("SortExec"), "{plan}");
        let rows = caller.rows(sql).await.expect("rows");
        assert_eq!(rows.iter().map(|batch| batch.num_rows()).sum::<usize>(), 10);
        // A column that is masked has no order that storage knows.
        let plan = physical(&caller, "SELECT actor_id FROM records ORDER BY actor_id").await;
        assert!(plan.contains("SortExec"), "{plan}");
    }

    #[tokio::test]
    async fn a_page_of_a_listing_reads_the_files_that_it_can_be_in() {
        let world = testing::World::new();
        let caller = caller(&world, Role::Reader).await;
        let page = |bound: &str| {
            format!(
                "SELECT record_id FROM records WHERE (created_at, record_id) < ({bound}) \
                 ORDER BY created_at DESC, record_id DESC LIMIT 3"
            )
        };
        let first = caller
            .rows(&page(
                "'2026-01-01T01:42:00Z', '01KDVDN0000000000000000102'",
            ))
            .await;
        let text = pretty_format_batches(&first.expect("rows"))
            .expect("text")
            .to_string();
        for record in ["101", "100", "049"] {
            assert!(
                text.contains(&format!("01KDVDN0000000000000000{record}")),
                "{text}"
            );
        }
        let before_everything = page("'2025-12-31T00:00:00Z', 'x'");
        let plan = physical(&caller, &before_everything).await;
        let rows = caller.rows(&before_everything).await.expect("rows");
        assert_eq!(
            rows.iter().map(|batch| batch.num_rows()).sum::<usize>(),
            0,
            "{plan}"
        );
    }

    #[tokio::test]
    async fn counting_reads_no_file() {
        let world = testing::World::new();
        let caller = caller(&world, Role::Reader).await;
        let plan = physical(&caller, "SELECT count(*) FROM records").await;
        assert!(!plan.contains("GuardedScanExec"), "{plan}");
        // With a filter the number is the guard's secret until rows have been through it.
        let plan = physical(&caller, "SELECT count(*) FROM records WHERE action = 'x'").await;
        assert!(plan.contains("GuardedScanExec"), "{plan}");
    }

    /// A plan with one node more can be one too many, and so tells of itself.
    #[tokio::test]
    async fn hidden_rows_change_no_plan() {
        let alone = World { foreign: 0, ..ONE };
        let visible = || hidden_rows::records(alone, 12, 0);
        let hidden = |minutes, copies| hidden_rows::hidden(alone, minutes, copies);
        let (none, some, many) = (
            testing::World::new(),
            testing::World::new(),
            testing::World::new(),
        );
        let callers = [
            restricted(&none, vec![visible()]).await,
            // Enough rows for filters, and more files than a plan has partitions.
            restricted(
                &some,
                vec![visible(), hidden(0..12, 400), hidden(100..112, 400)],
            )
            .await,
            restricted(
                &many,
                (0..9)
                    .map(|file| hidden(file * 5..file * 5 + 9, 3))
                    .chain([visible()])
                    .collect(),
            )
            .await,
        ];
        for filter in [
            "true",
            "resource_id = 'unseen-resource-one-3-1'",
            "resource_id IN ('unseen-resource-one-105-2', 'nowhere')",
            "actor_id = 'nobody'",
            "created_at > '2026-01-01T00:30:00Z'",
            "created_at > '2026-01-01T03:00:00Z'",
            "action = 'Login'",
        ] {
            for sql in [
                "SELECT * FROM records WHERE {} ORDER BY created_at DESC, record_id DESC LIMIT 3",
                "SELECT action, resource_type FROM records WHERE {} ORDER BY created_at DESC",
                "SELECT created_at FROM records WHERE {} ORDER BY created_at DESC",
                "SELECT count(*) FROM records WHERE {}",
                "SELECT action, count(*) FROM records WHERE {} GROUP BY action",
                "SELECT count(*) FROM (SELECT DISTINCT action FROM records WHERE {} LIMIT 2) d",
                "SELECT a.action FROM records a JOIN records b USING (record_id) WHERE a.{}",
                "SELECT row_number() OVER (ORDER BY created_at DESC, record_id DESC) FROM records WHERE {}",
            ] {
                if filter == "true" && sql.contains("a.{}") {
                    continue;
                }
                let sql = sql.replace("{}", filter);
                let mut seen = Vec::new();
                for caller in &callers {
                    let plan = physical(caller, &sql).await;
                    let mut rows: Vec<String> = caller
                        .shows(&sql)
                        .await
                        .lines()
                        .map(str::to_owned)
                        .collect();
                    if !sql.contains("LIMIT 3") {
                        rows.sort();
                    }
                    seen.push((plan, rows));
                }
                assert_eq!(seen[0], seen[1], "{sql}");
                assert_eq!(seen[0], seen[2], "{sql}");
            }
        }
    }

    #[tokio::test]
    async fn tables_that_nothing_was_written_to_are_empty() {
        let world = testing::World::new();
        let caller = caller(&world, Role::AuditAdmin).await;
        for table in ["evidence", "quarantine"] {
            let shown = caller
                .shows(&format!("SELECT count(*) AS n FROM {table}"))
                .await;
            assert!(shown.contains("| 0 |"), "{shown}");
            assert!(caller.rows(&format!("SELECT * FROM {table}")).await.is_ok());
        }
    }
}
