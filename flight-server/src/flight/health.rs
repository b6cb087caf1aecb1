//! gRPC health checking, as load balancers and orchestrators ask for it: without a token, and told nothing but whether
//! this process serves.

use std::sync::Arc;

use arrow_flight::flight_service_server::FlightServiceServer;
use futures::stream::BoxStream;
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::TrailhouseFlight;
use crate::service::Service;

/// What a probe sends is the name of a service.
const PROBE_BYTES_MAX: usize = 1_024;

/// Answers what probes of a Flight listener ask.
#[derive(Debug)]
pub struct Probes {
    service: Arc<Service>,
}

/// The health service of a Flight listener.
#[must_use]
pub fn health_service(service: Arc<Service>) -> HealthServer<Probes> {
    HealthServer::new(Probes { service }).max_decoding_message_size(PROBE_BYTES_MAX)
}

#[tonic::async_trait]
impl Health for Probes {
    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let asked = request.get_ref().service.as_str();
        let flight = FlightServiceServer::<TrailhouseFlight>::NAME;
        if !["", flight].contains(&asked) {
            return Err(Status::not_found("there is no such service"));
        }
        let status = match self.service.readiness().await {
            Ok(()) => ServingStatus::Serving,
            Err(_) => ServingStatus::NotServing,
        };
        Ok(Response::new(HealthCheckResponse {
            status: status.into(),
        }))
    }

    /// Whoever may ask without a token gets nothing that lasts.
    async fn watch(
        &self,
        _request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("ask with Check, as often as needed"))
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::world::World;

    #[tokio::test]
    async fn a_stopping_process_does_not_serve() {
        let world = World::new().await;
        let probes = Probes {
            service: Arc::clone(&world.service),
        };
        let check = async |service: &str| {
            let service = service.to_owned();
            let answer = probes.check(Request::new(HealthCheckRequest { service }));
            answer.await.map(|answer| answer.get_ref().status())
        };
        for service in ["", "arrow.flight.protocol.FlightService"] {
            assert_eq!(check(service).await.unwrap(), ServingStatus::Serving);
        }
        let other = check("grpc.reflection.v1.ServerReflection").await;
        assert_eq!(other.unwrap_err().code(), Code::NotFound);
        world.service.stop();
        assert_eq!(check("").await.unwrap(), ServingStatus::NotServing);
    }
}
