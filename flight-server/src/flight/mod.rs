//! Flight SQL: the service that ADBC, JDBC and ODBC drivers speak to.
//!
//! Invariants: every call authenticates before it looks at anything else; nothing that a client sends is answered with
//! INTERNAL; no plan is made and no decision taken here.
//!
//! The Flight service is implemented directly, and not through arrow-flight's `FlightSqlService`: that one answers
//! GetSchema and PollFlightInfo with UNIMPLEMENTED, lists actions it does not have, and malformed commands with INTERNAL
//! and the decoder's words.

mod action;
mod call;
mod column;
mod command;
mod deadline;
mod door;
mod encode;
mod health;
mod incoming;
mod limits;
mod metadata;
mod parameters;
mod prepared;
mod put;
mod running;
mod schema;
mod session;
mod sql;
mod sql_info;
mod statement;
mod ticket;
mod untrusted;
mod xdbc;

use std::fmt;
use std::sync::Arc;

use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use catalog::context::TenantContext;
use catalog::ids::SiloId;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::Semaphore;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Extensions, Request, Response, Status, Streaming};

use crate::limits::{Class, Room};
use crate::problem::Problem;
use crate::service::Service;

use call::{Caller, Refusal};
use incoming::Incoming;
use limits::{MESSAGE_BYTES_MAX, UNWANTED_AT_ONCE};
use metadata::Facts;
use prepared::PreparedStatements;
use running::Running;
use ticket::Tickets;

pub(crate) use deadline::DeadlineLayer;
pub(crate) use door::DoorLayer;
pub use health::health_service;
pub(crate) use statement::{RECEIPT, RECEIPT_ID};

const AUTHORIZATION: &str = "authorization";

/// The Flight service of one listener.
pub struct TrailhouseFlight {
    service: Arc<Service>,
    silo: SiloId,
    facts: Facts,
    tickets: Tickets,
    prepared: PreparedStatements,
    running: Arc<Running>,
    /// For the messages of loads.
    room: Room,
    /// For reading what nobody wants.
    throwing_away: Semaphore,
}

impl fmt::Debug for TrailhouseFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrailhouseFlight")
            .field("silo", &self.silo)
            .finish_non_exhaustive()
    }
}

/// The gRPC service for a listener of this silo.
///
/// # Errors
/// When the answers that never change cannot be built, which is a fault of this crate's.
pub fn flight_service(
    service: Arc<Service>,
    silo: SiloId,
) -> Result<FlightServiceServer<TrailhouseFlight>, FlightError> {
    let flight = TrailhouseFlight::new(service, silo)?;
    Ok(FlightServiceServer::new(flight).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

impl TrailhouseFlight {
    fn new(service: Arc<Service>, silo: SiloId) -> Result<Self, FlightError> {
        let clock = || Arc::clone(&service.clock);
        let random = || Arc::clone(&service.random);
        let of = Arc::clone(&service);
        let ticket_key = move || of.ticket_key();
        Ok(Self {
            facts: Facts::new()?,
            tickets: Tickets::new(ticket_key, silo.clone(), clock(), random()),
            prepared: PreparedStatements::new(clock(), random()),
            running: Arc::default(),
            room: Room::new(),
            throwing_away: Semaphore::new(UNWANTED_AT_ONCE),
            service,
            silo,
        })
    }

    /// Who calls: whom the door let in, or, without one, who the token says.
    async fn caller(&self, metadata: &MetadataMap, known: &Extensions) -> Result<Caller, Status> {
        let context = match known.get::<TenantContext>() {
            Some(context) => context.clone(),
            None => self.service.context(metadata.as_ref()).await?,
        };
        Ok(Caller { context })
    }

    /// The caller of a call that plans, reads or looks something up, if their tenant may make one more now.
    async fn reader(&self, metadata: &MetadataMap, known: &Extensions) -> Result<Caller, Status> {
        let caller = self.caller(metadata, known).await?;
        let counted = self.count_query(&caller);
        counted.map_err(|refusal| caller.status(refusal))?;
        Ok(caller)
    }

    fn count_query(&self, caller: &Caller) -> Result<(), Refusal> {
        let context = caller.context.clone();
        self.service.rates.admit(context, Class::Query)?;
        Ok(())
    }
}

#[tonic::async_trait]
impl FlightService for TrailhouseFlight {
    type HandshakeStream = BoxStream<'static, Result<HandshakeResponse, Status>>;
    type ListFlightsStream = BoxStream<'static, Result<FlightInfo, Status>>;
    type DoGetStream = BoxStream<'static, Result<FlightData, Status>>;
    type DoPutStream = BoxStream<'static, Result<PutResult, Status>>;
    type DoActionStream = BoxStream<'static, Result<arrow_flight::Result, Status>>;
    type ListActionsStream = BoxStream<'static, Result<ActionType, Status>>;
    type DoExchangeStream = BoxStream<'static, Result<FlightData, Status>>;

    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        let mut headers = request.metadata().get_all(AUTHORIZATION).iter();
        let header = match (headers.next(), headers.next()) {
            (Some(header), None) => header.to_str().ok(),
            // Which of two would count is a question nobody should be able to ask.
            (None, _) | (Some(_), Some(_)) => None,
        };
        let login = self.service.authenticator.login(header);
        let (_, token) = login.await.map_err(Problem::from)?;
        let answer = stream::iter([Ok(HandshakeResponse::default())]).boxed();
        let mut response = Response::new(answer);
        // Clients adopt what they find in this header for every later call. No other answer has it.
        if let Ok(value) = MetadataValue::try_from(format!("Bearer {token}")) {
            response.metadata_mut().insert(AUTHORIZATION, value);
        }
        Ok(response)
    }

    async fn list_flights(
        &self,
        request: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        let caller = self
            .caller(request.metadata(), request.extensions())
            .await?;
        caller.answer(Ok(stream::empty().boxed()))
    }

    async fn get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let caller = self
            .reader(request.metadata(), request.extensions())
            .await?;
        caller.answer(self.info_of(&caller, request.into_inner()).await)
    }

    async fn poll_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        let caller = self
            .reader(request.metadata(), request.extensions())
            .await?;
        // Planning is all there is to wait for, so the first answer is the last.
        let info = self.info_of(&caller, request.into_inner()).await;
        caller.answer(info.map(|info| PollInfo {
            progress: Some(1.0),
            ..PollInfo::new().with_info(info)
        }))
    }

    async fn get_schema(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<SchemaResult>, Status> {
        let caller = self
            .reader(request.metadata(), request.extensions())
            .await?;
        caller.answer(self.schema_of(&caller, request.get_ref()).await)
    }

    async fn do_get(
        &self,
        request: Request<Ticket>,
    ) -> Result<Response<Self::DoGetStream>, Status> {
        let caller = self
            .reader(request.metadata(), request.extensions())
            .await?;
        let answer = match encode::options(request.metadata()) {
            Ok(options) => self.data_of(&caller, request.get_ref(), options).await,
            Err(problem) => Err(problem.into()),
        };
        caller.answer(answer)
    }

    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        // What it counts as, its first message says.
        let caller = self
            .caller(request.metadata(), request.extensions())
            .await?;
        let messages = Incoming::new(request.into_inner());
        let outcome = self.put(&caller, messages.clone()).await;
        // Who sends too much is not read on, nor is more than a few read on at a time.
        if let Err(refusal) = &outcome
            && !refusal.is_for_load()
            && let Ok(_turn) = self.throwing_away.try_acquire()
        {
            messages.throw_away().await;
        }
        caller.answer(
            outcome.map(|app_metadata| stream::iter([Ok(PutResult { app_metadata })]).boxed()),
        )
    }

    async fn do_action(
        &self,
        request: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        let caller = self
            .reader(request.metadata(), request.extensions())
            .await?;
        let outcome = self.act(&caller, request.get_ref()).await;
        caller.answer(outcome.map(|body| {
            let results = body.map(|body| Ok(arrow_flight::Result { body }));
            stream::iter(results).boxed()
        }))
    }

    async fn list_actions(
        &self,
        request: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        let caller = self
            .caller(request.metadata(), request.extensions())
            .await?;
        caller.answer(Ok(stream::iter(action::listed().map(Ok)).boxed()))
    }

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        let caller = self
            .caller(request.metadata(), request.extensions())
            .await?;
        let refusal = Refusal::Unimplemented("nothing is exchanged here");
        caller.answer(Err(refusal))
    }
}

#[cfg(test)]
mod tests;
