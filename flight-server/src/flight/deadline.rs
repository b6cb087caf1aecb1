//! The deadline that a client sends with a call (`grpc-timeout`): nobody waits for an answer after it, so nothing works
//! for one. A stream that meets it ends with DEADLINE_EXCEEDED, and what feeds it is dropped.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue};
use http_body::{Frame, SizeHint};
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tonic::Status;
use tower::{Layer, Service};

const HEADER: &str = "grpc-timeout";
/// The longest that is waited for; a longer deadline is none.
const TIMEOUT_MAX: Duration = Duration::from_hours(24);

/// Ends calls at the deadlines of their clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeadlineLayer;

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner }
    }
}

/// A service whose calls have deadlines.
#[derive(Clone, Debug)]
pub(crate) struct Deadline<S> {
    inner: S,
}

impl<S> Service<Request> for Deadline<S>
where
    S: Service<Request, Response = Response>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let timeout = timeout_of(request.headers());
        let answer = self.inner.call(request);
        let Some(timeout) = timeout else {
            return Box::pin(answer);
        };
        let end = Instant::now() + timeout;
        Box::pin(async move {
            match timeout_at(end, answer).await {
                Ok(answer) => Ok(answer?.map(|body| Body::new(Bounded::new(body, end)))),
                Err(_) => Ok(passed().into_http()),
            }
        })
    }
}

fn passed() -> Status {
    Status::deadline_exceeded("the deadline of this call has passed")
}

/// Eight digits at most, and a unit (gRPC over HTTP/2). What is malformed is no deadline.
fn timeout_of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(HEADER)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| is_number)?;
    let timeout = match unit {
        "H" => Duration::from_hours(number),
        "M" => Duration::from_mins(number),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    (timeout <= TIMEOUT_MAX).then_some(timeout)
}

/// A body up to its deadline. Then it is dropped, whether or not anybody asks for more of it.
struct Bounded {
    body: Arc<Mutex<Option<Body>>>,
    sleep: Pin<Box<Sleep>>,
    is_over: bool,
    timer: AbortHandle,
}

impl Bounded {
    fn new(body: Body, end: Instant) -> Self {
        let body = Arc::new(Mutex::new(Some(body)));
        let held = Arc::downgrade(&body);
        let timer = tokio::spawn(async move {
            sleep_until(end).await;
            if let Some(held) = held.upgrade() {
                let body = held.lock().unwrap_or_else(PoisonError::into_inner).take();
                drop(body);
            }
        });
        Self {
            body,
            sleep: Box::pin(sleep_until(end)),
            is_over: false,
            timer: timer.abort_handle(),
        }
    }

    fn body(&self) -> MutexGuard<'_, Option<Body>> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Bounded {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let own = self.get_mut();
        if own.is_over {
            return Poll::Ready(None);
        }
        let polled = own
            .body()
            .as_mut()
            .map(|body| Pin::new(body).poll_frame(context));
        if let Some(Poll::Ready(frame)) = polled {
            return Poll::Ready(frame);
        }
        if polled.is_some() {
            ready!(own.sleep.as_mut().poll(context));
        }
        own.is_over = true;
        drop(own.body().take());
        let mut trailers = HeaderMap::new();
        let status = passed();
        trailers.insert("grpc-status", HeaderValue::from(i32::from(status.code())));
        if let Ok(message) = HeaderValue::from_str(status.message()) {
            trailers.insert("grpc-message", message);
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body().as_ref().is_some_and(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::pending;

    use futures::stream::{self, StreamExt};
    use tower::{ServiceExt, service_fn};

    use super::*;

    fn with(timeout: &str) -> HeaderMap {
        HeaderMap::from_iter([(HEADER.parse().unwrap(), timeout.parse().unwrap())])
    }

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(timeout_of(&with("250m")), Some(Duration::from_millis(250)));
        assert_eq!(timeout_of(&with("1H")), Some(Duration::from_hours(1)));
        assert_eq!(
            timeout_of(&with("99999999n")),
            Some(Duration::from_nanos(99_999_999))
        );
        for none in [
            "",
            "m",
            "1",
            "1x",
            "-1S",
            "+1S",
            "123456789S",
            "1.5S",
            "99999999H",
        ] {
            assert_eq!(timeout_of(&with(none)), None, "{none}");
        }
        assert_eq!(timeout_of(&HeaderMap::new()), None);
    }

    fn request() -> Request {
        let mut request = Request::new(Body::empty());
        *request.headers_mut() = with("20m");
        request
    }

    #[tokio::test]
    async fn an_answer_that_does_not_come_is_a_refusal() {
        let never = service_fn(|_: Request| pending::<Result<Response, Infallible>>());
        let answer = DeadlineLayer.layer(never).oneshot(request()).await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "4");
    }

    #[tokio::test]
    async fn a_stream_that_does_not_end_ends_as_one_that_was_cut() {
        let endless = service_fn(async |_: Request| {
            let first = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"first"))]);
            let body = Body::from_stream(first.chain(stream::pending()));
            Ok::<_, Infallible>(Response::new(body))
        });
        let answer = DeadlineLayer
            .layer(endless)
            .oneshot(request())
            .await
            .unwrap();
        let mut body = answer.into_body();
        let mut frame = async || {
            let next = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context));
            next.await.map(Result::unwrap)
        };
        assert_eq!(frame().await.unwrap().into_data().unwrap(), "first");
        let trailers = frame().await.unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "4");
        assert!(frame().await.is_none());
    }
}
