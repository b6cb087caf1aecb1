//! What a tenant checks answers by: its public keys, and the receipts.
//!
//! ```text
//! GET /v1/keys                              the public halves of the tenant's signing keys, a JSON Web Key Set
//! GET /v1/keys/process/<name>               the statement of a process key, by the name that a promise has of it
//! GET /v1/receipts/<id>                     the receipt of this name
//! GET /v1/receipts?correlation=<id>         {"receipts": [..]} of a request of the last day, the newest first
//! ```
//! A receipt is for who got the answer, and for those of the tenant who see its evidence; for everybody else there is none
//! of that name. Clients that show no trailers name their request themselves (`x-correlation-id`) and ask by that.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use catalog::guard::{self, Permit, Read};
use catalog::ids::{CorrelationId, RecordId};
use engine::query;
use serde_json::{Value, json};

use super::router::Listener;
use crate::limits::Admitted;
use crate::problem::{Problem, Slug};

/// The tenant's public keys.
pub(super) async fn keys(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
) -> Response {
    let told = async {
        let permit = allow(&listener, &caller).await?;
        let decision = permit.decision();
        let keys = &listener.service.keys;
        let keys = keys.public_keys(&decision.tenant, &decision.silo).await;
        Ok(keys.map_err(query::Error::from)?.to_json())
    };
    answer(told.await, &caller)
}

/// The statement of a process key.
pub(super) async fn process_key(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    Path(name): Path<String>,
) -> Response {
    let told = async {
        let permit = allow(&listener, &caller).await?;
        let decision = permit.decision();
        let keys = &listener.service.keys;
        let found = keys.process_key_statement(&decision.tenant, &decision.silo, &name);
        let found = found.await.map_err(query::Error::from)?;
        let missing = || Problem::new(Slug::NotFound, "there is no such process key");
        Ok(json!(found.ok_or_else(missing)?))
    };
    answer(told.await, &caller)
}

/// One receipt.
pub(super) async fn one(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    Path(id): Path<String>,
) -> Response {
    let told = async {
        let permit = allow(&listener, &caller).await?;
        // What is no name of a receipt is the name of none.
        let id = RecordId::parse(&id).map_err(|_| none())?;
        let found = listener.service.receipts.find(&permit, id).await;
        let found = found.map_err(query::Error::from)?.ok_or_else(none)?;
        Ok(json!(*found))
    };
    answer(told.await, &caller)
}

/// The receipts of a request.
pub(super) async fn of_request(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    request: Request,
) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let told = async {
        let permit = allow(&listener, &caller).await?;
        let correlation = correlation(query)?;
        let receipts = &listener.service.receipts;
        let found = receipts.of_request(&permit, &correlation).await;
        let found = found.map_err(query::Error::from)?;
        let found: Vec<Value> = found.iter().map(|receipt| json!(**receipt)).collect();
        Ok(json!({ "receipts": found }))
    };
    answer(told.await, &caller)
}

/// What anyone who may read may know: no rows leave, and so there is no evidence but of a denial.
pub(super) async fn allow(listener: &Listener, caller: &Admitted) -> Result<Permit<Read>, Problem> {
    let request = guard::Request::at(listener.silo.clone());
    let gate = &listener.service.gate;
    Ok(gate.authorize_planning(&caller.context, request).await?)
}

pub(super) fn answer(outcome: Result<Value, Problem>, caller: &Admitted) -> Response {
    match outcome {
        Ok(answer) => Json(answer).into_response(),
        Err(problem) => problem
            .correlated(caller.context.correlation())
            .into_response(),
    }
}

fn correlation(query: &str) -> Result<CorrelationId, Problem> {
    let invalid = |detail| Problem::new(Slug::InvalidQuery, detail);
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    match (pairs.next(), pairs.next()) {
        (Some((name, value)), None) if name == "correlation" => CorrelationId::parse(&value)
            .map_err(|_| invalid("the parameter correlation is no correlation id")),
        _ => Err(invalid(
            "name a request: the parameter is correlation, its correlation id",
        )),
    }
}

fn none() -> Problem {
    Problem::new(Slug::NotFound, "there is no such receipt")
}
