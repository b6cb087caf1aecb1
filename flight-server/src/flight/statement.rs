//! Statements: planned for their schema, executed once, streamed as the client reads.
//!
//! Planning and executing are authorised each time anew, for the caller who asks; nothing that was decided for an
//! earlier call is carried over to a later one.

use std::fmt;
use std::future::ready;
use std::sync::{Arc, OnceLock};

use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::IpcWriteOptions;
use catalog::guard::{Permit, Read, Request};
use catalog::ids::TenantId;
use engine::query::{self, AnswerStream, Described, Further, ParamValues, Part, VerifiedPlan};
use engine::receipt::SignedReceipt;
use futures::{StreamExt, TryStreamExt, stream};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::problem::Problem;

use super::call::{Caller, Refusal};
use super::encode::{FlightDataStream, encode};
use super::limits::RECEIPT_BYTES_MAX;
use super::parameters::Bindings;
use super::schema::advertised;
use super::{TrailhouseFlight, call};

/// The trailer that holds the receipt of an answer, as the bytes of its JSON.
pub(crate) const RECEIPT: &str = "x-trailhouse-receipt-bin";
/// The trailer that names it.
pub(crate) const RECEIPT_ID: &str = "x-trailhouse-receipt-id";

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
            Err(error) => Err(self.refused(caller, &permit, sql, error)),
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

    /// Runs a statement: the rows, and in the trailers of the stream the receipt. Its evidence is recorded when it has
    /// been planned, with the plan's digest, and is durable before the first row.
    pub(super) async fn execute(
        &self,
        caller: &Caller,
        statement: &Statement,
        options: IpcWriteOptions,
    ) -> Result<FlightDataStream, Refusal> {
        let permit = self.permit_to_plan(caller, Some(statement)).await?;
        let plan = self.plan(caller, &permit, statement).await?;
        let schema = advertised(&plan.schema());
        let text = Some(query::strip_literals(&statement.sql));
        let gate = &self.service.gate;
        let permit = gate.witnessed(&permit, text, plan.plan_digest());
        let parameters = (1..statement.rows()).filter_map(|row| statement.row(row).transpose());
        let further = Further {
            sql: Arc::clone(&statement.sql),
            parameters: parameters.collect::<Result<_, _>>()?,
        };
        let answer = self.service.queries.answer(permit, plan, further).await?;
        Ok(stream_of(caller, (schema, options), answer))
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
            Err(error) => Err(self.refused(caller, permit, sql, error)),
        }
    }

    /// A refusal that only planning could find is evidence as well.
    pub(super) fn refused(
        &self,
        caller: &Caller,
        permit: &Permit<Read>,
        sql: &str,
        error: query::Error,
    ) -> Refusal {
        let problem = self.service.refused(&caller.context, permit, sql, error);
        problem.into()
    }
}

/// An answer as a stream of messages that ends with its receipt.
fn stream_of(
    caller: &Caller,
    (schema, options): (SchemaRef, IpcWriteOptions),
    answer: AnswerStream,
) -> FlightDataStream {
    let broken = caller.status(call::internal("the result could not be encoded"));
    let correlation = caller.correlation();
    let told = Arc::new(OnceLock::new());
    let tell = Arc::clone(&told);
    let rows = answer
        .map_err(move |error| call::status(error, &correlation))
        .try_filter_map(move |part| {
            let rows = match part {
                Part::Rows(batch) => Some(batch),
                Part::Receipt(receipt) => {
                    // There is one to an answer.
                    let _ = tell.set(receipt);
                    None
                }
            };
            ready(Ok(rows))
        });
    let end = stream::once(async move { told.get().map(|receipt| Err(good_end(receipt))) });
    encode(schema, rows, (options, broken))
        .chain(end.filter_map(ready))
        .boxed()
}

/// The end of a stream that went well. It takes the form of an error, because only that can bring trailers of its own.
/// A receipt that is too long for them is told by its name.
fn good_end(receipt: &SignedReceipt) -> Status {
    let mut trailers = MetadataMap::new();
    if let Ok(id) = MetadataValue::try_from(receipt.receipt().id.to_string()) {
        trailers.insert(RECEIPT_ID, id);
    }
    let text = receipt.to_json();
    if text.len() <= RECEIPT_BYTES_MAX {
        trailers.insert_bin(RECEIPT, MetadataValue::from_bytes(text.as_bytes()));
    }
    Status::with_metadata(Code::Ok, "", trailers)
}
