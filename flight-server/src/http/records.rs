//! `POST /v1/audit/records` and `POST /v1/audit/records:batch`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use catalog::context::TenantContext;
use catalog::guard::{self, Permit, Write};
use catalog::ids::StreamName;
use engine::ingest::{IncomingRecord, Mode};

use super::batch::Results;
use super::body::Upload;
use super::receipt::Answer;
use super::router::Listener;
use super::{batch, body, headers};
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
    let answer = take_one(&listener, context, &parts, body).await;
    match answer {
        Ok(Answer::Stored(stored)) => Json(stored).into_response(),
        Ok(Answer::Problem(problem)) | Err(problem) => {
            problem.correlated(context.correlation()).into_response()
        }
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
        Ok(answer) => Json(answer).into_response(),
        Err(problem) => problem.correlated(context.correlation()).into_response(),
    }
}

async fn take_one(
    listener: &Listener,
    context: &TenantContext,
    parts: &Parts,
    body: Body,
) -> Result<Answer, Box<Problem>> {
    headers::check_media_type(&parts.headers, JSON)?;
    headers::check_uncompressed(&parts.headers)?;
    let permit = allow(listener, context, parts).await?;
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
    Ok(answers.next().ok_or_else(unanswered)?)
}

async fn take_many(
    listener: &Listener,
    caller: &Arc<Admitted>,
    parts: &Parts,
    body: Body,
) -> Result<Results, Box<Problem>> {
    let context = &caller.context;
    headers::check_media_type(&parts.headers, NDJSON)?;
    let coding = headers::coding(&parts.headers)?;
    let permit = allow(listener, context, parts).await?;
    let limits = &listener.service.config.limits;
    let share = listener.room.share();
    let caller = Arc::clone(caller);
    let upload = Upload::new(&parts.headers, body, coding, limits, share, caller)?;
    let (results, stopped) = batch::take(listener, context, &permit, upload).await;
    Ok(results.answer(stopped)?)
}

/// Everything that is decided before the body is read, whatever it is.
pub(super) async fn allow(
    listener: &Listener,
    context: &TenantContext,
    parts: &Parts,
) -> Result<Permit<Write>, Problem> {
    headers::check_schema(&parts.headers)?;
    let stream = headers::stream(&parts.uri, &parts.headers)?;
    let request = guard::Request::at(listener.silo.clone())
        .with_stream(stream.unwrap_or_else(StreamName::audit_default));
    let gate = &listener.service.gate;
    Ok(gate.authorize::<Write>(context, request).await?)
}
