//! Actions: prepared statements, sessions, and the end of answers that nobody waits for.
//!
//! Invariant: what `LISTED` names is what `act` does.

use arrow_flight::sql::{
    ActionCancelQueryRequest, ActionCancelQueryResult, ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any,
    ProstMessageExt,
};
use arrow_flight::{
    Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightInfo,
};
use bytes::Bytes;
use prost::Message;

use super::TrailhouseFlight;
use super::call::{Caller, Refusal, internal, malformed};
use super::command::no_transaction;
use super::limits::CANCELLED_AT_ONCE_MAX;
use super::schema::{advertised, encapsulated};
use super::session;
use super::statement::Statement;

const CREATE_PREPARED_STATEMENT: &str = "CreatePreparedStatement";
const CLOSE_PREPARED_STATEMENT: &str = "ClosePreparedStatement";
const GET_SESSION_OPTIONS: &str = "GetSessionOptions";
const SET_SESSION_OPTIONS: &str = "SetSessionOptions";
const CLOSE_SESSION: &str = "CloseSession";
const CANCEL_FLIGHT_INFO: &str = "CancelFlightInfo";
const CANCEL_QUERY: &str = "CancelQuery";

const LISTED: [(&str, &str); 7] = [
    (
        CREATE_PREPARED_STATEMENT,
        "Keeps a statement under a handle.\n\
         Request: ActionCreatePreparedStatementRequest\n\
         Response: ActionCreatePreparedStatementResult",
    ),
    (
        CLOSE_PREPARED_STATEMENT,
        "Forgets a prepared statement.\n\
         Request: ActionClosePreparedStatementRequest\n\
         Response: none",
    ),
    (
        GET_SESSION_OPTIONS,
        "Answers catalog and schema.\n\
         Request: GetSessionOptionsRequest\n\
         Response: GetSessionOptionsResult",
    ),
    (
        SET_SESSION_OPTIONS,
        "Sets catalog and schema to the only ones there are.\n\
         Request: SetSessionOptionsRequest\n\
         Response: SetSessionOptionsResult",
    ),
    (
        CLOSE_SESSION,
        "Ends a session.\n\
         Request: CloseSessionRequest\n\
         Response: CloseSessionResult",
    ),
    (
        CANCEL_FLIGHT_INFO,
        "Ends the answers to a query that are being streamed.\n\
         Request: CancelFlightInfoRequest\n\
         Response: CancelFlightInfoResult",
    ),
    (
        CANCEL_QUERY,
        "The same, as it was called before.\n\
         Request: ActionCancelQueryRequest\n\
         Response: ActionCancelQueryResult",
    ),
];

/// The actions there are.
pub(crate) fn listed() -> impl Iterator<Item = ActionType> + Send + 'static {
    LISTED.into_iter().map(|(name, description)| ActionType {
        r#type: name.to_owned(),
        description: description.to_owned(),
    })
}

impl TrailhouseFlight {
    /// Does what the action says, and answers with the body of its result, if it has one.
    pub(super) async fn act(
        &self,
        caller: &Caller,
        action: &Action,
    ) -> Result<Option<Bytes>, Refusal> {
        let body = match action.r#type.as_str() {
            CREATE_PREPARED_STATEMENT => {
                let result = self.create_prepared(caller, unpack(&action.body)?).await?;
                result.as_any().encode_to_vec()
            }
            CLOSE_PREPARED_STATEMENT => {
                let request: ActionClosePreparedStatementRequest = unpack(&action.body)?;
                let handle = &request.prepared_statement_handle;
                self.prepared.close(&caller.principal(), handle);
                return Ok(None);
            }
            GET_SESSION_OPTIONS => session::get(caller.context.tenant()).encode_to_vec(),
            SET_SESSION_OPTIONS => {
                let request = session::SetSessionOptionsRequest::decode(&*action.body)
                    .map_err(|_| malformed("the session options cannot be read"))?;
                session::set(caller.context.tenant(), &request).encode_to_vec()
            }
            CLOSE_SESSION => session::close().encode_to_vec(),
            CANCEL_FLIGHT_INFO => {
                let request = CancelFlightInfoRequest::decode(&*action.body)
                    .map_err(|_| malformed("what is to be cancelled cannot be read"))?;
                let status = self.cancel(caller, &request.info.unwrap_or_default());
                CancelFlightInfoResult::new(status).encode_to_vec()
            }
            CANCEL_QUERY => {
                let request: ActionCancelQueryRequest = unpack(&action.body)?;
                let info = FlightInfo::decode(request.info)
                    .map_err(|_| malformed("what is to be cancelled cannot be read"))?;
                // Its results have the numbers of the newer action's.
                let result = i32::from(self.cancel(caller, &info));
                ActionCancelQueryResult { result }.as_any().encode_to_vec()
            }
            "BeginTransaction" | "EndTransaction" | "BeginSavepoint" | "EndSavepoint" => {
                return Err(Refusal::Unimplemented("there are no transactions"));
            }
            "CreatePreparedSubstraitPlan" => {
                let detail = "Substrait plans are not available; send SQL";
                return Err(Refusal::Unimplemented(detail));
            }
            _ => return Err(Refusal::Unimplemented("there is no such action")),
        };
        Ok(Some(body.into()))
    }

    /// Ends what is being streamed of a query. A ticket that nobody has redeemed is none of that: it runs nothing.
    fn cancel(&self, caller: &Caller, info: &FlightInfo) -> CancelStatus {
        let principal = caller.principal();
        // A FlightInfo of ours has one endpoint; a caller may send a million.
        let endpoints = info.endpoint.iter().take(CANCELLED_AT_ONCE_MAX);
        let tickets = endpoints.filter_map(|endpoint| endpoint.ticket.as_ref());
        let cancelled = tickets.filter(|ticket| self.running.cancel(&principal, &ticket.ticket));
        if cancelled.count() > 0 {
            CancelStatus::Cancelled
        } else {
            CancelStatus::NotCancellable
        }
    }

    async fn create_prepared(
        &self,
        caller: &Caller,
        request: ActionCreatePreparedStatementRequest,
    ) -> Result<ActionCreatePreparedStatementResult, Refusal> {
        no_transaction(request.transaction_id.as_ref())?;
        let statement = Statement::new(&request.query);
        let described = self.describe(caller, &statement).await?;
        let parameters = advertised(&described.parameters);
        let placeholders = parameters.fields().iter();
        let placeholders = placeholders.map(|field| field.name().clone()).collect();
        let encoded = |schema: &_| {
            encapsulated(schema).map_err(|_| internal("the schema could not be encoded"))
        };
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: self.prepared.create(
                &caller.principal(),
                &request.query,
                placeholders,
            )?,
            dataset_schema: encoded(&advertised(&described.schema))?,
            parameter_schema: encoded(&parameters)?,
        })
    }
}

fn unpack<M: ProstMessageExt>(body: &[u8]) -> Result<M, Refusal> {
    let unreadable = || malformed("the body of the action cannot be read");
    let any = Any::decode(body).map_err(|_| unreadable())?;
    match any.unpack() {
        Ok(Some(message)) => Ok(message),
        Ok(None) | Err(_) => Err(unreadable()),
    }
}
