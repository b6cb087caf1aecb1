//! `POST /v1/job-tokens`, `{"scope": "audit.backfill:run", "minutes": 60}`: a token for a job that runs on its own.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use axum::{Extension, Json};
use catalog::context::Scope;
use catalog::guard::{self, JobToken};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::body;
use super::headers::kept_by_nobody;
use super::receipts::answer;
use super::router::Listener;
use crate::auth::jobs::{LIFETIME_MAX, SCOPES};
use crate::limits::Admitted;
use crate::problem::{Problem, Slug};

const BODY_BYTES_MAX: usize = 4 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    scope: String,
    #[serde(default = "an_hour")]
    minutes: u64,
}

fn an_hour() -> u64 {
    60
}

/// Gives out a token.
pub(super) async fn token(
    State(listener): State<Listener>,
    Extension(caller): Extension<Arc<Admitted>>,
    request: Request,
) -> Response {
    match minted(&listener, &caller, request).await {
        Ok(token) => kept_by_nobody((StatusCode::CREATED, Json(token))),
        Err(problem) => answer(Err(problem), &caller),
    }
}

async fn minted(
    listener: &Listener,
    caller: &Admitted,
    request: Request,
) -> Result<Value, Problem> {
    let service = &listener.service;
    let asked = guard::Request::at(listener.silo.clone());
    let permit = service.gate.authorize::<JobToken>(&caller.context, asked);
    let permit = permit.await?;
    let (scope, lifetime) = asked_for(listener, request).await?;
    permit.evidence_durable().await?;
    let now = service.clock.now();
    let expires_at = now.plus(lifetime);
    let times = (now, expires_at);
    let token = service
        .jobs
        .mint(&caller.context, &listener.silo, scope, times);
    let token = token.ok_or_else(|| {
        Problem::new(
            Slug::Unavailable,
            "the key service has not answered yet; try again",
        )
    })?;
    Ok(json!({
        "token": token,
        "scope": scope.as_str(),
        "tenant": caller.context.tenant().as_str(),
        "silo": listener.silo.as_str(),
        "expiresAt": expires_at.to_string(),
    }))
}

async fn asked_for(listener: &Listener, request: Request) -> Result<(Scope, Duration), Problem> {
    let mut share = listener.room.share();
    let text = body::json(request, BODY_BYTES_MAX, &mut share).await?;
    let invalid = |detail: String| Problem::new(Slug::InvalidQuery, detail);
    let asked: Asked = serde_json::from_slice(&text).map_err(|_| {
        invalid("the body is {\"scope\": \"audit.backfill:run\", \"minutes\": 60}".to_owned())
    })?;
    let scope = Scope::parse(&asked.scope).filter(|scope| SCOPES.contains(scope));
    let scope = scope.ok_or_else(|| {
        let known: Vec<_> = SCOPES.iter().map(|scope| scope.as_str()).collect();
        invalid(format!("a job can have the scope {}", known.join(" or ")))
    })?;
    let minutes_max = LIFETIME_MAX.as_secs() / 60;
    if !(1..=minutes_max).contains(&asked.minutes) {
        return Err(invalid(format!("minutes are 1 to {minutes_max}")));
    }
    Ok((scope, Duration::from_secs(asked.minutes * 60)))
}
