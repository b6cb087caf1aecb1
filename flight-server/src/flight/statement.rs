//! Statements: planned for their schema, executed once, streamed as the client reads.
//!
//! Planning and executing are authorised each time anew, for the caller who asks; nothing that was decided for an
//! earlier call is carried over to a later one.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use catalog::guard::{OperationKind, Permit, Read, Request};
use catalog::ids::TenantId;
use engine::query::{self, Described, ParamValues, Queries, VerifiedPlan};
use futures::{StreamExt, TryStreamExt, stream};

use crate::problem::{Problem, Slug};

use super::call::{Caller, Refusal};
use super::encode::{FlightDataStream, encode};
use super::parameters::Bindings;
use super::schema::advertised;
use super::{TrailhouseFlight, call};

/// Whose statements and tickets these are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Principal {
    pub(crate) tenant: TenantId,
    pub(crate) subject: String,
}

/// A text and the parameters it is to be executed with.
#[derive(Clone, PartialEq)]
pub(crate) struct Statement {
    pub(crate) sql: Arc<str>,
    pub(crate) bindings: Option<Arc<Bindings>>,
    /// Of the plan that GetFlightInfo made, for the evidence of its execution.
    pub(crate) plan_digest: Option<[u8; 32]>,
}

impl fmt::Debug for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Texts hold literals, which have no place in logs.
        f.debug_struct("Statement").finish_non_exhaustive()
    }
}

impl Statement {
    /// A statement without parameters.
    pub(crate) fn new(sql: &str) -> Self {
        Self {
            sql: sql.into(),
            bindings: None,
            plan_digest: None,
        }
    }

    fn rows(&self) -> usize {
        self.bindings.as_ref().map_or(1, |bindings| bindings.rows())
    }

    fn row(&self, row: usize) -> Result<Option<ParamValues>, Problem> {
        self.bindings
            .as_ref()
            .map(|bindings| bindings.row(row))
            .transpose()
    }
}

impl TrailhouseFlight {
    /// The guard's permission to look at columns: those of a statement, or of the catalog.
    pub(super) async fn permit_to_plan(
        &self,
        caller: &Caller,
        statement: Option<&Statement>,
    ) -> Result<Permit<Read>, Refusal> {
        let request = self.request(statement);
        let gate = &self.service.gate;
        Ok(gate.authorize_planning(&caller.context, request).await?)
    }

    fn request(&self, statement: Option<&Statement>) -> Request {
        Request {
            statement: statement.map(|statement| query::strip_literals(&statement.sql)),
            plan_digest: statement.and_then(|statement| statement.plan_digest),
            ..Request::at(self.silo.clone())
        }
    }

    /// What a statement returns and takes, without parameters bound.
    pub(super) async fn describe(
        &self,
        caller: &Caller,
        statement: &Statement,
    ) -> Result<Described, Refusal> {
        let permit = self.permit_to_plan(caller, Some(statement)).await?;
        let sql = &statement.sql;
        match self.service.queries.describe(&permit, sql).await {
            Ok(described) => Ok(described),
            Err(error) => Err(self.refused(caller, sql, error).await),
        }
    }

    /// The plan of this statement, for its schema. It is not executed.
    pub(super) async fn planned(
        &self,
        caller: &Caller,
        statement: &Statement,
    ) -> Result<VerifiedPlan, Refusal> {
        let permit = self.permit_to_plan(caller, Some(statement)).await?;
        self.plan(caller, &permit, statement).await
    }

    /// Executes the statement, once for each row of its parameters, and streams what comes.
    pub(super) async fn execute(
        &self,
        caller: &Caller,
        statement: &Statement,
    ) -> Result<FlightDataStream, Refusal> {
        let request = self.request(Some(statement));
        let permit = self.service.gate.authorize(&caller.context, request);
        let permit = permit.await?;
        let plan = self.plan(caller, &permit, statement).await?;
        let schema = advertised(&plan.schema());
        let broken = caller.status(call::internal("the result could not be encoded"));
        let first = plan.execute()?;
        let correlation = caller.correlation();
        let failed = move |error| call::status(query::Error::from_stream(error), &correlation);
        let first = first.map_err(failed.clone());
        if statement.rows() == 1 {
            return Ok(encode(schema, first, broken));
        }
        let rest = Rest {
            queries: Arc::clone(&self.service.queries),
            permit: Arc::new(permit),
            statement: statement.clone(),
            schema: Arc::clone(&schema),
        };
        let correlation = caller.correlation();
        let rest = stream::iter(1..statement.rows())
            .then(move |row| rest.clone().execute(row))
            .map_err(move |problem: Problem| call::status(problem, &correlation))
            .map_ok(move |batches| batches.map_err(failed.clone()))
            .try_flatten();
        Ok(encode(schema, first.chain(rest), broken))
    }

    async fn plan(
        &self,
        caller: &Caller,
        permit: &Permit<Read>,
        statement: &Statement,
    ) -> Result<VerifiedPlan, Refusal> {
        let sql = &statement.sql;
        let parameters = statement.row(0)?;
        match self.service.queries.plan(permit, sql, parameters).await {
            Ok(plan) => Ok(plan),
            Err(error) => Err(self.refused(caller, sql, error).await),
        }
    }

    /// A denial that only planning could find is evidence as well.
    pub(super) async fn refused(&self, caller: &Caller, sql: &str, error: query::Error) -> Refusal {
        match error {
            query::Error::Denied(denial) => {
                let statement = Some(query::strip_literals(sql));
                let gate = &self.service.gate;
                let denial = gate
                    .deny(&caller.context, OperationKind::Read, denial, statement)
                    .await;
                denial.into()
            }
            other => other.into(),
        }
    }
}

/// What the executions after the first need.
#[derive(Clone)]
struct Rest {
    queries: Arc<Queries>,
    permit: Arc<Permit<Read>>,
    statement: Statement,
    schema: SchemaRef,
}

impl Rest {
    async fn execute(self, row: usize) -> Result<query::BatchStream, Problem> {
        let parameters = self.statement.row(row)?;
        let plan = self
            .queries
            .plan(&self.permit, &self.statement.sql, parameters)
            .await?;
        if advertised(&plan.schema()) != self.schema {
            let detail = "the rows of parameters give results of different types";
            return Err(Problem::new(Slug::InvalidQuery, detail));
        }
        Ok(plan.execute()?)
    }
}
