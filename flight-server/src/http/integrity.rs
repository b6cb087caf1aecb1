//! What others check a tenant's records by, without trusting this server.
//!
//! ```text
//! GET /v1/audit/integrity/<stream>/checkpoint                        a signed note (C2SP tlog-checkpoint)
//! GET /v1/audit/integrity/<stream>/tile/<L>/<N>[.p/<W>]              hashes (C2SP tlog-tiles); they never change
//! GET /v1/audit/integrity/<stream>/keys                              the keys that sign, a signed-note verifier key a line
//! GET /v1/audit/integrity/<stream>/proof/consistency?from=&to=       JSON; without `to` up to the newest checkpoint
//! GET /v1/audit/integrity/<stream>/proof/inclusion?record=<id>       JSON, without the record
//! GET /v1/audit/records/<id>/proof                                   JSON that a person can keep, with what they may see
//! ```
//! All of it counts rows, so it is for callers whom no row policy hides any.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use catalog::guard::{self, Denial, OperationKind, Permit, Read};
use catalog::ids::{RecordId, StreamName};
use engine::proof::{self, LogName, RecordProof};
use engine::seal::TileId;
use http::{HeaderValue, header};
use serde_json::json;

use super::receipts::{allow, answer};
use super::router::Listener;
use crate::limits::Admitted;
use crate::problem::{Problem, Slug};

/// Tiles are kept by whoever fetched them, and by nobody in between.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("private, max-age=31536000, immutable");
const NOT_KEPT: HeaderValue = HeaderValue::from_static("no-store");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// The newest checkpoint.
pub(super) async fn checkpoint(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    Path(stream): Path<String>,
) -> Response {
    let told = async {
        let log = log_of(&listener, &caller, &stream).await?;
        let found = listener.service.logs.checkpoint(&log).await?;
        Ok(found.ok_or_else(no_log)?.to_text())
    };
    text(told.await, &caller)
}

/// The keys that sign the checkpoints.
pub(super) async fn keys(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    Path(stream): Path<String>,
) -> Response {
    let told = async {
        let log = log_of(&listener, &caller, &stream).await?;
        let logs = &listener.service.logs;
        logs.checkpoint(&log).await?.ok_or_else(no_log)?;
        let (origin, keys) = (logs.origin(&log).await?, logs.public_keys(&log).await?);
        let lines = keys.iter().map(|(_, key)| {
            let key = origin.verifier_key(key).map_err(proof::Error::from)?;
            Ok(format!("{key}\n"))
        });
        lines.collect::<Result<String, Problem>>()
    };
    text(told.await, &caller)
}

/// One tile.
pub(super) async fn tile(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    Path((stream, tile)): Path<(String, String)>,
) -> Response {
    let told = async {
        let log = log_of(&listener, &caller, &stream).await?;
        let tile = TileId::parse(&format!("tile/{tile}")).ok_or_else(no_tile)?;
        let found = listener.service.logs.tile(&log, tile).await?;
        found.ok_or_else(no_tile)
    };
    match told.await {
        Ok(bytes) => {
            let headers = [
                (header::CONTENT_TYPE, BYTES),
                (header::CACHE_CONTROL, IMMUTABLE),
            ];
            (headers, bytes).into_response()
        }
        Err(problem) => refused(problem, &caller),
    }
}

/// That the log has only grown.
pub(super) async fn consistency(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    Path(stream): Path<String>,
    request: Request,
) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let told = async {
        let [from, to] = parameters(query, ["from", "to"])?;
        let from = from.ok_or_else(|| invalid("the parameter from is missing: the older size"))?;
        let log = log_of(&listener, &caller, &stream).await?;
        let logs = &listener.service.logs;
        let newest = logs.checkpoint(&log).await?.ok_or_else(no_log)?;
        let to = match to {
            Some(to) => size(&to)?,
            None => newest.checkpoint().size,
        };
        let found = logs.consistency(&log, size(&from)?, to).await?;
        let too_far = "from is at most to, and to at most the size of the newest checkpoint";
        Ok(json!(found.ok_or_else(|| invalid(too_far))?))
    };
    answer(told.await, &caller)
}

/// That a record is in the log, without the record.
pub(super) async fn inclusion(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    Path(stream): Path<String>,
    request: Request,
) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let told = async {
        let [id, _] = parameters(query, ["record", ""])?;
        let id =
            id.ok_or_else(|| invalid("the parameter record is missing: the id of a record"))?;
        let proof = proven(&listener, &caller, &id).await?;
        if proof.stream().as_str() == stream {
            Ok(proof.inclusion())
        } else {
            Err(no_record())
        }
    };
    answer(told.await, &caller)
}

/// A record's proof.
pub(super) async fn record(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    Path(id): Path<String>,
) -> Response {
    let told = proven(&listener, &caller, &id).await;
    answer(told.map(|proof| json!(proof)), &caller)
}

async fn proven(listener: &Listener, caller: &Admitted, id: &str) -> Result<RecordProof, Problem> {
    let request = guard::Request::at(listener.silo.clone());
    let gate = &listener.service.gate;
    let permit: Permit<Read> = gate.authorize(&caller.context, request).await?;
    sees_all(listener, caller, &permit).await?;
    // What is no name of a record is the name of none.
    let id = RecordId::parse(id).map_err(|_| no_record())?;
    let found = listener.service.logs.record(&permit, id).await?;
    let proof = found.ok_or_else(no_record)?;
    // A record leaves here, so evidence says which.
    let basis = vec![format!("Record.{id}")];
    gate.note(&permit, "Record.Proven", basis).await?;
    permit.evidence_durable().await?;
    Ok(proof)
}

/// The log of a stream, if the caller may know how many records it has.
async fn log_of(listener: &Listener, caller: &Admitted, stream: &str) -> Result<LogName, Problem> {
    let permit = allow(listener, caller).await?;
    sees_all(listener, caller, &permit).await?;
    let stream = StreamName::parse(stream).map_err(|_| no_log())?;
    let decision = permit.decision();
    if stream == StreamName::evidence() && !decision.may_see_evidence {
        return Err(no_log());
    }
    Ok(LogName {
        tenant: decision.tenant.clone(),
        silo: decision.silo.clone(),
        stream,
    })
}

async fn sees_all(
    listener: &Listener,
    caller: &Admitted,
    permit: &Permit<Read>,
) -> Result<(), Problem> {
    if permit.decision().rows.is_none() {
        return Ok(());
    }
    let denial = Denial::Forbidden {
        needs: "a role without a row policy: proofs count all rows",
    };
    let gate = &listener.service.gate;
    let denied = gate.deny(&caller.context, OperationKind::Read, denial, None);
    Err(denied.await.into())
}

/// The parameters of these names, each at most once, and no others.
fn parameters<const N: usize>(
    query: &str,
    names: [&str; N],
) -> Result<[Option<String>; N], Problem> {
    let mut found = [const { None }; N];
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let at = names
            .iter()
            .position(|known| !known.is_empty() && *known == name);
        let slot = at.and_then(|at| found.get_mut(at));
        match slot {
            Some(slot @ None) => *slot = Some(value.into_owned()),
            Some(Some(_)) => return Err(invalid("a parameter is there twice")),
            None => return Err(invalid("a parameter has a name that is not known here")),
        }
    }
    Ok(found)
}

fn size(text: &str) -> Result<u64, Problem> {
    text.parse()
        .map_err(|_| invalid("a size is a number of leaves"))
}

fn text(told: Result<String, Problem>, caller: &Admitted) -> Response {
    match told {
        Ok(text) => {
            let headers = [
                (header::CONTENT_TYPE, TEXT),
                (header::CACHE_CONTROL, NOT_KEPT),
            ];
            (headers, text).into_response()
        }
        Err(problem) => refused(problem, caller),
    }
}

fn refused(problem: Problem, caller: &Admitted) -> Response {
    let problem = problem.correlated(caller.context.correlation());
    problem.into_response()
}

fn invalid(detail: &'static str) -> Problem {
    Problem::new(Slug::InvalidQuery, detail)
}

fn no_log() -> Problem {
    Problem::new(Slug::NotFound, "there is no log of this stream")
}

fn no_tile() -> Problem {
    Problem::new(Slug::NotFound, "the log has no such tile")
}

fn no_record() -> Problem {
    Problem::new(Slug::NotFound, "there is no such record")
}
