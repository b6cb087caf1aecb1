//! From a statement to a plan that has passed every gate.
//!
//! ```text
//! SQL ──statement──▶ one query ──names──▶ session ──planner──▶ logical plan ──parameters──▶ verified, patterns
//!     ──analyzer (verified again)──▶ schema ──optimizer, charged, physical planner (verified first and last)──▶ VerifiedPlan
//! ```

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use catalog::clock::Timestamp;
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::execution::TaskContext;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::OptimizerConfig;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::parser::Statement as ParsedStatement;
use datafusion::sql::sqlparser::ast::{Query, Statement};
use futures::FutureExt;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::account::Account;
use super::error::Error;
use super::gauge::GaugeExec;
use super::limits::Limits;
use super::resources::Share;
use super::reuse::{Reuse, Slot};
use super::statement::Gated;
use super::tables::SessionTables;
use super::verify_logical::Leaves;
use super::{
    charged, explain, information, patterns, sanitize, session, statement, tenant_names,
    verify_logical,
};

/// A statement that may run, and what it will answer with.
pub(crate) struct Planned {
    pub(crate) work: Work,
    pub(crate) schema: SchemaRef,
    pub(crate) digest: [u8; 32],
    pub(crate) account: Account,
    pub(crate) share: Arc<Share>,
    /// Where its answer is, or goes, if it may be given again.
    pub(crate) slot: Option<Slot>,
}

/// What running it takes.
pub(crate) enum Work {
    /// Nothing: the answer is there.
    Rows(RecordBatch),
    /// A plan to execute.
    Plan {
        plan: Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
        leaves: Leaves,
    },
}

/// What a statement answers with and what it wants to know first.
#[derive(Debug, Clone)]
pub struct Described {
    /// The columns of the answer.
    pub schema: SchemaRef,
    /// The parameters in order; type null where none can be inferred.
    pub parameters: SchemaRef,
}

/// Stack of the thread that a statement is planned on. Planners recurse over expressions, some of them with frames of
/// 10 KiB; a worker's stack would end with the process at a few hundred levels.
const STACK_BYTES: usize = 32 * 1024 * 1024;

/// Plans statements for one caller.
#[derive(Clone)]
pub(crate) struct Planning {
    pub(crate) tables: Arc<SessionTables>,
    pub(crate) limits: Limits,
    pub(crate) now: Timestamp,
    pub(crate) share: Arc<Share>,
    pub(crate) reuse: Arc<Reuse>,
}

impl Planning {
    /// Plans a statement with its parameters.
    pub(crate) async fn plan(
        &self,
        sql: &str,
        parameters: Option<ParamValues>,
    ) -> Result<Planned, Error> {
        let (planning, sql) = (self.clone(), sql.to_owned());
        self.contained(async move { planning.plan_gated(&sql, parameters).await })
            .await
    }

    /// Says what a statement answers with, and which parameters it has.
    pub(crate) async fn describe(&self, sql: &str) -> Result<Described, Error> {
        let (planning, sql) = (self.clone(), sql.to_owned());
        self.contained(async move { planning.describe_gated(&sql).await })
            .await
    }

    async fn plan_gated(
        &self,
        sql: &str,
        parameters: Option<ParamValues>,
    ) -> Result<Planned, Error> {
        match statement::gate(sql, &self.limits)? {
            Gated::Query(query) => {
                let state = self.state()?;
                let bound = parameters.clone();
                let plan = self.logical(&state, query, bound).await?;
                let asked = (sql, parameters.as_ref());
                let decision = self.tables.viewer().decision();
                Ok(Planned {
                    slot: self.reuse.slot(decision, asked, &plan)?,
                    ..self.physical(&state, &plan).await?
                })
            }
            Gated::Explain(query) => {
                let state = self.state()?;
                let plan = self.logical(&state, query, parameters).await?;
                let planned = self.physical(&state, &plan).await?;
                let rows = explain::rows(&plan, self.tables.viewer())?;
                Ok(Planned {
                    schema: answer_schema(&rows.schema()),
                    work: Work::Rows(rows),
                    digest: planned.digest,
                    account: planned.account,
                    share: planned.share,
                    slot: None,
                })
            }
            Gated::ShowTables => self.answered(information::tables(&self.tables)?),
            Gated::Columns(name) => {
                let rows = self.columns(&name).await?;
                self.answered(rows)
            }
        }
    }

    async fn describe_gated(&self, sql: &str) -> Result<Described, Error> {
        match statement::gate(sql, &self.limits)? {
            Gated::Query(query) => {
                let state = self.state()?;
                let (plan, parameters) = self.unbound(&state, query).await?;
                let analyzed = analyzed(&state, &plan)?;
                Ok(Described {
                    schema: answer_schema(analyzed.schema().as_arrow()),
                    parameters,
                })
            }
            Gated::Explain(query) => {
                let state = self.state()?;
                let (plan, parameters) = self.unbound(&state, query).await?;
                let rows = explain::rows(&plan, self.tables.viewer())?;
                Ok(Described {
                    schema: answer_schema(&rows.schema()),
                    parameters,
                })
            }
            Gated::ShowTables => described_rows(&information::tables(&self.tables)?),
            Gated::Columns(name) => described_rows(&self.columns(&name).await?),
        }
    }

    pub(super) fn state(&self) -> Result<SessionState, Error> {
        session::state(self)
    }

    async fn columns(&self, name: &[String]) -> Result<RecordBatch, Error> {
        tenant_names::check_catalog(name, self.tables.viewer().tenant())?;
        let table = self.tables.resolve(name)?;
        information::describe(&self.tables, table).await
    }

    fn answered(&self, rows: RecordBatch) -> Result<Planned, Error> {
        Ok(Planned {
            schema: answer_schema(&rows.schema()),
            work: Work::Rows(rows),
            digest: self.digest("metadata"),
            account: Account::default(),
            share: Arc::clone(&self.share),
            slot: None,
        })
    }

    /// The verified logical plan of a query, all its parameters bound.
    async fn logical(
        &self,
        state: &SessionState,
        query: Box<Query>,
        parameters: Option<ParamValues>,
    ) -> Result<LogicalPlan, Error> {
        let plan = self.named(state, query).await?;
        let plan = match parameters {
            Some(values) => plan
                .with_param_values(values)
                .map_err(|error| sanitize::planning(&error))?,
            None => plan,
        };
        verify_logical::verify(&plan, self.tables.viewer(), &self.limits)?;
        Ok(plan)
    }

    /// The logical plan of a query whose parameters are not known yet: null stands for each of them.
    async fn unbound(
        &self,
        state: &SessionState,
        query: Box<Query>,
    ) -> Result<(LogicalPlan, SchemaRef), Error> {
        let plan = self.named(state, query).await?;
        let inferred = plan
            .get_parameter_fields()
            .map_err(|error| sanitize::planning(&error))?;
        let mut parameters: Vec<(String, DataType)> = inferred
            .into_iter()
            .map(|(name, field)| {
                let data_type = field.map_or(DataType::Null, |field| field.data_type().clone());
                (name, data_type)
            })
            .collect();
        parameters.sort_by_key(|(name, _)| (number_of(name), name.clone()));
        let nulls = parameters
            .iter()
            .map(|(name, data_type)| {
                let null = ScalarValue::try_from(data_type).unwrap_or(ScalarValue::Null);
                (name.trim_start_matches('$').to_owned(), null)
            })
            .collect::<Vec<_>>();
        let plan = plan
            .with_param_values(nulls)
            .map_err(|error| sanitize::planning(&error))?;
        verify_logical::verify(&plan, self.tables.viewer(), &self.limits)?;
        let fields = parameters
            .into_iter()
            .map(|(name, data_type)| Field::new(name, data_type, true));
        Ok((plan, Arc::new(Schema::new(fields.collect::<Vec<_>>()))))
    }

    /// The logical plan of a query that names no other tenant's catalog.
    async fn named(&self, state: &SessionState, query: Box<Query>) -> Result<LogicalPlan, Error> {
        tenant_names::check_catalogs(&query, self.tables.viewer().tenant())?;
        let statement = ParsedStatement::Statement(Box::new(Statement::Query(query)));
        state
            .statement_to_plan(statement)
            .await
            .map_err(|error| sanitize::planning(&error))
    }

    async fn physical(&self, state: &SessionState, plan: &LogicalPlan) -> Result<Planned, Error> {
        let leaves = verify_logical::verify(plan, self.tables.viewer(), &self.limits)?;
        patterns::check_spelled(plan)?;
        let analyzed = analyzed(state, plan)?;
        let schema = answer_schema(analyzed.schema().as_arrow());
        let optimized = state
            .optimizer()
            .optimize(analyzed, state, |_, _| {})
            .map_err(|error| sanitize::planning(&error))?;
        patterns::check_all(&optimized)?;
        let optimized = charged::charge(optimized, self.share.memory())
            .map_err(|error| sanitize::planning(&error))?;
        let physical = state
            .query_planner()
            .create_physical_plan(&optimized, state)
            .await
            .map_err(|error| sanitize::planning(&error))?;
        // Each node of a path is a frame on a worker's stack when rows are asked for.
        if depth(&physical) > self.limits.plan_depth_max {
            return Err(Error::limit("the plan has too many steps"));
        }
        let account = Account::of(plan, self.tables.viewer())?;
        Ok(Planned {
            work: Work::Plan {
                plan: physical,
                context: state.task_ctx(),
                leaves,
            },
            schema,
            digest: self.digest(&account.text),
            account,
            share: Arc::clone(&self.share),
            slot: None,
        })
    }

    /// Runs planning on a thread of its own, which the query's share limits in number: a statement that is deep, long to
    /// plan or that makes the planner panic is nobody else's trouble.
    async fn contained<T: Send + 'static>(
        &self,
        planning: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let workers = self.share.workers().clone();
        let (answer, answered) = oneshot::channel();
        let run = move || {
            let outcome = workers.block_on(AssertUnwindSafe(planning).catch_unwind());
            // Nobody may be waiting any more.
            let _ = answer.send(outcome.unwrap_or_else(|panic| Err(panicked(panic.as_ref()))));
        };
        std::thread::Builder::new()
            .name("plan".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(run)
            .map_err(|_| Error::Unavailable)?;
        let answer = timeout(self.limits.deadline, answered).await;
        let answer = answer.map_err(|_| Error::Deadline)?;
        answer.map_err(|_| Error::Internal)?
    }

    /// Names the plan in evidence. The decision's id goes in first: the text has the statement's literals, and evidence
    /// must not confirm a guess of them.
    fn digest(&self, text: &str) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(self.tables.viewer().decision().id);
        digest.update(text);
        digest.finalize().into()
    }
}

/// Nodes from the root of a plan to its farthest leaf.
fn depth(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let below = plan.children().into_iter().map(depth).max();
    // There is a gauge between many steps, and the stack has room for it.
    let is_step = !(plan.as_ref() as &dyn Any).is::<GaugeExec>();
    below.unwrap_or(0) + usize::from(is_step)
}

fn analyzed(state: &SessionState, plan: &LogicalPlan) -> Result<LogicalPlan, Error> {
    state
        .analyzer()
        .execute_and_check(plan.clone(), &state.options(), |_, _| {})
        .map_err(|error| sanitize::planning(&error))
}

/// The columns that every surface shows for an answer: all nullable, without the engine's metadata, text and lists of it
/// in their plain form, so that they do not change with the optimizer's mind.
fn answer_schema(schema: &Schema) -> SchemaRef {
    let fields = schema
        .fields()
        .iter()
        .map(|field| Field::new(field.name(), plain(field.data_type()), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => plain(values),
        other => other.clone(),
    }
}

fn described_rows(rows: &RecordBatch) -> Result<Described, Error> {
    Ok(Described {
        schema: answer_schema(&rows.schema()),
        parameters: Arc::new(Schema::empty()),
    })
}

/// The place of a parameter: `$2` after `$1`, names last.
fn number_of(name: &str) -> usize {
    name.trim_start_matches('$').parse().unwrap_or(usize::MAX)
}

/// A panic's own text may quote a value: it stays out of the log.
pub(super) fn panicked(_panic: &(dyn Any + Send)) -> Error {
    tracing::error!("the query engine panicked");
    Error::Internal
}
