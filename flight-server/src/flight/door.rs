//! What every call passes before its message is read: its caller is known, the message comes in time, and what is no
//! message is refused in our words.
//!
//! The gRPC server decodes the message of a call before it calls the service. Strangers would have it read sixteen
//! megabytes at a time, and be told by the decoder what was wrong with them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use futures::future::BoxFuture;
use http_body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::{Code, Status};
use tower::{Layer, Service as TowerService};

use super::limits::{MESSAGE_BYTES_MAX, MESSAGE_TIME_MAX, PROBE_TIME_MAX};
use crate::problem::{Problem, Slug};
use crate::service::Service;

const FLIGHT: &str = "/arrow.flight.protocol.FlightService/";
/// Shows who calls in a way of its own.
const HANDSHAKE: &str = "Handshake";
/// Read what they are sent as it comes.
const STREAMING: [&str; 3] = [HANDSHAKE, "DoPut", "DoExchange"];
const DETAILS: &str = "grpc-status-details-bin";
/// What comes to the same: asked by probes, without a token.
const HEALTH: &str = "/grpc.health.v1.Health/";

/// Lets known callers in.
#[derive(Clone, Debug)]
pub(crate) struct DoorLayer {
    service: Arc<Service>,
}

impl DoorLayer {
    /// For callers whom this service knows.
    pub(crate) fn new(service: Arc<Service>) -> Self {
        Self { service }
    }
}

impl<S> Layer<S> for DoorLayer {
    type Service = Door<S>;

    fn layer(&self, inner: S) -> Door<S> {
        Door {
            inner,
            service: Arc::clone(&self.service),
        }
    }
}

/// A gRPC service that known callers come to.
#[derive(Clone, Debug)]
pub(crate) struct Door<S> {
    inner: S,
    service: Arc<Service>,
}

impl<S> TowerService<Request> for Door<S>
where
    S: TowerService<Request, Response = Response> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let method = request.uri().path().strip_prefix(FLIGHT);
        let is_streaming = method.is_some_and(|method| STREAMING.contains(&method));
        if method == Some(HANDSHAKE) {
            return Box::pin(self.inner.call(request));
        }
        if request.uri().path().starts_with(HEALTH) {
            let hurried = request.map(|body| Body::new(Hurried::new(body, PROBE_TIME_MAX)));
            return Box::pin(self.inner.call(hurried));
        }
        // The one that is ready, and not its copy.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let service = Arc::clone(&self.service);
        Box::pin(async move {
            let (mut head, body) = request.into_parts();
            let context = match service.context(&head.headers).await {
                Ok(context) => context,
                Err(problem) => return Ok(Status::from(problem).into_http()),
            };
            let correlation = context.correlation().clone();
            head.extensions.insert(context);
            let body = if is_streaming {
                body
            } else {
                Body::new(Hurried::new(body, MESSAGE_TIME_MAX))
            };
            let answer = inner.call(Request::from_parts(head, body)).await?;
            Ok(match unread(&answer) {
                Some(problem) => Status::from(problem.correlated(&correlation)).into_http(),
                None => answer,
            })
        })
    }
}

/// What there is to say of a message that the gRPC server could not read. Refusals of the service have details, and
/// those of the server have none.
fn unread(answer: &Response) -> Option<Problem> {
    let code = answer.headers().get("grpc-status")?.as_bytes();
    if answer.headers().contains_key(DETAILS) {
        return None;
    }
    match Code::from_bytes(code) {
        Code::Internal | Code::Unknown | Code::Cancelled | Code::DataLoss => {
            let detail = "the message of this call cannot be read";
            Some(Problem::new(Slug::InvalidQuery, detail))
        }
        Code::OutOfRange | Code::ResourceExhausted => {
            let detail = format!("a message has at most {MESSAGE_BYTES_MAX} bytes");
            Some(Problem::new(Slug::PayloadTooLarge, detail))
        }
        _ => None,
    }
}

/// The one message of a call, which has so long to arrive.
struct Hurried {
    body: Body,
    sleep: Pin<Box<Sleep>>,
}

impl Hurried {
    fn new(body: Body, time_max: Duration) -> Self {
        Self {
            body,
            sleep: Box::pin(sleep(time_max)),
        }
    }
}

impl HttpBody for Hurried {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let own = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut own.body).poll_frame(context) {
            return Poll::Ready(frame);
        }
        match own.sleep.as_mut().poll(context) {
            Poll::Ready(()) => {
                let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
                Poll::Ready(Some(Err(axum::Error::new(late))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
