//! `POST /v1/audit/records` and `POST /v1/audit/records:batch`.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use catalog::context::TenantContext;
use catalog::guard::{self, Permit, Write};
use catalog::ids::StreamName;
use engine::ingest::{IncomingRecord, Mode, Outcome};

use super::receipt::{Answer, label};
use super::router::Listener;
use super::{batch, body, headers};
use crate::limits::Admitted;
use crate::observe;
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
        Ok(Answer::Stored(receipt)) => Json(receipt).into_response(),
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
    match take_many(&listener, context, &parts, body).await {
        Ok(answers) => Json(batch::results(answers, context.correlation())).into_response(),
        Err(problem) => problem.correlated(context.correlation()).into_response(),
    }
}

async fn take_one(
    listener: &Listener,
    context: &TenantContext,
    parts: &Parts,
    body: Body,
) -> Result<Answer, Box<Problem>> {
    let permit = allow(listener, context, parts, JSON).await?;
    let idempotency_key = headers::idempotency_key(&parts.headers)?;
    let bytes_max = listener.service.config.limits.record_bytes_max;
    let json = body::read(&parts.headers, body, bytes_max).await?;
    let record = IncomingRecord {
        json,
        idempotency_key,
    };
    let outcomes = submit(listener, &permit, vec![record], Mode::Single).await?;
    let mut answers = outcomes
        .into_iter()
        .map(|outcome| Answer::of(outcome, context.tenant()));
    let unanswered = || Problem::new(Slug::Internal, "the record was not answered");
    Ok(answers.next().ok_or_else(unanswered)?)
}

async fn take_many(
    listener: &Listener,
    context: &TenantContext,
    parts: &Parts,
    body: Body,
) -> Result<Vec<Answer>, Box<Problem>> {
    let permit = allow(listener, context, parts, NDJSON).await?;
    let limits = &listener.service.config.limits;
    let body = body::read(&parts.headers, body, limits.batch_bytes_max).await?;
    let lines = batch::lines(&body, limits)?;
    let records: Vec<IncomingRecord> = lines.iter().filter_map(record_of).collect();
    let outcomes = submit(listener, &permit, records, Mode::Batch).await?;
    let sent = outcomes
        .into_iter()
        .map(|outcome| Answer::of(outcome, context.tenant()));
    Ok(batch::in_order(&lines, sent, limits))
}

/// A line's record. Its key is its own: one header cannot be the key of many.
fn record_of(line: &batch::Line) -> Option<IncomingRecord> {
    match line {
        batch::Line::Record(json) => Some(IncomingRecord {
            json: Bytes::clone(json),
            idempotency_key: None,
        }),
        batch::Line::TooLarge => None,
    }
}

/// Everything that is decided before the body is read.
async fn allow(
    listener: &Listener,
    context: &TenantContext,
    parts: &Parts,
    media_types: &[&str],
) -> Result<Permit<Write>, Problem> {
    headers::check_media_type(&parts.headers, media_types)?;
    headers::check_schema(&parts.headers)?;
    let stream = headers::stream(&parts.uri, &parts.headers)?;
    let request = guard::Request::at(listener.silo.clone())
        .with_stream(stream.unwrap_or_else(StreamName::audit_default));
    let gate = &listener.service.gate;
    Ok(gate.authorize::<Write>(context, request).await?)
}

async fn submit(
    listener: &Listener,
    permit: &Permit<Write>,
    records: Vec<IncomingRecord>,
    mode: Mode,
) -> Result<Vec<Outcome>, Problem> {
    if records.is_empty() {
        return Ok(Vec::new());
    }
    let started = Instant::now();
    let tenant = &permit.decision().tenant;
    let outcomes = listener
        .service
        .ingest
        .submit(permit, records, mode)
        .await?;
    // No receipt leaves before the evidence of the permission to write is as durable as the records.
    permit.evidence_durable().await?;
    observe::ingest_took(tenant, started.elapsed());
    for outcome in &outcomes {
        observe::ingested(tenant, label(outcome), 1);
    }
    Ok(outcomes)
}
