//! Flight calls, observed like HTTP requests: a layer around the gRPC server.
//!
//! A call is over here when its first answer is ready; what it streams afterwards is the stream's to count.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response};
use tower::{Layer, Service as TowerService};

use super::{CORRELATION_ID, Seen, observed};
use crate::problem::REQUEST_ID;
use crate::service::Service;

/// Wraps a gRPC server's services.
#[derive(Clone, Debug)]
pub struct ObserveLayer {
    service: Arc<Service>,
}

impl ObserveLayer {
    /// A layer that gets its correlation ids like the rest of this service.
    #[must_use]
    pub fn new(service: Arc<Service>) -> Self {
        Self { service }
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed {
            inner,
            service: Arc::clone(&self.service),
        }
    }
}

/// A service whose calls are observed.
#[derive(Clone, Debug)]
pub struct Observed<S> {
    inner: S,
    service: Arc<Service>,
}

impl<S, B, R> TowerService<Request<B>> for Observed<S>
where
    S: TowerService<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let correlation = self
            .service
            .ingress(request.headers())
            .correlation()
            .clone();
        let id = HeaderValue::from_str(correlation.as_str()).ok();
        if let Some(id) = &id {
            request.headers_mut().insert(CORRELATION_ID, id.clone());
        }
        let route = route(request.uri().path());
        let seen = Seen {
            transport: "flight",
            route,
            correlation,
            quiet: route == HEALTH,
        };
        let work = self.inner.call(request);
        Box::pin(observed(
            seen,
            async move {
                let mut response = work.await?;
                if let Some(id) = id {
                    response.headers_mut().insert(REQUEST_ID, id);
                }
                Ok(response)
            },
            outcome,
        ))
    }
}

/// A refusal is all headers; an answer that has a body has begun well.
fn outcome<R, E>(answer: &Result<Response<R>, E>) -> String {
    let code = |headers: &HeaderMap| {
        let code = headers.get("grpc-status")?.to_str().ok()?;
        Some(tonic::Code::from(code.parse::<i32>().ok()?))
    };
    match answer {
        Ok(response) => {
            let code = code(response.headers()).unwrap_or(tonic::Code::Ok);
            format!("{code:?}")
        }
        Err(_) => "broken".to_owned(),
    }
}

/// What probes ask, every few seconds.
const HEALTH: &str = "Health";

/// The method's name, if it is one of Flight's.
fn route(path: &str) -> &'static str {
    const METHODS: &[&str] = &[
        "Handshake",
        "ListFlights",
        "GetFlightInfo",
        "PollFlightInfo",
        "GetSchema",
        "DoGet",
        "DoPut",
        "DoAction",
        "ListActions",
        "DoExchange",
    ];
    if path == "/grpc.health.v1.Health/Check" {
        return HEALTH;
    }
    let name = path.strip_prefix("/arrow.flight.protocol.FlightService/");
    let known = METHODS.iter().find(|method| Some(**method) == name);
    known.copied().unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_methods_of_flight_are_routes() {
        assert_eq!(route("/arrow.flight.protocol.FlightService/DoGet"), "DoGet");
        assert_eq!(
            route("/arrow.flight.protocol.FlightService/Nothing"),
            "other"
        );
        assert_eq!(route("/DoGet"), "other");
        assert_eq!(route("/grpc.health.v1.Health/Check"), "Health");
    }

    #[test]
    fn the_outcome_is_the_code() {
        let refused = tonic::Status::permission_denied("no").into_http::<tonic::body::Body>();
        assert_eq!(outcome::<_, ()>(&Ok(refused)), "PermissionDenied");
        let answered = Response::new(tonic::body::Body::empty());
        assert_eq!(outcome::<_, ()>(&Ok(answered)), "Ok");
    }
}
