//! What each call does with what is asked of it.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::sql::{
    DoPutPreparedStatementResult, DoPutUpdateResult, ProstMessageExt, TicketStatementQuery,
};
use arrow_flight::{
    FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, SchemaResult, Ticket,
};
use bytes::Bytes;
use catalog::guard::{OperationKind, has_grounds};
use engine::query::{self, VisibleTable};
use futures::{Stream, StreamExt, stream};
use prost::Message;
use tokio::time::timeout;
use tonic::Status;

use super::TrailhouseFlight;
use super::call::{Caller, Refusal, internal, malformed};
use super::command::{Asked, parse};
use super::encode::{FlightDataStream, encode};
use super::limits::MESSAGE_TIME_MAX;
use super::metadata::Question;
use super::parameters;
use super::schema::{advertised, encapsulated};
use super::statement::Statement;
use crate::problem::{Problem, Slug};

impl TrailhouseFlight {
    /// GetSchema: the schema that GetFlightInfo and the stream would have.
    pub(super) async fn schema_of(
        &self,
        caller: &Caller,
        descriptor: &FlightDescriptor,
    ) -> Result<SchemaResult, Refusal> {
        let schema = match parse(command_of(descriptor)?)? {
            Asked::Statement(sql) => self.described(caller, &Statement::new(&sql)).await?,
            Asked::Prepared(handle) => {
                let statement = self.prepared.get(&caller.principal(), &handle)?;
                self.described(caller, &statement).await?
            }
            Asked::Metadata(question) => {
                self.tables_of(caller, &question).await?;
                question.schema(&self.facts)
            }
            other => return Err(self.not_a_query(caller, other).await),
        };
        Ok(SchemaResult {
            schema: encode_schema(&schema)?,
        })
    }

    /// GetFlightInfo: plans, so that what is wrong is said now, and executes nothing. One endpoint, and no location: the
    /// data is where the client is already connected.
    pub(super) async fn info_of(
        &self,
        caller: &Caller,
        descriptor: FlightDescriptor,
    ) -> Result<FlightInfo, Refusal> {
        let command = command_of(&descriptor)?.clone();
        let (schema, ticket) = match parse(&command)? {
            Asked::Statement(sql) => self.ticket_for(caller, Statement::new(&sql)).await?,
            Asked::Prepared(handle) => {
                let statement = self.prepared.get(&caller.principal(), &handle)?;
                self.ticket_for(caller, statement).await?
            }
            Asked::Metadata(question) => {
                self.tables_of(caller, &question).await?;
                // Nothing to seal: whoever redeems it is answered for what they may see.
                (question.schema(&self.facts), command)
            }
            other => return Err(self.not_a_query(caller, other).await),
        };
        let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket));
        let mut info = FlightInfo::new()
            .with_endpoint(endpoint)
            .with_descriptor(descriptor);
        info.schema = encode_schema(&schema)?;
        Ok(info)
    }

    /// DoGet: everything is checked again, for whoever redeems the ticket.
    pub(super) async fn data_of(
        &self,
        caller: &Caller,
        ticket: &Ticket,
        options: IpcWriteOptions,
    ) -> Result<FlightDataStream, Refusal> {
        let principal = caller.principal();
        match parse(&ticket.ticket)? {
            Asked::Ticket(sealed) => {
                let statement = self.tickets.open(&principal, &sealed)?;
                let answer = self.execute(caller, &statement, options).await?;
                Ok(self.running.watched(&principal, &ticket.ticket, answer))
            }
            Asked::Prepared(handle) => {
                let statement = self.prepared.get(&principal, &handle)?;
                let answer = self.execute(caller, &statement, options).await?;
                Ok(self.running.watched(&principal, &ticket.ticket, answer))
            }
            Asked::Metadata(question) => {
                let rows = self.answer(caller, question).await?;
                let broken = caller.status(internal("the answer could not be encoded"));
                let batches = stream::iter([Ok(rows.clone())]);
                Ok(encode(rows.schema(), batches, (options, broken)))
            }
            Asked::Statement(_) => Err(malformed("ask for the FlightInfo of a statement first")),
            other => Err(self.not_a_query(caller, other).await),
        }
    }

    /// DoPut: binds parameters, or loads records. Everything else would change something.
    pub(super) async fn put<S>(&self, caller: &Caller, mut messages: S) -> Result<Bytes, Refusal>
    where
        S: Stream<Item = Result<FlightData, Status>> + Unpin + Send + 'static,
    {
        let first = timeout(MESSAGE_TIME_MAX, messages.next()).await;
        let first = first.map_err(|_| {
            let detail = "the first message of a call took too long to arrive";
            Problem::new(Slug::DeadlineExceeded, detail)
        })?;
        if first.is_none() {
            // What some drivers make of a load of no rows; nothing else ends before it has said what it is.
            return Ok(DoPutUpdateResult { record_count: 0 }.encode_to_vec().into());
        }
        let descriptor = match &first {
            Some(Ok(first)) => first.flight_descriptor.as_ref(),
            Some(Err(_)) | None => None,
        };
        let nothing = || malformed("the stream does not say what it is for");
        let command = descriptor.ok_or_else(nothing).and_then(command_of);
        let asked = command.and_then(|command| parse(command));
        let first = stream::iter(first);
        let asked = match asked {
            Ok(Asked::Ingest(command)) => {
                return self.ingest(caller, *command, first.chain(messages)).await;
            }
            other => other,
        };
        // A load counts as a write, and everything else as a query.
        self.count_query(caller)?;
        let handle = match asked? {
            Asked::Prepared(handle) => handle,
            Asked::Statement(_) | Asked::Ticket(_) | Asked::Metadata(_) | Asked::Ingest(_) => {
                return Err(malformed("this command takes no data"));
            }
            other => return Err(self.not_a_query(caller, other).await),
        };
        let principal = caller.principal();
        self.prepared.get(&principal, &handle)?;
        let batch = parameters::read(first.chain(messages)).await?;
        self.prepared.bind(&principal, &handle, &batch)?;
        // The same handle: some clients go on with the one they had.
        let result = DoPutPreparedStatementResult {
            prepared_statement_handle: Some(handle),
        };
        Ok(result.encode_to_vec().into())
    }

    /// The schema of a statement whose parameters need not be bound yet.
    async fn described(
        &self,
        caller: &Caller,
        statement: &Statement,
    ) -> Result<SchemaRef, Refusal> {
        let schema = if statement.bindings.is_some() {
            self.planned(caller, statement).await?.schema()
        } else {
            self.describe(caller, statement).await?.schema
        };
        Ok(advertised(&schema))
    }

    async fn ticket_for(
        &self,
        caller: &Caller,
        statement: Statement,
    ) -> Result<(SchemaRef, Bytes), Refusal> {
        let plan = self.planned(caller, &statement).await?;
        let ticket = TicketStatementQuery {
            statement_handle: self.tickets.seal(&caller.principal(), &statement)?,
        };
        let schema = advertised(&plan.schema());
        Ok((schema, ticket.as_any().encode_to_vec().into()))
    }

    async fn answer(&self, caller: &Caller, question: Question) -> Result<RecordBatch, Refusal> {
        let tables = self.tables_of(caller, &question).await?;
        Ok(question.answer(&self.facts, caller.context.tenant(), &tables)?)
    }

    /// The tables that the answer to a question is about. Drivers ask most questions of whoever connects, so what is the
    /// same for everybody is told without a decision; and whoever may only append is told what to.
    async fn tables_of(
        &self,
        caller: &Caller,
        question: &Question,
    ) -> Result<Vec<VisibleTable>, Refusal> {
        if !question.asks_for_tables() {
            return Ok(Vec::new());
        }
        let may = |operation| has_grounds(&caller.context, operation);
        if may(OperationKind::Write) && !may(OperationKind::Read) {
            return Ok(vec![VisibleTable::appendable()]);
        }
        let permit = self.permit_to_plan(caller, None).await?;
        Ok(self.service.queries.tables(&permit).await?)
    }

    /// Why something that is not a query is refused. An attempt to write is evidence.
    async fn not_a_query(&self, caller: &Caller, asked: Asked) -> Refusal {
        match asked {
            Asked::Unavailable(what) => Refusal::Unimplemented(what),
            Asked::Update(sql) => {
                let detail = "statements that change something are not available".to_owned();
                let error = query::Error::StatementNotAllowed { detail };
                let statement = Statement::new(sql.as_deref().unwrap_or_default());
                match self.permit_to_plan(caller, Some(&statement)).await {
                    Ok(permit) => self.refused(caller, &permit, &statement.sql, error),
                    Err(refusal) => refusal,
                }
            }
            Asked::Statement(_)
            | Asked::Prepared(_)
            | Asked::Ticket(_)
            | Asked::Metadata(_)
            | Asked::Ingest(_) => malformed("this command does not belong in this call"),
        }
    }
}

fn command_of(descriptor: &FlightDescriptor) -> Result<&Bytes, Refusal> {
    // Clients that leave the type out still mean a command.
    if descriptor.path.is_empty() {
        Ok(&descriptor.cmd)
    } else {
        Err(malformed(
            "there are no flights by path; send a Flight SQL command",
        ))
    }
}

fn encode_schema(schema: &SchemaRef) -> Result<Bytes, Refusal> {
    encapsulated(schema).map_err(|_| internal("the schema could not be encoded"))
}
