//! `/v1/audit/schemas`: what is registered for the caller's streams, and what could be.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use catalog::context::TenantContext;
use catalog::guard::{self, Operation, Permit, SchemaRead, SchemaWrite};
use catalog::ids::StreamName;
use catalog::schema::{
    Comparison, Registered, Registration, Required, SchemaVersion, StreamSchemas, Upcaster,
};
use http::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::receipts::answer;
use super::router::Listener;
use super::{body, headers};
use crate::limits::Admitted;
use crate::problem::{Problem, Slug};

/// A schema may have 64 KiB, and its upcaster comes with it.
const BODY_BYTES_MAX: usize = 256 * 1024;
const JSON: &[&str] = &["application/json", "application/schema+json"];

/// What a schema is registered or checked with.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent<'a> {
    stream: String,
    version: SchemaVersion,
    #[serde(borrow)]
    schema: &'a RawValue,
    #[serde(default)]
    upcaster: Option<Upcaster>,
    #[serde(default)]
    required: Option<Required>,
}

/// All streams.
pub(super) async fn list(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
) -> Response {
    answer(listed(&listener, &caller.context).await, &caller)
}

/// One stream.
pub(super) async fn stream(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    Path(stream): Path<String>,
) -> Response {
    let found = of_stream(&listener, &caller.context, &stream).await;
    answer(found, &caller)
}

/// One version of a stream, or `latest`, with its text.
pub(super) async fn version(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    Path((stream, version)): Path<(String, String)>,
) -> Response {
    let found = of_version(&listener, &caller.context, &stream, &version).await;
    answer(found, &caller)
}

/// Says whether a schema could be registered.
pub(super) async fn check(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let found = checked(&listener, &caller.context, &parts.headers, body).await;
    answer(found, &caller)
}

/// Registers a version.
pub(super) async fn register(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let found = registered(&listener, &caller.context, &parts.headers, body).await;
    answer(found, &caller)
}

async fn allow<Op: Operation>(
    listener: &Listener,
    context: &TenantContext,
) -> Result<Permit<Op>, Problem> {
    let request = guard::Request::at(listener.silo.clone());
    let gate = &listener.service.gate;
    let permit = gate.authorize::<Op>(context, request).await?;
    permit.evidence_durable().await?;
    Ok(permit)
}

async fn listed(listener: &Listener, context: &TenantContext) -> Result<Value, Problem> {
    let permit = allow::<SchemaRead>(listener, context).await?;
    let all = listener.service.schemas.list(&permit).await?;
    let streams = all.streams.iter();
    let streams: Vec<Value> = streams
        .map(|(stream, schemas)| of(stream, schemas))
        .collect();
    Ok(json!({ "streams": streams }))
}

async fn of_stream(
    listener: &Listener,
    context: &TenantContext,
    stream: &str,
) -> Result<Value, Problem> {
    let permit = allow::<SchemaRead>(listener, context).await?;
    let all = listener.service.schemas.list(&permit).await?;
    let stream = StreamName::parse(stream).map_err(|_| nothing())?;
    let schemas = all.streams.get(&stream).ok_or_else(nothing)?;
    Ok(of(&stream, schemas))
}

async fn of_version(
    listener: &Listener,
    context: &TenantContext,
    stream: &str,
    version: &str,
) -> Result<Value, Problem> {
    let permit = allow::<SchemaRead>(listener, context).await?;
    let stream = StreamName::parse(stream).map_err(|_| nothing())?;
    let version = match version {
        "latest" => None,
        number => Some(SchemaVersion::parse(number).ok_or_else(nothing)?),
    };
    let schemas = &listener.service.schemas;
    let (known, text) = schemas.get(&permit, &stream, version).await?;
    let schema: Value = serde_json::from_str(&text)
        .map_err(|_| Problem::new(Slug::Internal, "the schema cannot be shown"))?;
    let mut shown = entry(&known);
    shown["stream"] = stream.as_str().into();
    shown["schema"] = schema;
    Ok(shown)
}

async fn checked(
    listener: &Listener,
    context: &TenantContext,
    headers: &HeaderMap,
    body: Body,
) -> Result<Value, Problem> {
    headers::check_media_type(headers, JSON)?;
    let permit = allow::<SchemaRead>(listener, context).await?;
    headers::check_uncompressed(headers)?;
    let registration = sent(listener, headers, body).await?;
    let schemas = &listener.service.schemas;
    Ok(compared(&schemas.check(&permit, &registration).await?))
}

async fn registered(
    listener: &Listener,
    context: &TenantContext,
    headers: &HeaderMap,
    body: Body,
) -> Result<Value, Problem> {
    headers::check_media_type(headers, JSON)?;
    let permit = allow::<SchemaWrite>(listener, context).await?;
    headers::check_uncompressed(headers)?;
    let registration = sent(listener, headers, body).await?;
    let service = &listener.service;
    let found = service.schemas.register(&permit, &registration).await?;
    let basis = format!("Schema.{} {}", registration.stream, registration.version);
    let noted = service
        .gate
        .note(&permit, "Schema.Registered", vec![basis])
        .await;
    noted?;
    Ok(compared(&found))
}

async fn sent(
    listener: &Listener,
    headers: &HeaderMap,
    body: Body,
) -> Result<Registration, Problem> {
    let mut share = listener.room.share();
    let bytes = body::read(headers, body, BODY_BYTES_MAX, &mut share).await?;
    let malformed = |what: String| {
        Problem::new(Slug::SchemaInvalid, "the schema was refused").with("reasons", vec![what])
    };
    let sent: Sent<'_> = serde_json::from_slice(&bytes)
        .map_err(|error| malformed(format!("the body, at line {}: needs stream, version and schema; may have upcaster and required, each as documented", error.line())))?;
    Ok(Registration {
        stream: StreamName::parse(&sent.stream)
            .map_err(|_| malformed("stream: is no name of a stream".to_owned()))?,
        version: sent.version,
        schema: sent.schema.get().as_bytes().to_vec(),
        upcaster: sent.upcaster,
        required: sent.required,
    })
}

fn nothing() -> Problem {
    Problem::new(Slug::NotFound, "there is no such schema")
}

fn compared(found: &Comparison) -> Value {
    json!(found)
}

fn of(stream: &StreamName, schemas: &StreamSchemas) -> Value {
    let versions: Vec<Value> = schemas.versions.iter().map(entry).collect();
    json!({ "stream": stream, "required": schemas.required, "versions": versions })
}

fn entry(known: &Registered) -> Value {
    json!({
        "version": known.version,
        "registeredAt": known.registered_at.to_string(),
        "digest": format!("sha256:{}", known.digest),
        "upcaster": known.upcaster,
        "deprecated": known.deprecated.map(|end| json!({
            "since": end.since.to_string(), "sunset": end.sunset.to_string(),
        })),
    })
}
