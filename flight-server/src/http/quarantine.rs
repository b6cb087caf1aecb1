//! `/v1/audit/quarantine`: what was kept aside, and what becomes of it.
//!
//! ```text
//! GET  /v1/audit/quarantine?state=open&limit=100&cursor=<id>   {"entries": [..], "cursor": ..}
//! GET  /v1/audit/quarantine/<id>
//! POST /v1/audit/quarantine/<id>:release   {"reason": ".."}    the receipt of the record
//! POST /v1/audit/quarantine/<id>:discard   {"reason": ".."}
//! ```

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use catalog::guard::{self, Operation, Permit, QuarantineDecide, QuarantineRead};
use catalog::ids::RecordId;
use engine::ingest::{self, Entry, Filter, PAGE_MAX};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::body;
use super::receipt::Stored;
use super::router::Listener;
use crate::limits::Admitted;
use crate::problem::{Problem, Slug};

const PAGE_DEFAULT: usize = 100;
/// The longest body of a decision.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// Characters of a reason.
const REASON_CHARACTERS_MAX: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decision {
    reason: String,
}

/// Some entries.
pub(super) async fn list(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    request: Request,
) -> Response {
    let query = request.uri().query().unwrap_or_default();
    answer(page(&listener, &caller, query).await, &caller)
}

/// One entry.
pub(super) async fn show(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    Path(entry): Path<String>,
) -> Response {
    answer(shown(&listener, &caller, &entry).await, &caller)
}

/// Releases or discards one entry.
pub(super) async fn decide(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    Path(act): Path<String>,
    request: Request,
) -> Response {
    answer(decided(&listener, &caller, &act, request).await, &caller)
}

async fn page(listener: &Listener, caller: &Admitted, query: &str) -> Result<Value, Problem> {
    let filter = filter(query)?;
    let permit = allow::<QuarantineRead>(listener, caller).await?;
    let page = listener.service.review.entries(&permit, filter).await?;
    let entries: Vec<Value> = page.entries.iter().map(json_of).collect();
    Ok(json!({"entries": entries, "cursor": page.next}))
}

async fn shown(listener: &Listener, caller: &Admitted, entry: &str) -> Result<Value, Problem> {
    let permit = allow::<QuarantineRead>(listener, caller).await?;
    let entry = listener.service.review.entry(&permit, id(entry)?).await?;
    let mut shown = json_of(&entry);
    if let Some(key) = entry.idempotency_key {
        shown["idempotencyKey"] = key.into();
    }
    if let Some(text) = entry.payload {
        // It is text of ours; if it ever were none, it is shown as it lies there.
        let payload = serde_json::from_str(&text);
        shown["payload"] = payload.unwrap_or_else(|_| Value::from(text.as_str()));
    }
    Ok(shown)
}

async fn decided(
    listener: &Listener,
    caller: &Admitted,
    act: &str,
    request: Request,
) -> Result<Value, Problem> {
    let (entry, verb) = act.split_once(':').ok_or_else(no_such_act)?;
    let state = match verb {
        "release" => ingest::State::Released,
        "discard" => ingest::State::Discarded,
        _ => return Err(no_such_act()),
    };
    let permit = allow::<QuarantineDecide>(listener, caller).await?;
    let reason = reason(listener, request).await?;
    let entry = id(entry)?;
    let review = &listener.service.review;
    let mut answer = json!({"entryId": entry, "state": state.as_str()});
    let act = if state == ingest::State::Released {
        let receipt = review.release(&permit, entry, &reason).await?;
        answer["record"] = json!(Stored::new(receipt, caller.context.tenant()));
        "Quarantine.Released"
    } else {
        review.discard(&permit, entry, &reason).await?;
        "Quarantine.Discarded"
    };
    // Its words may hold anything: they stand with the entry, and the evidence holds them to it.
    let digest = hexadecimal(&Sha256::digest(reason.as_bytes()));
    let basis = vec![format!("Entry.{entry}"), format!("Reason.sha256:{digest}")];
    listener.service.gate.note(&permit, act, basis).await?;
    Ok(answer)
}

async fn allow<Op: Operation>(
    listener: &Listener,
    caller: &Admitted,
) -> Result<Permit<Op>, Problem> {
    let request = guard::Request::at(listener.silo.clone());
    let gate = &listener.service.gate;
    Ok(gate.authorize::<Op>(&caller.context, request).await?)
}

fn answer(outcome: Result<Value, Problem>, caller: &Admitted) -> Response {
    match outcome {
        Ok(answer) => Json(answer).into_response(),
        Err(problem) => problem
            .correlated(caller.context.correlation())
            .into_response(),
    }
}

fn filter(query: &str) -> Result<Filter, Problem> {
    let invalid = |detail: String| Problem::new(Slug::InvalidQuery, detail);
    let mut filter = Filter {
        state: None,
        limit: PAGE_DEFAULT,
        before: None,
    };
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "state" if value == "all" => filter.state = None,
            "state" => {
                let state = ingest::State::parse(&value);
                let known = || invalid("state is open, released, discarded or all".to_owned());
                filter.state = Some(state.ok_or_else(known)?);
            }
            "limit" => {
                let limit = value
                    .parse()
                    .ok()
                    .filter(|limit| (1..=PAGE_MAX).contains(limit));
                let bounds = || invalid(format!("limit is 1 to {PAGE_MAX}"));
                filter.limit = limit.ok_or_else(bounds)?;
            }
            "cursor" => {
                let cursor = RecordId::parse(&value);
                let unknown = |_| Problem::new(Slug::InvalidCursor, "the cursor is none of ours");
                filter.before = Some(cursor.map_err(unknown)?);
            }
            _ => {
                let known = "the parameters are state, limit and cursor";
                return Err(invalid(known.to_owned()));
            }
        }
    }
    Ok(filter)
}

async fn reason(listener: &Listener, request: Request) -> Result<String, Problem> {
    let mut share = listener.room.share();
    let text = body::json(request, BODY_BYTES_MAX, &mut share).await?;
    let needed = || {
        let detail = format!(
            "the body is {{\"reason\": \"..\"}}, with a reason of 1 to {REASON_CHARACTERS_MAX} characters"
        );
        Problem::new(Slug::InvalidQuery, detail)
    };
    let decision: Decision = serde_json::from_slice(&text).map_err(|_| needed())?;
    let reason = decision.reason.trim();
    if reason.is_empty() || reason.chars().count() > REASON_CHARACTERS_MAX {
        return Err(needed());
    }
    Ok(reason.to_owned())
}

/// What is no id of an entry is the id of none.
fn id(text: &str) -> Result<RecordId, Problem> {
    RecordId::parse(text).map_err(|_| ingest::ReviewError::NotFound.into())
}

fn no_such_act() -> Problem {
    Problem::new(
        Slug::NotFound,
        "an entry takes :release and :discard, and nothing else",
    )
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn json_of(entry: &Entry) -> Value {
    let decided = entry.decided.as_ref();
    let decided = decided.map(
        |decided| json!({"reason": decided.reason, "by": decided.by, "at": decided.at.to_string()}),
    );
    json!({
        "id": entry.id,
        "state": entry.state().as_str(),
        "reason": entry.reason,
        "stream": entry.stream,
        "quarantinedAt": entry.at.to_string(),
        "policyVersion": entry.policy_version,
        "correlationId": entry.correlation_id,
        "decision": decided,
    })
}
