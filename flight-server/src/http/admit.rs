//! Who calls and whether they may call now, for every route that belongs to a tenant: before anything else of the
//! request is looked at.
//!
//! Handlers find the caller as an `Extension<Arc<Admitted>>`. Answers carry the three `RateLimit` fields of the IETF's
//! draft (draft-ietf-httpapi-ratelimit-headers): what may come at once, how much of that is left, and in how many
//! seconds all of it is there again.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use http::{HeaderMap, HeaderName, header};

use super::router::Listener;
use crate::limits::{Admitted, Class, Limited, Standing};
use crate::problem::Problem;

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// Around routes that take records in.
pub(super) async fn writes(
    State(listener): State<Listener>,
    request: Request,
    next: Next,
) -> Response {
    admit(&listener, Class::Write, request, next).await
}

/// Around routes that look at something, or decide of it.
pub(super) async fn reads(
    State(listener): State<Listener>,
    request: Request,
    next: Next,
) -> Response {
    admit(&listener, Class::Query, request, next).await
}

async fn admit(listener: &Listener, class: Class, mut request: Request, next: Next) -> Response {
    let service = &listener.service;
    let context = match service.context(request.headers()).await {
        Ok(context) => context,
        Err(problem) => return problem.into_response(),
    };
    let correlation = context.correlation().clone();
    let refused = |limited: Limited| {
        let standing = limited.standing;
        let problem = Problem::from(limited).correlated(&correlation);
        told(standing, problem.into_response())
    };
    let caller = match service.rates.admit(context, class) {
        Ok(caller) => Arc::new(caller),
        Err(limited) => return refused(limited),
    };
    let announced = announced(request.headers());
    if let Some(length) = announced {
        // More than any route takes is refused without being read: it costs as much as the most that is taken.
        let bytes = length.min(service.config.limits.batch_bytes_max);
        if let Err(limited) = caller.charge(bytes).await {
            return refused(limited);
        }
    }
    request.extensions_mut().insert(Arc::clone(&caller));
    let request = match announced {
        Some(_) => request,
        None => request.map(|body| charged(body, Arc::clone(&caller))),
    };
    told(caller.standing, next.run(request).await)
}

fn announced(headers: &HeaderMap) -> Option<usize> {
    let length = headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

/// A body of unknown length, charged as it arrives. What is not read is not taken from its sender either.
fn charged(body: Body, caller: Arc<Admitted>) -> Body {
    Body::from_stream(body.into_data_stream().then(move |chunk| {
        let caller = Arc::clone(&caller);
        async move {
            let chunk = chunk?;
            caller.charge(chunk.len()).await.map_err(axum::Error::new)?;
            Ok::<_, axum::Error>(chunk)
        }
    }))
}

/// The same answer, and where the tenant's requests stand.
pub(super) fn told(standing: Option<Standing>, mut response: Response) -> Response {
    if let Some(standing) = standing {
        let headers = response.headers_mut();
        headers.insert(LIMIT, standing.limit.into());
        headers.insert(REMAINING, standing.remaining.into());
        headers.insert(RESET, standing.reset_s.into());
    }
    response
}
