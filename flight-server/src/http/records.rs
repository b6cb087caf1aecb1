//! `POST /v1/audit/records` and `POST /v1/audit/records:batch`.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use catalog::context::TenantContext;
use catalog::guard::{self, Permit, Write};
use catalog::ids::StreamName;
use catalog::schema::TenantSchemas;
use engine::ingest::{IncomingRecord, Mode};

use super::body::Upload;
use super::receipt::Answer;
use super::router::Listener;
use super::{batch, body, headers, negotiation};
use crate::intake;
use crate::limits::Admitted;
use crate::problem::{Problem, Slug};

const JSON: &[&str] = &["application/json"];
const NDJSON: &[&str] = &[
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
];

/// Takes one record in.
pub(super) async fn one(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let context = &caller.context;
    match take_one(&listener, context, &parts, body).await {
        Ok(answer) => answer,
        Err(problem) => problem.correlated(context.correlation()).into_response(),
    }
}

/// Takes a batch in, line by line.
pub(super) async fn many(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let context = &caller.context;
    match take_many(&listener, &caller, &parts, body).await {
        Ok(answer) => answer,
        Err(problem) => problem.correlated(context.correlation()).into_response(),
    }
}

async fn take_one(
    listener: &Listener,
    context: &TenantContext,
    parts: &Parts,
    body: Body,
) -> Result<Response, Box<Problem>> {
    headers::check_media_type(&parts.headers, JSON)?;
    headers::check_uncompressed(&parts.headers)?;
    let (permit, schemas) = allow(listener, context, parts).await?;
    let idempotency_key = headers::idempotency_key(&parts.headers)?;
    let bytes_max = listener.service.config.limits.record_bytes_max;
    let mut share = listener.room.share();
    let text = body::read(&parts.headers, body, bytes_max, &mut share).await?;
    let record = IncomingRecord::Json {
        text,
        idempotency_key,
    };
    let outcomes = intake::take(&listener.service, &permit, vec![record], Mode::Single).await?;
    let mut answers = outcomes
        .into_iter()
        .map(|outcome| Answer::of(outcome, context.tenant()));
    let unanswered = || Problem::new(Slug::Internal, "the record was not answered");
    match answers.next().ok_or_else(unanswered)? {
        Answer::Stored(stored) => {
            let schema = stored.schema().into_iter();
            Ok(negotiation::told(&schemas, schema, &stored))
        }
        Answer::Problem(problem) => Err(problem),
    }
}

async fn take_many(
    listener: &Listener,
    caller: &Arc<Admitted>,
    parts: &Parts,
    body: Body,
) -> Result<Response, Box<Problem>> {
    let context = &caller.context;
    headers::check_media_type(&parts.headers, NDJSON)?;
    let coding = headers::coding(&parts.headers)?;
    let (permit, schemas) = allow(listener, context, parts).await?;
    let limits = &listener.service.config.limits;
    let share = listener.room.share();
    let caller = Arc::clone(caller);
    let upload = Upload::new(&parts.headers, body, coding, limits, share, caller)?;
    let (results, stopped) = batch::take(listener, context, &permit, upload).await;
    let results = results.answer(stopped)?;
    Ok(negotiation::told(&schemas, results.schemas(), &results))
}

/// Everything that is decided before the body is read, whatever it is, and what the tenant's records look like.
pub(super) async fn allow(
    listener: &Listener,
    context: &TenantContext,
    parts: &Parts,
) -> Result<(Permit<Write>, Arc<TenantSchemas>), Problem> {
    let stream = headers::stream(&parts.uri, &parts.headers)?;
    let stream = stream.unwrap_or_else(StreamName::audit_default);
    let request = guard::Request::at(listener.silo.clone()).with_stream(stream.clone());
    let service = &listener.service;
    let permit = service.gate.authorize::<Write>(context, request).await?;
    let schemas = service.schemas.of(permit.decision()).await?;
    negotiation::check_schema(&parts.headers, &schemas.majors(&stream))?;
    Ok((permit, schemas))
}
