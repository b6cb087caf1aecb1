//! `/v1/exports`: records as files that prove themselves, made in the background and fetched when they are whole.
//!
//! ```text
//! POST   /v1/exports   {"stream": "..", "timeRange": {"from": "..", "to": ".."}, "filters": {"action": ["Login", ".."]},
//!                       "format": "parquet", "purpose": ".."}       202 and the export; 200 if it is under way already
//! GET    /v1/exports                         {"exports": [..]}, the caller's own, the newest first
//! GET    /v1/exports/<id>                    how far it has come, and its files once it is finished
//! DELETE /v1/exports/<id>                    calls it off
//! GET    /v1/exports/<id>/manifest           manifest.json as it was signed; the signature is a header
//! GET    /v1/exports/<id>/verify             every stored file, looked at again
//! GET    /v1/exports/<id>/files/<path>       a file of it, or a range of one
//! POST   /v1/exports/<id>/links              {"path": "..", "minutes": 60}; see `links`
//! ```
//! An export is for who asked for it. For everybody else there is none of that name.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use catalog::clock::Timestamp;
use catalog::guard::{self, Export, Permit};
use engine::export::{self, Asked, ExportId, Fault, Format, Job, MANIFEST, SIGNATURE, State as At};
use engine::query::listing::Listing;
use engine::query::strip_literals;
use futures::TryStreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::body;
use super::chosen::{self, TimeRange, invalid};
use super::fetch::Fetch;
use super::headers::kept_by_nobody;
use super::router::Listener;
use crate::limits::Admitted;
use crate::problem::{Problem, Slug};

/// The longest question.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// The longest signature; it has to fit into a header.
const SIGNATURE_BYTES_MAX: u64 = 4 * 1024;
const SIGNED: HeaderName = HeaderName::from_static("x-trailhouse-signature");
const BODY: &str = "the body is {\"stream\", \"timeRange\": {\"from\", \"to\"}, \"filters\": {..}, \"format\", \"purpose\"}: \
    stream and format are needed, and there is nothing else to say: tenant, silo, masks and policy are the server's to choose";

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Question {
    stream: String,
    #[serde(default)]
    time_range: TimeRange,
    #[serde(default)]
    filters: Map<String, Value>,
    format: String,
    purpose: Option<String>,
}

/// Takes an export in.
pub(super) async fn create(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    request: Request,
) -> Response {
    let (job, is_new) = match created(&listener, &caller, request).await {
        Ok(created) => created,
        Err(problem) => return refused(problem, &caller),
    };
    let status = match is_new {
        true => StatusCode::ACCEPTED,
        false => StatusCode::OK,
    };
    let mut answer = told(&listener, &job);
    *answer.status_mut() = status;
    if let Ok(place) = HeaderValue::from_str(&format!("/v1/exports/{}", job.id())) {
        answer.headers_mut().insert(header::LOCATION, place);
    }
    answer
}

/// All of the caller's.
pub(super) async fn list(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
) -> Response {
    let found = async {
        let permit = looking(&listener, &caller).await?;
        Ok(listener.service.exports.list(&permit).await?)
    };
    match found.await {
        Ok(jobs) => {
            let now = listener.service.clock.now();
            let jobs: Vec<_> = jobs.iter().map(|job| as_json(job, now)).collect();
            kept_by_nobody(Json(json!({ "exports": jobs })))
        }
        Err(problem) => refused(problem, &caller),
    }
}

/// One export.
pub(super) async fn show(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    Path(id): Path<String>,
) -> Response {
    let found = async {
        let permit = looking(&listener, &caller).await?;
        let id = named(&id)?;
        Ok(listener.service.exports.show(&permit, &id).await?)
    };
    match found.await {
        Ok(job) => told(&listener, &job),
        Err(problem) => refused(problem, &caller),
    }
}

/// Calls an export off.
pub(super) async fn cancel(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    Path(id): Path<String>,
) -> Response {
    let cancelled = async {
        let permit = acting(&listener, &caller).await?;
        let id = named(&id)?;
        Ok(listener.service.exports.cancel(&permit, &id).await?)
    };
    match cancelled.await {
        Ok(job) => told(&listener, &job),
        Err(problem) => refused(problem, &caller),
    }
}

/// What was signed, and the signature.
pub(super) async fn manifest(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    Path(id): Path<String>,
    (method, headers): (Method, HeaderMap),
) -> Response {
    let found = async {
        let permit = looking(&listener, &caller).await?;
        let (exports, id) = (&listener.service.exports, named(&id)?);
        let file = exports.file(&permit, &id, MANIFEST).await?;
        let signature = exports.file(&permit, &id, SIGNATURE).await?;
        if signature.bytes > SIGNATURE_BYTES_MAX {
            return Err(export::Error::Internal.into());
        }
        let parts: Vec<_> = signature.read(0..signature.bytes).try_collect().await?;
        let signature = parts.concat();
        let signature = HeaderValue::from_bytes(signature.trim_ascii_end());
        let signature = signature.map_err(|_| export::Error::Internal)?;
        Ok((file, signature))
    };
    match found.await {
        Ok((file, signature)) => {
            let fetch = Fetch::of(&file, &method, &headers);
            let mut answer = fetch.answer(&file, caller.context.correlation()).await;
            answer.headers_mut().insert(SIGNED, signature);
            answer
        }
        Err(problem) => refused(problem, &caller),
    }
}

/// Whether all that is stored is what was made.
pub(super) async fn verify(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    Path(id): Path<String>,
) -> Response {
    let report = async {
        let permit = looking(&listener, &caller).await?;
        let id = named(&id)?;
        let report = listener.service.exports.verify(&permit, &id).await?;
        Ok(report.to_json(&id))
    };
    match report.await {
        Ok(report) => kept_by_nobody(Json(report)),
        Err(problem) => refused(problem, &caller),
    }
}

/// A file, or a range of it.
pub(super) async fn file(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    Path((id, path)): Path<(String, String)>,
    (method, headers): (Method, HeaderMap),
) -> Response {
    let service = &listener.service;
    let found = async {
        let permit = looking(&listener, &caller).await?;
        let id = named(&id)?;
        let file = service.exports.file(&permit, &id, &path).await?;
        let fetch = Fetch::of(&file, &method, &headers);
        if fetch.sends() {
            // Records leave here, so evidence says which before the first of them.
            let about = vec![format!("Export.{id}"), format!("File.{path}")];
            service.gate.note(&permit, "Export.Fetched", about).await?;
        }
        Ok((file, fetch))
    };
    match found.await {
        Ok((file, fetch)) => fetch.answer(&file, caller.context.correlation()).await,
        Err(problem) => refused(problem, &caller),
    }
}

async fn created(
    listener: &Listener,
    caller: &Admitted,
    request: Request,
) -> Result<(Job, bool), Problem> {
    let asked = asked(listener, request).await?;
    let service = &listener.service;
    // Which columns are compared; the values are parameters, and in no text.
    let (sql, _) = asked.listing().page(None, 1);
    let statement = || strip_literals(&sql);
    let request = guard::Request::at(listener.silo.clone())
        .with_stream(asked.stream.clone())
        .with_statement(statement());
    let permit = service.gate.authorize::<Export>(&caller.context, request);
    let permit = permit.await?;
    let created = service.exports.create(&permit, &caller.context, asked);
    let error = match created.await {
        Ok(created) => return Ok(created),
        Err(export::Error::Query(error)) => {
            let permit = permit.reading();
            return Err(service.refused(&caller.context, &permit, &sql, error));
        }
        Err(error) => error,
    };
    let is_the_requests = matches!(
        error,
        export::Error::Invalid { .. }
            | export::Error::UnsupportedFormat { .. }
            | export::Error::TooMany { .. }
            | export::Error::TooLarge { .. }
    );
    let problem = Problem::from(error);
    if is_the_requests {
        let slug = problem.slug().as_str();
        service.gate.refused(&permit, slug, Some(statement()));
    }
    Err(problem)
}

async fn asked(listener: &Listener, request: Request) -> Result<Asked, Problem> {
    let mut share = listener.room.share();
    let text = body::json(request, BODY_BYTES_MAX, &mut share).await?;
    let question: Question = serde_json::from_slice(&text).map_err(|_| invalid(BODY))?;
    let stream = chosen::stream(&question.stream)?;
    let mut listing = Listing::default();
    question.time_range.narrow(&mut listing)?;
    chosen::filters(&mut listing, question.filters)?;
    let format = Format::parse(&question.format).ok_or_else(|| {
        let detail = "a format is parquet or ndjson";
        Problem::new(Slug::ExportUnsupportedFormat, detail)
    })?;
    Ok(Asked {
        stream,
        from: listing.from,
        until: listing.until,
        filters: listing.filters,
        format,
        purpose: question.purpose,
    })
}

/// For whoever looks at what was put into evidence when it was asked for.
async fn looking(listener: &Listener, caller: &Admitted) -> Result<Permit<Export>, Problem> {
    let request = guard::Request::at(listener.silo.clone());
    let gate = &listener.service.gate;
    Ok(gate.authorize_quietly(&caller.context, request).await?)
}

/// For whoever does something.
pub(super) async fn acting(
    listener: &Listener,
    caller: &Admitted,
) -> Result<Permit<Export>, Problem> {
    let request = guard::Request::at(listener.silo.clone());
    let gate = &listener.service.gate;
    Ok(gate.authorize(&caller.context, request).await?)
}

/// The export of this name. What is no name is the name of none.
pub(super) fn named(id: &str) -> Result<ExportId, Problem> {
    ExportId::parse(id).ok_or_else(|| export::Error::NotFound.into())
}

pub(super) fn refused(problem: Problem, caller: &Admitted) -> Response {
    let problem = problem.correlated(caller.context.correlation());
    problem.into_response()
}

fn told(listener: &Listener, job: &Job) -> Response {
    kept_by_nobody(Json(as_json(job, listener.service.clock.now())))
}

fn as_json(job: &Job, now: Timestamp) -> Value {
    let asked = job.asked();
    let moment = |moment: Option<Timestamp>| moment.map(|moment| moment.to_string());
    let is_there = job.state() == At::Finished && job.expires_at().is_some_and(|end| end > now);
    let files = job
        .files()
        .filter(|_| is_there)
        .map(|(path, bytes, sha256)| {
            let href = format!("/v1/exports/{}/files/{path}", job.id());
            json!({ "path": path, "bytes": bytes, "sha256": sha256, "href": href })
        });
    json!({
        "exportId": job.id(),
        "state": job.state().as_str(),
        "stream": asked.stream.as_str(),
        "timeRange": { "from": moment(asked.from), "to": moment(asked.until) },
        "filters": asked.filters,
        "format": asked.format.as_str(),
        "purpose": asked.purpose,
        "policyVersion": job.policy_version(),
        "maskProfile": job.mask_profile(),
        "createdAt": job.created_at().to_string(),
        "startedAt": moment(job.started_at()),
        "endedAt": moment(job.ended_at()),
        "expiresAt": moment(job.expires_at()),
        "progress": progress(job, now),
        "error": job.fault().map(fault),
        "files": files.collect::<Vec<_>>(),
    })
}

fn fault(fault: &Fault) -> Value {
    let slug = Slug::parse(&fault.slug).unwrap_or(Slug::Internal);
    json!({ "type": slug.type_uri(), "slug": slug.as_str(), "detail": fault.detail })
}

fn progress(job: &Job, now: Timestamp) -> Value {
    let done = job.progress();
    let total = job.records();
    let percent = match (job.state(), total) {
        (At::Finished, _) => Some(100),
        (_, Some(total)) => done.records.saturating_mul(100).checked_div(total),
        (_, None) => None,
    };
    let eta = match (job.state(), total, job.started_at()) {
        (At::Running, Some(total), Some(started)) => {
            let left = total.saturating_sub(done.records);
            eta_s(done.records, left, now.as_micros() - started.as_micros())
        }
        _ => None,
    };
    json!({
        "records": done.records,
        "recordsTotal": total,
        "bytes": done.bytes,
        "percent": percent.map(|percent| percent.min(100)),
        "etaSeconds": eta,
    })
}

/// How long the rest takes if it goes on as it did.
fn eta_s(done: u64, left: u64, took_us: i64) -> Option<u64> {
    let took_us = u128::try_from(took_us).ok()?;
    let rest_us = (took_us * u128::from(left)).checked_div(u128::from(done))?;
    u64::try_from(rest_us.div_ceil(1_000_000)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_takes_as_long_as_what_was_done() {
        assert_eq!(eta_s(10, 30, 2_000_000), Some(6));
        assert_eq!(eta_s(3, 1, 1_000_000), Some(1));
        assert_eq!(eta_s(7, 0, 1_000_000), Some(0));
        // Nothing is known before the first record, or by a clock that was set back.
        assert_eq!(eta_s(0, 30, 2_000_000), None);
        assert_eq!(eta_s(10, 30, -1), None);
        assert_eq!(eta_s(1, u64::MAX, i64::MAX), None);
    }

    #[test]
    fn what_is_not_known_any_more_is_a_fault_of_ours() {
        let told = |slug: &str| {
            let detail = "why".to_owned();
            let slug = slug.to_owned();
            fault(&Fault { slug, detail })["slug"].clone()
        };
        assert_eq!(told("payload-too-large"), "payload-too-large");
        assert_eq!(told("forgotten"), "internal");
    }
}
